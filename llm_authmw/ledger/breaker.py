"""A circuit breaker: a store that failed several times in a row is left alone, and asked now and then whether it is back.

While it is closed every call goes out. Once it is open one call per interval does, the probe; its answer closes it, its
failure lets it wait twice as long. A probe whose caller left says neither: the next one comes an interval later.
"""

import math
from typing import Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, StoreUnavailableError


class Breaker:
    """Let calls to one store through, or not.

    Args:
        failures: Failures in a row that open it.
        interval: Seconds from opening to the first probe; each probe that fails doubles them. A call ends within them.
        max_interval: Seconds that this ends at.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(self, *, failures: int = 3, interval: float = 0.5, max_interval: float = 5.0, clock: Clock = SYSTEM_CLOCK) -> None:
        if failures < 1:
            raise ConfigurationError("failures", "is a number above zero")
        if not 0 < interval <= max_interval < math.inf:
            raise ConfigurationError("interval", "is a number of seconds above zero, and at most max_interval")
        self.open: bool = False
        """Whether only probes go out."""
        self._allowed: Final = failures
        self._first: Final = interval
        self._longest: Final = max_interval
        self._monotonic: Final = clock.monotonic
        self._failures: int = 0
        self._interval: float = interval
        self._next_probe = -math.inf
        # How often it opened or closed: what came of a call from before that says nothing new.
        self._turn: int = 0

    def enter(self) -> int:
        """Begin a call.

        Returns:
            What `succeeded` and `failed` are to be told.

        Raises:
            StoreUnavailableError: the store is left alone now.
        """
        if self.open:
            now = self._monotonic()
            if now < self._next_probe:
                raise StoreUnavailableError("the store failed several times, and is not asked just now")
            self._next_probe = now + self._interval
        return self._turn

    def succeeded(self, turn: int) -> None:
        """Note that the store answered, whatever the answer was."""
        if turn != self._turn:
            return
        self._failures = 0
        if self.open:
            self.open, self._interval = False, self._first
            self._turn += 1

    def failed(self, turn: int) -> None:
        """Note that the store failed."""
        if turn != self._turn:
            return
        self._failures += 1
        if self.open:
            self._interval = min(self._interval * 2, self._longest)
        if self.open or self._failures >= self._allowed:
            self.open = True
            self._next_probe = self._monotonic() + self._interval
            self._failures = 0
            self._turn += 1

    def allow_probe(self) -> None:
        """Let the next call go out, although the time for it has not come."""
        self._next_probe = -math.inf
