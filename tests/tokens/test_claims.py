"""What a token must say, looked at without a request; `tests/authn/test_jwt.py` does so with one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import TokenInvalid
from llm_authmw.tokens.claims import MAX_SECONDS, ClaimRules, check_times, names_audience
from llm_authmw.tokens.jws import Header

NOW = 1_800_000_000.0


def rules(**changes: Any) -> ClaimRules:
    usual: dict[str, Any] = {
        "issuer": "https://issuer.example",
        "audience": frozenset({"a", "b"}),
        "audience_claim": "aud",
        "leeway": 0.0,
        "max_age": None,
        "typ": None,
        "id_tokens": False,
        "clients": None,
        "required": (),
    }
    return ClaimRules(**(usual | changes))


def check(given: ClaimRules, typ: str | None = None, /, **claims: Any) -> float | str:
    """Return when a token ends, or the reason why it is refused."""
    usual = {"iss": "https://issuer.example", "aud": "a", "exp": NOW + 60, "iat": NOW}
    try:
        return given.check(Header("ES256", None, typ, {}), {**usual, **claims}, NOW)
    except TokenInvalid as invalid:
        return invalid.reason


def test_a_good_token_ends_when_it_says_and_a_little_later() -> None:
    assert NOW + 60 == check(rules())
    assert NOW + 65 == check(rules(leeway=5.0))
    assert NOW + 30 == check(rules(max_age=30.0))
    assert NOW + 35 == check(rules(max_age=30.0, leeway=5.0))
    assert NOW + 60 == check(rules(max_age=600.0))


@pytest.mark.parametrize("iss", [None, "", "https://issuer.example/", "HTTPS://issuer.example", 5, ["https://issuer.example"]])
def test_the_issuer_is_compared_again(iss: Any) -> None:
    assert "issuer_mismatch" == check(rules(), iss=iss)


@pytest.mark.parametrize(
    ("aud", "named"),
    [
        ("a", True),
        ("b", True),
        (["x", "a"], True),
        (["a", "b"], True),
        (None, False),
        ("", False),
        ("ab", False),
        ("A", False),
        ("a ", False),
        ([], False),
        (["x"], False),
        (["a", 5], False),
        ([["a"]], False),
        ({"a": 1}, False),
        (("a",), False),
        (5, False),
        (True, False),
    ],
)
def test_the_audience_is_one_of_the_list_to_the_letter(aud: Any, named: bool) -> None:
    assert named is names_audience(aud, frozenset({"a", "b"}))


@pytest.mark.parametrize(
    "value", [True, False, "1", "", [], {}, float("nan"), float("inf"), -float("inf"), 1e308, 10**400, -(10**400), MAX_SECONDS * 2]
)
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_what_is_no_moment_is_refused(name: str, value: Any) -> None:
    assert "token_claim_invalid" == check(rules(), **{name: value})


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100), st.floats(0, 60), st.none() | st.floats(1, 100))
def test_what_is_accepted_has_begun_and_has_not_ended(exp: float, nbf: float, iat: float, leeway: float, max_age: float | None) -> None:
    claims = {"exp": NOW + exp, "nbf": NOW + nbf, "iat": NOW + iat}
    ends, reason = None, ""
    try:
        ends = check_times(claims, NOW, leeway=leeway, max_age=max_age)
    except TokenInvalid as invalid:
        reason = invalid.reason
    if reason:
        broken = {
            "token_expired": NOW >= claims["exp"] + leeway,
            "token_not_yet_valid": NOW < max(claims["nbf"], claims["iat"]) - leeway,
            "token_too_old": max_age is not None and NOW >= claims["iat"] + max_age + leeway,
        }
        assert broken[reason]
        return
    assert ends is not None
    assert NOW < ends <= claims["exp"] + leeway
    assert NOW >= claims["nbf"] - leeway
    # And then it holds until that moment, and no longer.
    with pytest.raises(TokenInvalid):
        check_times(claims, ends, leeway=leeway, max_age=max_age)


def test_a_source_that_does_not_say_when_it_ends_has_no_end() -> None:
    assert check_times({}, NOW, leeway=0) is None
    assert "token_claim_missing" == check(rules(), exp=None)


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "anything+jwt"])
def test_a_type_of_its_own_is_for_somebody_else(typ: str) -> None:
    assert "token_type_mismatch" == check(rules(), typ)
    assert NOW + 60 == check(rules(typ=typ), typ)
    assert "token_type_mismatch" == check(rules(typ=typ), "at+jwt")


@pytest.mark.parametrize("kind", ["ID", "id", "id_token", "Refresh", "REFRESH", "refresh_token", "Offline", "Logout", "Action"])
@pytest.mark.parametrize("claim", ["typ", "token_use"])
def test_a_kind_that_is_no_access_token_is_refused(claim: str, kind: str) -> None:
    assert "token_type_mismatch" == check(rules(), **{claim: kind})
    accepted = check(rules(id_tokens=True), **{claim: kind})
    assert (NOW + 60 if kind.lower() in {"id", "id_token"} else "token_type_mismatch") == accepted


@pytest.mark.parametrize("claims", [{"typ": "Bearer"}, {"token_use": "access"}, {"typ": 5}, {"token_use": ["id"]}])
def test_other_kinds_are_access_tokens(claims: dict[str, Any]) -> None:
    assert NOW + 60 == check(rules(), **claims)


def test_rules_are_looked_at_before_anybody_is_told_more() -> None:
    """The first rule that is broken is told, and the issuer is the first of all."""
    assert "issuer_mismatch" == check(rules(), iss="x", aud="x", exp=1)
    assert "audience_mismatch" == check(rules(), aud="x", exp=1)
