"""Forgetting a person, and removing what is old, in files of lines. The chains stay verifiable.

A person is forgotten in place: their part of a line is overwritten with blanks, which JSON allows there, so that the line keeps its length.
Writers may go on meanwhile. What is old is removed by writing the file anew, for which no writer may have it open.
"""

import fcntl
import json
import os
import re
import tempfile
from pathlib import Path
from typing import IO, Final, NamedTuple

from llm_authmw.errors import InvalidValueError
from llm_authmw.trail.files import lines_of
from llm_authmw.trail.reading import Line, behind_torn, is_checkpoint, parse, read_line, time_of
from llm_authmw.trail.record import users_of

_PERSON: Final = b',"person":'
_TORN_PERSON: Final = re.compile(rb'\},"person":\{')


class Forgotten(NamedTuple):
    """What came of forgetting a person.

    Attributes:
        entries: Entries that no longer say who it was.
        remaining: Lines that name them still: OCSF has persons all over an event, and a hash over them.
    """

    entries: int
    remaining: int


def names(line: bytes, tenant: str, user: str, realm: str | None) -> bool:
    """Say whether the user, or the end user, of an entry is this one.

    Args:
        line: The line of the entry, with its person.
        tenant: Of which tenant.
        user: The name.
        realm: Where the name means one person; None is wherever there is one of this name.
    """
    try:
        record = read_line(line)
    except InvalidValueError:
        return False
    who, person = record.who, record.person
    if who is None or person is None or who.tenant != tenant:
        return False
    return (user in users_of(person) and realm in {None, who.realm}) or person.end_user == user


def forget_in_file(path: Path, tenant: str, user: str, *, realm: str | None = None) -> Forgotten:
    """Forget a person in a file: overwrite what says who it is in every entry whose user, or end user, this is.

    What a writer adds meanwhile may be missed. What was on the disk before may be found there for longer, by other means than the file's.

    Args:
        path: The file, which is not packed.
        tenant: Of which tenant.
        user: The user, or the end user, by name.
        realm: Where the name means one person; None is wherever there is one of this name.

    Raises:
        InvalidValueError: the file is packed (gzip).
        OSError: it cannot be written.
    """
    name = json.dumps(user).encode()
    entries = remaining = offset = 0
    with path.open("r+b") as file:
        _refuse_packed(file, path)
        for line in file:
            text = line.removesuffix(b"\n")
            start = 0 if parse(text) is not None else behind_torn(text)
            if start:  # what stands before the entry was not written to its end, and may hold half a person
                _blank_torn(file, offset, text[:start], name)
            if start is None:
                remaining += not _blank_torn(file, offset, text, name) and name in text
            else:
                entry = parse(text[start:])
                if entry is not None and entry.person is not None and names(text[start:], tenant, user, realm):
                    length = len(_PERSON) + len(entry.person)
                    _blank(file, offset + len(text) - 1 - length, length)
                    entries += 1
                elif entry is not None and entry.format == "ocsf":
                    remaining += name in text
            offset += len(line)
        os.fsync(file.fileno())
    return Forgotten(entries, remaining)


def _blank_torn(file: IO[bytes], offset: int, text: bytes, name: bytes) -> bool:
    """Overwrite what a torn line says of a person, where it has the name; nobody can tell any more of which tenant that is."""
    found = _TORN_PERSON.search(text)
    if found is None or name not in text[found.end() :]:
        return False
    _blank(file, offset + found.start() + 1, len(text) - found.start() - 1)
    return True


def _blank(file: IO[bytes], offset: int, length: int) -> None:
    while length > 0:
        written = os.pwrite(file.fileno(), b" " * length, offset)
        offset, length = offset + written, length - written


class _Old:
    """Which of a writer's entries are old enough to go: up to the last checkpoint before the first that stays."""

    def __init__(self) -> None:
        self.checkpoint: int | None = None
        self.stays: bool = False

    def take(self, entry: Line, before: int) -> None:
        self.stays = self.stays or not _is_old(entry.sealed, before)
        if not self.stays and is_checkpoint(entry.sealed):
            self.checkpoint = entry.sequence

    def has(self, entry: Line) -> bool:
        return not self.stays or (self.checkpoint is not None and entry.sequence < self.checkpoint)


def prune_file(path: Path, before: int) -> int:
    """Remove the entries of before a moment from a file, of each writer its oldest ones, up to a checkpoint that is older too.

    The file is replaced by a new one with the same owner and mode.

    Args:
        path: The file, which is not packed.
        before: Microseconds since 1970.

    Returns:
        How many entries that were.

    Raises:
        InvalidValueError: the file is packed (gzip), or a writer has it open.
        OSError: it cannot be written.
    """
    with path.open("r+b") as file:
        _refuse_packed(file, path)
        try:
            # Every `FileSink` holds a shared one.
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidValueError(f"{path} is being written to; what is rotated away can be pruned, or removed") from None
        writers: dict[str, _Old] = {}
        for line in lines_of(file):
            entry = _entry_of(line)
            if entry is not None:
                writers.setdefault(entry.writer, _Old()).take(entry, before)
        file.seek(0)
        return _without(file, path, writers, before)


def _without(file: IO[bytes], path: Path, writers: dict[str, _Old], before: int) -> int:
    gone = 0
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as new:
            for line in lines_of(file):
                entry = _entry_of(line)
                if entry is not None and writers[entry.writer].has(entry):
                    gone += 1
                elif entry is not None or not _is_old(line, before):
                    new.write(line)
            if gone:
                _take_over(file, new.fileno())
                new.flush()
                os.fsync(new.fileno())
        if gone:
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return gone


def _take_over(old: IO[bytes], new: int) -> None:
    """Give a new file the owner and the mode of the one that it replaces."""
    status = os.fstat(old.fileno())
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, status.st_mode & 0o7777)


def _is_old(sealed: bytes, before: int) -> bool:
    time = time_of(sealed)
    return time is not None and time < before


def _entry_of(line: bytes) -> Line | None:
    text = line.removesuffix(b"\n")
    entry = parse(text)
    if entry is None and (start := behind_torn(text)) is not None:
        entry = parse(text[start:])
    return entry


def _refuse_packed(file: IO[bytes], path: Path) -> None:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if packed:
        raise InvalidValueError(f"{path} is packed: unpack it first")
