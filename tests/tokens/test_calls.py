from collections.abc import Awaitable, Callable

import anyio
import pytest

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.tokens.calls import Calls

pytestmark = pytest.mark.anyio


class Provider:
    """Answers when it may; counts the calls that are under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self.asked = 0
        self.may_answer = anyio.Event()

    async def ask(self) -> str:
        self.asked += 1
        self.under_way += 1
        try:
            await self.may_answer.wait()
        finally:
            self.under_way -= 1
        return "answer"

    async def ask_deaf(self) -> str:
        with anyio.CancelScope(shield=True):
            await self.ask()
        return "too late"


async def unavailable(calls: Calls, work: Callable[[], Awaitable[str]]) -> str:
    with pytest.raises(IssuerUnavailableError) as caught:
        await calls.run(work)
    return str(caught.value)


async def test_no_more_calls_than_allowed_are_under_way_at_once() -> None:
    provider, calls = Provider(), Calls(max_calls=3)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(calls.run, provider.ask)
            await anyio.wait_all_tasks_blocked()
            assert 3 == provider.under_way
            provider.may_answer.set()
    assert 10 == provider.asked


async def test_a_call_that_is_not_answered_in_time_is_given_up() -> None:
    provider, calls = Provider(), Calls(deadline=0.01)
    with anyio.fail_after(5):
        assert "it did not answer in time" == await unavailable(calls, provider.ask)
    assert 0 == provider.under_way


async def test_a_time_limit_of_the_work_itself_is_an_outage_too() -> None:
    async def late() -> str:
        raise TimeoutError

    assert "it did not answer in time" == await unavailable(Calls(), late)


async def test_whoever_gets_no_turn_in_time_is_told_so_and_the_provider_is_not_blamed() -> None:
    provider, calls = Provider(), Calls(deadline=0.01, max_calls=1)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls.run, provider.ask_deaf)
            await anyio.wait_all_tasks_blocked()
            for _ in range(8):
                assert "too many calls to it are under way" == await unavailable(calls, provider.ask)
            provider.may_answer.set()
    assert "answer" == await calls.run(provider.ask)


async def test_a_turn_is_given_back_whatever_ends_the_call() -> None:
    provider, calls = Provider(), Calls(max_calls=1)

    async def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await calls.run(broken)
    with anyio.move_on_after(0):
        await calls.run(provider.ask)
    provider.may_answer.set()
    with anyio.fail_after(5):
        assert "answer" == await calls.run(provider.ask)


async def test_a_provider_that_is_down_is_left_alone() -> None:
    provider, calls = Provider(), Calls(deadline=0.01)
    with anyio.fail_after(5):
        problems = [await unavailable(calls, provider.ask) for _ in range(7)]
    assert ["it did not answer in time"] * 5 == problems[:5]
    assert 5 == provider.asked


@pytest.mark.parametrize("options", [{"deadline": 0}, {"deadline": -1}, {"deadline": None}, {"max_calls": 0}, {"max_calls": 2.5}])
def test_a_number_that_is_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Calls(**options)  # type: ignore[arg-type]
    assert caught.value.option in options


def test_one_object_serves_several_event_loops() -> None:
    calls = Calls(max_calls=1)

    async def main() -> str:
        provider = Provider()
        provider.may_answer.set()
        return await calls.run(provider.ask)

    assert ["answer", "answer", "answer"] == [anyio.run(main, backend=backend) for backend in ("asyncio", "trio", "asyncio")]
