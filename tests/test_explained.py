"""Why what guards an app lets a request through, or does not: held against what the guard itself then does."""

from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Router

from llm_authmw import (
    Budget,
    BudgetMiddleware,
    ConfigurationError,
    Explained,
    Grant,
    KeyAuthMiddleware,
    LedgerService,
    Limit,
    Policy,
    PolicyRouter,
    Price,
    Principal,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    StaticKeys,
    explain,
    open_store,
)
from llm_authmw.accounts.records import AccountRecord
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.testing import call, fake_principal
from llm_authmw.testing.witness import Witness

ADA = fake_principal(user="ada", roles=["member"])
CHAT = "POST /v1/chat/completions"
KEYS = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
ROLES = {
    "member": Role(routes=["/v1/**"], models=["gpt-4o-mini"], tools=["web_search"]),
    "blue": Role(routes=[CHAT], models=["o3"], networks=["10.0.0.0/8"], max_age=60),
    "admin": Role(routes=["*"], models=["*"], tools=["*"]),
}
GRANTS = [Grant(role="blue", team="blue"), Grant(role="admin", scope="llm:admin")]
RULES = Middleware(RBACMiddleware, roles=ROLES, grants=GRANTS)
GUARD = Stack(KEYS, RULES)


def decided(found: Explained) -> tuple[bool, int, str | None]:
    return found.allowed, found.status, found.reason


def test_a_denial_says_which_check_of_which_role_missed_and_what_would_have_been_needed() -> None:
    found = explain(GUARD, CHAT, as_=ADA, model="o3")

    assert (False, 403, "model_not_allowed") == decided(found)
    assert ("ada", CHAT, (), False) == (found.subject, found.route, found.policies, found.public)
    (layer,) = found.layers
    assert ("member", "chat", ("o3",)) == (layer.rule, layer.operation, layer.models)
    assert layer.need is not None
    member = next(role for role in layer.roles if role.name == "member")
    assert ("own",) == member.obtained
    assert {"route": True, "model": False} == {check.name: check.met for check in member.checks}
    assert [("blue", False), ("admin", False)] == [(grant.role, grant.met) for grant in layer.grants]


def test_an_allowed_request_says_which_role_and_how_it_was_obtained() -> None:
    found = explain(GUARD, CHAT, as_=fake_principal(user="ada", scopes=["llm:admin"]), model="anything")

    assert (True, 200, None) == decided(found)
    assert "admin" == found.layers[0].rule
    assert {"admin": ("grant 1",)} == {role.name: role.obtained for role in found.layers[0].roles if role.obtained}


@pytest.mark.parametrize(
    ("request_", "options", "expected"),
    [
        (CHAT, {"model": "gpt-4o-mini"}, (True, 200, None)),
        (CHAT, {}, (False, 400, "model_missing")),
        (CHAT, {"model": "o3 mini"}, (False, 400, "model_malformed")),
        (CHAT, {"json": {"model": "gpt-4o-mini", "fallbacks": ["o3"]}}, (False, 403, "model_not_allowed")),
        (CHAT, {"json": {"model": 7}}, (False, 400, "model_malformed")),
        (f"{CHAT}?model=o3", {"model": "gpt-4o-mini"}, (False, 403, "model_not_allowed")),
        ("POST /v1/openai/deployments/{model}/chat/completions", {"model": "gpt-4o-mini"}, (True, 200, None)),
        ("POST /v1/openai/deployments/{model}/chat/completions", {"model": "o3"}, (False, 403, "model_not_allowed")),
        (CHAT, {"model": "gpt-4o-mini", "tools": ["web_search"]}, (True, 200, None)),
        (CHAT, {"model": "gpt-4o-mini", "tools": ["shell"]}, (False, 403, "tool_not_allowed")),
        ("WS /v1/realtime?model=gpt-4o-mini", {}, (True, 200, None)),
        ("GET /v2/models", {}, (False, 403, "route_not_allowed")),
        ("GET /v1//models", {}, (False, 400, "ambiguous_path")),
        ("GET /v1/%2e%2e/models", {}, (False, 400, "ambiguous_path")),
        ("GET /v1/a%2Fb", {}, (False, 400, "ambiguous_path")),
    ],
)
def test_each_request_is_read_as_the_layer_would_read_it(request_: str, options: dict[str, Any], expected: Any) -> None:
    assert expected == decided(explain(GUARD, request_, as_=ADA, **options))


