"""When a place that has failed is tried again."""

from typing import Final

from llm_authmw.background import logger
from llm_authmw.clock import Clock
from llm_authmw.errors import SinkError

FIRST_PAUSE: Final = 0.1
"""Seconds until the first try after a failure; each pause is twice the one before."""
MAX_PAUSE: Final = 2.0
"""Seconds of the longest pause."""


class Retries:
    """What is known of a place's failures.

    Args:
        name: The place, for the log.
        clock: Tells the monotonic time.

    Attributes:
        problem: Why it does not take anything now; None where it does, as far as is known.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.problem: str | None = None
        self._name: Final = name
        self._monotonic: Final = clock.monotonic
        self._pause: float = FIRST_PAUSE
        self._at: float | None = None

    @property
    def due(self) -> bool:
        """Whether it may be tried."""
        return self._at is None or self._monotonic() >= self._at

    def failed(self, error: Exception) -> str:
        """Note a failure; return what it was, without anything that was to be written."""
        # The text of an error that is not ours may quote what was written.
        problem = str(error) if isinstance(error, SinkError) else type(error).__name__
        if self._at is None:
            # Once, however often it is tried.
            logger.warning("%s takes no records: %s", self._name, problem)
        else:
            self._pause = min(2 * self._pause, MAX_PAUSE)
        self.problem, self._at = problem, self._monotonic() + self._pause
        return problem

    def late(self) -> None:
        """Note that somebody has waited in vain, so that nobody else does until it has answered."""
        if self.problem is None:
            self.problem = "has not answered in time"

    def succeeded(self) -> None:
        """Note that it has taken something."""
        if self.problem is None:
            return
        if self._at is not None:
            logger.warning("%s takes records again", self._name)
        self.problem, self._at, self._pause = None, None, FIRST_PAUSE
