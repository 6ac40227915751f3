"""What the SQLite ledger does beside what every ledger does: its file, what it forgets, and what a call costs."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.errors import InvalidValueError, StoreCorruptError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import MAX_TTL, REMEMBERED, Balance
from llm_authmw.stores.sqlite import SQLiteBackend, books, file, ledger_rows
from llm_authmw.stores.sqlite.ledger_rows import DROPPED_AT_ONCE
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000 * SECOND
MINUTE = 60 * SECOND
DAY = REMEMBERED / SECOND
LIMIT = 10**9


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW / SECOND)


@pytest.fixture
async def backend(path: Path, anyio_backend: Any, clock: ManualClock) -> AsyncIterator[SQLiteBackend]:
    made = SQLiteBackend(str(path), clock=clock)
    yield made
    await made.aclose()


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


def money(name: str = "money", *, start: int = NOW - MINUTE, minutes: int = 2, limit: int = LIMIT) -> Bucket:
    spans = (Span(start, start + minutes * MINUTE),)
    return Bucket(tenant="t", name=name, kind="window", measure="nano_usd", limit=limit, spans=spans)


def rate(name: str = "rate", limit: int = LIMIT) -> Bucket:
    return Bucket(tenant="t", name=name, kind="rolling", measure="requests", limit=limit, burst=limit, period=MINUTE)


def lifetime(name: str = "ever", limit: int = LIMIT) -> Bucket:
    return Bucket(tenant="t", name=name, kind="lifetime", measure="tokens", limit=limit)


def lease(name: str = "slots", limit: int = LIMIT) -> Bucket:
    return Bucket(tenant="t", name=name, kind="lease", measure="concurrent", limit=limit)


async def reserve(backend: SQLiteBackend, reservation_id: str, *buckets: Bucket, ttl: int = MINUTE) -> bool:
    return (await backend.ledger.reserve(reservation_id, [Claim(bucket, 1) for bucket in buckets], ttl=ttl)).granted


async def used(backend: SQLiteBackend, *buckets: Bucket) -> list[int]:
    return [balance.used for balance in await backend.ledger.balance(buckets)]


def count(connection: sqlite3.Connection, table: str) -> int:
    (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found)


@pytest.mark.usefixtures("impatient")
async def test_while_another_process_writes_nothing_is_counted_and_balances_are_told(
    backend: SQLiteBackend, other: sqlite3.Connection
) -> None:
    assert await reserve(backend, "r", lifetime(), lease())
    other.execute("BEGIN IMMEDIATE")
    for attempt in (
        lambda: reserve(backend, "s", lifetime()),
        lambda: backend.ledger.settle("r", {"tokens": 0}),
        lambda: backend.ledger.extend(["r"], ttl=MINUTE),
    ):
        with pytest.raises(StoreUnavailableError, match="is locked by another process that is writing to it; try again"):
            await attempt()
    assert [1, 1] == await used(backend, lifetime(), lease())
    other.execute("ROLLBACK")
    assert await backend.ledger.settle("s", {}) is None
    assert await backend.ledger.settle("r", {"tokens": 0}) is not None
    assert [0, 0] == await used(backend, lifetime(), lease())


async def test_a_commit_waits_for_no_disk_and_the_log_is_what_makes_that_safe(backend: SQLiteBackend) -> None:
    normal = 1

    def settings(connection: sqlite3.Connection) -> list[Any]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]

    await backend.start()
    assert [normal, "wal"] == await anyio.to_thread.run_sync(backend._database.book, settings)


class Locked(sqlite3.Connection):
    """A connection of a process whose turn comes at the third attempt, or which finds something else wrong then."""

    attempts = 0
    then: int | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE":
            self.attempts += 1
            code = sqlite3.SQLITE_BUSY if self.attempts < 3 else self.then
            if code is not None:
                error = sqlite3.OperationalError("no")
                error.sqlite_errorcode = code
                raise error
        return super().execute(sql, parameters)


def test_a_lock_is_asked_for_until_it_is_had_or_something_else_is_wrong() -> None:
    with closing(sqlite3.connect(":memory:", factory=Locked, isolation_level=None)) as connection:
        file.begin_in_turn(connection, 10.0)
        assert (3, True) == (connection.attempts, connection.in_transaction)
    with closing(sqlite3.connect(":memory:", factory=Locked, isolation_level=None)) as connection:
        connection.then = sqlite3.SQLITE_IOERR
        with pytest.raises(sqlite3.OperationalError) as caught:
            file.begin_in_turn(connection, 10.0)
        assert (3, sqlite3.SQLITE_IOERR) == (connection.attempts, caught.value.sqlite_errorcode)


def test_a_lock_is_not_asked_for_again_where_nobody_may_wait() -> None:
    with closing(sqlite3.connect(":memory:", factory=Locked, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            file.begin_in_turn(connection, 0.0)
        assert 1 == connection.attempts


async def test_a_file_that_is_read_only_counts_nothing_and_tells_its_balances(
    open_directory: Path, without_rights: Callable[[], AbstractContextManager[None]], clock: ManualClock
) -> None:
    path = open_directory / "store.db"
    first = SQLiteBackend(str(path), clock=clock)
    assert await reserve(first, "r", lifetime(), lease())
    await first.aclose()
    path.chmod(0o444)
    open_directory.chmod(0o555)
    second = SQLiteBackend(str(path), clock=clock)
    clock.advance(60)
    with without_rights():
        with pytest.raises(StoreReadOnlyError):
            await reserve(second, "s", lifetime())
        with pytest.raises(StoreReadOnlyError):
            await second.ledger.settle("r", {})
        assert [1, 0] == await used(second, lifetime(), lease())
        await second.aclose()


@pytest.mark.parametrize("damage", ["claims = '[{}]'", "answer = 'x'", "claims = ''"])
async def test_a_reservation_that_cannot_be_read_is_an_error_for_whoever_asks_for_it_and_for_nobody_else(
    backend: SQLiteBackend, other: sqlite3.Connection, damage: str
) -> None:
    assert await reserve(backend, "broken", lifetime())
    other.execute(f"UPDATE reservations SET {damage} WHERE id = 'broken'")
    answers: dict[str, bool] = {}

    async def ask(reservation_id: str) -> None:
        answers[reservation_id] = await reserve(backend, reservation_id, lifetime())

    async def ask_for_the_broken_one() -> None:
        with pytest.raises(StoreCorruptError, match="is damaged") as caught:
            await reserve(backend, "broken", lifetime())
        assert "broken" not in str(caught.value)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(ask, f"r{number}")
            tasks.start_soon(ask_for_the_broken_one)
    assert {f"r{number}": True for number in range(5)} == answers
    assert [6] == await used(backend, lifetime())


async def test_an_id_that_is_no_text_is_of_no_reservation(backend: SQLiteBackend) -> None:
    assert await reserve(backend, "r", lifetime())
    with pytest.raises(InvalidValueError):
        await reserve(backend, "\ud800", lifetime())
    assert await backend.ledger.settle("\ud800", {}) is None
    assert frozenset({"r"}) == await backend.ledger.extend(["\ud800", "r"], ttl=MINUTE)
    assert frozenset() == await backend.ledger.extend(["\ud800"], ttl=MINUTE)
    assert [1] == await used(backend, lifetime())


async def test_what_is_counted_outlives_whoever_counted_it(path: Path, backend: SQLiteBackend, clock: ManualClock) -> None:
    first = await backend.ledger.reserve("r", [Claim(lifetime(), 5), Claim(rate(limit=7), 3)], ttl=MINUTE)
    await backend.aclose()
    again = SQLiteBackend(str(path), clock=clock)
    assert first == await again.ledger.reserve("r", [Claim(lifetime(), 5)], ttl=MINUTE)
    assert first.balances == await again.ledger.balance([lifetime(), rate(limit=7)])
    settlement = await again.ledger.settle("r", {"tokens": 9, "requests": 0})
    assert settlement is not None
    assert [9, 0] == [balance.used for balance in settlement.balances]
    await again.aclose()


async def test_reservations_are_forgotten_a_bounded_number_at_a_time(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock
) -> None:
    made = 3 * DROPPED_AT_ONCE
    for number in range(made):
        await reserve(backend, f"r{number}", lifetime())
        if number % 2:
            await backend.ledger.settle(f"r{number}", {"tokens": 0})
    clock.advance(DAY + 60)
    for left in (2 * DROPPED_AT_ONCE, DROPPED_AT_ONCE, 0):
        await backend.ledger.extend(["nobody"], ttl=MINUTE)
        assert left == count(other, "reservations")
    # What was not settled stays counted.
    assert [made // 2] == await used(backend, lifetime())


async def test_those_that_are_held_for_days_keep_nobody_from_being_forgotten(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_rows, "DROPPED_AT_ONCE", 3)
    monkeypatch.setattr(books, "DROPPED_AT_ONCE", 3)
    held = {f"long-{number}" for number in range(3)}
    for name in sorted(held):
        assert await reserve(backend, name, lease(), ttl=MAX_TTL)
    for number in range(4):
        await reserve(backend, f"r{number}", lifetime())
    for _ in range(5):
        clock.advance(DAY / 2)
        assert held == await backend.ledger.extend(held, ttl=MAX_TTL)
    for _ in range(3):
        clock.advance(60)
        await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert [(name,) for name in sorted(held)] == sorted(other.execute("SELECT id FROM reservations"))
    assert [3, 4] == await used(backend, lease(), lifetime())
    clock.advance(2 * DAY + 60)
    await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert (0, [0]) == (count(other, "reservations"), await used(backend, lease()))


async def test_windows_that_are_over_are_dropped_a_bounded_number_at_a_time(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock
) -> None:
    for number in range(2 * DROPPED_AT_ONCE):
        await reserve(backend, f"r{number}", money(f"b{number}"))
        await backend.ledger.settle(f"r{number}", {})
    clock.advance(180)
    for left in (DROPPED_AT_ONCE, 0, 0):
        await backend.ledger.extend(["nobody"], ttl=MINUTE)
        assert left == count(other, "counters")


async def test_a_window_is_kept_as_long_as_a_reservation_can_still_be_settled_into_it(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock
) -> None:
    assert await reserve(backend, "settled", money(limit=5))
    assert await reserve(backend, "forgotten", money(limit=5))
    for _ in range(24):
        clock.advance(3600)
        await backend.ledger.extend(["nobody"], ttl=MINUTE)
    settlement = await backend.ledger.settle("settled", {"nano_usd": 9})
    assert settlement is not None
    assert (True, (Balance(10, 5, 0, NOW + MINUTE),)) == (settlement.late, settlement.balances)
    assert 1 == count(other, "counters")
    clock.advance(120)
    await backend.ledger.extend(["nobody"], ttl=MINUTE)
    clock.advance(3600)
    await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert 0 == count(other, "counters")


async def test_a_counter_that_says_no_more_than_its_absence_is_dropped_and_no_other_one(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock
) -> None:
    assert await reserve(backend, "gone", rate("full"), lifetime("none"), lease("free"))
    slow = Bucket(tenant="t", name="slow", kind="rolling", measure="requests", limit=60, burst=60, period=3600 * SECOND)
    assert await reserve(backend, "here", lifetime("some"), lease("taken"), slow, ttl=MAX_TTL)
    assert (await backend.ledger.reserve("more", [Claim(slow, 50)], ttl=MAX_TTL)).granted
    await backend.ledger.settle("gone", {"tokens": 0, "requests": 1})
    for _ in range(3):
        clock.advance(120)
        await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert [("slow",), ("some",), ("taken",)] == sorted(other.execute("SELECT name FROM counters").fetchall())
    assert [0, 0, 0] == await used(backend, rate("full"), lifetime("none"), lease("free"))
    assert [45, 1, 1] == await used(backend, slow, lifetime("some"), lease("taken"))
    await backend.ledger.settle("here", {})
    clock.advance(3660)
    await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert [("some",)] == other.execute("SELECT name FROM counters").fetchall()


async def test_leases_of_a_worker_that_was_killed_end_a_bounded_number_at_a_time_and_never_too_many_are_free(
    backend: SQLiteBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_rows, "_ENDED_AT_ONCE", 2)
    slots = lease(limit=5)
    for number in range(5):
        assert await reserve(backend, f"r{number}", slots)
    clock.advance(60)
    assert [3] == await used(backend, slots)
    for number, left in enumerate((4, 3, 3)):
        assert await reserve(backend, f"s{number}", slots)
        assert [max(left - 2, number + 1)] == await used(backend, slots)
    late = await backend.ledger.settle("r4", {})
    assert late is not None
    assert late.late
    assert [3] == await used(backend, slots)


async def test_leases_of_reservations_that_are_forgotten_end_with_them(
    backend: SQLiteBackend, other: sqlite3.Connection, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_rows, "_ENDED_AT_ONCE", 1)
    for number in range(3):
        assert await reserve(backend, f"r{number}", lease())
    clock.advance(2 * DAY)
    await backend.ledger.extend(["nobody"], ttl=MINUTE)
    assert (0, [0]) == (count(other, "reservations"), await used(backend, lease()))


class Counted(sqlite3.Connection):
    """A connection that counts its statements, and the steps that SQLite takes for them."""

    statements = 0
    steps = 0

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        Counted.statements += 1
        return super().execute(sql, parameters)

    def step(self) -> int:
        Counted.steps += 1
        return 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    def connect(path: Path, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Counted)
        connection.set_progress_handler(connection.step, 1)
        connection.row_factory = sqlite3.Row
        return connection

    monkeypatch.setattr(file, "connect", connect)
    return Counted


async def cost(backend: SQLiteBackend, counted: type[Counted], reservation_id: str, *buckets: Bucket) -> tuple[int, int]:
    """Return the statements and the steps of one request."""
    before = counted.statements, counted.steps
    assert await reserve(backend, reservation_id, *buckets)
    assert await backend.ledger.settle(reservation_id, {"tokens": 2, "nano_usd": 3}) is not None
    return counted.statements - before[0], counted.steps - before[1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_request_costs_depends_on_its_own_claims_and_on_nothing_else(backend: SQLiteBackend, counted: type[Counted]) -> None:
    own = (money(), rate(), lifetime(), lease())
    for warm in range(2):
        await cost(backend, counted, f"w{warm}", *own)
    alone = await cost(backend, counted, "alone", *own)
    for number in range(40):
        others = [make(f"{make.__name__}-{number}-{place}") for place in range(15) for make in (money, rate, lifetime, lease)]
        assert await reserve(backend, f"held-{number}", *others)
    beside = await cost(backend, counted, "beside", *own)
    assert alone[0] == beside[0]
    assert abs(beside[1] - alone[1]) < alone[1] / 50
    many = [make(f"{make.__name__}-own-{place}") for place in range(16) for make in (money, rate, lifetime, lease)]
    statements, steps = await cost(backend, counted, "many", *many)
    assert alone[0] == statements
    assert steps < 16 * alone[1]
