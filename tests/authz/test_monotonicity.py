"""Adding a restriction never lets anybody do more: through whole stacks, for any roles, callers and requests."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import anyio
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from llm_authmw import (
    Assurance,
    ConfigurationError,
    Grant,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Principal,
    RBACMiddleware,
    Role,
    Stack,
    StaticKey,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.authz.access import AccessRequest
from llm_authmw.testing import Answer, ManualClock, call, fake_principal
from llm_authmw.testing.witness import Witness

CLOCK = ManualClock()
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
NAMES = ["member", "writer", "reader"]
ROUTES = [
    "*",
    "/v1/**",
    "POST /v1/chat/completions",
    "POST /v1/*",
    "GET /v1/models",
    "/model/**",
    "WS /v1/realtime",
    "POST /v1/other",
    "/mcp",
]
MODELS = ["*", "gpt-4o", "gpt-4o*", "gpt-4o-audio", "o3", "claude-*"]
EXCLUDED = ["!gpt-4o-audio", "!gpt-4o-a*", "!o3", "!claude-opus"]
TOOLS = ["*", "search", "get_*", "web_search"]
OPERATIONS = ["chat", "messages", "embeddings", "realtime", "invoke", "models", "mcp", "unlisted"]
MORE: list[tuple[str, Any]] = [
    ("scopes", ["llm", "llm:write"]),
    ("assurance", Assurance.BOUND),
    ("max_age", 30.0),
    ("acr", ["gold"]),
]
NETWORKS = ["10.0.0.0/8", "192.0.2.0/24"]
TARGETS = [
    "POST /v1/chat/completions",
    "POST /v1/messages",
    "POST /v1/embeddings",
    "GET /v1/models",
    "POST /v1/other",
    "DELETE /v1/other",
    "POST /mcp",
]
WITH_A_MODEL = [*TARGETS[:3], "POST /v1/other", "WS /v1/realtime", "POST /model/{model}/invoke"]
NAMED = ["gpt-4o", "gpt-4o-mini", "gpt-4o-audio", "o3", "claude-opus", "not a model"]

World: TypeAlias = dict[str, Any]
"""Roles, grants and a caller, as what makes them takes them."""
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]


EXAMPLES = settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


class Counted:
    """The innermost layer: how often a request has come as far as the app."""

    def __init__(self, app: ASGIApp, *, counts: list[str]) -> None:
        self.app = app
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.counts.append(scope["type"])
        await self.app(scope, receive, send)


def some(texts: list[str], *, least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(texts), min_size=least, max_size=4, unique=True)


def rarely(strategy: st.SearchStrategy[Any], usual: Any) -> st.SearchStrategy[Any]:
    """What is usual most of the time: a request that everything denies says nothing of a restriction more."""
    return st.sampled_from([False, False, False, False, False, True]).flatmap(lambda rare: strategy if rare else st.just(usual))


def mostly_all(texts: list[str]) -> st.SearchStrategy[list[str]]:
    return st.one_of(st.just(["*"]), some(texts, least=2), st.lists(st.sampled_from(texts[1:]), min_size=3, max_size=5, unique=True))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    roles: dict[str, Any] = {}
    for name in NAMES[: draw(st.integers(1, 3))]:
        roles[name] = {
            "routes": draw(mostly_all(ROUTES)),
            "models": draw(mostly_all(MODELS)) + draw(rarely(some(EXCLUDED), [])),
            "tools": draw(mostly_all(TOOLS)),
            "operations": draw(rarely(some(OPERATIONS, least=1), None)),
            "inherits": draw(rarely(some(sorted(roles)), [])) if roles else [],
            "scopes": draw(rarely(st.just(["llm"]), [])),
            "assurance": draw(rarely(st.just(Assurance.SIGNED), None)),
            "networks": draw(rarely(some(NETWORKS, least=1), None)),
            "max_age": draw(rarely(st.just(60.0), None)),
            "shadow": draw(rarely(st.just(value=True), False)),
        }
    return {
        "roles": roles,
        "grants": [{"role": name, "group": f"{name}s"} for name in draw(some(sorted(roles)))],
        "default_role": draw(st.none() | st.sampled_from(sorted(roles))),
        "principal": {
            "roles": draw(st.just([]) | some(sorted(roles), least=1)) + draw(rarely(st.just(["undefined"]), [])),
            "groups": draw(some([f"{name}s" for name in NAMES])),
            "scopes": draw(rarely(st.just([]), ["llm"])),
            "assurance": draw(st.sampled_from([Assurance.SHARED_SECRET, Assurance.SIGNED])),
            "authenticated_at": draw(rarely(st.sampled_from([None, CLOCK.now() - 61]), CLOCK.now() - 31)),
            "models": draw(rarely(some(MODELS), None)),
            "routes": draw(rarely(some(ROUTES), None)),
            "networks": draw(rarely(some(NETWORKS), None)),
        },
        "authorizer": None,
        "shadow": False,
    }


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    address = draw(rarely(st.sampled_from(["192.0.2.9", "203.0.113.7"]), "10.1.2.3"))
    model = draw(st.one_of(st.sampled_from(NAMED[:4]), st.sampled_from(NAMED), st.none()))
    if model is None:
        asked: dict[str, Any] = {"target": draw(st.sampled_from(TARGETS))}
    else:
        asked = {"target": draw(st.sampled_from(WITH_A_MODEL)), "model": model}
    if asked["target"] == "POST /mcp":
        tool = draw(st.sampled_from(["search", "get_it", "delete"]))
        asked["json"] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}
    elif asked["target"] == TARGETS[0]:
        asked["json"] = draw(st.sampled_from([None, {"fallbacks": ["o3"]}, {"models": ["gpt-4o"]}, {"tools": [{"type": "web_search"}]}]))
    return {**asked, "address": address}


def role_of(draw: Draw, world: World) -> dict[str, Any]:
    role: dict[str, Any] = world["roles"][draw(st.sampled_from(sorted(world["roles"])))]
    return role


def exclude_a_model(draw: Draw, world: World) -> None:
    role_of(draw, world)["models"].append(draw(st.sampled_from(EXCLUDED)))


def take_a_pattern_away(draw: Draw, world: World) -> None:
    role, field = role_of(draw, world), draw(st.sampled_from(["routes", "models", "tools"]))
    # What is excluded stays so: to take that away is to allow more.
    including = [text for text in role[field] if not text.startswith("!")]
    if including:
        role[field].remove(draw(st.sampled_from(including)))


def take_an_inherited_role_away(draw: Draw, world: World) -> None:
    inheriting = [name for name, role in world["roles"].items() if role["inherits"]]
    # Whoever is left with roles on trial only is denied nothing.
    if inheriting and not any(role["shadow"] for role in world["roles"].values()):
        world["roles"][draw(st.sampled_from(inheriting))]["inherits"].pop()


def ask_for_more(draw: Draw, world: World) -> None:
    field, value = draw(st.sampled_from(MORE))
    role_of(draw, world)[field] = value


def narrow_a_list(draw: Draw, world: World) -> None:
    role, field = role_of(draw, world), draw(st.sampled_from(["networks", "operations"]))
    given = role[field] or (NETWORKS if field == "networks" else OPERATIONS)
    role[field] = draw(some(given, least=1))


def restrict_the_credential(draw: Draw, world: World) -> None:
    field, texts = draw(st.sampled_from([("models", MODELS), ("routes", ROUTES), ("networks", NETWORKS)]))
    given = world["principal"][field]
    world["principal"][field] = draw(some(texts if given is None else given)) if given != [] else []


def exclude_a_model_of_the_credential(draw: Draw, world: World) -> None:
    principal = world["principal"]
    principal["models"] = [*(principal["models"] or ["*"]), draw(st.sampled_from(EXCLUDED))] if principal["models"] != [] else []


def ask_an_engine(draw: Draw, world: World) -> None:
    refused = draw(st.sampled_from(NAMED))

    def authorize(request: AccessRequest) -> bool:
        return request.call is None or refused not in request.call.models

    world["authorizer"] = authorize


def take_the_default_away(draw: Draw, world: World) -> None:
    del draw
    world["default_role"] = None


RESTRICTIONS: dict[str, Callable[[Draw, World], None]] = {
    restriction.__name__.replace("_", " "): restriction
    for restriction in (
        exclude_a_model,
        take_a_pattern_away,
        take_an_inherited_role_away,
        ask_for_more,
        narrow_a_list,
        restrict_the_credential,
        exclude_a_model_of_the_credential,
        ask_an_engine,
        take_the_default_away,
    )
}


def layers_of(world: World, counts: list[str]) -> list[Middleware]:
    roles = {name: Role(**options) for name, options in world["roles"].items()}
    return [
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY)})),
        Middleware(
            RBACMiddleware,
            roles=roles,
            grants=[Grant(**options) for options in world["grants"]],
            default_role=world["default_role"],
            authorizer=world["authorizer"],
            shadow=world["shadow"],
            clock=CLOCK,
        ),
        Middleware(Counted, counts=counts),
    ]


class Guarded(NamedTuple):
    """Layers, who calls, and how often the app was reached."""

    stack: Stack
    principal: Principal
    reached: list[str]


def made(world: World) -> Guarded:
    """Put a world together; one that there cannot be is another example: a restriction may leave nothing that a role allows."""
    reached: list[str] = []
    try:
        return Guarded(Stack(*layers_of(world, reached)), fake_principal(**world["principal"]), reached)
    except ConfigurationError:
        reject()


def answer(guarded: Guarded, asked: dict[str, Any], guard: Any = None) -> Answer:
    """Ask, and see that the app was reached exactly where the answer says so."""
    before = len(guarded.reached)
    found = anyio.run(partial(call, guard or guarded.stack, **asked, as_=guarded.principal))
    assert (len(guarded.reached) - before == 1) == found.allowed, found
    assert found.allowed == (found.status in (101, 200)) == (found.denial is None), found
    if not found.allowed:
        assert found.status in (400, 401, 403, 413, 415), found
        assert found.reason, found
        assert found.layer, found
    return found


@pytest.mark.parametrize("restriction", RESTRICTIONS)
def test_a_restriction_never_turns_a_denial_into_an_allowance(restriction: str) -> None:
    @EXAMPLES
    @given(st.data(), worlds(), questions())
    def holds(data: st.DataObject, wide: World, asked: dict[str, Any]) -> None:
        narrow = copy.deepcopy(wide)
        RESTRICTIONS[restriction](data.draw, narrow)
        before, after = answer(made(wide), asked), answer(made(narrow), asked)
        assert before.allowed or not after.allowed, f"{before}\n{after}"

    holds()


ALL: dict[str, Any] = {"models": ["*"], "tools": ["*"], "operations": None, "networks": None, "inherits": [], "scopes": [], "shadow": False}
GENEROUS: World = {
    "roles": {"reader": ALL | {"routes": ["*"]}, "member": ALL | {"routes": ["/mcp", "POST /v1/chat/completions"], "inherits": []}},
    "grants": [],
    "default_role": "member",
    "principal": {"scopes": ["llm"], "models": None, "routes": None, "networks": None, "authenticated_at": CLOCK.now() - 61},
    "authorizer": None,
    "shadow": False,
}
DRAWN: dict[str, list[list[Any]]] = {
    "exclude a model": [["member", "!o3"]],
    "take a pattern away": [["member", "routes", "POST /v1/chat/completions"], ["member", "models", "*"]],
    "take an inherited role away": [["member"]],
    "ask for more": [[more, "member"] for more in MORE],
    "narrow a list": [["member", "networks", ["192.0.2.0/24"]], ["member", "operations", ["embeddings"]]],
    "restrict the credential": [[("models", MODELS), ["gpt-4o"]], [("routes", ROUTES), ["/mcp"]], [("networks", NETWORKS), []]],
    "exclude a model of the credential": [["!o3"]],
    "ask an engine": [["o3"]],
    "take the default away": [[]],
}


@pytest.mark.parametrize(("restriction", "drawn"), [(name, drawn) for name, each in DRAWN.items() for drawn in each])
def test_each_restriction_denies_what_was_allowed(restriction: str, drawn: list[Any]) -> None:
    """A property of restrictions that restrict nothing would hold as well."""
    wide = copy.deepcopy(GENEROUS)
    if restriction == "take an inherited role away":
        wide["roles"]["member"] |= {"routes": ["/mcp"], "inherits": ["reader"]}
    asked = {"target": "POST /v1/chat/completions", "model": "o3", "address": "10.1.2.3"}
    assert answer(made(wide), asked).allowed
    values = iter(drawn)
    RESTRICTIONS[restriction](lambda _: next(values), wide)
    assert not answer(made(wide), asked).allowed


def test_every_restriction_is_shown_to_restrict() -> None:
    assert RESTRICTIONS.keys() == DRAWN.keys()


@EXAMPLES
@given(worlds(), questions())
def test_what_is_enforced_allows_no_more_than_the_same_on_trial(world: World, asked: dict[str, Any]) -> None:
    enforced, on_trial = answer(made(world), asked), answer(made(world | {"shadow": True}), asked)
    assert on_trial.allowed or not enforced.allowed, f"{enforced}\n{on_trial}"
    if enforced.allowed:
        assert enforced.shadowed == () or any(role["shadow"] for role in world["roles"].values())
    elif on_trial.allowed:
        assert enforced.reason in [denial.reason for denial in on_trial.shadowed], f"{enforced}\n{on_trial}"
    else:
        assert on_trial.layer == "KeyAuthMiddleware" or on_trial.status in (400, 413, 415), on_trial


@EXAMPLES
@given(worlds(), questions())
def test_a_router_of_one_policy_answers_as_its_stack(world: World, asked: dict[str, Any]) -> None:
    guarded = made(world)
    router = PolicyRouter(Witness(), policies=[Policy("*", guarded.stack)])
    one, other = answer(guarded, asked), answer(guarded, asked, router)
    assert (one.allowed, one.status, one.reason, one.rule) == (other.allowed, other.status, other.reason, other.rule), f"{one}\n{other}"


@EXAMPLES
@given(worlds(), worlds(), questions())
def test_two_layers_allow_what_both_of_them_allow(one: World, other: World, asked: dict[str, Any]) -> None:
    other = other | {"principal": one["principal"]}
    each = [answer(made(world), asked) for world in (one, other)]
    reached: list[str] = []
    keys, first, counted = layers_of(one, reached)
    both = Guarded(Stack(keys, first, layers_of(other, [])[1], counted), fake_principal(**one["principal"]), reached)
    assert answer(both, asked).allowed == all(found.allowed for found in each), each


@EXAMPLES
@given(worlds(), questions())
def test_no_roles_let_anybody_in_who_shows_no_credential(world: World, asked: dict[str, Any]) -> None:
    guarded = made(world)
    found = anyio.run(partial(call, guarded.stack, **asked))
    assert (False, 401, "missing_credential", []) == (found.allowed, found.status, found.reason, guarded.reached), found
