"""Where the `audit` verbs find records: in files of lines, or in the store; and which of them are wanted."""

import difflib
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec

from llm_authmw.cli.durations import parse_past
from llm_authmw.cli.options import stacked
from llm_authmw.cli.output import note
from llm_authmw.cli.target import Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.reasons import REASONS
from llm_authmw.stores import Store
from llm_authmw.trail.files import lines_of, open_trail
from llm_authmw.trail.parts import joined
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import behind_torn, matches, read_line
from llm_authmw.trail.record import Outcome, Record, RecordKind

Take = Callable[[bytes, Record], None]
"""Is given a line, without its line break, and the record that it holds."""

_SHOWN: Final = tuple(kind for kind in get_args(RecordKind) if kind != "checkpoint")
_PAGE: Final = 1_000
_MICROSECONDS: Final = 1_000_000


def _complete_reason(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [reason for reason in REASONS if reason.startswith(incomplete)]


files_option: Final = click.option(
    "--file",
    "files",
    metavar="PATH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A file of records, packed (gzip) or not. Repeatable, the oldest first. Left out: the store.",
)
when_options: Final = stacked(
    click.option("--since", metavar="WHEN", help="From this moment on: 2h (two hours ago), or a date."),
    click.option("--until", metavar="WHEN", help="Before this moment."),
)
filter_options: Final = stacked(
    click.option("--principal", metavar="NAME", help="Only of this user, client (client:NAME) or key (key:ID)."),
    click.option("--team", metavar="NAME", help="Only of this team."),
    click.option("--tenant", metavar="NAME", help="Only of this tenant."),
    click.option(
        "--reason",
        metavar="CODE",
        shell_complete=_complete_reason,
        help="Only with this reason code, of the denial or of any layer's decision: model_not_allowed.",
    ),
    click.option("--model", metavar="NAME", help="Only requests for this model, or answered by it."),
    click.option(
        "--outcome", type=click.Choice(get_args(Outcome)), help="Only requests that ended so; failed is where the app raised an error."
    ),
    click.option(
        "--kind",
        "kinds",
        type=click.Choice(get_args(RecordKind)),
        multiple=True,
        help="Only of this kind. Repeatable.",
    ),
    click.option("--id", "id", metavar="ID", help="Only of the request with this id."),
    when_options,
)


def query_of(target: Target, *, since: str | None = None, until: str | None = None, **filters: Any) -> RecordQuery:
    """Return the query that the options name.

    Raises:
        InvalidValueError: a moment cannot be read.
    """
    return RecordQuery(since=moment_of(target, "--since", since), until=moment_of(target, "--until", until), **filters)


def shown_query_of(target: Target, *, kinds: tuple[RecordKind, ...], **filters: Any) -> RecordQuery:
    """Return the query that the options name, for a person: checkpoints are among the answers where they are asked for."""
    return query_of(target, kinds=kinds or _SHOWN, **filters)


def doubt(reason: str | None) -> None:
    """Tell the person where a reason code, by which nothing was found, is none of ours, and which one may have been meant.

    It is no error: a trail may hold codes of a newer release, and of the user's own code, which may put any text into a `Decision` or a
    `Record` (though not into a `Denial`).
    """
    if reason is None or reason in REASONS:
        return
    near = difflib.get_close_matches(reason, REASONS)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    # Not what was given: it may be anything that was pasted.
    note(f"--reason: no code of this release is called so.{meant} docs/errors.md lists all of them, and so does completion.")


def moment_of(target: Target, option: str, text: str | None) -> int | None:
    """Return a moment that is over, in microseconds since 1970.

    Raises:
        InvalidValueError: it cannot be read.
    """
    try:
        return None if text is None else int(parse_past(text, now=target.now) * _MICROSECONDS)
    except InvalidValueError as error:
        raise InvalidValueError(f"{option}: {error}") from None


def each(target: Target, files: Sequence[Path], query: RecordQuery, take: Take) -> int:
    """Hand over every record that a query asks for, in the order in which they were written.

    Returns:
        How many lines could not be read: torn ones, or ones of OCSF.
    """
    if files:
        return _each_of_files(files, query, take)
    unread = 0

    def took(line: bytes) -> None:
        nonlocal unread
        record = _record(line)
        if record is None:
            unread += 1
        else:
            take(line, record)

    each_stored(target, query, lambda line, _: took(line))
    return unread


def each_stored(target: Target, query: RecordQuery, take: Callable[[bytes, int], None]) -> None:
    """Hand over the line and the position of every entry of the store that a query asks for, in order."""

    async def work(store: Store) -> None:
        after = query.after
        while True:
            page = await store.audit.search(msgspec.structs.replace(query, after=after, limit=_PAGE))
            for entry in page:
                take(entry.line, entry.position)
                after = entry.position
            if len(page) < _PAGE:
                return

    target.run(work, records=True)


def newest(target: Target, files: Sequence[Path], query: RecordQuery, count: int) -> tuple[list[tuple[bytes, Record]], int]:
    """Return the newest records that a query asks for, the oldest of them first, and how many lines could not be read."""
    if files:
        kept: deque[tuple[bytes, Record]] = deque(maxlen=count)
        unread = _each_of_files(files, query, lambda line, record: kept.append((line, record)))
        return list(kept), unread
    entries = target.run(lambda store: store.audit.search(msgspec.structs.replace(query, newest_first=True, limit=count)), records=True)
    found = [(entry.line, _record(entry.line)) for entry in reversed(entries)]
    readable = [(line, record) for line, record in found if record is not None]
    return readable, len(found) - len(readable)


def _each_of_files(files: Sequence[Path], query: RecordQuery, take: Take) -> int:
    unread = 0
    with progress(files) as advance:
        for path in files:
            for line in read_file(path, advance):
                record = _record(line)
                if record is None:
                    unread += bool(line)
                elif matches(record, query):
                    take(line, record)
    return unread


def read_file(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the lines of a file without their line breaks; those that came in parts (syslog) as the line that they are parts of."""
    with open_trail(path) as file:

        def lines() -> Iterator[bytes]:
            for line in lines_of(file):
                advance(len(line))
                yield line.removesuffix(b"\n")

        yield from joined(lines())


@contextmanager
def progress(files: Sequence[Path]) -> Generator[Callable[[int], None]]:
    """Show how far the reading of files is, where a person sees that and it takes a while; yield what to tell of bytes that were read."""
    total = sum(path.stat().st_size for path in files)
    if not sys.stderr.isatty() or total < 10_000_000:
        yield lambda _: None
        return
    with click.progressbar(length=total, file=sys.stderr, label="Reading") as bar:
        yield bar.update


def _record(line: bytes) -> Record | None:
    try:
        return read_line(line)
    except InvalidValueError:
        start = behind_torn(line)
        return None if start is None else _record(line[start:])
