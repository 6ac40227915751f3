"""What several layers hold for one request, and how it is settled."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import pytest

from llm_authmw.call import LLMCall, Usage
from llm_authmw.context import RequestContext
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.contract import Settlement
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.exchange import RELEASED, Exchange
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.llm.prices import Price
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, fake_principal, request
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.provider import MockProvider
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CALL: Final = LLMCall(dialect="openai", operation="chat", models=("gpt-4o",))
ANSWER: Final = b'{"model":"gpt-4o","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'


def bucket(name: str, measure: Measure = "nano_usd") -> Bucket:
    return Bucket(tenant="default", name=name, kind="lifetime", measure=measure, limit=1_000)


async def hold(handle: LedgerHandle, *buckets: Bucket) -> Hold:
    granted = await handle.reserve([Claim(one, 100) for one in buckets])
    assert isinstance(granted, Hold)
    return granted


def saying(amount: int) -> Callable[[Exchange], Mapping[Measure, int]]:
    return lambda _: {"nano_usd": amount}


def opened() -> Exchange:
    context = RequestContext()
    context.call = CALL
    return Exchange.of(context)


def ledger() -> LedgerHandle:
    return LedgerHandle(MemoryLedger(clock=ManualClock()), deadline=None)


def test_all_layers_of_a_request_find_one_exchange() -> None:
    exchange = opened()
    assert exchange is Exchange.of(exchange.context)


async def test_what_each_layer_holds_is_settled_once_at_what_it_says() -> None:
    handle, exchange, told = ledger(), opened(), list[Settlement | None]()
    one, other = bucket("one"), bucket("other")
    exchange.add(handle, await hold(handle, one), saying(10), told.append)
    exchange.add(handle, await hold(handle, other), saying(20), told.append)
    assert {one.ref, other.ref} == exchange.buckets(handle)
    assert frozenset() == exchange.buckets(ledger())
    exchange.begin(None)
    for _ in range(2):
        await exchange.end()
        await exchange.finish()
    assert [10, 20] == [balance.used for balance in await handle.balance([one, other])]
    assert 2 == len(told)
    assert 0 == handle.held


async def test_what_is_released_stays_counted_as_a_request() -> None:
    handle, exchange = ledger(), opened()
    buckets = [bucket("r", "requests"), bucket("t", "tokens"), bucket("i", "input tokens"), bucket("o", "output tokens"), bucket("m")]
    exchange.add(handle, await hold(handle, *buckets), saying(10))
    await exchange.release()
    await exchange.finish()
    assert [100, 0, 0, 0, 0] == [balance.used for balance in await handle.balance(buckets)]
    assert "requests" not in RELEASED


async def test_who_holds_nothing_is_told_all_the_same() -> None:
    exchange, told = opened(), list[Usage | None]()

    def account(ended: Exchange) -> Mapping[Measure, int]:
        told.append(ended.facts.usage)
        return {}

    exchange.account(account)
    exchange.begin(None)
    exchange.start(200, [(b"Content-Type", b"application/json")])
    exchange.take(ANSWER)
    await exchange.end()
    await exchange.finish()
    assert [Usage(input=7, output=3, total=10, model="gpt-4o", complete=True)] == told
    assert told[0] == exchange.context.usage


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_while_it_settles_settles_all(anyio_backend: str) -> None:
    import asyncio  # noqa: PLC0415 - cancelled as asyncio does, past every shield

    going = anyio.Event()

    class Slow(MemoryLedger):
        async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
            going.set()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            return await super().settle(reservation_id, actual)

    handle, exchange = LedgerHandle(Slow(clock=ManualClock()), deadline=5), opened()
    buckets = [bucket("one"), bucket("two"), bucket("three")]
    for one in buckets:
        exchange.add(handle, await hold(handle, one), saying(10))
    task = asyncio.ensure_future(exchange.finish())
    await going.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await handle.aclose()
    assert [10, 10, 10] == [balance.used for balance in await handle.balance(buckets)]
    assert 0 == handle.held


async def test_a_socket_is_not_metered_by_what_it_says_of_itself() -> None:
    exchange = opened()
    exchange.begin(None)
    exchange.take_frame(b'{"type":"response.text","text":"response.done"}')
    assert exchange.facts.usage is None
    exchange.take_frame(b"\xff response.done")
    assert exchange.facts.usage is None
    assert exchange.facts.flowing


# Layers together.

CHAT: Final = "POST /v1/chat/completions"
BODY: Final[dict[str, Any]] = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
PRICES: Final = {"gpt-4o": Price(input=1, output=2)}
RATE: Final[dict[str, Any]] = {"limits": {"user": ["100 requests/day, calendar", "100000 tokens/day, calendar"]}}


@pytest.mark.parametrize("budget_outside", [False, True])
async def test_rates_and_budgets_settle_the_same_request(budget_outside: bool) -> None:
    books = Books()

    def rates(app: Any) -> Any:
        return RateLimitMiddleware(app, ledger=books.service, **RATE)

    def budget(app: Any) -> Any:
        return BudgetMiddleware(app, ledger=books.service, prices=PRICES, limits={"user": ["1 usd/day"]})

    app = budget(rates(MockProvider())) if budget_outside else rates(budget(MockProvider()))
    answer = await request(app, CHAT, json=BODY, scope=called_by(fake_principal(user="ada")))
    assert 200 == answer.status
    assert {"user:/ada / nano_usd / day": 9000, "user:/ada / requests / day": 1, "user:/ada / tokens / day": 5} == await books.used()
    assert 0 == books.held


async def test_what_a_rate_limit_holds_is_given_back_before_a_budget_refuses() -> None:
    books = Books()
    app = Recorder()
    inner = BudgetMiddleware(app, ledger=books.service, prices=PRICES, limits={"user": ["0.000001 usd/day"]})
    seen: list[dict[str, int]] = []

    async def looking(scope: Any, receive: Any, send: Any) -> None:
        async def look(message: Any) -> None:
            seen.append(await books.used())
            await send(message)

        await inner(scope, receive, look)

    looking.app = inner  # type: ignore[attr-defined]  # as layers show what stands inside of them
    layer = RateLimitMiddleware(looking, ledger=books.service, **RATE)
    answer = await request(layer, CHAT, json=BODY, scope=called_by(fake_principal(user="ada")))
    assert 400 == answer.status
    assert (1, 0) == (seen[0]["user:/ada / requests / day"], seen[0]["user:/ada / tokens / day"])
    assert 0 == books.held


async def test_a_bucket_that_a_budget_further_out_counts_in_is_not_counted_in_again() -> None:
    books = Books()
    options: dict[str, Any] = {"ledger": books.service, "prices": PRICES}
    inner = BudgetMiddleware(MockProvider(), limits={"user": ["1 usd/day"], "user+model": ["1 usd/day"]}, **options)
    outer = BudgetMiddleware(inner, limits={"user": ["1 usd/day"]}, **options)
    assert 200 == (await request(outer, CHAT, json=BODY, scope=called_by(fake_principal(user="ada")))).status
    assert {"user:/ada / nano_usd / day": 9000, "user:/ada+model:gpt-4o / nano_usd / day": 9000} == await books.used()
