from typing import Any

import anyio
import pytest

from llm_authmw.accounts.protocols import AccountStore
from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.accounts.service import AccountService
from llm_authmw.changes import ChangeFollower
from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing import ManualClock, fake_principal

pytestmark = pytest.mark.anyio


class Spy:
    """A store's accounts: notes what is looked for, and can be held up or out of order."""

    def __init__(self, inner: AccountStore) -> None:
        self._inner = inner
        self.looked_for: list[AccountRef] = []
        self.held: anyio.Event | None = None
        self.error: StoreUnavailableError | None = None

    async def find(self, ref: AccountRef) -> AccountRecord | None:
        self.looked_for.append(ref)
        if self.error is not None:
            raise self.error
        found = await self._inner.find(ref)
        # Read first, held up then: what is handed over may be out of date by that time.
        if self.held is not None:
            await self.held.wait()
        return found


class Process:
    """One process on a backend that it shares with others."""

    def __init__(self, backend: MemoryBackend, clock: ManualClock, **options: Any) -> None:
        self.store = Spy(backend.accounts)
        store: Any = self.store
        self.follower = ChangeFollower(backend.feed, clock=clock)
        self.accounts = AccountService(backend.accounts, follower=self.follower, clock=clock)
        self.quotas = AccountQuotas(store, follower=self.follower, clock=clock, **options)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend(clock=clock)


@pytest.fixture
def here(backend: MemoryBackend, clock: ManualClock) -> Process:
    return Process(backend, clock)


@pytest.fixture
def ada() -> Principal:
    return fake_principal(user="ada", realm="staff", team="blue", org="acme")


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("inf"), float("nan")])
def test_a_deadline_that_is_no_number_of_seconds_above_zero_is_refused(backend: MemoryBackend, deadline: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AccountQuotas(backend.accounts, follower=ChangeFollower(backend.feed), deadline=deadline)
    assert "deadline" == caught.value.option


async def test_nothing_is_known_of_anybody_before_it_was_asked(here: Process, ada: Principal) -> None:
    assert here.quotas.recall(ada) is None


async def test_the_accounts_of_user_team_and_organisation_are_found_and_remembered(here: Process, ada: Principal) -> None:
    user = await here.accounts.create("user", "ada", realm="staff", limits=["60 requests/minute"])
    await here.accounts.create("user", "ada", realm="customers")
    team = await here.accounts.create("team", "blue", budgets=["50 usd/month"])
    await here.accounts.create("team", "blue", tenant="other")
    found = await here.quotas.load(ada)
    assert (user, team) == found
    assert found is here.quotas.recall(ada)
    assert found is await here.quotas.load(ada)
    assert 3 == len(here.store.looked_for)


async def test_who_belongs_to_no_account_has_none(here: Process) -> None:
    nobody = fake_principal(user=None, team=None, org=None, credential_id="k1")
    for principal in (nobody, ANONYMOUS):
        assert () == await here.quotas.load(principal)
        assert () == here.quotas.recall(principal)
    assert [] == here.store.looked_for


async def test_what_two_members_share_is_looked_for_once(here: Process, ada: Principal) -> None:
    await here.accounts.create("team", "blue")
    await here.quotas.load(ada)
    await here.quotas.load(fake_principal(user="bob", realm="staff", team="blue", org="acme"))
    assert ["ada", "blue", "acme", "bob"] == [ref.name for ref in here.store.looked_for]


async def test_a_change_made_here_counts_at_once(here: Process, ada: Principal) -> None:
    await here.accounts.create("team", "blue", limits=["60 requests/minute"])
    await here.quotas.load(ada)
    await here.accounts.update("team", "blue", limits=["6 requests/minute"])
    assert here.quotas.recall(ada) is None
    assert [6] == [record.limits[0].amount for record in await here.quotas.load(ada)]


async def test_a_change_made_elsewhere_counts_within_the_bound(
    here: Process, backend: MemoryBackend, clock: ManualClock, ada: Principal
) -> None:
    elsewhere = Process(backend, clock)
    assert () == await here.quotas.load(ada)
    await elsewhere.accounts.create("org", "acme")
    clock.advance(0.999)
    assert () == here.quotas.recall(ada)
    clock.advance(0.001)
    assert here.quotas.recall(ada) is None
    assert ["acme"] == [record.name for record in await here.quotas.load(ada)]


async def test_a_change_while_it_was_looked_for_is_not_forgotten(here: Process, ada: Principal) -> None:
    await here.accounts.create("team", "blue", limits=["60 requests/minute"])
    here.store.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.quotas.load, ada)
        await anyio.wait_all_tasks_blocked()
        await here.accounts.update("team", "blue", limits=["6 requests/minute"])
        here.store.held.set()
    assert here.quotas.recall(ada) is None
    assert [6] == [record.limits[0].amount for record in await here.quotas.load(ada)]


async def test_a_store_that_fails_is_reported_and_what_is_remembered_counts_no_longer_than_the_bound(
    here: Process, clock: ManualClock, ada: Principal
) -> None:
    here.store.error = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError, match="down"):
        await here.quotas.load(ada)
    assert here.quotas.recall(ada) is None
    here.store.error = None
    assert () == await here.quotas.load(ada)
    clock.advance(1.0)
    assert here.quotas.recall(ada) is None


async def test_a_store_that_does_not_answer_is_given_up_within_the_deadline(
    backend: MemoryBackend, clock: ManualClock, ada: Principal
) -> None:
    here = Process(backend, clock, deadline=0.01)
    here.store.held = anyio.Event()
    with anyio.fail_after(5), pytest.raises(StoreUnavailableError, match="in time"):
        await here.quotas.load(ada)


async def test_no_more_is_remembered_than_the_bound_allows(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, max_accounts=3)
    for number in range(10):
        await here.quotas.load(fake_principal(user=f"user-{number}"))
    assert 3 == len(here.quotas._records)
    assert 3 == len(here.quotas._found)
