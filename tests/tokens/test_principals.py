"""From verified claims to a principal: what describes the credential and the login."""

from typing import Any

import pytest

from llm_authmw import Assurance, ClaimMap, Principal, TokenInvalid
from llm_authmw.tokens.principals import MAX_ACTORS, principal_of


def made(mapping: ClaimMap | None = None, share: Any = None, **claims: Any) -> Principal | str:
    """Return the principal of a caller `ada` with these claims, or the reason why there is none."""
    try:
        return principal_of(
            {"sub": "ada", **claims},
            mapping=mapping or ClaimMap(),
            method="jwt",
            issuer="https://issuer.example",
            realm="staff",
            tenant="acme",
            assurance=Assurance.SIGNED,
            credential_id="t-1",
            expires_at=5.0,
            share=share,
        )
    except TokenInvalid as invalid:
        return invalid.reason


def expected(**fields: Any) -> Principal:
    usual: dict[str, Any] = {
        "tenant": "acme",
        "realm": "staff",
        "user": "ada",
        "method": "jwt",
        "issuer": "https://issuer.example",
        "credential_id": "t-1",
        "expires_at": 5.0,
        "assurance": Assurance.SIGNED,
    }
    return Principal(**(usual | fields))


def test_what_is_known_of_the_source_is_on_the_principal() -> None:
    assert expected() == made()
    assert expected(tenant="other") == made(ClaimMap(tenant="tid"), tid="other")
    assert expected() == made(ClaimMap(tenant="tid"))


@pytest.mark.parametrize(
    ("claims", "fields"),
    [
        ({"auth_time": 7}, {"authenticated_at": 7.0}),
        ({"auth_time": 7.5}, {"authenticated_at": 7.5}),
        ({"acr": "urn:mfa"}, {"acr": "urn:mfa"}),
        ({"amr": ["pwd", "otp"]}, {"amr": ("pwd", "otp")}),
        ({"amr": []}, {}),
        ({"act": {"sub": "agent"}}, {"actors": ("agent",)}),
        ({"act": {"client_id": "tool"}}, {"actors": ("tool",)}),
        ({"act": {"sub": "agent", "client_id": "x", "act": {"sub": "tool"}}}, {"actors": ("agent", "tool")}),
        ({"cnf": {"x5t#S256": "b", "a": "c"}}, {"confirmation": (("a", "c"), ("x5t#S256", "b"))}),
        ({"auth_time": None, "acr": None, "amr": None, "act": None, "cnf": None}, {}),
    ],
)
def test_what_the_claims_say_of_the_login_is_on_the_principal(claims: dict[str, Any], fields: dict[str, Any]) -> None:
    assert expected(**fields) == made(**claims)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"sub": "agent"}
    for _ in range(depth - 1):
        found = {"sub": "agent", "act": found}
    return found


@pytest.mark.parametrize(
    "claims",
    [
        {"auth_time": "7"},
        {"auth_time": True},
        {"auth_time": -1},
        {"auth_time": 10**400},
        {"acr": 1},
        {"acr": ""},
        {"acr": "a\n"},
        {"amr": "pwd"},
        {"amr": {"pwd": 1}},
        {"amr": [5]},
        {"amr": [""]},
        {"amr": ["x"] * 17},
        {"act": "agent"},
        {"act": {}},
        {"act": []},
        {"act": {"sub": 5}},
        {"act": {"sub": "a", "act": "b"}},
        {"act": {"sub": "a", "act": {}}},
        {"act": nested(MAX_ACTORS + 1)},
        {"cnf": "x"},
        {"cnf": {"jkt": 5}},
        {"cnf": {"": "x"}},
        {"sub": 5},
    ],
    ids=lambda claims: str(claims)[:40],
)
def test_what_is_of_another_form_is_refused_and_not_left_out(claims: dict[str, Any]) -> None:
    assert "token_claim_invalid" == made(**claims)


def test_a_chain_of_actors_is_kept_as_long_as_it_may_be() -> None:
    assert expected(actors=("agent",) * MAX_ACTORS) == made(act=nested(MAX_ACTORS))


def test_equal_lists_of_many_principals_are_one_object_but_for_what_is_kept() -> None:
    kept: dict[Any, Any] = {}
    mapping = ClaimMap(groups="groups", keep=["level"])

    def share(value: Any) -> Any:
        return kept.setdefault(value, value)

    found = [made(mapping, share, groups=["b", "a"], level=level) for level in (1, True)]
    one, two = (principal for principal in found if isinstance(principal, Principal))
    assert one.groups is two.groups
    assert (int, bool) == (type(one.claims[0][1]), type(two.claims[0][1]))
