"""The table of placements in the page of stacks: what each place covers is what the page says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteSocket

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.testing import lifespan, request
from llm_authmw.testing import websocket as connect

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "stack.md"
KEYS = StaticKeys({"ci": "sk-ci-4d1c0b7e9a5f83260c1d7e4b9f2a6853"})


class Row(NamedTuple):
    place: str
    http: str
    not_found: str
    socket: str
    lifespan: str


def _rows() -> dict[str, Row]:
    table = PAGE.read_text(encoding="utf-8").partition("| placed as |")[2].partition("\n\n")[0]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in table.splitlines()[2:]]
    return {row.place: row for row in rows}


class Recorder:
    """A foreign layer beside ours, which notes what kinds of connections come to that place."""

    def __init__(self, app: ASGIApp, *, kinds: set[str]) -> None:
        self.app = app
        self.kinds = kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.kinds.add(scope["type"])
        await self.app(scope, receive, send)


async def me(_: Request) -> PlainTextResponse:
    return PlainTextResponse("somebody")


async def socket(socket: StarletteSocket) -> None:
    await socket.accept()
    await socket.close()


@get("/v1/me", sync_to_thread=False)
def litestar_me() -> str:
    return "somebody"


@websocket("/v1/socket")
async def litestar_socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.close()


def _routes(**options: Any) -> list[BaseRoute]:
    return [Route("/me", me, **options), WebSocketRoute("/socket", socket, **options)]


def _at_routes(guard: Stack) -> ASGIApp:
    return Starlette(routes=[Mount("/v1", routes=_routes(middleware=[Middleware(guard)]))])


def _at_a_mount(guard: Stack) -> ASGIApp:
    return Starlette(routes=[Mount("/v1", routes=_routes(), middleware=[Middleware(guard)])])


PLACES: Final[dict[str, Callable[[Stack], ASGIApp]]] = {
    "wrapped around any app: `Stack(…)(app)`": lambda guard: guard(Starlette(routes=[Mount("/v1", routes=_routes())])),
    "Starlette's or FastAPI's `middleware=[…]`, `add_middleware`": lambda guard: Starlette(
        routes=[Mount("/v1", routes=_routes())], middleware=[Middleware(guard)]
    ),
    "middleware of a `Mount`": _at_a_mount,
    "middleware of a `Route`": _at_routes,
    "Litestar's `middleware=[…]`": lambda guard: Litestar(
        [litestar_me, litestar_socket], middleware=[DefineMiddleware(guard)], logging_config=None
    ),
}


def test_the_table_has_the_places_that_are_tried() -> None:
    assert list(_rows()) == list(PLACES)


@pytest.mark.parametrize("place", list(PLACES))
async def test_a_place_covers_what_its_row_says(place: str) -> None:
    kinds: set[str] = set()
    app = PLACES[place](Stack(Middleware(Recorder, kinds=kinds), Middleware(KeyAuthMiddleware, keys=KEYS)))
    row = _rows()[place]

    assert row.http == "yes"
    assert (await request(app, "GET /v1/me")).status == 401

    inside = [(await request(app, target)).status for target in ("GET /v1/nothing", "POST /v1/me")]
    outside = (await request(app, "GET /nothing")).status
    covered = {(401, 401, 401): "yes", (401, 401, 404): "inside the mount only", (404, 405, 404): "no"}
    assert row.not_found == covered[inside[0], inside[1], outside]

    assert row.socket == "yes"
    async with connect(app, "/v1/socket") as refused:
        assert refused.response.status == 401

    async with lifespan(app):
        pass
    assert row.lifespan == ("yes" if "lifespan" in kinds else "no")
