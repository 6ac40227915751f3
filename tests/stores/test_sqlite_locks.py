import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.errors import StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import Idempotency, KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend, database, file

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]

LOCKED = r"store\.db is locked by another process that is writing to it; try again"


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_while_another_writes_a_write_is_refused_and_reading_goes_on(
    backend: SQLiteBackend, other: sqlite3.Connection, key: MakeKey, entry: HistoryEntry, lock: str
) -> None:
    await backend.keys.write(key("k1"), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    other.execute(lock)
    wish = Idempotency("default", "create", "once", "f")
    for attempt in (
        lambda: backend.keys.write(key("k2"), entry, wish),
        lambda: backend.keys.write(key("k1", revision=2), entry, None),
        lambda: backend.keys.touch([KeyUse("k1", 9.0)]),
    ):
        with pytest.raises(StoreUnavailableError, match=LOCKED):
            await attempt()
    assert key("k1") == await backend.keys.find("k1")
    assert cursor == (await backend.feed.changes(cursor)).cursor
    other.execute("ROLLBACK")
    assert await backend.keys.find("k2") is None
    assert await backend.keys.replayed(wish) is None
    assert await backend.keys.write(key("k2"), entry, wish) is True


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_another_keeps_for_itself_is_unavailable_until_he_is_done(
    backend: SQLiteBackend, other: sqlite3.Connection, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key("k1"), entry, None)
    await backend.aclose()
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    for attempt in (
        backend.start,
        lambda: backend.keys.find("k1"),
        lambda: backend.feed.changes(None),
        lambda: backend.keys.write(key("k2"), entry, None),
    ):
        with pytest.raises(StoreUnavailableError, match=LOCKED):
            await attempt()
    other.close()
    assert key("k1") == await backend.keys.find("k1")
    assert await backend.keys.write(key("k2"), entry, None) is True


@pytest.mark.usefixtures("impatient")
async def test_a_new_file_that_another_keeps_for_itself_is_unavailable_until_he_is_done(
    path: Path, backend: SQLiteBackend, other: sqlite3.Connection, key: MakeKey, entry: HistoryEntry
) -> None:
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailableError, match=LOCKED):
        await backend.keys.find("k1")
    other.execute("ROLLBACK")
    assert b"" == path.read_bytes()
    assert await backend.keys.write(key("k1"), entry, None) is True


async def test_a_change_waits_for_another_writer_and_then_happens(
    path: Path, key: MakeKey, entry: HistoryEntry, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    connect = file.connect

    def traced(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(lambda statement: asked.set() if statement == "BEGIN IMMEDIATE" else None)
        return connection

    backend = SQLiteBackend(str(path))
    await backend.start()
    await backend.aclose()
    monkeypatch.setattr(file, "connect", traced)
    other.execute("BEGIN IMMEDIATE")

    def release() -> None:
        assert asked.wait(10)
        other.execute("ROLLBACK")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, release)
        assert await backend.keys.write(key(), entry, None) is True
    assert asked.is_set()
    assert key() == await backend.keys.find("k1")
    await backend.aclose()


def waits(connection: sqlite3.Connection) -> tuple[float, int]:
    (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    return milliseconds / 1000, synchronous


async def test_changes_are_on_the_disk_when_they_are_acknowledged_and_requests_wait_for_no_lock_longer_than_their_deadline(
    backend: SQLiteBackend,
) -> None:
    full, normal = 2, 1
    noted: list[Any] = []
    opened = backend._database
    for _ in range(2):
        assert (5.0, full) == await opened.write(waits)
        await opened.note(lambda connection: noted.append(waits(connection)))
        assert 0.2 == (await opened.read(waits))[0]
    assert [(0.2, normal)] * 2 == noted
    assert database.READ_WAIT < 0.25


async def test_another_thread_that_writes_is_waited_for_no_longer_than_for_another_process(
    backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.start()
    held = backend._database._writing
    monkeypatch.setattr(database, "READ_WAIT", 0.0)
    monkeypatch.setattr(database, "WRITE_WAIT", 0.0)
    with held:
        for attempt in (lambda: backend.keys.write(key(), entry, None), lambda: backend.keys.touch([KeyUse("k1", 9.0)])):
            with pytest.raises(StoreUnavailableError, match="busy with other work of this process"):
                await attempt()
        assert await backend.keys.find("k1") is None
    assert await backend.keys.write(key(), entry, None) is True


class TurnedAway(sqlite3.Connection):
    """A connection that is told twice that the file is locked, without having waited, as of two processes one is."""

    refusals = 2
    code = sqlite3.SQLITE_BUSY

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "PRAGMA journal_mode = WAL" and self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error
        return super().execute(sql, parameters)


def test_one_who_is_turned_away_from_the_switch_to_a_log_tries_again(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=TurnedAway, isolation_level=None)) as connection:
        file._keep_a_log(connection, path, 10.0)
        assert "wal" == connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_one_who_is_turned_away_for_too_long_gives_up(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=TurnedAway, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            file._keep_a_log(connection, path, 0.0)
        assert "delete" == connection.execute("PRAGMA journal_mode").fetchone()[0]


def test_another_reason_than_a_lock_is_no_reason_to_try_again(path: Path) -> None:
    with closing(sqlite3.connect(path, factory=TurnedAway, isolation_level=None)) as connection:
        connection.code = sqlite3.SQLITE_IOERR
        with pytest.raises(sqlite3.OperationalError):
            file._keep_a_log(connection, path, 10.0)
        assert 1 == connection.refusals


def test_a_file_system_without_a_log_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(StoreUnavailableError, match="put it on a disk of this machine"):
        file._keep_a_log(connection, path, 0.0)
