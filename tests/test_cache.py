import asyncio
import functools
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llm_authmw.cache import Cache, SingleFlight
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

NO_SUCH = "no such"


class Source:
    """What a cache asks: counts the questions, and answers when it is told to."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[str] = []
        self.answers = list(answers)
        self.may_answer = anyio.Event()
        self.may_answer.set()

    def hold(self) -> None:
        self.may_answer = anyio.Event()

    async def load(self, key: str) -> str:
        self.asked.append(key)
        answer = self.answers.pop(0) if self.answers else f"{key} {len(self.asked)}"
        await self.may_answer.wait()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


class Owner:
    """Who is told of the answers that are forgotten."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def forget(self, key: str, value: str) -> None:
        self.told.append((key, value))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make_cache(clock: ManualClock, **changes: Any) -> Cache[str, str]:
    options: dict[str, Any] = {"max_entries": 100, "ttl": 10.0, "is_negative": NO_SUCH.__eq__, "clock": clock, **changes}
    return Cache(**options)


async def test_any_number_of_callers_share_one_load(clock: ManualClock) -> None:
    cache, source, answers = make_cache(clock), Source(), list[str]()
    source.hold()

    async def ask() -> None:
        answers.append(await cache.get("a", source.load))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert ["a"] == source.asked
        source.may_answer.set()
    assert ["a 1"] * 50 == answers
    assert "a 1" == await cache.get("a", source.load)
    assert ["a"] == source.asked


async def test_callers_for_different_keys_do_not_wait_for_each_other(clock: ManualClock) -> None:
    cache, source = make_cache(clock), Source()
    source.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.get, "a", source.load)
        await anyio.wait_all_tasks_blocked()
        other = Source()
        assert "b 1" == await cache.get("b", other.load)
        source.may_answer.set()


async def test_when_the_caller_that_loads_is_cancelled_another_takes_over(clock: ManualClock) -> None:
    cache, source, answers = make_cache(clock), Source(), list[str]()
    source.hold()
    leader = anyio.CancelScope()

    async def lead() -> None:
        with leader:
            await cache.get("a", source.load)
        answers.append("cancelled")

    async def follow() -> None:
        answers.append(await cache.get("a", source.load))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
        await anyio.wait_all_tasks_blocked()
        assert ["a", "a"] == source.asked
        source.may_answer.set()
    assert ["cancelled", "a 2", "a 2", "a 2"] == answers


async def test_a_caller_that_only_waits_may_leave(clock: ManualClock) -> None:
    cache, source = make_cache(clock), Source()
    source.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.get, "a", source.load)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0) as scope:
            await cache.get("a", source.load)
        assert scope.cancelled_caught
        source.may_answer.set()
    assert "a 1" == cache.peek("a")
    assert ["a"] == source.asked