@pytest.mark.anyio
@pytest.mark.parametrize("model", ["gpt-4o-mini", "o3", "unheard-of"])
@pytest.mark.parametrize(
    "principal",
    [
        ADA,
        fake_principal(user="bob"),
        fake_principal(user="eve", roles=["unknown"]),
        fake_principal(user="ann", scopes=["llm:admin"]),
        fake_principal(user="ben", roles=["admin"], models=["o3"]),
        fake_principal(user="cat", roles=["admin"], routes=["GET /**"]),
        fake_principal(user="dan", roles=["admin"], networks=["10.0.0.0/8"]),
        fake_principal(user="fay", team="blue", authenticated_at=0.0),
    ],
    ids=lambda principal: principal.subject,
)
async def test_what_is_explained_is_what_happens(principal: Principal, model: str) -> None:
    for address in ("10.0.0.7", "192.0.2.7"):
        happens = await call(GUARD, CHAT, as_=principal, model=model, address=address)
        found = explain(GUARD, CHAT, as_=principal, model=model, address=address)
        assert (happens.allowed, happens.status, happens.reason) == decided(found), found
        assert happens.rule == (found.layers[-1].rule if not found.allowed else None)


def test_nobody_is_told_to_log_in() -> None:
    found = explain(GUARD, CHAT, model="o3")

    assert (False, 401, "missing_credential") == decided(found)
    assert "anonymous" == found.subject


def test_the_address_and_the_time_are_those_that_are_given() -> None:
    blue = fake_principal(user="ada", team="blue", authenticated_at=1000.0)

    def ask(**options: Any) -> str | None:
        return explain(GUARD, CHAT, as_=blue, model="o3", **options).reason

    assert None is ask(address="10.0.0.7", now=1030.0)
    assert "network_not_allowed" == ask(address="192.0.2.7", now=1030.0)
    assert "network_not_allowed" == ask(now=1030.0)
    assert "authentication_too_old" == ask(address="10.0.0.7", now=2000.0)


# What guards.

POLICIES = [Policy("GET /health", public=True), Policy("/v1/**", GUARD, name="the api"), Policy("/admin/**", Stack(KEYS))]


def test_the_policy_of_the_route_is_the_one_that_is_asked() -> None:
    router = PolicyRouter(Witness(), policies=POLICIES)

    denied = explain(router, CHAT, as_=ADA, model="o3")
    public = explain(router, "GET /health")
    bare = explain(router, "GET /admin/users", as_=ADA)
    nowhere = explain(router, "GET /other", as_=ADA)

    assert (("the api",), (False, 403, "model_not_allowed")) == (denied.policies, decided(denied))
    assert (("GET /health",), True, (True, 200, None), ()) == (public.policies, public.public, decided(public), public.layers)
    assert (("/admin/**",), False, (True, 200, None), ()) == (bare.policies, bare.public, decided(bare), bare.layers)
    assert ((), (False, 403, "policy_missing")) == (nowhere.policies, decided(nowhere))


@pytest.mark.parametrize(
    "guard",
    [
        GUARD,
        GUARD(Witness()),
        Stack(KEYS, Middleware(Stack(RULES))),
        Starlette(middleware=[Middleware(GUARD)]),
        FastAPI(middleware=[KEYS, RULES]),
        Stack(KEYS)(Starlette(middleware=[RULES])),
        PolicyRouter(Witness(), policies=POLICIES),
        Stack(Middleware(PolicyRouter, policies=POLICIES)),
        Stack(Middleware(PolicyRouter, policies=POLICIES))(Witness()),
    ],
)
def test_layers_are_found_wherever_they_stand(guard: Any) -> None:
    assert (False, 403, "model_not_allowed") == decided(explain(guard, CHAT, as_=ADA, model="o3"))
    assert (True, 200, None) == decided(explain(guard, CHAT, as_=ADA, model="gpt-4o-mini"))


def test_every_layer_has_to_allow_and_the_first_that_denies_is_the_last_that_is_asked() -> None:
    wide = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"])})
    narrow = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["o3"])})

    both = explain(Stack(KEYS, wide, narrow), CHAT, as_=ADA, model="gpt-4o-mini")
    first = explain(Stack(KEYS, narrow, wide), CHAT, as_=ADA, model="gpt-4o-mini")

    assert [True, False] == [layer.allowed for layer in both.layers]
    assert [False] == [layer.allowed for layer in first.layers]
    assert not both.allowed
    assert not first.allowed


