import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend, database

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
WithoutRights = Callable[[], AbstractContextManager[None]]


async def store_in(directory: Path, *keys: StoredKey, entry: HistoryEntry) -> Path:
    path = directory / "store.db"
    backend = SQLiteBackend(str(path))
    for key in keys:
        await backend.keys.write(key, entry, None)
    await backend.aclose()
    return path


def forbid_writing(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)


def content_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


async def assert_only_reading_works(backend: SQLiteBackend, key: StoredKey, new: StoredKey, entry: HistoryEntry) -> None:
    await backend.start()
    for _ in range(2):
        assert key == await backend.keys.find(key.record.id)
        cursor = (await backend.feed.changes(None)).cursor
        assert cursor == (await backend.feed.changes(cursor)).cursor
        for attempt in (lambda: backend.keys.write(new, entry, None), lambda: backend.keys.touch([KeyUse(key.record.id, 9.0)])):
            with pytest.raises(StoreReadOnlyError, match=r"store\.db cannot be written: the file, its directory or its file system"):
                await attempt()


@pytest.mark.parametrize("forbidden", ["file", "directory", "both"])
async def test_a_store_that_cannot_be_written_is_read_and_stays_as_it_is(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry, forbidden: str
) -> None:
    path = await store_in(open_directory, key(), entry=entry)
    # SQLite wants a log beside the file even for reading; where it may make one, it does.
    open_directory.chmod(0o777)
    path.chmod(0o666)
    forbid_writing(*{"file": [path], "directory": [open_directory], "both": [path, open_directory]}[forbidden])
    before = path.read_bytes()
    backend = SQLiteBackend(str(path))
    with without_rights():
        await assert_only_reading_works(backend, key(), key("k2"), entry)
        await backend.aclose()
    assert before == path.read_bytes()
    if forbidden != "file":
        assert ["store.db"] == [file.name for file in open_directory.iterdir()]


async def test_what_a_writer_with_rights_does_is_seen_by_a_reader_without(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry
) -> None:
    path = await store_in(open_directory, key("k1"), entry=entry)
    path.chmod(0o644)
    forbid_writing(path)
    reader = SQLiteBackend(str(path))

    async def write(changed: StoredKey) -> None:
        open_directory.chmod(0o755)
        path.chmod(0o644)
        writer = SQLiteBackend(str(path))
        assert await writer.keys.write(changed, entry, None) is True
        await writer.aclose()
        forbid_writing(path, open_directory)

    forbid_writing(open_directory)
    with without_rights():
        assert key("k1") == await reader.keys.find("k1")
        cursor = (await reader.feed.changes(None)).cursor
    await write(key("k1", revision=2, status="revoked"))
    with without_rights():
        assert frozenset({"k1"}) == (await reader.feed.changes(cursor)).keys
        assert key("k1", revision=2, status="revoked") == await reader.keys.find("k1")
    await reader.aclose()


async def test_the_log_of_a_living_writer_is_read_without_the_right_to_write(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry
) -> None:
    path = await store_in(open_directory, key("k1"), entry=entry)
    writer, reader = SQLiteBackend(str(path)), SQLiteBackend(str(path))
    revoked = key("k1", revision=2, status="revoked")
    await writer.keys.write(revoked, entry, None)
    assert path.with_name("store.db-wal").stat().st_size > 0
    forbid_writing(*open_directory.iterdir(), open_directory)
    with without_rights():
        assert revoked == await reader.keys.find("k1")
        with pytest.raises(StoreReadOnlyError):
            await reader.keys.write(key("k2"), entry, None)
        await reader.aclose()
    for file in (open_directory, *open_directory.iterdir()):
        file.chmod(0o755)
    await writer.aclose()


