"""One run: a guard's workers, the load, what goes wrong meanwhile, and what is found when it is over."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.overshoot.asks import Ask, asks
from benchmarks.overshoot.books import Books
from benchmarks.overshoot.fleet import Worker, workers
from benchmarks.overshoot.guards import Guard
from benchmarks.overshoot.load import Attempt, Load, Trouble
from benchmarks.overshoot.notes import read
from benchmarks.overshoot.spans import Refusal, Span, false_refusals
from benchmarks.overshoot.upstream import Truth, truths

SERVICE_UNAVAILABLE: Final = 503
KILL: Final = "a worker killed"
RESTART: Final = "the store restarted"
SETTLING: Final = 500_000_000
"""Nanoseconds for which a request counts as in flight after its end, so that a guard may settle it."""


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        limit: The budget in nano-dollars.
        workers: Processes.
        streams: Clients.
        seconds: How long they ask at most.
        kills: The shares of the budget at which a worker is killed.
        restarts: Those at which the store is.
        seed: The seed of what is asked for.
        asks: What is asked for, by the seed and the number of a client.
    """

    limit: int
    workers: int = 4
    streams: int = 128
    seconds: float = 75.0
    kills: tuple[float, ...] = (0.15, 0.45, 0.75)
    restarts: tuple[float, ...] = (0.3, 0.6)
    seed: int = 1
    asks: Callable[[int, int], Iterator[Ask]] = asks


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        name: The guard.
        limit: The budget in nano-dollars.
        spent: The truth: what the upstream did, in nano-dollars.
        books: What the guard has in its books.
        beyond: What the guard charged beyond the truth, by how the requests ended: "killed", "no usage", "broken off", "answered".
        less: The asks for which it charged less than they cost.
        ends: How many requests ended how.
        unavailable: How many of those that failed did so with 503.
        false_refusals: Requests that were refused though by the truth there was room.
        used_up: Whether the guard refused at last, with nothing in flight.
        kills: Workers that were killed meanwhile.
        restarts: How often the store was restarted.
        seconds: How long the clients asked.
    """

    name: str
    limit: int
    spent: int
    books: Books
    beyond: dict[str, int]
    less: tuple[str, ...]
    ends: dict[str, int]
    unavailable: int
    false_refusals: int
    used_up: bool
    kills: int
    restarts: int
    seconds: float


def run(guard: Guard, folder: Path, size: Size) -> Found:
    """Run the load against a guard.

    Args:
        guard: The guard.
        folder: Where everything was noted.
        size: How much is done.
    """
    with workers(guard.program, size.workers) as started:
        return asyncio.run(_run(guard, folder, size, started))


async def _run(guard: Guard, folder: Path, size: Size, started: list[Worker]) -> Found:
    load = Load(started, key=guard.key, limit=size.limit, asks=functools.partial(size.asks, size.seed))
    began = time.monotonic()
    await load.run(size.streams, seconds=size.seconds, troubles=_troubles(guard, size, started))
    seconds = time.monotonic() - began
    await guard.quiet()
    used_up = await load.use_up()
    await guard.quiet()
    truth = truths(read(folder, "truth"))
    books = await guard.books()
    excess = _excess(books, truth)
    return Found(
        name=guard.name,
        limit=size.limit,
        spent=sum(one.nano for one in truth.values()),
        books=books,
        beyond=_beyond(load.attempts, books, excess),
        less=tuple(ask for ask, nano in excess.items() if nano < 0),
        ends=dict(Counter(attempt.reply.end for attempt in load.attempts)),
        unavailable=sum(attempt.reply.status == SERVICE_UNAVAILABLE for attempt in load.attempts),
        false_refusals=_false(load.attempts, truth, size.limit),
        used_up=used_up,
        kills=load.caused.count(KILL),
        restarts=load.caused.count(RESTART),
        seconds=seconds,
    )


def _troubles(guard: Guard, size: Size, started: list[Worker]) -> list[Trouble]:
    kills = [Trouble(at, KILL, started[number % len(started)].kill) for number, at in enumerate(size.kills)]
    if guard.restart is None:
        return kills
    restart = functools.partial(asyncio.to_thread, guard.restart)
    return [*kills, *(Trouble(at, RESTART, restart) for at in size.restarts)]


def _excess(books: Books, truth: dict[str, Truth]) -> dict[str, int]:
    """Return what each ask was charged beyond what it cost; less than nothing where it was charged less."""
    if books.charges is None:
        return {}
    nothing = Truth()
    return {ask: books.charges.get(ask, 0) - truth.get(ask, nothing).nano for ask in {*books.charges, *truth}}


def _beyond(attempts: list[Attempt], books: Books, excess: dict[str, int]) -> dict[str, int]:
    beyond: Counter[str] = Counter()
    for attempt in attempts:
        if attempt.ask.id in books.killed:
            kind = "killed"
        elif attempt.reply.end != "served":
            kind = "broken off"
        else:
            kind = "no usage" if attempt.ask.fault == "silent" else "answered"
        beyond[kind] += excess.get(attempt.ask.id, 0)
    return dict(beyond)


def _false(attempts: list[Attempt], truth: dict[str, Truth], limit: int) -> int:
    """Return how many requests were refused for which there was room by the truth."""
    spans = [
        Span(attempt.sent, max(attempt.ended, done.until) + SETTLING, attempt.ask.most, done.nano)
        for attempt in attempts
        if (done := truth.get(attempt.ask.id)) is not None
    ]
    refusals = [Refusal(attempt.sent, attempt.ended, attempt.ask.most) for attempt in attempts if attempt.reply.end == "refused"]
    return false_refusals(spans, refusals, limit)
