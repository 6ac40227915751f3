import ipaddress
from typing import Any

import msgspec
import pytest

from llm_authmw.authz.access import AccessRequest
from llm_authmw.authz.explanation import Check, Explanation
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.call import LLMCall
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.principal import ANONYMOUS, Assurance, Principal
from llm_authmw.testing import fake_principal

CHAT = Found(Operation(name="chat", routes=["chat/completions"], dialect="openai"), ())
RULES = AccessRules(
    roles={
        "member": Role(routes=["GET /v1/models", "group:chat"], models=["gpt-4o*", "!gpt-4o-audio*"], tools=["get_*"]),
        "admin": Role(
            routes=["*"],
            models=["*"],
            inherits=["member"],
            operations=["files"],
            scopes=["llm:admin"],
            assurance=Assurance.SIGNED,
            networks=["10.0.0.0/8"],
            max_age=300,
            acr=["gold"],
        ),
        "auditor": Role(routes=["GET /audit/**"], shadow=True),
    },
    grants=[
        Grant(role="admin", group="ops", issuer="https://sso"),
        Grant(role="auditor", claims={"department": "audit"}, assurance=Assurance.SIGNED),
    ],
    default_role="member",
    route_groups={"chat": ["POST /v1/chat/completions"]},
)


def explain(
    who: Principal, *models: str, route: str = "POST /v1/chat/completions", found: Found | None = CHAT, **given: Any
) -> Explanation:
    method, _, path = route.partition(" ")
    given.setdefault("leaves_choice", not models)
    call = LLMCall(dialect="openai", operation="chat", models=models, **given)
    where = ipaddress.ip_address("192.0.2.9")
    return RULES.explain(AccessRequest(principal=who, method=method, path=path, found=found, call=call, address=where, now=1000.0))


def check(told: Explanation, role: str, name: str) -> Check:
    (found,) = (check for each in told.roles if each.name == role for check in each.checks if check.name == name)
    return found


def test_an_allowed_request_shows_the_role_and_the_patterns_that_allowed_it() -> None:
    told = explain(fake_principal(), "gpt-4o-mini", tools=("get_weather",))
    assert (True, 200, None, "member", None, False) == (told.allowed, told.status, told.reason, told.rule, told.need, told.shadowed)
    assert ("ada", "POST /v1/chat/completions", "chat", ("gpt-4o-mini",), ("get_weather",)) == (
        *(told.subject, told.route, told.operation),
        *(told.models, told.tools),
    )
    member = told.roles[0]
    assert (("default",), True) == (member.obtained, member.allows)
    assert check(told, "member", "route").by == "POST /v1/chat/completions"
    assert check(told, "member", "model").by == "gpt-4o*"
    assert check(told, "member", "tool").by == "get_*"
    assert [role.obtained for role in told.roles[1:]] == [(), ()]


def test_a_denied_request_shows_what_excluded_it_and_what_was_needed() -> None:
    told = explain(fake_principal(), "gpt-4o-audio-1")
    assert (False, 403, "model_not_allowed", "member", "the model gpt-4o-audio-1") == (
        *(told.allowed, told.status, told.reason),
        *(told.rule, told.need),
    )
    found = check(told, "member", "model")
    assert ("gpt-4o-audio-1", False, "!gpt-4o-audio*") == (found.found, found.met, found.by)
    assert not told.roles[0].allows


def test_every_requirement_is_shown_with_what_was_found() -> None:
    who = fake_principal(groups=["ops"], issuer="https://sso", scopes=["llm:use"], authenticated_at=500.0, acr="tin")
    told = explain(who, "o3")
    shown = {each.name: (each.wanted, each.found, each.met) for each in told.roles[1].checks}
    assert shown == {
        "route": (("*",), "POST /v1/chat/completions", True),
        "operation": (("files",), "chat", False),
        "model": (("*",), "o3", True),
        "scopes": (("llm:admin",), ("llm:use",), False),
        "assurance": ("signed", "shared_secret", False),
        "networks": (("10.0.0.0/8",), "192.0.2.9", False),
        "max_age": (300.0, 500.0, False),
        "acr": (("gold",), "tin", False),
    }


def test_every_grant_is_shown_with_each_of_its_conditions() -> None:
    who = fake_principal(groups=["ops"], issuer="https://other", claims=(("department", ("audit", "law")),), assurance=Assurance.BOUND)
    told = explain(who, "o3")
    assert [(grant.role, grant.met) for grant in told.grants] == [("admin", False), ("auditor", True)]
    assert [(each.name, each.wanted, each.found, each.met) for grant in told.grants for each in grant.conditions] == [
        ("group", "ops", ("ops",), True),
        ("issuer", "https://sso", "https://other", False),
        ("claims.department", "audit", ("audit", "law"), True),
        ("assurance", "signed", "bound", True),
    ]
    assert [role.obtained for role in told.roles] == [(), (), ("grant 1",)]
    assert (True, True, "route_not_allowed") == (told.allowed, told.shadowed, told.reason)


def test_a_role_shows_every_way_in_which_it_was_obtained() -> None:
    told = explain(fake_principal(roles=["admin", "member"], groups=["ops"], issuer="https://sso"), "gpt-4o")
    assert [role.obtained for role in told.roles] == [("own", "inherited from admin"), ("own", "grant 0"), ()]


def test_a_route_that_no_pattern_covers_shows_those_that_missed() -> None:
    told = explain(fake_principal(), "gpt-4o", route="POST /v1/embeddings")
    found = check(told, "member", "route")
    assert (("GET /v1/models", "POST /v1/chat/completions"), "POST /v1/embeddings", False, None) == (
        *(found.wanted, found.found),
        *(found.met, found.by),
    )


def test_a_route_that_no_table_has_shows_what_it_lacks() -> None:
    who = fake_principal(roles=["admin"], models=["gpt-4o"])
    told = explain(who, route="POST /v1/other", found=None)
    assert "unlisted" == told.operation
    assert not check(told, "admin", "unlisted").met
    assert not next(each for each in told.own if each.name == "unlisted").met


def test_the_restrictions_of_the_credential_are_shown() -> None:
    told = explain(fake_principal(models=["gpt-4o"], routes=["GET /x"], networks=["192.0.2.0/24"]), "o3")
    assert [(each.name, each.met, each.by) for each in told.own] == [
        ("roles", True, None),
        ("networks", True, None),
        ("route", False, None),
        ("model", False, None),
    ]
    assert ("route_not_allowed", None) == (told.reason, told.rule)


@pytest.mark.parametrize(
    ("who", "name", "found", "reason"),
    [
        (ANONYMOUS, "credential", None, "missing_credential"),
        (fake_principal(roles=["boss", "member"]), "roles", ("boss", "member"), "role_unknown"),
    ],
)
def test_whoever_is_refused_before_any_role_sees_why(who: Principal, name: str, found: Any, reason: str) -> None:
    told = explain(who, "gpt-4o")
    assert [(name, found, False)] == [(each.name, each.found, each.met) for each in told.own]
    assert reason == told.reason
    assert not any(grant.met for grant in told.grants)


def test_an_explanation_is_json_without_what_the_caller_is_known_by() -> None:
    who = fake_principal(
        groups=["ops"],
        credential_id="id-of-the-key",
        confirmation=(("jkt", "thumbprint"),),
        claims=(("salary", "secret"), ("department", "x")),
    )
    text = msgspec.json.encode(explain(who, "gpt-4o")).decode()
    assert "gpt-4o" in text
    for hidden in ("id-of-the-key", "thumbprint", "salary", "secret"):
        assert hidden not in text.replace("shared_secret", "")
