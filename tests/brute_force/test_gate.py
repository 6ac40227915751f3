"""So many of one network at once, the others in their turn, and a place is never lost."""

import asyncio

import anyio
import pytest

from llm_authmw.brute_force.gate import Gate

pytestmark = pytest.mark.anyio


async def settle_down() -> None:
    await anyio.wait_all_tasks_blocked()


async def test_no_more_are_inside_than_may_be_and_the_others_follow_in_order() -> None:
    gate = Gate()
    came: list[int] = []
    leaves = [anyio.Event() for _ in range(20)]

    async def visit(number: int) -> None:
        place = await gate.enter("a", 3)
        assert place is not None
        came.append(number)
        await leaves[number].wait()
        gate.leave(place)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(visit, number)
            await settle_down()
        for gone, leave in enumerate(leaves):
            assert list(range(min(20, gone + 3))) == came
            leave.set()
            await settle_down()
    assert 0 == len(gate)


async def test_networks_do_not_wait_for_each_other() -> None:
    gate = Gate()
    places = [await gate.enter(network, 1) for network in ("a", "b", "c")]
    assert 3 == len(gate)
    for place in places:
        assert place is not None
        gate.leave(place)
    assert 0 == len(gate)


async def test_whoever_leaves_while_waiting_holds_no_place() -> None:
    gate = Gate()
    place = await gate.enter("a", 1)
    assert place is not None
    with anyio.move_on_after(0):
        await gate.enter("a", 1)
    gate.leave(place)
    assert 0 == len(gate)


async def test_whoever_has_waited_for_too_long_gets_no_place_and_holds_none() -> None:
    gate = Gate(patience=0.01)
    place = await gate.enter("a", 1)
    assert place is not None
    assert await gate.enter("a", 1) is None
    assert 1 == len(gate)
    gate.leave(place)
    assert 0 == len(gate)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whoever_is_let_in_and_cancelled_in_one_moment_hands_the_place_on() -> None:
    # Only a task of asyncio's own can be cancelled between the two.
    gate = Gate()
    place = await gate.enter("a", 1)
    assert place is not None
    first, second = asyncio.create_task(gate.enter("a", 1)), asyncio.create_task(gate.enter("a", 1))
    await settle_down()
    gate.leave(place)
    first.cancel()
    handed_on = await second
    assert handed_on is not None
    gate.leave(handed_on)
    assert first.cancelled()
    assert 0 == len(gate)
