from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.protocols import Idempotency, KeyQuery
from llm_authmw.keys.records import KeySecret, StoredKey
from llm_authmw.quota import Budget, Limit
from llm_authmw.stores.store import Backend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeSecret = Callable[..., KeySecret]
MakeEntry = Callable[..., HistoryEntry]

EVERYTHING: dict[str, Any] = {
    "tenant": "acme",
    "name": "Straße % _ \U0001f511 'quoted'; DROP TABLE keys",
    "realm": "https://issuer.example",
    "user": "ada",
    "team": "blue",
    "org": "lab",
    "roles": ("admin", "member"),
    "scopes": ("chat", "embeddings"),
    "models": ("gpt-4o*", "!gpt-4o-mini"),
    "routes": ("POST /v1/chat/completions",),
    "tier": "gold",
    "limits": (Limit.parse("60 requests/minute, burst 7"), Limit.parse("4 concurrent"), Limit.parse("9 tokens/year, calendar")),
    "budgets": (Budget.parse("50.000000001 usd/month, soft 50% 80%, starts 15, timezone Europe/Berlin"),),
    "networks": ("10.0.0.0/8", "::1/128"),
    "tags": ('a","b', "b"),
    "metadata": {"ticket": "OPS-1", "empty": ""},
    "not_before": 1_700_000_000.123456,
    "expires_at": 1_900_000_000.1,
    "status": "blocked",
    "imported": True,
    "created_at": 1_800_000_000.000001,
    "rotated_at": 1_800_000_001.5,
    "last_used_at": 1_800_000_002.25,
    "last_four": "wxyz",
}


def changed(stored: StoredKey, **fields: Any) -> StoredKey:
    record = msgspec.structs.replace(stored.record, revision=stored.record.revision + 1, **fields)
    return msgspec.structs.replace(stored, record=record)


async def test_an_unknown_key_is_found_nowhere(backend: Backend) -> None:
    assert await backend.keys.find("k1") is None
    assert await backend.keys.find("") is None
    assert await backend.keys.find_imported(sha256(b"k1")) is None
    assert () == await backend.keys.history("k1")


async def test_an_id_that_is_no_unicode_is_found_nowhere(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key(), entry(), None)
    assert await backend.keys.find("\udcff") is None
    assert () == await backend.keys.history("\udcff")
    assert () == (await backend.keys.query(KeyQuery(now=1.0, search="\udcff"))).keys


