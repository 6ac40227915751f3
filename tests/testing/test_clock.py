import anyio
import pytest

from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio


async def test_whoever_sleeps_wakes_when_so_much_time_has_passed_and_not_when_the_date_is_set() -> None:
    clock = ManualClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (3.0, 1.0, 2.0):
            tasks.start_soon(sleep, seconds)
        await anyio.wait_all_tasks_blocked()
        clock.set(clock.now() + 60)
        await anyio.wait_all_tasks_blocked()
        assert [] == woken
        for expected in ([1.0], [1.0, 2.0], [1.0, 2.0, 3.0]):
            clock.advance(1.0)
            await anyio.wait_all_tasks_blocked()
            assert expected == woken


async def test_a_sleep_that_is_cancelled_leaves_nothing_behind() -> None:
    clock = ManualClock()
    with anyio.move_on_after(0):
        await clock.sleep(5.0)
    assert [] == clock._sleepers
