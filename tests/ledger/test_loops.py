"""One handle in several event loops, one after the other and at the same time: no one's end may take another one's work along."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, ManualClock

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
MONEY = Bucket(tenant="t", name="team:blue / nano_usd", kind="lifetime", measure="nano_usd", limit=1_000)
SLOTS = Bucket(tenant="t", name="team:blue / concurrent", kind="lease", measure="concurrent", limit=4)
CLAIMS = (Claim(MONEY, 100), Claim(SLOTS, 1))


class Process:
    """A handle that every loop of a process shares."""

    def __init__(self, backend: str) -> None:
        self.clock = ManualClock()
        self.ledger = FaultyLedger(lambda: MemoryLedger(clock=self.clock))
        self.handle = LedgerHandle(self.ledger, deadline=0.02, clock=self.clock, sleep=self.clock.sleep)
        self._backend = backend

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run a loop of its own to its end."""
        return anyio.run(work, backend=self._backend)

    async def reserve(self) -> Hold:
        hold = await self.handle.reserve(CLAIMS)
        assert isinstance(hold, Hold)
        return hold

    async def later(self, seconds: int) -> None:
        for _ in range(seconds):
            await anyio.wait_all_tasks_blocked()
            self.clock.advance(1.0)
        await anyio.wait_all_tasks_blocked()

    async def used(self) -> tuple[int, ...]:
        return tuple(balance.used for balance in await self.ledger.balance([MONEY, SLOTS]))


@BACKENDS
def test_what_one_loop_could_not_settle_the_next_one_does(backend: str) -> None:
    process = Process(backend)

    async def first() -> None:
        hold = await process.reserve()
        process.ledger.fail("down")
        await process.handle.settle(hold, {"nano_usd": 140})

    async def second() -> tuple[int, ...]:
        process.clock.advance(6.0)
        hold = await process.reserve()
        await process.later(2)
        await process.handle.settle(hold, {"nano_usd": 0})
        return await process.used()

    process.run(first)
    process.ledger.heal()
    assert (140, 0) == process.run(second)
    assert 0 == process.handle.unsettled


@BACKENDS
def test_a_new_loop_keeps_alive_what_it_holds_though_an_earlier_one_took_its_task_along(backend: str) -> None:
    process = Process(backend)

    async def first() -> Hold:
        return await process.reserve()

    async def second() -> None:
        hold = await process.reserve()
        await process.later(60)
        settlement = await process.handle.settle(hold, {})
        assert settlement is not None
        assert not settlement.late

    abandoned = process.run(first)
    process.run(second)
    assert not abandoned.settled


@BACKENDS
def test_two_loops_at_once_each_settle_what_they_hold(backend: str) -> None:
    process = Process(backend)
    both = threading.Barrier(2, timeout=30)

    async def work() -> None:
        for _ in range(200):
            hold = await process.reserve()
            await process.handle.settle(hold, {"nano_usd": 1})

    def run() -> None:
        both.wait()
        process.run(work)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (400, 0) == process.run(process.used)
    assert (0, 0) == (process.handle.held, process.handle.unsettled)


def test_a_request_that_is_thrown_away_where_no_loop_runs_is_undone_by_whoever_comes_next() -> None:
    process = Process("asyncio")
    process.ledger.fail("silent", times=1)
    # Driven by hand, as far as to where it waits: no loop of any kind is there when it is closed.
    handle = LedgerHandle(process.ledger, deadline=None, clock=process.clock, sleep=process.clock.sleep)
    thrown_away: list[Any] = []

    async def begin() -> None:
        coroutine = handle.reserve(CLAIMS)
        coroutine.send(None)
        thrown_away.append(coroutine)

    async def go_on() -> tuple[int, ...]:
        hold = await handle.reserve(CLAIMS)
        assert isinstance(hold, Hold)
        await process.later(1)
        await handle.settle(hold, {"nano_usd": 7})
        return await process.used()

    process.run(begin)
    thrown_away.pop().close()
    assert 1 == handle.unsettled
    assert (7, 0) == process.run(go_on)
    assert 0 == handle.unsettled


@BACKENDS
def test_a_loop_that_ends_while_a_reservation_is_under_way_leaves_nothing_booked(backend: str) -> None:
    process = Process(backend)
    process.ledger.fail("frozen", times=1)

    async def first() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.reserve)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    async def second() -> tuple[int, ...]:
        await process.ledger.thaw()
        process.clock.advance(6.0)
        await process.handle.settle(await process.reserve(), {"nano_usd": 0})
        await process.later(10)
        return await process.used()

    process.run(first)
    assert (0, 0) == process.run(second)
