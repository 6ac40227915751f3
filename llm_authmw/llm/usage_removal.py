"""Takes out of a stream what it holds only because we asked: what was used, in a chunk of its own and as an empty member of all others.

A stream of OpenAI's chat or completions that is asked for usage ends with a chunk without choices, and each chunk before has
`"usage":null`. Whoever did not ask gets neither. At most one incomplete event is held back, and all that is not taken out passes with
the bytes that it came with.
"""

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

MAX_EVENT: Final = 1024 * 1024
"""Bytes of one event that are held back. What is longer passes as it is."""

_NULL: Final = Raw(b"null")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_USAGE: Final = b'"usage"'
# A line feed behind a carriage return is no second end of a line, so nothing is gone back over.
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_END: Final = 4
_LINE_ENDS: Final = b"\r\n"
_LINE: Final = re.compile(rb"\r\n|\n|\r")
# Quotation marks in a string are escaped, so this is a member.
_EMPTY_MEMBER: Final = re.compile(rb',[ \t]*"usage"[ \t]*:[ \t]*null|"usage"[ \t]*:[ \t]*null[ \t]*,?')


class _Chunk(msgspec.Struct, frozen=True):
    """What a chunk says of its choices and of what was used."""

    choices: list[Raw] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw = _NULL


_chunk: Final = msgspec.json.Decoder(_Chunk).decode


class UsageRemoval:
    """Passes on the bytes of one stream without what was used. `feed` it each chunk as it came, and call `finish` behind the last.

    Attributes:
        removed: Whether the chunk that says what was used has been taken out.
    """

    def __init__(self) -> None:
        self.removed: bool = False
        self._held: bytes = b""
        self._searched: int = 0
        self._passing: bool = False
        self._took_return: bool = False

    def feed(self, chunk: bytes) -> bytes:
        """Return what passes of a chunk and of what was held back before."""
        if self._took_return and chunk:
            # A line feed behind the carriage return that ended what was taken out belongs to it.
            chunk = chunk.removeprefix(b"\n")
            self._took_return = False
        if not self._held and _USAGE not in chunk and chunk.endswith(b"\n\n"):
            return chunk
        if self._passing:
            return self._pass(chunk)
        text = self._held + chunk
        passed: list[bytes] = []
        at = 0
        for end in _BLANK_LINE.finditer(text, self._searched):
            # Blank lines in a row are empty events; those that begin a new one pass with it, unless it is taken out.
            passed.append(self._kept(text[at : end.end()], last=end.end() == len(text)))
            at = end.end()
        self._held = text[at:]
        begin = len(self._held) - len(self._held.lstrip(_LINE_ENDS))
        if begin:
            passed.append(self._held[:begin])
            self._held = self._held[begin:]
        if len(self._held) > MAX_EVENT:
            self._passing = True
            passed.append(self._held)
            self._held = self._held[-_LONGEST_END:]
        self._searched = max(len(self._held) - _LONGEST_END, 0)
        return b"".join(passed)

    def finish(self) -> bytes:
        """Return what passes of an event that the end of the stream leaves incomplete."""
        held, self._held, self._searched = self._held, b"", 0
        return b"" if self._passing else self._kept(held, last=True)

    def _pass(self, chunk: bytes) -> bytes:
        """Pass on what is left of an event that is too long. Its last bytes were kept beside, to find its end."""
        before = len(self._held)
        text = self._held + chunk
        end = _BLANK_LINE.search(text)
        if end is None:
            self._held = text[-_LONGEST_END:]
            return chunk
        self._passing, self._held, self._searched = False, b"", 0
        at = max(end.end() - before, 0)
        return chunk[:at] + self.feed(chunk[at:])

    def _kept(self, event: bytes, *, last: bool) -> bytes:
        """Return what passes of an event, with the blank line that ends it."""
        if _USAGE not in event:
            return event
        begin = len(event) - len(event.lstrip(_LINE_ENDS))
        lines = [line[5:] for line in _LINE.split(event[begin:].removeprefix(_BYTE_ORDER_MARK)) if line.startswith(b"data:")]
        try:
            chunk = _chunk(b"\n".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return event
        if chunk.usage is UNSET or chunk.error != _NULL:
            return event
        if chunk.usage == _NULL:
            return _EMPTY_MEMBER.sub(b"", event) if event.count(_USAGE) == 1 else event
        if chunk.choices:
            return event
        self.removed = True
        self._took_return = last and event.endswith(b"\r")
        return event[:begin]