async def test_an_error_reaches_everybody_who_waits_and_is_not_remembered(clock: ManualClock) -> None:
    cache, source, caught = make_cache(clock), Source(OSError("down")), list[Exception]()
    source.hold()

    async def ask() -> None:
        with pytest.raises(OSError, match="down") as error:
            await cache.get("a", source.load)
        caught.append(error.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        source.may_answer.set()
    assert 5 == len(caught)
    assert ["a"] == source.asked
    assert cache.peek("a") is None
    assert "a 2" == await cache.get("a", source.load)


async def test_nothing_is_left_of_a_flight_that_has_ended() -> None:
    flights, outcomes = SingleFlight[str, str](), list[str]()

    async def fail() -> str:
        assert flights.under_way("a")
        raise OSError

    with pytest.raises(OSError):
        await flights.run("a", fail)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await flights.run("a", anyio.Event().wait)  # type: ignore[arg-type]
        outcomes.append("not cancelled")
    assert not outcomes
    assert not flights.under_way("a")
    assert not flights._flights


async def test_an_answer_is_fresh_for_its_time_and_not_a_moment_longer(clock: ManualClock) -> None:
    cache, source = make_cache(clock, ttl=10.0), Source()
    await cache.get("a", source.load)
    clock.advance(9.999)
    assert "a 1" == await cache.get("a", source.load) == cache.peek("a")
    clock.advance(0.001)
    assert cache.peek("a") is None
    assert "a 2" == await cache.get("a", source.load)


async def test_the_date_has_no_part_in_it(clock: ManualClock) -> None:
    cache, source = make_cache(clock), Source()
    await cache.get("a", source.load)
    clock.set(clock.now() + 1e9)
    assert "a 1" == cache.peek("a")


async def test_no_answer_is_negative_unless_it_is_said_which_are(clock: ManualClock) -> None:
    cache = make_cache(clock, ttl=10.0, negative_ttl=1.0, is_negative=None)
    await cache.get("a", Source(NO_SUCH).load)
    clock.advance(9.0)
    assert NO_SUCH == cache.peek("a")


async def test_an_answer_may_be_fresh_for_ever(clock: ManualClock) -> None:
    cache, source = make_cache(clock, ttl=math.inf), Source()
    await cache.get("a", source.load)
    clock.advance(1e12)
    assert "a 1" == cache.peek("a")


async def test_a_stale_answer_is_served_while_one_caller_renews_it(clock: ManualClock) -> None:
    cache, source, renewed = make_cache(clock, ttl=10.0, stale_ttl=5.0), Source(), list[str]()
    await cache.get("a", source.load)
    clock.advance(12.0)
    assert cache.peek("a") is None
    source.hold()

    async def renew() -> None:
        renewed.append(await cache.get("a", source.load))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(renew)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            assert "a 1" == await cache.get("a", source.load)
        assert ["a", "a"] == source.asked
        source.may_answer.set()
    assert ["a 2"] == renewed
    assert "a 2" == cache.peek("a")


async def test_a_stale_answer_is_served_while_renewing_it_fails_and_then_no_more(clock: ManualClock) -> None:
    cache, source = make_cache(clock, ttl=10.0, stale_ttl=5.0), Source("old", OSError("down"), OSError("down"), OSError("down"))
    await cache.get("a", source.load)
    for seconds in (10.0, 4.999):
        clock.advance(seconds)
        assert "old" == await cache.get("a", source.load)
    clock.advance(0.001)
    with pytest.raises(OSError, match="down"):
        await cache.get("a", source.load)
    assert 4 == len(source.asked)


async def test_a_negative_answer_is_kept_for_its_own_time_and_never_served_stale(clock: ManualClock) -> None:
    cache, source = make_cache(clock, ttl=100.0, stale_ttl=100.0, negative_ttl=5.0), Source(NO_SUCH, OSError("down"))
    assert NO_SUCH == await cache.get("a", source.load)
    clock.advance(4.999)
    assert NO_SUCH == await cache.get("a", source.load) == cache.peek("a")
    clock.advance(0.001)
    with pytest.raises(OSError, match="down"):
        await cache.get("a", source.load)


async def test_a_flood_of_negative_answers_evicts_no_other(clock: ManualClock) -> None:
    cache, good = make_cache(clock, max_entries=3, max_negative=10), Source()
    for key in "abc":
        await cache.get(key, good.load)
    for number in range(1000):
        await cache.get(f"bad {number}", Source(NO_SUCH).load)
    assert ["a 1", "b 2", "c 3"] == [cache.peek(key) for key in "abc"]
    assert 13 == len(cache)
    assert cache._negative.values.keys() == cache._negative._ends.keys()
    assert cache.peek("bad 989") is None
    assert NO_SUCH == cache.peek("bad 990")
    cache.clear()
    for shelf in (cache._entries, cache._negative):
        assert not shelf.values
        assert not shelf._ends


async def test_the_least_recently_loaded_entry_goes_first_and_its_owner_is_told(clock: ManualClock) -> None:
    owner = Owner()
    cache, source = make_cache(clock, max_entries=2, on_drop=owner.forget), Source()
    for key in "abac":
        await cache.get(key, source.load)
    assert [("a", "a 1")] == owner.told
    assert [None, "b 2", "c 3"] == [cache.peek(key) for key in "abc"]
    assert 2 == len(cache)


async def test_a_large_cache_makes_room_for_several_at_once_and_never_outgrows_its_bound(clock: ManualClock) -> None:
    owner = Owner()
    cache, source = make_cache(clock, max_entries=200, on_drop=owner.forget), Source()
    for number in range(1000):
        await cache.get(str(number), source.load)
        assert len(cache) <= 200
        assert number + 1 == len(cache) + len(owner.told)
    assert len(cache) > 190
    assert [str(number) for number in range(len(owner.told))] == [key for key, _ in owner.told]


async def test_an_answer_that_changes_its_kind_moves(clock: ManualClock) -> None:
    owner = Owner()
    cache, source = (
        make_cache(clock, negative_ttl=5.0, on_drop=owner.forget),
        Source(NO_SUCH, "here", NO_SUCH),
    )
    for answer in (NO_SUCH, "here", NO_SUCH):
        assert answer == await cache.get("a", source.load) == cache.peek("a")
        assert 1 == len(cache)
        clock.advance(10.0)
    assert [("a", NO_SUCH), ("a", "here")] == owner.told


async def test_every_forgotten_answer_is_told_once(clock: ManualClock) -> None:
    owner = Owner()
    cache = make_cache(clock, on_drop=owner.forget)
    for key in ("a", "b", "bad", "c"):
        await cache.get(key, Source(NO_SUCH if key == "bad" else "here").load)
    cache.drop("b")
    cache.drop("b")
    cache.drop("unknown")
    assert ["b"] == [key for key, _ in owner.told]
    cache.clear_negative()
    assert ["b", "bad"] == [key for key, _ in owner.told]
    assert "here" == cache.peek("a")
    cache.clear()
    assert ["a", "b", "bad", "c"] == sorted(key for key, _ in owner.told)
    assert 0 == len(cache)


@pytest.mark.parametrize("forget", ["drop", "drop another", "clear_negative", "clear"])
async def test_what_was_loaded_before_something_was_forgotten_is_not_kept(clock: ManualClock, forget: str) -> None:
    cache, source, answers = make_cache(clock), Source(), list[str]()
    ways = {
        "drop": lambda: cache.drop("a"),
        "drop another": lambda: cache.drop("b"),
        "clear_negative": cache.clear_negative,
        "clear": cache.clear,
    }
    source.hold()

    async def ask() -> None:
        answers.append(await cache.get("a", source.load))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        ways[forget]()
        source.may_answer.set()
    assert ["a 1"] == answers
    assert cache.peek("a") is None
    assert "a 2" == await cache.get("a", source.load) == cache.peek("a")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_event_loops_in_several_threads_share_a_cache_and_never_wait_for_each_other(clock: ManualClock, backend: str) -> None:
    cache, asked = make_cache(clock), list[str]()
    met = threading.Barrier(2, timeout=10)

    async def load(key: str) -> str:
        # Only passed when the other loop is loading as well.
        await anyio.to_thread.run_sync(met.wait)
        asked.append(key)
        return "here"

    async def ask() -> None:
        assert "here" == await cache.get("a", load) == await cache.get("a", load)

    async with anyio.create_task_group() as tasks:
        for name in ("asyncio", backend):
            tasks.start_soon(anyio.to_thread.run_sync, functools.partial(anyio.run, ask, backend=name))
    assert ["a", "a"] == asked
    assert "here" == cache.peek("a")
    assert not cache._flights._flights


class CacheModel(RuleBasedStateMachine):
    """The cache beside two plain dictionaries that are bounded by hand."""

    KEYS = st.sampled_from("abcde")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.cache = Cache[str, str](
            max_entries=3, max_negative=2, ttl=10.0, stale_ttl=5.0, negative_ttl=4.0, is_negative=NO_SUCH.__eq__, clock=self.clock
        )
        self.entries: dict[str, tuple[str, float]] = {}
        self.negative: dict[str, tuple[str, float]] = {}
        self.runner = asyncio.Runner()

    def teardown(self) -> None:
        self.runner.close()

    def known(self, key: str) -> tuple[str, float] | None:
        return self.entries.get(key) or self.negative.get(key)

    def ask(self, key: str, load: Callable[[str], Awaitable[str]]) -> str:
        return self.runner.run(asyncio.wait_for(self.cache.get(key, load), 10))

    @rule(key=KEYS, answer=st.sampled_from(["here", "there", NO_SUCH]))
    def get(self, key: str, answer: str) -> None:
        asked: list[str] = []

        async def load(key: str) -> str:
            asked.append(key)
            return answer

        found, known, now = self.ask(key, load), self.known(key), self.clock.monotonic()
        if known is not None and known[1] > now:
            assert (known[0], []) == (found, asked)
            return
        assert (answer, [key]) == (found, asked)
        self.forget(key)
        kept, bound, ttl = (self.negative, 2, 4.0) if answer == NO_SUCH else (self.entries, 3, 10.0)
        kept[key] = (answer, now + ttl)
        while len(kept) > bound:
            del kept[next(iter(kept))]

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        async def load(key: str) -> str:
            raise OSError(key)

        entry, now = self.entries.get(key), self.clock.monotonic()
        fresh = self.known(key)
        if (entry is not None and entry[1] + 5.0 > now) or (fresh is not None and fresh[1] > now):
            assert fresh is not None
            assert fresh[0] == self.ask(key, load)
        else:
            with pytest.raises(OSError, match=key):
                self.ask(key, load)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.cache.drop(key)
        self.forget(key)

    def forget(self, key: str) -> None:
        self.entries.pop(key, None)
        self.negative.pop(key, None)

    @rule()
    def clear_negative(self) -> None:
        self.cache.clear_negative()
        self.negative.clear()

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.entries.clear()
        self.negative.clear()

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0, 15.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agrees(self) -> None:
        now = self.clock.monotonic()
        for key in "abcde":
            known = self.known(key)
            assert (known[0] if known is not None and known[1] > now else None) == self.cache.peek(key)
        assert len(self.entries) + len(self.negative) == len(self.cache)


TestCacheModel = CacheModel.TestCase
TestCacheModel.settings = settings(max_examples=60, stateful_step_count=30)
