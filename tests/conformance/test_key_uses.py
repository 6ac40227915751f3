from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.protocols import KeyUse
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.stores.store import Backend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeEntry = Callable[..., HistoryEntry]

OLD = Digest(b"o" * 32, "sha256", 0)
NEW = Digest(b"n" * 32, "hmac-sha256", 2)
NEWEST = Digest(b"m" * 32, "hmac-sha256", 3)
OTHER = Digest(b"x" * 32, "sha256", 0)


async def stored_in(backend: Backend, key_id: str) -> StoredKey:
    stored = await backend.keys.find(key_id)
    assert stored is not None
    return stored


async def record_in(backend: Backend, key_id: str) -> KeyRecord:
    return (await stored_in(backend, key_id)).record


async def digests_in(backend: Backend, key_id: str) -> list[Digest]:
    return [secret.digest for secret in (await stored_in(backend, key_id)).secrets]


def holding(*digests: Digest, **fields: Any) -> tuple[KeySecret, ...]:
    return tuple(KeySecret(digest=digest, created_at=1.0, **fields) for digest in digests)


async def test_uses_of_many_keys_are_noted_at_once(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    for key_id in ("k1", "k2", "k3"):
        await backend.keys.write(key(key_id), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0), KeyUse("k3", 30.5)])
    assert [10.0, None, 30.5] == [(await record_in(backend, key_id)).last_used_at for key_id in ("k1", "k2", "k3")]


async def test_a_use_is_never_noted_backwards(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0)])
    await backend.keys.touch([KeyUse("k1", 9.0)])
    assert 10.0 == (await record_in(backend, "k1")).last_used_at
    await backend.keys.touch([KeyUse("k1", 12.0), KeyUse("k1", 11.0)])
    assert 12.0 == (await record_in(backend, "k1")).last_used_at


async def test_noting_no_use_and_the_use_of_an_unknown_key_changes_nothing(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    await backend.keys.touch([])
    await backend.keys.touch([KeyUse("nobody", 9.0, (OLD, NEW)), KeyUse("k1", 10.0)])
    assert await backend.keys.find("nobody") is None
    assert 10.0 == (await record_in(backend, "k1")).last_used_at


async def test_a_use_is_no_change(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    written = key("k1", secrets=holding(OLD))
    await backend.keys.write(written, entry(), None)
    cursor = (await backend.feed.changes(None)).cursor
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    assert cursor == (await backend.feed.changes(cursor)).cursor
    assert 1 == len(await backend.keys.history("k1"))
    assert msgspec.structs.replace(written.record, last_used_at=10.0) == await record_in(backend, "k1")


async def test_a_rehash_replaces_the_digest_that_it_names_and_no_other(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    secrets = (*holding(OTHER), *holding(OLD, not_after=99.0))
    await backend.keys.write(key("k1", secrets=secrets), entry(), None)
    await backend.keys.write(key("k2", secrets=holding(OLD)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    assert (secrets[0], msgspec.structs.replace(secrets[1], digest=NEW)) == (await stored_in(backend, "k1")).secrets
    assert [OLD] == await digests_in(backend, "k2")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Digest(OLD.value, "hmac-sha256", 0), id="another scheme"),
        pytest.param(Digest(OLD.value, "sha256", 1), id="another pepper"),
        pytest.param(OTHER, id="another value"),
    ],
)
async def test_a_rehash_of_a_digest_that_is_not_there_any_more_does_nothing(
    backend: Backend, key: MakeKey, entry: MakeEntry, other: Digest
) -> None:
    await backend.keys.write(key("k1", secrets=holding(other)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    assert [other] == await digests_in(backend, "k1")
    assert 10.0 == (await record_in(backend, "k1")).last_used_at


async def test_a_rehash_happens_once(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    await backend.keys.touch([KeyUse("k1", 11.0, (OLD, OTHER))])
    assert [NEW] == await digests_in(backend, "k1")


async def test_an_imported_secret_keeps_the_digest_that_it_is_found_by(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD, imported=True)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    found = await backend.keys.find_imported(OLD.value)
    assert found is not None
    assert [OLD] == [secret.digest for secret in found.secrets]


async def test_a_rehash_after_a_rotation_brings_the_old_secret_not_back(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD)), entry(), None)
    await backend.keys.write(key("k1", revision=2, secrets=holding(OTHER)), entry("rotate"), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    assert [OTHER] == await digests_in(backend, "k1")


async def test_a_writer_who_read_before_a_rehash_brings_the_old_digest_not_back(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    rotated = key("k1", revision=2, secrets=(*holding(OTHER), *holding(OLD, not_after=99.0)))
    assert await backend.keys.write(rotated, entry("rotate"), None) is True
    assert (*holding(OTHER), *holding(NEW, not_after=99.0)) == (await stored_in(backend, "k1")).secrets


async def test_a_digest_that_was_replaced_may_be_written_again_by_one_who_read_after_that(
    backend: Backend, key: MakeKey, entry: MakeEntry
) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    await backend.keys.write(key("k1", revision=2, secrets=holding(NEW)), entry("update"), None)
    await backend.keys.write(key("k1", revision=3, secrets=holding(OLD)), entry("restore"), None)
    assert [OLD] == await digests_in(backend, "k1")


async def test_an_imported_secret_is_not_taken_for_one_whose_digest_was_replaced(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW))])
    imported = key("k1", revision=2, secrets=holding(OLD, imported=True), last_used_at=10.0)
    assert await backend.keys.write(imported, entry("update"), None) is True
    assert imported == await backend.keys.find_imported(OLD.value)


async def test_each_of_several_secrets_keeps_its_own_newer_digest(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", secrets=holding(OLD, OTHER)), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0, (OLD, NEW)), KeyUse("k1", 10.0, (OTHER, NEWEST))])
    await backend.keys.write(key("k1", revision=2, secrets=holding(OTHER, OLD)), entry("update"), None)
    assert [NEWEST, NEW] == await digests_in(backend, "k1")


@pytest.mark.parametrize(("given", "kept"), [(None, 10.0), (9.0, 10.0), (11.0, 11.0)])
async def test_a_writer_who_read_before_a_use_does_not_take_it_back(
    backend: Backend, key: MakeKey, entry: MakeEntry, given: float | None, kept: float
) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    await backend.keys.touch([KeyUse("k1", 10.0)])
    assert await backend.keys.write(key("k1", revision=2, status="revoked", last_used_at=given), entry("revoke"), None) is True
    record = await record_in(backend, "k1")
    assert ("revoked", kept) == (record.status, record.last_used_at)
