"""The load: clients that ask one thing after the other, try again what failed, and give up once the budget is used up."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from benchmarks.overshoot.asks import Ask, cost, input_tokens, largest
from benchmarks.overshoot.client import Reply, send
from benchmarks.overshoot.fleet import Worker

TRIES: Final = 4
"""Times that a client asks for one thing."""
GIVES_UP: Final = 8
"""Refusals in a row after which a client asks for nothing more."""
PAUSE: Final = 0.2
"""Seconds before the second try; each further one waits longer by as much."""
MOST_AFTERWARDS: Final = 600
"""Asks at most with which the rest of the budget is used up, and seconds for them."""
SECONDS_AFTERWARDS: Final = 40.0


class Trouble(NamedTuple):
    """What goes wrong with the guard itself.

    Attributes:
        at: The share of the budget that has been served by then.
        name: What it is.
        cause: Does it.
    """

    at: float
    name: str
    cause: Callable[[], Awaitable[object]]


class Attempt(NamedTuple):
    """One request that was sent.

    Attributes:
        ask: What it asked for.
        sent: Monotonic nanoseconds before it was sent.
        ended: Monotonic nanoseconds after its end was known.
        reply: How it ended.
    """

    ask: Ask
    sent: int
    ended: int
    reply: Reply


class Load:
    """Clients in front of a guard's workers.

    Args:
        workers: The workers.
        key: The clients' key.
        limit: The budget in nano-dollars.
        asks: What each client asks for, by its number.

    Attributes:
        attempts: What was sent, in the order in which it ended.
        caused: The troubles that came.
    """

    def __init__(self, workers: Sequence[Worker], *, key: str, limit: int, asks: Callable[[int], Iterator[Ask]]) -> None:
        self.attempts: list[Attempt] = []
        self.caused: list[str] = []
        self._workers: Final = workers
        self._turns: Final = itertools.cycle(workers)
        self._key: Final = key
        self._limit: Final = limit
        self._asks: Final = asks
        self._served = 0
        self._more = asyncio.Event()

    async def run(self, streams: int, *, seconds: float, troubles: Sequence[Trouble]) -> None:
        """Let clients ask until the budget is used up, or the time.

        Args:
            streams: How many clients.
            seconds: How long at most.
            troubles: What goes wrong meanwhile.
        """
        end = time.monotonic() + seconds
        causing = asyncio.create_task(self._cause(troubles))
        await asyncio.gather(*(self._client(number, end) for number in range(streams)))
        # What is under way is finished: a worker that was killed is back before the rest is looked at.
        if not self._all_there:
            await causing
        causing.cancel()
        await asyncio.gather(causing, return_exceptions=True)

    async def use_up(self) -> bool:
        """Ask for one thing after the other until that is refused; return whether it was."""
        end = time.monotonic() + SECONDS_AFTERWARDS
        for number in range(MOST_AFTERWARDS):
            reply = await self._send(replace(largest(), id=f"rest.{number}"))
            if reply.end == "refused":
                return True
            if time.monotonic() > end:
                break
            if reply.end == "failed":
                await asyncio.sleep(PAUSE)
        return False

    @property
    def _all_there(self) -> bool:
        return all(worker.port is not None for worker in self._workers)

    async def _client(self, number: int, end: float) -> None:
        refused = 0
        for ask in self._asks(number):
            for tried in range(TRIES):
                if time.monotonic() > end:
                    return
                # What is asked for again comes to its end, as it does with most providers.
                again = replace(ask, fault="none", leaves_after=None) if tried else ask
                reply = await self._send(replace(again, id=f"{ask.id}.{tried}"))
                if reply.end in {"served", "left"}:
                    refused = 0
                    break
                refused = refused + 1 if reply.end == "refused" else 0
                if refused >= GIVES_UP:
                    return
                await asyncio.sleep(PAUSE * (tried + 1))

    async def _send(self, ask: Ask) -> Reply:
        port = next((worker.port for worker in itertools.islice(self._turns, len(self._workers)) if worker.port is not None), None)
        sent = time.monotonic_ns()
        reply = Reply("failed") if port is None else await send(port, ask, self._key)
        self.attempts.append(Attempt(ask, sent, time.monotonic_ns(), reply))
        if reply.end == "served":
            self._served += cost(input_tokens(ask.content), ask.output)
            self._more.set()
        return reply

    async def _cause(self, troubles: Sequence[Trouble]) -> None:
        for trouble in sorted(troubles, key=lambda trouble: trouble.at):
            while self._served < trouble.at * self._limit:
                self._more.clear()
                await self._more.wait()
            self.caused.append(trouble.name)
            await trouble.cause()
