"""A key that is bound to routes, and paths and methods that the rule, the server and the app read differently."""

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from llm_authmw import KeyAuthMiddleware, StaticKey, StaticKeys
from llm_authmw.patterns import RoutePattern, canonical_route
from llm_authmw.testing import request, websocket
from llm_authmw.testing.asgi import http_scope
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
HEADERS = [(b"x-api-key", KEY.encode())]


class Site:
    """An app with a route for the key, and others that it must not reach."""

    def __init__(self, *routes: str) -> None:
        self.own, self.admin = Witness(), Witness()
        app = Starlette(
            routes=[
                Route("/v1/models", self.own, methods=["GET"]),
                Route("/v1/files/{name}", self.own),
                WebSocketRoute("/v1/realtime", self.own),
                Mount("/v1/mounted", self.own),
                Route("/admin", self.admin),
                Mount("/admin", self.admin),
                Route("/v1/{rest:path}", self.admin),
                WebSocketRoute("/{rest:path}", self.admin),
            ]
        )
        keys = StaticKeys({"ci": StaticKey(KEY, routes=list(routes))})
        self.guarded: Any = KeyAuthMiddleware(app, keys=keys)


TRICKS = [
    b"/v1/models/../../admin",
    b"/v1/models/..%2f..%2fadmin",
    b"/v1/models/%2e%2e/%2e%2e/admin",
    b"/v1/models/.%2e/admin",
    b"/v1/models/..;/admin",
    b"/v1/models;/../admin",
    b"/v1/models/..;a=b/admin",
    b"/v1/models\\..\\admin",
    b"/v1/models/%5c../admin",
    b"//admin",
    b"/admin//",
    b"/./admin",
    b"/admin/.",
    b"/v1/./models",
    b"/v1/models%00/admin",
    b"/v1/models%0a/admin",
    b"/v1/models%0d%0aX:1",
    b"/v1/models%23/admin",
    b"/v1/models%3f/admin",
    b"/v1%2fmodels",
    b"/v1%2Fmodels",
    b"/v1/%6dodels%252f",
    b"/v1/models%ff",
    b"/v1/models%c0%af",
    b"admin",
    b"v1/models",
    b"*",
    b"http://localhost/v1/models",
    b"//localhost/v1/models",
]


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("routes", [["GET /v1/models"], ["/v1/models/**"], ["/v1/**"]])
async def test_a_path_that_could_be_read_in_two_ways_reaches_nothing(path: bytes, routes: list[str]) -> None:
    """CVE-2019-9901, CVE-2021-32779, CVE-2026-73551, CVE-2026-54282, CVE-2026-3872, GHSA-p224-6x5r-fjpm and their kin."""
    site = Site(*routes)
    response = await request(site.guarded, b"GET " + path, headers=HEADERS)
    assert (400, "ambiguous_path") == (response.status, response.header("x-authmw-reason"))
    async with websocket(site.guarded, path, headers=HEADERS) as socket:
        assert (400, "ambiguous_path") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert ([], []) == (site.own.scopes, site.admin.scopes)


async def test_the_host_header_is_no_part_of_the_path() -> None:
    """CVE-2026-48710 of Starlette, CVE-2026-49468 of LiteLLM: rules on a URL that is rebuilt from the Host header."""
    site = Site("GET /v1/models")
    for host in (b"x.example/v1/models?", b"x.example/v1/models#", b"x.example:80/v1/models?x=", b"/v1/models", b"v1/models?"):
        response = await request(site.guarded, "GET /admin", headers=[*HEADERS, (b"host", host)])
        assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == site.admin.scopes


@pytest.mark.parametrize("query", ["/v1/models", "x=/v1/models", "../v1/models", "%2e%2e/v1/models", "", "path=/v1/models#"])
async def test_the_query_is_no_part_of_the_path(query: str) -> None:
    """CVE-2026-41059, GHSA-7rh7-c77v-6434, GHSA-pxq7-h93f-9jrg of oauth2-proxy."""
    site = Site("GET /v1/models")
    response = await request(site.guarded, f"GET /admin?{query}", headers=HEADERS)
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert 200 == (await request(site.guarded, f"GET /v1/models?{query}", headers=HEADERS)).status
    assert [] == site.admin.scopes


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "PROPFIND", "GET2", "G", "WS"])
async def test_another_method_is_another_route(method: str) -> None:
    """CVE-2025-46821 of Envoy: odd and lower-case methods."""
    site = Site("GET /v1/models")
    response = await request(site.guarded, f"{method} /v1/models", headers=HEADERS)
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert ([], []) == (site.own.scopes, site.admin.scopes)


async def test_a_route_of_get_is_one_of_head_and_not_the_other_way_round() -> None:
    site = Site("GET /v1/models")
    assert 200 == (await request(site.guarded, "HEAD /v1/models", headers=HEADERS)).status
    site = Site("HEAD /v1/models")
    assert 403 == (await request(site.guarded, "GET /v1/models", headers=HEADERS)).status


async def test_a_websocket_is_no_get() -> None:
    """Bifrost 2873: a WebSocket outside the guard."""
    site = Site("GET /v1/realtime", "GET /v1/models")
    async with websocket(site.guarded, "/v1/realtime", headers=HEADERS) as socket:
        assert (403, "route_not_allowed") == (socket.response.status, socket.response.header("x-authmw-reason"))
    site = Site("WS /v1/files/a")
    for method in ("GET", "WS", "ws", "Ws"):
        assert 403 == (await request(site.guarded, f"{method} /v1/files/a", headers=HEADERS)).status
    assert ([], []) == (site.own.scopes, site.admin.scopes)


@pytest.mark.parametrize(
    "path", ["/v1/modelsx", "/v1/models/x", "/v1/models/", "/V1/MODELS", "/v1/model", "/x/v1/models", "/v1", "/v1/models.json"]
)
async def test_a_route_is_matched_whole(path: str) -> None:
    site = Site("GET /v1/models")
    response = await request(site.guarded, f"GET {path}", headers=HEADERS)
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert ([], []) == (site.own.scopes, site.admin.scopes)


async def test_a_new_route_is_not_the_keys_own_until_somebody_says_so() -> None:
    """vLLM 58144, 42591, 18892: `/invocations`, `/v2/embed`, `/responses` beside a guard for `/v1`."""
    site = Site("/v1/models", "WS /v1/realtime")
    for path in ("/invocations", "/v2/embed", "/responses", "/rerank", "/tokenize", "/metrics", "/docs", "/v1/other"):
        assert 403 == (await request(site.guarded, f"POST {path}", headers=HEADERS)).status
    assert ([], []) == (site.own.scopes, site.admin.scopes)


SEGMENTS = st.sampled_from(["v1", "models", "files", "mounted", "admin", "a", "b.c", "x y", "é", "~", "@", "a:b", ""])


@settings(max_examples=150)
@given(segments=st.lists(SEGMENTS, min_size=1, max_size=4), method=st.sampled_from(["GET", "POST", "HEAD"]))
def test_what_a_route_allows_is_what_the_router_routes_there(segments: list[str], method: str) -> None:
    """A rule and a router must not disagree about a path: what the rule allows as `/v1/files/*` goes to that route."""
    path = "/" + "/".join(segments)
    route = canonical_route(http_scope(f"{method} {quote(path)}"))
    files = Route("/v1/files/{name}", Witness())
    routed = files.path_regex.match(path) is not None
    if route is None:
        assert "" in segments[:-1]  # `//` in the middle, which the router would take for a path of its own
    else:
        assert routed == RoutePattern.parse("/v1/files/*").matches(*route)
