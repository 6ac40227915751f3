import ipaddress
from typing import Any

import msgspec
import pytest

from llm_authmw.accounts.records import AccountRef
from llm_authmw.keys.known import MALFORMED, UNKNOWN, KnownKey
from llm_authmw.keys.records import KeyRecord, clean_fields
from llm_authmw.patterns import RoutePattern
from llm_authmw.principal import ANONYMOUS

NOBODY: frozenset[AccountRef] = frozenset()


def known(status: str = "active", **fields: Any) -> KnownKey:
    record = KeyRecord(id="0123456789abcdef", last_four="wxyz", created_at=0.0, tenant="acme", **clean_fields(fields))
    return KnownKey.of_record(msgspec.structs.replace(record, status=status))


@pytest.mark.parametrize(("known_key", "reason"), [(MALFORMED, "key_malformed"), (UNKNOWN, "key_unknown")])
def test_a_text_that_is_no_key_is_refused_for_good_and_is_nobodys(known_key: KnownKey, reason: str) -> None:
    assert reason == known_key.refusal(100.0, NOBODY)
    assert (ANONYMOUS, None, None) == (known_key.principal, known_key.key_id, known_key.claimed_id)


@pytest.mark.parametrize(
    ("status", "fields", "reason"),
    [
        ("active", {}, None),
        ("active", {"not_before": 100.0}, None),
        ("active", {"not_before": 100.001}, "key_not_yet_valid"),
        ("active", {"expires_at": 100.001}, None),
        ("active", {"expires_at": 100.0}, "key_expired"),
        ("active", {"expires_at": 99.0, "not_before": 101.0}, "key_expired"),
        ("blocked", {}, "key_blocked"),
        ("blocked", {"expires_at": 1.0}, "key_blocked"),
        ("revoked", {"not_before": 101.0}, "key_revoked"),
    ],
)
def test_a_key_is_refused_by_its_status_and_its_dates(status: str, fields: dict[str, Any], reason: str | None) -> None:
    assert reason == known(status, **fields).refusal(100.0, NOBODY)


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (AccountRef("acme", "team", "", "blue"), "account_blocked"),
        (AccountRef("acme", "org", "", "research"), "account_blocked"),
        (AccountRef("acme", "user", "keys", "alice"), "account_blocked"),
        (AccountRef("acme", "user", "sso", "alice"), None),
        (AccountRef("other", "team", "", "blue"), None),
        (AccountRef("acme", "team", "", "research"), None),
        (AccountRef("acme", "end_user", "", "alice"), None),
    ],
)
def test_a_key_is_refused_when_an_account_that_it_belongs_to_is_blocked(ref: AccountRef, reason: str | None) -> None:
    key = known(user="alice", team="blue", org="research")
    assert reason == key.refusal(100.0, {ref, AccountRef("acme", "team", "", "unrelated")})
    assert known().refusal(100.0, {ref}) is None


def test_the_state_of_the_key_itself_comes_before_its_accounts() -> None:
    blocked = {AccountRef("acme", "team", "", "blue")}
    assert "key_revoked" == known("revoked", team="blue").refusal(100.0, blocked)
    assert "key_expired" == known(team="blue", expires_at=1.0).refusal(100.0, blocked)


def test_restrictions_are_parsed_once_and_nothing_is_not_none() -> None:
    key = known(networks=["10.0.0.0/8"], routes=["GET /v1/models"])
    assert (ipaddress.ip_network("10.0.0.0/8"),) == key.networks
    assert (RoutePattern.parse("GET /v1/models"),) == key.routes
    assert (None, None) == (known().networks, known().routes)
    assert ((), ()) == (known(networks=[], routes=[]).networks, known(networks=[], routes=[]).routes)


def test_what_is_known_prints_an_id_and_a_reason() -> None:
    assert "KnownKey(key_id='0123456789abcdef', refused='key_blocked')" == repr(known("blocked", user="alice"))
