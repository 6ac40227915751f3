"""Where a layer may stand, and what then happens to whom: the neighbour rule, as a table.

Nowhere is an app, a second app beside it, or a cache in between reached without a credential that every layer in front of it
accepts, or, where none of these requires one, without any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pytest
from fastapi import FastAPI
from hypercorn.middleware import ProxyFixMiddleware
from litestar import Litestar, get
from litestar import Router as LitestarRouter
from litestar import websocket as litestar_websocket
from litestar.connection import Request as LitestarRequest
from litestar.connection import WebSocket as LitestarWebSocket
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route, Router, WebSocketRoute

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import request, websocket
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS: Final = StaticKeys({"ci": KEY})

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

NO_CREDENTIAL: Headers = ()
GOOD_KEY: Headers = ((b"authorization", b"Bearer " + KEY.encode()),)
BAD_KEY: Headers = ((b"x-api-key", KEY[::-1].encode()),)
GARBAGE: Headers = ((b"authorization", b"Basic \x21\x22\x23"),)
GOOD_TICKET: Headers = ((b"x-ticket", b"good-ada"),)
BAD_TICKET: Headers = ((b"x-ticket", b"forged"),)


def key_layer(*, required: bool = True) -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=KEYS, required=required)


def ticket_layer(*, required: bool = True) -> Middleware:
    return Middleware(TicketLayer, required=required)


async def pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def base_layer() -> Middleware:
    return Middleware(BaseHTTPMiddleware, dispatch=pass_on)


class Copying:
    """A foreign layer that passes a copy of the scope on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


