import anyio
import pytest

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.testing import ManualClock
from llm_authmw.tokens.breaker import Breaker, QuestionRefusedError

pytestmark = pytest.mark.anyio


class Provider:
    """Works, or not; counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.may_answer: anyio.Event | None = None

    async def ask(self) -> str:
        self.calls += 1
        error = self.error
        if self.may_answer is not None:
            await self.may_answer.wait()
        if error is not None:
            raise error
        return "answer"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(failures=3, interval=1.0, max_interval=8.0, clock=clock)


async def fail(breaker: Breaker, provider: Provider, times: int = 1) -> None:
    provider.error = IssuerUnavailableError("down")
    for _ in range(times):
        with pytest.raises(IssuerUnavailableError, match="down"):
            await breaker.run(provider.ask)


def state_of(breaker: Breaker) -> str:
    # A function, since type checkers take a property that was compared for a constant.
    return breaker.state


async def wait_time(breaker: Breaker, provider: Provider) -> float:
    """Return how long a caller is told to wait, who is not let through."""
    calls = provider.calls
    with pytest.raises(IssuerUnavailableError, match="not asked just now") as caught:
        await breaker.run(provider.ask)
    assert calls == provider.calls
    return caught.value.retry_after


async def test_a_provider_that_failed_often_enough_in_a_row_is_not_asked(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    assert "open" == state_of(breaker)
    assert 1.0 == await wait_time(breaker, provider)
    clock.advance(0.999)
    await wait_time(breaker, provider)
    assert 3 == provider.calls


async def test_failures_with_an_answer_between_them_open_nothing(breaker: Breaker, provider: Provider) -> None:
    for _ in range(3):
        await fail(breaker, provider, times=2)
        provider.error = None
        assert "answer" == await breaker.run(provider.ask)
    assert "closed" == state_of(breaker)


async def test_a_question_that_is_refused_says_that_the_provider_is_well(breaker: Breaker, provider: Provider) -> None:
    await fail(breaker, provider, times=2)
    provider.error = QuestionRefusedError("not that one")
    for _ in range(9):
        with pytest.raises(QuestionRefusedError):
            await breaker.run(provider.ask)
    await fail(breaker, provider, times=2)
    assert "closed" == state_of(breaker)


async def test_one_probe_that_is_answered_closes_it(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    clock.advance(1.0)
    assert "half-open" == state_of(breaker)
    provider.error = None
    assert "answer" == await breaker.run(provider.ask)
    assert "closed" == state_of(breaker)
    await fail(breaker, provider, times=2)
    assert "closed" == state_of(breaker)


async def test_each_probe_that_fails_doubles_the_interval_up_to_its_bound(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    waits: list[float] = []
    for _ in range(5):
        waits.append(await wait_time(breaker, provider))
        clock.advance(waits[-1])
        await fail(breaker, provider)
    assert [1.0, 2.0, 4.0, 8.0, 8.0] == waits


async def test_after_it_has_closed_it_opens_for_the_first_interval_again(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    clock.advance(1.0)
    await fail(breaker, provider)
    clock.advance(2.0)
    provider.error = None
    await breaker.run(provider.ask)
    await fail(breaker, provider, times=3)
    assert 1.0 == await wait_time(breaker, provider)


async def test_while_a_probe_is_under_way_nobody_else_is_let_through(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    clock.advance(1.0)
    provider.error = None
    provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.run, provider.ask)
            await anyio.wait_all_tasks_blocked()
            assert 4 == provider.calls
            assert 0 < await wait_time(breaker, provider)
            provider.may_answer.set()
    assert "closed" == state_of(breaker)


async def test_a_probe_that_was_cancelled_leaves_the_place_to_the_next(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    await fail(breaker, provider, times=3)
    clock.advance(1.0)
    provider.error = None
    provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.run, provider.ask)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert "half-open" == state_of(breaker)
    provider.may_answer = None
    assert "answer" == await breaker.run(provider.ask)


async def test_calls_from_before_it_opened_change_nothing_when_they_end(breaker: Breaker, provider: Provider, clock: ManualClock) -> None:
    late = Provider()
    late.may_answer = anyio.Event()
    late.error = IssuerUnavailableError("down")

    async def ask_late() -> None:
        with pytest.raises(IssuerUnavailableError, match="down"):
            await breaker.run(late.ask)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask_late)
            await anyio.wait_all_tasks_blocked()
            await fail(breaker, provider, times=3)
            late.may_answer.set()
    assert 1.0 == await wait_time(breaker, provider)
    clock.advance(1.0)
    provider.error = None
    assert "answer" == await breaker.run(provider.ask)


async def test_an_error_of_another_kind_passes_through_and_counts_as_nothing(
    breaker: Breaker, provider: Provider, clock: ManualClock
) -> None:
    provider.error = ZeroDivisionError()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await breaker.run(provider.ask)
    assert "closed" == state_of(breaker)
    await fail(breaker, provider, times=3)
    clock.advance(1.0)
    provider.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await breaker.run(provider.ask)
    assert "half-open" == state_of(breaker)


@pytest.mark.parametrize("options", [{"failures": 0}, {"interval": 0.0}, {"interval": 2.0, "max_interval": 1.0}])
def test_a_number_that_is_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Breaker(**options)  # type: ignore[arg-type]


def test_it_prints_its_state(breaker: Breaker) -> None:
    assert "Breaker(closed)" == repr(breaker)
