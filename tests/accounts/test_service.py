from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from llm_authmw.accounts.protocols import AccountPage, AccountQuery
from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.accounts.service import AccountService
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.errors import ConfigurationError, ConflictError, InvalidValueError, NotFoundError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

BLUE = AccountRef("default", "team", "", "blue")


class Spy:
    """A store's accounts as one process sees them: counts the queries, and can be held up or disturbed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.queries: list[AccountQuery] = []
        self.page_size: int | None = None
        self.held: anyio.Event | None = None
        self.error: StoreUnavailableError | None = None
        self.before_write: Callable[[], Awaitable[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def query(self, query: AccountQuery) -> AccountPage:
        self.queries.append(query)
        if self.error is not None:
            raise self.error
        page: AccountPage = await self._inner.query(query if self.page_size is None else query._replace(size=self.page_size))
        # Read first, held up then: what is handed over may be out of date by that time.
        if self.held is not None:
            await self.held.wait()
        return page

    async def write(self, record: AccountRecord, entry: HistoryEntry) -> bool:
        if self.before_write is not None:
            await self.before_write()
        written: bool = await self._inner.write(record, entry)
        return written


class Process:
    """One process on a backend that it shares with others."""

    def __init__(self, backend: MemoryBackend, clock: ManualClock) -> None:
        self.store = Spy(backend.accounts)
        self.follower = ChangeFollower(backend.feed, clock=clock)
        store: Any = self.store
        self.accounts = AccountService(store, follower=self.follower, clock=clock)

    async def blocked(self) -> set[AccountRef]:
        await self.follower.refresh()
        await self.accounts.load()
        return set(self.accounts.blocked)


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
def elsewhere(backend: MemoryBackend, clock: ManualClock) -> Process:
    return Process(backend, clock)


@pytest.fixture
def accounts(here: Process) -> AccountService:
    return here.accounts


# The verbs.


async def test_an_account_is_made_and_found(accounts: AccountService, clock: ManualClock) -> None:
    made = await accounts.create(
        "team", "blue", tenant="acme", limits=["60 request/minute"], budgets=["500 usd/month"], roles=["b", "a"], actor="alice"
    )
    assert made == await accounts.get("team", "blue", tenant="acme")
    assert ("active", ("a", "b"), "", 1, clock.now()) == (made.status, made.roles, made.realm, made.revision, made.created_at)
    changes: dict[str, Any] = {
        "status": [None, "active"],
        "limits": [None, ["60 requests/minute"]],
        "budgets": [None, ["500 usd/month"]],
        "roles": [None, ["a", "b"]],
    }
    assert (HistoryEntry(at=clock.now(), action="create", actor="alice", changes=changes),) == await accounts.history(
        "team", "blue", tenant="acme"
    )


async def test_an_account_is_made_once(accounts: AccountService) -> None:
    made = await accounts.create("team", "blue", roles=["a"])
    with pytest.raises(ConflictError, match="this account exists"):
        await accounts.create("team", "blue", roles=["b"])
    assert made == await accounts.get("team", "blue")
    assert 1 == len(await accounts.history("team", "blue"))


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "error"),
    [
        ("squad", "blue", {}, InvalidValueError),
        ("team", "", {}, InvalidValueError),
        ("team", "blue", {"tenant": ""}, InvalidValueError),
        ("team", "blue", {"realm": "keys"}, InvalidValueError),
        ("user", "alice", {"realm": ""}, InvalidValueError),
        ("team", "blue", {"status": "revoked"}, InvalidValueError),
        ("team", "blue", {"limits": ["sixty"]}, InvalidValueError),
        ("team", "blue", {"models": "gpt-4o*"}, ConfigurationError),
        ("team", "blue", {"team": "red"}, TypeError),
    ],
)
async def test_an_account_that_is_wrongly_described_is_not_made(
    accounts: AccountService, kind: Any, name: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await accounts.create(kind, name, **arguments)
    assert () == (await accounts.list()).accounts


async def test_the_same_name_is_another_account_in_another_realm_kind_or_tenant(accounts: AccountService) -> None:
    whose: list[tuple[Any, dict[str, Any]]] = [
        ("user", {}),
        ("user", {"realm": "https://sso.example.com"}),
        ("user", {"tenant": "acme"}),
        ("team", {}),
        ("org", {}),
        ("end_user", {}),
    ]
    for kind, where in whose:
        await accounts.create(kind, "alice", **where)
    assert len(whose) == len({record.ref for record in (await accounts.list()).accounts})
    await accounts.block("user", "alice")
    assert ["blocked", *["active"] * 5] == [(await accounts.get(kind, "alice", **where)).status for kind, where in whose]


async def test_a_user_without_a_realm_is_one_of_the_keys(accounts: AccountService) -> None:
    assert "keys" == (await accounts.create("user", "alice")).realm
    assert await accounts.get("user", "alice") == await accounts.get("user", "alice", realm="keys")


async def test_an_account_that_is_not_there_is_not_found(accounts: AccountService) -> None:
    await accounts.create("team", "blue", tenant="acme")
    for call in (accounts.get, accounts.history, accounts.update, accounts.block, accounts.unblock):
        for tenant, name in (("other", "blue"), ("acme", "red")):
            with pytest.raises(NotFoundError, match="there is no such account"):
                await call("team", name, tenant=tenant)


async def test_accounts_are_listed_in_order_in_pages_by_every_filter(accounts: AccountService) -> None:
    for kind, name, tenant in (("team", "red", "acme"), ("team", "blue", "acme"), ("org", "Blue Sky", "acme"), ("team", "blue", "other")):
        given: Any = kind
        await accounts.create(given, name, tenant=tenant)
    await accounts.block("team", "red", tenant="acme")

    async def found(**filters: Any) -> list[tuple[str, str, str]]:
        return [(record.tenant, record.kind, record.name) for record in (await accounts.list(**filters)).accounts]

    everything = [("acme", "org", "Blue Sky"), ("acme", "team", "blue"), ("acme", "team", "red"), ("other", "team", "blue")]
    assert everything == await found()
    assert everything[1:3] == await found(tenant="acme", kind="team")
    assert everything[2:3] == await found(status="blocked")
    assert [everything[0], everything[1], everything[3]] == await found(search="BLUE")
    pages: list[tuple[str, str, str]] = []
    after: str | None = None
    for _ in everything:
        page = await accounts.list(size=1, after=after)
        pages += [(record.tenant, record.kind, record.name) for record in page.accounts]
        after = page.next
    assert (everything, None) == (pages, after)


@pytest.mark.parametrize("size", [0, -1, 1001])
async def test_a_page_has_a_size(accounts: AccountService, size: int) -> None:
    with pytest.raises(InvalidValueError, match="a page holds 1 to 1000 accounts"):
        await accounts.list(size=size)


@pytest.mark.parametrize("size", [1, 1000])
async def test_the_smallest_and_the_largest_page_are_given(accounts: AccountService, size: int) -> None:
    for name in ("blue", "red"):
        await accounts.create("team", name)
    assert min(size, 2) == len((await accounts.list(size=size)).accounts)


async def test_an_update_changes_what_it_names(accounts: AccountService, clock: ManualClock) -> None:
    await accounts.create("team", "blue", roles=["member"], models=["*"])
    clock.advance(1.0)
    changed = await accounts.update("team", "blue", models=None, budgets=["5 usd/day"], actor="bob")
    assert (("member",), None, 2) == (changed.roles, changed.models, changed.revision)
    changes: dict[str, Any] = {"models": [["*"], None], "budgets": [[], ["5 usd/day"]]}
    assert HistoryEntry(at=clock.now(), action="update", actor="bob", changes=changes) == (await accounts.history("team", "blue"))[-1]
    assert changed == await accounts.update("team", "blue", models=None)
    assert 2 == len(await accounts.history("team", "blue"))
    with pytest.raises(InvalidValueError):
        await accounts.update("team", "blue", limits=["sixty"])
    assert changed == await accounts.get("team", "blue")


async def test_blocking_and_unblocking_twice_changes_nothing_twice(accounts: AccountService) -> None:
    await accounts.create("team", "blue")
    for verb, status in (
        (accounts.block, "blocked"),
        (accounts.block, "blocked"),
        (accounts.unblock, "active"),
        (accounts.unblock, "active"),
    ):
        assert status == (await verb("team", "blue", actor="alice")).status
    history = await accounts.history("team", "blue")
    assert [("create", "api"), ("block", "alice"), ("unblock", "alice")] == [(entry.action, entry.actor) for entry in history]
    assert {"status": ["active", "blocked"]} == history[1].changes


async def test_changes_at_the_same_time_lose_nothing(here: Process) -> None:
    await here.accounts.create("team", "blue")
    # Everybody has read before anybody writes.
    here.store.before_write = anyio.lowlevel.checkpoint
    changes: list[dict[str, Any]] = [
        {"roles": ["a"]},
        {"models": ["*"]},
        {"limits": ["4 concurrent"]},
        {"budgets": ["5 usd"]},
        {"metadata": {"a": "b"}},
    ]

    async def change(fields: dict[str, Any]) -> None:
        await here.accounts.update("team", "blue", **fields)

    async with anyio.create_task_group() as tasks:
        for fields in changes:
            tasks.start_soon(change, fields)
        tasks.start_soon(here.accounts.block, "team", "blue")
    record = await here.accounts.get("team", "blue")
    assert (("a",), ("*",), {"a": "b"}, "blocked", 7) == (record.roles, record.models, record.metadata, record.status, record.revision)
    assert ["4 concurrent"] == [str(limit) for limit in record.limits]
    assert 7 == len(await here.accounts.history("team", "blue"))


async def test_an_account_that_was_made_meanwhile_is_not_overwritten(here: Process, elsewhere: Process) -> None:
    here.store.before_write = lambda: elsewhere.accounts.create("team", "blue", roles=["theirs"])
    with pytest.raises(ConflictError):
        await here.accounts.create("team", "blue", roles=["mine"])
    assert ("theirs",) == (await here.accounts.get("team", "blue")).roles


# Who is blocked.


async def test_who_is_blocked_is_read_once_and_again_when_an_account_changed(here: Process, elsewhere: Process, clock: ManualClock) -> None:
    assert here.accounts.stale
    assert set() == await here.blocked() == await here.blocked()
    assert 1 == len(here.store.queries)
    await elsewhere.accounts.create("team", "blue", status="blocked")
    assert set() == await here.blocked()
    clock.advance(1.0)
    assert {BLUE} == await here.blocked() == await here.blocked()
    assert 2 == len(here.store.queries)


async def test_a_change_by_this_process_counts_at_once(here: Process) -> None:
    await here.accounts.create("team", "blue")
    assert set() == await here.blocked()
    await here.accounts.block("team", "blue")
    assert here.accounts.stale
    assert {BLUE} == await here.blocked()
    await here.accounts.unblock("team", "blue")
    assert set() == await here.blocked()
    await here.accounts.create("team", "red", status="blocked")
    assert {BLUE._replace(name="red")} == await here.blocked()


async def test_a_change_of_keys_alone_is_no_reason_to_read_again(here: Process) -> None:
    await here.blocked()
    here.follower.announce(Changes(cursor=0, keys=frozenset({"k1"})))
    assert not here.accounts.stale


async def test_everybody_who_is_blocked_is_found_on_however_many_pages(here: Process) -> None:
    names = [f"team {number}" for number in range(7)]
    for name in names:
        await here.accounts.create("team", name, status="blocked")
    await here.accounts.create("team", "active")
    here.store.page_size = 2
    assert set(names) == {ref.name for ref in await here.blocked()}
    assert 4 == len(here.store.queries)


async def test_callers_at_the_same_time_read_once(here: Process) -> None:
    here.store.held = anyio.Event()
    await here.follower.refresh()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(here.accounts.load)
        await anyio.wait_all_tasks_blocked()
        here.store.held.set()
    assert 1 == len(here.store.queries)
    assert not here.accounts.stale


async def test_what_changes_while_it_is_read_is_read_again(here: Process) -> None:
    await here.accounts.create("team", "blue")
    await here.follower.refresh()
    here.store.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.accounts.load)
        await anyio.wait_all_tasks_blocked()
        await here.accounts.block("team", "blue")
        here.store.held.set()
    assert {BLUE} == set(here.accounts.blocked)
    assert 2 == len(here.store.queries)


async def test_a_store_that_cannot_be_read_leaves_it_stale(here: Process) -> None:
    await here.accounts.create("team", "blue", status="blocked")
    here.store.error = StoreUnavailableError("locked")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await here.blocked()
        assert here.accounts.stale
    here.store.error = None
    assert {BLUE} == await here.blocked()


async def test_budgets_are_changed_by_what_is_made_of_them_even_where_somebody_else_is_faster(here: Process, elsewhere: Process) -> None:
    await here.accounts.create("team", "blue", tenant="acme", budgets=["50 usd/month", "9 usd"])

    async def once() -> None:
        here.store.before_write = None
        await elsewhere.accounts.update("team", "blue", tenant="acme", budgets=["70 usd/month", "9 usd"])

    here.store.before_write = once
    changed = await here.accounts.change_budgets("team", "blue", lambda budgets: budgets[:1], action="trim", tenant="acme", actor="alice")

    assert ["70 usd/month"] == [str(budget) for budget in changed.budgets]
    last = (await here.accounts.history("team", "blue", tenant="acme"))[-1]
    assert ("trim", "alice", {"budgets": [["70 usd/month", "9 usd"], ["70 usd/month"]]}) == (last.action, last.actor, last.changes)


async def test_budgets_that_stay_as_they_are_leave_no_trace(accounts: AccountService) -> None:
    made = await accounts.create("team", "blue", budgets=["50 usd/month"])

    assert made == await accounts.change_budgets("team", "blue", lambda budgets: budgets, action="reset")
    assert ["create"] == [entry.action for entry in await accounts.history("team", "blue")]


async def test_budgets_of_nobody_are_not_changed(accounts: AccountService) -> None:
    with pytest.raises(NotFoundError):
        await accounts.change_budgets("team", "blue", lambda budgets: budgets, action="reset")
