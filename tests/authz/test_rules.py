import ipaddress
from typing import Any

import msgspec
import pytest

from llm_authmw.authz.access import AccessRequest, StepUp, Verdict
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import InvalidValueError
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.principal import ANONYMOUS, Assurance, Principal
from llm_authmw.testing import fake_principal

CHAT = Found(Operation(name="chat", routes=["chat/completions"], dialect="openai"), ())
LISTING = Found(Operation(name="models", routes=["GET models"], body="none", needs_model=False), ())
NOW = 1_000_000.0


def asked(
    who: Principal,
    route: str = "POST /v1/chat/completions",
    *models: str,
    found: Found | None = CHAT,
    tools: tuple[str, ...] = (),
    read: bool = True,
    address: str | None = None,
) -> AccessRequest:
    method, _, path = route.partition(" ")
    name, needs = (UNLISTED, True) if found is None else (found.operation.name, found.operation.needs_model)
    call = LLMCall(dialect="openai", operation=name, models=models, needs_model=needs, leaves_choice=needs and not models, tools=tools)
    where = None if address is None else ipaddress.ip_address(address)
    return AccessRequest(principal=who, method=method, path=path, found=found, call=call if read else None, address=where, now=NOW)


def decide(rules: AccessRules, request: AccessRequest) -> Verdict:
    return rules.decide(rules.holder(request.principal), request)


def refused(verdict: Verdict) -> tuple[int, str, str | None, str | None]:
    """Return status, reason, rule and need of a refusal that is enforced."""
    assert verdict.denial is not None
    assert not verdict.allowed
    assert verdict.denial.rule == verdict.rule
    return verdict.denial.status, verdict.denial.reason, verdict.rule, verdict.denial.need


def ada(**given: Any) -> Principal:
    fields: dict[str, Any] = {"roles": ["member"], **given}
    return fake_principal(**fields)


ONE = {"member": Role(routes=["POST /v1/chat/completions", "GET /v1/models"], models=["gpt-4o*", "!gpt-4o-audio*"], tier="small")}
RULES = AccessRules(roles=ONE)


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (ANONYMOUS, (401, "missing_credential", None, None)),
        (fake_principal(), (403, "role_missing", None, "a role")),
        (fake_principal(roles=["member"], method="jwt"), (403, "role_missing", None, "a role")),
        (fake_principal(roles=["member", "boss"]), (403, "role_unknown", None, "a role that is defined here")),
    ],
)
def test_nobody_gets_in_without_a_role_that_is_defined(who: Principal, expected: Any) -> None:
    assert expected == refused(decide(RULES, asked(who, "POST /v1/chat/completions", "gpt-4o")))
    assert RULES.allowed_models(RULES.holder(who), ["gpt-4o"]) == []


def test_an_anonymous_caller_has_no_role_whatever_is_granted() -> None:
    grants = [Grant(role="member", method="anonymous"), Grant(role="member", assurance=Assurance.ASSERTED)]
    rules = AccessRules(roles=ONE, grants=grants, default_role="member")
    assert refused(decide(rules, asked(ANONYMOUS, "GET /v1/models", found=LISTING)))[1] == "missing_credential"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked(ada(), "GET /v1/chat/completions"), (403, "route_not_allowed", "member", "a role that allows GET /v1/chat/completions")),
        (asked(ada(), "POST /v1/embeddings", "gpt-4o"), (403, "route_not_allowed", "member", "a role that allows POST /v1/embeddings")),
        (asked(ada(), "POST /v1/chat/completions", "o3"), (403, "model_not_allowed", "member", "the model o3")),
        (asked(ada(), "POST /v1/chat/completions", "gpt-4o", "o3"), (403, "model_not_allowed", "member", "the model o3")),
        (asked(ada(), "POST /v1/chat/completions", "gpt-4o-audio-1"), (403, "model_not_allowed", "member", "the model gpt-4o-audio-1")),
        (asked(ada()), (400, "model_missing", "member", "a model")),
        (
            asked(ada(), "POST /v1/chat/completions", "gpt-4o", tools=("web_search",)),
            (403, "tool_not_allowed", "member", "the tool web_search"),
        ),
    ],
)
def test_a_denial_says_which_role_and_what_would_have_been_needed(request_: AccessRequest, expected: Any) -> None:
    assert expected == refused(decide(RULES, request_))


def test_what_one_role_allows_is_allowed_with_its_tier() -> None:
    verdict = decide(RULES, asked(ada(), "POST /v1/chat/completions", "gpt-4o", "gpt-4o-mini"))
    assert (None, "member", "small", True) == (verdict.denial, verdict.rule, verdict.tier, verdict.allowed)


