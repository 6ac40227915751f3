from collections.abc import Callable
from typing import Any

import pytest

from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.changes import ChangeFollower
from llm_authmw.errors import StoreUnavailableError
from llm_authmw.keys.hashing import Peppers
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.stores import Store, open_store
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, ManualClock, fake_principal

pytestmark = pytest.mark.anyio

MONEY = Bucket(tenant="t", name="team:blue / nano_usd", kind="lifetime", measure="nano_usd", limit=1_000)


class Elsewhere(FaultyLedger):
    """Counters on another server, which is started and closed with the store."""

    def __init__(self, make: Callable[[], MemoryLedger]) -> None:
        super().__init__(make)
        self.story: list[str] = []
        self.unreachable = False

    async def start(self) -> None:
        if self.unreachable:
            raise StoreUnavailableError("nobody is there")
        self.story.append("started")

    async def aclose(self) -> None:
        self.story.append(f"closed after {self.calls.count('settle')} settlements")


class Backend(MemoryBackend):
    """A backend that notes when it is closed."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> Backend:
    return Backend(clock)


@pytest.fixture
def elsewhere(clock: ManualClock) -> Elsewhere:
    return Elsewhere(lambda: MemoryLedger(clock=clock))


@pytest.fixture
def store(backend: Backend, elsewhere: Elsewhere, clock: ManualClock) -> Store:
    return Store(backend, url="memory://", peppers=Peppers(None), bound=1.0, deadline=0.25, clock=clock, counters=elsewhere)


async def hold_of(handle: LedgerHandle) -> Hold:
    hold = await handle.reserve([Claim(MONEY, 100)])
    assert isinstance(hold, Hold)
    return hold


async def test_money_and_rates_are_counted_in_one_place_unless_another_one_is_named(clock: ManualClock) -> None:
    store = open_store("memory://", clock=clock)
    assert store.ledger.rates is store.ledger.money
    assert store.ledger.resource is store
    assert store.ledger.clock is clock
    await store.aclose()


async def test_rates_may_be_counted_elsewhere_and_money_stays(store: Store) -> None:
    async with store:
        await hold_of(store.ledger.rates)
        assert [0] == [balance.used for balance in await store.ledger.money.balance([MONEY])]
        assert [100] == [balance.used for balance in await store.ledger.rates.balance([MONEY])]


async def test_counters_elsewhere_start_and_close_with_the_store_after_what_was_left_is_settled(
    store: Store, backend: Backend, elsewhere: Elsewhere
) -> None:
    async with store:
        hold = await hold_of(store.ledger.rates)
        elsewhere.fail("answer lost")
        await store.ledger.rates.settle(hold, {})
        elsewhere.heal()
        assert 1 == store.ledger.rates.unsettled
    assert ["started", "closed after 2 settlements"] == elsewhere.story
    assert (0, 1) == (store.ledger.rates.unsettled, backend.closed)


async def test_a_store_whose_counters_cannot_be_reached_does_not_stay_half_open(
    store: Store, backend: Backend, elsewhere: Elsewhere
) -> None:
    elsewhere.unreachable = True
    with pytest.raises(StoreUnavailableError, match="nobody is there"):
        await store.start()
    assert 1 == backend.closed


async def test_an_account_that_was_changed_through_the_store_counts_in_its_ledger_at_once(clock: ManualClock) -> None:
    ada = fake_principal(user="ada", team="blue")
    async with open_store("memory://", clock=clock) as store:
        assert () == await store.ledger.accounts.load(ada)
        await store.accounts.create("team", "blue", budgets=["50 usd/month"])
        assert store.ledger.accounts.recall(ada) is None
        assert ["blue"] == [record.name for record in await store.ledger.accounts.load(ada)]


async def test_rates_are_settled_though_money_cannot_be_closed(
    backend: Backend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    money, rates = (LedgerHandle(MemoryLedger(clock=clock), clock=clock) for _ in range(2))
    closed: list[LedgerHandle] = []

    async def fails() -> None:
        raise ZeroDivisionError

    async def closes() -> None:
        closed.append(rates)

    monkeypatch.setattr(money, "aclose", fails)
    monkeypatch.setattr(rates, "aclose", closes)
    accounts = AccountQuotas(backend.accounts, follower=ChangeFollower(backend.feed, clock=clock), clock=clock)
    service: Any = LedgerService(money, rates=rates, accounts=accounts, clock=clock)
    with pytest.raises(ZeroDivisionError):
        await service.aclose()
    assert [rates] == closed
