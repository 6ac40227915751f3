import asyncio
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from blockbuster import BlockingError, blockbuster_ctx

from llm_authmw.accounts.protocols import AccountQuery
from llm_authmw.accounts.records import AccountRecord
from llm_authmw.errors import StoreCorruptError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import Idempotency, KeyQuery, KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.sqlite import SQLiteBackend, database, file
from llm_authmw.stores.sqlite.form import Form

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


async def everything(backend: SQLiteBackend, key: StoredKey, entry: HistoryEntry) -> None:
    wish = Idempotency("default", "create", "once", "f")
    account = AccountRecord(kind="team", name="blue", created_at=1.0)
    await backend.start()
    await backend.keys.write(key, entry, wish)
    await backend.keys.touch([KeyUse(key.record.id, 9.0)])
    await backend.keys.find(key.record.id)
    await backend.keys.find_imported(b"digest")
    await backend.keys.replayed(wish)
    await backend.keys.query(KeyQuery(now=1.0))
    await backend.keys.history(key.record.id)
    await backend.accounts.write(account, entry)
    await backend.accounts.find(account.ref)
    await backend.accounts.query(AccountQuery())
    await backend.accounts.history(account.ref)
    await backend.feed.changes(None)
    slots = Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=1)
    await backend.ledger.reserve("r", [Claim(slots, 1)], ttl=SECOND)
    await backend.ledger.extend(["r"], ttl=SECOND)
    await backend.ledger.settle("r", {})
    await backend.ledger.balance([slots])
    await backend.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what blockbuster knows
