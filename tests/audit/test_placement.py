"""The layer is the outermost, and with mode "required" every way to the app ends in a gate."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Router

from llm_authmw import (
    AuditGate,
    AuditMiddleware,
    BudgetMiddleware,
    ConfigurationError,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Price,
    ProtectedResource,
    ProtectedResourceMiddleware,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    StaticKeys,
    TrustedProxies,
    UpstreamCredentialMiddleware,
    explain,
    open_store,
    route_inventory,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.brute_force.layer import BruteForceMiddleware
from llm_authmw.testing import call, request
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
STORE = open_store("memory://")
RESOURCE = ProtectedResource("https://api.example.com", authorization_servers=["https://issuer.example.com"])


def audit(sink: Any = None, **options: Any) -> Middleware:
    return Middleware(AuditMiddleware, sink=sink or KeptRecords(durable=True), **options)


def required(**options: Any) -> Middleware:
    return audit(mode="required", **options)


def keys() -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=KEYS)


def roles() -> Middleware:
    return Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"])}, default_role="member")


def right_outside(app: ASGIApp) -> ASGIApp:
    return app


def behind_cors(app: ASGIApp) -> ASGIApp:
    return CORSMiddleware(app, allow_origins=["*"])


def behind_keys(app: ASGIApp) -> ASGIApp:
    return KeyAuthMiddleware(app, keys=KEYS)


def recorded(app: ASGIApp) -> ASGIApp:
    return AuditMiddleware(app, sink=KeptRecords())


OUTSIDE: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "keys": lambda app: KeyAuthMiddleware(app, keys=KEYS),
    "roles": lambda app: RBACMiddleware(app, roles={"member": Role(routes=["*"])}),
    "rates": lambda app: RateLimitMiddleware(app, ledger=STORE.ledger, limits={"global": ["9 concurrent"]}),
    "budgets": lambda app: BudgetMiddleware(app, ledger=STORE.ledger, prices={"*": Price(input="1", output="1")}),
    "brute force": lambda app: BruteForceMiddleware(app, ledger=STORE.ledger),
    "credential behind": lambda app: UpstreamCredentialMiddleware(app, bearer="x" * 20),
    "metadata": lambda app: ProtectedResourceMiddleware(app, resource=RESOURCE),
    "policies": lambda app: PolicyRouter(app, policies=[Policy("GET /health", public=True)]),
}


class Foreign:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("around", [right_outside, Foreign])
@pytest.mark.parametrize("layer", OUTSIDE)
def test_no_layer_that_decides_stands_outside_of_it(layer: str, around: Callable[[ASGIApp], ASGIApp]) -> None:
    with pytest.raises(ConfigurationError, match="AuditMiddleware stands inside, so what is denied here would have no record"):
        OUTSIDE[layer](around(AuditMiddleware(Witness(), sink=KeptRecords())))


def test_a_stack_refuses_it_anywhere_else_too() -> None:
    with pytest.raises(ConfigurationError, match="put AuditMiddleware outside of it"):
        Stack(keys(), audit())
    with pytest.raises(ConfigurationError, match="put AuditMiddleware outside of it"):
        Stack(keys(), Stack(audit(), roles()))


@pytest.mark.parametrize("outside", [Foreign, behind_cors])
async def test_what_does_not_decide_may_stand_outside_of_it(outside: Callable[[ASGIApp], ASGIApp]) -> None:
    sink = KeptRecords()
    await request(outside(AuditMiddleware(Witness(), sink=sink)), "GET /x")
    assert "allowed" == sink.request.outcome


async def test_behind_a_router_of_a_framework_an_app_of_its_own_begins() -> None:
    sink = KeptRecords()
    mounted = Router([Mount("/inner", AuditMiddleware(Witness(), sink=sink))])
    app = KeyAuthMiddleware(mounted, keys=KEYS)
    await request(app, "GET /inner/x", headers=[(b"x-api-key", KEY.encode())])
    assert ("allowed", "/x") == (sink.request.outcome, sink.request.path)


async def test_a_policy_may_have_one_of_its_own_inside_of_another() -> None:
    outer, own = KeptRecords(), KeptRecords()
    router = PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(audit([own]), keys(), roles()))])
    app = Stack(audit([outer]))(router)
    await request(app, "GET /v1/models", headers=[(b"x-api-key", KEY.encode())])
    assert outer.request == own.request
    assert ["PolicyRouter", "KeyAuthMiddleware", "RBACMiddleware"] == [decision.layer for decision in own.request.decisions]
    await request(app, "GET /elsewhere")
    assert 2 == len(outer.of("request"))
    assert 1 == len(own.of("request"))


# Mode "required".


def not_gated() -> dict[str, Callable[[], object]]:
    return {
        "alone": lambda: AuditMiddleware(Witness(), sink=KeptRecords(durable=True), mode="required"),
        "a plain list": lambda: AuditMiddleware(KeyAuthMiddleware(Witness(), keys=KEYS), sink=KeptRecords(durable=True), mode="required"),
        "a router of policies": lambda: Stack(required())(PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(keys()))])),
        "its public routes": lambda: AuditMiddleware(
            PolicyRouter(Witness(), policies=[Policy("GET /x", public=True), Policy("/v1/**", Stack(required(), keys()))]),
            sink=KeptRecords(durable=True),
            mode="required",
        ),
        "a mount": lambda: AuditMiddleware(Router([Mount("/", AuditGate(Witness()))]), sink=KeptRecords(durable=True), mode="required"),
        "layers further in": lambda: Stack(required())(KeyAuthMiddleware(Witness(), keys=KEYS)),
    }


@pytest.mark.parametrize("way", not_gated())
def test_with_mode_required_every_way_to_the_app_ends_in_a_gate(way: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'required' needs AuditGate\(app\)") as caught:
        not_gated()[way]()
    assert "mode" == caught.value.option


def gated() -> dict[str, Callable[[Any], ASGIApp]]:
    return {
        "a stack": lambda sink: Stack(required(sink=sink), keys())(Witness()),
        "a stack in a stack": lambda sink: Stack(Stack(required(sink=sink)), keys())(Witness()),
        "a stack around a stack": lambda sink: Stack(required(sink=sink), Stack(keys(), roles()))(Witness()),
        "a plain list": lambda sink: AuditMiddleware(KeyAuthMiddleware(AuditGate(Witness()), keys=KEYS), sink=sink, mode="required"),
        "foreign layers": lambda sink: AuditMiddleware(Foreign(AuditGate(Foreign(Witness()))), sink=sink, mode="required"),
        "a router of policies": lambda sink: Stack(required(sink=sink))(
            PolicyRouter(AuditGate(Witness()), policies=[Policy("/v1/**", Stack(keys())), Policy("GET /x", public=True)])
        ),
        "a policy's own": lambda sink: PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(required(sink=sink), keys()))]),
        "starlette's list": lambda sink: Starlette(
            routes=[Mount("/", Witness())], middleware=[required(sink=sink), keys(), Middleware(AuditGate)]
        ),
        "a stack in starlette's list": lambda sink: Starlette(
            routes=[Mount("/", Witness())], middleware=[Middleware(Stack(required(sink=sink), keys()))]
        ),
    }


@pytest.mark.parametrize("way", gated())
async def test_behind_a_gate_the_app_is_reached_once_the_intent_is_accepted(way: str) -> None:
    sink = KeptRecords(durable=True)
    answer = await request(gated()[way](sink), "GET /v1/x", headers=[(b"x-api-key", KEY.encode())])
    assert 200 == answer.status
    assert ["intent", "request"] == [record.kind for record in sink.accepted]
    assert 1 == len({record.id for record in sink.accepted})


def test_a_stack_places_the_gate_innermost_and_says_so() -> None:
    guarded = Stack(required(), keys(), roles())(Witness())
    assert isinstance(guarded.layers[-1], AuditGate)
    assert repr(guarded).endswith("RBACMiddleware(roles=['member']), AuditGate())")
    assert not any(isinstance(layer, AuditGate) for layer in Stack(audit(), keys())(Witness()).layers)


@pytest.mark.parametrize("inside", [behind_keys, AuditGate, recorded])
def test_inside_of_a_gate_nothing_decides(inside: Callable[[ASGIApp], ASGIApp]) -> None:
    with pytest.raises(ConfigurationError, match="stands inside, so its decision would be missing"):
        AuditGate(Foreign(inside(Witness())))


# Options.


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"sink": None}, "sink"),
        ({"sink": []}, "sink"),
        ({"sink": "audit.jsonl"}, "sink"),
        ({"sink": [KeptRecords(), "audit.jsonl"]}, "sink"),
        ({"mode": "sometimes"}, "mode"),
        ({"mode": "required", "sink": KeptRecords()}, "sink"),
        ({"deadline": 0.1}, "deadline"),
        ({"mode": "required", "deadline": 0}, "deadline"),
        ({"mode": "required", "deadline": float("inf")}, "deadline"),
        ({"mode": "required", "deadline": True}, "deadline"),
        ({"observers": [object()]}, "observers"),
        ({"observers": object()}, "observers"),
        ({"enrich": "country"}, "enrich"),
        ({"personal": ["country"]}, "personal"),
        ({"enrich": repr, "personal": "country"}, "personal"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "trusted_proxies"),
        ({"lens": None}, "lens"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], option: str) -> None:
    given: dict[str, Any] = {"sink": KeptRecords(durable=True), **options}
    with pytest.raises(ConfigurationError) as caught:
        AuditMiddleware(AuditGate(Witness()), **given)
    assert option == caught.value.option


def test_one_sink_twice_is_refused() -> None:
    sink = KeptRecords()
    with pytest.raises(ConfigurationError, match="twice"):
        AuditMiddleware(Witness(), sink=[sink, sink])


def test_two_settings_of_trusted_proxies_are_refused() -> None:
    one, other = TrustedProxies(["10.0.0.0/8"]), TrustedProxies(["10.1.0.0/16"])
    with pytest.raises(ConfigurationError) as caught:
        AuditMiddleware(KeyAuthMiddleware(Witness(), keys=KEYS, trusted_proxies=other), sink=KeptRecords(), trusted_proxies=one)
    assert "trusted_proxies" == caught.value.option
    with pytest.raises(ConfigurationError):
        Stack(audit(trusted_proxies=one), keys(), trusted_proxies=other)


# Whoever walks through layers.


async def test_a_policy_is_asked_through_both_layers() -> None:
    sink = KeptRecords(durable=True)
    router = PolicyRouter(AuditGate(Witness()), policies=[Policy("/v1/**", Stack(keys(), roles()))])
    for guard in (Stack(required(sink=sink), keys(), roles()), Stack(required(sink=sink))(router)):
        assert not (await call(guard, "GET /v1/models")).allowed
        assert (await call(guard, "GET /v1/models", bearer=KEY)).allowed


def test_why_a_request_is_denied_and_which_routes_there_are_is_found_out_behind_both_layers() -> None:
    app = Starlette(routes=[Mount("/v1", Witness())], middleware=[required(), keys(), roles(), Middleware(AuditGate)])
    assert not explain(app, "GET /v1/models").allowed
    guarded = Stack(required(), keys(), roles())(Starlette(routes=[Mount("/v1", Witness())]))
    assert not explain(guarded, "GET /v1/models").allowed
    for guard in (app, guarded):
        (way,) = {way.layers for route in route_inventory(guard).routes for way in route.guarding}
        assert ("AuditMiddleware", "AuditGate") == (way[0], way[-1])
