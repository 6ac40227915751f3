"""A store in memory, for tests and for one process whose keys need not outlive it."""

import threading
from typing import Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.stores.memory.accounts import MemoryAccounts
from llm_authmw.stores.memory.audit import MemoryAudit
from llm_authmw.stores.memory.feed import MemoryFeed
from llm_authmw.stores.memory.keys import MemoryKeys
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.memory.revocations import MemoryRevocations

__all__ = ["MemoryBackend"]


class MemoryBackend:
    """Keys, accounts, revocations, counters and the newest of the audit trail in dictionaries. They live as long as this object does.

    Args:
        clock: Gives the time that is counted by, and that idempotency keys and revocations are forgotten by.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        # A process may run several event loops, each in a thread of its own. Nothing waits while it holds the lock.
        lock = threading.Lock()
        self.feed: Final = MemoryFeed(lock)
        self.keys: Final = MemoryKeys(lock, self.feed, clock)
        self.accounts: Final = MemoryAccounts(lock, self.feed)
        self.revocations: Final = MemoryRevocations(lock, self.feed, clock)
        self.ledger: Final = MemoryLedger(clock=clock)
        self.audit: Final = MemoryAudit()

    def __repr__(self) -> str:
        return "MemoryBackend()"

    async def start(self) -> None:
        """There is nothing to open."""

    async def aclose(self) -> None:
        """There is nothing to close: what was kept is there on the next use."""
