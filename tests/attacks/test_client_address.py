"""Being somewhere else: keys that are bound to networks, and headers that say where a request came from."""

from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Stack, StaticKey, StaticKeys, TrustedProxies
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
HEADER = (b"x-api-key", KEY.encode())
HOME = b"192.0.2.7"
ELSEWHERE = ("203.0.113.9", 4711)
PROXY = ("10.0.0.1", 4711)


def guarded(app: Witness, proxies: TrustedProxies | None) -> Any:
    keys = StaticKeys({"ci": StaticKey(KEY, networks=["192.0.2.0/24", "2001:db8::/32"])})
    return Stack(Middleware(KeyAuthMiddleware, keys=keys), trusted_proxies=proxies)(app)


async def status(client: Any, *headers: tuple[bytes, bytes], proxies: TrustedProxies | None = None) -> int:
    app = Witness()
    layer = guarded(app, proxies)
    response = await request(layer, "GET /v1/models", headers=[HEADER, *headers], scope={"client": client})
    async with websocket(layer, "/v1/realtime", headers=[HEADER, *headers], scope={"client": client}) as socket:
        assert (response.status == 200) == socket.accepted
    assert (response.status == 200) == bool(app.scopes)
    return response.status


FAMILIES = [
    b"x-forwarded-for",
    b"forwarded",
    b"x-real-ip",
    b"x-client-ip",
    b"true-client-ip",
    b"cf-connecting-ip",
    b"x-cluster-client-ip",
    b"x-original-forwarded-for",
]


@pytest.mark.parametrize("name", FAMILIES)
async def test_a_stranger_cannot_say_where_he_is(name: bytes) -> None:
    """CVE-2026-40575, CVE-2023-27487 and their kin: a header of a proxy, from somebody who is none."""
    value = b"for=" + HOME if name == b"forwarded" else HOME
    for proxies in (None, TrustedProxies(["10.0.0.0/24"]), TrustedProxies(["10.0.0.0/24"], header="forwarded")):
        assert 403 == await status(ELSEWHERE, (name, value), proxies=proxies)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != b"x-forwarded-for"])
async def test_only_the_header_that_the_proxy_writes_is_read(name: bytes) -> None:
    """The proxy passes on whatever else the client made up."""
    value = b"for=" + HOME if name == b"forwarded" else HOME
    proxies = TrustedProxies(["10.0.0.0/24"])
    assert 403 == await status(PROXY, (b"x-forwarded-for", b"203.0.113.9"), (name, value), proxies=proxies)
    assert 200 == await status(PROXY, (b"x-forwarded-for", HOME), (name, b"203.0.113.9"), proxies=proxies)


@pytest.mark.parametrize(
    "chain",
    [
        b"192.0.2.7, 203.0.113.9",
        b"192.0.2.7,203.0.113.9,10.0.0.5",
        b"192.0.2.7, 203.0.113.9, 10.0.0.5, 10.0.0.6",
        b"192.0.2.7, 10.0.0.5, 203.0.113.9",
        b"203.0.113.9",
    ],
)
async def test_the_left_of_the_chain_is_the_clients_own_invention(chain: bytes) -> None:
    assert 403 == await status(PROXY, (b"x-forwarded-for", chain), proxies=TrustedProxies(["10.0.0.0/24"]))


async def test_a_header_that_the_proxy_added_to_the_clients_own_is_read_last() -> None:
    proxies = TrustedProxies(["10.0.0.0/24"])
    own, added = (b"x-forwarded-for", HOME), (b"X-Forwarded-For", b"203.0.113.9")
    assert 403 == await status(PROXY, own, added, proxies=proxies)
    assert 200 == await status(PROXY, added, own, proxies=proxies)


UNREADABLE = [
    b"192.0.2.7%eth0",
    b"fe80::1%25eth0",
    b"[192.0.2.7",
    b"192.0.2.7:",
    b"192.0.2.7:x",
    b"[2001:db8::1]x",
    b"[2001:db8::1]:x",
    b"0300.0.2.7",
    b"192.0.2.007",
    b"192.0.2",
    b"3221225991",
    b"0xC0000207",
    b"::ffff:192.0.2.7%1",
    b'"192.0.2.7"',
    b"for=192.0.2.7",
    b"192.0.2.7/32",
    b"192.0.2.7\x00",
    b"192.0.2.7\x0b",
    b"\xd9\xa1.1.1.1",
    b"203.0.113.9, ",
    b", ",
    b"unknown",
    b"_hidden",
    b", ".join([b"192.0.2.7"] * 33),
]