def test_one_role_never_lends_its_models_to_the_routes_of_another_one() -> None:
    rules = AccessRules(
        roles={"chat": Role(routes=["/v1/chat/completions"], models=["small"]), "embed": Role(routes=["/v1/e"], models=["big"])}
    )
    who = fake_principal(roles=["chat", "embed"])
    assert refused(decide(rules, asked(who, "POST /v1/chat/completions", "big"))) == (403, "model_not_allowed", "chat", "the model big")
    assert refused(decide(rules, asked(who, "POST /v1/e", "small"))) == (403, "model_not_allowed", "embed", "the model small")
    assert refused(decide(rules, asked(who, "POST /v1/e", "big", "small")))[1] == "model_not_allowed"
    assert decide(rules, asked(who, "POST /v1/e", "big")).allowed


def test_a_role_inherited_from_keeps_its_own_requirements() -> None:
    rules = AccessRules(
        roles={
            "staff": Role(routes=["/v1/**"], models=["small"], scopes=["llm:use"]),
            "boss": Role(routes=["/admin/**"], inherits=["staff"]),
        }
    )
    boss = fake_principal(roles=["boss"])
    assert refused(decide(rules, asked(boss, "POST /v1/chat/completions", "small"))) == (403, "insufficient_scope", "staff", "llm:use")
    assert decide(rules, asked(fake_principal(roles=["boss"], scopes=["llm:use"]), "POST /v1/chat/completions", "small")).rule == "staff"


def one(**requirements: Any) -> AccessRules:
    return AccessRules(roles={"member": Role(routes=["*"], models=["*"], tools=["*"], **requirements)})


@pytest.mark.parametrize(
    ("requirement", "who", "address", "expected"),
    [
        ({"scopes": ["b", "a"]}, ada(scopes=["a"]), None, (403, "insufficient_scope", "member", "a b")),
        ({"assurance": Assurance.BOUND}, ada(), None, (403, "assurance_too_low", "member", "an assurance of at least bound")),
        ({"networks": ["10.0.0.0/8"]}, ada(), "192.0.2.1", (403, "network_not_allowed", "member", None)),
        ({"networks": ["10.0.0.0/8"]}, ada(), None, (403, "network_not_allowed", "member", None)),
        ({"networks": ["10.0.0.0/8"]}, ada(), "::1", (403, "network_not_allowed", "member", None)),
        ({"max_age": 60}, ada(), None, (401, "authentication_too_old", "member", "a login of the last 60 seconds")),
        (
            {"max_age": 60},
            ada(authenticated_at=NOW - 60.1),
            None,
            (401, "authentication_too_old", "member", "a login of the last 60 seconds"),
        ),
        (
            {"max_age": 60},
            ada(authenticated_at=NOW + 60.1),
            None,
            (401, "authentication_too_old", "member", "a login of the last 60 seconds"),
        ),
        (
            {"max_age": 60},
            ada(authenticated_at=float("nan")),
            None,
            (401, "authentication_too_old", "member", "a login of the last 60 seconds"),
        ),
        (
            {"acr": ["gold", "x"]},
            ada(acr="tin"),
            None,
            (401, "authentication_class_not_accepted", "member", "a login of the class gold or x"),
        ),
        ({"acr": ["gold"]}, ada(), None, (401, "authentication_class_not_accepted", "member", "a login of the class gold")),
    ],
)
def test_a_requirement_that_is_not_met_denies_with_or_without_the_body(
    requirement: dict[str, Any], who: Principal, address: str | None, expected: Any
) -> None:
    rules = one(**requirement)
    assert expected == refused(decide(rules, asked(who, address=address)))
    assert expected == refused(decide(rules, asked(who, address=address, read=False)))


@pytest.mark.parametrize(
    ("requirement", "who", "address"),
    [
        ({"scopes": ["a", "b"]}, ada(scopes=["a", "b", "c"]), None),
        ({"assurance": Assurance.SHARED_SECRET}, ada(), None),
        ({"networks": ["10.0.0.0/8", "2001:db8::/32"]}, ada(), "10.1.2.3"),
        ({"networks": ["10.0.0.0/8", "2001:db8::/32"]}, ada(), "2001:db8::5"),
        ({"max_age": 60}, ada(authenticated_at=NOW - 60), None),
        ({"max_age": 60}, ada(authenticated_at=NOW + 60), None),
        ({"acr": ["gold", "x"]}, ada(acr="x"), None),
    ],
)
def test_a_requirement_that_is_met_denies_nothing(requirement: dict[str, Any], who: Principal, address: str | None) -> None:
    assert decide(one(**requirement), asked(who, address=address)).denial is None


