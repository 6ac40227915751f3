"""HTTP requests: whole ones with `request`, and chunk by chunk with `stream`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

import msgspec

from llm_authmw.asgi import ASGIApp
from llm_authmw.testing.asgi.conversation import DEFAULT_TIME_LIMIT, Conversation
from llm_authmw.testing.asgi.response import Response
from llm_authmw.testing.asgi.rules import ProtocolError, checked_headers, checked_status
from llm_authmw.testing.asgi.scopes import RawHeaders, http_scope

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_TRAILERS: Final = "http.response.trailers"
_WHOLE_BODIES: Final = frozenset({"http.response.pathsend"})
"""Messages of extensions that stand for the whole body."""


class Exchange(Conversation):
    """One HTTP request and its answer. Made by `stream`.

    Attributes:
        response: The answer as far as it was taken.
    """

    def __init__(
        self, app: ASGIApp, scope: dict[str, Any], body: Iterable[bytes], *, more_body: bool, time_limit: float, reraise: bool
    ) -> None:
        super().__init__(app, scope, time_limit=time_limit, reraise=reraise)
        chunks = list(body) or [b""]
        self._incoming += [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        self._incoming[-1]["more_body"] = more_body
        self.response: Response = Response(activity=self.activity)
        self._started = False
        self._trailers_follow = False
        self._body_done = False
        self._last: Any = None
        self._complete = False

    async def started(self) -> Response:
        """Wait for the status and headers, and return the answer, which grows as chunks are taken.

        Raises:
            TimeoutError: the app does not start its answer.
            Exception: what the app raised before it did, unless the exchange keeps it.
        """
        await self._wait_until(lambda: self._started, "the answer to start")
        if not self._started:
            self._fail()
        return self.response

    @property
    def complete(self) -> bool:
        """Whether the whole answer was taken."""
        return self._complete

    async def next_chunk(self) -> bytes | None:
        """Return the body of the next body message, empty or not; None when there is none any more.

        Raises:
            TimeoutError: none comes.
            Exception: what the app raised, unless the exchange keeps it.
        """
        while not self._complete:
            message = await self._take("the next chunk")
            if message is None:
                return None
            if message is self._last:
                self._complete = True
                self._ring()
            if message["type"] == _BODY:
                chunk: bytes = message.get("body", b"")
                self.response.chunks.append(chunk)
                return chunk
            if message["type"] == _TRAILERS:
                self.response.trailers += checked_headers(message.get("headers", ()))
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def send_body(self, chunk: bytes, *, more_body: bool = False) -> None:
        """Send more of the request's body; for a `stream` with `more_body=True`."""
        self._give({"type": "http.request", "body": chunk, "more_body": more_body})

    async def disconnect(self) -> None:
        """Let the client go away: `receive` gives `http.disconnect` at once, and what the app sends reaches nobody."""
        await self._disconnect()

    def _next_event(self) -> dict[str, Any] | None:
        # As in servers, a client that has gone overtakes what is left of its body.
        if self._disconnected or self._complete:
            return {"type": "http.disconnect"}
        return self._incoming.pop(0) if self._incoming else None

    def _unfinished(self) -> str | None:
        if not self._started:
            return "without an answer"
        return None if self._last is not None else "before its answer was complete"

    def _admit(self, kind: str, message: dict[str, Any]) -> bool:
        if self._last is not None:
            raise ProtocolError(f"{kind} was sent after the answer was complete")
        if kind == _START:
            if self._started:
                raise ProtocolError("a second http.response.start was sent")
            self.response.status = checked_status(message.get("status"))
            self.response.headers = checked_headers(message.get("headers", ()))
            self._trailers_follow = bool(message.get("trailers", False))
            self._started = True
            return False
        if kind == _BODY:
            if not isinstance(message.get("body", b""), bytes):
                raise ProtocolError(f"a body of type {type(message['body']).__name__} was sent; expected bytes")
            return self._admit_body(kind, message, done=not message.get("more_body", False))
        if kind not in (self.scope.get("extensions") or {}):
            raise ProtocolError(f"{kind} was sent, which the server does not offer")
        if kind == _TRAILERS:
            if not self._trailers_follow or not self._body_done:
                raise ProtocolError("http.response.trailers was sent unannounced, or before the end of the body")
            if not message.get("more_trailers", False):
                self._last = message
            return True
        return self._admit_body(kind, message, done=True) if kind in _WHOLE_BODIES else False

    def _admit_body(self, kind: str, message: dict[str, Any], *, done: bool) -> bool:
        if not self._started:
            raise ProtocolError(f"{kind} was sent before http.response.start")
        if self._body_done:
            raise ProtocolError(f"{kind} was sent after the end of the body")
        self._body_done = done
        if done and not self._trailers_follow:
            self._last = message
        return True


def stream(
    app: ASGIApp,
    target: str | bytes,
    *,
    headers: RawHeaders = (),
    body: bytes | Iterable[bytes] = b"",
    json: Any = ...,
    more_body: bool = False,
    scope: Mapping[str, Any] | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    reraise: bool = True,
) -> Exchange:
    """Send a request, and read its answer while the app runs.

    Use it as `async with stream(app, "GET /events") as exchange: …`; `async for chunk in exchange` reads what is still to come. At
    the end of the block the client goes away if the answer was not taken whole, and the app must return.

    Args:
        app: The app, or a stack around it.
        target: Method and path, such as `POST /v1/embeddings?x=1`; see `http_scope`.
        headers: Header lines, sent as they are.
        body: The body; one message each for several byte strings.
        json: A value to send as the body instead, with `content-type` and `content-length`.
        more_body: Leave the body open, for `Exchange.send_body`, or for a client that goes away in the middle.
        scope: Members of the scope to change; see `http_scope`.
        time_limit: Seconds that each single wait may take.
        reraise: Raise in the test what the app raised. If not, it is kept in `Response.activity.raised`.

    Raises:
        ValueError: `target` cannot be read, or both `body` and `json` are given.
    """
    chunks = [body] if isinstance(body, bytes) else list(body)
    if json is not ...:
        if any(chunks):
            raise ValueError("a request has either body or json")
        chunks = [msgspec.json.encode(json)]
        headers = [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(chunks[0]))]
    return Exchange(
        app, http_scope(target, headers=headers, changes=scope), chunks, more_body=more_body, time_limit=time_limit, reraise=reraise
    )


async def request(
    app: ASGIApp,
    target: str | bytes,
    *,
    headers: RawHeaders = (),
    body: bytes | Iterable[bytes] = b"",
    json: Any = ...,
    scope: Mapping[str, Any] | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    reraise: bool = True,
) -> Response:
    """Send a request, and return the whole answer when the app has returned. The arguments are those of `stream`.

    Raises:
        ProtocolError: the app broke the protocol.
        TimeoutError: the app took longer than `time_limit` between two messages, or to return.
        Exception: what the app raised, unless `reraise` is off.
        ValueError: `target` cannot be read, or both `body` and `json` are given.
    """
    async with stream(app, target, headers=headers, body=body, json=json, scope=scope, time_limit=time_limit, reraise=reraise) as exchange:
        async for _ in exchange:
            pass
    return exchange.response
