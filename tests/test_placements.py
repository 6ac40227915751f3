"""Where a layer may stand, and what then happens to whom: the neighbour rule (design §3), as a table and as a property.

Nowhere is an app, a second app beside it, or a cache in between reached without a credential that every layer in front of it
accepts, or, where none of these requires one, without any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
import pytest
from fastapi import FastAPI
from hypercorn.middleware import ProxyFixMiddleware
from hypothesis import given, settings
from hypothesis import strategies as st
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

from llm_authmw import Assurance, ConfigurationError, Denial, KeyAuthMiddleware, Principal, RequestContext, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS: Final = StaticKeys({"ci": KEY})

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

NO_CREDENTIAL: Headers = ()
GOOD_KEY: Headers = ((b"authorization", b"Bearer " + KEY.encode()),)
BAD_KEY: Headers = ((b"x-api-key", KEY[::-1].encode()),)
GARBAGE: Headers = ((b"authorization", b"Basic \x21\x22\x23"),)
GOOD_TICKET: Headers = ((b"x-test-identity", b"ada"),)
BAD_TICKET: Headers = ((b"x-test-identity", b"FORGED"),)


class TicketLayer(AuthenticationLayer):
    """An authentication layer of another kind: it takes a name in lower case at its word."""

    challenge = "Ticket"

    def __init__(self, app: ASGIApp, *, required: bool = True) -> None:
        super().__init__(app, required=required, headers=frozenset({b"x-test-identity"}))

    async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
        if run.credential is None or run.credential.channel != b"x-test-identity":
            return None
        await anyio.lowlevel.checkpoint()
        user = run.credential.token.decode()
        return Principal(user=user, method="ticket", assurance=Assurance.ASSERTED) if user.islower() else Denial("invalid_token")


def key_layer(*, required: bool = True) -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=KEYS, required=required)


def ticket_layer(*, required: bool = True) -> Middleware:
    return Middleware(TicketLayer, required=required)


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


class PassThrough(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


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
        name: What it is.
        build: Puts it together around a site.
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
TICKETS_TOO = ((GOOD_TICKET, 200), (BAD_TICKET, 401), ((*GOOD_KEY, *GOOD_TICKET), 400), ((*GOOD_TICKET, *GARBAGE), 400))


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
    Placement(
        "Starlette, on a path that does not exist", lambda site: site.starlette(key_layer()), (401, 404, 401, 401), "/no", sockets=False
    ),
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
        other=TICKETS_TOO,
    ),
    # Two kinds of layers side by side: one decides, and who is required decides about the others.
    Placement("two side by side", lambda site: Stack(key_layer(), ticket_layer())(site.app), REQUIRED, other=TICKETS_TOO),
    Placement("the other way round", lambda site: Stack(ticket_layer(), key_layer())(site.app), REQUIRED, other=TICKETS_TOO),
    Placement(
        "the inner one optional", lambda site: Stack(key_layer(), ticket_layer(required=False))(site.app), REQUIRED, other=TICKETS_TOO
    ),
    Placement(
        "the outer one optional", lambda site: Stack(key_layer(required=False), ticket_layer())(site.app), REQUIRED, other=TICKETS_TOO
    ),
    Placement(
        "both optional", lambda site: Stack(key_layer(required=False), ticket_layer(required=False))(site.app), OPTIONAL, other=TICKETS_TOO
    ),
    Placement("listed side by side", lambda site: site.starlette(key_layer(), ticket_layer(required=False)), REQUIRED, other=TICKETS_TOO),
    Placement(
        "added one by one",
        lambda site: added(added(site.starlette(), TicketLayer), KeyAuthMiddleware, keys=KEYS),
        REQUIRED,
        other=TICKETS_TOO,
    ),
    Placement(
        "a stack beside a layer", lambda site: KeyAuthMiddleware(Stack(ticket_layer())(site.app), keys=KEYS), REQUIRED, other=TICKETS_TOO
    ),
    Placement(
        "a stack around a stack",
        lambda site: Stack(key_layer(required=False))(Stack(ticket_layer())(site.app)),
        REQUIRED,
        other=TICKETS_TOO,
    ),
    Placement(
        "two stacks listed",
        lambda site: site.fastapi(Middleware(Stack(key_layer())), Middleware(Stack(ticket_layer(required=False)))),
        REQUIRED,
        other=TICKETS_TOO,
    ),
    Placement(
        "a stack of two stacks",
        lambda site: Stack(Stack(key_layer(required=False)), Stack(Stack(ticket_layer())))(site.app),
        REQUIRED,
        other=TICKETS_TOO,
    ),
    # Foreign layers outside.
    Placement("GZip outside", lambda site: Stack(Middleware(GZipMiddleware), key_layer())(site.app), REQUIRED),
    Placement("CORS outside", lambda site: Stack(Middleware(CORSMiddleware, allow_origins=["*"]), key_layer())(site.app), REQUIRED),
    Placement("BaseHTTPMiddleware outside", lambda site: site.starlette(Middleware(PassThrough), key_layer()), REQUIRED),
    Placement(
        "a copying layer outside",
        lambda site: Stack(Middleware(Copying), key_layer(), ticket_layer())(site.app),
        REQUIRED,
        other=TICKETS_TOO,
    ),
    Placement(
        "ProxyFix outside", lambda site: ProxyFixMiddleware(Stack(key_layer(), ticket_layer())(site.app)), REQUIRED, other=TICKETS_TOO
    ),
    Placement(
        "a cache outside a stack, in a mount",
        lambda site: Starlette(routes=[Mount("/v1", Stack(key_layer())(site.cache(site.app)))]),
        REQUIRED,
    ),
    # Foreign layers inside.
    Placement("GZip inside", lambda site: Stack(key_layer(), Middleware(GZipMiddleware))(site.app), REQUIRED),
    Placement("BaseHTTPMiddleware inside", lambda site: site.starlette(key_layer(), Middleware(PassThrough)), REQUIRED),
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
    ("BaseHTTPMiddleware between two", lambda site: Stack(ticket_layer(), Middleware(PassThrough), key_layer())),
    ("two foreign layers between two", lambda site: Stack(key_layer(), Middleware(GZipMiddleware), Middleware(Copying), ticket_layer())),
    ("a stack that begins with something foreign", lambda site: Stack(key_layer(), Stack(Middleware(GZipMiddleware), ticket_layer()))),
    ("such a stack around an app", lambda site: Stack(key_layer())(Stack(Middleware(GZipMiddleware), ticket_layer())(site.app))),
    ("a cache between two, which shows its app", lambda site: Stack(key_layer())(site.cache(TicketLayer(site.app), shown=True))),
    (
        "a dispatcher between two, which shows its app",
        lambda site: Stack(key_layer())(site.dispatcher(Stack(ticket_layer())(site.app), shown=True)),
    ),
    ("CORS inside", lambda site: Stack(key_layer(), Middleware(CORSMiddleware))),
    ("the same layer twice", lambda site: Stack(key_layer(), key_layer())),
    ("the same layer twice, with another between", lambda site: Stack(key_layer(), ticket_layer(), key_layer())),
    ("the same layer twice, in two stacks", lambda site: Stack(key_layer())(Stack(key_layer(required=False))(site.app))),
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


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [NO_CREDENTIAL, GOOD_KEY, GOOD_TICKET])
async def test_a_list_that_is_refused_only_when_it_is_built_lets_nobody_in(headers: Headers) -> None:
    site = Site()
    app = site.starlette(key_layer(required=False), Middleware(GZipMiddleware), ticket_layer(required=False))
    with pytest.raises(ConfigurationError, match="something foreign stands between it and TicketLayer"):
        await request(app, "GET /v1/x", headers=headers)
    assert not site.reached()


Layer: TypeAlias = tuple[str, bool]
"""The kind of a layer, and whether it requires a caller."""

CREDENTIALS: Final[dict[str, Headers]] = {
    "none": NO_CREDENTIAL,
    "key": GOOD_KEY,
    "bad key": BAD_KEY,
    "ticket": GOOD_TICKET,
    "bad ticket": BAD_TICKET,
    "garbage": GARBAGE,
    "key and ticket": (*GOOD_KEY, *GOOD_TICKET),
}

# None is a whole Starlette app: ProxyFix copies `scope["app"]`, and recurses for ever in its state.
SEPARATORS: Final[dict[str, Callable[[ASGIApp], ASGIApp]]] = {
    "mount": lambda app: Router([Mount("/", app)]),
    "opaque": Opaque,
    "copying mount": lambda app: Opaque(Copying(Router([Mount("/", app)]))),
    "proxy fix": lambda app: Opaque(ProxyFixMiddleware(app)),
}

layers = st.sampled_from(["key", "ticket"])
runs = st.lists(layers, min_size=1, max_size=2, unique=True).flatmap(
    lambda kinds: st.tuples(*(st.tuples(st.just(kind), st.booleans()) for kind in kinds))
)


def model(all_runs: Sequence[Sequence[Layer]], credential: str) -> str | None:
    """Say who reaches the app, or None: each run of layers decides on its own, and the innermost one says who it is."""
    subject = "anonymous"
    for run in all_runs:
        kinds = {kind for kind, _ in run}
        presented = {"key and ticket": {"key", "ticket"}}.get(credential, {credential} - {"none"})
        # A header that none of the run's layers looks for is not there.
        seen = {one for one in presented if "ticket" not in one or "ticket" in kinds}
        if len(seen) > 1 or not seen <= kinds:
            return None
        if not seen and any(required for _, required in run):
            return None
        subject = {"key": "key:ci", "ticket": "ada"}[seen.pop()] if seen else "anonymous"
    return subject


@settings(max_examples=120, deadline=None)
@given(
    all_runs=st.lists(runs, min_size=1, max_size=3),
    separators=st.lists(st.sampled_from(sorted(SEPARATORS)), min_size=3, max_size=3),
    stacked=st.booleans(),
    credential=st.sampled_from(sorted(CREDENTIALS)),
)
def test_any_composition_lets_in_whom_every_run_of_layers_lets_in(
    all_runs: list[tuple[Layer, ...]], separators: list[str], stacked: bool, credential: str
) -> None:
    witness = Witness()
    app: ASGIApp = witness
    for number, (run, separator) in enumerate(zip(reversed(all_runs), separators, strict=False)):
        if number:
            app = SEPARATORS[separator](app)
        entries = [key_layer(required=required) if kind == "key" else ticket_layer(required=required) for kind, required in run]
        if stacked:
            app = Stack(*entries)(app)
        else:
            for entry in reversed(entries):
                app = entry.cls(app, *entry.args, **entry.kwargs)

    async def ask() -> None:
        response = await request(app, "GET /v1/x", headers=CREDENTIALS[credential])
        async with websocket(app, "/v1/x", headers=CREDENTIALS[credential]) as socket:
            assert (response.status == 200) == socket.accepted
        assert response.status in (200, 400, 401)

    anyio.run(ask)
    expected = model(all_runs, credential)
    assert ([] if expected is None else [expected] * 2) == witness.subjects
