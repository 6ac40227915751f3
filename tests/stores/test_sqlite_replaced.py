import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend, feed
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


async def other_store(path: Path, *keys: StoredKey, entry: HistoryEntry) -> None:
    backend = SQLiteBackend(str(path))
    await backend.start()
    for key in keys:
        await backend.keys.write(key, entry, None)
    await backend.aclose()


def put_in_place(copy: Path, path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(f"store.db{suffix}").unlink()
    copy.replace(path)


async def test_a_copy_that_is_put_in_the_place_of_the_file_is_what_is_read(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key("old"), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    await other_store(tmp_path / "copy.db", key("new"), entry=entry)
    put_in_place(tmp_path / "copy.db", path)
    assert await backend.keys.find("old") is None
    assert key("new") == await backend.keys.find("new")
    changes = await backend.feed.changes(cursor)
    assert (None, True, True) == (changes.keys, changes.accounts, changes.revocations)
    assert await backend.keys.write(key("newer"), entry, None) is True
    assert frozenset({"newer"}) == (await backend.feed.changes(changes.cursor)).keys


async def test_closing_a_file_that_was_replaced_leaves_the_other_ones_log_alone(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key("old"), entry, None)
    await other_store(tmp_path / "copy.db", entry=entry)
    put_in_place(tmp_path / "copy.db", path)
    other = SQLiteBackend(str(path))
    await other.keys.write(key("new"), entry, None)
    await backend.aclose()
    assert path.with_name("store.db-wal").stat().st_size > 0
    assert key("new") == await other.keys.find("new")
    await other.aclose()
    assert key("new") == await backend.keys.find("new")


async def test_a_file_that_was_deleted_is_an_empty_store_again(
    path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key("old"), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    for left in path.parent.iterdir():
        left.unlink()
    assert await backend.keys.find("old") is None
    assert (await backend.feed.changes(cursor)).keys is None
    assert await backend.keys.write(key("new"), entry, None) is True


async def test_a_copy_that_went_on_by_itself_takes_no_cursor_of_the_file_for_its_own(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key("k1"), entry, None)
    await backend.aclose()
    shutil.copy(path, tmp_path / "copy.db")
    # The server reads on in the file while the copy, which will be put in its place, has as many changes of its own and more.
    await backend.keys.write(key("k2"), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    await other_store(tmp_path / "copy.db", key("k1", revision=2, status="revoked"), key("k3"), key("k4"), entry=entry)
    put_in_place(tmp_path / "copy.db", path)
    changes = await backend.feed.changes(cursor)
    assert (None, True, True) == (changes.keys, changes.accounts, changes.revocations)


async def test_changes_that_were_forgotten_mean_that_everything_may_have_changed(
    backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert feed.MAX_KEPT_CHANGES == 10_000
    monkeypatch.setattr(feed, "MAX_KEPT_CHANGES", 20)
    cursors = [(await backend.feed.changes(None)).cursor]
    for number in range(40):
        await backend.keys.write(key(f"k{number}"), entry, None)
        cursors.append((await backend.feed.changes(cursors[-1])).cursor)

    def kept(connection: sqlite3.Connection) -> list[int]:
        return list(connection.execute("SELECT count(*), min(seq), max(seq) FROM changes").fetchone())

    assert [20, 22, 41] == await backend._database.read(kept)
    for number, cursor in enumerate(cursors):
        changes = await backend.feed.changes(cursor)
        assert cursors[-1] == changes.cursor
        named = frozenset(f"k{later}" for later in range(number, 40))
        assert (named if number > 20 else None) == changes.keys


async def test_idempotency_keys_of_a_tenant_that_are_too_old_leave_the_file(path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    clock = ManualClock()
    backend = SQLiteBackend(str(path), clock=clock)
    for number in range(3):
        await backend.keys.write(key(f"k{number}"), entry, Idempotency("default", "create", f"i{number}", "f"))
        clock.advance(IDEMPOTENCY_TTL / 2)

    def kept(connection: sqlite3.Connection) -> list[str]:
        return [row["idempotency_key"] for row in connection.execute("SELECT idempotency_key FROM idempotency ORDER BY at")]

    assert ["i1", "i2"] == await backend._database.read(kept)
    await backend.aclose()
