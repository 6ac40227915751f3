"""What holds for any roles, callers and requests: the compiled rules against the patterns that they were made of."""

import ipaddress
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_authmw.authz.access import AccessRequest, Verdict
from llm_authmw.authz.explanation import RoleExplained
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import ConfigurationError
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.network import in_networks, parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern, model_allowed, route_allowed
from llm_authmw.principal import NAMED_BY_OTHERS, Assurance, Principal

CHAT = Operation(name="chat", routes=["chat"])
FILES = Operation(name="files", routes=["files"], needs_model=False)
NAMES = ["red", "green", "blue", "grey"]
ROUTES = ["*", "/a", "/a/**", "/a/*", "GET /a", "POST /a/b", "/*/b", "WS /a", "GET,DELETE /**", "/v1/b", "/tools/b"]
MODELS = ["*", "m", "m1", "m2", "m*", "m1*", "n", "!m1", "!m2*", "!n"]
OPERATIONS = ["chat", "files", UNLISTED]
TOOLS = ["*", "search", "get_*", "!get_all", "resource:f:/a/*", "resource:f:/a/../b"]
NETWORKS = ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
PATHS = ["/", "/a", "/a/", "/a/b", "/c/b", "/c", "/v1/b", "/tools/b"]
METHODS = ["GET", "HEAD", "POST", "DELETE", "WS", "BREW"]
NOW = 1_000_000.0
WITHOUT_BODY = {"GET", "HEAD", "OPTIONS", "DELETE"}

Spec = dict[str, dict[str, Any]]
"""Roles, as the arguments of `Role`."""


def few(texts: list[str], *, least: int = 0) -> list[list[str]]:
    return [list(chosen) for number in range(least, 4) for chosen in itertools.combinations(texts, number)]


def accepted(field: str, texts: list[str]) -> list[list[str]]:
    """Return the lists of up to three in which no pattern contradicts another one."""
    found: list[list[str]] = []
    for chosen in few(texts):
        try:
            AccessRules(roles={"red": Role(routes=["*"], **{field: chosen})})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except ConfigurationError:
            continue
        found.append(chosen)
    return found


def rarely(usual: Any, others: list[Any]) -> st.SearchStrategy[Any]:
    """One of the others, a third of the time: most examples have to get past most checks."""
    return st.sampled_from([usual] * 2 * len(others) + others)


LIKE_AN_API = {"/v1/b", "/tools/b"}

# Strategies are made once, and a list is one draw: there are many of them in an example.
SOME = {"routes": st.sampled_from(few(ROUTES)), "networks": st.sampled_from(few(NETWORKS)), "models": st.sampled_from(few(MODELS))}
SOME_ROLES = st.sampled_from(few(NAMES))
SOME_OPERATIONS = st.sampled_from(few(OPERATIONS, least=1))
ORDERS = st.sampled_from([list(order) for number in range(2, 5) for order in itertools.permutations(NAMES, number)])
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "routes": rarely(["*"], few(ROUTES, least=1)),
        "models": st.sampled_from(accepted("models", MODELS)),
        "tools": rarely(["*"], accepted("tools", TOOLS)),
        "operations": rarely(None, few(OPERATIONS, least=1)),
        "inherits": SOME_ROLES,
        "scopes": rarely([], few(["s1", "s2"])),
        "assurance": rarely(None, [Assurance.SHARED_SECRET, Assurance.SIGNED]),
        "networks": rarely(None, few(NETWORKS, least=1)),
        "max_age": rarely(None, [30.0, 300.0]),
        "acr": rarely([], few(["gold", "silver"])),
        "shadow": rarely(False, [True]),
    }
)


@st.composite
def specs(draw: st.DrawFn, *, shadow: bool = True) -> Spec:
    """Roles under some of the names, each inheriting only from those before it."""
    spec: Spec = {}
    for name in draw(ORDERS):
        fields = draw(FIELDS)
        inherits = [other for other in fields["inherits"] if other in spec]
        spec[name] = {**fields, "inherits": inherits, "tier": f"tier of {name}", "shadow": shadow and fields["shadow"]}
    return spec


SPECS = specs()
ENFORCED = specs(shadow=False)
PRINCIPALS = st.builds(
    Principal,
    user=st.just("ada"),
    method=st.sampled_from(["key", "jwt", "custom"]),
    roles=st.sampled_from(few(NAMES[:2], least=1) + few(NAMES)).map(tuple),
    scopes=st.sampled_from(few(["s1", "s2"])).map(tuple),
    groups=st.sampled_from(few(["g1", "g2"])).map(tuple),
    models=rarely(None, [tuple(chosen) for chosen in few(MODELS)]),
    routes=rarely(None, [tuple(chosen) for chosen in few(ROUTES)]),
    networks=rarely(None, [tuple(chosen) for chosen in few(NETWORKS)]),
    assurance=st.sampled_from([Assurance.ASSERTED, Assurance.SHARED_SECRET, Assurance.BOUND]),
    authenticated_at=st.sampled_from([None, NOW, NOW - 30, NOW - 31, NOW - 300, NOW - 301, NOW + 60, NOW + 61]),
    acr=st.sampled_from([None, "gold", "silver", "tin"]),
)


