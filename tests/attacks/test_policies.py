"""Coming to an app by another policy than the one that covers the route: paths, methods and headers that are read in two ways."""

from functools import cache
from itertools import permutations, product
from typing import Any, Final

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from litestar import Litestar, route
from litestar import websocket as litestar_websocket
from litestar.connection import Request as LitestarRequest
from litestar.connection import WebSocket as LitestarWebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Policy, PolicyRouter, Stack, StaticKeys
from llm_authmw.identity import ReadsIdentity
from llm_authmw.patterns import RoutePattern, canonical_route
from llm_authmw.testing import request, websocket
from llm_authmw.testing.asgi import http_scope
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD_KEY = (b"x-api-key", KEY.encode())
BY_KEY: Final = Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))
BY_TICKET: Final = Stack(Middleware(TicketLayer))


class Marked(ReadsIdentity):
    """A layer that lets everybody through and says so in the scope."""

    def __init__(self, app: Any, *, mark: str) -> None:
        self.app, self._mark = app, mark

    def check_identity(self, sources: Any, *, whole: bool) -> None: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, "mark": self._mark}, receive, send)


REQUESTS: Final = [
    (method, "/" + "/".join(segments) + end)
    for method in ("GET", "HEAD", "POST", "WS", "PURGE")
    for length in range(5)
    for segments in product("abc", repeat=length)
    for end in (["", "/"] if segments else [""])
]
"""Requests in which whatever two of the generated routes have to do with each other shows."""

ROUTES: Final = [
    method + path
    for method in ("", "GET ", "POST ", "GET,POST ", "WS ")
    for path in (
        "/",
        "/**",
        "/a",
        "/a/",
        "/*",
        "/a/b",
        "/a/*",
        "/*/b",
        "/a/**",
        "/a/b/**",
        "/*/b/**",
        "/a/*/c",
        "/*/*",
        "/b/**",
        "/b/*/",
        "/b/*",
    )
]
COVERED: Final = {text: frozenset(one for one in REQUESTS if RoutePattern.parse(text).matches(*one)) for text in ROUTES}


def may_stand_together(some: list[str]) -> bool:
    """Say, request after request, whether of any two routes that overlap one is within the other."""
    pairs = [(COVERED[one], COVERED[other]) for place, one in enumerate(some) for other in some[:place]]
    return all(not one & other or one < other or other < one for one, other in pairs)


def who_decides(some: list[str], asked: tuple[str, str]) -> str | None:
    """Return the route whose every request the other ones that cover this request have too, the slow way."""
    covering = [text for text in some if asked in COVERED[text]]
    return next((text for text in covering if all(COVERED[text] <= COVERED[other] for other in covering)), None)


def other_ending(asked: tuple[str, str]) -> tuple[str, str]:
    method, path = asked
    return method, path if path == "/" else path[:-1] if path.endswith("/") else f"{path}/"


def with_other_endings(text: str) -> frozenset[tuple[str, str]]:
    return COVERED[text] | {other_ending(asked) for asked in COVERED[text]}


def expected(some: list[str], asked: tuple[str, str]) -> str | None:
    """Return who decides, or None where nobody does, or where a slash at the end would get around somebody else."""
    decides = who_decides(some, asked)
    rival = who_decides(some, other_ending(asked))
    if decides is None or rival in (None, decides) or "*" not in decides:
        return decides
    return decides if with_other_endings(decides) < with_other_endings(str(rival)) else None


def name_of(router: PolicyRouter, asked: tuple[str, str]) -> str | None:
    found = router.find(*asked)
    return None if found is None else found.name


def router_of(some: list[str], app: Any) -> PolicyRouter:
    return PolicyRouter(app, policies=[Policy(text, Stack(Middleware(Marked, mark=text))) for text in some], inventory="off")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ROUTES), min_size=1, max_size=5, unique=True), st.data())
@example(["/**", "/a"], None)
@example(["/a/**", "/a/*", "/a/b"], None)
def test_the_choice_is_that_of_the_slow_way_whatever_the_order(some: list[str], data: st.DataObject | None) -> None:
    settled: list[str] = []
    for text in some:
        if may_stand_together([*settled, text]):
            settled.append(text)
        else:
            with pytest.raises(ConfigurationError):
                router_of([*settled, text], Witness())
    try:
        router = router_of(settled, Witness())
    except ConfigurationError:
        # One of them is covered by the others.
        assert any(all(expected(settled, asked) != text for asked in COVERED[text]) for text in settled)
        return
    for asked in REQUESTS:
        assert expected(settled, asked) == name_of(router, asked), asked
    order = list(permutations(settled))
    shuffled = order[-1] if data is None else data.draw(st.sampled_from(order))
    again = router_of(list(shuffled), Witness())
    assert [name_of(router, asked) for asked in REQUESTS] == [name_of(again, asked) for asked in REQUESTS]


