"""One revision of a key, made from the one before."""

from typing import Any

import msgspec

from llm_authmw.errors import ConflictError, InvalidValueError
from llm_authmw.keys.records import StoredKey


def changed_key(stored: StoredKey, **changes: Any) -> StoredKey:
    """Return a key with fields of its record changed, as its next revision."""
    record = msgspec.structs.replace(stored.record, revision=stored.record.revision + 1, **changes)
    return StoredKey(record=record, secrets=stored.secrets)


def checked_dates(clean: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a key whose dates do not contradict each other.

    Raises:
        InvalidValueError: they do.
    """
    begins, ends = clean.get("not_before"), clean.get("expires_at")
    if begins is not None and ends is not None and ends <= begins:
        raise InvalidValueError("the key would end before it begins: expires_at is not after not_before")
    return clean


def unrevoked(stored: StoredKey) -> StoredKey:
    """Return a key that may still be changed.

    Raises:
        ConflictError: it is revoked.
    """
    if stored.record.status == "revoked":
        raise ConflictError("the API key is revoked, which is final; create another one")
    return stored


def differences_of(before: StoredKey, after: StoredKey) -> dict[str, Any]:
    """Return what a change changes, for the history: by field, what it was and what it is; never a secret."""
    was, now = before.record.as_dict(), after.record.as_dict()
    differences: dict[str, Any] = {field: [was[field], now[field]] for field in now if field != "revision" and was[field] != now[field]}
    if after.secrets != before.secrets:
        # When each secret ends, the newest first; that is all that may be said of one.
        differences["secrets_end"] = [[secret.not_after for secret in key.secrets] for key in (before, after)]
    return differences
