"""A clock that stands still until it is moved."""

import anyio


class ManualClock:
    """A `Clock` for tests: both readings move only when `advance` or `set` says so.

    Args:
        now: Seconds since 1970 at the start.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1_000.0
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._monotonic += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._monotonic]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._monotonic]
        for _, awakened in due:
            awakened.set()

    async def sleep(self, seconds: float) -> None:
        """Wait until so much time has passed."""
        awakened = anyio.Event()
        sleeper = self._monotonic + seconds, awakened
        self._sleepers.append(sleeper)
        try:
            await awakened.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def set(self, now: float) -> None:
        """Set the date, as an operator would; no time passes."""
        self._now = now