TEXTS = st.text(alphabet="abcAB/.%\\;?#*~ \u00fc", max_size=12).map(lambda text: "/" + text)
NAMES = st.sampled_from([b"x-http-method-override", b"X_Original_URL", b"x-rewrite-url", b"host", b"x-forwarded-prefix", b"x-mark"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(ROUTES), min_size=1, max_size=4, unique=True),
    st.sampled_from(["GET", "HEAD", "POST", "post", "WS", "PURGE", "OPTIONS"]),
    TEXTS | st.sampled_from([path for _, path in REQUESTS]),
    st.lists(st.tuples(NAMES, st.sampled_from([b"POST", b"/a/b", b"/b", b"GET"])), max_size=2),
    st.sampled_from(["", "/a", "/b"]),
)
@example(["/**", "/a"], "GET", "/a/", [], "")
def test_no_request_comes_to_the_app_by_another_policy(
    some: list[str], method: str, path: str, lines: list[tuple[bytes, bytes]], root_path: str
) -> None:
    assume(may_stand_together(some))
    app = Witness()
    try:
        router = router_of(some, app)
    except ConfigurationError:
        return
    come_by(router, app, some, f"{method} {path}".encode(), lines, root_path)


def come_by(router: PolicyRouter, app: Witness, some: list[str], target: bytes, lines: list[tuple[bytes, bytes]], root_path: str) -> None:
    async def ask() -> int:
        return (await request(router, target, headers=lines, scope={"root_path": root_path})).status

    status = anyio.run(ask)
    asked = canonical_route(http_scope(target, changes={"root_path": root_path}))
    if not app.scopes:
        assert status in (400, 403)
        assert asked is None or router.find(*asked) is None
        return
    assert asked is not None
    covering = [text for text in some if RoutePattern.parse(text).matches(*asked)]
    mark = app.scopes[-1]["mark"]
    assert mark in covering
    assert all(RoutePattern.parse(mark).meet(RoutePattern.parse(other)) == RoutePattern.parse(mark) for other in covering)
    assert not {b"x-http-method-override", b"X_Original_URL", b"x-rewrite-url"} & {name for name, _ in app.scopes[-1]["headers"]}


class Sites:
    """Apps of three frameworks, each with routes for everybody who has a key, and routes for staff."""

    def __init__(self) -> None:
        self.open, self.staff = Witness(), Witness()
        staff_routes = ["/admin", "/admin/{rest:path}", "/v1/files/{name}/secret", "/v1/audit/"]
        methods = ["GET", "POST", "DELETE"]
        routes = [
            *(Route(path, self.staff, methods=methods) for path in staff_routes),
            Mount("/ops", self.staff),
            WebSocketRoute("/admin", self.staff),
            Route("/v1/{rest:path}", self.open, methods=methods),
        ]
        self.starlette = Starlette(routes=routes)
        self.fastapi = FastAPI(openapi_url=None)
        self.fastapi.router.routes.extend(routes)

        async def seen_by_staff(request: LitestarRequest[Any, Any, Any]) -> None:
            self.staff.scopes.append(request.scope)

        async def seen(request: LitestarRequest[Any, Any, Any]) -> None:
            self.open.scopes.append(request.scope)

        async def socket(socket: LitestarWebSocket[Any, Any, Any]) -> None:
            self.staff.scopes.append(socket.scope)
            await socket.accept()

        paths = ["/admin", "/admin/{rest:path}", "/v1/files/{name:str}/secret", "/v1/audit/", "/ops", "/ops/{rest:path}"]
        verbs: Any = methods
        self.litestar = Litestar(
            [
                route(paths, http_method=verbs, status_code=200)(seen_by_staff),
                route("/v1/{rest:path}", http_method=verbs, status_code=200)(seen),
                litestar_websocket("/admin-socket")(socket),
            ],
            openapi_config=None,
        )
        given = [
            Policy("/**", BY_KEY),
            Policy(["/admin", "/admin/**", "/admin-socket"], BY_TICKET, name="admin"),
            Policy("/v1/files/*/secret", BY_TICKET),
            Policy("/v1/audit/", BY_TICKET),
            Policy("/ops/**", BY_TICKET),
            Policy("GET /v1/public", public=True),
        ]
        # Off, since what the inventory would object to is what is tried here: routes that are wider than the policies.
        self.guarded = [PolicyRouter(app, policies=given, inventory="off") for app in (self.starlette, self.fastapi, self.litestar)]