def test_what_is_on_trial_says_what_it_would_deny_and_denies_nothing() -> None:
    guard = Stack(KEYS, Middleware(RBACMiddleware, roles=ROLES, shadow=True))

    found = explain(guard, CHAT, as_=ADA, model="o3")

    assert (True, 200, None) == decided(found)
    assert (True, True, "model_not_allowed") == (found.layers[0].allowed, found.layers[0].shadowed, found.layers[0].reason)
    assert explain(guard, CHAT, as_=ADA, model="o3 mini").allowed


def test_an_authorizer_is_named_and_not_asked() -> None:
    def never(_: Any) -> bool:
        raise AssertionError("was asked")

    found = explain(Stack(KEYS, Middleware(RBACMiddleware, authorizer=never)), CHAT, as_=ADA, model="o3")

    assert found.allowed
    assert 1 == len(found.not_asked)
    assert () == explain(GUARD, CHAT, as_=ADA, model="gpt-4o-mini").not_asked


def test_an_explanation_is_json() -> None:
    found = explain(GUARD, CHAT, as_=ADA, model="o3")

    again = msgspec.json.decode(msgspec.json.encode(found))
    assert {"allowed", "status", "reason", "subject", "route", "policies", "public", "layers", "limits", "not_asked"} == set(again)
    assert "member" == again["layers"][0]["rule"]


@pytest.mark.parametrize("guard", [None, "myapp:guard", Witness(), Router([]), Starlette(), FastAPI(), RBACMiddleware])
def test_what_guards_nothing_is_refused(guard: Any) -> None:
    with pytest.raises(ConfigurationError, match="none of our layers around it") as caught:
        explain(guard, CHAT, as_=ADA)
    assert "guard" == caught.value.option


