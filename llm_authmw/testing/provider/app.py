"""The ASGI app of the mock: routes, faults, and the memory of what came in."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from llm_authmw.asgi import Message, Receive, Scope, Send
from llm_authmw.testing.provider import anthropic, openai
from llm_authmw.testing.provider.echo import digest
from llm_authmw.testing.provider.requests import ChatRequest, EmbeddingsRequest, MessagesRequest, ResponsesRequest

FAULT_HEADER: Final = "x-mock-fault"
REMEMBERED: Final = 1_000

_Asked = TypeVar("_Asked")


@dataclass
class SeenRequest:
    """What reached the provider.

    Attributes:
        method: The method; "WS" for a WebSocket.
        path: The decoded path.
        query: The query, without the question mark.
        headers: The header lines as they came.
        body: As much of the body as was read; a request for a path that does not exist is not.
    """

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def header_lines(self, name: str) -> list[bytes]:
        """Return every value of a header, in order."""
        wanted = name.lower().encode("latin-1")
        return [value for key, value in self.headers if key.lower() == wanted]


class StreamDropped(Exception):  # noqa: N818 - an event, as a proxy sees it when its upstream goes away
    """The fault `drop-after` broke the answer off. A server closes the connection on it."""


class MockProvider:
    """A mock of the OpenAI and Anthropic APIs: an ASGI app for tests and demonstrations, with no model behind it.

    It speaks `/v1/chat/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/models`, `/v1/models/{model}` and the WebSocket
    `/v1/realtime` as OpenAI does, `/v1/messages` as Anthropic does (and its models, to a client that sends
    `anthropic-version`), and `/health`. Whatever the key, it answers: what it says and how it counts is in `echo.py`. Equal
    requests have equal answers, to the byte.

    The request header `x-mock-fault` asks for a fault: `status=500` (or any other error), `no-usage`, or `drop-after=2`,
    which breaks a stream off after two events, and any other answer before it begins.

    Attributes:
        seen: The last thousand requests that reached it, the oldest first.
    """

    def __init__(self) -> None:
        self.seen: Final[deque[SeenRequest]] = deque(maxlen=REMEMBERED)
        self._router: Final = Router(
            [
                Route("/health", self._endpoint(_health), methods=["GET"]),
                Route("/v1/models", self._endpoint(_models), methods=["GET"]),
                Route("/v1/models/{model:path}", self._endpoint(_model), methods=["GET"]),
                Route("/v1/chat/completions", self._endpoint(_chat), methods=["POST"]),
                Route("/v1/responses", self._endpoint(_responses), methods=["POST"]),
                Route("/v1/embeddings", self._endpoint(_embeddings), methods=["POST"]),
                Route("/v1/messages", self._endpoint(_messages), methods=["POST"]),
                WebSocketRoute("/v1/realtime", self._realtime),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, socket or lifespan."""
        if scope["type"] != "lifespan":
            receive = self._remembering(scope, receive)
        await self._router(scope, receive, send)

    def __repr__(self) -> str:
        return "MockProvider()"

    def _endpoint(self, answer: Callable[["_Call"], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = _Call(request, await request.body())
            try:
                return answer(call) if call.fault.status is None else call.error(call.fault.status, "The fault that was asked for.")
            except (msgspec.DecodeError, ValueError) as error:
                return call.error(400, str(error))

        return endpoint

    async def _realtime(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol="realtime" if "realtime" in socket.scope["subprotocols"] else None)
        model = socket.query_params.get("model", "gpt-realtime")
        while (message := await socket.receive())["type"] == "websocket.receive":
            text: str = message.get("text") or message.get("bytes", b"").decode()
            await socket.send_text(msgspec.json.encode(openai.realtime_done(text, model)).decode())

    def _remembering(self, scope: Scope, receive: Receive) -> Receive:
        seen = SeenRequest(scope.get("method", "WS"), scope["path"], scope["query_string"], list(scope["headers"]))
        self.seen.append(seen)

        async def receive_and_remember() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                seen.body += message.get("body", b"")
            return message

        return receive_and_remember


class _Fault(NamedTuple):
    """What the request asks to go wrong."""

    status: int | None = None
    drop_after: int | None = None
    usage: bool = True

    @classmethod
    def parse(cls, text: str | None) -> "_Fault":
        if text is None:
            return cls()
        if text == "no-usage":
            return cls(usage=False)
        name, _, number = text.partition("=")
        if name == "status" and number.isdecimal() and 400 <= int(number) <= 599:
            return cls(status=int(number))
        if name == "drop-after" and number.isdecimal():
            return cls(drop_after=int(number))
        raise ValueError(f"{FAULT_HEADER}: {text!r} is no fault; expected status=N, drop-after=N or no-usage")


class _Call:
    """One request, with the forms of an answer to it."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.request: Final = request
        self.body: Final = body
        self.anthropic: Final = "anthropic-version" in request.headers or request.scope["path"] == "/v1/messages"

    @cached_property
    def fault(self) -> _Fault:
        return _Fault.parse(self.request.headers.get(FAULT_HEADER))

    @property
    def key(self) -> str:
        return digest(self.body)

    def read(self, kind: type[_Asked]) -> _Asked:
        return msgspec.json.decode(self.body, type=kind)

    def json(self, value: Any) -> Response:
        if self.fault.drop_after is not None:
            raise StreamDropped
        return Response(msgspec.json.encode(value), media_type="application/json")

    def events(self, events: Iterable[bytes]) -> Response:
        return _EventStream(list(events), self.fault.drop_after)

    def error(self, status: int, message: str) -> Response:
        told = anthropic.error(status, message) if self.anthropic else openai.error(status, message)
        return Response(msgspec.json.encode(told), status, media_type="application/json")


class _EventStream(Response):
    """Server-sent events, each in a body message of its own."""

    def __init__(self, events: list[bytes], drop_after: int | None) -> None:
        super().__init__(headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._drop_after = drop_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive  # a client that goes away is not noticed: the answer runs to its end, and is counted to its end
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for event in self._events[: self._drop_after]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if self._drop_after is not None:
            raise StreamDropped
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _health(call: _Call) -> Response:
    return call.json({"status": "ok"})


def _models(call: _Call) -> Response:
    return call.json(anthropic.models() if call.anthropic else openai.models())


def _model(call: _Call) -> Response:
    name: str = call.request.path_params["model"]
    api = anthropic if call.anthropic else openai
    return call.json(api.model(name)) if name in api.MODELS else call.error(404, f"The model {name!r} does not exist.")


def _chat(call: _Call) -> Response:
    asked = call.read(ChatRequest)
    if asked.stream:
        events = map(_data, openai.chat_stream(asked, call.key, usage=call.fault.usage))
        return call.events([*events, b"data: [DONE]\n\n"])
    return call.json(openai.chat(asked, call.key, usage=call.fault.usage))


def _responses(call: _Call) -> Response:
    asked = call.read(ResponsesRequest)
    if asked.stream:
        return call.events(map(_typed, openai.respond_stream(asked, call.key, usage=call.fault.usage)))
    return call.json(openai.respond(asked, call.key, usage=call.fault.usage))


def _embeddings(call: _Call) -> Response:
    return call.json(openai.embed(call.read(EmbeddingsRequest), usage=call.fault.usage))


def _messages(call: _Call) -> Response:
    asked = call.read(MessagesRequest)
    if asked.stream:
        return call.events(map(_typed, anthropic.message_stream(asked, call.key, usage=call.fault.usage)))
    return call.json(anthropic.message(asked, call.key, usage=call.fault.usage))


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _typed(event: dict[str, Any]) -> bytes:
    kind: str = event["type"]
    return f"event: {kind}\n".encode() + _data(event)
