from typing import Any

import msgspec
import pytest

from llm_authmw.accounts.records import (
    ACCOUNT_KINDS,
    AccountFields,
    AccountRecord,
    AccountRef,
    accounts_of,
    check_ref,
    clean_account_fields,
)
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.quota import Limit

WHOLE: dict[str, Any] = {
    "limits": ["60 requests/minute", Limit.parse("4 concurrent")],
    "budgets": ["500 usd/month, soft 80%"],
    "models": ["gpt-4o*"],
    "roles": ["member", "admin"],
    "metadata": {"cost centre": "4711"},
}


def record(**fields: Any) -> AccountRecord:
    return AccountRecord(kind="team", name="blue", tenant="acme", created_at=1.0, **clean_account_fields(fields))


@pytest.mark.parametrize("fields", [{}, WHOLE, {"models": None}, {"models": []}])
def test_a_record_is_read_back_from_plain_json_as_it_was(fields: dict[str, Any]) -> None:
    kept = record(**fields)
    assert kept == AccountRecord.from_dict(kept.as_dict())
    assert kept == AccountRecord.from_dict(msgspec.json.decode(msgspec.json.encode(kept.as_dict())))


def test_no_restriction_and_nothing_allowed_stay_two_things() -> None:
    assert AccountRecord.from_dict(record(models=None).as_dict()).models is None
    assert () == AccountRecord.from_dict(record(models=[]).as_dict()).models


def test_a_record_shows_limits_and_budgets_as_text() -> None:
    values = record(**WHOLE).as_dict()
    assert ["60 requests/minute", "4 concurrent"] == values["limits"]
    assert ["500 usd/month, soft 80%"] == values["budgets"]
    assert AccountRef("acme", "team", "", "blue") == record().ref


@pytest.mark.parametrize(
    "change", [{"kind": "squad"}, {"status": "revoked"}, {"models": "gpt-4o*"}, {"roles": "admin"}, {"name": None}, {"revision": "1"}]
)
def test_a_dictionary_that_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        AccountRecord.from_dict(record().as_dict() | change)


def test_a_limit_that_cannot_be_read_is_never_left_out() -> None:
    with pytest.raises(InvalidValueError):
        AccountRecord.from_dict(record().as_dict() | {"limits": ["sixty"]})


def test_every_field_that_a_person_decides_is_checked_and_kept() -> None:
    assert set(WHOLE) == AccountFields.__annotations__.keys() == set(clean_account_fields(WHOLE))
    assert ("admin", "member") == record(**WHOLE).roles


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"models": "gpt-4o*"}, ConfigurationError),
        ({"roles": "admin"}, ConfigurationError),
        ({"roles": None}, ConfigurationError),
        ({"limits": "60 requests/minute"}, InvalidValueError),
        ({"budgets": ["0 usd"]}, InvalidValueError),
        ({"metadata": {"a": 1}}, InvalidValueError),
        ({"status": "blocked"}, TypeError),
        ({"routes": ["*"]}, TypeError),
    ],
)
def test_a_field_outside_its_grammar_is_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        clean_account_fields(fields)


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
def test_a_user_is_named_within_a_realm_and_nobody_else_is(kind: Any) -> None:
    with_realm, without = AccountRef("acme", kind, "keys", "x"), AccountRef("acme", kind, "", "x")
    good, bad = (with_realm, without) if kind == "user" else (without, with_realm)
    assert good is check_ref(good)
    with pytest.raises(InvalidValueError, match="a user is named within a realm" if kind == "user" else "accounts have no realm"):
        check_ref(bad)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "squad"}, "'squad' is not a kind of account: expected one of user, team, org, end_user"),
        ({"tenant": ""}, "the account's tenant is empty"),
        ({"tenant": "a\n"}, "the account's tenant holds"),
        ({"name": ""}, "the account's name is empty"),
        ({"name": " a"}, "the account's name begins or ends with a blank"),
        ({"name": "x" * 513}, "the account's name is longer"),
        ({"realm": "a\u202e"}, "the account's realm holds"),
    ],
)
def test_an_account_that_cannot_exist_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        check_ref(AccountRef("acme", "user", "keys", "alice")._replace(**change))
    assert str(caught.value).startswith(problem)


def test_a_principal_belongs_to_its_user_its_team_and_its_organisation() -> None:
    principal = Principal(tenant="acme", realm="sso", user="alice", team="blue", org="research", method="jwt")
    assert [
        AccountRef("acme", "user", "sso", "alice"),
        AccountRef("acme", "team", "", "blue"),
        AccountRef("acme", "org", "", "research"),
    ] == accounts_of(principal)
    assert [] == accounts_of(ANONYMOUS)
    assert [] == accounts_of(Principal(client="cli", credential_id="k", method="key"))
