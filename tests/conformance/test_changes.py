from collections.abc import Callable

import msgspec
import pytest

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.changes import Changes
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.store import Backend
from llm_authmw.tokens.revocation_records import Revocation

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeAccount = Callable[..., AccountRecord]
MakeEntry = Callable[..., HistoryEntry]
MakeRevocation = Callable[..., Revocation]


async def test_without_a_cursor_everything_may_have_changed(backend: Backend, key: MakeKey, entry: MakeEntry, account: MakeAccount) -> None:
    for stored in (key("k1"), key("k2")):
        changes = await backend.feed.changes(None)
        assert (None, True, True) == (changes.keys, changes.accounts, changes.revocations)
        await backend.keys.write(stored, entry(), None)
    assert Changes(cursor=(await backend.feed.changes(None)).cursor) == await backend.feed.changes(
        (await backend.feed.changes(None)).cursor
    )


async def test_a_store_where_nothing_ever_changed_has_a_cursor_that_serves(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    cursor = (await backend.feed.changes(None)).cursor
    assert Changes(cursor=cursor) == await backend.feed.changes(cursor)
    await backend.keys.write(key("k1"), entry(), None)
    assert frozenset({"k1"}) == (await backend.feed.changes(cursor)).keys


async def test_the_keys_that_changed_are_named_once_each(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await backend.keys.write(key("before"), entry(), None)
    cursor = (await backend.feed.changes(None)).cursor
    for stored in (key("k1"), key("k1", revision=2), key("k2", tenant="acme"), key("k1", revision=3)):
        assert await backend.keys.write(stored, entry(), None) is True
    changes = await backend.feed.changes(cursor)
    assert (frozenset({"k1", "k2"}), False) == (changes.keys, changes.accounts)
    assert Changes(cursor=changes.cursor) == await backend.feed.changes(changes.cursor)


async def test_a_change_of_an_account_is_told_without_naming_a_key(
    backend: Backend, key: MakeKey, entry: MakeEntry, account: MakeAccount
) -> None:
    cursor = (await backend.feed.changes(None)).cursor
    await backend.accounts.write(account("k1"), entry())
    created = await backend.feed.changes(cursor)
    assert (frozenset(), True) == (created.keys, created.accounts)
    await backend.accounts.write(msgspec.structs.replace(account("k1"), revision=2, status="blocked"), entry())
    blocked = await backend.feed.changes(created.cursor)
    assert (frozenset(), True) == (blocked.keys, blocked.accounts)
    await backend.keys.write(key("k2"), entry(), None)
    both = await backend.feed.changes(cursor)
    assert (frozenset({"k2"}), True) == (both.keys, both.accounts)


async def test_a_change_of_a_revocation_is_told_without_naming_a_key_or_an_account(
    backend: Backend, key: MakeKey, entry: MakeEntry, account: MakeAccount, revocation: MakeRevocation
) -> None:
    cursor = (await backend.feed.changes(None)).cursor
    await backend.revocations.add(revocation("rv-1"))
    added = await backend.feed.changes(cursor)
    assert Changes(cursor=added.cursor, revocations=True) == added
    await backend.revocations.lift("rv-1", tenant=None, at=1.0, actor="ada")
    lifted = await backend.feed.changes(added.cursor)
    assert Changes(cursor=lifted.cursor, revocations=True) == lifted
    await backend.keys.write(key("rv-1"), entry(), None)
    await backend.accounts.write(account("rv-1"), entry())
    everything = await backend.feed.changes(cursor)
    assert Changes(cursor=everything.cursor, keys=frozenset({"rv-1"}), accounts=True, revocations=True) == everything
    assert (await backend.feed.changes(lifted.cursor)).revocations is False


async def test_readers_go_on_each_from_their_own_cursor(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    cursors = [(await backend.feed.changes(None)).cursor]
    for number in range(4):
        await backend.keys.write(key(f"k{number}"), entry(), None)
        cursors.append((await backend.feed.changes(cursors[-1])).cursor)
    assert sorted(set(cursors)) == cursors
    for number, cursor in enumerate(cursors):
        expected = frozenset(f"k{later}" for later in range(number, 4))
        assert Changes(cursor=cursors[-1], keys=expected) == await backend.feed.changes(cursor)


async def test_a_cursor_that_the_store_did_not_give_means_that_everything_may_have_changed(
    backend: Backend, key: MakeKey, entry: MakeEntry
) -> None:
    await backend.keys.write(key("k1"), entry(), None)
    cursor = (await backend.feed.changes(None)).cursor
    for foreign in (cursor + 1, cursor + 1_000_000, -1):
        assert Changes(cursor=cursor, keys=None, accounts=True, revocations=True) == await backend.feed.changes(foreign)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # a thousand commits are enough
async def test_a_thousand_changes_are_named_and_one_more_are_too_many(
    backend: Backend, key: MakeKey, entry: MakeEntry, account: MakeAccount
) -> None:
    stored = key("k1")
    cursor = (await backend.feed.changes(None)).cursor
    for revision in range(1, 1001):
        await backend.keys.write(msgspec.structs.replace(stored, record=key("k1", revision=revision).record), entry(), None)
    thousand = await backend.feed.changes(cursor)
    assert (frozenset({"k1"}), False) == (thousand.keys, thousand.accounts)
    await backend.accounts.write(account("blue"), entry())
    more = await backend.feed.changes(cursor)
    assert Changes(cursor=more.cursor, keys=None, accounts=True, revocations=True) == more
    assert Changes(cursor=more.cursor, accounts=True) == await backend.feed.changes(thousand.cursor)
