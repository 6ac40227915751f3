"""An hour of requests through a store that fails in every way, in virtual time, by seed: in the end the books hold what was used."""

import random
from typing import Final

import anyio
import pytest

from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, SimulatedClock, simulate
from llm_authmw.testing.faults import Fault

MONEY = Bucket(tenant="t", name="team:blue / nano_usd", kind="lifetime", measure="nano_usd", limit=10**6)
SLOTS = Bucket(tenant="t", name="team:blue / concurrent", kind="lease", measure="concurrent", limit=20)
CLAIMS: Final = (Claim(MONEY, 100), Claim(SLOTS, 1))
FAULTS: Final[tuple[Fault, ...]] = ("down", "answer lost", "silent", "frozen")
REQUESTS: Final = 300


class World:
    """One handle, the store behind it, and what its requests used."""

    def __init__(self, clock: SimulatedClock, chance: random.Random) -> None:
        self.ledger = FaultyLedger(lambda: MemoryLedger(clock=clock))
        self.handle = LedgerHandle(self.ledger, clock=clock)
        self.chance = chance
        self.spent = 0
        self.refused = 0

    async def request(self) -> None:
        await anyio.sleep(self.chance.uniform(0, 3_000))
        with anyio.move_on_after(self.chance.choice([0.01, 0.1, 600])):  # some clients leave
            try:
                hold = await self.handle.reserve(CLAIMS)
            except StoreError:
                self.refused += 1
                return
            if not isinstance(hold, Hold):
                return
            used = self.chance.randint(0, 200)
            try:
                await anyio.sleep(self.chance.choice([0, 0.05, 5, 120]))
            finally:
                self.spent += used
                await self.handle.settle(hold, {"nano_usd": used})

    async def trouble(self) -> None:
        for _ in range(60):
            await anyio.sleep(self.chance.uniform(0, 50))
            self.ledger.fail(self.chance.choice(FAULTS))
            await anyio.sleep(self.chance.choice([0.1, 1, 10]))
            await self.ledger.thaw()


async def an_hour(clock: SimulatedClock, chance: random.Random) -> None:
    world = World(clock, chance)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.trouble)
        for _ in range(REQUESTS):
            tasks.start_soon(world.request)
    await anyio.sleep(60)
    money, slots = await world.ledger.balance([MONEY, SLOTS])
    assert (world.spent, 0) == (money.used, slots.used)
    assert (0, 0) == (world.handle.unsettled, world.handle.held)
    assert (0, 0, 0) == (world.handle.given_up, world.handle.forgotten, world.handle.lapsed)
    assert 0 < world.refused < REQUESTS / 2
    assert {"reserve", "settle", "extend", "balance"} == set(world.ledger.calls)
    await world.handle.aclose()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_store_does_the_books_hold_what_was_used_and_nothing_stays_held(seed: int) -> None:
    simulate(an_hour, seed=seed)
