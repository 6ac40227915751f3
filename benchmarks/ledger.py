"""What it costs to reserve and to settle on the memory ledger: four claims, beside as many other buckets as the row says."""

import asyncio
import itertools
import time
from statistics import median
from typing import Final

from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import Ledger
from llm_authmw.stores.memory.ledger import MemoryLedger

LIMIT: Final = 10**9
MONEY: Final = 10**15
WEEK: Final = 7 * 86_400 * SECOND
ROUNDS: Final = 9
REQUESTS: Final = 2_000
TTL: Final = 60 * SECOND
FOR_EVER: Final = (Span(0, 2**53),)
BUCKETS_BESIDE: Final = (1, 1_000, 100_000)


def buckets_of(who: str) -> tuple[Bucket, ...]:
    """Return one bucket of each kind."""
    return (
        Bucket(tenant="t", name=f"{who} / requests / week", kind="rolling", measure="requests", limit=LIMIT, burst=LIMIT, period=WEEK),
        Bucket(tenant="t", name=f"{who} / tokens / week", kind="rolling", measure="tokens", limit=LIMIT, burst=LIMIT, period=WEEK),
        Bucket(tenant="t", name=f"{who} / nano_usd / month", kind="window", measure="nano_usd", limit=MONEY, spans=FOR_EVER),
        Bucket(tenant="t", name=f"{who} / concurrent", kind="lease", measure="concurrent", limit=LIMIT),
    )


async def microseconds(ledger: Ledger, ids: "itertools.count[int]") -> float:
    """Return what one request costs: its claims, the reservation and the settlement."""
    buckets = buckets_of("user:ada")
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(REQUESTS):
            reservation_id = f"rq-{next(ids)}"
            requests, tokens, money, lease = buckets
            claims = (Claim(requests, 1), Claim(tokens, 4_500), Claim(money, 1_200_000), Claim(lease, 1))
            await ledger.reserve(reservation_id, claims, ttl=TTL)
            await ledger.settle(reservation_id, {"tokens": 700, "nano_usd": 180_000})
        rounds.append((time.perf_counter() - began) / REQUESTS * 1e6)
    return median(rounds)


async def main() -> None:
    print(f"{'other buckets':>14}  µs, reserve + settle, four claims")
    for beside in BUCKETS_BESIDE:
        ledger, ids = MemoryLedger(), itertools.count()
        for number in range(beside // 4):
            claims = [Claim(bucket, 1) for bucket in buckets_of(f"user:{number}")]
            await ledger.reserve(f"held-{number}", claims, ttl=3600 * SECOND)
        print(f"{beside:>14,}  {await microseconds(ledger, ids):.1f}")


if __name__ == "__main__":
    asyncio.run(main())
