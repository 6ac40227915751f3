"""JSON texts in a stream: one a line, or the elements of one array that comes bit by bit. Read while they pass, split anywhere."""

import re
from typing import Final

MAX_TEXT: Final = 8 * 1024 * 1024
"""Bytes of one text that are kept."""

# What a scan stops at: a string that has ended, one that has not, and brackets. Nothing is gone back over.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[\]{}]', re.DOTALL)
_BLANKS: Final = b" \t\r\n"
_OPENERS: Final = b"[{"


class LineParser:
    """Reads JSON texts, one a line (NDJSON, JSON Lines).

    Args:
        max_text: Bytes that are kept of one line. A larger one is passed over.

    Attributes:
        idle: Whether nothing is kept: all that came so far are whole lines.
        skipped: How many lines were larger than `max_text`.
    """

    def __init__(self, *, max_text: int = MAX_TEXT) -> None:
        self._max: Final = max_text
        self.idle: bool = True
        self.skipped: int = 0
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this chunk completes, without blank ones."""
        lines: list[bytes] = []
        first, *others = chunk.split(b"\n")
        self._add(first)
        for line in others:
            lines += self.finish()
            self._add(line)
        self.idle = not self._size
        return lines

    def finish(self) -> list[bytes]:
        """Return the line that the end of the stream completes."""
        line = b"".join(self._kept).strip(_BLANKS)
        self._kept, self._size = [], 0
        return [line] if line else []

    def _add(self, text: bytes) -> None:
        within = self._size <= self._max
        self._size += len(text)
        if self._size <= self._max:
            self._kept.append(text)
        elif within:
            self.skipped += 1
            self._kept = []


class ElementParser:
    """Reads the elements of one JSON array, as far as they are objects or arrays. What else an array holds is passed over.

    Args:
        max_text: Bytes that are kept of one element. A larger one is passed over.

    Attributes:
        idle: Whether nothing is kept: all that came so far are whole elements.
        skipped: How many elements were larger than `max_text`.
    """

    def __init__(self, *, max_text: int = MAX_TEXT) -> None:
        self._max: Final = max_text
        self.idle: bool = True
        self.skipped: int = 0
        self._kept: list[bytes] = []
        self._size = 0
        self._depth = 0
        self._open_string = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the elements that this chunk completes."""
        elements: list[bytes] = []
        text = self._open_string + chunk
        # Where the part of the text begins that belongs to the element, and has not been kept.
        begin = len(self._open_string)
        self._open_string = b""
        for token in _TOKEN.finditer(text):
            first = text[token.start()]
            if first == ord('"'):
                if not token[1]:
                    self._open_string = _open_end(text, token.start())
            elif first in _OPENERS:
                self._depth += 1
                if self._depth == 2:
                    begin = token.start()
            else:
                self._depth -= 1
                if self._depth == 1:
                    self._add(text[begin : token.end()])
                    elements += self.finish()
        if self._depth >= 2:
            self._add(text[begin:])
        self.idle = self._depth < 2 and not self._open_string
        return elements

    def finish(self) -> list[bytes]:
        """Return the element that is kept, as far as it came."""
        element = b"".join(self._kept)
        self._kept, self._size = [], 0
        return [element] if element else []

    def _add(self, text: bytes) -> None:
        within = self._size <= self._max
        self._size += len(text)
        if self._size <= self._max:
            self._kept.append(text)
        elif within:
            self.skipped += 1
            self._kept = []


def _open_end(text: bytes, start: int) -> bytes:
    """Return what stands for a string that has not ended, in front of the next chunk: a quotation mark, and the backslash it ends with."""
    body = text[start + 1 :]
    backslashes = len(body) - len(body.rstrip(b"\\"))
    return b'"\\' if backslashes % 2 else b'"'
