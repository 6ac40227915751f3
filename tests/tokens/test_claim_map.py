"""From claims to the fields of a principal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import ClaimMap, ConfigurationError, Constant, EmailDomain, TokenInvalid
from llm_authmw.tokens.claim_map import MAX_ENTRIES, claim_at, read_email


def read(mapping: ClaimMap, **claims: Any) -> dict[str, Any] | str:
    """Return the fields that the claims give, or the reason why they are refused."""
    try:
        return mapping.read(claims)
    except TokenInvalid as invalid:
        return invalid.reason


def test_left_out_a_token_gives_its_user_and_its_scopes() -> None:
    assert {"user": "ada"} == read(ClaimMap(), sub="ada", email="x", roles=["root"], groups=["g"], team="t", tenant="t")
    assert {"user": "ada", "scopes": ("a", "b")} == read(ClaimMap(), sub="ada", scope="b a a")
    assert {"user": "ada", "scopes": ("a", "b")} == read(ClaimMap(), sub="ada", scp=["b", "a", ""])
    assert {"user": "ada", "scopes": ()} == read(ClaimMap(), sub="ada", scope="")


def test_somebody_is_named() -> None:
    assert "token_claim_missing" == read(ClaimMap())
    assert "token_claim_missing" == read(ClaimMap(client="azp"), sub=None, azp=None)
    assert {"client": "web"} == read(ClaimMap(client="azp"), azp="web")
    assert {"client": "web"} == read(ClaimMap(user=None, client="azp"), sub="ada", azp="web")


@pytest.mark.parametrize(
    "value", ["", " ada", "ada ", "a\x00", "a\n", "\u202e", "client:x", "key:x", "a" * 513, 5, 1.5, True, ["ada"], {"a": 1}]
)
def test_a_user_that_is_no_name_is_refused(value: Any) -> None:
    assert "token_claim_invalid" == read(ClaimMap(), sub=value)
    assert "token_claim_invalid" == read(ClaimMap(client="azp"), sub=value, azp="web")


@pytest.mark.parametrize("field", ["client", "team", "org", "tenant", "tier"])
def test_a_name_is_a_usable_text(field: str) -> None:
    mapping = ClaimMap(**{field: "x"})  # type: ignore[arg-type]
    assert {"user": "ada", field: "blue"} == read(mapping, sub="ada", x="blue")
    wrong: list[Any] = ["", " x", "x\n", 5, True, ["blue"], {}]
    for value in wrong:
        assert "token_claim_invalid" == read(mapping, sub="ada", x=value)


@pytest.mark.parametrize("field", ["roles", "scopes", "groups", "tags"])
def test_a_list_is_a_list_of_texts_or_words(field: str) -> None:
    mapping = ClaimMap(**{field: "x"})  # type: ignore[arg-type]
    good: list[Any] = [["b", "a", "b"], "b a", " b  a ", ["a", "", "b"]]
    for value in good:
        assert {"user": "ada", field: ("a", "b")} == read(mapping, sub="ada", x=value)
    bad: list[Any] = [5, True, {"a": 1}, ["a", 5], ["a", None], [["a"]], ["a\n"], ["x"] * (MAX_ENTRIES + 1)]
    for value in bad:
        assert "token_claim_invalid" == read(mapping, sub="ada", x=value)
    assert {"user": "ada", field: ("x",)} == read(mapping, sub="ada", x=["x"] * MAX_ENTRIES)


def test_restrictions_that_are_empty_allow_nothing_and_absent_ones_are_none() -> None:
    mapping = ClaimMap(models="models", limits="limits", budgets="budgets")
    assert {"user": "ada"} == read(mapping, sub="ada")
    assert {"user": "ada", "models": ()} == read(mapping, sub="ada", models=[])
    assert {"user": "ada", "models": ("gpt-4o",)} == read(mapping, sub="ada", models="gpt-4o")
    wrong: list[dict[str, Any]] = [
        {"models": ["a*b*"]},
        {"models": 5},
        {"limits": ["many"]},
        {"limits": ["1 request/minute"] * 33},
        {"budgets": [5]},
        {"budgets": {}},
    ]
    for claims in wrong:
        assert "token_claim_invalid" == read(mapping, sub="ada", **claims)


def test_the_first_of_several_claims_that_is_there_counts() -> None:
    mapping = ClaimMap(user=("uid", "sub"))
    assert {"user": "u"} == read(mapping, uid="u", sub="s")
    assert {"user": "s"} == read(mapping, uid=None, sub="s")
    # One that is there and bad is not passed over for another one.
    assert "token_claim_invalid" == read(mapping, uid=5, sub="s")


def test_a_path_leads_into_objects_and_a_name_with_dots_comes_first() -> None:
    claims: dict[str, Any] = {"a": {"b": {"c": 1}, "x": None}, "a.b": 2, "l": [1], "s": "text"}
    found = [claim_at(claims, path) for path in ("a.b", "a.b.c", "a.x", "a.y", "a.x.y", "l.0", "s.upper", "z", "z.z", "a.b.c.d")]
    assert [2, 1, None, None, None, None, None, None, None, None] == found
    assert {"user": "ada", "roles": ("r",)} == read(ClaimMap(roles="realm_access.roles"), sub="ada", realm_access={"roles": ["r"]})


@pytest.mark.parametrize("address", ["a@b.example", "a.b+c@B.EXAMPLE", "\u00e9@b.example", "a@localhost"])
def test_an_address_has_one_at_and_an_ascii_domain(address: str) -> None:
    local, _, domain = address.partition("@")
    assert f"{local}@{domain.lower()}" == read_email(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a",
        "a@",
        "@b",
        "a@b@c",
        "a@\u0432.example",
        "a@b example",
        "a@b,c@d",
        "a@b;c",
        "<a@b>",
        "a@b\\c",
        "a@b/c",
        'a@"b"',
        " a@b",
        "a@b\n",
        5,
        None,
        ["a@b"],
    ],
)
def test_what_is_no_address_is_refused(address: Any) -> None:
    """GHSA-c5c4-8r6x-56w3: an address with two `@`."""
    with pytest.raises(ValueError):
        read_email(address)


@pytest.mark.parametrize(
    ("verified", "kept"),
    [(..., True), (True, True), ("true", True), (False, False), ("false", False), (1, False), (None, False), ("True", False), ([], False)],
)
def test_an_address_that_is_not_the_user_s_is_left_out(verified: Any, kept: bool) -> None:
    said = {} if verified is ... else {"email_verified": verified}
    found = read(ClaimMap(email="email"), sub="ada", email="a@b.example", **said)
    assert ({"user": "ada", "email": "a@b.example"} if kept else {"user": "ada"}) == found


@pytest.mark.parametrize(
    ("verified", "accepted"), [(..., True), (True, True), ("true", True), (False, False), ("false", False), (1, False)]
)
def test_nobody_is_who_only_typed_the_address(verified: Any, accepted: bool) -> None:
    """An address that its issuer does not vouch for names whomever the caller likes to be."""
    said = {} if verified is ... else {"email_verified": verified}
    for mapping in (ClaimMap(user="email"), ClaimMap(user=("email", "sub"))):
        found = read(mapping, sub="ada", email="root@corp.example", **said)
        assert ({"user": "root@corp.example"} if accepted else "token_claim_invalid") == found


@pytest.mark.parametrize(("verified", "accepted"), [(True, True), ("true", True), (..., False), (False, False), (1, False)])
def test_a_domain_comes_of_a_verified_address(verified: Any, accepted: bool) -> None:
    said = {} if verified is ... else {"email_verified": verified}
    found = read(ClaimMap(org=EmailDomain()), sub="ada", email="ada@Corp.Example", **said)
    assert ({"user": "ada", "org": "corp.example"} if accepted else "token_claim_invalid") == found
    assert {"user": "ada", "org": "corp.example"} == read(
        ClaimMap(org=EmailDomain("upn", verified=False)), sub="ada", upn="a@corp.example", **said
    )
    assert {"user": "ada"} == read(ClaimMap(org=EmailDomain()), sub="ada", **said)


def test_a_constant_is_the_same_for_everybody() -> None:
    mapping = ClaimMap(team=Constant("contractors"), groups=Constant(["b", "a"]), roles=Constant("reader writer"))
    found = {"user": "ada", "team": "contractors", "groups": ("a", "b"), "roles": ("reader", "writer")}
    assert found == read(mapping, sub="ada", team="root", groups=["root"])


def test_claims_are_kept_as_they_are_named_and_as_simple_values() -> None:
    mapping = ClaimMap(keep=["b", "a.x", "gone"])
    assert {"user": "ada", "claims": (("a.x", (1, True, 1.5, "")), ("b", "text"))} == read(
        mapping, sub="ada", b="text", a={"x": [1, True, 1.5, ""]}
    )
    assert {"user": "ada"} == read(mapping, sub="ada")
    wrong: list[Any] = [{}, [[1]], [{}], 2**53 + 1, -(2**60), 1e300, 10**400, "a\n", "a" * 513, [1] * (MAX_ENTRIES + 1)]
    for value in wrong:
        assert "token_claim_invalid" == read(mapping, sub="ada", b=value)


@pytest.mark.parametrize(
    ("field", "mapping"),
    [
        ("user", {"user": None}),
        ("user", {"user": ""}),
        ("user", {"user": 5}),
        ("user", {"user": ()}),
        ("user", {"user": ["sub"]}),
        ("user", {"user": ("sub", "")}),
        ("user", {"user": "a..b"}),
        ("user", {"user": ".a"}),
        ("user", {"user": " sub"}),
        ("user", {"user": EmailDomain()}),
        ("user", {"user": Constant("client:x")}),
        ("email", {"email": Constant("nobody")}),
        ("email", {"email": EmailDomain()}),
        ("team", {"team": Constant(["a", "b"])}),
        ("team", {"team": Constant("")}),
        ("org", {"org": EmailDomain("")}),
        ("models", {"models": Constant("a*b*")}),
        ("limits", {"limits": Constant("many")}),
        ("budgets", {"budgets": Constant(["none"])}),
        ("keep", {"keep": "sub"}),
        ("keep", {"keep": [""]}),
        ("keep", {"keep": [5]}),
    ],
    ids=str,
)
def test_a_map_that_cannot_work_is_not_made(field: str, mapping: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ClaimMap(**mapping)
    assert field == caught.value.option


def test_a_map_is_fixed_and_equal_to_an_equal_one() -> None:
    mapping = ClaimMap(keep=["b", "a"])
    assert (("a", "b"), ClaimMap(keep={"a", "b"})) == (mapping.keep, mapping)
    with pytest.raises(AttributeError):
        mapping.user = "other"  # type: ignore[misc]


@given(
    st.dictionaries(
        st.sampled_from(["sub", "email", "scope", "a", "b"]),
        st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=3)),
    )
)
def test_any_claims_give_fields_or_a_reason(claims: dict[str, Any]) -> None:
    found = read(ClaimMap(email="email", groups="a", keep=["b"]), **claims)
    assert isinstance(found, dict) or found in {"token_claim_invalid", "token_claim_missing"}
