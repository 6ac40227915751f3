import math

import anyio
import pytest

from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.errors import ConfigurationError, StoreCorruptError, StoreUnavailableError
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

TIME_LIMIT = 5.0


class Feed:
    """A store's record of changes that answers what it was given, and can be made slow or unreadable."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.answer = Changes(cursor=7)
        self.error: Exception | None = None
        self.may_answer = anyio.Event()
        self.may_answer.set()

    async def changes(self, since: int | None) -> Changes:
        self.asked.append(since)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def feed() -> Feed:
    return Feed()


def fresh(follower: ChangeFollower, clock: ManualClock) -> bool:
    return follower.fresh_until > clock.monotonic()


@pytest.mark.parametrize("seconds", [0, -1.0, math.inf, -math.inf, math.nan])
def test_a_bound_and_a_deadline_are_seconds_above_zero(feed: Feed, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"^bound: is a number of seconds above zero$"):
        ChangeFollower(feed, bound=seconds)
    with pytest.raises(ConfigurationError, match=r"^deadline: is a number of seconds above zero$"):
        ChangeFollower(feed, deadline=seconds)


async def test_nothing_is_fresh_before_the_first_answer(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, clock=clock)
    assert not fresh(follower, clock)
    assert not feed.asked
    await follower.refresh()
    assert fresh(follower, clock)
    assert [None] == feed.asked


async def test_the_store_is_asked_once_per_bound_from_where_it_was_asked_last(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, bound=2.0, clock=clock)
    for cursor in (7, 9, 12):
        feed.answer = Changes(cursor=cursor)
        for _ in range(3):
            await follower.refresh()
        clock.advance(1.999)
        assert fresh(follower, clock)
        await follower.refresh()
        clock.advance(0.001)
        assert not fresh(follower, clock)
    assert [None, 7, 9] == feed.asked


async def test_setting_the_date_makes_nothing_fresh_or_stale(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, clock=clock)
    await follower.refresh()
    clock.set(clock.now() + 1e6)
    assert fresh(follower, clock)
    clock.set(0.0)
    assert fresh(follower, clock)


async def test_an_answer_is_as_old_as_its_question(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, bound=1.0, deadline=TIME_LIMIT, clock=clock)
    feed.may_answer = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.refresh)
        await anyio.wait_all_tasks_blocked()
        clock.advance(0.75)
        feed.may_answer.set()
    assert fresh(follower, clock)
    clock.advance(0.25)
    assert not fresh(follower, clock)


async def test_callers_at_the_same_time_share_one_question(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, deadline=TIME_LIMIT, clock=clock)
    feed.may_answer = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(follower.refresh)
        await anyio.wait_all_tasks_blocked()
        assert [None] == feed.asked
        feed.may_answer.set()
    assert [None] == feed.asked
    assert fresh(follower, clock)


async def test_listeners_hear_every_change_before_anything_is_fresh(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, clock=clock)
    heard: list[tuple[Changes, bool]] = []
    follower.subscribe(lambda changes: heard.append((changes, fresh(follower, clock))))
    follower.subscribe(lambda changes: heard.append((changes, fresh(follower, clock))))
    feed.answer = Changes(cursor=7, keys=None, accounts=True)
    await follower.refresh()
    assert [(feed.answer, False)] * 2 == heard


async def test_a_change_of_this_process_is_told_at_once_and_moves_no_cursor(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, clock=clock)
    await follower.refresh()
    heard: list[Changes] = []
    follower.subscribe(heard.append)
    mine = Changes(cursor=0, keys=frozenset({"k1"}))
    follower.announce(mine)
    assert [mine] == heard
    clock.advance(1.0)
    await follower.refresh()
    assert [None, 7] == feed.asked


@pytest.mark.parametrize("error", [StoreUnavailableError("locked"), StoreCorruptError("not ours")])
async def test_a_poll_that_fails_leaves_what_is_cached_stale(
    feed: Feed, clock: ManualClock, error: StoreUnavailableError | StoreCorruptError
) -> None:
    follower = ChangeFollower(feed, clock=clock)
    await follower.refresh()
    clock.advance(1.0)
    feed.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            await follower.refresh()
        assert not fresh(follower, clock)
    feed.error = None
    await follower.refresh()
    assert fresh(follower, clock)
    assert [None, 7, 7, 7] == feed.asked


async def test_a_store_that_does_not_answer_is_unavailable_within_the_deadline(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, deadline=0.01, clock=clock)
    heard: list[Changes] = []
    follower.subscribe(heard.append)
    feed.may_answer = anyio.Event()
    with anyio.fail_after(TIME_LIMIT), pytest.raises(StoreUnavailableError, match="did not answer in time"):
        await follower.refresh()
    assert not fresh(follower, clock)
    assert not heard
    feed.may_answer.set()
    await follower.refresh()
    assert fresh(follower, clock)


async def test_when_the_caller_that_asks_is_cancelled_another_one_asks(feed: Feed, clock: ManualClock) -> None:
    follower = ChangeFollower(feed, deadline=TIME_LIMIT, clock=clock)
    feed.may_answer = anyio.Event()
    leader = anyio.CancelScope()

    async def lead() -> None:
        with leader:
            await follower.refresh()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(follower.refresh)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
        await anyio.wait_all_tasks_blocked()
        assert [None, None] == feed.asked
        feed.may_answer.set()
    assert fresh(follower, clock)
