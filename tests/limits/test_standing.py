"""What limits and budgets stand at, asked beside the layers that count in them."""

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, open_store
from llm_authmw.accounts.records import AccountRecord
from llm_authmw.errors import Denial, StoreUnavailableError
from llm_authmw.ledger.buckets import Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.limits.plan import buckets_of
from llm_authmw.limits.standing import Standing, standings
from llm_authmw.principal import ANONYMOUS
from llm_authmw.quota import Budget, Limit
from llm_authmw.stores import Store
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, fake_principal, request
from llm_authmw.testing.provider import MockProvider

pytestmark = pytest.mark.anyio

BODY = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
COST = 1 * 1000 + 4 * 2000
"""What the mock's answer costs: one word of the request, four of the answer."""


def told(found: Sequence[Standing]) -> dict[str, tuple[int, int]]:
    return {one.counted.bucket.name: (one.balance.used, one.balance.left) for one in found}


@pytest.fixture
def store() -> Store:
    return open_store("memory://", clock=ManualClock())


async def test_they_are_the_buckets_that_the_layers_count_in(store: Store) -> None:
    app = Stack(
        Middleware(KeyAuthMiddleware, keys=store.keys),
        Middleware(RateLimitMiddleware, ledger=store.ledger),
        Middleware(BudgetMiddleware, ledger=store.ledger, prices={"*": Price(input=1, output=2)}),
    )(MockProvider())
    created = await store.keys.create(
        user="a/b", team="blue", org="acme", budgets=["1 usd/day, timezone Asia/Tokyo"], limits=["9 requests/day, calendar"]
    )
    team = await store.accounts.create("team", "blue", budgets=["500 usd/month, starts 15", "5 usd"], limits=["4 concurrent"])
    await store.accounts.create("user", "a/b", budgets=["50 usd/year"])
    await store.accounts.create("team", "green", budgets=["1 usd"])
    assert created.key is not None
    answer = await request(app, "POST /v1/chat/completions", json=BODY, headers=[(b"x-api-key", created.key.encode())])
    assert 200 == answer.status

    principal = created.record.principal()
    accounts = await store.ledger.accounts.load(principal)
    day, month, ever, year = 10**9, 500 * 10**9, 5 * 10**9, 50 * 10**9
    budgets = {
        f"key:{created.id} / nano_usd / day Asia/Tokyo": (COST, day - COST),
        "user:keys/a%2Fb / nano_usd / year": (COST, year - COST),
        "team:blue / nano_usd / month from 15": (COST, month - COST),
        "team:blue / nano_usd / ever": (COST, ever - COST),
    }
    assert budgets == told(await standings(store.ledger, principal, accounts, Budget))
    limits = {f"key:{created.id} / requests / day": (1, 8), "team:blue / concurrent": (0, 4)}
    assert limits == told(await standings(store.ledger, principal, accounts, Limit))
    alone = {name: found for name, found in budgets.items() if name.startswith("team:")}
    assert alone == told(await standings(store.ledger, ANONYMOUS, (team,), Budget))


async def test_what_is_increased_counts_while_it_lasts() -> None:
    clock = ManualClock()
    store = open_store("memory://", clock=clock)
    until = round(clock.now()) + 60
    principal = fake_principal(budgets=(Budget(amount=10, plus=5, until=until),))

    assert [15] == [one.balance.limit for one in await standings(store.ledger, principal, (), Budget)]
    clock.advance(60)
    assert [10] == [one.balance.limit for one in await standings(store.ledger, principal, (), Budget)]


async def test_where_there_is_none_nobody_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> Any:
        raise StoreUnavailableError("down")

    monkeypatch.setattr(type(store.ledger.money), "balance", fails)
    assert () == await standings(store.ledger, fake_principal(), (), Budget)


async def test_more_than_one_request_may_be_counted_in_is_refused(store: Store) -> None:
    account = AccountRecord(
        kind="team",
        name="blue",
        created_at=0,
        budgets=tuple(
            Budget(amount=1, window="month", starts=1 + day, timezone=zone)
            for day in range(28)
            for zone in ("UTC", "Asia/Tokyo", "Europe/Berlin")
        ),
    )

    with pytest.raises(Denial) as caught:
        await standings(store.ledger, ANONYMOUS, (account,), Budget)
    assert "limits_too_many" == caught.value.reason


async def test_a_ledger_that_does_not_answer_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> Any:
        raise StoreUnavailableError("down")

    monkeypatch.setattr(type(store.ledger.money), "balance", fails)
    with pytest.raises(StoreUnavailableError):
        await standings(store.ledger, fake_principal(budgets=(Budget(amount=1),)), (), Budget)


async def test_money_and_rates_are_each_read_where_they_are_counted(store: Store) -> None:
    clock = ManualClock()
    money, rates = (LedgerHandle(MemoryLedger(clock=clock), deadline=None, clock=clock) for _ in range(2))
    ledger = LedgerService(money, rates=rates, accounts=store.ledger.accounts, clock=clock)
    caller = fake_principal(budgets=(Budget(amount=10),), limits=(Limit(amount=4, unit="concurrent"),))
    for handle, amount, quota in ((money, 3, Budget), (rates, 2, Limit)):
        (bucket,) = [one.bucket for one in buckets_of(caller, (), quota, clock=clock)]
        assert isinstance(await handle.reserve([Claim(bucket, amount)]), Hold)

    assert [3] == [one.balance.used for one in await standings(ledger, caller, (), Budget)]
    assert [2] == [one.balance.used for one in await standings(ledger, caller, (), Limit)]
    await ledger.aclose()
