"""Records as a person reads them, one on a line."""

from collections.abc import Sequence
from typing import Final

from llm_authmw.cli.durations import milliseconds
from llm_authmw.cli.output import Column, print_table, printable
from llm_authmw.quota import usd_text
from llm_authmw.trail.encoding import timestamp
from llm_authmw.trail.record import Record

COLUMNS: Final = (
    Column("TIME"),
    Column("WHAT", colored=True),
    Column("WHO", "cut"),
    Column("REQUEST", "wrap"),
    Column("STATUS, REASON", "wrap"),
    Column("TOOK"),
    Column("USD"),
)


def print_records(records: Sequence[Record]) -> None:
    """Print records as a table."""
    print_table(COLUMNS, [[_moment(record)[:19].replace("T", " "), *_row(record)] for record in records])


def line_of(record: Record) -> str:
    """Return a record as one line, for where the next one is not known yet."""
    *told, cost = _row(record)
    return "  ".join(printable(value) for value in (_moment(record), *told, cost and f"{cost} usd") if value is not None)


def _moment(record: Record) -> str:
    return f"{timestamp(record.time).decode()[:23]}Z"


def _row(record: Record) -> list[str | None]:
    return [
        record.outcome if record.kind == "request" and record.outcome is not None else record.kind,
        _who(record),
        _what(record),
        " ".join(str(part) for part in (record.status, record.reason) if part is not None) or None,
        None if record.duration is None else milliseconds(record.duration / 1000),
        None if record.charge is None else usd_text(record.charge.amount).removesuffix(" usd"),
    ]


def _who(record: Record) -> str | None:
    person, who = record.person, record.who
    if record.change is not None:
        return None if person is None else person.actor
    if who is None:
        return None
    names = [
        person.user if person is not None else None,
        None if who.client is None else f"client:{who.client}",
        None if who.credential_id is None else f"key:{who.credential_id}",
    ]
    name = next((name for name in names if name is not None), who.method)
    return name if who.team is None else f"{name} ({who.team})"


def _what(record: Record) -> str | None:
    if record.change is not None:
        fields = f" ({', '.join(record.change.fields)})" if record.change.fields else ""
        return f"{record.change.action} {record.change.what} {record.change.target}{fields}"
    if record.kind == "loss":
        return f"{record.lost} records were lost"
    if record.kind == "policy":
        return _guard(record.stands)
    if record.checkpoint is not None:
        return f"{record.checkpoint.state}, {'not signed' if record.checkpoint.key is None else f'signed by {record.checkpoint.key}'}"
    route = None if record.path is None else f"{record.verb} {record.path}"
    models = ", ".join(record.models)
    return " ".join(part for part in (route, models) if part) or None


def _guard(stands: Sequence[str]) -> str:
    # The layers as they print themselves are for --json: here it is enough to see that they are others than before.
    layers = [line for line in stands if not line.startswith("sha256 ")]
    digest = "".join(f", {line[:15]}…" for line in stands if line.startswith("sha256 "))
    return f"{len(layers)} {'layer' if len(layers) == 1 else 'layers'}{digest}"