@st.composite
def made_requests(draw: st.DrawFn) -> AccessRequest:
    operation = draw(st.sampled_from([None, CHAT, FILES]))
    models = tuple(draw(SOME_MODEL_NAMES))
    call = LLMCall(
        dialect="openai",
        operation=UNLISTED if operation is None else operation.name,
        models=models,
        needs_model=operation is CHAT,
        leaves_choice=operation is CHAT and (not models or draw(SOMETIMES)),
        tools=tuple(draw(SOME_TOOL_NAMES)),
    )
    return AccessRequest(
        principal=draw(PRINCIPALS),
        method=draw(st.sampled_from(METHODS)),
        path=draw(st.sampled_from(PATHS)),
        found=None if operation is None else Found(operation, ()),
        call=call,
        address=draw(ADDRESSES),
        now=NOW,
    )


SOMETIMES = st.booleans()
SOME_MODEL_NAMES = st.sampled_from(few(["m", "m1", "m2x", "n", "o"]))
SOME_TOOL_NAMES = rarely([], few(["search", "get_one", "get_all", "resource:f:/a/x", "resource:f:/a/../b"]))
ADDRESSES = st.none() | st.sampled_from(["10.1.2.3", "192.0.2.7", "198.51.100.1", "2001:db8::1"]).map(ipaddress.ip_address)
REQUESTS = made_requests()
Given = Sequence[tuple[str, str, str]]
"""Grants: a role, a condition, its value."""
GRANTS: st.SearchStrategy[Given] = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["scope", "group", "token_role"]), st.sampled_from(["s1", "g1", "red"])), max_size=3
)


def made(spec: Spec, grants: Given = (), default: str | None = None) -> AccessRules:
    """Return the rules; give the example up where they contradict themselves."""
    try:
        given = [Grant(role=role, **{field: value}) for role, field, value in grants if role in spec]  # type: ignore[arg-type]
        return AccessRules(roles={name: Role(**fields) for name, fields in spec.items()}, grants=given, default_role=default)
    except ConfigurationError as error:
        assume("exclud" not in error.problem)
        raise


def verdict(rules: AccessRules, request: AccessRequest) -> Verdict:
    return rules.decide(rules.holder(request.principal), request)


# The reference: one role after the other, one pattern after the other, as the documentation has it.


def roles_of(spec: Spec, grants: Given, default: str | None, who: Principal) -> set[str] | None:
    """Return the names of the roles that the caller has, or None where he has one that is not defined."""
    roles: set[str] = set() if who.method in NAMED_BY_OTHERS else set(who.roles)
    told = {"scope": who.scopes, "group": who.groups, "token_role": who.roles if who.method in NAMED_BY_OTHERS else ()}
    roles |= {role for role, field, value in grants if role in spec and value in told[field]}
    if not roles and default is not None:
        roles = {default}
    if not roles <= set(spec):
        return None
    while more := {name for role in roles for name in spec[role]["inherits"]} - roles:
        roles |= more
    return roles


def models_pass(texts: Any, request: AccessRequest) -> bool:
    assert request.call is not None
    if request.found is not None and request.call.leaves_choice:
        return every(texts)
    return all(model_allowed([ModelPattern.parse(text) for text in texts], model) for model in request.call.models)


def tool_passes(texts: Any, tool: str) -> bool:
    leads_elsewhere = ".." in tool
    return model_allowed([ModelPattern.parse(text) for text in texts], tool) and (not leads_elsewhere or tool in texts or every(texts))


def every(texts: Any) -> bool:
    return "*" in texts and not any(text[0] == "!" for text in texts)


def literally(texts: Any, request: AccessRequest) -> bool:
    return routed([text for text in texts if "*" not in text], request)


def routed(texts: Any, request: AccessRequest) -> bool:
    return route_allowed([RoutePattern.parse(text) for text in texts], request.method, request.path)


def networked(texts: Any, request: AccessRequest) -> bool:
    return request.address is not None and in_networks(request.address, [parse_network(text) for text in texts])


