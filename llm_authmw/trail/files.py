"""Files of lines: read whole, from their end, and while they grow and are rotated."""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from llm_authmw.trail.encoding import MAX_LINE
from llm_authmw.trail.reading import parse, time_of
from llm_authmw.trail.record import Head

_READ: Final = 2 * MAX_LINE + 2
"""Of one line: an entry behind one that was torn, and the line break."""
_TAIL: Final = 262_144
_GZIP: Final = b"\x1f\x8b"


def open_trail(path: Path) -> IO[bytes]:
    """Open a file of lines, also one that a rotation has packed (gzip).

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    found: Any = gzip.GzipFile(path) if packed else path.open("rb")
    return cast("IO[bytes]", found)


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file, with their line breaks; of one that is longer than any of ours, the beginning."""
    while line := file.readline(_READ):
        yield line
        while len(line) == _READ and not line.endswith(b"\n"):
            line = file.readline(_READ)


def last_heads(descriptor: int) -> dict[str, Head]:
    """Return where the chains stand that have written last to an open file: those within its last 256 KiB, the earliest first.

    Nothing where it cannot be read.
    """
    heads: dict[str, Head] = {}
    try:
        end = os.pread(descriptor, _TAIL, max(os.fstat(descriptor).st_size - _TAIL, 0))
    except OSError:
        return heads
    for line in end.split(b"\n"):
        entry = parse(line)
        if entry is not None:
            heads.pop(entry.writer, None)
            heads[entry.writer] = Head(entry.sequence, entry.hash, time_of(entry.sealed) or 0)
    return heads


def follow(path: Path, *, wait: Callable[[], None], from_start: bool = False) -> Iterator[bytes]:
    """Yield the lines that are added to a file, without end; also those of the file that takes its place after a rotation.

    A line is given once it is whole.

    Args:
        path: The file. It need not be there yet.
        wait: Waits for a while; called whenever there is nothing new. What it raises ends the following.
        from_start: Whether to begin with what is there already.

    Raises:
        OSError: it cannot be read.
    """
    file: IO[bytes] | None = None
    begun = b""
    try:
        while True:
            if file is None and (file := _opened(path)) is not None and not from_start:
                file.seek(0, os.SEEK_END)
            from_start = True  # what comes later is new from its first line on
            # Asked before reading: whatever was written until it was replaced is read still.
            replaced = file is not None and not _is_at(file, path)
            while file is not None and (read := file.readline(_READ)):
                begun += read
                if begun.endswith(b"\n"):
                    yield begun
                    begun = b""
                elif len(begun) >= _READ:
                    begun = b""
            if file is not None and replaced:
                file.close()
                file, begun = None, b""
            else:
                wait()
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Say whether a file is the one at a path still, and was not emptied (`copytruncate`)."""
    ours = os.fstat(file.fileno())
    try:
        there = path.stat()
    except FileNotFoundError:
        return True  # moved away, and nothing has taken its place: more may come yet
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and there.st_size >= file.tell()
