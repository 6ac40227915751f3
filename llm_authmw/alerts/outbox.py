"""What one destination is still to be told: in order, again and again until it takes it, and never more than fits."""

from collections import deque
from typing import Final

import anyio

from llm_authmw.alerts.telling import Destination, NotToldError, Telling
from llm_authmw.background import logger
from llm_authmw.ledger.recurring import Recurring, Sleep

WAITS: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds between two attempts; after the last of them an alert is given up."""


class Outbox:
    """The alerts for one destination.

    Args:
        destination: Who is told.
        size: How many may wait; the oldest goes where there are more.
        sleep: Waits between two attempts.

    Attributes:
        told: How many were taken.
        lost: How many were given up, or had to make room.
    """

    def __init__(self, destination: Destination, *, size: int, sleep: Sleep = anyio.sleep) -> None:
        self.told: int = 0
        self.lost: int = 0
        self._destination: Final = destination
        self._size: Final = size
        self._waiting: Final[deque[Telling]] = deque()
        self._attempts = 0
        self._idle: anyio.Event | None = None
        self._worker: Final = Recurring(self._tell_next, sleep=sleep)

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"Outbox({self._destination!r}, waiting={len(self)})"

    def put(self, telling: Telling) -> None:
        """Tell it as soon as possible."""
        if len(self._waiting) >= self._size:
            self._waiting.popleft()
            self._lose(1, "too many alerts are waiting for it")
        self._waiting.append(telling)
        self._worker.wake()

    async def aclose(self, *, patience: float) -> None:
        """Wait for what is under way, at most so many seconds, and give the rest up."""
        with anyio.move_on_after(patience):
            if self._waiting:
                self._idle = anyio.Event()
                self._worker.wake()
                await self._idle.wait()
        await self._worker.aclose()
        if self._waiting:
            self._lose(len(self._waiting), "the process ends")
            self._waiting.clear()
        await self._destination.aclose()

    async def _tell_next(self) -> float | None:
        if not self._waiting:
            if self._idle is not None:
                self._idle.set()
            return None
        telling = self._waiting[0]
        try:
            await self._destination.tell(telling)
        except NotToldError as error:
            return self._not_told(telling, error)
        except Exception as error:  # noqa: BLE001 - a user's function: its text may quote what it was told
            return self._not_told(telling, NotToldError(type(error).__name__))
        self.told += 1
        self._done(telling)
        return 0.0

    def _not_told(self, telling: Telling, error: NotToldError) -> float:
        if error.permanent or self._attempts >= len(WAITS):
            self._lose(1, str(error))
            self._done(telling)
            return 0.0
        pause = WAITS[self._attempts]
        self._attempts += 1
        return pause

    def _done(self, telling: Telling) -> None:
        self._attempts = 0
        # It may have had to make room meanwhile.
        if self._waiting and self._waiting[0] is telling:
            self._waiting.popleft()

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        logger.error("%d alert(s) did not reach %r: %s", count, self._destination, why)
