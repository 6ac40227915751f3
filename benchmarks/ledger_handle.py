"""What the handle adds to a ledger: four claims reserved and settled on the memory ledger, µs of CPU, in interleaved rounds.

    python -m benchmarks.ledger_handle

A ledger that never waits is asked without a timer. The last row is what a deadline costs for one that may.
"""

import asyncio
import itertools
from typing import Final

from benchmarks.ledger import TTL, buckets_of, claims_on
from benchmarks.rounds import Case, difference, pin_to_one_core, run_rounds
from llm_authmw.ledger.buckets import Measure
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger

ROUNDS: Final = 31
CALLS: Final = 500
ACTUAL: Final[dict[Measure, int]] = {"tokens": 700, "nano_usd": 180_000}


def cases() -> dict[str, Case]:
    """Return what is timed."""
    buckets = buckets_of("user:ada")
    ledger, ids = MemoryLedger(), itertools.count()
    without, within = LedgerHandle(MemoryLedger(), deadline=None), LedgerHandle(MemoryLedger(), deadline=0.25)

    async def bare() -> None:
        reservation_id = f"rq-{next(ids)}"
        await ledger.reserve(reservation_id, claims_on(buckets), ttl=TTL)
        await ledger.settle(reservation_id, ACTUAL)

    async def through(handle: LedgerHandle) -> None:
        hold = await handle.reserve(claims_on(buckets))
        if not isinstance(hold, Hold):
            raise TypeError("it was refused: these figures would be of something else")
        await handle.settle(hold, ACTUAL)

    return {
        "the ledger alone": bare,
        "through the handle": lambda: through(without),
        "with a deadline": lambda: through(within),
    }


async def main() -> None:
    pin_to_one_core()
    timings = await run_rounds(cases(), rounds=ROUNDS, calls=CALLS)
    base = timings["the ledger alone"]
    print("                      µs: median   least   IQR    more")
    for timing in timings.values():
        print(f"{timing.name:22} {timing.median:9.1f} {min(timing.rounds):7.1f}  {timing.spread:3.0f} %  {difference(timing, base):6.1f}")


if __name__ == "__main__":
    asyncio.run(main())
