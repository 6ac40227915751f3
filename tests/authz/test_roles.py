import math
from typing import Any

import pytest

from llm_authmw.authz.grants import Grant
from llm_authmw.authz.presets import proxy_roles
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.errors import ConfigurationError
from llm_authmw.principal import ANONYMOUS, Assurance
from llm_authmw.testing import fake_principal
from llm_authmw.tokens.introspection import Introspector
from llm_authmw.tokens.issuer import Issuer


def made(kind: Any, options: dict[str, Any]) -> Any:
    """Make it of options that its types would refuse."""
    return kind(**options)


MEMBER = Role(routes=["/v1/**"], models=["gpt-4o*"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, "gpt-4o*") for option in ("routes", "models", "tools", "operations", "inherits", "scopes", "networks", "acr")),
        ("acr", ["gold silver"]),
        ("acr", ["göld"]),
        *((option, [1]) for option in ("routes", "models", "tools", "operations", "inherits", "scopes", "networks", "acr")),
        ("routes", ["v1/chat"]),
        ("routes", ["get /v1"]),
        ("routes", ["/v1/gpt*"]),
        ("models", ["gpt*4o"]),
        ("models", ["!!o3"]),
        ("models", ["!group:small"]),
        ("models", ["gpt-4o", "!gpt-4o"]),
        ("models", ["gpt-4o", "gpt-5", "!gpt*"]),
        ("models", ["gpt-4o*", "!gpt*"]),
        ("models", ["*", "!*"]),
        ("tools", ["get*all"]),
        ("tools", ["search", "!sea*"]),
        ("operations", []),
        ("scopes", ["llm:read llm:write"]),
        ("networks", []),
        ("networks", ["10.0.0.1/8"]),
        ("networks", ["example.com"]),
        ("assurance", 3),
        ("assurance", "signed"),
        ("assurance", Assurance.ASSERTED),
        *(("max_age", value) for value in (0, -1, math.nan, math.inf, True, "60")),
        *(("tier", value) for value in ("", 1, "a\nb")),
        *(("shadow", value) for value in (1, "yes", None)),
    ],
)
def test_a_role_refuses_an_option_that_is_wrong_or_contradicts_itself(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(Role, {"routes": ["*"], "models": ["*"], option: value})
    assert refused.value.option == option


def test_a_role_that_allows_no_route_and_inherits_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="allows no request") as refused:
        Role()
    assert refused.value.option == "routes"


