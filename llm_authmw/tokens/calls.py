"""Calls to one provider: bounded in time and in number, and none while it is down."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.tokens.breaker import Breaker
from llm_authmw.tokens.options import count, seconds_above_zero

V = TypeVar("V")

DEADLINE: Final = 2.0
MAX_CALLS: Final = 50


class Calls:
    """Make calls to one provider.

    Args:
        deadline: Seconds that a call may take in all, the wait for its turn included.
        max_calls: Calls that are under way at once, in one event loop.
        clock: Gives the breaker the time.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(self, *, deadline: float = DEADLINE, max_calls: int = MAX_CALLS, clock: Clock = SYSTEM_CLOCK) -> None:
        self._deadline: Final = seconds_above_zero("deadline", deadline)
        self._max_calls: Final = count("max_calls", max_calls)
        self._breaker: Final = Breaker(clock=clock)
        # A semaphore belongs to one loop, and a process may run several.
        self._turns: Final[WeakKeyDictionary[object, anyio.Semaphore]] = WeakKeyDictionary()

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
        try:
            return await self._breaker.run(lambda: _within(limit.deadline, work))
        finally:
            turns.release()

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
