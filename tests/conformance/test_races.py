from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.protocols import Idempotency, KeyUse, Replay
from llm_authmw.keys.records import KeySecret, StoredKey
from llm_authmw.stores.store import Backend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeSecret = Callable[..., KeySecret]
MakeAccount = Callable[..., AccountRecord]
MakeEntry = Callable[..., HistoryEntry]

WRITERS = 12


async def together(*works: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run all at the same time and return what each gave, or the `ConflictError` that it raised."""
    outcomes: list[Any] = [None] * len(works)

    async def run(number: int) -> None:
        try:
            outcomes[number] = await works[number]()
        except ConflictError as error:
            outcomes[number] = error

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(len(works)):
                tasks.start_soon(run, number)
    return outcomes


async def test_no_update_of_a_key_is_lost_and_revisions_have_no_gap(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1", metadata={"count": "0"}), entry(), None)
    refused = 0

    async def count(writer: int) -> None:
        nonlocal refused
        while True:
            stored = await backend.keys.find("k1")
            assert stored is not None
            await anyio.lowlevel.checkpoint()
            metadata = {"count": str(int(stored.record.metadata["count"]) + 1)}
            record = msgspec.structs.replace(stored.record, metadata=metadata, revision=stored.record.revision + 1)
            if await backend.keys.write(msgspec.structs.replace(stored, record=record), entry("count", actor=str(writer)), None):
                return
            refused += 1

    await together(*(lambda writer=writer: count(writer) for writer in range(WRITERS)))
    stored = await backend.keys.find("k1")
    assert stored is not None
    assert (str(WRITERS), WRITERS + 1) == (stored.record.metadata["count"], stored.record.revision)
    assert sorted(map(str, range(WRITERS))) == sorted(noted.actor for noted in (await backend.keys.history("k1"))[1:])
    assert refused > 0  # else nobody raced


async def test_no_update_of_an_account_is_lost_and_revisions_have_no_gap(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    first = account(metadata={"count": "0"})
    await backend.accounts.write(first, entry())

    async def count(writer: int) -> None:
        while True:
            record = await backend.accounts.find(first.ref)
            assert record is not None
            await anyio.lowlevel.checkpoint()
            metadata = {"count": str(int(record.metadata["count"]) + 1)}
            counted = msgspec.structs.replace(record, metadata=metadata, revision=record.revision + 1)
            if await backend.accounts.write(counted, entry("count", actor=str(writer))):
                return

    await together(*(lambda writer=writer: count(writer) for writer in range(WRITERS)))
    record = await backend.accounts.find(first.ref)
    assert record is not None
    assert (str(WRITERS), WRITERS + 1) == (record.metadata["count"], record.revision)
    assert sorted(map(str, range(WRITERS))) == sorted(noted.actor for noted in (await backend.accounts.history(first.ref))[1:])


async def test_one_of_many_who_make_a_key_with_one_id_succeeds(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    outcomes = await together(
        *(lambda number=number: backend.keys.write(key("k1", name=f"n{number}"), entry(), None) for number in range(WRITERS))
    )
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome is True]
    assert [ConflictError] * (WRITERS - 1) == [type(outcome) for outcome in outcomes if outcome is not True]
    stored = await backend.keys.find("k1")
    assert stored is not None
    assert f"n{winner}" == stored.record.name
    assert 1 == len(await backend.keys.history("k1"))


async def test_one_of_many_who_import_the_same_secret_succeeds(
    backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret
) -> None:
    secrets = (secret("theirs", imported=True),)
    outcomes = await together(
        *(lambda number=number: backend.keys.write(key(f"k{number}", secrets=secrets), entry(), None) for number in range(WRITERS))
    )
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome is True]
    assert [ConflictError] * (WRITERS - 1) == [type(outcome) for outcome in outcomes if outcome is not True]
    found = await backend.keys.find_imported(sha256(b"theirs"))
    assert found is not None
    assert f"k{winner}" == found.record.id


async def test_one_of_many_who_add_an_account_succeeds(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    outcomes = await together(*(lambda: backend.accounts.write(account(), entry()) for _ in range(WRITERS)))
    assert [True] + [False] * (WRITERS - 1) == sorted(outcomes, reverse=True)
    assert 1 == len(await backend.accounts.history(account().ref))


async def test_one_idempotency_key_gives_one_key_however_many_use_it_at_once(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    wish = Idempotency("default", "create", "once", "fingerprint")
    outcomes = await together(*(lambda number=number: backend.keys.write(key(f"k{number}"), entry(), wish) for number in range(WRITERS)))
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome is True]
    assert [Replay(f"k{winner}", "fingerprint")] * (WRITERS - 1) == [outcome for outcome in outcomes if outcome is not True]
    assert [f"k{winner}"] == [f"k{number}" for number in range(WRITERS) if await backend.keys.find(f"k{number}") is not None]


async def test_uses_and_changes_at_the_same_time_lose_neither(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    old, new = Digest(b"o" * 32, "sha256", 0), Digest(b"n" * 32, "hmac-sha256", 1)
    await backend.keys.write(key("k1", secrets=(KeySecret(digest=old, created_at=1.0),)), entry(), None)

    async def change() -> None:
        while True:
            stored = await backend.keys.find("k1")
            assert stored is not None
            await anyio.lowlevel.checkpoint()
            record = msgspec.structs.replace(stored.record, revision=stored.record.revision + 1)
            if await backend.keys.write(msgspec.structs.replace(stored, record=record), entry("update"), None):
                return

    async def use(at: float) -> None:
        await backend.keys.touch([KeyUse("k1", at, (old, new))])

    await together(*(work for number in range(WRITERS) for work in (change, lambda at=float(number): use(at))))
    stored = await backend.keys.find("k1")
    assert stored is not None
    assert (WRITERS + 1, float(WRITERS - 1), [new]) == (
        stored.record.revision,
        stored.record.last_used_at,
        [secret.digest for secret in stored.secrets],
    )


async def test_a_reader_sees_record_and_secrets_of_one_moment(backend: Backend, key: MakeKey, entry: MakeEntry, secret: MakeSecret) -> None:
    def at(revision: int) -> StoredKey:
        return key("k1", revision=revision, secrets=tuple(secret(f"{revision}-{number}") for number in range(3)))

    await backend.keys.write(at(1), entry(), None)
    done = anyio.Event()

    async def write() -> None:
        for revision in range(2, 30):
            assert await backend.keys.write(at(revision), entry(), None) is True
        done.set()

    async def read() -> None:
        while not done.is_set():
            stored = await backend.keys.find("k1")
            assert stored is not None
            assert at(stored.record.revision) == stored
            await anyio.lowlevel.checkpoint()

    await together(write, read, read)