def role_allows(role: dict[str, Any], request: AccessRequest) -> bool:
    who, call, found = request.principal, request.call, request.found
    assert call is not None
    allowed = routed(role["routes"], request)
    allowed &= role["operations"] is None or (UNLISTED if found is None else found.operation.name) in role["operations"]
    if found is not None or request.method not in WITHOUT_BODY:
        allowed &= models_pass(role["models"], request)
        free = every(role["models"]) and found is None
        allowed &= free or all(tool_passes(role["tools"], tool) for tool in call.tools)
        if found is None and request.path in LIKE_AN_API:
            open_to_all = every(role["models"]) and (who.models is None or every(who.models))
            open_to_all &= request.path != "/tools/b" or every(role["tools"])
            allowed &= open_to_all or literally(role["routes"], request)
    allowed &= set(role["scopes"]) <= set(who.scopes)
    allowed &= role["assurance"] is None or who.assurance >= role["assurance"]
    allowed &= role["networks"] is None or networked(role["networks"], request)
    if role["max_age"] is not None:
        allowed &= who.authenticated_at is not None and NOW - role["max_age"] <= who.authenticated_at <= NOW + 60
    return bool(allowed and (not role["acr"] or who.acr in role["acr"]))


def own_allows(roles: list[dict[str, Any]], request: AccessRequest) -> bool:
    """Say whether the credential's own restrictions allow the request."""
    who = request.principal
    allowed = who.networks is None or networked(who.networks, request)
    allowed &= who.routes is None or routed(who.routes, request)
    if who.models is not None and not every(who.models) and (request.found is not None or request.method not in WITHOUT_BODY):
        allowed &= models_pass(who.models, request)
        if request.found is None and request.path in LIKE_AN_API:
            allowed &= any(literally(role["routes"], request) for role in roles)
    return allowed


def reference(spec: Spec, grants: Given, default: str | None, request: AccessRequest) -> bool:
    names = roles_of(spec, grants, default, request.principal)
    if not names:
        return False
    roles = [spec[name] for name in names]
    on_trial = all(role["shadow"] for role in roles)
    return own_allows(roles, request) and (on_trial or any(role_allows(role, request) for role in roles))


@settings(max_examples=500)
@given(SPECS, GRANTS, st.booleans(), REQUESTS)
def test_the_compiled_rules_decide_as_the_patterns_do_one_by_one(
    spec: Spec, grants: Given, with_default: bool, request: AccessRequest
) -> None:
    default = next(iter(spec)) if with_default else None
    assert reference(spec, grants, default, request) == verdict(made(spec, grants, default), request).allowed


@given(SPECS, GRANTS, REQUESTS)
def test_what_is_remembered_changes_nothing(spec: Spec, grants: Given, request: AccessRequest) -> None:
    rules = made(spec, grants)
    first, second = verdict(rules, request), verdict(rules, request)
    assert (first.allowed, first.rule, first.tier, repr(first.denial)) == (second.allowed, second.rule, second.tier, repr(second.denial))


@settings(max_examples=300)
@given(SPECS, REQUESTS)
def test_what_is_decided_before_the_body_is_read_is_what_would_be_decided_after(spec: Spec, request: AccessRequest) -> None:
    rules = made(spec)
    holder = rules.holder(request.principal)
    unread = msgspec.structs.replace(request, call=None)
    early = rules.decide_route(holder, unread)
    assert (early is None) == rules.needs_call(holder, unread)
    if early is not None:
        late = rules.decide(holder, request)
        assert (early.allowed, early.rule, early.tier) == (late.allowed, late.rule, late.tier)
        assert repr(early.denial) == repr(late.denial)


@settings(max_examples=300)
@given(SPECS, GRANTS, st.booleans(), REQUESTS)
def test_an_explanation_says_what_is_decided_and_shows_why(spec: Spec, grants: Given, with_default: bool, request: AccessRequest) -> None:
    rules = made(spec, grants, next(iter(spec)) if with_default else None)
    decided, told = verdict(rules, request), rules.explain(request)
    denial = decided.denial
    assert (decided.allowed, decided.rule, decided.tier, decided.shadowed) == (told.allowed, told.rule, told.tier, told.shadowed)
    assert (None if denial is None else (denial.status, denial.reason, denial.need)) == (
        None if told.reason is None else (told.status, told.reason, told.need)
    )
    held = [role for role in told.roles if role.obtained]
    assert rules.holder(request.principal).roles == tuple(role.name for role in held)
    own = all(check.met for check in told.own)
    if denial is None:
        assert own
        assert any(role.allows for role in held if role.name == decided.rule)
    elif decided.rule is None:
        assert not own
    else:
        # The models of the credential's own are looked at once some role allows the route.
        assert all(check.met for check in told.own if check.name not in {"model", "unlisted"})
        assert not any(role.allows for role in held)
        assert nearest(held) == decided.rule
    msgspec.json.encode(told)


