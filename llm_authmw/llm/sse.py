"""Server-sent events (the HTML standard, §9.2), read while they pass: split anywhere, and never held back."""

from typing import Final, NamedTuple

MAX_EVENT: Final = 8 * 1024 * 1024
"""Bytes of one event that are kept: an image goes in one, and so does a whole answer at the end of its stream."""

_USUAL: Final = 16 * 1024
"""Bytes up to which the beginning of an event is put before each chunk that follows it. What is longer is kept in pieces."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One event.

    Attributes:
        name: What `event` says; empty where the event has no such field.
        data: Its lines of data, joined by line feeds. They are bytes still: a stream may be cut inside of a character, an event is not.
    """

    name: bytes
    data: bytes


class EventParser:
    """Reads the events of one stream from its chunks, wherever these are cut. An event without data is none.

    Args:
        max_event: Bytes that are kept of one event. A larger one is passed over.

    Attributes:
        max_event: As it was given.
        idle: Whether nothing is kept: all that came so far are whole events, the first line of the stream among them.
        skipped: How many events were larger than `max_event`.
    """

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self.max_event: Final[int] = max_event
        self._usual: Final = min(max_event, _USUAL)
        self.idle: bool = False
        self.skipped: int = 0
        self._begun = False
        self._after_return = False
        self._line: list[bytes] = []
        self._line_size = 0
        self._name = b""
        self._data: list[bytes] = []
        self._data_size = 0
        self._skipping = False
        self._tail: bytes = b""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that this chunk completes."""
        if (self.idle or self._tail) and len(self._tail) + len(chunk) <= self._usual and b"\r" not in chunk:
            return self._feed_usual(self._tail + chunk)
        if self._tail:
            chunk, self._tail = self._tail + chunk, b""
        events: list[ServerEvent] = []
        if self._after_return and chunk:
            # A line feed behind a carriage return that ended the chunk before belongs to it.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        for line in chunk.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            self._add(text)
            if len(text) < len(line):
                event = self._end_line()
                if event is not None:
                    events.append(event)
                self._after_return = line.endswith(b"\r")
            else:
                self._after_return = False
        self.idle = self._begun and not (self._after_return or self._line or self._name or self._data or self._skipping)
        return events

    def _feed_usual(self, text: bytes) -> list[ServerEvent]:
        """Return the events of a text that begins with one and ends its lines with line feeds, which is what nearly all servers send."""
        end = text.rfind(b"\n\n")
        if end < 0:
            self._tail = text
            self.idle = not text
            return []
        self._tail = text[end + 2 :]
        self.idle = not self._tail
        events: list[ServerEvent] = []
        for block in text[:end].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(ServerEvent(b"", block[6:]))
                continue
            for line in block.split(b"\n"):
                self._line = [line]
                self._end_line()
            event = self._end_line()
            if event is not None:
                events.append(event)
        return events

    def finish(self) -> list[ServerEvent]:
        """Return the event that the end of the stream completes. Browsers drop it; some servers leave out the last blank line."""
        tail, self._tail = self._tail, b""
        last: list[ServerEvent | None] = []
        for line in tail.split(b"\n") if tail else ():
            self._line = [line]
            last.append(self._end_line())
        last += [self._end_line(), self._end_line()]
        return [event for event in last if event is not None]

    def _add(self, text: bytes) -> None:
        if not text:
            return
        self._line_size += len(text)
        if self._skipping:
            self._line = [b":"]
        elif self._line_size + self._data_size > self.max_event:
            # What is left of this line counts as a comment, so that it is not the blank one.
            self._skipping = True
            self.skipped += 1
            self._line, self._data = [b":"], []
        else:
            self._line.append(text)

    def _end_line(self) -> ServerEvent | None:
        line = b"".join(self._line)
        self._line, self._line_size = [], 0
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            event = ServerEvent(self._name, b"\n".join(self._data)) if self._data else None
            self._name, self._data, self._data_size, self._skipping = b"", [], 0, False
            return event
        if not self._skipping:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
                self._data_size += len(value) + 1
            elif field == b"event":
                self._name = value
        return None
