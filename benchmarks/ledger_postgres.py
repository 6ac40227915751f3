"""What it costs to reserve and to settle in PostgreSQL: four claims, beside a bare conditional update, in interleaved rounds.

    python -m benchmarks.ledger_postgres [URL]

Without a URL, a server is started that leaves it to the operating system when to write to the disk: the ratios are then of the
work alone. A database of yours is filled with what this makes. One connection, one call after the other, wall time.
"""

import argparse
import asyncio
import contextlib
import itertools
import statistics
import time
from typing import Final

import asyncpg

from benchmarks.ledger import TTL, buckets_of, claims_on, fill
from benchmarks.rounds import Case
from llm_authmw.ledger.contract import Ledger
from llm_authmw.stores.postgres import PostgresBackend
from tests.peers.postgres import postgres

BUCKETS_BESIDE: Final = (4, 1_000, 100_000)
ROUNDS: Final = 15
CALLS: Final = 100

MAKE_BARE: Final = """
    DROP TABLE IF EXISTS bare;
    CREATE TABLE bare (id text PRIMARY KEY, used bigint NOT NULL, most bigint NOT NULL) WITH (fillfactor = 50);
    INSERT INTO bare SELECT 'bucket ' || number, 0, 9007199254740992 FROM generate_series(1, 100000) AS number;
"""
BARE: Final = "UPDATE bare SET used = used + $2 WHERE id = ANY ($1) AND used + $2 <= most RETURNING used"
FOUR: Final = [f"bucket {number}" for number in (7, 77, 777, 7777)]


def cases_of(connection: "asyncpg.Connection[asyncpg.Record]", ledger: Ledger) -> dict[str, Case]:
    """Return what is timed. Each reservation is settled by the next case."""
    buckets = buckets_of("user:ada")
    mine = time.monotonic_ns()
    reserved, settled = (map("rq-{}-{}".format, itertools.repeat(mine), itertools.count()) for _ in range(2))

    async def nothing() -> None:
        await connection.fetchval("SELECT 1")

    async def one() -> None:
        await connection.fetch(BARE, FOUR[:1], 1)

    async def four() -> None:
        await connection.fetch(BARE, FOUR, 1)

    async def reserve() -> None:
        await ledger.reserve(next(reserved), claims_on(buckets), ttl=TTL)

    async def settle() -> None:
        await ledger.settle(next(settled), {"tokens": 700, "nano_usd": 180_000})

    async def balance() -> None:
        await ledger.balance(buckets)

    return {
        "SELECT 1": nothing,
        "a bare conditional update, one row": one,
        "a bare conditional update, four rows": four,
        "reserve, four claims": reserve,
        "settle": settle,
        "balance of four": balance,
    }


async def rounds_of(cases: dict[str, Case]) -> dict[str, list[float]]:
    """Return µs per call, one figure per round and case. The order stays: what is settled was reserved before."""
    took: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS + 1):
        for name, case in cases.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                await case()
            if turn:  # the first round warms
                took[name].append((time.perf_counter() - began) / CALLS * 1e6)
    return took


async def main(url: str) -> None:
    connection = await asyncpg.connect(url)
    print((await connection.fetchval("SELECT version()")).partition(" on ")[0], end=", ")
    print(", ".join([f"{name} {await connection.fetchval(f'SHOW {name}')}" for name in ("fsync", "synchronous_commit")]))
    await connection.execute(MAKE_BARE)
    await connection.execute("VACUUM ANALYZE bare")
    backend = PostgresBackend(url)
    for beside in BUCKETS_BESIDE:
        await fill(backend.ledger, beside)
        print(f"\nbeside {beside:,} other buckets         µs: median   least   IQR   × one bare update")
        took = await rounds_of(cases_of(connection, backend.ledger))
        base = took["a bare conditional update, one row"]
        for name, each in took.items():
            low, median, high = statistics.quantiles(each, n=4)
            ratio = statistics.median(mine / its for mine, its in zip(each, base, strict=True))
            print(f"{name:38} {median:9.0f} {min(each):7.0f}  {100 * (high - low) / median:3.0f} %   {ratio:5.2f}")
    await backend.aclose()
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", metavar="URL")
    chosen: str | None = parser.parse_args().url
    with contextlib.ExitStack() as started:
        if chosen is None:
            server = started.enter_context(postgres())
            chosen = server.url(server.make_database())
        asyncio.run(main(chosen))
