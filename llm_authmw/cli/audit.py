"""`llm-authmw audit …`: what happened, as it happens and later."""

import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import anyio
import click
import msgspec

from llm_authmw.cli.audit_rows import line_of, print_records
from llm_authmw.cli.audit_upkeep import forget, keygen, prune, verify
from llm_authmw.cli.options import at_most, reading_records, store_option
from llm_authmw.cli.output import note, say
from llm_authmw.cli.target import Target
from llm_authmw.cli.trails import Take, doubt, each, files_option, filter_options, newest, query_of, shown_query_of
from llm_authmw.errors import InvalidValueError
from llm_authmw.stores import Store
from llm_authmw.trail.files import follow
from llm_authmw.trail.parts import joined
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import matches, read_line
from llm_authmw.trail.record import Record

_EVERY: Final = 0.5
"""Seconds between two looks at what is new."""

KINDS: Final = """Kinds: request, for one that is over; intent, for one that is let in now, where records are required; change, of a key, an
account or a revocation; policy, what guards from then on; loss, how many records were lost; checkpoint, where a chain of records stands."""

FORMS: Final = (
    """Times are UTC. A file that is written with format="ocsf" can be verified here, and not searched: that is for whatever takes it in."""
)


@click.group()
@store_option
def audit() -> None:
    """Read, verify and prune the records of what happened.

    A record says who asked for what, what was decided and by which rule, and what it used; or what was changed, and by whom. Records are
    read from the store, or with --file from files that a FileSink wrote.
    """


@audit.command(
    epilog=f"""\b
Examples:
  llm-authmw audit tail --follow
  llm-authmw audit tail --file /var/log/llm/audit.jsonl --follow --outcome denied

A file that is rotated meanwhile is followed to the next one.

{KINDS} Checkpoints are shown with --kind checkpoint only.

{FORMS}"""
)
@files_option
@click.option(
    "--lines",
    "-n",
    metavar="N",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="At most so many of the newest ones; called as that of tail(1) is. With --follow, before what is added.",
)
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on with those that are added, until Ctrl-C.")
@filter_options
@reading_records
def tail(target: Target, /, *, files: tuple[Path, ...], lines: int, follows: bool, **filters: Any) -> None:
    """Show the newest records, and with --follow what is added."""
    query = shown_query_of(target, **filters)
    if follows and len(files) > 1:
        raise click.UsageError("--follow takes one --file")

    def show(line: bytes, record: Record) -> None:
        if target.json:
            click.echo(line)
        else:
            say(line_of(record))

    if not follows:
        found, _ = newest(target, files, query, lines) if lines else ([], 0)
        for line, record in found:
            show(line, record)
        if lines and not found:
            doubt(query.reason)
        return
    if files:
        _follow_file(files[0], query, lines, show)
    else:
        _follow_store(target, query, lines, show)


def _follow_file(path: Path, query: RecordQuery, lines: int, show: Take) -> None:
    newest_ones: deque[tuple[bytes, Record]] = deque(maxlen=lines)
    has_found = False
    has_caught_up = False

    def wait() -> None:
        nonlocal has_caught_up
        if not (has_caught_up or has_found):
            doubt(query.reason)
        has_caught_up = True
        while newest_ones:
            show(*newest_ones.popleft())
        time.sleep(_EVERY)

    for line in joined(whole.removesuffix(b"\n") for whole in follow(path, wait=wait, from_start=True)):
        try:
            record = read_line(line)
        except InvalidValueError:
            continue
        if matches(record, query):
            has_found = True
            if has_caught_up:
                show(line, record)
            else:
                newest_ones.append((line, record))


def _follow_store(target: Target, query: RecordQuery, lines: int, show: Take) -> None:
    async def work(store: Store) -> None:
        newest_ones = await store.audit.search(msgspec.structs.replace(query, newest_first=True, limit=max(lines, 1)))
        if not newest_ones:
            doubt(query.reason)
        after = newest_ones[0].position if newest_ones else None
        for entry in reversed(newest_ones[:lines]):
            show(entry.line, read_line(entry.line))
        while True:
            page = await store.audit.search(msgspec.structs.replace(query, after=after))
            for entry in page:
                show(entry.line, read_line(entry.line))
                after = entry.position
            if not page:
                await anyio.sleep(_EVERY)

    target.run(work, records=True)


@audit.command(
    epilog=f"""\b
Examples:
  llm-authmw audit search --principal ada --since 24h
  llm-authmw audit search --outcome denied --reason model_not_allowed --team blue
  llm-authmw audit search --kind change --since 2026-11-01
  llm-authmw audit search --file audit.jsonl.1.gz --file audit.jsonl --model o3 --json | jq .charge.amount

{KINDS} Checkpoints are shown with --kind checkpoint only.

{FORMS}"""
)
@files_option
@filter_options
@at_most(10_000, default=100, what="records, the newest")
@reading_records
def search(target: Target, /, *, files: tuple[Path, ...], limit: int, **filters: Any) -> None:
    """Show the records that match every filter, the newest of them last."""
    query = shown_query_of(target, **filters)
    found, unread = newest(target, files, query, limit)
    if target.json:
        for line, _ in found:
            click.echo(line)
    elif not found:
        note("No such records.")
    else:
        print_records([record for _, record in found])
    if not found:
        doubt(query.reason)
    if len(found) == limit:
        note(f"There may be older ones: these are the newest {limit}. See --limit; all of them: llm-authmw audit export")
    _tell_unread(unread)


@audit.command(
    epilog=f"""\b
Examples:
  llm-authmw audit export --since 2026-11-01 --until 2026-12-01 > november.jsonl
  llm-authmw audit export > all.jsonl && llm-authmw audit verify --file all.jsonl --key audit.pub

Each record is one line, as it was written. Without a filter the lines can be verified as the store can.

{KINDS}

{FORMS}"""
)
@files_option
@filter_options
@reading_records
def export(target: Target, /, *, files: tuple[Path, ...], **filters: Any) -> None:
    """Print all records that match every filter, as JSON lines.

    The oldest come first, and checkpoints are among them.
    """
    query = query_of(target, **filters)
    has_found = False

    def show(line: bytes, _: Record) -> None:
        nonlocal has_found
        has_found = True
        click.echo(line)

    unread = each(target, files, query, show)
    if not has_found:
        doubt(query.reason)
    _tell_unread(unread)


def _tell_unread(unread: int) -> None:
    if unread:
        note(f"{unread} {'line' if unread == 1 else 'lines'} could not be read: see llm-authmw audit verify")


audit.add_command(verify)
audit.add_command(prune)
audit.add_command(forget)
audit.add_command(keygen)
