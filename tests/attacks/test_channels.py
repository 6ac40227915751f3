"""A key in one channel, another one in a second, or in a place that the rule does not look at."""

from itertools import permutations, product
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, StaticKey, StaticKeys
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
OTHER = "sk-ci-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"

CHANNELS: dict[str, tuple[bytes, bytes]] = {
    "authorization": (b"authorization", b"Bearer %s"),
    "x-api-key": (b"x-api-key", b"%s"),
    "api-key": (b"api-key", b"%s"),
    "x-goog-api-key": (b"x-goog-api-key", b"%s"),
    "own header": (b"x-litellm-api-key", b"%s"),
}


def guarded(app: Any, **options: Any) -> Any:
    keys = StaticKeys({"ci": StaticKey(KEY, routes=["/v1/**"]), "other": OTHER})
    return Stack(Middleware(KeyAuthMiddleware, keys=keys, header="x-litellm-api-key", query_parameter="key", **options))(app)


def header(channel: str, key: str) -> tuple[bytes, bytes]:
    name, value = CHANNELS[channel]
    return name, value % key.encode()


@pytest.mark.parametrize(("one", "two"), list(permutations(CHANNELS, 2)))
async def test_a_stronger_channel_is_not_smuggled_past_a_weaker_one(one: str, two: str) -> None:
    """LiteLLM prefers `x-litellm-api-key` to `Authorization`: what we judge must be what the app would honour."""
    for key in (KEY, OTHER):
        app = Witness()
        response = await request(guarded(app), "GET /v1/models", headers=[header(one, KEY), header(two, key)])
        assert (400, "ambiguous_credential") == (response.status, response.header("x-authmw-reason"))
        assert [] == app.scopes


@pytest.mark.parametrize(("channel", "key"), list(product(CHANNELS, [KEY, OTHER])))
async def test_a_header_that_comes_twice_is_not_half_the_attackers_choice(channel: str, key: str) -> None:
    """GHSA-57q6-fvp4-pqmm: two `Authorization` headers reach the app as two tuples on every server."""
    app = Witness()
    for headers in ([header(channel, KEY), header(channel, key)], [header(channel, key), (b"x-y", b"1"), header(channel, KEY)]):
        response = await request(guarded(app), "GET /v1/models", headers=headers)
        assert (400, "repeated_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("joined", [f"Bearer {KEY}, Bearer {OTHER}", f"Bearer {KEY},{OTHER}", f"Bearer {KEY};{OTHER}", f"{KEY}, {OTHER}"])
async def test_two_keys_in_one_header_are_not_split(joined: str) -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models", headers=[(b"authorization", joined.encode())])
    assert response.status in (400, 401)
    assert [] == app.scopes


@pytest.mark.parametrize("channel", CHANNELS)
async def test_every_channel_is_under_the_same_rules(channel: str) -> None:
    """A key's routes hold for it wherever it came from (Kong 2637 and its kin)."""
    app = Witness()
    response = await request(guarded(app), "GET /admin", headers=[header(channel, KEY)])
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert 403 == (await request(guarded(app), f"GET /admin?key={KEY}")).status
    async with websocket(guarded(app), "/admin", subprotocols=[f"openai-insecure-api-key.{KEY}"]) as socket:
        assert (403, "route_not_allowed") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_key_in_the_url_is_no_key_unless_the_operator_wanted_it() -> None:
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}))
    for target in (
        f"GET /v1/models?key={KEY}",
        f"GET /v1/models?api_key={KEY}",
        f"GET /{KEY}/v1/models",
        f"GET /v1/models?access_token={KEY}",
    ):
        response = await request(layer, target, headers=[(b"referer", f"https://x.example/?key={KEY}".encode())])
        assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize(
    "alias", ["x_api_key", "X_API_KEY", "x.api.key", "http_x_api_key", "x-api_key", "apikey", "x-api-key ", " x-api-key"]
)
async def test_an_alias_of_a_header_is_not_the_header(alias: str) -> None:
    """CVE-2025-64484 and its kin: some proxy in front strips one spelling only."""
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}))
    response = await request(layer, "GET /v1/models", headers=[(alias.encode(), KEY.encode())])
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("name", [b"cookie", b"x-forwarded-user", b"x-auth-request-user", b"x-user", b"client-cert", b"remote-user"])
async def test_what_a_proxy_would_add_is_no_credential(name: bytes) -> None:
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}))
    response = await request(layer, "GET /v1/models", headers=[(name, b"admin")])
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_bad_key_is_not_given_a_second_chance_with_a_weaker_channel() -> None:
    app = Witness()
    for required in (True, False):
        layer = guarded(app, required=required)
        for headers in ([(b"x-api-key", b"sk-bad")], [(b"authorization", b"Basic YTpi"), (b"cookie", KEY.encode())]):
            assert 401 == (await request(layer, "GET /v1/models", headers=headers)).status
    assert [] == app.scopes


@pytest.mark.parametrize("agent", [b"kube-probe/1.31", b"GoogleHC/1.0", b"ELB-HealthChecker/2.0", b"Prometheus/3.0"])
@pytest.mark.parametrize("path", ["/health", "/ping", "/healthz", "/metrics"])
async def test_no_user_agent_and_no_health_path_is_a_shortcut(agent: bytes, path: str) -> None:
    """CVE-2026-34457, GHSA-5hvv-m4w4-gf6v of oauth2-proxy."""
    app = Witness()
    response = await request(KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY})), f"GET {path}", headers=[(b"user-agent", agent)])
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