@cache
def built_sites() -> Sites:
    return Sites()


def fresh_sites() -> Sites:
    """Return the sites, which nobody has come to yet. They are built once, since Litestar takes long."""
    sites = built_sites()
    sites.open.scopes.clear()
    sites.staff.scopes.clear()
    return sites


TRICKS: Final = [
    *("/admin", "/admin/", "/admin/x", "/admin/x/", "/ADMIN", "/Admin/", "/admin ", "/admin%20", "/%61dmin", "/admin%2f", "/admin%2Fx"),
    *("//admin", "/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/admin;x", "/admin?x", "/./admin", "/admin/.", "/admin%00"),
    *(
        "/v1/files/a/secret",
        "/v1/files/a/secret/",
        "/v1/files//secret",
        "/v1/files/a%2fb/secret",
        "/v1/files/a/b/secret",
        "/v1/FILES/a/secret",
    ),
    *("/v1/audit", "/v1/audit/", "/v1/audit//", "/ops", "/ops/", "/ops/x", "/v1/public/", "/v1/public/../audit/", "/v1/public;/admin"),
    *("/\u24d0dmin", "/adm\u0131n", "/admin\u200b", "/admin\ufeff", "http://x/admin", "admin", "/v1/public#/admin", "/v1\\..\\admin"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("path", TRICKS)
async def test_a_key_does_not_come_to_what_is_for_staff_in_any_framework(path: str) -> None:
    """CVE-2019-9901, CVE-2021-32779 and their kin; slashes, case and escapes in which rule and router differ."""
    sites = fresh_sites()
    for router in sites.guarded:
        for method in ("GET", "POST", "HEAD", "post", "DELETE"):
            await request(router, f"{method} {path}".encode(), headers=[GOOD_KEY], reraise=False)
        async with websocket(router, path.encode(), headers=[GOOD_KEY]) as socket:
            assert not socket.accepted or sites.open.scopes
    assert [] == sites.staff.scopes


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["admin", "v1", "files", "secret", "audit", "ops", "public", "", ".", "..", "a", "%2f", "%2e", "Admin", ";"]),
        max_size=5,
    ),
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS"]),
    st.booleans(),
)
def test_no_generated_path_does_either(segments: list[str], method: str, slash: bool) -> None:
    sites = fresh_sites()
    target = f"{method} /{'/'.join(segments)}{'/' if slash else ''}".encode()

    async def ask() -> None:
        for router in sites.guarded:
            await request(router, target, headers=[GOOD_KEY, (b"x-original-url", b"/admin")], reraise=False)

    anyio.run(ask)
    assert [] == sites.staff.scopes


@pytest.mark.anyio
async def test_what_is_for_staff_is_there_for_staff() -> None:
    """Else the tests above would pass on apps that have no such routes."""
    ticket = [(b"x-ticket", b"good-ada")]
    sites = fresh_sites()
    for router in sites.guarded:
        for path in ("/admin", "/admin/x", "/v1/files/a/secret", "/v1/audit/"):
            sites.staff.scopes.clear()
            assert 200 == (await request(router, f"GET {path}", headers=ticket)).status
            assert 1 == len(sites.staff.scopes)
        sites.open.scopes.clear()
        assert 200 == (await request(router, "POST /v1/chat/completions", headers=[GOOD_KEY])).status
        assert 1 == len(sites.open.scopes)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["x-original-url", "X-Rewrite-URL", "x_http_method_override", "x-forwarded-prefix", "host"])
async def test_no_header_makes_a_public_route_another_one(name: str) -> None:
    """CVE-2026-48710 and its kin: a policy on a URL that the client writes into a header."""
    sites = fresh_sites()
    for router in sites.guarded:
        for value in (b"/admin", b"x/admin", b"DELETE", b"x?/admin"):
            await request(router, "GET /v1/public", headers=[(name.encode(), value)], reraise=False)
            answer = await request(router, "GET /admin", headers=[(name.encode(), b"/v1/public")])
            assert 401 == answer.status
    assert [] == sites.staff.scopes
    assert {"anonymous"} == set(sites.open.subjects)
