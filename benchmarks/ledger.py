"""What it costs to reserve and to settle: four claims, in memory and in a file, beside as many other buckets as the row says.

    python benchmarks/ledger.py                              one caller after the other, interleaved rounds
    python benchmarks/ledger.py --processes 4 --rate 400     several processes on one file, each at so many requests a second

Arrivals of the second do not wait for answers, and a latency counts from when the request was due.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import MAX_CLAIMS, Ledger
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.sqlite import SQLiteBackend

LIMIT: Final = 10**9
MONEY: Final = 10**15
WEEK: Final = 7 * 86_400 * SECOND
ROUNDS: Final = 15
REQUESTS: Final = 200
TTL: Final = 60 * SECOND
FOR_EVER: Final = (Span(0, 2**53),)
BUCKETS_BESIDE: Final = (1, 1_000, 100_000)
TICK: Final = 0.001


def buckets_of(who: str) -> tuple[Bucket, ...]:
    """Return one bucket of each kind."""
    return (
        Bucket(tenant="t", name=f"{who} / requests / week", kind="rolling", measure="requests", limit=LIMIT, burst=LIMIT, period=WEEK),
        Bucket(tenant="t", name=f"{who} / tokens / week", kind="rolling", measure="tokens", limit=LIMIT, burst=LIMIT, period=WEEK),
        Bucket(tenant="t", name=f"{who} / nano_usd / month", kind="window", measure="nano_usd", limit=MONEY, spans=FOR_EVER),
        Bucket(tenant="t", name=f"{who} / concurrent", kind="lease", measure="concurrent", limit=LIMIT),
    )


def claims_on(buckets: tuple[Bucket, ...]) -> tuple[Claim, ...]:
    requests, tokens, money, lease = buckets
    return Claim(requests, 1), Claim(tokens, 4_500), Claim(money, 1_200_000), Claim(lease, 1)


async def fill(ledger: Ledger, count: int) -> None:
    """Let there be so many other buckets, all of them in use."""
    users = itertools.count()
    for first in range(0, count, MAX_CLAIMS * 64):
        lots = range(first, min(count, first + MAX_CLAIMS * 64), MAX_CLAIMS)
        held = [[Claim(it, 1) for _ in range(MAX_CLAIMS // 4) for it in buckets_of(f"user:{next(users)}")] for _ in lots]
        await asyncio.gather(*(ledger.reserve(f"held-{lot}", claims, ttl=3600 * SECOND) for lot, claims in zip(lots, held, strict=True)))


async def microseconds(ledger: Ledger, ids: "itertools.count[int]") -> float:
    """Return what one request takes: its claims, the reservation and the settlement."""
    buckets = buckets_of("user:ada")
    began = time.perf_counter()
    for _ in range(REQUESTS):
        reservation_id = f"rq-{next(ids)}"
        await ledger.reserve(reservation_id, claims_on(buckets), ttl=TTL)
        await ledger.settle(reservation_id, {"tokens": 700, "nano_usd": 180_000})
    return (time.perf_counter() - began) / REQUESTS * 1e6


async def one_after_the_other() -> None:
    with ExitStack() as closing:
        ledgers: dict[str, Ledger] = {}
        backends: list[SQLiteBackend] = []
        for beside in BUCKETS_BESIDE:
            folder = closing.enter_context(tempfile.TemporaryDirectory())
            backend = SQLiteBackend(str(Path(folder) / "ledger.db"))
            backends.append(backend)
            ledgers[f"memory {beside:>10,}"] = MemoryLedger()
            ledgers[f"sqlite {beside:>10,}"] = backend.ledger
            for ledger in (ledgers[f"memory {beside:>10,}"], backend.ledger):
                await fill(ledger, beside)
        ids = itertools.count()
        rounds: dict[str, list[float]] = {name: [] for name in ledgers}
        names = list(ledgers)
        for turn in range(ROUNDS + 1):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                took = await microseconds(ledgers[name], ids)
                if turn:  # the first round warms
                    rounds[name].append(took)
        print("other buckets       µs: median   least   IQR    reserve + settle, four claims, wall time")
        for name, took_each in sorted(rounds.items()):
            low, median, high = statistics.quantiles(took_each, n=4)
            print(f"{name}    {median:8.1f} {min(took_each):8.1f}  {100 * (high - low) / median:3.0f} %")
        for backend in backends:
            await backend.aclose()


async def load(path: str, rate: float, seconds: float) -> dict[str, list[float]]:
    """Send requests at a rate for a while, and return how long each took, and how late the loop was, in milliseconds."""
    backend = SQLiteBackend(path)
    ledger = backend.ledger
    await backend.start()
    took: dict[str, list[float]] = {"reserve": [], "settle": [], "loop": [], "failed": []}
    ids = itertools.count()
    clock = time.perf_counter
    own = f"process {time.monotonic_ns()}"
    every = buckets_of("everybody")
    per_user = [(*every[:2], *buckets_of(f"user:{number}")[2:]) for number in range(100)]

    async def timed(name: str, due: float, call: Callable[[], Awaitable[object]]) -> bool:
        try:
            await call()
        except StoreError:
            took["failed"].append((clock() - due) * 1000)
            return False
        took[name].append((clock() - due) * 1000)
        return True

    async def request(due: float) -> None:
        number = next(ids)
        reservation_id, claims = f"{own} {number}", claims_on(per_user[number % len(per_user)])
        if await timed("reserve", due, lambda: ledger.reserve(reservation_id, claims, ttl=TTL)):
            await asyncio.sleep(0.02)  # the app runs
            await timed("settle", clock(), lambda: ledger.settle(reservation_id, {"tokens": 700, "nano_usd": 180_000}))

    async def tick(until: float) -> None:
        while (began := clock()) < until:
            await asyncio.sleep(TICK)
            took["loop"].append(max(0.0, (clock() - began - TICK) * 1000))

    began = clock()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tick(began + seconds))
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (early := due - clock()) > 0:
                await asyncio.sleep(early)
            tasks.create_task(request(due))
    await backend.aclose()
    return took


def several_processes(count: int, rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ledger.db")
        command = [sys.executable, __file__, "--load", path, "--rate", str(rate), "--seconds", str(seconds)]
        began = time.perf_counter()
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        told = [json.loads(process.communicate()[0]) for process in started]
        print(f"{count} processes, {rate:g} requests/s each, {seconds:g} s; {time.perf_counter() - began:.1f} s with start and end")
        print("ms           count     p50     p90     p99   p99.9     most")
        for name in ("reserve", "settle", "loop"):
            figures = sorted(itertools.chain.from_iterable(each[name] for each in told))
            points = [figures[min(len(figures) - 1, int(len(figures) * part))] for part in (0.5, 0.9, 0.99, 0.999, 1)]
            print(f"{name:8} {len(figures):9,} " + " ".join(f"{point:7.2f}" for point in points))
        print("failed:", sum(len(each["failed"]) for each in told))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--processes", type=int, default=0)
    options.add_argument("--rate", type=float, default=400)
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--load", metavar="PATH", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.load is not None:
        print(json.dumps(asyncio.run(load(chosen.load, chosen.rate, chosen.seconds))))
    elif chosen.processes:
        several_processes(chosen.processes, chosen.rate, chosen.seconds)
    else:
        asyncio.run(one_after_the_other())


if __name__ == "__main__":
    main()