async def test_a_log_that_cannot_be_read_is_never_passed_over(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry
) -> None:
    # What a machine that lost its power leaves behind, seen by one who may not repair it: a revocation is in the log only.
    (open_directory / "live").mkdir()
    (open_directory / "left").mkdir()
    path = await store_in(open_directory / "live", key("k1"), entry=entry)
    writer = SQLiteBackend(str(path))
    revoked = key("k1", revision=2, status="revoked")
    await writer.keys.write(revoked, entry, None)
    for name in ("store.db", "store.db-wal"):
        shutil.copy(path.with_name(name), open_directory / "left" / name)
    await writer.aclose()
    left = open_directory / "left" / "store.db"
    forbid_writing(left, left.with_name("store.db-wal"), left.parent)
    before = content_of(left.parent)
    reader = SQLiteBackend(str(left))
    with without_rights():
        with pytest.raises(StoreUnavailableError, match="this user may read and write it and its directory"):
            await reader.keys.find("k1")
        await reader.aclose()
    assert before == content_of(left.parent)
    # One who may, does.
    for file in (left.parent, *left.parent.iterdir()):
        file.chmod(0o755)
    assert revoked == await reader.keys.find("k1")
    await reader.aclose()


async def test_a_store_without_a_log_is_read_where_nobody_may_write(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await store_in(open_directory, key(), entry=entry)
    backend = SQLiteBackend(str(path))
    await backend._database.start()
    connection = backend._database._opened(1.0).take()
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    await backend.aclose()
    path.chmod(0o644)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN")
        forbid_writing(path, open_directory)
        with without_rights():
            await assert_only_reading_works(backend, key(), key("k2"), entry)
            assert key() == await backend.keys.find("k1")
        # It is read under a lock all the same: somebody else may have the rights.
        writer.execute("COMMIT")
        writer.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(database, "READ_WAIT", 0.0)
        with without_rights():
            with pytest.raises(StoreUnavailableError, match="locked by another process"):
                await backend.keys.find("k1")
            await backend.aclose()


async def test_a_new_store_in_a_directory_that_cannot_be_written_is_refused_and_the_directory_named(
    open_directory: Path, without_rights: WithoutRights
) -> None:
    forbid_writing(open_directory)
    backend = SQLiteBackend(str(open_directory / "store.db"))
    with without_rights():
        with pytest.raises(StoreReadOnlyError, match=r"cannot be made in .*: Permission denied") as caught:
            await backend.start()
        assert str(open_directory) in str(caught.value)
    assert [] == list(open_directory.iterdir())


async def test_an_empty_file_that_cannot_be_written_is_refused(open_directory: Path, without_rights: WithoutRights) -> None:
    path = open_directory / "store.db"
    path.touch()
    path.chmod(0o644)
    forbid_writing(path, open_directory)
    backend = SQLiteBackend(str(path))
    with without_rights(), pytest.raises(StoreReadOnlyError, match="cannot be written"):
        await backend.start()
    assert b"" == path.read_bytes()


async def test_writing_works_as_soon_as_it_is_allowed(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry
) -> None:
    path = await store_in(open_directory, key("k1"), entry=entry)
    path.chmod(0o644)
    forbid_writing(path, open_directory)
    backend = SQLiteBackend(str(path))
    with without_rights(), pytest.raises(StoreReadOnlyError):
        await backend.keys.write(key("k2"), entry, None)
    open_directory.chmod(0o755)
    path.chmod(0o600)
    assert await backend.keys.write(key("k2"), entry, None) is True
    assert key("k2") == await backend.keys.find("k2")
    await backend.aclose()


async def test_a_file_that_may_not_be_read_at_all_is_refused(
    open_directory: Path, without_rights: WithoutRights, key: MakeKey, entry: HistoryEntry
) -> None:
    path = await store_in(open_directory, key("k1"), entry=entry)
    path.chmod(0)
    backend = SQLiteBackend(str(path))
    with without_rights(), pytest.raises(StoreUnavailableError, match="this user may read and write it"):
        await backend.keys.find("k1")
    path.chmod(0o600)
    assert key("k1") == await backend.keys.find("k1")
    await backend.aclose()
