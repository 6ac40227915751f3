"""A guarded app that shows what happens to it, for real servers to start.

What goes on for a while has a name, the last part of its path. Another request lets it go on (`/go/NAME`), waits until it has
ended and says how (`/end/NAME`), or waits until its server's `receive` was given up a few times (`/given-up/NAME`).

The environment says where the keys are (`AUTHMW_STORE`), how soon changes count (`LAB_BOUND`, in seconds), whether imported keys
count (`LAB_IMPORTED`), and where to note the lifespan (`LAB_JOURNAL`, a file).
"""

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from pathlib import Path
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from llm_authmw import KeyAuthMiddleware, Stack, current_principal, open_store
from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send

TICK: Final = 0.05
"""Seconds between two events of a stream that ticks."""
OFTEN: Final = 3


class Act:
    """Something that goes on for a while."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.over = anyio.Event()
        self.end = "finished"
        self.received = 0
        self.given_up = 0
        self.given_up_often = anyio.Event()

    @contextlib.contextmanager
    def ending(self) -> Generator[None]:
        """Note how what is inside ended."""
        try:
            yield
        except BaseException as error:
            self.end = type(error).__name__
            raise
        finally:
            self.over.set()


acts: defaultdict[str, Act] = defaultdict(Act)
calls = 0


class Outside:
    """Stands between the server and the layer, and counts how often the server's `receive` is called, and given up."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        act = acts[scope["path"].rpartition("/")[2]]

        async def counted() -> Message:
            act.received += 1
            try:
                return await receive()
            except anyio.get_cancelled_exc_class():
                act.given_up += 1
                if act.given_up == OFTEN:
                    act.given_up_often.set()
                raise

        await self.app(scope, counted, send)


class Inside:
    """Stands behind the layer, and counts what it lets through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        global calls  # noqa: PLW0603 - one process, one count
        calls += scope["type"] != "lifespan" and scope["path"] != "/calls"
        await self.app(scope, receive, send)


class Stream(StreamingResponse):
    """Server-sent events, as people send them with Starlette."""

    def __init__(self, act: Act, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._act: Final = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._act.ending():
            await super().__call__(scope, receive, send)


class Listener(Response):
    """Sends one chunk and then waits for the client to go, without any help of the framework."""

    def __init__(self, act: Act) -> None:
        super().__init__(media_type="text/plain")
        del self.headers["content-length"]
        self._act: Final = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._act.ending():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"listening\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass


class Deaf(Response):
    """Sends one chunk and, when told to go on, the rest, without ever looking whether somebody is there."""

    def __init__(self, act: Act) -> None:
        super().__init__(media_type="text/plain")
        del self.headers["content-length"]
        self._act: Final = act

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._act.ending():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"deaf\n", "more_body": True})
            await self._act.go.wait()
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def described(connection: HTTPConnection) -> dict[str, Any]:
    principal = current_principal()
    return {
        "credential": principal.credential_id,
        "limits": [str(limit) for limit in principal.limits],
        "user": connection.user == principal,
        "http": connection.scope.get("http_version"),
        "pid": os.getpid(),
    }


async def who(request: Request) -> Response:
    return JSONResponse(described(request))


async def upload(request: Request) -> Response:
    digest, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
        pieces += bool(piece)
    return JSONResponse({"size": size, "sha256": digest.hexdigest(), "pieces": pieces})


async def two_events(request: Request) -> Response:
    act = acts[request.path_params["name"]]

    async def events() -> AsyncIterator[bytes]:
        yield b"data: one\n\n"
        await act.go.wait()
        yield b"data: two\n\n"

    return Stream(act, events())


async def ticks(request: Request) -> Response:
    act = acts[request.path_params["name"]]

    async def events() -> AsyncIterator[bytes]:
        while True:
            yield b"data: tick\n\n"
            await anyio.sleep(TICK)

    return Stream(act, events())


async def idle(request: Request) -> Response:
    act = acts[request.path_params["name"]]

    async def events() -> AsyncIterator[bytes]:
        yield b"data: hello\n\n"
        await act.go.wait()
        yield b"data: more\n\n"

    return Stream(act, events())


async def listen(request: Request) -> Response:
    return Listener(acts[request.path_params["name"]])


async def deaf(request: Request) -> Response:
    return Deaf(acts[request.path_params["name"]])


async def go(request: Request) -> Response:
    acts[request.path_params["name"]].go.set()
    return PlainTextResponse("gone")


async def end(request: Request) -> Response:
    act = acts[request.path_params["name"]]
    await act.over.wait()
    return PlainTextResponse(act.end)


async def given_up(request: Request) -> Response:
    act = acts[request.path_params["name"]]
    await act.given_up_often.wait()
    return PlainTextResponse(str(act.given_up))


async def received(request: Request) -> Response:
    return PlainTextResponse(str(acts[request.query_params["name"]].received))


async def count(request: Request) -> Response:
    return PlainTextResponse(str(calls))


async def socket(socket: WebSocket) -> None:
    act = acts[socket.path_params["name"]]
    with act.ending():
        await socket.accept(subprotocol="realtime" if "realtime" in socket.scope["subprotocols"] else None)
        await socket.send_json(described(socket))
        while (message := await socket.receive())["type"] == "websocket.receive":
            with contextlib.suppress(WebSocketDisconnect):  # which `receive` is told as well
                await socket.send_text(message["text"])
        act.end = f"closed with {message['code']}"


async def push(socket: WebSocket) -> None:
    act = acts[socket.path_params["name"]]

    async def tick() -> None:
        # The client may leave between two ticks, which the one who waits for messages is told as well.
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_text("tick")
                await anyio.sleep(TICK)

    with act.ending():
        await socket.accept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await socket.receive()
            tasks.cancel_scope.cancel()


async def promised(request: Request) -> Response:
    answer = await ticks(request)
    answer.headers["content-length"] = "1000000"
    return answer


def note(line: str) -> None:
    journal = os.environ.get("LAB_JOURNAL")
    if journal:
        with Path(journal).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, str]]:
    note("started")
    yield {"lab": "open"}
    note("stopped")


lab = Starlette(
    routes=[
        Route("/who", who),
        Route("/upload", upload, methods=["POST"]),
        Route("/stream/{name}", two_events),
        Route("/ticks/{name}", ticks),
        Route("/idle/{name}", idle),
        Route("/listen/{name}", listen),
        Route("/deaf/{name}", deaf),
        Route("/go/{name}", go),
        Route("/end/{name}", end),
        Route("/given-up/{name}", given_up),
        Route("/received", received),
        Route("/calls", count),
        Route("/promised/{name}", promised),
        WebSocketRoute("/socket/{name}", socket),
        WebSocketRoute("/push/{name}", push),
    ],
    lifespan=lifespan,
)
store = open_store(os.environ["AUTHMW_STORE"], bound=float(os.environ.get("LAB_BOUND", "1")))
guard = Stack(Middleware(KeyAuthMiddleware, keys=store.keys, imported="LAB_IMPORTED" in os.environ))
app = Outside(guard(Inside(lab)))