async def test_a_key_is_found_as_it_was_written_whoever_its_tenant_is(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    written = key("k1", **EVERYTHING)
    assert await backend.keys.write(written, entry(), None) is True
    assert written == await backend.keys.find("k1")


async def test_a_key_with_nothing_but_defaults_is_found_as_it_was_written(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    written = key("k1")
    await backend.keys.write(written, entry(), None)
    assert written == await backend.keys.find("k1")


async def test_no_restriction_and_nothing_allowed_stay_two_things(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("free", models=None, routes=None, networks=None), entry(), None)
    await backend.keys.write(key("shut", models=(), routes=(), networks=()), entry(), None)
    free, shut = await backend.keys.find("free"), await backend.keys.find("shut")
    assert free is not None
    assert shut is not None
    assert (None, None, None) == (free.record.models, free.record.routes, free.record.networks)
    assert ((), (), ()) == (shut.record.models, shut.record.routes, shut.record.networks)


async def test_the_secrets_come_newest_first_with_all_that_was_written_of_them(
    backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret
) -> None:
    newest = KeySecret(digest=Digest(b"\x00\xff" * 16, "hmac-sha256", 7), created_at=3.5)
    written = key(secrets=(newest, secret("middle", created_at=2.0, not_after=9.25), secret("oldest", not_after=4.0, imported=True)))
    await backend.keys.write(written, entry(), None)
    assert written == await backend.keys.find("k1")


async def test_what_a_caller_does_to_a_record_afterwards_changes_nothing_in_the_store(
    backend: Backend, key: MakeKey, entry: MakeEntry
) -> None:
    changes: dict[str, Any] = {"metadata": [None, {"a": "1"}]}
    metadata = {"a": "1"}
    await backend.keys.write(key(metadata=metadata), entry(changes=changes), None)
    metadata["a"] = "2"
    changes["metadata"][1]["a"] = "2"
    for _ in range(2):
        found = await backend.keys.find("k1")
        assert found is not None
        assert {"a": "1"} == found.record.metadata
        found.record.metadata["a"] = "3"
        (listed,) = (await backend.keys.query(KeyQuery(now=1.0))).keys
        assert {"a": "1"} == listed.metadata
        listed.metadata["a"] = "4"
        (noted,) = await backend.keys.history("k1")
        assert {"metadata": [None, {"a": "1"}]} == noted.changes


async def test_an_id_that_is_taken_is_refused_in_every_tenant_and_nothing_is_written(
    backend: Backend, key: MakeKey, entry: MakeEntry
) -> None:
    first = key("k1", tenant="acme")
    await backend.keys.write(first, entry(), None)
    cursor = (await backend.feed.changes(None)).cursor
    wish = Idempotency("acme", "create", "once", "f")
    for tenant in ("acme", "other"):
        with pytest.raises(ConflictError):
            await backend.keys.write(key("k1", tenant=tenant, name="second"), entry("again"), wish)
    assert first == await backend.keys.find("k1")
    assert 1 == len(await backend.keys.history("k1"))
    assert await backend.keys.replayed(wish) is None
    assert frozenset() == (await backend.feed.changes(cursor)).keys


async def test_an_imported_secret_is_found_by_its_digest(backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret) -> None:
    imported = key("k1", secrets=(secret("theirs", imported=True),))
    await backend.keys.write(imported, entry(), None)
    await backend.keys.write(key("k2"), entry(), None)
    assert imported == await backend.keys.find_imported(sha256(b"theirs"))
    assert await backend.keys.find_imported(sha256(b"k2")) is None


async def test_an_imported_secret_that_another_key_has_is_refused_in_every_tenant_and_nothing_is_written(
    backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret
) -> None:
    theirs = secret("theirs", imported=True)
    await backend.keys.write(key("k1", tenant="acme", secrets=(theirs,)), entry(), None)
    own = key("k2", tenant="other")
    await backend.keys.write(own, entry(), None)
    cursor = (await backend.feed.changes(None)).cursor
    with pytest.raises(ConflictError):
        await backend.keys.write(key("k3", tenant="other", secrets=(theirs,)), entry(), None)
    with pytest.raises(ConflictError):
        await backend.keys.write(msgspec.structs.replace(changed(own), secrets=(theirs,)), entry(), None)
    assert await backend.keys.find("k3") is None
    assert () == await backend.keys.history("k3")
    assert own == await backend.keys.find("k2")
    assert 1 == len(await backend.keys.history("k2"))
    assert frozenset() == (await backend.feed.changes(cursor)).keys


async def test_an_imported_secret_is_found_until_the_key_has_it_no_more(
    backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret
) -> None:
    imported = key("k1", secrets=(secret("theirs", imported=True),))
    await backend.keys.write(imported, entry(), None)
    graced = msgspec.structs.replace(changed(imported), secrets=(secret("ours"), secret("theirs", imported=True, not_after=9.0)))
    assert await backend.keys.write(graced, entry("rotate"), None) is True
    assert graced == await backend.keys.find_imported(sha256(b"theirs"))
    alone = msgspec.structs.replace(changed(graced), secrets=(secret("ours"),))
    assert await backend.keys.write(alone, entry("rotate"), None) is True
    assert await backend.keys.find_imported(sha256(b"theirs")) is None
    again = key("k2", secrets=(secret("theirs", imported=True),))
    assert await backend.keys.write(again, entry(), None) is True
    assert again == await backend.keys.find_imported(sha256(b"theirs"))


async def test_a_change_replaces_record_and_secrets(backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret) -> None:
    first = key("k1", **{**EVERYTHING, "last_used_at": None})
    await backend.keys.write(first, entry(), None)
    second = key("k1", tenant="acme", revision=2, name=None, created_at=first.record.created_at, secrets=(secret("new"), secret("old")))
    assert await backend.keys.write(second, entry("update"), None) is True
    assert second == await backend.keys.find("k1")


@pytest.mark.parametrize("revision", [2, 3, 5])
async def test_a_change_of_another_revision_than_the_stored_one_writes_nothing(
    backend: Backend, key: MakeKey, entry: MakeEntry, revision: int
) -> None:
    stored = key("k1")
    await backend.keys.write(stored, entry(), None)
    for _ in range(2):
        stored = changed(stored)
        await backend.keys.write(stored, entry("update"), None)
    cursor = (await backend.feed.changes(None)).cursor
    wish = Idempotency("default", "rotate", "once", "f")
    assert await backend.keys.write(key("k1", revision=revision, name="late"), entry("late"), wish) is False
    assert stored == await backend.keys.find("k1")
    assert ["create", "update", "update"] == [noted.action for noted in await backend.keys.history("k1")]
    assert await backend.keys.replayed(wish) is None
    assert frozenset() == (await backend.feed.changes(cursor)).keys


async def test_a_change_of_a_key_that_is_not_there_writes_nothing(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    assert await backend.keys.write(key("k1", revision=2), entry("update"), None) is False
    assert await backend.keys.find("k1") is None
    assert () == await backend.keys.history("k1")


async def test_a_key_never_moves_to_another_tenant(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    stored = key("k1", tenant="acme")
    await backend.keys.write(stored, entry(), None)
    assert await backend.keys.write(changed(stored, tenant="other"), entry("update"), None) is False
    assert stored == await backend.keys.find("k1")


async def test_each_change_appends_to_the_history(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    first = entry("create", at=5.5, changes={"name": [None, "a"], "limits": [[], ["4 concurrent"]], "tags": [[], ["x"]]})
    # A clock that was set back does not reorder what happened.
    second = entry("block", at=2.0, actor="root", changes={"status": ["active", "blocked"], "expires_at": [None, 1.5]})
    await backend.keys.write(key("k1"), first, None)
    await backend.keys.write(key("k2"), entry("other"), None)
    await backend.keys.write(changed(key("k1")), second, None)
    assert (first, second) == await backend.keys.history("k1")


async def test_what_is_stored_outlives_closing(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.start()
    await backend.start()
    written = key("k1", **EVERYTHING)
    await backend.keys.write(written, entry(), None)
    await backend.aclose()
    await backend.aclose()
    assert written == await backend.keys.find("k1")
