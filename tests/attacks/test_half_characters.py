"""Half a character, as some servers make of a byte that is none, wherever a text of a scope can hold one: an answer, and never a 500."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from llm_authmw import (
    AuditMiddleware,
    BruteForceMiddleware,
    BudgetMiddleware,
    CustomAuthMiddleware,
    Denial,
    HeaderMap,
    HeaderTrustMiddleware,
    JWTMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Price,
    Principal,
    ProtectedResource,
    ProtectedResourceMiddleware,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    SharedSecret,
    Stack,
    StaticKey,
    StaticKeys,
    Store,
    TrustedProxies,
    UpstreamCredentialMiddleware,
    open_store,
    telemetry,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.dialects import Dialect, error_event, render
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.metrics.prometheus import PrometheusMetrics
from llm_authmw.testing import ManualClock, TestIssuer, request, websocket
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

HALF: Final = "\udc80"
KEY: Final = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
SECRET: Final = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"

GOOD: Final = {
    "keys": (b"x-api-key", KEY.encode()),
    "jwt": (b"authorization", b""),
    "headers": (b"x-proxy-proof", SECRET.encode()),
    "custom": (b"x-who", b"ada"),
}

PLACES: Final[dict[str, dict[str, Any]]] = {
    "the path": {"path": f"/v1/{HALF}", "raw_path": b"/v1/%80"},
    "the path of a model": {"path": f"/v1beta/models/{HALF}:generateContent", "raw_path": None},
    "the path of an app that is mounted": {"path": f"/{HALF}/v1/models", "root_path": f"/{HALF}", "raw_path": None},
    "a path that looks like a credential": {"path": f"/v1/sk-{HALF}abcdefghijklmnop/token={HALF}", "raw_path": None},
    "the method": {"method": f"PO{HALF}ST"},
    "the client's address": {"client": (HALF, 1)},
    "the server's address": {"server": (HALF, None)},
    "a subprotocol": {"subprotocols": [HALF, f"openai-insecure-api-key.{HALF}"]},
    "the query": {"query_string": b"key=%80&model=%80&\x80=\x80"},
    "every header": {
        "headers": [
            (name, b"\x80\xed\xb2\x80")
            for name in (b"authorization", b"x-api-key", b"x-who", b"traceparent", b"x-forwarded-for", b"content-type", b"\x80", b"cookie")
        ]
    },
}


def who(connection: HTTPConnection) -> Principal | Denial | None:
    if HALF in connection.scope["path"] or "x-who" not in connection.headers:
        return Denial("route_not_allowed", need=f"a way that is not {connection.scope['path']}", challenges=[f'Own realm="{HALF}"'])
    return Principal(user="ada")


def rest(store: Store) -> list[Middleware]:
    roles = {"member": Role(routes=["POST /v1/**"], models=["gpt-*"], tools=["*"])}
    return [
        Middleware(RBACMiddleware, roles=roles, default_role="member"),
        Middleware(
            RateLimitMiddleware, ledger=store.ledger, limits={"team": ["100 concurrent"], "caller": ["9 requests/day"]}, missing="skip"
        ),
        Middleware(
            BudgetMiddleware,
            ledger=store.ledger,
            prices={"*": Price(input="1", output="1")},
            limits={"user": ["9 usd/day"]},
            missing="skip",
        ),
        Middleware(UpstreamCredentialMiddleware, bearer="upstream"),
    ]


def guards(sink: KeptRecords, app: ASGIApp) -> dict[str, ASGIApp]:
    """Each way to say who is calling, with as much as there is around it and without anything."""
    clock = ManualClock()
    store = open_store("memory://", clock=clock, deadline=5)
    issuer = TestIssuer("https://issuer.example", algorithm="ES256", clock=clock)
    ways = {
        "keys": Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY, routes=["/v1/**"])}), query_parameter="key"),
        "jwt": Middleware(JWTMiddleware, issuers=[issuer.trusted()]),
        "headers": Middleware(
            HeaderTrustMiddleware,
            realm="corp",
            headers=HeaderMap(user="x-who"),
            proof=SharedSecret(header="x-proxy-proof", secret=SECRET),
        ),
        "custom": Middleware(CustomAuthMiddleware, authenticate=who),
    }
    resource = ProtectedResource("https://api.example/v1", authorization_servers=["https://issuer.example"])
    found: dict[str, ASGIApp] = {}
    for name, way in ways.items():
        outside = [
            Middleware(AuditMiddleware, sink=sink),
            Middleware(ProtectedResourceMiddleware, resource=resource),
            Middleware(BruteForceMiddleware, ledger=store.ledger),
        ]
        found[f"{name} with everything"] = Stack(*outside, way, *rest(store), trusted_proxies=TrustedProxies(["10.0.0.0/8"]))(app)
        found[f"{name} alone"] = Stack(way)(app)
        found[f"{name} of a policy"] = PolicyRouter(app, policies=[Policy("/v1/**", Stack(way, *rest(store)))], inventory="off")
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("place", PLACES)
async def test_every_layer_answers_and_none_of_them_raises(place: str) -> None:
    sink, metrics = KeptRecords(), PrometheusMetrics(CollectorRegistry())
    telemetry.attach(metrics)
    asked = 0
    for name, app in guards(sink, Witness()).items():
        for good in ([], [GOOD[name.partition(" ")[0]]]):
            changes = dict(PLACES[place])
            headers = [*good, *changes.pop("headers", [])]
            asked += name.endswith("everything")
            body = b'{"model":"gpt-\\udc80","messages":[],"user":"\\udc80","tools":[{"type":"\\udc80"}]}'
            for sent in (b'{"model":"gpt-4o","messages":[]}', body):
                answer = await request(app, "POST /v1/chat/completions", headers=headers, body=sent, scope=changes)
                assert answer.status in {200, 400, 401, 403, 404, 405, 429}, (name, answer)
            async with websocket(app, "/v1/realtime?model=gpt-4o", headers=headers, scope=changes) as socket:
                assert socket.accepted or socket.response.status in {400, 401, 403, 429}
                if socket.accepted:
                    await socket.send_text(f'{{"type":"session.update","session":{{"model":"{HALF}"}}}}')
    telemetry.detach(metrics)
    assert 3 * asked == len(sink.of("request"))
    assert (await request(metrics.app, "GET /metrics")).status == 200


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini", "problem"])
def test_what_would_have_been_needed_may_hold_one_in_every_dialect(dialect: Dialect) -> None:
    paths: dict[Dialect, str] = {"openai": "/v1/", "anthropic": "/v1/messages", "gemini": "/v1beta/", "problem": "/"}
    scope: dict[str, Any] = {"type": "http", "path": paths[dialect], "headers": []}
    denial = Denial("route_not_allowed", need=f"/{HALF}", challenges=[f'Own realm="{HALF}"'])
    status, headers, body = render(denial, scope, "0" * 16)
    assert 403 == status
    assert b"Needed: /?." in body
    assert (b"www-authenticate", b'Own realm="?"') in headers
    assert (b"content-length", b"%d" % len(body)) in headers
    assert b"Needed: /?." in error_event(denial, scope, "0" * 16)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StaticKeys({HALF: KEY}),
        lambda: StaticKeys({"ci": f"{KEY}{HALF}"}),
        lambda: StaticKeys({"ci": StaticKey(KEY, user=HALF)}),
        lambda: StaticKeys({"ci": StaticKey(KEY, team=HALF)}),
        lambda: Principal(user=HALF),
        lambda: HeaderMap(user=HALF),
        lambda: Role(models=[HALF]),
    ],
)
def test_no_name_holds_one(make: Callable[[], object]) -> None:
    with pytest.raises((ConfigurationError, InvalidValueError)):
        make()


@pytest.mark.anyio
async def test_no_key_that_is_made_has_a_name_with_one() -> None:
    keys = open_store("memory://").keys
    for field in ("name", "user", "team", "org"):
        named: dict[str, Any] = {field: f"a{HALF}"}
        with pytest.raises(InvalidValueError):
            await keys.create(**named)