def test_a_login_that_is_lacking_is_said_in_full_for_the_challenge() -> None:
    rules = one(max_age=60, acr=["gold", "silver"])
    for who in (ada(), ada(authenticated_at=NOW, acr="tin")):
        assert decide(rules, asked(who)).step_up == StepUp(60.0, ("gold", "silver"))
    assert decide(one(acr=["gold"]), asked(ada())).step_up == StepUp(None, ("gold",))
    assert decide(one(scopes=["a"]), asked(ada())).step_up is None


def test_of_several_roles_the_one_that_came_furthest_says_why() -> None:
    rules = AccessRules(
        roles={
            "elsewhere": Role(routes=["/x"]),
            "trial": Role(routes=["*"], models=["o3"], max_age=1, shadow=True),
            "others": Role(routes=["*"], models=["small"]),
            "first": Role(routes=["*"], models=["o3"], scopes=["big"]),
            "second": Role(routes=["*"], models=["o3"], scopes=["other"]),
        }
    )
    who = fake_principal(roles=["elsewhere", "trial", "others", "first", "second"])
    assert refused(decide(rules, asked(who, "POST /v1/chat/completions", "o3"))) == (403, "insufficient_scope", "first", "big")


@pytest.mark.parametrize("route", ["GET /v1/secret", "DELETE /v1/secret", "OPTIONS /v1/secret", "HEAD /v1/secret"])
def test_a_route_that_no_table_has_passes_without_a_body(route: str) -> None:
    rules = AccessRules(roles={"member": Role(routes=["/v1/**"])})
    holder = rules.holder(ada())
    request = asked(ada(), route, found=None, read=False)
    assert not rules.needs_call(holder, request)
    assert rules.decide(holder, request).allowed


@pytest.mark.parametrize("route", ["POST /v1/secret", "PUT /v1/secret", "PATCH /v1/secret", "WS /v1/secret", "BREW /v1/secret"])
def test_a_route_that_no_table_has_needs_its_name_where_models_are_restricted(route: str) -> None:
    wild = AccessRules(roles={"member": Role(routes=["/v1/**"], models=["gpt-4o"])})
    status, reason, rule, need = refused(decide(wild, asked(ada(), route, found=None, read=False)))
    assert (403, "operation_unknown", "member") == (status, reason, rule)
    assert need == f"a role that names {route} without a wildcard, or may use every model"
    literal = AccessRules(roles={"member": Role(routes=["/v1/**", "/v1/secret"], models=["gpt-4o"])})
    assert literal.needs_call(literal.holder(ada()), asked(ada(), route, found=None, read=False))
    assert decide(literal, asked(ada(), route, found=None)).allowed
    assert decide(literal, asked(ada(), route, "gpt-4o", found=None)).allowed
    assert refused(decide(literal, asked(ada(), route, "o3", found=None)))[1] == "model_not_allowed"


def test_a_role_with_every_model_has_no_body_read() -> None:
    rules = AccessRules(roles={"member": Role(routes=["/v1/**"], models=["*"], tools=["*"])})
    holder = rules.holder(ada())
    for found in (CHAT, None):
        assert not rules.needs_call(holder, asked(ada(), found=found, read=False))
        assert rules.decide(holder, asked(ada(), found=found, read=False)).allowed
    toolless = AccessRules(roles={"member": Role(routes=["/v1/**"], models=["*"])})
    assert toolless.needs_call(toolless.holder(ada()), asked(ada(), read=False))
    assert not toolless.needs_call(toolless.holder(ada()), asked(ada(), found=None, read=False))


def test_what_only_the_body_can_tell_is_not_decided_without_it() -> None:
    holder = RULES.holder(ada())
    request = asked(ada(), read=False)
    assert RULES.decide_route(holder, request) is None
    with pytest.raises(ValueError, match="needs_call"):
        RULES.decide(holder, request)
    assert RULES.decide_route(holder, asked(ada(), "POST /x", read=False)) is not None


