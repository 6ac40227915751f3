"""The meter of one answer: it is shown what passes, and says what was used. It holds nothing back and changes nothing."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from llm_authmw.call import LLMCall, Usage
from llm_authmw.llm.aws_frames import FrameParser
from llm_authmw.llm.inflate import Inflater
from llm_authmw.llm.json_stream import ElementParser, LineParser
from llm_authmw.llm.sse import EventParser, ServerEvent
from llm_authmw.llm.tally import Tally
from llm_authmw.llm.usage_fields import InvocationMetrics

MAX_HELD: Final = 1024 * 1024
"""Bytes of a whole answer that are kept. Of a larger one the end is, which is where most APIs put what was used."""

_TAIL: Final = 64 * 1024
_LEAST: Final = 48
"""Bytes of the smallest event that says anything: pings and `[DONE]` are below."""
_MOST: Final = 400
"""Bytes of an event that are taken for its frame at most."""
_HALF: Final = 4096
"""Bytes up to which the beginning of an event is put before what follows it."""
_CLOSING: Final = (b'_stop"', b'.done"')
_FEW: Final = 2
"""Events behind the last counts that are only the end of a stream. With more of them the counts came too early to be those of all of it."""
_TOKEN_BYTES: Final = 4
"""Bytes of text in a token, as a rule."""
_LONG_TOKEN: Final = 8
"""Bytes of text that are taken for a single token where an event has no more."""

_LINES: Final = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"})
_METRICS: Final = {
    b"x-amzn-bedrock-input-token-count": "inputTokenCount",
    b"x-amzn-bedrock-output-token-count": "outputTokenCount",
    b"x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    b"x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
_FAILED: Final = frozenset({b"exception", b"error"})
_TEXTS: Final = re.compile(
    rb'"(?:content|text|delta|thinking|reasoning(?:_content)?|refusal|arguments|partial_json|completion|response|generation|outputText|transcript)"'
    rb'\s*:\s*"((?:[^"\\]|\\.)*)"'
)
"""The members of an event that hold a piece of an answer."""
_USAGE: Final = re.compile(rb'"usage(?:Metadata)?"')


class _Chunk(msgspec.Struct, frozen=True):
    """The payload of a Bedrock frame that holds a piece of an answer."""

    bytes: str = ""


_chunk: Final = msgspec.json.Decoder(_Chunk).decode


class Meter:
    """Meters one answer: `start` with its headers, `feed` with each chunk of its body as it came, `end` when all of it has.

    What cannot be read is not zero: `usage` is then not complete. Read are JSON, server-sent events, lines of JSON, Gemini's arrays
    and the event streams of Bedrock, as they are or in the content codings gzip and deflate.

    Args:
        call: What the request asked for.
        max_held: Bytes of a whole answer that are kept.

    Attributes:
        feed: Shows the meter a chunk of the body, as it passes. It changes with `start` and on the way, so take it anew for each chunk.
    """

    def __init__(self, call: LLMCall, *, max_held: int = MAX_HELD) -> None:
        self._tally: Final = Tally(call.operation)
        self._max_held: Final = max_held
        self._read: Callable[[bytes], None] = _ignore
        self._finish: Callable[[], None] = _nothing
        self._inflater: Inflater | None = None
        self._server_events: Final = EventParser()
        self._frames: Final = FrameParser()
        self._texts: LineParser | ElementParser = LineParser()
        self._held: list[bytes] = []
        self._held_size = 0
        self._over = False
        self._known = False
        self._ended = False
        self._first = True
        self._half: bytes = b""
        self._hidden = False
        self._told_at = 0
        self._events = 0
        self._bytes = 0
        self._frame = _MOST
        self.feed: Callable[[bytes], None] = _ignore

    @property
    def failed(self) -> bool:
        """Whether the answer says that the call failed, be it in the middle of a stream."""
        return self._tally.failed

    @property
    def readable(self) -> bool:
        """Whether all that came could be read. Where not, counts may be missing that were there."""
        skipped = self._server_events.skipped + self._texts.skipped > 0
        broken = self._frames.broken or (self._inflater is not None and self._inflater.broken)
        return self._known and not (skipped or broken or self._tally.spoiled)

    @property
    def hides(self) -> bool:
        """Whether more of the answer may have passed than is seen: its kind or its coding cannot be read, or it is read as one whole."""
        if self._hidden or (self._inflater is not None and self._inflater.broken):
            return True
        # A whole one that only says what failed has nothing to hide.
        return self._held_size > 0 and not self._tally.failed

    @property
    def output_seen(self) -> int:
        """Tokens of the answer that have passed, estimated: at least one an event, and one for every four bytes of what differs in them."""
        return max(self._events, (self._bytes - self._events * self._frame) // _TOKEN_BYTES)

    @property
    def usage(self) -> Usage:
        """What was used so far.

        Complete: the provider has said so, and nothing can change it. Else `output` is the most that was said or seen, and an `input` of
        zero is one that nothing has said yet.
        """
        usage = self._tally.usage()
        if usage is None:
            return Usage(output=self.output_seen, model=self._tally.model)
        ended = self._ended and self.readable and not (self._tally.failed or self._tally.provisional)
        if usage.complete and (self._tally.final or ended) and self._events - self._told_at <= _FEW:
            return usage
        return msgspec.structs.replace(usage, output=max(usage.output, self.output_seen), complete=False)

    def start(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin with the headers of the answer, names in lower case."""
        kind, coding, metrics = b"", b"", dict[str, int]()
        for name, value in headers:
            if name == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            elif name == b"content-encoding":
                coding += b"," + value if coding else value
            elif name in _METRICS and value.isdigit() and len(value) < 16:
                metrics[_METRICS[name]] = int(value)
        if metrics:
            self._tally.take_metrics(msgspec.convert(metrics, InvocationMetrics))
        self._read, self._finish = self._way_to_read(kind)
        self._known = self._finish is not _nothing
        self._hidden = self._read is _ignore
        self.feed = self._read
        coding = coding.strip().lower()
        if coding not in {b"", b"identity"}:
            self._inflater = Inflater(coding)
            self.feed = self._feed_coded

    def end(self) -> None:
        """Say that all of the body has been shown. Where it broke off, leave that out."""
        if self._inflater is not None:
            self._inflater.finish()
        self._finish()
        self._ended = True
        # Its own methods would keep it alive until the next collection.
        self.feed = self._read = _ignore
        self._finish = _nothing

    def break_off(self) -> None:
        """Say that no more will come, though the end has not been shown. What had come of one JSON object may be all of it."""
        if self._read == self._feed_document:
            self._finish_document()
            self._ended = not self._tally.spoiled

    def _way_to_read(self, kind: bytes) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        if kind == b"text/event-stream":
            return self._feed_events, self._finish_events
        if kind in _LINES:
            return self._feed_texts, self._finish_texts
        if kind == b"application/vnd.amazon.eventstream":
            return self._feed_frames, self._finish_frames
        if kind == b"application/json" or kind.endswith(b"+json"):
            return self._feed_json, self._finish_json
        if kind.startswith(b"text/"):
            return self._feed_plain, _nothing
        return _ignore, _nothing

    def _feed_coded(self, chunk: bytes) -> None:
        if self._inflater is not None:
            for piece in self._inflater.feed(chunk):
                self._read(piece)

    def _feed_events(self, chunk: bytes) -> None:
        parser = self._server_events
        if self._half:
            chunk = self._half + chunk
            self._half = b""
        if parser.idle:
            if chunk.endswith(b"\n\n"):
                size = len(chunk)
                if b"oken" not in chunk and b'"error"' not in chunk:
                    # One whole event that says nothing of counts: nearly all chunks of nearly all streams.
                    if self._frame <= size < 2 * self._frame:
                        self._events += 1
                        self._bytes += size
                        return
                    if chunk.count(b"\n\n") == 1:
                        self._see(chunk, size)
                        return
                elif size < parser.max_event and chunk.startswith(b"data: ") and chunk.count(b"\n") == 2 and b"\r" not in chunk:
                    # One that may, of a single line.
                    self._read_text(chunk[6:-2], size)
                    return
            elif len(chunk) < _HALF and b"\n\n" not in chunk and b"\r" not in chunk:
                # The beginning of one, which need not be taken apart before the rest has come.
                self._half = chunk
                return
        for event in parser.feed(chunk):
            self._take(event.data, _size(event))

    def _finish_events(self) -> None:
        half, self._half = self._half, b""
        for event in (*self._server_events.feed(half), *self._server_events.finish()):
            self._take(event.data, _size(event))

    def _feed_plain(self, chunk: bytes) -> None:
        # There are no counts in it, but it is what was generated.
        self._bytes += len(chunk)

    def _feed_texts(self, chunk: bytes) -> None:
        for text in self._texts.feed(chunk):
            self._take(text)

    def _finish_texts(self) -> None:
        for text in self._texts.finish():
            self._take(text)

    def _feed_json(self, chunk: bytes) -> None:
        """Look at how a JSON answer begins: Gemini streams one array, all others send an object."""
        begin = chunk.lstrip(b" \t\r\n")
        if not begin:
            return
        self._first = False
        if begin.startswith(b"["):
            self._texts = ElementParser()
            self._read, self._finish = self._feed_texts, self._finish_texts
        else:
            self._read, self._finish = self._feed_document, self._finish_document
        if self._inflater is None:
            self.feed = self._read
        self._read(begin)

    def _finish_json(self) -> None:
        self._tally.spoiled = True

    def _feed_document(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._held_size += len(chunk)
        if self._held_size > self._max_held:
            self._over = True
            tail = b"".join(self._held)[-_TAIL:]
            self._held, self._held_size = [tail], len(tail)

    def _finish_document(self) -> None:
        text = b"".join(self._held)
        self._held = []
        if self._over:
            # A quotation mark in a string is escaped, so this is a member's name. What follows it can end as an object only where it is a
            # member of the outermost one.
            places = [place.start() for place in _USAGE.finditer(text)]
            text = b"{" + text[places[-1] :] if places else b""
        self._tally.read(text)

    def _feed_frames(self, chunk: bytes) -> None:
        for frame in self._frames.feed(chunk):
            if frame.headers.get(b":message-type") in _FAILED:
                self._tally.failed = True
            elif frame.headers.get(b":event-type") == b"chunk":
                self._take_chunk(frame.payload)
            else:
                self._take(frame.payload)

    def _finish_frames(self) -> None:
        if not self._frames.idle:
            self._tally.spoiled = True

    def _take_chunk(self, payload: bytes) -> None:
        try:
            self._take(base64.b64decode(_chunk(payload).bytes, validate=True))
        except (msgspec.DecodeError, binascii.Error, ValueError):
            self._tally.spoiled = True

    def _take(self, text: bytes, size: int | None = None) -> None:
        """Read a text of a stream, if it may say something: the first does, it names the model."""
        if size is None:
            size = len(text)
        if self._first or _may_tell(text):
            self._read_text(text, size)
        else:
            self._see(text, size)

    def _read_text(self, text: bytes, size: int) -> None:
        self._first = False
        if not self._tally.read(text):
            self._see(text, size)
        if self._tally.told:
            self._told_at = self._events

    def _see(self, text: bytes, size: int) -> None:
        """Take an event for a piece of the answer's text, but for those that are too small to be one, or repeat what they close."""
        if size < _LEAST:
            return
        if not (self._events and self._frame <= size < 2 * self._frame):
            if any(mark in text for mark in _CLOSING):
                return
            if size < self._frame or not self._events:
                # Now and then only. What an event has around its text, every other one has too. The text of several tokens is none of
                # that, or a stream whose events are all of one length would seem to say next to nothing.
                said = sum(map(len, _TEXTS.findall(text)))
                self._frame = min(self._frame, size - said if said > _LONG_TOKEN else size)
        self._events += 1
        self._bytes += size


def _may_tell(text: bytes) -> bool:
    """Say whether a text may be about counts or errors. `"usage":null` is in each chunk of a stream whose last one has it."""
    if b"oken" in text or b'"error"' in text:
        return True
    return b"eval_count" in text or (b'"usage' in text and b'"usage":null' not in text)


def _size(event: ServerEvent) -> int:
    """Return how long an event is as most servers write it."""
    return len(event.data) + 8 + (len(event.name) + 8 if event.name else 0)


def _ignore(chunk: bytes) -> None:
    """Take no notice of a body that cannot be read."""
    del chunk


def _nothing() -> None:
    """End what was not read."""
