"""`llm-authmw usage`: what was used, by whom and of what."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click

from llm_authmw.cli.durations import milliseconds, parse_past
from llm_authmw.cli.options import at_most, reading
from llm_authmw.cli.output import Column, emit, note, print_table, printable
from llm_authmw.cli.target import Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.quota import usd_text
from llm_authmw.stores import Store
from llm_authmw.trail.protocols import UsageRow

DIMENSIONS: Final = ("key", "user", "realm", "team", "org", "tenant", "model", "day")
Form = Literal["table", "csv", "json"]

_SHOWN: Final = ("p50", "p95")
_AMOUNTS: Final = ("requests", "denied", "failed", "input_tokens", "output_tokens")
_ACTIVE: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula. Names are other people's text."""


def _complete_dimension(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in DIMENSIONS if name.startswith(incomplete)]


@click.command(
    epilog="""\b
Examples:
  llm-authmw usage --by team --since 30d
  llm-authmw usage --by team --by model --since 2026-11-01 --until 2026-12-01 --format csv > november.csv
  llm-authmw usage --by user --team blue --since 7d
  llm-authmw usage --by country --json | jq '.usage[] | [.by.country, .cost_nano_usd]'

Sums are of whole days, in UTC: a day that WHEN falls into counts as a whole. They are made of the records that an AuditMiddleware has
given to the store, so nothing of before that is in them. Rows that cost most come first; the total is of all of them, shown or not.

REQUESTS are all of them, with those that were DENIED, and those that FAILED: the app raised an error, or answered with 500 or above.
INPUT and OUTPUT are tokens. P50 and P95 are the times within which half of the requests that were let in were over, and 95 of a
hundred; at most 9.1 % off. More percentiles, and those until the first byte, are in CSV and JSON.

A denied request counts for no model, since anybody can name anything. Where one day has too many sums, the rest is "(other)"."""
)
@click.option(
    "--by",
    metavar="NAME",
    multiple=True,
    shell_complete=_complete_dimension,
    help=f"A row for each: {', '.join(DIMENSIONS)}, or a field that AuditMiddleware(enrich=…) adds. Repeatable. Left out: one sum.",
)
@click.option("--since", metavar="WHEN", help="From this day on: 30d (30 days ago), or a date.")
@click.option("--until", metavar="WHEN", help="Before this moment: 2026-12-01 is up to the end of November.")
@click.option("--tenant", metavar="NAME", help="Only what this tenant used.")
@click.option("--key", metavar="ID", help="Only what this key used.")
@click.option("--user", metavar="NAME", help="Only what this user used.")
@click.option("--team", metavar="NAME", help="Only what this team used.")
@click.option("--org", metavar="NAME", help="Only what this organisation used.")
@click.option("--model", metavar="NAME", help="Only the use of this model.")
@at_most(100_000, default=1000, what="rows, those that cost most")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), help="How to answer. Left out: a table, and with --json in JSON."
)
@reading
def usage(
    target: Target, /, *, by: tuple[str, ...], since: str | None, until: str | None, limit: int, form: Form | None, **filters: Any
) -> None:
    """Sum up requests, tokens, money and times.

    The sums are of everything, or --by key, user, team, organisation, tenant, model, day and more.
    """
    if target.json and form not in {None, "json"}:
        raise click.UsageError(f"--json and --format {form} contradict each other")
    first, last = _first_day(target, since), _last_day(target, until)

    async def work(store: Store) -> tuple[Sequence[UsageRow], Sequence[UsageRow]]:
        rows = await store.usage.by(*by, since=first, until=last, limit=limit, **filters)
        return rows, await store.usage.by(since=first, until=last, **filters)

    rows, whole = target.run(work, records=True)
    total = whole[0] if whole else UsageRow()
    if target.json or form == "json":
        emit({"since": first, "until": last, "usage": [_object(row) for row in rows], "total": _object(total)})
        return
    if form == "csv":
        click.echo(_csv(by, rows), nl=False)
    else:
        _print(by, rows, total)
    if len(rows) == limit:
        note(f"There may be more: these are the {limit} rows that cost most. See --limit")


def _first_day(target: Target, text: str | None) -> str | None:
    return None if text is None else _day(_moment(target, "--since", text))


def _last_day(target: Target, text: str | None) -> str | None:
    # A day that ends at the very moment is the last one.
    return None if text is None else _day(max(_moment(target, "--until", text) - 0.001, 0.0))


def _moment(target: Target, option: str, text: str) -> float:
    try:
        return parse_past(text, now=target.now)
    except InvalidValueError as error:
        raise InvalidValueError(f"{option}: {error}") from None


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def _object(row: UsageRow) -> dict[str, Any]:
    amounts: dict[str, Any] = {name: getattr(row, name) for name in _AMOUNTS}
    return {"by": row.by, **amounts, "cost_nano_usd": row.cost, "latency_ms": row.latency, "first_byte_ms": row.first_byte}


def _print(by: Sequence[str], rows: Sequence[UsageRow], total: UsageRow) -> None:
    columns = [Column(printable(name).upper(), "keep" if name == "day" else "wrap") for name in by]
    columns += [Column(name) for name in ("REQUESTS", "DENIED", "FAILED", "INPUT", "OUTPUT", "COST")]
    columns += [Column(name.upper()) for name in _SHOWN]
    found = [[*(row.by[name] for name in by), *_cells(row)] for row in rows]
    if by:
        found.append(["total", *("" for _ in by[1:]), *_cells(total)])
    print_table(columns, found or [_cells(total)])


def _cells(row: UsageRow) -> list[str | None]:
    amounts: list[str | None] = [f"{getattr(row, name):,}" for name in _AMOUNTS]
    times = [None if row.latency is None else milliseconds(row.latency[name]) for name in _SHOWN]
    return [*amounts, usd_text(row.cost), *times]


def _csv(by: Sequence[str], rows: Sequence[UsageRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    times = [f"{what}_{name}_ms" for what in ("latency", "first_byte") for name in ("p50", "p90", "p95", "p99")]
    writer.writerow([*(_cell(name) for name in by), *_AMOUNTS, "cost_usd", *times])
    for row in rows:
        names = [_cell(row.by[name] or "") for name in by]
        lengths = [
            "" if told is None else value for told in (row.latency, row.first_byte) for value in (told or dict.fromkeys(times[:4])).values()
        ]
        writer.writerow([*names, *(getattr(row, name) for name in _AMOUNTS), usd_text(row.cost).removesuffix(" usd"), *lengths])
    return text.getvalue()


def _cell(name: str) -> str:
    return printable(f"'{name}" if name.startswith(_ACTIVE) else name)
