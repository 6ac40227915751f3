from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.hashing import Digest, Peppers
from llm_authmw.keys.records import CreatedKey, KeyFields, KeyRecord, KeySecret, KeyState, StoredKey, clean_fields
from llm_authmw.principal import Assurance
from llm_authmw.quota import Limit

WHOLE: dict[str, Any] = {
    "name": "ci",
    "realm": "https://sso.example.com",
    "user": "alice",
    "team": "blue",
    "org": "research",
    "roles": ["member", "admin"],
    "scopes": ["llm:use"],
    "models": ["gpt-4o*", "!gpt-4o"],
    "routes": ["POST /v1/chat/completions", "GET /v1/**"],
    "tier": "silver",
    "limits": ["60 requests/minute", Limit.parse("4 concurrent")],
    "budgets": ["50 usd/month, soft 80%"],
    "networks": ["10.0.0.0/8", "2001:db8::/32"],
    "tags": ["beta", "alpha"],
    "metadata": {"ticket": "OPS-1"},
    "not_before": 1_700_000_000,
    "expires_at": 1_900_000_000.5,
}


def record(**fields: Any) -> KeyRecord:
    return KeyRecord(id="0123456789abcdef", last_four="wxyz", created_at=1_800_000_000.0, **clean_fields(fields))


@st.composite
def records(draw: st.DrawFn) -> KeyRecord:
    """Records with any of the fields, each at its own value, at nothing, or left out."""
    fields = {field: value for field, value in WHOLE.items() if draw(st.booleans())}
    for field in ("models", "routes", "networks"):
        if field in fields:
            fields[field] = draw(st.sampled_from([None, [], fields[field]]))
    kept = record(**fields)
    changes = {"status": draw(st.sampled_from(["active", "blocked", "revoked"])), "imported": draw(st.booleans())}
    return msgspec.structs.replace(kept, **changes, revision=draw(st.integers(1, 9)), last_used_at=draw(st.none() | st.floats(0, 2e9)))


@given(records())
def test_a_record_is_read_back_from_plain_json_as_it_was(kept: KeyRecord) -> None:
    assert kept == KeyRecord.from_dict(kept.as_dict())
    assert kept == KeyRecord.from_dict(msgspec.json.decode(msgspec.json.encode(kept.as_dict())))


@pytest.mark.parametrize("field", ["models", "routes", "networks"])
def test_no_restriction_and_nothing_allowed_stay_two_things(field: str) -> None:
    cases: list[tuple[Any, Any]] = [(None, None), ([], ()), (WHOLE[field], tuple(WHOLE[field]))]
    for value, kept in cases:
        there_and_back = KeyRecord.from_dict(record(**{field: value}).as_dict())
        assert kept == getattr(there_and_back, field) == getattr(there_and_back.principal(), field)
    assert getattr(record(), field) is None


def test_a_record_shows_limits_and_budgets_as_text_and_lists_in_order() -> None:
    values = record(**WHOLE).as_dict()
    assert ["60 requests/minute", "4 concurrent"] == values["limits"]
    assert ["50 usd/month, soft 80%"] == values["budgets"]
    assert [["admin", "member"], ["alpha", "beta"]] == [list(values["roles"]), list(values["tags"])]
    assert ["gpt-4o*", "!gpt-4o"] == list(values["models"])


@pytest.mark.parametrize(
    "change",
    [
        {"models": "gpt-4o*"},
        {"roles": "admin"},
        {"status": "deleted"},
        {"id": None},
        {"id": 7},
        {"created_at": "now"},
        {"expires_at": "never"},
        {"revision": 1.5},
        {"metadata": {"a": 1}},
        {"imported": "yes"},
    ],
)
def test_a_dictionary_that_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        KeyRecord.from_dict(record().as_dict() | change)


