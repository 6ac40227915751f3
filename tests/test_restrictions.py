from collections.abc import Sequence
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, StaticKey, StaticKeys, TrustedProxies
from llm_authmw.testing import ManualClock, request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
HEADER = (b"x-api-key", KEY.encode())
PROXY = ("10.0.0.1", 40_000)

Headers = Sequence[tuple[bytes, bytes]]


def guarded(app: Witness, *, trusted_proxies: TrustedProxies | None = None, **fields: Any) -> KeyAuthMiddleware:
    return KeyAuthMiddleware(app, keys=StaticKeys({"ci": StaticKey(KEY, **fields)}), trusted_proxies=trusted_proxies)


@pytest.mark.parametrize("client", [("192.0.2.2", 1), ("10.1.0.1", 1), ("::1", 1), ("2001:db8::1", 1), None, ("", 0), ("testclient", 1)])
async def test_a_key_is_refused_from_outside_its_networks_and_where_the_address_is_not_known(client: Any) -> None:
    app = Witness()
    layer = guarded(app, networks=["192.0.2.1", "10.0.0.0/16", "2001:db8:1::/48"])
    response = await request(layer, "GET /v1/models", headers=[HEADER], scope={"client": client})
    assert (403, "network_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert response.header("www-authenticate") is None
    assert [] == app.scopes


@pytest.mark.parametrize(
    "client", [("192.0.2.1", 1), ("10.0.255.255", 1), ("2001:db8:1::5", 1), ("::ffff:10.0.0.7", 1), ["10.0.0.1", "4711"]]
)
async def test_a_key_works_from_its_networks(client: Any) -> None:
    app = Witness()
    layer = guarded(app, networks=["192.0.2.1", "10.0.0.0/16", "2001:db8:1::/48"])
    assert 200 == (await request(layer, "GET /v1/models", headers=[HEADER], scope={"client": client})).status
    assert ["key:ci"] == app.subjects


async def test_a_key_with_an_empty_list_of_networks_works_from_nowhere() -> None:
    app = Witness()
    response = await request(guarded(app, networks=[]), "GET /v1/models", headers=[HEADER])
    assert (403, "network_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


FORWARDED: list[tuple[Any, Headers, int]] = [
    # The peer is no proxy of ours: what it says about somebody else is not read.
    (("203.0.113.9", 1), [(b"x-forwarded-for", b"192.0.2.1")], 403),
    (("203.0.113.9", 1), [], 403),
    # The proxy says who it was, and whatever stands to the left of the right-most stranger is that stranger's invention.
    (PROXY, [(b"x-forwarded-for", b"192.0.2.1")], 200),
    (PROXY, [(b"X-Forwarded-For", b"192.0.2.1")], 200),
    (PROXY, [(b"x-forwarded-for", b"203.0.113.9, 192.0.2.1, 10.0.0.3")], 200),
    (PROXY, [(b"x-forwarded-for", b"192.0.2.1, 203.0.113.9")], 403),
    (PROXY, [(b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-for", b"203.0.113.9")], 403),
    (PROXY, [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-for", b"192.0.2.1")], 200),
    # Nothing that can be read: the address is not known, and the proxy's own is not taken in its place.
    (PROXY, [], 403),
    (PROXY, [(b"x-forwarded-for", b"")], 403),
    (PROXY, [(b"x-forwarded-for", b"unknown")], 403),
    (PROXY, [(b"x-forwarded-for", b"192.0.2.1, \xff")], 403),
    (PROXY, [(b"x-forwarded-for", b"fe80::1%eth0")], 403),
    (PROXY, [(b"forwarded", b"for=192.0.2.1")], 403),
    (PROXY, [(b"x-real-ip", b"192.0.2.1"), (b"true-client-ip", b"192.0.2.1")], 403),
]


@pytest.mark.parametrize(("client", "headers", "status"), FORWARDED)
@pytest.mark.parametrize("place", ["layer", "stack", "outer stack"])
async def test_behind_a_trusted_proxy_the_client_is_who_the_proxy_says(client: Any, headers: Headers, status: int, place: str) -> None:
    app = Witness()
    proxies = TrustedProxies(["10.0.0.0/24"])
    keys = StaticKeys({"ci": StaticKey(KEY, networks=["192.0.2.0/24"])})
    inner = Middleware(KeyAuthMiddleware, keys=keys, trusted_proxies=proxies if place == "layer" else None)
    stack = Stack(inner, trusted_proxies=proxies if place == "stack" else None)
    guarded = (Stack(stack, trusted_proxies=proxies) if place == "outer stack" else stack)(app)
    response = await request(guarded, "GET /v1/models", headers=[HEADER, *headers], scope={"client": client})
    assert status == response.status
    async with websocket(guarded, "/v1/realtime", headers=[HEADER, *headers], scope={"client": client}) as socket:
        assert (200 == status) == socket.accepted
    assert (["key:ci"] * 2 if status == 200 else []) == app.subjects


async def test_without_a_trusted_proxy_no_header_says_who_the_client_is() -> None:
    app = Witness()
    layer = guarded(app, networks=["192.0.2.1"])
    headers = [HEADER, (b"x-forwarded-for", b"192.0.2.1"), (b"forwarded", b"for=192.0.2.1"), (b"x-real-ip", b"192.0.2.1")]
    response = await request(layer, "GET /v1/models", headers=headers, scope={"client": PROXY})
    assert (403, "network_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_an_inner_layer_with_trusted_proxies_does_not_take_the_address_that_an_outer_one_made_out_without() -> None:
    app = Witness()
    keys = StaticKeys({"ci": StaticKey(KEY, networks=["10.0.0.0/24"])})
    inner = Stack(Middleware(KeyAuthMiddleware, keys=keys), trusted_proxies=TrustedProxies(["10.0.0.0/24"]))(app)

    async def foreign(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    outer = KeyAuthMiddleware(foreign, keys=keys)
    headers = [HEADER, (b"x-forwarded-for", b"203.0.113.9")]
    response = await request(outer, "GET /v1/models", headers=headers, scope={"client": PROXY})
    assert (403, "network_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


ROUTES = ["GET /v1/models", "POST /v1/chat/completions", "/v1/files/*", "WS /v1/realtime", "/batch/**"]

ELSEWHERE = [
    "POST /v1/models",
    "DELETE /v1/models",
    "OPTIONS /v1/models",
    "HEAD /v1/chat/completions",
    "GET /v1/models/",
    "GET /V1/models",
    "GET /v1/realtime",
    "GET /v1/files",
    "GET /v1/files/a/b",
    "GET /v1/files/",
    "GET /batches",
    "GET /",
    "GET /health",
]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_a_key_is_refused_on_a_route_that_is_not_its_own(target: str) -> None:
    app = Witness()
    response = await request(guarded(app, routes=ROUTES), target, headers=[HEADER])
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/realtime/x"])
async def test_a_websocket_is_refused_on_a_route_that_is_not_its_own(path: str) -> None:
    app = Witness()
    async with websocket(guarded(app, routes=ROUTES), path, headers=[HEADER]) as socket:
        assert (403, "route_not_allowed") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize(
    "target",
    ["GET /v1/models", "HEAD /v1/models", "get /v1/models", "POST /v1/chat/completions", "PUT /v1/files/a", "GET /batch", "GET /batch/a/b"],
)
async def test_a_key_works_on_its_own_routes(target: str) -> None:
    app = Witness()
    assert 200 == (await request(guarded(app, routes=ROUTES), target + "?x=1", headers=[HEADER])).status
    assert ["key:ci"] == app.subjects


@pytest.mark.parametrize("path", ["/v1/realtime", "/batch/socket", "/v1/files/a"])
async def test_a_socket_works_on_its_own_routes(path: str) -> None:
    app = Witness()
    async with websocket(guarded(app, routes=ROUTES), path, headers=[HEADER]) as socket:
        assert socket.accepted
    assert ["key:ci"] == app.subjects


async def test_a_key_with_an_empty_list_of_routes_works_nowhere() -> None:
    app = Witness()
    response = await request(guarded(app, routes=[]), "GET /v1/models", headers=[HEADER])
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


AMBIGUOUS = [
    b"//v1/models",
    b"/v1//models",
    b"/v1/./models",
    b"/v1/../v1/models",
    b"/batch/../admin",
    b"/batch/%2e%2e/admin",
    b"/batch/..%2fadmin",
    b"/batch%2fadmin",
    b"/batch/%5cadmin",
    b"/batch\\admin",
    b"/batch/%00",
    b"/batch/%0aadmin",
    b"/batch/a;b=c",
    b"/batch/..;/admin",
    b"/batch/%23a",
    b"/batch/%3fa",
    b"/batch/%252e%252e/admin",
    b"/batch/%ff",
    b"http://other.example/batch/a",
    b"batch/a",
    b"*",
]


@pytest.mark.parametrize("path", AMBIGUOUS)
async def test_a_path_that_can_be_read_in_two_ways_is_400_for_a_key_with_routes(path: bytes) -> None:
    app = Witness()
    layer = guarded(app, routes=["/batch/**", "GET /v1/models"])
    response = await request(layer, b"GET " + path, headers=[HEADER])
    assert (400, "ambiguous_path") == (response.status, response.header("x-authmw-reason"))
    async with websocket(layer, path, headers=[HEADER]) as socket:
        assert (400, "ambiguous_path") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_path_that_can_be_read_in_two_ways_is_the_apps_affair_for_a_key_without_routes() -> None:
    app = Witness()
    assert 200 == (await request(guarded(app), "GET /v1/../x//y", headers=[HEADER])).status


@pytest.mark.parametrize(
    ("root", "path", "status"), [("/api", "/api/v1/models", 200), ("/api", "/v1/models", 200), ("/ap", "/api/v1/models", 403)]
)
async def test_a_route_is_judged_below_the_root_path(root: str, path: str, status: int) -> None:
    app = Witness()
    layer = guarded(app, routes=["GET /v1/models"])
    response = await request(layer, f"GET {path}", headers=[HEADER], scope={"root_path": root})
    assert status == response.status


@pytest.mark.parametrize(("now", "status"), [(999.0, 401), (1_000.0, 200), (1_999.0, 200), (2_000.0, 401), (1e9, 401)])
async def test_a_key_works_from_its_first_moment_to_its_last(now: float, status: int) -> None:
    app = Witness()
    keys = StaticKeys({"ci": StaticKey(KEY, not_before=1_000.0, expires_at=2_000.0)}, clock=ManualClock(now))
    response = await request(KeyAuthMiddleware(app, keys=keys), "GET /v1/models", headers=[HEADER])
    assert status == response.status
    assert (status == 200) == bool(app.scopes)
