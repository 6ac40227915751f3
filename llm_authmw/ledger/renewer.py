"""Keeps the leases of reservations alive while their requests run, all of one ledger together."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias
from weakref import ref

import anyio

from llm_authmw.background import logger
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import StoreError
from llm_authmw.ledger.hold import Hold
from llm_authmw.ledger.recurring import Recurring, Sleep

BATCH: Final = 500
"""Reservations that the store is asked to extend at once."""

Extend: TypeAlias = Callable[[Collection[str]], Awaitable[frozenset[str]]]


class Renewer:
    """Extend what is held, every third of its lease.

    Args:
        extend: Extends reservations, and returns the ids of those that are held. May raise a StoreError.
        lease: Seconds of a lease.
        clock: Gives the monotonic time.
        sleep: Waits between two rounds.
    """

    def __init__(self, extend: Extend, *, lease: float, clock: Clock = SYSTEM_CLOCK, sleep: Sleep = anyio.sleep) -> None:
        self.lapsed: int = 0
        """Leases that ended although they were held: this process, or the store, had stood still for too long."""
        self._extend: Final = extend
        self._pause: Final = lease / 3
        self._monotonic: Final = clock.monotonic
        # Weakly: a request that was thrown away without another word must not have its slot for ever.
        self._held: Final[dict[str, ref[Hold]]] = {}
        self._due = 0.0
        self._recurring: Final = Recurring(self._work, sleep=sleep)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, hold: Hold) -> None:
        """Keep a reservation alive from now on."""
        if not self._held:
            self._due = self._monotonic() + self._pause
        self._held[hold.id] = ref(hold)
        self._recurring.wake()

    def drop(self, reservation_id: str) -> None:
        """Let a reservation be."""
        self._held.pop(reservation_id, None)

    async def aclose(self) -> None:
        """End the work in this loop; what is held is kept alive again once another one is added."""
        await self._recurring.aclose()

    async def _work(self) -> float | None:
        for reservation_id, held in list(self._held.items()):
            if held() is None:
                self.drop(reservation_id)
        if not self._held:
            return None
        now = self._monotonic()
        if now >= self._due:
            # Set before anything waits: one loop's task is enough for all of them.
            self._due = now + self._pause
            try:
                await self._renew()
            except StoreError:
                # Several more tries before the first lease ends.
                self._due = now + self._pause / 4
        return max(self._due - self._monotonic(), self._pause / 100)

    async def _renew(self) -> None:
        ids = list(self._held)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            living = await self._extend(batch)
            # One that was settled meanwhile is not held any more, here or there.
            lapsed = [name for name in batch if name not in living and self._held.pop(name, None) is not None]
            if lapsed:
                self.lapsed += len(lapsed)
                logger.warning("the leases of %d reservations have ended while their requests run: %s", len(lapsed), " ".join(lapsed))
