import random
from typing import Any

import anyio
import msgspec
from starlette.middleware import Middleware

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, open_store
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, MockProvider, SimulatedClock, request, simulate
from llm_authmw.testing.asgi import http_scope

DEADLINE = 0.25
BODY: dict[str, Any] = {"model": "echo", "max_tokens": 10, "messages": []}


def answered(delay: float, **options: Any) -> tuple[int, float]:
    """Return the status of an answer, and how many seconds it took, where every call of the ledger takes some."""

    async def ask(clock: SimulatedClock, chance: random.Random) -> tuple[int, float]:
        store = open_store("memory://", clock=clock)
        slow = FaultyLedger(lambda: MemoryLedger(clock=clock), delay=delay)
        ledger = LedgerService(LedgerHandle(slow, deadline=DEADLINE, clock=clock), accounts=store.ledger.accounts, clock=clock)
        app = Stack(
            Middleware(KeyAuthMiddleware, keys=store.keys),
            Middleware(RateLimitMiddleware, ledger=ledger, limits={"global": ["100 requests/minute"]}, **options),
            Middleware(
                BudgetMiddleware,
                ledger=ledger,
                prices={"echo": Price(input="1", output="1")},
                limits={"global": ["1 usd/day"]},
                clamp_output=True,
                **options,
            ),
        )(MockProvider())
        key = str((await store.keys.create()).key)
        began = clock.monotonic()
        answer = await request(app, "POST /v1/chat/completions", headers=[(b"x-api-key", key.encode())], json=BODY)
        took = clock.monotonic() - began
        await ledger.aclose()
        return answer.status, took

    return simulate(ask, seed=1)


def test_a_ledger_that_answers_slowly_is_waited_for() -> None:
    assert 200 == answered(0.05)[0]


def test_all_questions_of_a_request_share_one_deadline() -> None:
    # Each of three answers would come in time by itself. Beside them, what was reserved is given back.
    status, took = answered(0.2)
    assert 503 == status
    assert took <= 2 * DEADLINE


def test_a_client_that_sends_its_body_slowly_uses_up_its_own_time_only() -> None:
    async def ask(clock: SimulatedClock, chance: random.Random) -> int:
        store = open_store("memory://", clock=clock)
        slow = FaultyLedger(lambda: MemoryLedger(clock=clock), delay=0.05)
        ledger = LedgerService(LedgerHandle(slow, deadline=DEADLINE, clock=clock), accounts=store.ledger.accounts, clock=clock)
        app = Stack(
            Middleware(KeyAuthMiddleware, keys=store.keys),
            Middleware(RateLimitMiddleware, ledger=ledger, limits={"global": ["100 requests/minute"]}),
            Middleware(BudgetMiddleware, ledger=ledger, prices={"echo": Price(input="1", output="1")}, limits={"global": ["1 usd/day"]}),
        )(MockProvider())
        key = str((await store.keys.create()).key)
        headers = [(b"x-api-key", key.encode()), (b"content-type", b"application/json")]
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            await anyio.sleep(20 * DEADLINE)
            return {"type": "http.request", "body": msgspec.json.encode(BODY), "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        await app(http_scope("POST /v1/chat/completions", headers=headers), receive, send)
        await ledger.aclose()
        return statuses[0]

    assert 200 == simulate(ask, seed=1)


def test_a_request_that_is_let_in_without_the_ledger_waits_for_it_no_longer_than_the_deadline() -> None:
    status, took = answered(60.0, on_store_failure="allow")
    assert 200 == status
    assert took <= DEADLINE + 0.001