async def test_nothing_blocks_the_event_loop(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    (tmp_path / "bad.db").write_text("no database")
    with blockbuster_ctx():
        await everything(SQLiteBackend(str(tmp_path / "store.db")), key(), entry)
        with pytest.raises(StoreCorruptError):
            await SQLiteBackend(str(tmp_path / "bad.db")).start()
        with pytest.raises(StoreUnavailableError):
            await SQLiteBackend(str(tmp_path / "missing" / "store.db")).start()
        with pytest.raises(BlockingError):  # it does look
            sqlite3.connect(":memory:").execute("SELECT 1")


async def test_no_statement_runs_in_the_thread_of_the_event_loop(
    path: Path, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    connect = file.connect

    def traced(path: Path, mode: str) -> sqlite3.Connection:
        threads.add(threading.get_ident())
        connection = connect(path, mode)
        connection.set_trace_callback(lambda _: threads.add(threading.get_ident()))
        return connection

    monkeypatch.setattr(file, "connect", traced)
    await everything(SQLiteBackend(str(path)), key(), entry)
    assert threads
    assert threading.get_ident() not in threads


async def test_a_flood_of_reads_takes_few_threads_and_none_of_the_apps(backend: SQLiteBackend) -> None:
    await backend.start()
    inside, most = 0, 0
    counting = threading.Lock()
    all_in = threading.Barrier(database.READERS)
    borrowed: list[int] = []

    async def look() -> None:
        borrowed.append(int(anyio.to_thread.current_default_thread_limiter().borrowed_tokens))

    def work(_: sqlite3.Connection) -> None:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        all_in.wait(10)
        anyio.from_thread.run(look)
        with counting:
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(database.READERS * 8):
            tasks.start_soon(backend._database.read, work)
    assert most == database.READERS
    assert [0] * (database.READERS * 8) == borrowed


async def test_readers_go_on_while_writers_wait(backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key("k1"), entry, None)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            entered, found = anyio.Event(), threading.Event()

            def hold(connection: sqlite3.Connection) -> None:
                connection.execute("UPDATE keys SET name = 'held'")
                anyio.from_thread.run_sync(entered.set)
                assert found.wait(10)

            tasks.start_soon(backend._database.write, hold)
            await entered.wait()
            for number in range(10):
                tasks.start_soon(backend.keys.write, key(f"w{number}"), entry, None)
            assert key("k1") == await backend.keys.find("k1")
            found.set()
    assert 11 == len((await backend.keys.query(KeyQuery(now=1.0))).keys)


async def test_a_caller_who_gives_up_reading_does_not_wait_for_the_thread(
    backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    release = threading.Event()
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:

            def hang(_: sqlite3.Connection) -> None:
                anyio.from_thread.run_sync(scope.cancel)
                assert release.wait(10)

            await backend._database.read(hang)
        assert scope.cancelled_caught
        assert key() == await backend.keys.find("k1")
    release.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # on trio, a thread that was abandoned keeps its limiter's token
async def test_reads_that_hang_do_not_pile_up_threads(
    backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.keys.write(key(), entry, None)
    release = threading.Event()
    done = threading.Barrier(database.READERS + 1)
    for _ in range(database.READERS):
        with anyio.CancelScope() as scope:

            def hang(_: sqlite3.Connection, give_up: Callable[[], None]) -> None:
                anyio.from_thread.run_sync(give_up)
                assert release.wait(10)
                done.wait(10)

            await backend._database.read(partial(hang, give_up=scope.cancel))
    monkeypatch.setattr(database, "READ_WAIT", 0.0)
    with pytest.raises(StoreUnavailableError, match="busy with other work of this process"):
        await backend.keys.find("k1")
    monkeypatch.setattr(database, "READ_WAIT", 60.0)
    release.set()
    await anyio.to_thread.run_sync(done.wait, 10)
    assert key() == await backend.keys.find("k1")


async def test_a_change_whose_caller_is_cancelled_is_made_to_its_end(backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key(), entry, None)
    outcomes: list[str] = []
    with anyio.CancelScope() as scope:

        def change(connection: sqlite3.Connection) -> str:
            anyio.from_thread.run_sync(scope.cancel)
            connection.execute("UPDATE keys SET name = 'changed'")
            return "changed"

        outcomes.append(await backend._database.write(change))
    assert ["changed"] == outcomes
    stored = await backend.keys.find("k1")
    assert stored is not None
    assert "changed" == stored.record.name


async def test_closing_waits_for_no_reader_and_leaves_nothing_open(
    path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            entered, closed = anyio.Event(), threading.Event()

            def slow(connection: sqlite3.Connection) -> None:
                anyio.from_thread.run_sync(entered.set)
                assert closed.wait(10)
                assert 1 == connection.execute("SELECT count(*) FROM keys").fetchone()[0]

            tasks.start_soon(backend._database.read, slow)
            await entered.wait()
            await backend.aclose()
            closed.set()
    assert ["store.db"] == [left.name for left in path.parent.iterdir()]


async def test_closing_is_done_even_by_one_who_is_cancelled(path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key(), entry, None)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await backend.aclose()
    assert ["store.db"] == [left.name for left in path.parent.iterdir()]


@pytest.mark.usefixtures("patient")
async def test_many_who_use_it_first_at_the_same_time_open_it_once(
    path: Path, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    open_file = file.open_file

    def counted(path: Path, wait: float, form: Form) -> file.OpenFile:
        opened.append(path)
        return open_file(path, wait, form)

    monkeypatch.setattr(database, "open_file", counted)
    backend = SQLiteBackend(str(path))
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(backend.start)
            tasks.start_soon(backend.keys.find, "k1")
            tasks.start_soon(backend.keys.write, key(f"k{number}"), entry, None)
    assert [path] == opened
    assert 10 == len((await backend.keys.query(KeyQuery(now=1.0))).keys)
    await backend.aclose()


def test_one_backend_serves_one_event_loop_after_the_other(path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    backend = SQLiteBackend(str(path))

    async def write(key_id: str) -> None:
        assert await backend.keys.write(key(key_id), entry, None) is True

    async def close() -> int:
        found = len((await backend.keys.query(KeyQuery(now=1.0))).keys)
        await backend.aclose()
        return found

    for number in range(3):
        anyio.run(write, f"asyncio{number}")
        anyio.run(write, f"trio{number}", backend="trio")
    assert 6 == anyio.run(close)


@pytest.mark.usefixtures("patient")
def test_one_backend_serves_several_event_loops_at_once(path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    backend = SQLiteBackend(str(path))

    async def write(name: str) -> None:
        for number in range(10):
            assert await backend.keys.write(key(f"{name}-{number}"), entry, None) is True
            assert await backend.keys.find(f"{name}-{number}") is not None

    with asyncio.Runner() as runner:
        threads = [
            threading.Thread(target=anyio.run, args=(write, name), kwargs={"backend": "trio" if name < "c" else "asyncio"})
            for name in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert 40 == len(runner.run(backend.keys.query(KeyQuery(now=1.0))).keys)
        runner.run(backend.aclose())