def test_a_kind_of_request_is_refused_before_the_body_is_read() -> None:
    rules = AccessRules(roles={"member": Role(routes=["/v1/**"], models=["*"], operations=["models"])})
    expected = (403, "operation_not_allowed", "member", "a role that allows requests of the kind 'chat'")
    assert expected == refused(decide(rules, asked(ada(), read=False)))
    assert refused(decide(rules, asked(ada(), "POST /v1/x", found=None, read=False)))[1] == "operation_not_allowed"
    assert rules.operations == {"models"}
    assert decide(rules, asked(ada(), "GET /v1/models", found=LISTING)).allowed


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"models": ["gpt-4o-mini"]}, (403, "model_not_allowed", None, "the model gpt-4o")),
        ({"models": []}, (403, "model_not_allowed", None, "the model gpt-4o")),
        ({"models": ["*", "!gpt-4o"]}, (403, "model_not_allowed", None, "the model gpt-4o")),
        ({"routes": ["GET /v1/**"]}, (403, "route_not_allowed", None, "a credential for POST /v1/chat/completions")),
        ({"routes": []}, (403, "route_not_allowed", None, "a credential for POST /v1/chat/completions")),
        ({"networks": ["10.0.0.0/8"]}, (403, "network_not_allowed", None, None)),
    ],
)
def test_the_restrictions_of_a_credential_narrow(own: dict[str, Any], expected: Any) -> None:
    assert expected == refused(decide(RULES, asked(ada(**own), "POST /v1/chat/completions", "gpt-4o", address="192.0.2.1")))


def test_the_restrictions_of_a_credential_never_widen() -> None:
    chat = "POST /v1/chat/completions"
    wider = ada(models=["*"], routes=["*"], networks=["192.0.2.0/24"])
    assert decide(RULES, asked(wider, chat, "gpt-4o", address="192.0.2.1")).allowed
    assert refused(decide(RULES, asked(wider, chat, "o3", address="192.0.2.1")))[1:3] == ("model_not_allowed", "member")
    assert refused(decide(RULES, asked(ada(models=["gpt-4o"])))) == (400, "model_missing", None, "a model")


def test_the_models_of_a_credential_have_the_body_read_for_a_role_with_every_model() -> None:
    rules = AccessRules(roles={"member": Role(routes=["/v1/**"], models=["*"], tools=["*"])})
    who = ada(models=["gpt-4o"])
    assert rules.needs_call(rules.holder(who), asked(who, read=False))
    assert refused(decide(rules, asked(who, "POST /v1/chat/completions", "o3")))[1] == "model_not_allowed"
    assert refused(decide(rules, asked(who, "POST /v1/secret", found=None, read=False)))[1] == "operation_unknown"