@pytest.mark.parametrize(
    ("option", "request_", "options"),
    [
        ("request", "/v1/chat/completions", {}),
        ("request", "post /v1/chat/completions", {}),
        ("request", "POST v1/chat/completions", {}),
        ("request", "POST /v1/é", {}),
        ("model", "POST /model/{model}/invoke", {}),
        ("json", CHAT, {"json": {}, "model": "o3"}),
        ("json", CHAT, {"json": {}, "tools": ["x"]}),
        ("tools", CHAT, {"tools": "web_search"}),
        ("address", CHAT, {"address": "ten dot something"}),
    ],
)
def test_what_cannot_be_asked_is_refused(option: str, request_: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        explain(GUARD, request_, as_=ADA, **options)
    assert option == caught.value.option


class Untouched:
    """Counters that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the ledger was called")


def counting() -> LedgerService:
    counters: Any = Untouched()
    return LedgerService(LedgerHandle(counters), accounts=open_store("memory://").ledger.accounts)


def limited(*, rates: Any = None, money: Any = None, roles: Any = None) -> Stack:
    """Return layers that count, on a ledger that nobody may ask."""
    ledger = counting()
    limiting: dict[str, Any] = rates or {}
    priced: dict[str, Any] = {"prices": {"gpt-4o*": Price(input=1, output=2)}, **(money or {})}
    return Stack(
        KEYS,
        Middleware(RBACMiddleware, roles=roles or {"member": Role(routes=["*"], models=["*"])}),
        Middleware(RateLimitMiddleware, ledger=ledger, **limiting),
        Middleware(BudgetMiddleware, ledger=ledger, **priced),
    )


def told(found: Explained) -> set[tuple[str, str, str, str]]:
    return {(one.layer, one.limit, one.scope, one.subject) for one in found.limits}


def test_limits_and_budgets_are_told_with_whose_they_are_and_no_ledger_is_asked() -> None:
    guard = limited(
        rates={"limits": {"team+model": ["9 requests/day, calendar"]}, "tiers": {"gold": ["4 concurrent"], "silver": ["1 concurrent"]}},
        money={"limits": {"global": ["900 usd/month"], "team": ["500 usd/month"]}},
        roles={"member": Role(routes=["*"], models=["*"], tier="gold")},
    )
    limits, budgets = (Limit.parse("60 requests/minute"),), (Budget.parse("5 usd/day"),)
    ada = fake_principal(user="ada", realm="staff", team="blue", roles=["member"], limits=limits, budgets=budgets)
    blue = AccountRecord(kind="team", name="blue", created_at=0, budgets=(Budget.parse("70 usd/month"),))
    green = AccountRecord(kind="team", name="green", created_at=0, budgets=(Budget.parse("1 usd"),))

    found = explain(guard, CHAT, as_=ada, model="gpt-4o", accounts=[blue, green])

    assert (True, 200, None) == decided(found)
    assert {
        ("RateLimitMiddleware", "60 requests/minute", "caller", "caller:staff/ada"),
        ("RateLimitMiddleware", "4 concurrent", "caller", "caller:staff/ada"),
        ("RateLimitMiddleware", "9 requests/day, calendar", "team+model", "team:blue+model:gpt-4o"),
        ("BudgetMiddleware", "900 usd/month", "global", "global"),
        ("BudgetMiddleware", "70 usd/month", "team", "team:blue"),
        ("BudgetMiddleware", "5 usd/day", "caller", "caller:staff/ada"),
    } == told(found)
    everybody = next(one for one in found.limits if one.scope == "global")
    assert ("*", "global / nano_usd / month") == (everybody.tenant, everybody.bucket)


def test_what_is_counted_further_out_is_told_once() -> None:
    ledger = counting()
    guard = Stack(
        Middleware(RateLimitMiddleware, ledger=ledger, limits={"team": ["4 concurrent"]}),
        Middleware(RateLimitMiddleware, ledger=ledger),
    )

    found = explain(guard, CHAT, as_=fake_principal(user="ada", team="blue", limits=(Limit.parse("9 requests/day"),)), model="o3")
    assert ["4 concurrent", "9 requests/day"] == sorted(one.limit for one in found.limits)


@pytest.mark.parametrize("target", ["GET /v1/models", "POST /v1/messages/count_tokens", "POST /my/own"])
def test_what_runs_no_model_is_counted_and_costs_nothing(target: str) -> None:
    guard = limited(rates={"limits": {"caller": ["9 requests/day", "100 tokens/day"]}}, money={"limits": {"caller": ["5 usd"]}})

    assert ["9 requests/day"] == [one.limit for one in explain(guard, target, as_=ADA).limits]


@pytest.mark.parametrize(
    ("status", "reason", "target", "options"),
    [
        (403, "model_unpriced", CHAT, {"model": "o3"}),
        (400, "model_missing", CHAT, {}),
        (403, "operation_unmetered", "POST /v1/batches", {}),
        (403, "limit_dimension_missing", CHAT, {"model": "gpt-4o", "limits": {"team": ["5 usd"]}}),
    ],
)
def test_a_budget_says_what_it_would_deny_whatever_is_left(status: int, reason: str, target: str, options: dict[str, Any]) -> None:
    guard = limited(money={"limits": options.pop("limits", {"caller": ["5 usd"]})})

    assert (False, status, reason) == decided(explain(guard, target, as_=fake_principal(user="ada", roles=["member"]), **options))


@pytest.mark.parametrize(("operation", "target"), [("batches", "POST /v1/batches"), ("count_tokens", "POST /v1/messages/count_tokens")])
def test_a_price_for_each_request_holds_for_what_cannot_be_metered_and_for_what_would_be_free(operation: str, target: str) -> None:
    guard = limited(money={"limits": {"caller": ["5 usd"]}, "flat": {operation: Price(request=1)}})

    assert ["5 usd"] == [one.limit for one in explain(guard, target, as_=ADA, model="gpt-4o").limits]


def test_a_tier_that_is_not_defined_denies() -> None:
    guard = limited(rates={"tiers": {"silver": ["1 concurrent"]}})

    found = explain(guard, CHAT, as_=fake_principal(user="ada", roles=["member"], tier="gold"), model="gpt-4o")
    assert (False, "tier_unknown") == (found.allowed, found.reason)


def test_tokens_of_what_cannot_be_metered_deny() -> None:
    guard = limited(rates={"limits": {"caller": ["100 tokens/day"]}}, money={"flat": {"batches": Price(request=1)}})

    assert (False, 403, "operation_unmetered") == decided(explain(guard, "POST /v1/batches", as_=ADA))


def test_a_layer_behind_the_one_that_denies_is_not_reached() -> None:
    guard = limited(rates={"limits": {"caller": ["9 requests/day"]}}, roles={"member": Role(routes=["/none"])})

    assert () == explain(guard, CHAT, as_=ADA, model="gpt-4o").limits
