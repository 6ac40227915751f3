"""Any scope, any bytes: a refusal, or a decision that was passed on. Never an exception, never a 500."""

from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_authmw import KeyAuthMiddleware, StaticKey, StaticKeys, TrustedProxies, open_store
from llm_authmw.authn.credentials import MAX_CREDENTIAL, SUBPROTOCOL
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, request, stream, websocket
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
LIMITED = "sk-ci-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"

names = st.sampled_from(
    [b"authorization", b"Authorization", b"x-api-key", b"X-API-KEY", b"api-key", b"x-goog-api-key", b"x-own", b"cookie", b"x-forwarded-for"]
)
values = (
    st.binary(max_size=24)
    | st.sampled_from([KEY, LIMITED, MASTER, mint_key().text, "sk-x", "", " ", "Bearer", "Basic x", "\xff"]).map(
        lambda text: text.encode("latin-1")
    )
    | st.sampled_from([KEY, LIMITED, "x", "", "a b"]).map(lambda text: f"Bearer {text}".encode())
)
headers = st.lists(st.tuples(names | st.binary(max_size=12), values), max_size=4)
paths = st.text(max_size=24) | st.sampled_from(["/v1/models", "/", "", "*", "//", "/../", "/v1/\ud800", "/v1/messages", "http://x/y"])
texts = st.text(max_size=8)
clients = st.sampled_from([None, ("10.0.0.1", 1), ("192.0.2.1", "80"), ("", 0), ("x", 1), ["::1", 1], ("fe80::1%eth0", 0), (None, None)])
nothing: dict[str, Any] = {}
members: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "headers": headers,
        "path": paths,
        "raw_path": st.none() | st.binary(max_size=24),
        "query_string": st.binary(max_size=24),
        "client": clients,
    },
    optional={
        "method": texts | st.sampled_from(["GET", "POST", "OPTIONS", "get"]),
        "root_path": texts | st.sampled_from(["/v1", "/"]),
        "extensions": st.none() | st.just(nothing),
        "subprotocols": st.lists(texts | values.map(lambda value: SUBPROTOCOL + value.decode("latin-1")), max_size=2),
        "state": st.just(nothing),
    },
)


def layers(app: Witness) -> list[KeyAuthMiddleware]:
    """Return the layer with everything switched on, and with as little as possible; over a store, and over static keys."""
    store = open_store("memory://", clock=ManualClock(), deadline=5)
    keys = StaticKeys({"ci": KEY, "limited": StaticKey(LIMITED, routes=["GET /v1/*"], networks=["192.0.2.0/24"])})
    everything: dict[str, Any] = {
        "master_key": MASTER,
        "header": "x-own",
        "query_parameter": "key",
        "trusted_proxies": TrustedProxies(["10.0.0.0/8"]),
        "required": False,
    }
    return [
        KeyAuthMiddleware(app, keys=keys),
        KeyAuthMiddleware(app, keys=keys, **everything),
        KeyAuthMiddleware(app, keys=store.keys, imported=True, **everything),
    ]


@settings(max_examples=150)
@given(scope=members, which=st.integers(0, 2), socket=st.booleans())
@example(
    scope={"headers": [(b"x-api-key", LIMITED.encode())], "path": "/v1/\ud800", "raw_path": None, "query_string": b"", "client": None},
    which=0,
    socket=True,
)
def test_any_scope_is_refused_or_passed_on_with_a_decision(scope: dict[str, Any], which: int, socket: bool) -> None:
    app = Witness()
    layer = layers(app)[which]

    async def ask() -> None:
        conversation: Any
        if socket:
            conversation = websocket(layer, "/", scope=scope)
            async with conversation:
                pass
        else:
            conversation = stream(layer, "GET /", scope=scope)
            async with conversation:
                async for _ in conversation:
                    pass
        status = conversation.response.status
        decisions = conversation.scope[CONTEXT_KEY].decisions
        assert decisions
        if app.scopes:
            assert status == (101 if socket else 200)
            assert {"allowed", "passed"} >= {decision.outcome for decision in decisions}
            caller = app.scopes[0]["user"]
            assert caller.is_authenticated or not layer.required
            assert caller.is_authenticated == ("allowed" in {decision.outcome for decision in decisions})
        else:
            assert status in (400, 401, 403)
            assert "denied" == decisions[-1].outcome

    anyio.run(ask)


ODD_VALUES = [b"\x00", b"\r\nX: 1", b"\xff\xfe", "ключ".encode(), b"\x1b]0;x\x07", b"%s%s%n", b"${jndi:ldap://x}", b"{{7*7}}", b"=cmd()"]


@pytest.mark.anyio
@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"])
async def test_odd_bytes_in_a_credential_are_refused_and_not_sent_back(name: bytes, value: bytes) -> None:
    """CVE-2026-73552 of Envoy: what is not text must fail closed."""
    app = Witness()
    for sent in (value, b"Bearer " + value, b"Bearer sk-" + value):
        response = await request(KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY})), "GET /v1/models", headers=[(name, sent)])
        assert response.status in (400, 401)
        assert value not in response.body
        assert value not in b"".join(line for header in response.headers for line in header)
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize("size", [513, MAX_CREDENTIAL, MAX_CREDENTIAL + 1, 1_000_000])
async def test_a_huge_credential_is_refused_without_work(size: int) -> None:
    """CVE-2025-61920, CVE-2019-12995: limits before parsing."""
    app = Witness()
    for value in (b"a" * size, b"sk-" + b"a" * size, b" " * size + b"\xff", (b"a " * size)[:size] + b"\xff"):
        for sent in (value, b"Bearer " + value, b"Basic " + value):
            response = await request(KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY})), "GET /", headers=[(b"authorization", sent)])
            assert response.status in (400, 401)
    assert [] == app.scopes


@pytest.mark.anyio
async def test_a_request_with_very_many_headers_is_judged_like_any_other() -> None:
    app = Witness()
    many = [(b"x-%d" % number, b"sk-x") for number in range(5_000)]
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}))
    assert 401 == (await request(layer, "GET /", headers=many)).status
    assert 200 == (await request(layer, "GET /", headers=[*many, (b"x-api-key", KEY.encode())])).status
    assert 400 == (await request(layer, "GET /", headers=[(b"x-api-key", KEY.encode())] * 5_000)).status
    assert 1 == len(app.scopes)
