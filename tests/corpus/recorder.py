"""What stands in for the network while an SDK is recorded: it answers, and keeps what was asked."""

import base64
import re
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final

import httpx2
from websockets.sync.server import Server, ServerConnection, serve

from tests.corpus.shapes import Shape

SECRET: Final = "sk-recorded"  # the API key of every client that is recorded
TOKEN: Final = "recorded-token"
REPLACED: Final = "replaced"

_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
# What says where and when it was recorded, and not what was asked.
_OF_THE_MACHINE: Final = frozenset(
    {
        "x-stainless-arch",
        "x-stainless-os",
        "x-stainless-runtime-version",
        "idempotency-key",
        "x-amz-date",
        "sec-websocket-key",
        "x-client-request-id",
    }
)
_BOUNDARY: Final = re.compile(rb"boundary=([0-9a-f]{32})")
_FIXED_BOUNDARY: Final = b"0123456789abcdef0123456789abcdef"
_MAX_BODY: Final = 8_192

Calls = dict[str, Callable[[Any], Any]]


class Recorder:
    """The transport of a client that is recorded.

    Attributes:
        shapes: What was asked so far, by the name of the call.
    """

    def __init__(self) -> None:
        self.shapes: Final[dict[str, Shape]] = {}
        self._asked: Final[list[Shape]] = []
        self.http: Final = httpx2.Client(transport=httpx2.MockTransport(self._answer))

    def record(self, client: Any, calls: Calls) -> None:
        """Make each call, which sends one request."""
        for name, call in calls.items():
            self._asked.clear()
            try:
                call(client)
            except Exception:
                # What an SDK says about an answer of ours that holds nothing is no matter here; that it asked is.
                if not self._asked:
                    raise
            (self.shapes[name],) = self._asked

    def record_socket(self, name: str, connect: Callable[[str], Any]) -> None:
        """Open a WebSocket on a server of ours, whose URL `connect` takes, and keep its handshake and its frames."""
        frames: list[str] = []
        seen: list[Shape] = []

        def session(socket: ServerConnection) -> None:
            assert socket.request is not None
            path, _, query = socket.request.path.partition("?")
            seen.append(Shape(method="WS", path=path, query=query, headers=_told(socket.request.headers.raw_items()), frames=frames))
            frames.extend(str(frame) for frame in socket)

        with _serving(session) as url:
            connect(url)
        (self.shapes[name],) = seen

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        body = request.read()
        path, _, query = request.url.raw_path.partition(b"?")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        boundary = _BOUNDARY.search(request.headers.get("content-type", "").encode())
        if boundary is not None:
            body = body.replace(boundary[1], _FIXED_BOUNDARY)
            headers = [(name, value.replace(boundary[1].decode(), _FIXED_BOUNDARY.decode())) for name, value in headers]
        assert len(body) <= _MAX_BODY, "a recorded body is small, so that it can be reviewed"
        try:
            held: Any = {"text": body.decode()}
        except UnicodeDecodeError:
            held = {"base64": base64.b64encode(body).decode()}
        self._asked.append(Shape(method=request.method, path=path.decode(), query=query.decode(), headers=_told(headers), **held))
        return _nothing_to_say(request, body)


def _nothing_to_say(request: httpx2.Request, body: bytes) -> httpx2.Response:
    if b'"stream":true' in body or b'name="stream"\r\n\r\ntrue' in body:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: [DONE]\n\n")
    if request.url.path.endswith("/content"):
        return httpx2.Response(200, content=b"")
    return httpx2.Response(200, json={"id": REPLACED, "content": [], "choices": [], "output": [], "data": []})


def _told(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, _value(name.lower(), value)) for name, value in headers]


def _value(name: str, value: str) -> str:
    if name in _CREDENTIALS:
        scheme, blank, _ = value.partition(" ")
        return f"{scheme} {REPLACED}" if blank else REPLACED
    if name in _OF_THE_MACHINE:
        return REPLACED
    return "example.com" if name == "host" else value


@contextmanager
def _serving(session: Callable[[ServerConnection], None]) -> Generator[str]:
    server: Server = serve(session, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join(10)
