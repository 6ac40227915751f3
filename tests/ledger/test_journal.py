from collections.abc import Mapping

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
        self._known = known

    async def _settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        self.asked.append(reservation_id)
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


async def test_a_release_is_said_again_less_and_less_often() -> None:
    store = Store(known=False)
    store.journal.add("a", {}, granted=False)
    at: list[float] = []
    began = store.clock.monotonic()
    while store.journal.entries:
        await store.later(0.25)
        at += [store.clock.monotonic() - began] * (len(store.asked) - len(at))
    assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.5, 23.0, 30.5] == at
    assert 1.0 == max(store.pauses)


async def test_what_is_added_while_the_next_release_is_waited_for_is_said_within_a_second() -> None:
    store = Store(known=False)
    store.journal.add("a", {}, granted=False)
    for _ in range(40):
        await store.later(0.25)
    store.asked.clear()
    store.journal.add("b", {}, granted=True)
    await store.later(1.0)
    assert ["b"] == store.asked
    await store.journal.aclose()
