"""Calls to one provider: bounded in time and in number, and none while it is down."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.telemetry import Fetched, Reading, emit, measure
from llm_authmw.tokens.breaker import Breaker
from llm_authmw.tokens.fetches import Outages, fetching
from llm_authmw.tokens.options import count, seconds_above_zero

V = TypeVar("V")

DEADLINE: Final = 2.0
MAX_CALLS: Final = 50


class Calls:
    """Make calls to one provider.

    Args:
        deadline: Seconds that a call may take in all, the wait for its turn included.
        max_calls: Calls that are under way at once, in one event loop.
        what: What is asked for, where it is measured: "introspection", "userinfo".
        issuer: Whom, likewise.
        clock: Gives the breaker the time.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(
        self,
        *,
        deadline: float = DEADLINE,
        max_calls: int = MAX_CALLS,
        what: str = "introspection",
        issuer: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._deadline: Final = seconds_above_zero("deadline", deadline)
        self._max_calls: Final = count("max_calls", max_calls)
        self._breaker: Final = Breaker(clock=clock)
        self._what: Final = what
        self._issuer: Final = issuer
        self._monotonic: Final = clock.monotonic
        self._outages: Final = Outages(what, issuer, clock.monotonic)
        # A semaphore belongs to one loop, and a process may run several.
        self._turns: Final[WeakKeyDictionary[object, anyio.Semaphore]] = WeakKeyDictionary()
        measure(self)

    def readings(self) -> Iterator[Reading]:
        """Return whether the provider is left alone now."""
        yield Reading("issuer_breaker_open", self._breaker.state == "open", (("issuer", self._issuer), ("what", self._what)))

    async def run(self, work: Callable[[], Awaitable[V]]) -> V:
        """Do the work when it is its turn, within the deadline.

        Raises:
            IssuerUnavailableError: the provider is down, too slow, or has too many calls under way; or the work raised it.
        """
        turns = self._turns_of_this_loop()
        try:
            with anyio.fail_after(self._deadline) as limit:
                await turns.acquire()
        except TimeoutError:
            # Of our making, so that it is not counted against the provider.
            raise IssuerUnavailableError("too many calls to it are under way") from None
        asked = False

        async def ask() -> V:
            nonlocal asked
            asked = True
            with fetching(self._what, self._issuer, self._monotonic):
                return await _within(limit.deadline, work)

        try:
            return await self._breaker.run(ask)
        except IssuerUnavailableError:
            if not asked:
                emit(Fetched(self._what, self._issuer, 0.0, "skipped"))
            raise
        finally:
            turns.release()
            self._look()

    def _look(self) -> None:
        """Tell of the provider where the breaker has opened, and take note where it has closed."""
        if self._breaker.state == "closed":
            self._outages.end()
        else:
            self._outages.begin(
                "An issuer has failed several times in a row when it was asked about tokens, and is left alone for a while."
            )

    def _turns_of_this_loop(self) -> anyio.Semaphore:
        loop = current_token().native_token
        turns = self._turns.get(loop)
        if turns is None:
            turns = self._turns[loop] = anyio.Semaphore(self._max_calls)
        return turns


async def _within(deadline: float, work: Callable[[], Awaitable[V]]) -> V:
    # Its own time limit is an outage just as ours is.
    with contextlib.suppress(TimeoutError), anyio.CancelScope(deadline=deadline):
        return await work()
    raise IssuerUnavailableError("it did not answer in time")
