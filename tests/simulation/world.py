"""A small world of workers, callers and faults, for `simulate`: what happens in it, and what really was used."""

import contextlib
import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
from starlette.middleware import Middleware

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, open_store
from llm_authmw.context import RequestContext
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, SimulatedClock
from llm_authmw.testing.faults import Fault

INPUT_PRICE: Final = 1_000
OUTPUT_PRICE: Final = 10_000
"""Nano-dollars of a token."""
PRICES: Final = {"echo": Price(input="1", output="10")}
MOST_TOKENS: Final = 40
"""The ceiling of every request, which nothing in this world exceeds."""
RATES: Final = {"team": ["200 requests/minute", "50000 tokens/minute"], "key": ["25 concurrent"]}
BODY: Final = b'{"model": "echo", "max_tokens": %d, "stream": true, "messages": [{"role": "user", "content": "hello"}]}' % MOST_TOKENS
HIGHEST_COST: Final = len(BODY) * INPUT_PRICE + MOST_TOKENS * OUTPUT_PRICE
"""Nano-dollars that are reserved for a request: a byte of it is a token at most."""
LEASE: Final = 30.0
DEADLINE: Final = 0.25
TEAMS: Final = ("blue", "red")
FAULTS: Final[tuple[Fault, ...]] = ("down", "answer lost", "silent", "frozen")


class Execution(msgspec.Struct, eq=False):
    """One request that a worker took, and what the app knows that it used.

    Attributes:
        team: Whose it was.
        status: What the caller was answered; None where nothing was.
        context: What the layers know of it.
        input: Tokens that the upstream took in; 0 where it never ran.
        output: Tokens that it has made.
        told: Whether the caller's side of the layers has been shown all of that.
        killed: Whether its worker was killed meanwhile.
    """

    team: str
    status: int | None = None
    reason: str | None = None
    context: RequestContext | None = None
    input: int = 0
    output: int = 0
    told: bool = False
    killed: bool = False

    @property
    def cost(self) -> int:
        """What the upstream will send a bill for, in nano-dollars."""
        return self.input * INPUT_PRICE + self.output * OUTPUT_PRICE

    @property
    def charged(self) -> int | None:
        """What the layers say that it cost."""
        return None if self.context is None or self.context.charge is None else self.context.charge.amount


