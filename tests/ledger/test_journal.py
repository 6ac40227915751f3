from collections.abc import Callable, Mapping

import anyio
import pytest

from llm_authmw.errors import StoreUnavailableError
from llm_authmw.ledger.buckets import Measure
from llm_authmw.ledger.contract import Settlement
from llm_authmw.ledger.journal import Journal
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio


class Store:
    """Notes what it is asked, and how long is waited between; knows a reservation or does not, or fails."""

    def __init__(self, *, known: bool = True) -> None:
        self.clock = ManualClock()
        self.journal = Journal(self._settle, lease=30.0, clock=self.clock, sleep=self._sleep)
        self.asked: list[str] = []
        self.pauses: list[float] = []
        self.down = False
        self.meanwhile: Callable[[], None] | None = None
        self._known = known

    async def _settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        self.asked.append(reservation_id)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.down:
            raise StoreUnavailableError("down")
        return Settlement(0, late=False, balances=()) if self._known else None

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.clock.sleep(seconds)

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await anyio.wait_all_tasks_blocked()


async def test_a_store_that_fails_is_asked_about_one_of_many_and_again_after_a_pause() -> None:
    store = Store()
    store.down = True
    for name in ("a", "b", "c"):
        store.journal.add(name, {}, granted=True)
    await anyio.wait_all_tasks_blocked()
    assert (["a"], [0.25]) == (store.asked, store.pauses)
    await store.later(0.24)
    assert ["a"] == store.asked
    store.down = False
    await store.later(0.01)
    assert ["a", "a", "b", "c"] == store.asked
    assert {} == store.journal.entries


async def test_a_release_is_over_with_the_first_answer_since_what_was_not_made_by_then_is_void() -> None:
    store = Store(known=False)
    store.journal.add("a", {}, granted=False)
    await store.later(0)
    assert (["a"], {}, 0) == (store.asked, store.journal.entries, store.journal.forgotten)


async def test_what_is_added_while_another_one_is_said_is_said_after_it() -> None:
    store = Store()
    store.meanwhile = lambda: store.journal.add("b", {}, granted=True)
    store.journal.add("a", {}, granted=True)
    await store.later(0)
    assert (["a", "b"], {}) == (store.asked, store.journal.entries)
