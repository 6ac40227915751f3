from collections.abc import Callable

import pytest

from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, Replay
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeEntry = Callable[..., HistoryEntry]

WISH = Idempotency("default", "create", "once", "fingerprint")


async def test_an_idempotency_key_that_nobody_used_has_no_answer(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    assert await backend.keys.replayed(WISH) is None


async def test_a_repeated_write_writes_nothing_and_gives_the_first_answer(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    first = key("k1")
    assert await backend.keys.write(first, entry(), WISH) is True
    cursor = (await backend.feed.changes(None)).cursor
    replay = Replay("k1", "fingerprint")
    assert replay == await backend.keys.write(key("k2"), entry(), WISH)
    assert replay == await backend.keys.replayed(WISH)
    assert await backend.keys.find("k2") is None
    assert () == await backend.keys.history("k2")
    assert first == await backend.keys.find("k1")
    assert frozenset() == (await backend.feed.changes(cursor)).keys


async def test_the_answer_tells_the_fingerprint_of_the_first_call(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), WISH)
    other = WISH._replace(fingerprint="of other arguments")
    assert Replay("k1", "fingerprint") == await backend.keys.write(key("k2"), entry(), other)
    assert Replay("k1", "fingerprint") == await backend.keys.replayed(other)


async def test_the_answer_comes_before_every_other_reason_not_to_write(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    wish = WISH._replace(operation="rotate")
    assert await backend.keys.write(key("k1", revision=2), entry("rotate"), wish) is True
    for again in (key("k1", revision=2), key("k1", revision=1), key("k1", revision=3)):
        assert Replay("k1", "fingerprint") == await backend.keys.write(again, entry("rotate"), wish)
    assert 2 == len(await backend.keys.history("k1"))


@pytest.mark.parametrize("other", [WISH._replace(tenant="acme"), WISH._replace(operation="rotate"), WISH._replace(key="twice")])
async def test_tenants_operations_and_keys_are_told_apart(backend: Backend, key: MakeKey, entry: MakeEntry, other: Idempotency) -> None:
    await backend.keys.write(key("k1"), entry(), WISH)
    assert await backend.keys.replayed(other) is None
    assert await backend.keys.write(key("k2"), entry(), other) is True
    assert Replay("k1", "fingerprint") == await backend.keys.replayed(WISH)
    assert Replay("k2", "fingerprint") == await backend.keys.replayed(other)


async def test_a_write_that_is_refused_leaves_the_idempotency_key_unused(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    with pytest.raises(ConflictError):
        await backend.keys.write(key("k1"), entry(), WISH)
    assert await backend.keys.write(key("k1", revision=9), entry(), WISH) is False
    assert await backend.keys.replayed(WISH) is None
    assert await backend.keys.write(key("k2"), entry(), WISH) is True


async def test_an_idempotency_key_is_remembered_for_its_time_and_then_free_again(
    backend: Backend, key: MakeKey, entry: MakeEntry, clock: ManualClock
) -> None:
    await backend.keys.write(key("k1"), entry(), WISH)
    clock.advance(IDEMPOTENCY_TTL - 1)
    assert Replay("k1", "fingerprint") == await backend.keys.replayed(WISH)
    assert Replay("k1", "fingerprint") == await backend.keys.write(key("k2"), entry(), WISH)
    # Asking does not renew it.
    clock.advance(1)
    assert await backend.keys.replayed(WISH) is None
    assert await backend.keys.write(key("k2"), entry(), WISH) is True
    assert Replay("k2", "fingerprint") == await backend.keys.replayed(WISH)
    clock.advance(IDEMPOTENCY_TTL - 1)
    assert Replay("k2", "fingerprint") == await backend.keys.replayed(WISH)


async def test_what_is_forgotten_takes_nothing_younger_with_it(
    backend: Backend, key: MakeKey, entry: MakeEntry, clock: ManualClock
) -> None:
    later, latest = WISH._replace(key="later"), WISH._replace(key="latest")
    await backend.keys.write(key("k1"), entry(), WISH)
    clock.advance(IDEMPOTENCY_TTL / 2)
    await backend.keys.write(key("k2"), entry(), later)
    clock.advance(IDEMPOTENCY_TTL / 2)
    await backend.keys.write(key("k3"), entry(), latest)
    assert [None, Replay("k2", "fingerprint"), Replay("k3", "fingerprint")] == [
        await backend.keys.replayed(wish) for wish in (WISH, later, latest)
    ]