class Upstream:
    """The app behind the layers: streams an answer, or fails in one of the ways in which upstreams do."""

    def __init__(self, chance: random.Random) -> None:
        self._chance: Final = chance

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        execution: Execution = scope["state"]["execution"]
        fate = self._chance.choices(["answers", "keeps quiet", "refuses", "breaks", "says so"], [12, 2, 1, 1, 1])[0]
        body = json.loads((await receive())["body"])
        ceiling = body["max_tokens"]
        if fate == "refuses":
            await self._answer(send, self._chance.choice([400, 429, 503]), b'{"error": {"message": "not now"}}')
            return
        execution.input = self._chance.randint(1, 20)
        await anyio.sleep(self._chance.uniform(0.1, 3))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        last = self._chance.randint(1, ceiling)
        for number in range(1, last + 1):
            execution.output = number
            await self._event(send, {"choices": [{"index": 0, "delta": {"content": "word "}}]})
            if number == last // 2 and fate == "breaks":
                raise ConnectionResetError("the upstream has gone")
            if number == last // 2 and fate == "says so":
                await self._event(send, {"error": {"message": "overloaded"}})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            # Now and then one is slow, for longer than a lease.
            await anyio.sleep(self._chance.choice([0.01, 0.05, 0.3]) if self._chance.random() > 0.003 else 2 * LEASE)
        if fate == "answers":
            used = {"prompt_tokens": execution.input, "completion_tokens": last, "total_tokens": execution.input + last}
            execution.told = True
            await self._event(send, {"choices": [], "model": "echo", "usage": used})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _event(self, send: Any, fields: dict[str, Any]) -> None:
        data = json.dumps({"id": "1", "object": "chat.completion.chunk", **fields})
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

    async def _answer(self, send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class Worker:
    """A process with its own handle on the one store, which may lose sight of it, or be killed."""

    def __init__(self, world: "World") -> None:
        self.faults: Final = FaultyLedger(lambda: world.ledger)
        self.handle: Final = LedgerHandle(self.faults, deadline=DEADLINE, lease=LEASE, clock=world.clock)
        self.alive: bool = True
        self._running: Final[dict[Execution, anyio.CancelScope]] = {}
        ledger = LedgerService(self.handle, accounts=world.store.ledger.accounts, clock=world.clock)
        self._world: Final = world
        self._app: Final = Stack(
            Middleware(KeyAuthMiddleware, keys=world.store.keys),
            Middleware(
                RateLimitMiddleware,
                ledger=ledger,
                limits={"team": ["200 requests/minute", "50000 tokens/minute"], "key": ["25 concurrent"]},
            ),
            Middleware(BudgetMiddleware, ledger=ledger, prices=PRICES, limits={"team": [world.budget], "global": ["1000 usd/day"]}),
        )(Upstream(world.chance))

    async def serve(self, team: str, *, leaves_after: float) -> Execution:
        """Serve one request, and return how it went."""
        execution = Execution(team)
        self._world.executions.append(execution)
        with anyio.CancelScope() as self._running[execution]:
            await self._call(execution, leaves_after)
        del self._running[execution]
        return execution

    async def _call(self, execution: Execution, leaves_after: float) -> None:
        key = self._world.keys[execution.team]
        headers = [(b"authorization", b"Bearer " + key.encode()), (b"content-type", b"application/json")]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": headers,
            "client": ("10.0.0.1", 1),
            "state": {"execution": execution},
        }
        execution.context = RequestContext.of(scope)
        left = self._world.clock.monotonic() + leaves_after
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": BODY, "more_body": False}
            await anyio.sleep(max(0.0, left - self._world.clock.monotonic()))
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await anyio.lowlevel.checkpoint()
            if self._world.clock.monotonic() >= left:
                raise OSError("the client has gone")
            if message["type"] == "http.response.start":
                execution.status = message["status"]
                execution.reason = dict(message["headers"]).get(b"x-authmw-reason", b"").decode() or None

        with contextlib.suppress(OSError):  # a server logs it
            await self._app(scope, receive, send)

    def kill(self) -> None:
        """End it in the middle of whatever it does: nothing of it reaches the store any more."""
        self.alive = False
        self.faults.fail("down")
        for execution, scope in self._running.items():
            execution.killed = True
            scope.cancel()


class World:
    """The store, the workers, and all that was ever executed."""

    def __init__(self, clock: SimulatedClock, chance: random.Random, *, budget: str) -> None:
        self.clock: Final = clock
        self.chance: Final = chance
        self.budget: Final = budget
        self.store: Final = open_store("memory://", clock=clock)
        self.ledger: Final = MemoryLedger(clock=clock)
        self.keys: Final[dict[str, str]] = {}
        self.workers: Final[list[Worker]] = []
        self.executions: Final[list[Execution]] = []

    @asynccontextmanager
    async def running(self, *, workers: int = 3) -> AsyncGenerator[None]:
        """Start the workers; they end with the block."""
        for team in TEAMS:
            self.keys[team] = str((await self.store.keys.create(team=team)).key)
        self.workers.extend(Worker(self) for _ in range(workers))
        yield
        for worker in self.workers:
            await worker.handle.aclose()

    def any_worker(self) -> Worker:
        """Return one, as a load balancer does."""
        return self.chance.choice(self.workers)

    async def kill_one(self) -> None:
        """Kill a worker, and start another one in its place."""
        place = self.chance.randrange(len(self.workers))
        killed = self.workers[place]
        killed.kill()
        self.workers[place] = Worker(self)
        await killed.handle.aclose()

    async def trouble_one(self) -> None:
        """Let a worker lose sight of the store for a while."""
        worker = self.any_worker()
        worker.faults.fail(self.chance.choice(FAULTS))
        await anyio.sleep(self.chance.uniform(0.05, 15))
        if worker.alive:
            await worker.faults.thaw()
