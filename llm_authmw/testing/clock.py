"""A clock that stands still until it is moved."""


class ManualClock:
    """A `Clock` for tests: both readings move only when `advance` or `set` says so.

    Args:
        now: Seconds since 1970 at the start.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1_000.0

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

    def set(self, now: float) -> None:
        """Set the date, as an operator would; no time passes."""
        self._now = now
