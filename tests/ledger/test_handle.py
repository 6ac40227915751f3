import logging
from typing import Any

import anyio
import pytest

from llm_authmw.errors import ConfigurationError, InvalidValueError, StoreError, StoreUnavailableError
from llm_authmw.ledger.buckets import Claim
from llm_authmw.ledger.contract import Reservation
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing.faults import Fault

pytestmark = pytest.mark.anyio

LOST: tuple[Fault, ...] = ("answer lost", "silent")
FAULTS: tuple[Fault, ...] = ("down", "answer lost", "silent", "frozen")


async def hold_of(counted: Any, money: int = 100) -> Hold:
    hold = await counted.handle.reserve(counted.claims(money))
    assert isinstance(hold, Hold)
    return hold


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"deadline": 0.0}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"lease": 0.0}, "lease"),
        ({"lease": 86_401.0}, "lease"),
        ({"lease": float("nan")}, "lease"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LedgerHandle(MemoryLedger(), **options)
    assert option == caught.value.option


async def test_a_refusal_is_returned_and_holds_nothing(counted: Any) -> None:
    answer = await counted.handle.reserve(counted.claims(money=1_001))
    assert isinstance(answer, Reservation)
    assert [1] == [refusal.claim for refusal in answer.refusals]
    assert (0, 0) == (counted.handle.held, counted.handle.unsettled)
    assert (0, 0, 0) == await counted.used()


async def test_what_is_granted_is_held_until_it_is_settled_to_the_truth(counted: Any) -> None:
    hold = await hold_of(counted)
    assert (1, (1, 100, 1)) == (counted.handle.held, await counted.used())
    assert counted.claims() == hold.claims
    settlement = await counted.handle.settle(hold, {"nano_usd": 140})
    assert (1, 140, 0) == await counted.used()
    assert [1, 140, 0] == [balance.used for balance in settlement.balances]
    assert (True, settlement, 0) == (hold.settled, hold.settlement, counted.handle.held)


async def test_a_second_settlement_is_not_taken_and_is_told_of_the_first(counted: Any) -> None:
    hold = await hold_of(counted)
    first = await counted.handle.settle(hold, {"nano_usd": 140})
    assert first == await counted.handle.settle(hold, {"nano_usd": 0})
    assert (1, 140, 0) == await counted.used()
    assert 1 == counted.ledger.calls.count("settle")


async def test_no_two_reservations_have_one_id_and_none_can_be_guessed(counted: Any) -> None:
    ids = {(await hold_of(counted, money=1)).id for _ in range(4)}
    assert 4 == len(ids)
    assert {32} == {len(reservation_id) for reservation_id in ids}


async def test_arguments_out_of_range_are_the_callers_fault_and_leave_nothing_to_undo(counted: Any) -> None:
    for claims in ([], [Claim(counted.money, 1)] * 2):
        for _ in range(4):
            with pytest.raises(InvalidValueError):
                await counted.handle.reserve(claims)
    assert (0, False) == (counted.handle.unsettled, counted.handle.breaker_open)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_store_in_trouble_is_reported_within_the_deadline(counted: Any, fault: Fault) -> None:
    counted.ledger.fail(fault)
    with anyio.fail_after(5), pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    with anyio.fail_after(5), pytest.raises(StoreUnavailableError):
        await counted.handle.balance([counted.money])


@pytest.mark.parametrize("fault", LOST)
async def test_a_reservation_whose_answer_was_lost_is_undone(counted: Any, fault: Fault) -> None:
    counted.ledger.fail(fault, times=1)
    with pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    await counted.later(1)
    assert (0, 0, 0) == await counted.used()
    assert 0 == counted.handle.unsettled


async def test_a_reservation_that_a_frozen_store_carries_out_long_afterwards_books_nothing(counted: Any) -> None:
    counted.ledger.fail("frozen", times=1)
    with pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    await counted.later(1)
    assert (0, 0) == (counted.handle.unsettled, counted.handle.forgotten)
    counted.clock.advance(3600.0)
    await counted.ledger.thaw()
    assert (0, 0, 0) == await counted.used()


async def test_a_release_that_the_store_does_not_take_is_said_again_until_it_does_and_no_more(counted: Any) -> None:
    counted.ledger.fail("down", times=2)  # and it does not take the first release either
    with pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    await anyio.wait_all_tasks_blocked()
    assert 1 == counted.handle.unsettled
    await counted.later(60)
    assert (0, 0) == (counted.handle.unsettled, counted.handle.forgotten)
    assert ["reserve", "settle", "settle"] == counted.ledger.calls


async def test_a_request_that_is_cancelled_while_it_waits_for_the_store_leaves_nothing_booked(counted: Any) -> None:
    counted.ledger.fail("silent", times=1)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(counted.handle.reserve, counted.claims())
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    await counted.later(1)
    assert (0, 0, 0) == await counted.used()
    assert not counted.handle.breaker_open


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_settlement_that_the_store_does_not_take_is_said_again_until_it_does(counted: Any, fault: Fault) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail(fault)
    with anyio.fail_after(5):
        assert await counted.handle.settle(hold, {"nano_usd": 140}) is None
    assert (1, True) == (counted.handle.unsettled, hold.settled)
    await counted.ledger.thaw()
    await counted.later(6)
    assert (1, 140, 0) == await counted.used()
    assert (0, 0, 0) == (counted.handle.unsettled, counted.handle.forgotten, counted.handle.given_up)


async def test_a_settlement_that_comes_after_the_lease_has_ended_is_booked_all_the_same(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("down")
    await counted.handle.settle(hold, {"nano_usd": 140})
    await counted.later(31)
    assert (1, 100, 0) == await counted.used()
    counted.ledger.heal()
    await counted.later(6)
    assert (1, 140, 0) == await counted.used()


async def test_a_cancelled_request_waits_for_the_answer_to_its_settlement(counted: Any) -> None:
    handle = LedgerHandle(counted.ledger, deadline=30.0, clock=counted.clock, sleep=counted.clock.sleep)
    hold = await handle.reserve(counted.claims())
    assert isinstance(hold, Hold)
    counted.ledger.fail("frozen")

    async def cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await handle.settle(hold, {"nano_usd": 140})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        assert 1 == counted.ledger.waiting
        await counted.ledger.thaw()
    assert (1, 140, 0) == await counted.used()
    assert hold.settlement is not None
    assert 0 == handle.unsettled
    await handle.aclose()


async def test_a_cancelled_request_waits_for_a_frozen_store_no_longer_than_the_deadline(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("frozen")
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        assert await counted.handle.settle(hold, {"nano_usd": 140}) is None
    assert 1 == counted.handle.unsettled
    await counted.ledger.thaw()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_cancellation_of_an_asyncio_task_which_no_shield_stops_loses_nothing(counted: Any) -> None:
    import asyncio  # noqa: PLC0415 - the others run on trio as well

    hold = await hold_of(counted)
    counted.ledger.fail("frozen", times=1)
    settling = asyncio.get_running_loop().create_task(counted.handle.settle(hold, {"nano_usd": 140}))
    await anyio.wait_all_tasks_blocked()
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    await counted.later(1)
    assert (1, 140, 0) == await counted.used()
    await counted.ledger.thaw()
    assert (1, 140, 0) == await counted.used()


async def test_a_truth_that_cannot_be_counted_leaves_the_estimate_and_frees_the_slot(
    counted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hold = await hold_of(counted)
    with caplog.at_level(logging.ERROR, logger="llm_authmw"):
        settlement = await counted.handle.settle(hold, {"nano_usd": -1})
    assert [1, 100, 0] == [balance.used for balance in settlement.balances]
    assert hold.id in caplog.text


async def test_a_store_that_forgot_what_it_granted_is_noticed(counted: Any, caplog: pytest.LogCaptureFixture) -> None:
    hold, later = await hold_of(counted), await hold_of(counted)
    counted.ledger.restart()
    assert await counted.handle.settle(hold, {"nano_usd": 140}) is None
    counted.ledger.fail("down", times=1)
    await counted.handle.settle(later, {"nano_usd": 140})
    await counted.later(1)
    assert (2, 0) == (counted.handle.forgotten, counted.handle.unsettled)
    assert (0, 0, 0) == await counted.used()
    assert hold.id in caplog.text
    assert later.id in caplog.text


async def test_a_store_that_failed_three_times_is_not_asked_and_recovers_without_a_restart(counted: Any) -> None:
    counted.ledger.fail("down")
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await counted.handle.balance([counted.money])
    assert counted.handle.breaker_open
    asked = len(counted.ledger.calls)
    for _ in range(5):
        with pytest.raises(StoreUnavailableError):
            await counted.handle.reserve(counted.claims())
    assert asked == len(counted.ledger.calls)
    assert 0 == counted.handle.unsettled
    counted.ledger.heal()
    counted.clock.advance(0.5)
    hold = await hold_of(counted)
    assert not counted.handle.breaker_open
    await counted.handle.settle(hold, {})


async def test_while_a_store_is_left_alone_settlements_wait_without_asking_it(counted: Any) -> None:
    holds = [await hold_of(counted) for _ in range(4)]
    counted.ledger.fail("down")
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await counted.handle.balance([counted.money])
    asked = len(counted.ledger.calls)
    for hold in holds:
        assert await counted.handle.settle(hold, {"nano_usd": 1}) is None
    assert (asked, 4) == (len(counted.ledger.calls), counted.handle.unsettled)
    counted.ledger.heal()
    await counted.later(6)
    assert (4, 4, 0) == await counted.used()


async def test_a_ledger_that_fails_without_saying_how_counts_as_a_store_that_fails(
    counted: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hold = await hold_of(counted)

    async def broken(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        for method in ("reserve", "settle", "balance"):
            patched.setattr(counted.ledger, method, broken)
        with pytest.raises(StoreError):
            await counted.handle.reserve(counted.claims())
        assert await counted.handle.settle(hold, {"nano_usd": 140}) is None
        await counted.later(1)
    assert "ZeroDivisionError" in caplog.text
    await counted.later(40)
    assert (1, 140, 0) == await counted.used()
    assert 0 == counted.handle.unsettled


async def test_closing_settles_what_is_left_though_the_store_was_left_alone(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("down")
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            await counted.handle.balance([counted.money])
    await counted.handle.settle(hold, {"nano_usd": 140})
    counted.ledger.heal()
    await counted.handle.aclose()
    assert (1, 140, 0) == await counted.used()


@pytest.mark.parametrize("fault", ["down", "frozen"])
async def test_closing_says_what_could_not_be_settled_and_the_next_use_goes_on_with_it(
    counted: Any, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    holds = [await hold_of(counted) for _ in range(2)]
    counted.ledger.fail(fault)
    for hold in holds:
        await counted.handle.settle(hold, {"nano_usd": 140})
    with anyio.fail_after(5):
        await counted.handle.aclose()
    logged = [record.getMessage() for record in caplog.records if "not settled" in record.getMessage()]
    assert [f"2 reservations are not settled, so that their estimates stand: {holds[0].id} {holds[1].id}"] == logged
    await counted.ledger.thaw()
    counted.clock.advance(10.0)
    await hold_of(counted)
    await counted.later(6)
    assert (3, 380, 1) == await counted.used()


async def test_closing_does_not_complain_of_releases_that_the_store_knows_nothing_of(
    counted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    counted.ledger.fail("down", times=1)
    with pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    await counted.handle.aclose()
    assert [] == caplog.records


async def test_what_waits_is_bounded_and_what_has_to_go_is_said(
    counted: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counted.handle._journal, "_most", 2)
    holds = [await hold_of(counted) for _ in range(4)]
    counted.ledger.fail("down")
    for hold in holds:
        await counted.handle.settle(hold, {"nano_usd": 140})
    assert (2, 2) == (counted.handle.unsettled, counted.handle.given_up)
    assert all(hold.id in caplog.text for hold in holds[:2])
    counted.ledger.heal()
    await counted.later(6)
    # What was given up stays at its estimate, and its slot comes back when the lease ends.
    assert (4, 480, 2) == await counted.used()
    await counted.later(30)
    assert (4, 480, 0) == await counted.used()


async def test_a_store_that_is_away_for_longer_than_it_would_remember_is_waited_for_no_more(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("down")
    await counted.handle.settle(hold, {"nano_usd": 140})
    await counted.later(1)
    counted.clock.advance(86_430.0)
    await counted.later(6)
    assert (0, 1) == (counted.handle.unsettled, counted.handle.given_up)


async def test_a_clock_that_is_set_to_another_date_changes_nothing(counted: Any) -> None:
    hold = await hold_of(counted)
    counted.ledger.fail("down", times=1)
    await counted.handle.settle(hold, {"nano_usd": 140})
    counted.clock.set(counted.clock.now() - 40 * 86_400)
    await counted.later(1)
    assert (0, 0) == (counted.handle.unsettled, counted.handle.given_up)


async def test_a_ledger_that_never_waits_is_asked_without_a_timer(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> None:
        pytest.fail("a timer was set")

    handle = LedgerHandle(MemoryLedger(clock=counted.clock), deadline=None, clock=counted.clock, sleep=counted.clock.sleep)
    monkeypatch.setattr("llm_authmw.ledger.handle.anyio.move_on_after", forbidden)
    hold = await handle.reserve(counted.claims())
    assert isinstance(hold, Hold)
    assert await handle.settle(hold, {"nano_usd": 1}) is not None
    monkeypatch.undo()
    await handle.aclose()


async def test_a_repeated_reservation_is_not_made_by_the_handle_itself(counted: Any) -> None:
    counted.ledger.fail("answer lost", times=1)
    with pytest.raises(StoreUnavailableError):
        await counted.handle.reserve(counted.claims())
    assert ["reserve"] == [call for call in counted.ledger.calls if call == "reserve"]


async def test_requests_through_a_store_that_comes_and_goes_are_all_settled_once(counted: Any) -> None:
    faults: tuple[Fault | None, ...] = (None, "answer lost", None, "down", "silent", None)
    booked = 0
    for turn in range(60):
        fault = faults[turn % 6]
        counted.ledger.heal()
        if fault is not None:
            counted.ledger.fail(fault, times=1)
        try:
            hold = await counted.handle.reserve(counted.claims(money=10)[:2])
        except StoreUnavailableError:
            counted.clock.advance(6.0)
            await anyio.wait_all_tasks_blocked()
            continue
        assert isinstance(hold, Hold)
        if turn % 4 == 0:
            counted.ledger.fail("answer lost", times=1)
        await counted.handle.settle(hold, {"nano_usd": turn % 10})
        booked += turn % 10
    await counted.later(60)
    assert booked == (await counted.used())[1]
    assert (0, 0, 0) == (counted.handle.unsettled, counted.handle.held, counted.handle.given_up)
