"""Time as an argument. Everything that asks what time it is takes a `Clock`, so that tests never wait."""

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Two readings, which must not be mixed: dates come from `now`, durations from `monotonic`."""

    def now(self) -> float:
        """Return seconds since 1970-01-01 UTC; may jump when an operator sets the clock."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self.now: Final = time.time
        self.monotonic: Final = time.monotonic

    def __repr__(self) -> str:
        return "SystemClock()"


SYSTEM_CLOCK = SystemClock()