@pytest.mark.parametrize("own", [{"models": ("a*b",)}, {"routes": ("v1",)}, {"networks": ("nowhere",)}])
def test_a_restriction_that_cannot_be_read_decides_nothing(own: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        RULES.holder(Principal(user="ada", method="custom", roles=("member",), **own))


TRIAL = AccessRules(
    roles={"member": Role(routes=["POST /v1/chat/completions"], models=["gpt-4o"], shadow=True), "real": Role(routes=["/x"])}
)


@pytest.mark.parametrize(
    ("route", "models", "reason"),
    [("POST /v1/other", ["gpt-4o"], "route_not_allowed"), ("POST /v1/chat/completions", ["o3"], "model_not_allowed")],
)
def test_what_a_role_on_trial_denies_is_said_and_goes_on(route: str, models: list[str], reason: str) -> None:
    verdict = decide(TRIAL, asked(ada(), route, *models))
    assert verdict.allowed
    assert verdict.shadowed
    assert verdict.denial is not None
    assert (reason, "member") == (verdict.denial.reason, verdict.denial.rule)
    assert not decide(TRIAL, asked(ada(roles=["member", "real"]), route, *models)).allowed


@pytest.mark.parametrize(
    ("own", "route", "found", "reason"),
    [
        ({"models": ["gpt-4o"]}, "POST /v1/chat/completions", CHAT, "model_not_allowed"),
        ({"models": ["gpt-4o"]}, "POST /v1/elsewhere", CHAT, "model_not_allowed"),
        ({"models": ["o3"]}, "POST /v1/elsewhere", None, "operation_unknown"),
        ({"routes": ["/y"]}, "POST /v1/chat/completions", CHAT, "route_not_allowed"),
        ({"networks": ["10.0.0.0/8"]}, "POST /v1/chat/completions", CHAT, "network_not_allowed"),
        ({"roles": ["member", "boss"]}, "POST /v1/chat/completions", CHAT, "role_unknown"),
    ],
)
def test_a_trial_lifts_no_restriction_of_the_credential(own: dict[str, Any], route: str, found: Found | None, reason: str) -> None:
    request = asked(ada(**own), route, "o3", found=found)
    assert refused(decide(TRIAL, request))[1] == reason
    early = TRIAL.decide_route(TRIAL.holder(request.principal), msgspec.structs.replace(request, call=None))
    assert early is None or not early.allowed


def test_a_need_is_short_however_long_the_path_is() -> None:
    need = refused(decide(RULES, asked(ada(), "POST /" + "x" * 5000)))[3]
    assert need is not None
    assert len(need) == 200


def test_a_denial_is_of_its_own_request() -> None:
    first, second = (decide(RULES, asked(ada(), "POST /v1/chat/completions", "o3")) for _ in range(2))
    assert first.denial is not second.denial


def test_the_models_of_a_listing_are_those_of_some_role_and_of_the_credential() -> None:
    rules = AccessRules(roles={**ONE, "more": Role(routes=["*"], models=["o3"])})
    names = ["gpt-4o", "gpt-4o-audio-1", "o3", "claude"]
    assert rules.allowed_models(rules.holder(ada()), names) == ["gpt-4o"]
    assert rules.allowed_models(rules.holder(ada(roles=["member", "more"])), names) == ["gpt-4o", "o3"]
    assert rules.allowed_models(rules.holder(ada(roles=["member", "more"], models=["o*"])), names) == ["o3"]


def test_the_address_is_asked_for_where_it_matters_only() -> None:
    rules = AccessRules(roles={"member": Role(routes=["*"]), "office": Role(routes=["*"], networks=["10.0.0.0/8"])})
    assert not rules.holder(ada()).needs_address
    assert rules.holder(ada(roles=["office"])).needs_address
    assert rules.holder(ada(networks=["10.0.0.0/8"])).needs_address


def test_a_resource_is_allowed_by_a_prefix_only_where_it_leads_to_what_it_begins_with() -> None:
    traversal = "resource:file:///docs/../etc/passwd"
    for tools, allowed in [
        (["resource:file:///docs/*"], False),
        (["*", "!resource:file:///etc/*"], False),
        (["resource:file:///docs/*", traversal], True),
        (["*"], True),
    ]:
        rules = AccessRules(roles={"member": Role(routes=["*"], models=["*"], tools=tools)})
        assert decide(rules, asked(ada(), tools=("resource:file:///docs/a.md",))).allowed
        verdict = decide(rules, asked(ada(), tools=("resource:file:///docs/a.md", traversal)))
        assert allowed == verdict.allowed
        if not allowed:
            assert refused(verdict) == (403, "tool_not_allowed", "member", f"the tool {traversal}")


def test_groups_stand_for_their_patterns() -> None:
    rules = AccessRules(
        roles={"member": Role(routes=["group:chat"], models=["group:small", "!gpt-4o-mini-tts"])},
        route_groups={"chat": ["POST /v1/chat/completions"]},
        model_groups={"small": ["gpt-4o-mini*", "claude-haiku*"]},
    )
    assert decide(rules, asked(ada(), "POST /v1/chat/completions", "claude-haiku-5")).allowed
    assert refused(decide(rules, asked(ada(), "POST /v1/chat/completions", "gpt-4o-mini-tts")))[1] == "model_not_allowed"
    assert refused(decide(rules, asked(ada(), "POST /v1/chat/completions", "group:small")))[1] == "model_not_allowed"
    assert refused(decide(rules, asked(ada(), "GET /v1/chat/completions")))[1] == "route_not_allowed"


def test_a_thousand_roles_are_told_apart() -> None:
    rules = AccessRules(roles={f"r{number}": Role(routes=[f"/t/{number}"], models=[f"m{number}*"]) for number in range(1000)})
    who = fake_principal(roles=[f"r{number}" for number in range(1000)])
    assert decide(rules, asked(who, "POST /t/999", "m999-large")).rule == "r999"
    assert decide(rules, asked(who, "POST /t/99", "m999-large")).rule == "r99"
    assert refused(decide(rules, asked(who, "POST /t/999", "m998"))) == (403, "model_not_allowed", "r999", "the model m998")


def test_a_role_to_which_the_body_does_not_matter_counts_whether_or_not_it_was_read() -> None:
    rules = AccessRules(
        roles={"some": Role(routes=["*"], models=["gpt-4o"], tier="a"), "all": Role(routes=["*"], models=["*"], tools=["*"], tier="b")}
    )
    who = fake_principal(roles=["some", "all"])
    for read in (True, False):
        verdict = decide(rules, asked(who, "POST /v1/chat/completions", "gpt-4o", read=read))
        assert ("all", "b") == (verdict.rule, verdict.tier)
