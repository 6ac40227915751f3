"""The request lens: reads what a request asks for, once, and hands on the very bytes that it read."""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import anyio.to_thread

from llm_authmw.asgi import Receive, Scope
from llm_authmw.call import LLMCall
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.header_names import ORDINARY
from llm_authmw.llm.body_fields import ROUTING
from llm_authmw.llm.encodings import CODINGS, decoded
from llm_authmw.llm.extent import Extent, extent_of
from llm_authmw.llm.managed_ids import models_in_path
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.outside_body import models_named_outside
from llm_authmw.llm.realtime import read_frame
from llm_authmw.llm.requests import may_be_json, read_request, reading_of
from llm_authmw.names import Names, names

MAX_BODY: Final = 10 * 1024 * 1024
"""Bytes of a body that is read, where nothing else is said."""

# Blanks and a byte order mark, also in UTF-16 and UTF-32: Python's own parser reads those.
_BEFORE_JSON: Final = re.compile(rb"[\xef\xbb\xbf\xff\xfe]*+(?:\0{0,3}+[ \t\r\n])*+\0{0,3}+").match
_DIGITS: Final = 18
"""Digits of a length that is still taken for a number."""
_AT_ONCE: Final = 512 * 1024
"""Bytes of a body that are read within a few milliseconds, so that it need not be done in a thread."""
_COUNTED_AT_ONCE: Final = 256 * 1024
"""Likewise, where every value in it is looked at."""
_MOST_MESSAGES: Final = 1024
"""Messages of a body that are kept as they came: one of a single byte takes the room of hundreds."""
_OF_NO_BODY: Final = ORDINARY - {b"content-type", b"content-encoding", b"content-length"}
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Replay:
    """A `receive` that gives the messages which were read before, as they were, and then goes on with those that are still to come.

    Args:
        receive: Where the messages came from.
        messages: What was read.
        lens: Who read it.
        found: As which operation.
        call: What was found in it.
        body: The body as it was read: all of it, and decoded where it came in a coding; empty where nothing in it was read.
    """

    __slots__ = ("_extent", "_messages", "_next", "_receive", "body", "call", "found", "lens")

    def __init__(
        self, receive: Receive, messages: Sequence[Any], lens: "RequestLens", found: Found | None, call: LLMCall, body: bytes = b""
    ) -> None:
        self._receive: Final = receive
        self._messages: Final = messages
        self._next = 0
        self._extent: Extent | None = None
        self.lens: Final = lens
        self.found: Final = found
        self.call: Final = call
        self.body: Final = body

    def by_way_of(self, receive: Receive) -> "Replay":
        """Return what gives the same through another `receive`, which hands on what this one gives: a layer further in need not read anew.

        Args:
            receive: Calls this one, and changes nothing of what it returns.
        """
        passing = Replay(receive, (), self.lens, self.found, self.call, self.body)
        passing._extent = self._extent
        return passing

    async def extent(self) -> Extent:
        """Return how much the request can use at most: found out once, for all the layers that count it.

        Raises:
            Denial: as `extent_of`.
        """
        extent = self._extent
        if extent is None:
            at_once = len(self.body) <= _COUNTED_AT_ONCE
            extent = extent_of(self.call, self.body) if at_once else await anyio.to_thread.run_sync(extent_of, self.call, self.body)
            self._extent = extent
        return extent

    async def __call__(self) -> Any:
        """Receive the next message."""
        if self._next < len(self._messages):
            self._next += 1
            return self._messages[self._next - 1]
        return await self._receive()


