from typing import Any

import anyio
import pytest

from llm_authmw.errors import StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.ledger.contract import Reservation
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, ManualClock

pytestmark = pytest.mark.anyio

MONEY = Bucket(tenant="t", name="team:blue / nano_usd", kind="lifetime", measure="nano_usd", limit=100)
TTL = 30 * SECOND


@pytest.fixture
def ledger() -> FaultyLedger:
    return FaultyLedger(MemoryLedger)


async def used(ledger: FaultyLedger) -> int:
    return (await ledger.balance([MONEY]))[0].used


async def test_a_ledger_that_is_down_does_nothing(ledger: FaultyLedger) -> None:
    ledger.fail("down", times=1)
    with pytest.raises(StoreUnavailableError):
        await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL)
    assert 0 == await used(ledger)
    assert ["reserve", "balance"] == ledger.calls


async def test_an_answer_that_is_lost_was_booked(ledger: FaultyLedger) -> None:
    ledger.fail("answer lost", times=1)
    with pytest.raises(StoreUnavailableError):
        await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL)
    assert 5 == await used(ledger)


async def test_a_silent_ledger_books_and_never_answers(ledger: FaultyLedger) -> None:
    ledger.fail("silent", times=1)
    with anyio.move_on_after(0.01) as waiting:
        await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL)
    assert waiting.cancelled_caught
    assert 5 == await used(ledger)


async def test_a_frozen_ledger_carries_out_all_that_it_was_told_once_it_is_thawed(
    ledger: FaultyLedger,
) -> None:
    answers: list[Reservation] = []
    ledger.fail("frozen", times=2)

    async def reserve() -> None:
        answers.append(await ledger.reserve("r2", [Claim(MONEY, 7)], ttl=TTL))

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.01):
            await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL)
        tasks.start_soon(reserve)
        await anyio.wait_all_tasks_blocked()
        assert (2, 0) == (ledger.waiting, await used(ledger))
        await ledger.thaw()
    assert (0, 12) == (ledger.waiting, await used(ledger))
    assert [12] == [answer.balances[0].used for answer in answers]


async def test_a_ledger_that_was_restarted_is_empty(ledger: FaultyLedger) -> None:
    await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL)
    ledger.restart()
    assert 0 == await used(ledger)
    assert await ledger.settle("r1", {}) is None
    assert frozenset() == await ledger.extend(["r1"], ttl=TTL)


async def test_a_slow_ledger_answers_after_its_delay() -> None:
    clock = ManualClock()
    ledger = FaultyLedger(MemoryLedger, delay=2.0, sleep=clock.sleep)
    answers: list[Any] = []

    async def reserve() -> None:
        answers.append(await ledger.reserve("r1", [Claim(MONEY, 5)], ttl=TTL))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reserve)
        await anyio.wait_all_tasks_blocked()
        clock.advance(1.9)
        await anyio.wait_all_tasks_blocked()
        assert [] == answers
        clock.advance(0.1)
    assert 1 == len(answers)


def test_what_is_no_fault_is_refused(ledger: FaultyLedger) -> None:
    fault: Any = "slow"
    with pytest.raises(ValueError, match="is not a fault"):
        ledger.fail(fault)
