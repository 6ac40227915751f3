"""What a store was told and has not confirmed: kept in memory, bounded, and said again under the same id until it answers.

Two kinds are in it. A *truth* settles a reservation that was granted; a store that knows nothing of it has lost it. A
*release* undoes a reservation whose answer was lost: it may have been booked, may never be, or may be carried out later,
when a frozen store goes on. Whichever it is, the store's first answer is the end of it: a reservation that it did not know is void.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import anyio
import msgspec

from llm_authmw.background import logger
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import SECOND, Measure
from llm_authmw.ledger.contract import REMEMBERED, Settlement
from llm_authmw.ledger.recurring import Recurring, Sleep

MOST: Final = 10_000
"""Entries that are kept; the oldest go first, about 500 bytes each."""
PAUSE: Final = 0.25
"""Seconds until they are said again; a store that fails is spared by the breaker in front of it."""
CLOSE_DEADLINE: Final = 2.0
"""Seconds that the last round may take when the handle is closed."""
_IDS_A_LINE: Final = 100

Settle: TypeAlias = Callable[[str, Mapping[Measure, int]], Awaitable[Settlement | None]]


class Entry(msgspec.Struct, eq=False):
    """One settlement that is not confirmed.

    Attributes:
        id: The reservation's id.
        actual: What it is settled to.
        granted: Whether the store said that it granted it.
        since: Monotonic seconds at which the entry was made.
    """

    id: str
    actual: dict[Measure, int]
    granted: bool
    since: float


class Journal:
    """The settlements of one ledger that are not confirmed.

    Args:
        settle: Settles a reservation. May raise a StoreError.
        lease: Seconds of a lease.
        most: Entries that are kept.
        clock: Gives the monotonic time.
        sleep: Waits between two rounds.
    """

    def __init__(self, settle: Settle, *, lease: float, most: int = MOST, clock: Clock = SYSTEM_CLOCK, sleep: Sleep = anyio.sleep) -> None:
        self.entries: Final[dict[str, Entry]] = {}
        self.given_up: int = 0
        """Settlements that the store never took: what was estimated stays booked."""
        self.forgotten: int = 0
        """Reservations that the store granted and then knew nothing of."""
        self._settle: Final = settle
        self._lease: Final = lease
        self._most: Final = most
        self._monotonic: Final = clock.monotonic
        self._recurring: Final = Recurring(self._work, sleep=sleep)

    def add(self, reservation_id: str, actual: Mapping[Measure, int], *, granted: bool) -> None:
        """Keep a settlement, and begin to say it."""
        while len(self.entries) >= self._most:
            oldest = next(iter(self.entries))
            self._give_up(oldest, "too many are waiting")
        self.entries[reservation_id] = Entry(reservation_id, dict(actual), granted, since=self._monotonic())
        self._recurring.wake()

    def wake(self) -> None:
        """Go on with what is kept, in the running loop."""
        self._recurring.wake()

    def note_forgotten(self, reservation_id: str) -> None:
        """Note that the store knows nothing of what it granted: it was restarted without its data, or had it for too long."""
        self.forgotten += 1
        logger.warning("the store has forgotten reservation %s: nothing of it is booked", reservation_id)

    async def aclose(self) -> None:
        """Say everything once more, and log what is left. It is kept, and said again when the handle is used again."""
        await self._recurring.aclose()
        with anyio.move_on_after(CLOSE_DEADLINE, shield=True):
            for entry in list(self.entries.values()):
                if not await self._say(entry):
                    break
        left = list(self.entries)
        for start in range(0, len(left), _IDS_A_LINE):
            ids = left[start : start + _IDS_A_LINE]
            logger.warning("%d reservations are not settled, so that their estimates stand: %s", len(ids), " ".join(ids))

    async def _work(self) -> float | None:
        while self.entries:
            for entry in list(self.entries.values()):
                if not await self._say(entry):
                    return PAUSE
        return None

    async def _say(self, entry: Entry) -> bool:
        """Settle one entry; return False where the store did not answer: then it is not asked about others just now either."""
        try:
            settlement = await self._settle(entry.id, entry.actual)
        except StoreError:
            if self._monotonic() - entry.since > self._lease + REMEMBERED // SECOND:
                self._give_up(entry.id, "the store has been away for too long")
            return False
        if self.entries.pop(entry.id, None) is not None and settlement is None and entry.granted:
            self.note_forgotten(entry.id)
        return True

    def _give_up(self, reservation_id: str, why: str) -> None:
        if self.entries.pop(reservation_id, None) is not None:
            self.given_up += 1
            logger.warning("reservation %s is given up unsettled, so that its estimate stands: %s", reservation_id, why)