@pytest.mark.parametrize(
    "ignored",
    [{"models": ["*"]}, {"tools": ["*"]}, {"operations": ["chat"]}, {"scopes": ["x"]}, {"max_age": 60}, {"assurance": Assurance.SIGNED}],
)
def test_what_a_role_without_routes_would_ignore_is_refused(ignored: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Role(inherits=["member"], **ignored)
    assert [refused.value.option] == list(ignored)


def test_a_role_keeps_lists_that_nobody_can_change_behind_it() -> None:
    routes = ["/v1/**", "/v1/**"]
    role = Role(routes=routes, networks=["::ffff:10.0.0.0/104"])
    routes.append("*")
    assert (("/v1/**",), ("10.0.0.0/8",)) == (role.routes, role.networks)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((option, ["a"]) for option in ("role", "scope", "group", "token_role", "team", "org", "tag", "client", "realm", "method")),
        *((option, "") for option in ("role", "scope", "group", "token_role", "team", "org", "tag", "client", "realm", "method")),
        ("issuer", 1),
        ("scope", "a b"),
        ("claims", {}),
        ("claims", "department"),
        ("claims", {"": "x"}),
        ("claims", {"department": None}),
        ("claims", {"department": ["research"]}),
        ("claims", {"level": math.nan}),
        ("email_domain", "ada@example.com"),
        ("email_domain", "ex\u00e4mple.com"),
        ("email_domain", "exam ple.com\n"),
        ("assurance", 4),
    ],
)
def test_a_grant_refuses_an_option_that_is_wrong(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(Grant, {"role": "member", "group": "staff", option: value})
    assert refused.value.option == option


def test_a_grant_without_a_condition_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no condition"):
        Grant(role="member")


GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "scope": ({"scope": "llm"}, {"scopes": ["llm", "x"]}, {"scopes": ["llm2"]}),
    "group": ({"group": "staff"}, {"groups": ["staff"]}, {"groups": ["Staff"]}),
    "role of a token": ({"token_role": "r"}, {"roles": ["r"], "method": "jwt"}, {"roles": ["q"], "method": "jwt"}),
    "claim": ({"claims": {"dept": "r"}}, {"claims": (("dept", "r"),)}, {"claims": (("dept", "s"),)}),
    "claim of several": ({"claims": {"dept": "r"}}, {"claims": (("dept", ("q", "r")),)}, {"claims": (("dept", ("q",)),)}),
    "two claims": ({"claims": {"a": 1, "b": True}}, {"claims": (("a", 1), ("b", True))}, {"claims": (("a", 1),)}),
    "dotted claim": ({"claims": {"a.b": "r"}}, {"claims": (("a.b", "r"),)}, {"claims": (("a", "r"), ("b", "r"))}),
    "domain": ({"email_domain": "Example.com"}, {"email": "ada@EXAMPLE.com"}, {"email": "ada@sub.example.com"}),
    "team": ({"team": "blue"}, {"team": "blue"}, {"team": "Blue"}),
    "org": ({"org": "acme"}, {"org": "acme"}, {}),
    "tag": ({"tag": "ci"}, {"tags": ["ci"]}, {"tags": ["cd"]}),
    "client": ({"client": "app"}, {"client": "app"}, {"client": "application"}),
    "assurance": ({"assurance": Assurance.SIGNED}, {"assurance": Assurance.BOUND}, {"assurance": Assurance.INTROSPECTED}),
    "issuer": ({"issuer": "https://sso"}, {"issuer": "https://sso"}, {"issuer": "https://sso/"}),
    "realm": ({"realm": "staff"}, {"realm": "staff"}, {"realm": "keys"}),
    "method": ({"method": "jwt"}, {"method": "jwt"}, {"method": "introspection"}),
    "all of them": ({"team": "blue", "group": "g"}, {"team": "blue", "groups": ["g"]}, {"team": "blue"}),
}


@pytest.mark.parametrize(("grant", "who", "other"), GIVEN.values(), ids=list(GIVEN))
def test_a_grant_gives_its_role_to_those_for_whom_all_its_conditions_hold(
    grant: dict[str, Any], who: dict[str, Any], other: dict[str, Any]
) -> None:
    rules = AccessRules(roles={"member": MEMBER}, grants=[Grant(role="member", **grant)])
    assert rules.holder(fake_principal(**other)).roles == ()
    assert rules.holder(fake_principal()).roles == ()
    assert rules.holder(fake_principal(**who)).roles == ("member",)


@pytest.mark.parametrize(
    "email", ["ada@evil.com@example.com", "@example.com", "ada", "example.com", "ada@example.com@", "ada@\u212axample.com"]
)
def test_a_domain_is_granted_to_no_address_that_has_not_exactly_one(email: str) -> None:
    rules = AccessRules(roles={"member": MEMBER}, grants=[Grant(role="member", email_domain="example.com")])
    assert rules.holder(fake_principal(email=email)).roles == ()
    kelvin = AccessRules(roles={"member": MEMBER}, grants=[Grant(role="member", email_domain="kxample.com")])
    assert kelvin.holder(fake_principal(email=email)).roles == ()