STAGES = ["route", "operation", "unlisted", "model", "tool", "scopes", "assurance", "networks", "max_age", "acr"]
TOGETHER = {"unlisted": "operation"}


def nearest(held: list[RoleExplained]) -> str:
    """Return the role that fails latest: of those that are enforced, where there are any; of several, the first."""

    def failing(role: RoleExplained) -> int:
        return min(STAGES.index(TOGETHER.get(check.name, check.name)) for check in role.checks if not check.met)

    counting = [role for role in held if not role.shadow] or held
    return max(counting, key=failing).name


@given(SPECS, GRANTS, REQUESTS, st.randoms(use_true_random=False))
def test_the_order_of_roles_decides_nothing(spec: Spec, grants: Given, request: AccessRequest, random: Any) -> None:
    names = list(spec)
    random.shuffle(names)
    shuffled = {name: spec[name] for name in names}
    assert verdict(made(spec, grants), request).allowed == verdict(made(shuffled, grants), request).allowed


@given(SPECS, GRANTS, REQUESTS)
def test_a_role_on_trial_changes_nothing_for_those_who_have_another_one(spec: Spec, grants: Given, request: AccessRequest) -> None:
    rules = made(spec, grants)
    holder = rules.holder(request.principal)
    enforced = {name: {**fields, "shadow": False} for name, fields in spec.items()}
    without = verdict(made(enforced, grants), request)
    decided = rules.decide(holder, request)
    if holder.on_trial:
        # What is on trial only ever lets more through, and says what it would have done.
        assert decided.allowed >= without.allowed
        assert (decided.denial is None) == without.allowed
    else:
        assert decided.allowed == without.allowed


@st.composite
def narrowed(draw: st.DrawFn) -> tuple[Spec, Given, Principal, Spec, Given, Principal]:
    """Roles, grants and a caller, and the same with one restriction more."""
    spec, grants, who = draw(ENFORCED), draw(GRANTS), draw(PRINCIPALS)
    if draw(st.booleans()):
        who = msgspec.structs.replace(who, method="key", roles=tuple(sorted(spec))[:2])
    less, fewer, lesser = {name: dict(fields) for name, fields in spec.items()}, grants, who
    role = less[draw(st.sampled_from(sorted(spec)))]
    match draw(st.integers(0, 8)):
        case 0:
            field = draw(st.sampled_from(["models", "routes", "networks"]))
            lesser = msgspec.structs.replace(who, **{field: remove_one(draw, getattr(who, field), SOME[field])})
        case 1:
            role["routes"] = list(remove_one(draw, role["routes"], SOME["routes"], least=1))
        case 2:
            field = draw(st.sampled_from(["models", "tools"]))
            role[field] = [text for text in role[field] if text[0] == "!" or draw(st.booleans())]
        case 3:
            field, text = draw(st.sampled_from([("models", "!m1"), ("models", "!m2*"), ("models", "!n"), ("tools", "!get_all")]))
            role[field] = list(dict.fromkeys([*role[field], text]))
        case 4:
            role["scopes"] = [*role["scopes"], "s1"]
        case 5:
            role["operations"] = list(remove_one(draw, role["operations"], SOME_OPERATIONS, least=1))
        case 6:
            changes = [("networks", ["192.0.2.0/24"]), ("max_age", 30.0), ("acr", ["gold"]), ("assurance", Assurance.BOUND)]
            field, value = draw(st.sampled_from(changes))
            assume(not role[field])
            role[field] = value
        case 7:
            lesser = msgspec.structs.replace(who, roles=who.roles[1:])
        case _:
            fewer = grants[1:]
    return spec, grants, who, less, fewer, lesser


def remove_one(draw: st.DrawFn, texts: Any, lists: st.SearchStrategy[list[str]], *, least: int = 0) -> tuple[str, ...]:
    """Return the list without an entry that allows something; where there is no list, some list."""
    if texts is None:
        return tuple(draw(lists))
    allowing = [text for text in texts if text[0] != "!"]
    assume(len(allowing) > least)
    gone = draw(st.sampled_from(allowing))
    return tuple(text for text in texts if text != gone)


@settings(max_examples=500)
@given(narrowed(), st.data())
def test_one_more_restriction_never_allows_more(case: tuple[Spec, Given, Principal, Spec, Given, Principal], data: st.DataObject) -> None:
    spec, grants, who, less, fewer, lesser = case
    # A role that is not defined refuses whoever has it, until it is taken away.
    assume(who.method in NAMED_BY_OTHERS or set(who.roles) <= set(spec))
    request = msgspec.structs.replace(data.draw(REQUESTS), principal=who)
    before = verdict(made(spec, grants), request)
    after = verdict(made(less, fewer), msgspec.structs.replace(request, principal=lesser))
    assert after.allowed <= before.allowed
