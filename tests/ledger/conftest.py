from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, ManualClock

DEADLINE = 0.02


class Counted:
    """A handle on a ledger that fails when it is told to, and what stands in that ledger."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger = FaultyLedger(lambda: MemoryLedger(clock=self.clock))
        self.handle = LedgerHandle(self.ledger, deadline=DEADLINE, clock=self.clock, sleep=self.clock.sleep)
        self.requests = Bucket(tenant="t", name="team:blue / requests", kind="lifetime", measure="requests", limit=1_000)
        self.money = Bucket(tenant="t", name="team:blue / nano_usd", kind="lifetime", measure="nano_usd", limit=1_000)
        self.slots = Bucket(tenant="t", name="team:blue / concurrent", kind="lease", measure="concurrent", limit=4)

    def claims(self, money: int = 100) -> tuple[Claim, ...]:
        return Claim(self.requests, 1), Claim(self.money, money), Claim(self.slots, 1)

    async def used(self) -> tuple[int, ...]:
        """Return what is used of requests, money and slots, asking the ledger past its faults."""
        balances = await self.ledger._inner.balance([self.requests, self.money, self.slots])
        return tuple(balance.used for balance in balances)

    async def later(self, seconds: float) -> None:
        """Let time pass in steps, and everything in the background happen in it."""
        for _ in range(round(seconds / 0.25)):
            await anyio.wait_all_tasks_blocked()
            self.clock.advance(0.25)
        await anyio.wait_all_tasks_blocked()


@pytest.fixture
async def counted(anyio_backend: Any) -> AsyncIterator[Counted]:
    made = Counted()
    yield made
    made.ledger.heal()
    await made.handle.aclose()
