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
from llm_authmw.cli.options import reading, store_option
from llm_authmw.cli.output import note, say
from llm_authmw.cli.target import Target
from llm_authmw.cli.trails import Take, each, files_option, filter_options, newest, query_of, shown_query_of
from llm_authmw.errors import InvalidValueError
from llm_authmw.stores import Store
from llm_authmw.trail.files import follow
from llm_authmw.trail.parts import joined
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import matches, read_line
from llm_authmw.trail.record import Record

_EVERY: Final = 0.5
"""Seconds between two looks at what is new."""

FORMS: Final = "Times are UTC. Lines of OCSF are verified, but not searched: that is for whatever takes them in."


@click.group()
@store_option
def audit() -> None:
    """See what happened: who asked for what, what was decided and by which rule, what it used, and what was changed.

    Records are read from the store, or with --file from files that a FileSink wrote.
    """


@audit.command(
    epilog=f"""\b
Examples:
  llm-authmw audit tail --follow
  llm-authmw audit tail --file /var/log/llm/audit.jsonl --follow --outcome denied

A file that is rotated meanwhile is followed to the next one.

{FORMS}"""
)
@files_option
@click.option("--lines", "-n", type=click.IntRange(0, 10_000), default=10, show_default=True, help="How many of the newest ones to show.")
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on with those that are added, until Ctrl-C.")
@filter_options
@reading
def tail(target: Target, /, *, files: tuple[Path, ...], lines: int, follows: bool, **filters: Any) -> None:
    """Show the newest records, and those that are added."""
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
        return
    if files:
        _follow_file(files[0], query, lines, show)
    else:
        _follow_store(target, query, lines, show)


def _follow_file(path: Path, query: RecordQuery, lines: int, show: Take) -> None:
    newest_ones: deque[tuple[bytes, Record]] = deque(maxlen=lines)
    has_caught_up = False

    def wait() -> None:
        nonlocal has_caught_up
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
            if has_caught_up:
                show(line, record)
            else:
                newest_ones.append((line, record))


def _follow_store(target: Target, query: RecordQuery, lines: int, show: Take) -> None:
    async def work(store: Store) -> None:
        newest_ones = await store.audit.search(msgspec.structs.replace(query, newest_first=True, limit=max(lines, 1)))
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

{FORMS}"""
)
@files_option
@filter_options
@click.option("--size", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@reading
def search(target: Target, /, *, files: tuple[Path, ...], size: int, **filters: Any) -> None:
    """Show the records that match every filter, the newest of them last. With --json each is one line, as it was written."""
    found, unread = newest(target, files, shown_query_of(target, **filters), size)
    if target.json:
        for line, _ in found:
            click.echo(line)
    elif not found:
        note("No such records.")
    else:
        print_records([record for _, record in found])
    if len(found) == size:
        note(f"There may be older ones: these are the newest {size}. All of them: llm-authmw audit export")
    _tell_unread(unread)


@audit.command(
    epilog=f"""\b
Examples:
  llm-authmw audit export --since 2026-11-01 --until 2026-12-01 > november.jsonl
  llm-authmw audit export > all.jsonl && llm-authmw audit verify --file all.jsonl --key audit.pub

Each record is one line, as it was written. Without a filter the lines can be verified as the store can.

{FORMS}"""
)
@files_option
@filter_options
@reading
def export(target: Target, /, *, files: tuple[Path, ...], **filters: Any) -> None:
    """Print every record that matches every filter, the oldest first, as JSON on a line each."""
    _tell_unread(each(target, files, query_of(target, **filters), lambda line, _: click.echo(line)))


def _tell_unread(unread: int) -> None:
    if unread:
        note(f"{unread} {'line' if unread == 1 else 'lines'} could not be read: see llm-authmw audit verify")


audit.add_command(verify)
audit.add_command(prune)
audit.add_command(forget)
audit.add_command(keygen)
