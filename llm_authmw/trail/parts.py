"""Entries that are too long for a collector: their lines in parts, each of them JSON, and put together again."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from llm_authmw.trail.entry import Entry

_FORM: Final = b'{"part":{"writer":"%b","sequence":%d,"number":%d,"of":%d,"text":"%b"}}'
# But for the text: a writer's id, a sequence of at most 19 digits, and two numbers of at most 5.
_SIZE: Final = len(_FORM) + 16 + 19 + 5 + 5

_SPECIAL: Final = re.compile(rb'["\\]')
_MAX_WAITING: Final = 256
"""Entries of which some parts are missing yet, at most: more are not those of writers that take turns."""
_MAX_PARTS: Final = 256
"""Of one entry: more than the longest one has in the smallest parts."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    writer: str
    sequence: int
    number: int
    of: int
    text: str


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    part: _Part


_decode: Final = msgspec.json.Decoder(_Line).decode


def split(entry: Entry, room: int) -> list[bytes]:
    """Return an entry's line in parts: each is a JSON object on one line of ASCII, of at most so many bytes."""
    writer = entry.writer.encode()
    texts = _pieces(_SPECIAL.sub(rb"\\\g<0>", entry.line), room - _SIZE)
    return [_FORM % (writer, entry.sequence, number, len(texts), text) for number, text in enumerate(texts, 1)]


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, those that came in parts as the line that they are parts of, where its last part stands.

    A part whose others are missing is yielded as it is, at the end or once many such wait.
    """
    waiting: dict[tuple[str, int], dict[int, tuple[bytes, str]]] = {}
    for line in lines:
        part = _part(line)
        if part is None:
            yield line
            continue
        parts = waiting.setdefault((part.writer, part.sequence), {})
        # One that came twice, since a connection broke, is one.
        parts[part.number] = line, part.text
        if len(parts) == part.of:
            del waiting[part.writer, part.sequence]
            yield "".join(parts[number][1] for number in sorted(parts)).encode()
        elif len(waiting) > _MAX_WAITING:
            yield from (kept for kept, _ in waiting.pop(next(iter(waiting))).values())
    for parts in waiting.values():
        yield from (kept for kept, _ in parts.values())


def _part(line: bytes) -> _Part | None:
    if not line.startswith(b'{"part":'):
        return None
    try:
        part = _decode(line).part
    except msgspec.DecodeError:
        return None
    # Whoever can write to the place must not make its reader keep without end.
    return part if 1 <= part.number <= part.of <= _MAX_PARTS else None


def _pieces(text: bytes, room: int) -> list[bytes]:
    """Return an escaped text in pieces, none of which ends between a backslash and what it escapes."""
    pieces: list[bytes] = []
    start = 0
    while start < len(text):
        piece = text[start : start + room]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = piece[:-1]
        pieces.append(piece)
        start += len(piece)
    return pieces
