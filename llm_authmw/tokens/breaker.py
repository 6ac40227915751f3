"""A circuit breaker: a provider that is down is left alone for a while, and then asked once whether it is back.

Closed: every call goes out. After some failures in a row it opens: for an interval no call goes out. Then it is half-open: one call
goes out as a probe, which closes it, or opens it again for twice as long.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias, TypeVar

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, IssuerUnavailableError

V = TypeVar("V")

State: TypeAlias = Literal["closed", "open", "half-open"]


class QuestionRefusedError(IssuerUnavailableError):
    """The provider is well, and would not answer this one question. That says nothing about the next one."""


class Breaker:
    """Let calls to one provider through, or not.

    What counts is whether the provider answered. A call that was cancelled counts as neither.

    Args:
        failures: Failures in a row that open it.
        interval: Seconds for which it opens at first; each probe that fails doubles them.
        max_interval: Seconds that this ends at.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(self, *, failures: int = 5, interval: float = 1.0, max_interval: float = 30.0, clock: Clock = SYSTEM_CLOCK) -> None:
        if failures < 1:
            raise ConfigurationError("failures", "is a number above zero")
        if not 0 < interval <= max_interval < math.inf:
            raise ConfigurationError("interval", "is a number of seconds above zero, and at most max_interval")
        self._allowed: Final = failures
        self._first: Final = interval
        self._longest: Final = max_interval
        self._monotonic: Final = clock.monotonic
        self._failures = 0
        self._interval = interval
        self._opens_until: float | None = None
        self._probing = False
        # How often it opened or closed: an answer to a call from before that says nothing new.
        self._turns = 0

    def __repr__(self) -> str:
        return f"Breaker({self.state})"

    @property
    def state(self) -> State:
        """What the next call will meet."""
        if self._opens_until is None:
            return "closed"
        return "open" if self._monotonic() < self._opens_until else "half-open"

    async def run(self, work: Callable[[], Awaitable[V]]) -> V:
        """Do the work, if the provider may be asked.

        Args:
            work: Asks. An `IssuerUnavailableError` of it is a failure; a `QuestionRefusedError`, or an answer, is none.

        Raises:
            IssuerUnavailableError: it may not be asked now, or the work raised it.
        """
        probing = self._enter()
        turns = self._turns
        try:
            answer = await work()
        except QuestionRefusedError:
            self._note(turns, answered=True)
            raise
        except IssuerUnavailableError:
            self._note(turns, answered=False)
            raise
        finally:
            if probing:
                self._probing = False
        self._note(turns, answered=True)
        return answer

    def _enter(self) -> bool:
        """Return whether the call is a probe."""
        if self._opens_until is None:
            return False
        remaining = self._opens_until - self._monotonic()
        if remaining > 0 or self._probing:
            raise IssuerUnavailableError("it failed several times, and is not asked just now", retry_after=max(remaining, self._first))
        self._probing = True
        return True

    def _note(self, turns: int, *, answered: bool) -> None:
        if turns != self._turns:
            return
        if answered:
            self._failures = 0
            if self._opens_until is not None:
                self._opens_until, self._interval = None, self._first
                self._turns += 1
            return
        self._failures += 1
        if self._opens_until is not None:
            self._interval = min(self._interval * 2, self._longest)
        if self._opens_until is not None or self._failures >= self._allowed:
            self._opens_until = self._monotonic() + self._interval
            self._failures = 0
            self._turns += 1
