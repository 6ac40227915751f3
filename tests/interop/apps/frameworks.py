"""The layer in each place where people put it, one app for each, all in one server: the `Host` header says which one is meant.

What is guarded stands under `/v1`. Apps that guard nothing else answer `/open` to anybody. `AUTHMW_STORE` names the store.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Final

import anyio
import fastapi
import litestar
import litestar.response
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.responses import StreamingResponse as FastAPIStream
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from llm_authmw import KeyAuthMiddleware, Principal, Stack, current_principal, open_store
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.fastapi import CurrentPrincipal, current_caller
from llm_authmw.testing import lifespan

store = open_store(os.environ["AUTHMW_STORE"])
keys = Middleware(KeyAuthMiddleware, keys=store.keys)
optional_keys = Middleware(KeyAuthMiddleware, keys=store.keys, required=False)
guard = Stack(keys)

reached: list[str] = []
"""The paths at which an endpoint has run."""
go_on = anyio.Event()


def described(user: Any, path: str) -> dict[str, Any]:
    reached.append(path)
    return {"credential": user.credential_id, "same": user == current_principal()}


async def chunks() -> AsyncIterator[bytes]:
    """Two chunks. The second waits until somebody, who has the first, asks for it."""
    asked = go_on
    yield b"one\n"
    await asked.wait()
    yield b"two\n"


# Starlette


async def me(request: Request) -> Response:
    return JSONResponse(described(request.user, request.url.path))


async def stream(request: Request) -> Response:
    return StreamingResponse(chunks(), media_type="text/plain")


@requires("llm:read")
async def scoped(request: Request) -> Response:
    return JSONResponse(described(request.user, request.url.path))


async def live(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(described(socket.user, socket.url.path))
    await socket.close()


async def open_to_all(_: HTTPConnection) -> Response:
    return PlainTextResponse("open")


def starlette_routes(*, each: list[Middleware] | None = None, prefix: str = "") -> list[BaseRoute]:
    return [
        Route(f"{prefix}/me", me, middleware=each),
        Route(f"{prefix}/stream", stream, middleware=each),
        Route(f"{prefix}/scoped", scoped, middleware=each),
        WebSocketRoute(f"{prefix}/live", live, middleware=each),
    ]


opened = Route("/open", open_to_all)
under_v1 = [Mount("/v1", routes=starlette_routes())]

# FastAPI


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.include_router(fastapi_router())
    return app


def fastapi_router(**options: Any) -> APIRouter:
    router = APIRouter(prefix="/v1", **options)

    @router.get("/me")
    def my_name(caller: CurrentPrincipal, request: fastapi.Request) -> dict[str, Any]:  # runs in a thread
        return described(caller, request.url.path)

    @router.get("/stream")
    async def my_stream() -> FastAPIStream:
        return FastAPIStream(chunks(), media_type="text/plain")

    @router.get("/scoped")
    async def my_scope(caller: Annotated[Principal, Security(current_caller, scopes=["llm:read"])]) -> dict[str, Any]:
        return described(caller, "/v1/scoped")

    @router.websocket("/live")
    async def my_socket(socket: fastapi.WebSocket, caller: CurrentPrincipal) -> None:
        await socket.accept()
        await socket.send_json(described(caller, socket.url.path))
        await socket.close()

    return router


added = fastapi_app()
added.add_middleware(KeyAuthMiddleware, keys=store.keys)

by_router = FastAPI(middleware=[optional_keys], routes=[opened])
by_router.include_router(fastapi_router(dependencies=[Depends(current_caller)]))

# Litestar


@litestar.get("/v1/me", sync_to_thread=False)
def litestar_me(request: litestar.Request[Principal, Any, Any]) -> dict[str, Any]:
    return described(request.user, request.url.path)


@litestar.get("/v1/stream", media_type="text/plain", sync_to_thread=False)
def litestar_stream() -> litestar.response.Stream:
    return litestar.response.Stream(chunks())


@litestar.websocket("/v1/live")
async def litestar_live(socket: litestar.WebSocket[Principal, Any, Any]) -> None:
    await socket.accept()
    await socket.send_json(described(socket.user, socket.url.path))
    await socket.close()


def litestar_app(**options: Any) -> litestar.Litestar:
    return litestar.Litestar([litestar_me, litestar_stream, litestar_live], openapi_config=None, **options)


APPS: Final[dict[str, ASGIApp]] = {
    "starlette-list": Starlette(routes=under_v1, middleware=[keys]),
    "starlette-list-of-a-stack": Starlette(routes=under_v1, middleware=[Middleware(guard)]),
    "starlette-wrapped": guard(Starlette(routes=under_v1)),
    "starlette-mount": Starlette(routes=[opened, Mount("/v1", routes=starlette_routes(), middleware=[keys])]),
    "starlette-route": Starlette(routes=[opened, *starlette_routes(each=[keys], prefix="/v1")]),
    "starlette-sub-app": Starlette(routes=[opened, Mount("/v1", app=guard(Starlette(routes=starlette_routes())))]),
    "fastapi-list": fastapi_app(middleware=[keys]),
    "fastapi-list-of-a-stack": fastapi_app(middleware=[Middleware(guard)]),
    "fastapi-added": added,
    "fastapi-wrapped": guard(fastapi_app()),
    "fastapi-router": by_router,
    "litestar-wrapped": guard(litestar_app()),
    "litestar-list": litestar_app(middleware=[DefineMiddleware(KeyAuthMiddleware, keys=store.keys)]),
}


async def to_go_on(_: HTTPConnection) -> Response:
    global go_on  # noqa: PLW0603 - one stream at a time waits for it
    go_on.set()
    go_on = anyio.Event()
    return PlainTextResponse("gone")


async def which(_: HTTPConnection) -> Response:
    return JSONResponse(reached)


@asynccontextmanager
async def all_lifespans(_: Starlette) -> AsyncGenerator[None]:
    async with AsyncExitStack() as living:
        for each in APPS.values():
            await living.enter_async_context(lifespan(each))
        yield


control = Starlette(routes=[Route("/go-on", to_go_on), Route("/reached", which)], lifespan=all_lifespans)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
    await APPS.get(host, control)(scope, receive, send)
