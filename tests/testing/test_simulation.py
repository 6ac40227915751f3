import asyncio
import random

import anyio
import pytest

from llm_authmw.testing import SimulatedClock, simulate
from llm_authmw.testing.simulation import NothingWillHappenError

DAY = 86_400.0


async def spend_without_reserving(clock: SimulatedClock, chance: random.Random) -> int:
    """What a simulation is to find: look at what is left, wait, and take it."""
    left = 1

    async def take() -> None:
        nonlocal left
        await anyio.sleep(chance.choice([1.0, 2.0]))
        if left > 0:
            await anyio.lowlevel.checkpoint()
            left -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(take)
    return left


async def order_of_arrival(clock: SimulatedClock, chance: random.Random) -> tuple[tuple[float, int], ...]:
    arrived: list[tuple[float, int]] = []

    async def travel(number: int) -> None:
        await anyio.sleep(chance.choice([1.0, 2.0]))
        arrived.append((clock.monotonic(), number))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(travel, number)
    return tuple(arrived)


def test_a_seed_always_gives_the_same_world() -> None:
    for seed in range(20):
        assert simulate(order_of_arrival, seed=seed) == simulate(order_of_arrival, seed=seed)


def test_seeds_differ_in_the_order_of_what_happens_at_the_same_time() -> None:
    assert 10 < len({simulate(order_of_arrival, seed=seed) for seed in range(20)})


def test_some_seed_finds_two_who_take_what_only_one_can_have() -> None:
    assert {0, -1} == {simulate(spend_without_reserving, seed=seed) for seed in range(50)}


def test_both_readings_of_the_clock_move_by_what_is_waited() -> None:
    async def sleep(clock: SimulatedClock, chance: random.Random) -> tuple[float, float]:
        before = clock.now(), clock.monotonic()
        await anyio.sleep(DAY)
        return clock.now() - before[0], clock.monotonic() - before[1]

    assert (DAY, DAY) == simulate(sleep, seed=0)


def test_who_waits_for_nothing_is_told() -> None:
    async def wait(clock: SimulatedClock, chance: random.Random) -> None:
        await anyio.Event().wait()

    with pytest.raises(NothingWillHappenError):
        simulate(wait, seed=0)


def test_what_goes_wrong_tells_its_seed() -> None:
    async def fail(clock: SimulatedClock, chance: random.Random) -> None:
        await anyio.sleep(3)
        raise ValueError("as it was to be")

    with pytest.raises(ValueError, match="as it was to be") as failed:
        simulate(fail, seed=7)
    assert ["simulated with seed 7, after 3.0 seconds"] == failed.value.__notes__


def test_a_thread_is_refused() -> None:
    async def in_a_thread(clock: SimulatedClock, chance: random.Random) -> None:
        await asyncio.to_thread(sum, [1])

    with pytest.raises(RuntimeError, match="threads are not simulated"):
        simulate(in_a_thread, seed=0)
