import asyncio
import logging
from contextvars import ContextVar

import anyio
import pytest

from llm_authmw.background import Background

pytestmark = pytest.mark.anyio

TIME_LIMIT = 5.0

who: ContextVar[str] = ContextVar("who", default="nobody")


async def test_the_work_goes_on_when_the_request_that_started_it_is_cancelled() -> None:
    background, may_end, ended = Background(), anyio.Event(), anyio.Event()

    async def work() -> None:
        await may_end.wait()
        ended.set()

    async with anyio.create_task_group() as request:
        background.start(work)
        request.cancel_scope.cancel()
    may_end.set()
    with anyio.fail_after(TIME_LIMIT):
        await ended.wait()


async def test_the_work_sees_no_context_variable_of_the_request_that_started_it() -> None:
    background, seen, ended = Background(), list[str](), anyio.Event()

    async def work() -> None:
        seen.append(who.get())
        ended.set()

    token = who.set("ada")
    background.start(work)
    with anyio.fail_after(TIME_LIMIT):
        await ended.wait()
    who.reset(token)
    assert ["nobody"] == seen


async def test_closing_ends_the_work_and_waits_for_its_last_word() -> None:
    background, log = Background(), list[str]()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                log.append("ended")

    for _ in range(3):
        background.start(work)
    await anyio.wait_all_tasks_blocked()
    with anyio.fail_after(TIME_LIMIT):
        await background.aclose()
    assert ["ended"] * 3 == log


async def test_closing_ends_work_that_has_not_begun_yet() -> None:
    background, log = Background(), list[str]()

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        log.append("done")

    background.start(work)
    with anyio.fail_after(TIME_LIMIT):
        await background.aclose()
    await anyio.wait_all_tasks_blocked()
    assert [] == log


async def test_closing_waits_also_where_the_server_cancels_whoever_closes() -> None:
    background, ended = Background(), anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    background.start(work)
    await anyio.wait_all_tasks_blocked()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await background.aclose()
    assert ended.is_set()


async def test_more_can_be_started_after_closing() -> None:
    background, ended = Background(), anyio.Event()
    await background.aclose()

    async def work() -> None:
        ended.set()

    background.start(work)
    with anyio.fail_after(TIME_LIMIT):
        await ended.wait()


async def test_an_error_that_nobody_waits_for_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    background, ended = Background(), anyio.Event()

    async def broken() -> None:
        raise KeyError("a defect")

    async def work() -> None:
        ended.set()

    with caplog.at_level(logging.ERROR, logger="llm_authmw"):
        background.start(broken)
        background.start(work)
        with anyio.fail_after(TIME_LIMIT):
            await ended.wait()
            await background.aclose()
    assert [("work in the background failed", KeyError)] == [
        (record.getMessage(), record.exc_info and record.exc_info[0]) for record in caplog.records
    ]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_work_that_a_loop_took_with_it_stops_no_other_loop_from_closing() -> None:
    background = Background()

    def elsewhere() -> None:
        async def begin() -> None:
            background.start(anyio.sleep_forever)

        asyncio.run(begin())

    await asyncio.to_thread(elsewhere)
    with anyio.fail_after(TIME_LIMIT):
        await background.aclose()