@pytest.mark.parametrize("value", UNREADABLE)
async def test_an_address_that_cannot_be_read_is_no_address(value: bytes) -> None:
    """CVE-2026-26310 of Envoy, and the many spellings of one address."""
    assert 403 == await status(PROXY, (b"x-forwarded-for", value), proxies=TrustedProxies(["10.0.0.0/24"]))


@pytest.mark.parametrize(
    "value", [b"192.0.2.7", b" 192.0.2.7\t", b"192.0.2.7:4711", b"[2001:db8::1]", b"[2001:db8::1]:443", b"2001:DB8::1"]
)
async def test_an_address_that_can_be_read_is_one(value: bytes) -> None:
    assert 200 == await status(PROXY, (b"x-forwarded-for", value), proxies=TrustedProxies(["10.0.0.0/24"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"for=192.0.2.7", 200),
        (b'For="[2001:db8::1]:4711";proto=https', 200),
        (b"for=203.0.113.9, for=192.0.2.7;by=10.0.0.1", 200),
        (b"for=192.0.2.7, for=203.0.113.9", 403),
        (b"for=192.0.2.7;for=203.0.113.9", 403),
        (b"for=203.0.113.9;for=192.0.2.7", 403),
        (b"by=192.0.2.7", 403),
        (b"for=", 403),
        (b"for=_x", 403),
        (b'for="192.0.2.7', 403),
        (b'for="203.0.113.9, for=192.0.2.7"', 403),
        (b"192.0.2.7", 403),
        (b"", 403),
    ],
)
async def test_a_forwarded_header_is_read_strictly(value: bytes, expected: int) -> None:
    proxies = TrustedProxies(["10.0.0.0/24"], header="forwarded")
    assert expected == await status(PROXY, (b"forwarded", value), proxies=proxies)


async def test_an_address_that_the_server_has_rewritten_looks_like_any_other() -> None:
    """uvicorn rewrites `scope["client"]` for peers on 127.0.0.1: nothing tells it from a real peer, port or no port.

    So it is the server's setting that must be right: `--no-proxy-headers`, and `trusted_proxies` here.
    """
    for client in (("192.0.2.7", 0), ("192.0.2.7", 443), ("192.0.2.7", 50_000)):
        assert 200 == await status(client)
        assert 200 == await status(client, (b"x-forwarded-for", b"203.0.113.9"), proxies=TrustedProxies(["10.0.0.0/24"]))


async def test_where_there_is_no_address_nobody_is_in_a_network() -> None:
    for client in (None, (), ("", 0), ("unix:", 0), ("@", 0), ("localhost", 1)):
        assert 403 == await status(client, (b"x-forwarded-for", HOME))
        assert 403 == await status(client, (b"x-forwarded-for", HOME), proxies=TrustedProxies(["10.0.0.0/24"]))
    assert 200 == await status(None, (b"x-forwarded-for", HOME), proxies=TrustedProxies(unix_socket=True))
    assert 403 == await status(("localhost", 1), (b"x-forwarded-for", HOME), proxies=TrustedProxies(unix_socket=True))
    assert 403 == await status(None, proxies=TrustedProxies(unix_socket=True))


@pytest.mark.parametrize("networks", [["0.0.0.0/0"], ["::/0"], ["10.0.0.0/8", "0.0.0.0/0"], ["*"], ["10.0.0.1/8"], "10.0.0.0/8", []])
def test_nobody_may_be_told_to_trust_everybody(networks: Any) -> None:
    with pytest.raises(ConfigurationError):
        TrustedProxies(networks)


async def test_other_headers_of_proxies_steer_no_decision() -> None:
    """GHSA-vhr5-ggp3-qq85, GHSA-7x63-xv5r-3p2x, CVE-2026-35051: forwarded host, path, prefix, port, method."""
    keys = StaticKeys({"ci": StaticKey(KEY, routes=["GET /v1/models"])})
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=keys, trusted_proxies=TrustedProxies(["10.0.0.0/24"]))
    steering = [
        (b"host", b"x.example/v1/models"),
        (b"x-forwarded-host", b"x.example"),
        (b"x-forwarded-uri", b"/v1/models"),
        (b"x-forwarded-path", b"/v1/models"),
        (b"x-forwarded-prefix", b"/admin"),
        (b"x-forwarded-method", b"GET"),
        (b"x-original-url", b"/v1/models"),
        (b"x-original-uri", b"/v1/models"),
        (b"x-rewrite-url", b"/v1/models"),
        (b"x-http-method-override", b"GET"),
        (b"x-method-override", b"GET"),
        (b"x-http-method", b"GET"),
    ]
    for target in ("GET /admin", "POST /v1/models", "DELETE /admin/v1/models"):
        response = await request(layer, target, headers=[HEADER, *steering], scope={"client": PROXY})
        assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
