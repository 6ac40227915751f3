"""Interleaved rounds: every round runs every case once, in rotated order; a ratio is taken within a round."""

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Case = Callable[[], Awaitable[None]]


@dataclass
class Timing:
    """µs of process CPU per call, one figure a round."""

    name: str
    rounds: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """The interquartile range in percent of the median."""
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return 100 * (high - low) / self.median


def pin_to_one_core() -> None:
    """Keep the process on one core, where the system allows it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


async def run_rounds(cases: dict[str, Case], *, rounds: int, calls: int, between: Case | None = None) -> dict[str, Timing]:
    """Time every case in every round; in between, and not timed, `between` tidies up."""
    timings = {name: Timing(name) for name in cases}
    names = list(cases)
    for name in names:  # warm every case before any is timed
        for _ in range(20):
            await cases[name]()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            case = cases[name]
            gc.collect()
            gc.disable()
            began = time.process_time_ns()
            for _ in range(calls):
                await case()
            timings[name].rounds.append((time.process_time_ns() - began) / calls / 1000)
            gc.enable()
            await (asyncio.sleep(0) if between is None else between())
    return timings


def difference(timing: Timing, base: Timing) -> float:
    """The median of the differences within each round, in µs."""
    return statistics.median(mine - its for mine, its in zip(timing.rounds, base.rounds, strict=True))


def ratio(timing: Timing, base: Timing) -> float:
    """The median of the ratios within each round."""
    return statistics.median(mine / its for mine, its in zip(timing.rounds, base.rounds, strict=True))