class Opaque:
    """A foreign layer that does not show what stands behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._inner = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)


class Site:
    """What must not be reached: an app, a second one beside it, and a cache."""

    def __init__(self) -> None:
        self.app = Witness()
        self.second = Witness()
        self.cached: list[str] = []

    def cache(self, inner: ASGIApp, *, shown: bool = False) -> ASGIApp:
        """Return a cache in front of `inner`; where it is shown, `app` names what stands behind it."""
        cached = self.cached

        class Cache(Opaque):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                cached.append(scope["path"])
                await super().__call__(scope, receive, send)

        cache = Cache(inner)
        if shown:
            cache.app = inner  # type: ignore[attr-defined]
        return cache

    def dispatcher(self, app: ASGIApp, *, shown: bool) -> ASGIApp:
        """Return a foreign app with two apps behind it: `/second` is the second, all else is `app`."""
        second = self.second

        class Dispatcher(Opaque):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await (second if scope["path"].startswith("/second") else self._inner)(scope, receive, send)

        dispatcher = Dispatcher(app)
        if shown:
            dispatcher.app = app  # type: ignore[attr-defined]
        return dispatcher

    def starlette(self, *middleware: Middleware) -> Starlette:
        return Starlette(routes=[Mount("/v1", self.app)], middleware=middleware)

    def fastapi(self, *middleware: Middleware) -> FastAPI:
        app = FastAPI(middleware=middleware)
        app.mount("/v1", self.app)
        return app

    def litestar(self, *middleware: Any, on_routes: Sequence[Any] = ()) -> Any:
        @get("/v1/x")
        async def page(request: LitestarRequest[Any, Any, Any]) -> dict[str, str]:
            self.app.scopes.append(request.scope)
            return {"subject": request.user.subject}

        @litestar_websocket("/v1/x")
        async def socket(socket: LitestarWebSocket[Any, Any, Any]) -> None:
            self.app.scopes.append(socket.scope)
            await socket.accept()
            await socket.receive()

        return Litestar(
            [LitestarRouter("/", route_handlers=[page, socket], middleware=on_routes)], middleware=middleware, openapi_config=None
        )

    def reached(self) -> bool:
        return bool(self.app.scopes or self.second.scopes or self.cached)


@dataclass(frozen=True)
class Placement:
    """One way to place layers.

    Attributes:
        build: Puts the place together around a site.
        outcomes: The status for no credential, a good key, a bad key, garbage; 200 where the app is reached.
        path: Where the app is.
        sockets: Whether sockets reach the app on that path as well.
        other: Further credentials, and the status for each.
    """

    name: str
    build: Callable[[Site], ASGIApp]
    outcomes: tuple[int, int, int, int]
    path: str = "/v1/x"
    sockets: bool = True
    other: tuple[tuple[Headers, int], ...] = ()


REQUIRED = (401, 200, 401, 401)
OPTIONAL = (200, 200, 401, 401)
CLOSED = (401, 401, 401, 401)
TICKETS = ((GOOD_TICKET, 200), (BAD_TICKET, 401), ((*GOOD_KEY, *GOOD_TICKET), 400), ((*GOOD_TICKET, *GARBAGE), 400))


def added(app: Any, *layers: Any, **options: Any) -> Any:
    """Return the app with each layer added, the last one outermost."""
    for layer in layers:
        app.add_middleware(layer, **options)
    return app


PLACEMENTS: list[Placement] = [
    # One layer, alone in front of an app.
    Placement("around an app", lambda site: KeyAuthMiddleware(site.app, keys=KEYS), REQUIRED),
    Placement("around an app, nobody required", lambda site: KeyAuthMiddleware(site.app, keys=KEYS, required=False), OPTIONAL),
    Placement("a stack around an app", lambda site: Stack(key_layer())(site.app), REQUIRED),
    Placement("a stack around an app, nobody required", lambda site: Stack(key_layer(required=False))(site.app), OPTIONAL),
    Placement("a stack of a stack", lambda site: Stack(Stack(key_layer()))(site.app), REQUIRED),
    Placement("a stack in a stack's list", lambda site: Stack(Middleware(Stack(key_layer())))(site.app), REQUIRED),
    # Starlette.
    Placement("Starlette, wrapped", lambda site: Stack(key_layer())(site.starlette()), REQUIRED),
    Placement("Starlette, listed", lambda site: site.starlette(key_layer()), REQUIRED),
    Placement("Starlette, listed, nobody required", lambda site: site.starlette(key_layer(required=False)), OPTIONAL),
    Placement("Starlette, a stack listed", lambda site: site.starlette(Middleware(Stack(key_layer()))), REQUIRED),
    Placement("Starlette, added", lambda site: added(site.starlette(), KeyAuthMiddleware, keys=KEYS), REQUIRED),
    Placement("Starlette, a stack added", lambda site: added(site.starlette(), Stack(key_layer())), REQUIRED),
    Placement("Starlette, on no path", lambda site: site.starlette(key_layer()), (401, 404, 401, 401), "/no", sockets=False),
    Placement("Starlette, a mount", lambda site: Starlette(routes=[Mount("/v1", site.app, middleware=[key_layer()])]), REQUIRED),
    Placement(
        "Starlette, a mount, a stack",
        lambda site: Starlette(routes=[Mount("/v1", site.app, middleware=[Middleware(Stack(key_layer()))])]),
        REQUIRED,
    ),
    Placement(
        "Starlette, routes",
        lambda site: Starlette(
            routes=[
                Route("/v1/x", site.app, middleware=[key_layer()]),
                WebSocketRoute("/v1/x", site.app, middleware=[key_layer()]),
            ]
        ),
        REQUIRED,
    ),
    Placement(
        "Starlette, a mounted app with a list",
        lambda site: Starlette(routes=[Mount("/in", site.starlette(key_layer()))]),
        REQUIRED,
        "/in/v1/x",
    ),
    Placement(
        "Starlette, a mounted app, wrapped", lambda site: Starlette(routes=[Mount("/in", Stack(key_layer())(site.app))]), REQUIRED, "/in/x"
    ),
    # FastAPI.
    Placement("FastAPI, wrapped", lambda site: Stack(key_layer())(site.fastapi()), REQUIRED),
    Placement("FastAPI, listed", lambda site: site.fastapi(key_layer()), REQUIRED),
    Placement("FastAPI, a stack listed", lambda site: site.fastapi(Middleware(Stack(key_layer()))), REQUIRED),
    Placement("FastAPI, added", lambda site: added(site.fastapi(), KeyAuthMiddleware, keys=KEYS), REQUIRED),
    Placement("FastAPI, a stack added", lambda site: added(site.fastapi(), Stack(key_layer(required=False))), OPTIONAL),
    Placement("FastAPI, its own pages", lambda site: site.fastapi(key_layer()), REQUIRED, "/openapi.json", sockets=False),
    # Litestar.
    Placement("Litestar, wrapped", lambda site: Stack(key_layer())(site.litestar()), REQUIRED),
    Placement("Litestar, listed", lambda site: site.litestar(DefineMiddleware(KeyAuthMiddleware, keys=KEYS)), REQUIRED),
    Placement("Litestar, a stack listed", lambda site: site.litestar(Stack(key_layer())), REQUIRED),
    Placement("Litestar, on a router", lambda site: site.litestar(on_routes=[DefineMiddleware(KeyAuthMiddleware, keys=KEYS)]), REQUIRED),
    Placement(
        "Litestar, two side by side",
        lambda site: site.litestar(DefineMiddleware(KeyAuthMiddleware, keys=KEYS), DefineMiddleware(TicketLayer, required=False)),
        REQUIRED,
        other=TICKETS,
    ),
    # Two kinds of layers side by side: one decides, and who is required decides about the others.
    Placement("two side by side", lambda site: Stack(key_layer(), ticket_layer())(site.app), REQUIRED, other=TICKETS),
    Placement("the other way round", lambda site: Stack(ticket_layer(), key_layer())(site.app), REQUIRED, other=TICKETS),
    Placement("inside optional", lambda site: Stack(key_layer(), ticket_layer(required=False))(site.app), REQUIRED, other=TICKETS),
    Placement("outside optional", lambda site: Stack(key_layer(required=False), ticket_layer())(site.app), REQUIRED, other=TICKETS),
    Placement(
        "both optional", lambda site: Stack(key_layer(required=False), ticket_layer(required=False))(site.app), OPTIONAL, other=TICKETS
    ),
    Placement("listed side by side", lambda site: site.starlette(key_layer(), ticket_layer(required=False)), REQUIRED, other=TICKETS),
    Placement(
        "added one by one",
        lambda site: added(added(site.starlette(), TicketLayer), KeyAuthMiddleware, keys=KEYS),
        REQUIRED,
        other=TICKETS,
    ),
    Placement(
        "a stack beside a layer", lambda site: KeyAuthMiddleware(Stack(ticket_layer())(site.app), keys=KEYS), REQUIRED, other=TICKETS
    ),
    Placement(
        "a stack around a stack",
        lambda site: Stack(key_layer(required=False))(Stack(ticket_layer())(site.app)),
        REQUIRED,
        other=TICKETS,
    ),
    Placement(
        "two stacks listed",
        lambda site: site.fastapi(Middleware(Stack(key_layer())), Middleware(Stack(ticket_layer(required=False)))),
        REQUIRED,
        other=TICKETS,
    ),
    Placement(
        "a stack of two stacks",
        lambda site: Stack(Stack(key_layer(required=False)), Stack(Stack(ticket_layer())))(site.app),
        REQUIRED,
        other=TICKETS,
    ),
    # Foreign layers outside.
    Placement("GZip outside", lambda site: Stack(Middleware(GZipMiddleware), key_layer())(site.app), REQUIRED),
    Placement("CORS outside", lambda site: Stack(Middleware(CORSMiddleware, allow_origins=["*"]), key_layer())(site.app), REQUIRED),
    Placement("BaseHTTPMiddleware outside", lambda site: site.starlette(base_layer(), key_layer()), REQUIRED),
    Placement(
        "a copying layer outside",
        lambda site: Stack(Middleware(Copying), key_layer(), ticket_layer())(site.app),
        REQUIRED,
        other=TICKETS,
    ),
    Placement("ProxyFix outside", lambda site: ProxyFixMiddleware(Stack(key_layer(), ticket_layer())(site.app)), REQUIRED, other=TICKETS),
    Placement(
        "a cache outside a stack, in a mount",
        lambda site: Starlette(routes=[Mount("/v1", Stack(key_layer())(site.cache(site.app)))]),
        REQUIRED,
    ),
    # Foreign layers inside.
    Placement("GZip inside", lambda site: Stack(key_layer(), Middleware(GZipMiddleware))(site.app), REQUIRED),
    Placement("BaseHTTPMiddleware inside", lambda site: site.starlette(key_layer(), base_layer()), REQUIRED),
    Placement("a copying layer inside", lambda site: Stack(key_layer(), Middleware(Copying))(site.app), REQUIRED),
    Placement("ProxyFix inside", lambda site: KeyAuthMiddleware(ProxyFixMiddleware(site.app), keys=KEYS), REQUIRED),
    Placement("a cache inside", lambda site: Stack(key_layer())(site.cache(site.app)), REQUIRED),
    Placement("a cache that shows its app", lambda site: Stack(key_layer())(site.cache(site.app, shown=True)), REQUIRED),
    Placement("a dispatcher, the app", lambda site: Stack(key_layer())(site.dispatcher(site.app, shown=True)), REQUIRED),
    Placement("a dispatcher, the second app", lambda site: Stack(key_layer())(site.dispatcher(site.app, shown=True)), REQUIRED, "/second"),
    # An authentication layer further in, behind something foreign: two decisions, and each must let the caller in.
    Placement(
        "a cache in between", lambda site: KeyAuthMiddleware(site.cache(KeyAuthMiddleware(site.app, keys=KEYS)), keys=KEYS), REQUIRED
    ),
    Placement(
        "a cache in between, inside optional",
        lambda site: KeyAuthMiddleware(site.cache(KeyAuthMiddleware(site.app, keys=KEYS, required=False)), keys=KEYS),
        REQUIRED,
    ),
    Placement(
        "a hidden dispatcher in between, the second app",
        lambda site: KeyAuthMiddleware(site.dispatcher(KeyAuthMiddleware(site.app, keys=KEYS, required=False), shown=False), keys=KEYS),
        REQUIRED,
        "/second",
    ),
    Placement(
        "a wrapped app with a list, both required",
        lambda site: Stack(key_layer())(site.starlette(key_layer())),
        REQUIRED,
        other=((GOOD_TICKET, 401),),
    ),
    Placement(
        "a wrapped app with a list, outside required", lambda site: Stack(key_layer())(site.starlette(key_layer(required=False))), REQUIRED
    ),
    Placement(
        "a wrapped app with a list, inside required", lambda site: Stack(key_layer(required=False))(site.starlette(key_layer())), REQUIRED
    ),
    Placement(
        "a wrapped app with a list, nobody required",
        lambda site: Stack(key_layer(required=False))(site.starlette(key_layer(required=False))),
        OPTIONAL,
    ),
    Placement(
        "keys outside, tickets in a mount",
        lambda site: Stack(key_layer())(Starlette(routes=[Mount("/v1", site.app, middleware=[ticket_layer()])])),
        CLOSED,
        other=((GOOD_TICKET, 401),),
    ),
    Placement(
        "keys optional outside, tickets in a mount",
        lambda site: Stack(key_layer(required=False))(Starlette(routes=[Mount("/v1", site.app, middleware=[ticket_layer()])])),
        CLOSED,
        other=((GOOD_TICKET, 200), (BAD_TICKET, 401), ((*GOOD_KEY, *GOOD_TICKET), 400)),
    ),
    Placement(
        "keys outside, tickets optional in a mount",
        lambda site: Stack(key_layer())(Starlette(routes=[Mount("/v1", site.app, middleware=[ticket_layer(required=False)])])),
        CLOSED,  # a key is a credential that nobody in the mount claims
    ),
    Placement("keys outside, a route without a layer", lambda site: Stack(key_layer())(Router([Mount("/v1", site.app)])), REQUIRED),
    Placement(
        "keys outside, keys on a route",
        lambda site: Stack(key_layer())(Router([Mount("/v1", site.app, middleware=[key_layer(required=False)])])),
        REQUIRED,
    ),
]

REFUSED: list[tuple[str, Callable[[Site], Any]]] = [
    ("GZip between two layers", lambda site: Stack(key_layer(), Middleware(GZipMiddleware), ticket_layer())),
    ("a copying layer between two", lambda site: Stack(key_layer(required=False), Middleware(Copying), ticket_layer())),
    ("BaseHTTPMiddleware between two", lambda site: Stack(ticket_layer(), base_layer(), key_layer())),
    ("two foreign layers between two", lambda site: Stack(key_layer(), Middleware(GZipMiddleware), Middleware(Copying), ticket_layer())),
    ("a stack that begins with something foreign", lambda site: Stack(key_layer(), Stack(Middleware(GZipMiddleware), ticket_layer()))),
    ("such a stack around an app", lambda site: Stack(key_layer())(Stack(Middleware(GZipMiddleware), ticket_layer())(site.app))),
    ("a cache between two", lambda site: Stack(key_layer())(site.cache(TicketLayer(site.app), shown=True))),
    (
        "a dispatcher between two",
        lambda site: Stack(key_layer())(site.dispatcher(Stack(ticket_layer())(site.app), shown=True)),
    ),
]


def test_the_table_is_long_enough() -> None:
    assert 35 <= len(PLACEMENTS)
    assert len(PLACEMENTS) == len({placement.name for placement in PLACEMENTS})


@pytest.mark.anyio
@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: placement.name)
async def test_nobody_gets_past_a_layer_wherever_it_stands(placement: Placement) -> None:
    credentials = zip((NO_CREDENTIAL, GOOD_KEY, BAD_KEY, GARBAGE), placement.outcomes, strict=True)
    for headers, status in (*credentials, *placement.other):
        site = Site()
        guarded = placement.build(site)
        response = await request(guarded, f"GET {placement.path}", headers=headers)
        assert (headers, status) == (headers, response.status)
        if status in (400, 401):
            assert not site.reached()
            assert response.header("x-authmw-reason")
        if not placement.sockets:
            continue
        site = Site()
        async with websocket(placement.build(site), placement.path, headers=headers) as socket:
            assert (headers, status == 200) == (headers, socket.accepted)
        assert (status == 200) == site.reached()
        assert {"anonymous" if headers == NO_CREDENTIAL else "ada" if headers == GOOD_TICKET else "key:ci"} >= set(site.app.subjects)


@pytest.mark.parametrize(("name", "build"), REFUSED, ids=[name for name, _ in REFUSED])
def test_a_placement_that_could_not_be_judged_is_refused_at_construction(name: str, build: Callable[[Site], Any]) -> None:
    with pytest.raises(ConfigurationError):
        build(Site())
