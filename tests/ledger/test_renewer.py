import gc
from typing import Any

import anyio
import pytest

from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger

pytestmark = pytest.mark.anyio


async def hold_of(counted: Any) -> Hold:
    hold = await counted.handle.reserve(counted.claims())
    assert isinstance(hold, Hold)
    return hold


def extensions(counted: Any) -> int:
    count: int = counted.ledger.calls.count("extend")
    return count


async def test_a_request_that_runs_for_long_keeps_its_slot_and_one_question_serves_all(counted: Any) -> None:
    holds = [await hold_of(counted) for _ in range(3)]
    await counted.later(95)
    assert 3 == (await counted.used())[2]
    assert 9 == extensions(counted)
    for hold in holds:
        settlement = await counted.handle.settle(hold, {})
        assert not settlement.late
    assert 0 == counted.handle.lapsed


async def test_nothing_is_asked_once_nothing_is_held(counted: Any) -> None:
    await counted.handle.settle(await hold_of(counted), {})
    await counted.later(40)
    assert 0 == extensions(counted)


async def test_what_is_held_after_a_pause_without_requests_is_kept_alive_again(counted: Any) -> None:
    await counted.handle.settle(await hold_of(counted), {})
    await counted.later(40)
    hold = await hold_of(counted)
    await counted.later(40)
    assert not (await counted.handle.settle(hold, {})).late


async def test_a_lease_is_as_long_as_was_asked_for(counted: Any) -> None:
    handle = LedgerHandle(counted.ledger, lease=6.0, clock=counted.clock, sleep=counted.clock.sleep)
    hold = await handle.reserve(counted.claims())
    await handle.aclose()
    counted.clock.advance(5.9)
    assert 1 == (await counted.used())[2]
    counted.clock.advance(0.1)
    assert 0 == (await counted.used())[2]
    assert isinstance(hold, Hold)
    await handle.settle(hold, {})


async def test_a_store_that_fails_for_less_than_a_lease_costs_no_slot(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("down")
    await counted.later(25)
    counted.ledger.heal()
    await counted.later(30)
    settlement = await counted.handle.settle(hold, {})
    assert (False, 0) == (settlement.late, counted.handle.lapsed)


async def test_a_lease_that_ended_is_noticed_and_its_request_still_settles(counted: Any, caplog: pytest.LogCaptureFixture) -> None:
    hold = await hold_of(counted)
    counted.clock.advance(31.0)  # the process stood still
    await counted.later(1)
    assert (1, 0) == (counted.handle.lapsed, counted.handle.held)
    assert hold.id in caplog.text
    settlement = await counted.handle.settle(hold, {"nano_usd": 140})
    assert settlement.late
    assert (1, 140, 0) == await counted.used()


async def test_what_is_settled_while_it_is_extended_has_not_lapsed(counted: Any) -> None:
    hold = await hold_of(counted)
    await anyio.wait_all_tasks_blocked()
    counted.ledger.fail("frozen", times=1)
    counted.clock.advance(10.0)
    await anyio.wait_all_tasks_blocked()
    assert 1 == counted.ledger.waiting
    await counted.handle.settle(hold, {})
    await counted.ledger.thaw()
    await anyio.wait_all_tasks_blocked()
    assert 0 == counted.handle.lapsed


async def test_a_request_that_was_thrown_away_without_a_word_does_not_keep_its_slot_for_ever(counted: Any) -> None:
    await hold_of(counted)
    gc.collect()
    await counted.later(31)
    assert (0, (1, 100, 0)) == (counted.handle.held, await counted.used())
    assert 0 == extensions(counted)


async def test_many_are_extended_in_batches(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.ledger.renewer.BATCH", 2)
    holds = [await hold_of(counted) for _ in range(4)]
    await counted.later(10)
    assert 2 == extensions(counted)
    await counted.later(90)
    assert 4 == (await counted.used())[2]
    for hold in holds:
        await counted.handle.settle(hold, {})


async def test_closing_ends_the_work_and_the_next_reservation_begins_it_again(counted: Any) -> None:
    first = await hold_of(counted)
    await counted.handle.aclose()
    await counted.later(12)
    assert 0 == extensions(counted)
    second = await hold_of(counted)
    await counted.later(12)
    assert 1 <= extensions(counted)
    for hold in (first, second):
        assert not (await counted.handle.settle(hold, {})).late


async def test_a_ledger_that_fails_without_saying_how_is_asked_again(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = await hold_of(counted)

    async def broken(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(counted.ledger, "extend", broken)
        await counted.later(12)
    await counted.later(30)
    assert not (await counted.handle.settle(hold, {})).late


async def test_a_handle_without_reservations_closes_at_once() -> None:
    await LedgerHandle(MemoryLedger()).aclose()