@pytest.mark.parametrize("change", [{"limits": ["sixty"]}, {"limits": "60 requests/minute"}, {"budgets": ["0 usd"]}])
def test_a_limit_that_cannot_be_read_is_never_left_out(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        KeyRecord.from_dict(record().as_dict() | change)


@pytest.mark.parametrize("field", ["id", "last_four", "created_at"])
def test_a_record_needs_what_it_is_found_by(field: str) -> None:
    values = record().as_dict()
    del values[field]
    with pytest.raises(msgspec.ValidationError):
        KeyRecord.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "active"),
        ({"expires_at": 100.0}, "expired"),
        ({"expires_at": 100.001}, "active"),
        ({"expires_at": 0.0}, "expired"),
        ({"not_before": 100.0}, "active"),
        ({"not_before": 100.001}, "not yet valid"),
        ({"not_before": 100.001, "expires_at": 99.0}, "expired"),
        ({"status": "blocked"}, "blocked"),
        ({"status": "blocked", "expires_at": 1.0}, "blocked"),
        ({"status": "revoked", "not_before": 101.0}, "revoked"),
    ],
)
def test_the_state_of_a_key_is_its_status_and_its_dates(changes: dict[str, Any], state: KeyState) -> None:
    assert state == msgspec.structs.replace(record(), **changes).state(100.0)


def test_whoever_presents_a_key_is_what_its_record_says() -> None:
    kept = msgspec.structs.replace(record(**WHOLE), tenant="acme")
    principal = kept.principal()
    shared = [
        "tenant",
        "realm",
        "user",
        "team",
        "org",
        "roles",
        "scopes",
        "tags",
        "tier",
        "models",
        "routes",
        "networks",
        "limits",
        "budgets",
    ]
    for field in [*shared, "expires_at"]:
        assert getattr(kept, field) == getattr(principal, field) is not None
    assert ("key", kept.id, Assurance.SHARED_SECRET) == (principal.method, principal.credential_id, principal.assurance)
    assert ((), None, None) == (principal.claims, principal.issuer, principal.email)
    assert ("default/keys/key:0123456789abcdef", "acme/https:%2F%2Fsso.example.com/alice") == (
        record().principal().identity,
        principal.identity,
    )


def test_every_field_that_a_person_decides_is_checked_and_kept() -> None:
    assert set(WHOLE) == KeyFields.__annotations__.keys()
    assert set(WHOLE) == set(clean_fields(WHOLE))
    assert set(WHOLE) <= set(KeyRecord.__struct_fields__)


@pytest.mark.parametrize("field", ["roles", "scopes", "tags", "models", "routes", "networks"])
def test_a_bare_string_is_never_read_letter_by_letter(field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{field}: takes a list of strings"):
        clean_fields({field: "gpt-4o*"})


@pytest.mark.parametrize("field", ["roles", "scopes", "tags"])
def test_what_is_no_restriction_cannot_be_none(field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{field}: takes a list of strings"):
        clean_fields({field: None})


@pytest.mark.parametrize("field", ["id", "status", "revision", "role", "model", "imported", "last_used_at"])
def test_what_a_person_does_not_decide_is_no_field(field: str) -> None:
    with pytest.raises(TypeError, match=f"an API key has no field '{field}'"):
        clean_fields({field: "x"})


def test_a_record_is_not_changed_and_its_hash_is_not_asked_for() -> None:
    with pytest.raises(AttributeError):
        setattr(record(), "status", "active")  # noqa: B010 - a type checker refuses the assignment


def test_neither_a_secret_nor_a_digest_prints() -> None:
    minted = mint_key()
    digest = Peppers().digest(minted.text.encode())
    kept = record()
    stored = StoredKey(record=kept, secrets=(KeySecret(digest=digest, created_at=1.0),))
    created = CreatedKey(record=kept, key=minted.text)
    shown = repr((stored, created, digest)) + str(stored) + f"{created}"
    for secret in (minted.text, minted.text[-49:], repr(digest.value), digest.value.hex()):
        assert secret not in shown
    assert "CreatedKey(id='0123456789abcdef', key='**********', replayed=False)" == repr(created)
    assert "CreatedKey(id='0123456789abcdef', key=None, replayed=True)" == repr(CreatedKey(record=kept, key=None, replayed=True))
    assert kept.id == created.id


def test_a_stored_key_is_kept_as_json_with_its_digest() -> None:
    stored = StoredKey(
        record=record(**WHOLE), secrets=(KeySecret(digest=Digest(b"\x00\xff" * 16, "hmac-sha256", 3), created_at=1.0, not_after=2.0),)
    )
    assert stored == msgspec.json.decode(msgspec.json.encode(stored), type=StoredKey)
