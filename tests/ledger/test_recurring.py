import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from llm_authmw.ledger.recurring import Recurring

pytestmark = pytest.mark.anyio


class Work:
    """Notes the thread of each call, and wants to be called again after as many seconds as it is told."""

    def __init__(self, *pauses: float) -> None:
        self.threads: list[int] = []
        self._pauses = list(pauses)

    async def __call__(self) -> float | None:
        self.threads.append(threading.get_ident())
        return self._pauses.pop(0) if self._pauses else None


async def for_ever(seconds: float) -> None:
    await anyio.sleep_forever()


async def test_work_is_done_until_there_is_none_and_again_when_it_is_woken() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    work = Work(3.0, 5.0)
    recurring = Recurring(work, sleep=sleep)
    recurring.wake()
    await anyio.wait_all_tasks_blocked()
    assert ([3.0, 5.0], 3) == (slept, len(work.threads))
    recurring.wake()
    await anyio.wait_all_tasks_blocked()
    assert 4 == len(work.threads)


async def test_work_that_goes_on_is_not_begun_a_second_time() -> None:
    work = Work(*[60.0] * 9)
    recurring = Recurring(work, sleep=for_ever)
    for _ in range(3):
        recurring.wake()
        await anyio.wait_all_tasks_blocked()
    assert 1 == len(work.threads)
    await recurring.aclose()
    recurring.wake()
    await anyio.wait_all_tasks_blocked()
    assert 2 == len(work.threads)
    await recurring.aclose()


async def test_every_loop_that_wakes_it_has_a_task_of_its_own(anyio_backend_name: str) -> None:
    work = Work(*[60.0] * 9)
    recurring = Recurring(work, sleep=for_ever)
    recurring.wake()
    await anyio.wait_all_tasks_blocked()

    async def elsewhere() -> None:
        recurring.wake()
        await anyio.wait_all_tasks_blocked()

    def run() -> Any:
        return anyio.run(elsewhere, backend=anyio_backend_name)

    await anyio.to_thread.run_sync(run)
    assert 2 == len(set(work.threads))
    recurring.wake()
    await anyio.wait_all_tasks_blocked()
    assert 2 == len(work.threads)
    await recurring.aclose()


async def test_work_that_breaks_is_begun_again_when_it_is_woken(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def work() -> float | None:
        calls.append("called")
        if len(calls) == 1:
            raise ZeroDivisionError
        return None

    recurring = Recurring(work)
    for _ in range(2):
        recurring.wake()
        await anyio.wait_all_tasks_blocked()
    assert 2 == len(calls)
    assert "work in the background failed" in caplog.text
