"""`llm-authmw keys import`: keys that another proxy issued, one by one or from a file."""

import getpass
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import click

from llm_authmw.cli.failures import error_object, masked
from llm_authmw.cli.options import fields_of, key_field_options, quiet_option, tenant_of, writing
from llm_authmw.cli.output import emit, note, say
from llm_authmw.cli.rows import COLUMNS, LIST_SEPARATOR, Row, read_rows
from llm_authmw.cli.show import key_object, title
from llm_authmw.cli.target import Target
from llm_authmw.errors import AuthmwError, InvalidValueError, StoreError
from llm_authmw.keys.format import MAX_KEY_LENGTH
from llm_authmw.keys.records import CreatedKey
from llm_authmw.stores import Store

_RESULTS: Final = ("imported", "replayed", "refused")


@click.command(
    "import",
    epilog=f"""\b
Examples:
  llm-authmw keys import --sha256 HEX --last-four 9xQz --team blue
  llm-authmw keys import --read-key --user ann
  llm-authmw keys import --file keys.jsonl --tenant acme

A file holds one JSON object a line, or CSV with a header, with these names: {", ".join(COLUMNS)}. sha256 is needed. In CSV, the
entries of a list are separated by '{LIST_SEPARATOR}', metadata is NAME=VALUE{LIST_SEPARATOR}NAME=VALUE, and an empty cell says
nothing. Options hold for every row that does not say otherwise. Importing a key again changes nothing, so a run that stopped is run
again. The exit code is 1 if any row was refused.

The proxy looks for imported keys where the layer is built with imported=True.""",
)
@click.option("--sha256", metavar="HEX", help="The key's unsalted SHA-256, 64 hexadecimal digits, as LiteLLM keeps it.")
@click.option("--last-four", metavar="TEXT", help="With --sha256: the last four characters of the key's text, for recognising it.")
@click.option("--read-key", is_flag=True, help="Read the key's text: one line of standard input, or asked for on a terminal.")
@click.option(
    "--file",
    "path",
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Import many; - is standard input.",
)
@tenant_of("key")
@key_field_options
@quiet_option
@writing
def import_keys(
    target: Target, /, *, sha256: str | None, last_four: str | None, read_key: bool, path: str | None, tenant: str, **options: Any
) -> None:
    """Take over a key that another proxy issued. Its holder goes on using it; only its digest is kept."""
    if [sha256 is not None, read_key, path is not None].count(True) != 1:
        raise click.UsageError("give one of --sha256, --read-key and --file")
    if last_four is not None and sha256 is None:
        raise click.UsageError("--last-four goes with --sha256")
    fields: dict[str, Any] = {"tenant": tenant, **fields_of(options, now=target.now)}
    if path is not None:
        if target.quiet:
            raise click.UsageError("--quiet goes with one key, and --file reports every line")
        _import_file(target, path, fields)
        return
    source: dict[str, Any] = {"key": _read_key()} if sha256 is None else {"sha256_hex": sha256, "last_four": last_four or ""}
    created = target.run(lambda store: store.keys.import_key(**source, **fields, actor=target.actor), creates=True)
    if target.json:
        emit({**key_object(created.record, target.now), "key": None, "replayed": created.replayed})
    elif target.quiet:
        say(created.id)
    else:
        say(f"{title(created.record)} {'was imported before; nothing changed' if created.replayed else 'is imported'}")


def _read_key() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("The key's text: ")
    # One character more than a key has, and its line break: what is too long is refused, not cut.
    return sys.stdin.read(MAX_KEY_LENGTH + 3).removesuffix("\n").removesuffix("\r")


def _import_file(target: Target, path: str, defaults: dict[str, Any]) -> None:
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    rows = read_rows(content, now=target.now)
    outcomes = target.run(lambda store: _import_rows(store, target, rows, defaults), creates=True)
    counts = {result: [outcome["result"] for outcome in outcomes].count(result) for result in _RESULTS}
    if target.json:
        emit({**counts, "rows": outcomes})
    else:
        note(", ".join(f"{count} {result}" for result, count in counts.items()))
    if counts["refused"]:
        click.get_current_context().exit(1)


async def _import_rows(store: Store, target: Target, rows: list[Row], defaults: dict[str, Any]) -> list[dict[str, Any]]:
    outcomes: list[dict[str, Any]] = []
    # The lines of the report are the progress; a bar is for when they go elsewhere.
    hidden = not sys.stderr.isatty() or (sys.stdout.isatty() and not target.json)
    with click.progressbar(rows, label="Importing", file=sys.stderr, hidden=hidden) as progress:
        for row in progress:
            outcome: dict[str, Any] = {"line": row.line, "result": "refused", "id": None, "error": None}
            try:
                created = await _import_row(store, row, {**defaults, "actor": target.actor})
            except StoreError as error:
                again = f"stopped at line {row.line}; run the file again, what is in is not imported twice"
                raise type(error)(f"{error}; {again}") from None
            except AuthmwError as error:
                outcome["error"] = {**error_object(error), "message": masked(str(error), _texts(row))}
            else:
                outcome |= {"result": "replayed" if created.replayed else "imported", "id": created.id}
            outcomes.append(outcome)
            if not target.json:
                say(f"line {row.line}: {outcome['result']} " + (outcome["id"] or f"({outcome['error']['message']})"))
    return outcomes


async def _import_row(store: Store, row: Row, arguments: dict[str, Any]) -> CreatedKey:
    if row.fields is None:
        raise InvalidValueError(row.problem or "it cannot be read")
    given = {**arguments, **row.fields}
    return await store.keys.import_key(sha256_hex=given.pop("sha256"), **given)


def _texts(row: Row) -> Iterator[str]:
    for value in (row.fields or {}).values():
        entries = cast("list[object]", value) if isinstance(value, list) else [value]
        yield from (entry for entry in entries if isinstance(entry, str))
