"""The records that are lost: counted exactly, and told to everybody who should know."""

import threading
from typing import Final

from llm_authmw.background import logger
from llm_authmw.clock import Clock
from llm_authmw.telemetry import Alert, emit

INTERVAL: Final = 60.0
"""Seconds within which the log and the alerts are told once."""


class Losses:
    """What one sink has lost.

    Args:
        name: The sink's name.
        clock: Tells the monotonic time.

    Attributes:
        name: The sink's name.
        total: How many records were lost.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.total: int = 0
        self.name: Final[str] = name
        self._monotonic: Final = clock.monotonic
        self._lock = threading.Lock()
        self._recorded: int = 0
        self._told: int = 0
        self._tell_at: float | None = None

    @property
    def unrecorded(self) -> int:
        """How many of them no record tells of yet."""
        return self.total - self._recorded

    def count(self, number: int, why: str) -> None:
        """Count lost records, and tell of them unless that was done a short while ago."""
        with self._lock:
            self.total += number
        self.tell(why)

    def tell(self, why: str, *, at_last: bool = False) -> None:
        """Tell the log and the alerts of what they do not know yet, once per interval.

        Args:
            why: What the reason is.
            at_last: Whether there is no time later on to tell it.
        """
        with self._lock:
            now = self._monotonic()
            news = self.total - self._told
            if not news or (self._tell_at is not None and now < self._tell_at and not at_last):
                return
            self._told, self._tell_at = self.total, now + INTERVAL
        logger.error("%d records of what happened are lost, %d in all: %s: %s", news, self.total, self.name, why)
        emit(
            Alert(
                kind="audit_loss",
                tenant="*",
                subject=self.name,
                message=f"{news} records of what happened are lost: {why}",
                details={"lost": news, "lost_in_all": self.total},
                occasion=str(self.total),
            )
        )

    def recorded(self, number: int) -> None:
        """Note that a record tells of so many."""
        self._recorded += number

    def forked(self) -> None:
        """Begin anew: what was lost before is the parent's."""
        self._lock = threading.Lock()
        self.total = self._recorded = self._told = 0
        self._tell_at = None
