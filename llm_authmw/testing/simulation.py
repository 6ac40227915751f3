"""A world that can be run again: an event loop whose order is drawn from a seed, and whose time passes only where everybody waits.

A day of traffic takes as long as its work does. What went wrong with one seed goes wrong with it every time.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_START: Final = 1_800_057_600.0
"""A midnight (UTC)."""


class NothingWillHappenError(RuntimeError):
    """Everybody waits, and for nothing that will come: in the real world this would hang."""


class SimulatedClock:
    """The `Clock` of a simulated world: both readings move with its event loop.

    Args:
        start: Seconds since 1970 at the beginning.
    """

    def __init__(self, start: float = _START) -> None:
        self._start: Final = start
        self.elapsed: float = 0.0
        """Seconds that have passed."""

    def now(self) -> float:
        """Return seconds since 1970."""
        return self._start + self.elapsed

    def monotonic(self) -> float:
        """Return seconds since the beginning."""
        return self.elapsed


def simulate(main: Callable[[SimulatedClock, random.Random], Awaitable[T]], *, seed: int, start: float = _START) -> T:
    """Run a program in a world of its own, on asyncio, and return what it returns.

    Whatever is ready to run at the same time runs in an order that the seed decides, and waiting takes no time: the clock jumps to
    when the next thing happens. There are neither sockets nor threads.

    Args:
        main: The program. It is given the world's clock, and a source of chance for all that it draws itself.
        seed: Which world.
        start: Seconds since 1970 at its beginning.

    Raises:
        NothingWillHappenError: everybody waits for nothing.
        Exception: what `main` raises; a note tells the seed.
    """
    clock = SimulatedClock(start)
    chance = random.Random(seed)  # noqa: S311 - it is to be the same again
    loop = _SimulatedLoop(clock, random.Random(chance.getrandbits(64)))  # noqa: S311 - likewise
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(_awaited(main(clock, chance)))
    except BaseException as error:
        error.add_note(f"simulated with seed {seed}, after {clock.elapsed} seconds")
        raise


async def _awaited(work: Awaitable[T]) -> T:
    return await work


class _SimulatedLoop(asyncio.BaseEventLoop):
    """Takes the place of the selector as well, which is where a loop waits."""

    def __init__(self, clock: SimulatedClock, chance: random.Random) -> None:
        super().__init__()
        self._simulated_clock: Final = clock
        self._chance: Final = chance
        self._selector = self

    def time(self) -> float:
        return self._simulated_clock.elapsed

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass until the next thing happens, and shuffle what is ready."""
        if timeout is None:
            raise NothingWillHappenError("everybody waits, and for nothing that will come")
        self._simulated_clock.elapsed += timeout
        ready: deque[Any] = vars(self)["_ready"]
        if len(ready) > 1:
            shuffled = list(ready)
            self._chance.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets on which anything could have happened."""

    def _write_to_self(self) -> None:
        """There is no thread in which the loop could sleep."""

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Refuse: a thread takes real time, and nothing can repeat it."""
        del executor, func, args
        raise RuntimeError("threads are not simulated")