class RequestLens:
    """How requests are read. One serves any number of layers and requests; nothing about a request stays with it.

    Args:
        operations: Operations of your own, which go before the built-in ones.
        max_body: Bytes up to which a body is read; a longer one is refused with 413.
        decode: The content codings in which a body may come: "gzip", "deflate". It is decoded to be read, and goes on as it came.
        allow_fields: Members of a body that choose where or as whom a request is sent on, and that callers may use all the same.

    Raises:
        ConfigurationError: an option is outside its grammar, or would be ignored.
    """

    def __init__(
        self,
        *,
        operations: Sequence[Operation] = (),
        max_body: int = MAX_BODY,
        decode: Names = (),
        allow_fields: Names = (),
    ) -> None:
        if isinstance(operations, Operation) or not all(isinstance(operation, Operation) for operation in operations):
            raise ConfigurationError("operations", "takes a list of Operation(…)")
        if type(max_body) is not int or max_body < 1:
            raise ConfigurationError("max_body", "is a number of bytes, 1 or more")
        self.operations: Final = Operations(*operations)
        self.max_body: Final = max_body
        self.decode: Final = frozenset(names("decode", decode))
        self.allow_fields: Final = frozenset(names("allow_fields", allow_fields))
        for option, given, known in (("decode", self.decode, CODINGS), ("allow_fields", self.allow_fields, ROUTING)):
            unknown = given - known
            if unknown:
                raise ConfigurationError(option, f"does not know {min(unknown)!r}; expected some of {', '.join(sorted(known))}")

    def find(self, method: str, path: str) -> Found | None:
        """Return the operation of a route, or None where it is in no table.

        Args:
            method: As `patterns.canonical_route` gives it, `WS` for a WebSocket.
            path: Likewise.

        Raises:
            Denial: the path names a model by something that is no model's name, or can be read in two ways.
        """
        return self.operations.find(method, path)

    async def read(self, scope: Scope, receive: Receive, context: RequestContext, found: Found | None) -> Receive | None:
        """Read what an HTTP request asks for, and set `context.call`.

        Its body is read where the operation has one that matters. What was read comes again: a layer further in receives it all.

        Args:
            scope: The connection.
            receive: Where the request comes from.
            context: The request's.
            found: What `find` has found.

        Returns:
            Where the app receives the request from; None where the client has left before all of it was there.

        Raises:
            Denial: the request cannot be read in one way only, is too large, or has a field that is not accepted.
        """
        if isinstance(receive, Replay) and receive.lens is self and receive.found == found:
            # What this one gives is what was read, whatever happened to the context since.
            context.call = receive.call
            return receive
        headers = _Headers(scope["headers"])
        named = _named_outside(scope, headers.others)
        content_type = _content_type(headers)
        unread = scope["method"].upper() in _WITHOUT_BODY and (found is not None or not brings_body(scope))
        if unread or (found is not None and found.operation.body == "none"):
            context.call = reading_of(found, named, ()).call()
            return receive
        if found is None and not may_be_json(content_type):
            begun = await _receive_beginning(receive)
            if begun is None:
                return None
            context.call = reading_of(found, named, ()).call()
            return Replay(receive, begun, self, found, context.call)
        coding = self._coding(headers.codings)
        messages = await self._receive_all(headers.lengths, receive)
        if messages is None:
            return None
        body = b"".join([message.get("body", b"") for message in messages]) if len(messages) > 1 else messages[0].get("body", b"")

        def look() -> tuple[LLMCall, bytes]:
            text = body if coding is None else decoded(coding, body, self.max_body)
            call = read_request(
                found, content_type=content_type, body=text, named=named, allowed_fields=self.allow_fields, headers=headers.others
            )
            return call, text

        # The lines of a large batch take the better part of a second, in which nobody else is to wait.
        call, text = look() if len(body) <= _AT_ONCE and coding is None else await anyio.to_thread.run_sync(look)
        context.call = call
        return Replay(receive, messages, self, found, call, text)

    def handshake(self, scope: Scope, context: RequestContext, found: Found | None) -> None:
        """Read what the handshake of a WebSocket asks for, and set `context.call`.

        Raises:
            Denial: its query or a header names a model by something that is no model's name.
        """
        context.call = reading_of(found, _named_outside(scope, scope["headers"]), (), socket=True).call()

    def watch(
        self,
        receive: Receive,
        found: Found | None,
        judge: Callable[[LLMCall], Denial | None],
        deny: Callable[[Denial], Awaitable[None]],
    ) -> Receive:
        """Return a `receive` for a WebSocket app, which holds each frame that names something to the rules.

        Args:
            receive: Where the frames come from.
            found: What `find` has found.
            judge: Says why a frame that asks for this is denied, or None.
            deny: Told of the denial of a frame. The app then receives a disconnect in its place, and nothing else any more.
        """
        denied = False
        held: Any = None

        async def watched() -> Any:
            nonlocal denied, held
            if denied:
                return {"type": "websocket.disconnect", "code": 1008}
            # An app may give up waiting: the next call goes on with the same message.
            message = held = await receive() if held is None else held
            if message["type"] != "websocket.receive":
                held = None
                return message
            try:
                call = await self._read_frame(found, message)
                denial = None if call is None else judge(call)
            except Denial as raised:
                denial = raised
            held = None
            if denial is None:
                return message
            denied = True
            await deny(denial)
            return {"type": "websocket.disconnect", "code": 1008}

        return watched

    async def _read_frame(self, found: Found | None, message: Any) -> LLMCall | None:
        text, data = message.get("text"), message.get("bytes")
        size = len(text or data or b"")
        if size > self.max_body:
            raise Denial("body_too_large")
        if size <= _AT_ONCE:
            return read_frame(found, text, data, self.allow_fields)
        return await anyio.to_thread.run_sync(read_frame, found, text, data, self.allow_fields)

    def _coding(self, codings: list[bytes]) -> str | None:
        coding = b",".join(codings).strip(b" \t").lower().decode("latin-1")
        if coding in {"", "identity"}:
            return None
        if coding not in self.decode:
            raise Denial("content_encoding_not_accepted")
        return coding

    async def _receive_all(self, lengths: list[bytes], receive: Receive) -> list[Any] | None:
        for length in lengths:
            if length.isdigit() and (len(length) > _DIGITS or int(length) > self.max_body):
                raise Denial("body_too_large")
        messages: list[Any] = []
        rest = bytearray()
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body = message.get("body", b"")
            size += len(body)
            if size > self.max_body:
                raise Denial("body_too_large")
            whole = not message.get("more_body", False)
            if len(messages) < _MOST_MESSAGES:
                messages.append(message)
            else:
                rest += body
                if whole:
                    messages.append({"type": "http.request", "body": bytes(rest), "more_body": False})
            if whole:
                return messages