@pytest.mark.parametrize(("wanted", "found"), [(True, 1), (1, True), ("1", 1), ("true", True), (0, False), ("r", None), ("", None)])
def test_a_claim_of_another_type_is_another_value(wanted: Any, found: Any) -> None:
    rules = AccessRules(roles={"member": MEMBER}, grants=[Grant(role="member", claims={"x": wanted})])
    assert rules.holder(fake_principal(claims=(("x", wanted),))).roles == ("member",)
    # Equal to Python, and so is what is remembered of the one before.
    assert rules.holder(fake_principal(claims=(("x", found),))).roles == ()
    assert rules.holder(fake_principal(claims=(("x", wanted),))).roles == ("member",)


def test_a_role_of_our_own_records_is_no_role_of_a_token() -> None:
    grant = Grant(role="admin", token_role="member")
    rules = AccessRules(roles={"member": MEMBER, "admin": MEMBER}, grants=[grant])
    assert rules.holder(fake_principal(roles=["member"], method="key")).roles == ("member",)
    assert rules.holder(fake_principal(roles=["member"], method="jwt")).roles == ("admin",)


def test_a_grant_takes_the_objects_that_callers_come_from() -> None:
    issuer = Issuer("https://sso.example.com", audience="api", secret="s" * 32)
    introspector = Introspector(endpoint="https://idp.example.com/introspect", client_id="us", client_secret="secret-secret")
    assert Grant(role="member", issuer=issuer).issuer == "https://sso.example.com"
    assert Grant(role="member", issuer=introspector).issuer == introspector.source


