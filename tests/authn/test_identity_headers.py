"""One name, whatever its spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import ConfigurationError, Denial
from llm_authmw.authn.credentials import NEVER_A_CREDENTIAL
from llm_authmw.authn.identity_headers import WELL_KNOWN, IdentityHeaders, header_name, with_family, without
from llm_authmw.header_names import fold

TRUSTED = IdentityHeaders([b"x-forwarded-user", b"remote_user"])


@pytest.mark.parametrize(
    "name",
    [
        b"X_Forwarded_User",
        b"x-forwarded_user",
        b"x.forwarded.user",
        b"X!FORWARDED+USER",
        b"x-forwarded-user ",
        b"\tx-forwarded-user",
        b"x forwarded user",
        b"x\xadforwarded\xa0user",
        b"Remote-User",
        b"remote.user",
    ],
)
def test_another_spelling_of_a_trusted_name_is_refused(name: bytes) -> None:
    found = TRUSTED.find([(b"host", b"x"), (name, b"admin")])
    assert isinstance(found, Denial)
    assert (400, "identity_header_alias") == (found.status, found.reason)


@pytest.mark.parametrize("name", [b"x-forwarded-user", b"X-Forwarded-User", b"X-FORWARDED-USER"])
def test_a_trusted_name_is_found_in_any_case(name: bytes) -> None:
    assert [(b"x-forwarded-user", b"ada")] == TRUSTED.find([(name, b"ada"), (b"x-forwarded-for", b"192.0.2.1")])


@pytest.mark.parametrize("name", [b"x-forwarded-users", b"x-forwarded", b"xforwardeduser", b"x--forwarded-user", b"", b"-"])
def test_another_name_is_left_alone(name: bytes) -> None:
    assert [] == TRUSTED.find([(name, b"ada")])


def test_lines_are_found_in_their_order_and_each_time_that_they_are_there() -> None:
    lines = [(b"X-Forwarded-User", b"ada"), (b"accept", b"*/*"), (b"remote_user", b"bob"), (b"x-forwarded-user", b"eve")]
    assert [(b"x-forwarded-user", b"ada"), (b"remote_user", b"bob"), (b"x-forwarded-user", b"eve")] == TRUSTED.find(lines)


@given(st.sampled_from(sorted(WELL_KNOWN)), st.data())
def test_every_spelling_folds_into_one(name: bytes, data: st.DataObject) -> None:
    noise = st.sampled_from([b"-", b"_", b".", b" ", b"~", b"\xff"])
    spelt = b"".join(
        data.draw(noise) if letter == ord("-") else data.draw(st.sampled_from([bytes([letter]), bytes([letter]).upper()]))
        for letter in name
    )
    assert fold(name) == fold(spelt)
    found = IdentityHeaders([name]).find([(spelt, b"x")])
    assert isinstance(found, Denial) == (spelt.lower() != name)


def test_no_header_that_is_passed_over_could_be_a_spelling_of_a_trusted_one() -> None:
    assert {fold(name) for name in NEVER_A_CREDENTIAL} == NEVER_A_CREDENTIAL
    assert NEVER_A_CREDENTIAL.isdisjoint(fold(name) for name in WELL_KNOWN)


def test_lines_are_removed_in_any_case_from_a_list_that_others_may_hold() -> None:
    lines = [(b"X-Forwarded-User", b"ada"), (b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-user", b"bob")]
    assert [(b"x-forwarded-for", b"192.0.2.1")] == without(lines, TRUSTED.names)
    assert 3 == len(lines)


@pytest.mark.parametrize(
    "name",
    [
        *("", "X-User", "x user", "x-user:", "x-user\n", "-x-user", "x-user-", "x-üser", "*", b"x-user", None, 7),
        *("host", "x-forwarded-for", "x_forwarded_for", "x.forwarded.for", "x-forwarded-proto", "cookie", "user_agent"),
    ],
)
def test_a_name_that_is_none_or_means_something_else_cannot_be_trusted(name: object) -> None:
    with pytest.raises(ConfigurationError) as raised:
        header_name("user", name)
    assert "user" == raised.value.option


def test_two_spellings_of_one_name_cannot_both_be_trusted() -> None:
    with pytest.raises(ConfigurationError, match="spellings of one name"):
        IdentityHeaders([b"x-user", b"x_user"])


def test_what_a_proxy_sets_beside_a_trusted_header_belongs_to_it() -> None:
    assert b"x-forwarded-preferred-username" in with_family(frozenset({b"x-forwarded-user"}))
    assert b"x-ms-client-principal-name" in with_family(frozenset({b"x-ms-client-principal"}))
    assert frozenset({b"x-own"}) == with_family(frozenset({b"x-own"}))