async def _receive_beginning(receive: Receive) -> list[Any] | None:
    """Return the first messages of a body that is no JSON by its type, on a route that nobody knows; None where the client has left.

    Many apps parse what comes, whatever its type says (Starlette's `request.json()`). More than the beginning is not looked at, so that
    a file of any size goes through.

    Raises:
        Denial: the body begins as JSON does (`content_type_not_accepted`), or with nothing but blanks for longer than is looked at.
    """
    messages: list[Any] = []
    begin = b""
    while len(messages) < _MOST_MESSAGES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        messages.append(message)
        begin += message.get("body", b"")
        blank = _BEFORE_JSON(begin)
        at = 0 if blank is None else blank.end()
        if at < len(begin) or not message.get("more_body", False):
            if begin[at : at + 1] in {b"{", b"["}:
                break
            return messages
        # Zeros may be halves of the next character.
        begin = begin[len(begin.rstrip(b"\0")) :]
    raise Denial("content_type_not_accepted")


class _Headers:
    """What the headers say of the body, found in one pass; and those that may name something."""

    __slots__ = ("codings", "lengths", "others", "types")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.types: Final[list[bytes]] = []
        self.codings: Final[list[bytes]] = []
        self.lengths: Final[list[bytes]] = []
        self.others: Final[list[tuple[bytes, bytes]]] = []
        for line in headers:
            if line[0] in _OF_NO_BODY:
                continue
            match line[0].lower():
                case b"content-type":
                    self.types.append(line[1])
                case b"content-encoding":
                    self.codings.append(line[1])
                case b"content-length":
                    self.lengths.append(line[1])
                case _:
                    self.others.append(line)


def brings_body(scope: Scope) -> bool:
    """Say whether the headers of an HTTP request announce a body, which any method may have (RFC 9110 §9.3.1)."""
    for name, value in scope["headers"]:
        lowered = name.lower()
        if lowered == b"transfer-encoding" or (lowered == b"content-length" and value.strip(b" \t") != b"0"):
            return True
    return False


def _content_type(headers: _Headers) -> bytes | None:
    if len(headers.types) > 1:
        raise Denial("content_type_not_accepted")
    return headers.types[0] if headers.types else None


def _named_outside(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    return (*models_in_path(scope["path"]), *models_named_outside(scope.get("query_string") or b"", headers))


DEFAULT_LENS: Final = RequestLens()
"""How requests are read where nothing else is said."""