@pytest.mark.parametrize(
    ("grant", "anybody"),
    [
        ({"scope": "llm"}, True),
        ({"team": "blue"}, True),
        ({"claims": {"a": "b"}}, True),
        ({"scope": "llm", "method": "jwt"}, True),
        ({"scope": "llm", "realm": "staff"}, True),
        ({"scope": "llm", "issuer": "https://sso"}, False),
        ({"team": "blue", "method": "key"}, False),
        ({"assurance": Assurance.SIGNED}, False),
        ({"method": "jwt"}, False),
    ],
)
def test_a_grant_says_whether_any_source_of_tokens_could_give_its_role(grant: dict[str, Any], anybody: bool) -> None:
    given = Grant(role="member", **grant)
    assert anybody == given.believes_any_source
    rules = AccessRules(roles={"member": MEMBER}, grants=[given])
    assert rules.needs_issuer == ((given,) if anybody else ())
    assert rules.kept_claims == frozenset(grant.get("claims", ()))


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("roles", {"roles": {}}),
        ("roles", {"roles": [MEMBER]}),
        ("roles", {"roles": {"member": "admin"}}),
        ("roles", {"roles": {"": MEMBER}}),
        ("roles", {"roles": {"a\nb": MEMBER}}),
        ("inherits", {"roles": {"admin": Role(routes=["*"], inherits=["member"])}}),
        ("inherits", {"roles": {"a": Role(inherits=["a"])}}),
        ("inherits", {"roles": {"a": Role(inherits=["b"]), "b": Role(inherits=["c"]), "c": Role(routes=["*"], inherits=["a"])}}),
        ("default_role", {"default_role": "guest"}),
        ("grants", {"grants": Grant(role="member", scope="x")}),
        ("grants", {"grants": ["member"]}),
        ("grants", {"grants": [Grant(role="admin", scope="x")]}),
        ("routes", {"roles": {"member": Role(routes=["group:chat"])}}),
        ("models", {"roles": {"member": Role(routes=["*"], models=["group:small"])}}),
        ("route_groups", {"route_groups": {"chat": ["/v1/chat"]}}),
        ("model_groups", {"model_groups": {"small": ["gpt-4o-mini"]}}),
        ("model_groups", {"model_groups": ["small"]}),
        ("models", {"roles": {"member": Role(routes=["*"], models=["!o3"])}}),
        ("models", {"roles": {"member": Role(routes=["*"], models=["gpt-4o*", "!o3"])}}),
        ("tools", {"roles": {"member": Role(routes=["*"], tools=["get_*", "!put_all"])}}),
    ],
)
def test_rules_refuse_what_is_not_defined_not_used_or_goes_in_a_circle(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(AccessRules, {"roles": {"member": MEMBER}, **given})
    assert refused.value.option == option


@pytest.mark.parametrize(
    ("option", "patterns"),
    [
        ("route_groups", ["v1"]),
        ("route_groups", []),
        ("route_groups", ["group:other"]),
        ("model_groups", ["a*b"]),
        ("model_groups", ["!group:x"]),
    ],
)
def test_a_group_holds_patterns_only(option: str, patterns: list[str]) -> None:
    roles = {
        "member": Role(routes=["group:x"] if option == "route_groups" else ["*"], models=["group:x"] if option == "model_groups" else ["*"])
    }
    with pytest.raises(ConfigurationError) as refused:
        AccessRules(roles=roles, **{option: {"x": patterns}})  # type: ignore[arg-type]
    assert refused.value.option == option


@pytest.mark.parametrize("option", ["route_groups", "model_groups"])
def test_a_group_that_is_a_bare_string_is_refused(option: str) -> None:
    roles = {
        "member": Role(routes=["group:x"] if option == "route_groups" else ["*"], models=["group:x"] if option == "model_groups" else ["*"])
    }
    with pytest.raises(ConfigurationError, match="single one"):
        AccessRules(roles=roles, **{option: {"x": "gpt*"}})  # type: ignore[arg-type]


def test_whoever_has_a_role_has_those_that_it_inherits_and_what_they_inherit() -> None:
    rules = AccessRules(
        roles={"guest": MEMBER, "admin": Role(inherits=["member"]), "member": Role(routes=["/x"], inherits=["guest"]), "other": MEMBER}
    )
    assert rules.holder(fake_principal(roles=["admin"])).roles == ("guest", "admin", "member")
    assert rules.holder(fake_principal(roles=["guest"])).roles == ("guest",)


def test_the_default_role_is_for_somebody_without_any_other() -> None:
    roles = {"member": MEMBER, "guest": MEMBER}
    rules = AccessRules(roles=roles, grants=[Grant(role="member", scope="llm")], default_role="guest")
    assert rules.holder(fake_principal()).roles == ("guest",)
    assert rules.holder(fake_principal(roles=["anything"], method="jwt")).roles == ("guest",)
    assert rules.holder(fake_principal(roles=["member"])).roles == ("member",)
    assert rules.holder(fake_principal(scopes=["llm"])).roles == ("member",)
    assert rules.holder(ANONYMOUS).roles == ()


def test_callers_without_end_fill_no_memory() -> None:
    rules = AccessRules(roles={"member": MEMBER}, default_role="member")
    for number in range(4200):
        rules.holder(fake_principal(user=f"u{number}"))
    assert len(rules.holders._remembered) <= 4096


def test_a_caller_is_looked_up_once() -> None:
    rules = AccessRules(roles={"member": MEMBER}, default_role="member")
    assert rules.holder(fake_principal()) is rules.holder(fake_principal())


def test_the_roles_that_every_proxy_has_are_ready() -> None:
    roles = proxy_roles()
    assert list(roles) == ["proxy_admin", "team", "internal_user", "customer"]
    rules = AccessRules(roles=roles)
    mask = rules.tables.routes.mask
    # In the order above, from the right.
    assert mask("POST", "/v1/chat/completions") == mask("POST", "/chat/completions") == 0b1111
    assert mask("POST", "/v1/messages") == mask("POST", "/v1beta/models/gemini:generateContent") == mask("GET", "/v1/models") == 0b1111
    assert mask("POST", "/v1/files") == mask("GET", "/v1/batches/b1") == mask("WS", "/v1/realtime") == mask("POST", "/mcp") == 0b0111
    for route in (
        "/key/generate",
        "/user/new",
        "/model/info",
        "/model/new",
        "/config/update",
        "/v1/model/info",
        "/routes",
        "/",
        "/v1/chat",
    ):
        assert mask("POST", route) == mask("GET", route) == 0b0001, route
