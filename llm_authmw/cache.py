"""A bounded cache for answers that cost I/O: single flight, negative entries, stale answers while one caller renews.

It belongs to a handle (`store.keys`, an `Issuer`), never to a layer. Nothing in it runs by itself: there is no task and
no lock, and a hit is two dictionary operations.
"""

import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Hashable, Iterator
from typing import Final, Generic, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.telemetry import Reading, measure

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Flight(Generic[V]):
    """One call under way, and the callers that wait for it."""

    __slots__ = ("error", "event", "value")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.value: V | None = None
        self.error: Exception | None = None


class SingleFlight(Generic[K, V]):
    """Let any number of callers who want the same thing at the same time share one call.

    An error reaches each of them. When the caller that does the work is cancelled, one of the others takes over.
    """

    __slots__ = ("_flights",)

    def __init__(self) -> None:
        # An event belongs to one loop, and a process may run several (tests do; so do threads with loops of their own).
        self._flights: Final[dict[tuple[EventLoopToken, K], _Flight[V]]] = {}

    def under_way(self, key: K) -> bool:
        """Say whether somebody in this loop is doing the work for `key` right now."""
        return (current_token(), key) in self._flights

    async def run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Return what `work` gives, doing it once for all who ask while it is under way."""
        flight_key = (current_token(), key)
        while (flight := self._flights.get(flight_key)) is not None:
            await flight.event.wait()
            if flight.error is not None:
                raise flight.error
            if flight.value is not None:
                return flight.value
        flight = self._flights[flight_key] = _Flight[V]()
        try:
            flight.value = await work()
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._flights[flight_key]
            flight.event.set()
        return flight.value


class _Shelf(Generic[K, V]):
    """A bounded number of values, each until its end; the oldest go first.

    Plain dictionaries, and no pair of value and end where nothing ends: this is most of what a remembered key weighs.
    """

    __slots__ = ("_bound", "_ends", "_ttl", "values")

    def __init__(self, bound: int, ttl: float) -> None:
        self.values: Final[dict[K, V]] = {}
        self._ends: Final[dict[K, float]] = {}
        self._bound: Final = bound
        self._ttl: Final = ttl

    def put(self, key: K, value: V, now: float) -> list[tuple[K, V]]:
        """Add a value; return what had to go for it."""
        gone: list[tuple[K, V]] = []
        if len(self.values) >= self._bound:
            # Several at once, since finding the oldest one passes over the places of those that went before.
            oldest = list(itertools.islice(self.values, max(1, self._bound // 64)))
            gone = [(old, self.values.pop(old)) for old in oldest]
            for old in oldest:
                self._ends.pop(old, None)
        self.values[key] = value
        if self._ttl != math.inf:
            self._ends[key] = now + self._ttl
        return gone

    def pop(self, key: K) -> V | None:
        """Take a value away."""
        self._ends.pop(key, None)
        return self.values.pop(key, None)

    def end(self, key: K) -> float:
        """Return when the value of `key` ends, in monotonic seconds."""
        return self._ends.get(key, math.inf)


class Cache(Generic[K, V]):
    """Remember what `load` answered. A value is anything but None.

    Args:
        max_entries: Entries kept; beyond that the least recently loaded go.
        max_negative: Negative entries kept, apart from the others, so that a flood of bad keys evicts no good one.
        ttl: Seconds for which an answer is fresh.
        stale_ttl: Further seconds for which an answer is served while one caller renews it, or while renewing fails.
        negative_ttl: Seconds for which a negative answer is kept.
        is_negative: Tells a negative answer.
        on_drop: Told of every answer that is forgotten.
        name: What it is called among the figures that are measured; None for one that nobody looks at.
        clock: Gives the monotonic time.

    Attributes:
        hits: Answers that were at hand.
        misses: Answers that had to be found.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        ttl: float,
        max_negative: int = 10_000,
        stale_ttl: float = 0.0,
        negative_ttl: float = 5.0,
        is_negative: Callable[[V], bool] | None = None,
        on_drop: Callable[[K, V], None] | None = None,
        name: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        # Plain numbers, since they are counted where a request that is known costs least, and are read only when somebody asks.
        self.hits: int = 0
        self.misses: int = 0
        self._stale_ttl: Final = stale_ttl
        self._is_negative: Final = is_negative
        self._on_drop: Final = on_drop
        self._monotonic: Final = clock.monotonic
        self._entries: Final[_Shelf[K, V]] = _Shelf(max_entries, ttl)
        self._negative: Final[_Shelf[K, V]] = _Shelf(max_negative, negative_ttl)
        self._endless: Final = ttl == math.inf
        self._flights: Final[SingleFlight[K, V]] = SingleFlight()
        self._generation = 0
        self._name: Final = name or ""
        if name is not None:
            measure(self)

    def readings(self) -> Iterator[Reading]:
        """Return how often an answer was at hand and how often not, and how many are kept."""
        cache = ("cache", self._name)
        yield Reading("cache_lookups", self.hits, (cache, ("result", "hit")), counts_up=True)
        yield Reading("cache_lookups", self.misses, (cache, ("result", "miss")), counts_up=True)
        yield Reading("cache_entries", len(self), (cache,))

    def __len__(self) -> int:
        return len(self._entries.values) + len(self._negative.values)

    def peek(self, key: K) -> V | None:
        """Return the fresh answer for `key`, or None; never waits."""
        value = self._entries.values.get(key)
        if value is not None and self._endless:
            self.hits += 1
            return value
        shelf = self._negative if value is None else self._entries
        value = shelf.values.get(key)
        if value is None or shelf.end(key) <= self._monotonic():
            return None
        self.hits += 1
        return value

    def holds(self, key: K, value: V) -> bool:
        """Say whether this very answer is the one that is kept for `key`, fresh or not. It counts as no use of it."""
        return self._entries.values.get(key) is value or self._negative.values.get(key) is value

    async def get(self, key: K, load: Callable[[K], Awaitable[V]]) -> V:
        """Return the answer for `key`, loading it at most once for any number of callers.

        An error of `load` reaches every caller that waits for it and is not remembered; where a stale answer is at
        hand, that is returned instead.
        """
        fresh = self.peek(key)
        if fresh is not None:
            return fresh
        stale = self._entries.values.get(key)
        if stale is None or self._entries.end(key) + self._stale_ttl <= self._monotonic():
            return await self._flights.run(key, lambda: self._load(key, load))
        if not self._flights.under_way(key):
            # Whatever goes wrong, the stale answer is still good for `stale_ttl`.
            with contextlib.suppress(Exception):
                return await self._flights.run(key, lambda: self._load(key, load))
        self.hits += 1
        return stale

    async def _load(self, key: K, load: Callable[[K], Awaitable[V]]) -> V:
        generation = self._generation
        value = await load(key)
        # What was loaded before an invalidation may be what was invalidated: it is good for those who asked before that
        # happened, and is not kept.
        if generation == self._generation:
            self.put(key, value)
        else:
            self.misses += 1
        return value

    def put(self, key: K, value: V) -> None:
        """Remember an answer that the caller has found himself."""
        self.misses += 1
        self._take(key)
        negative = self._is_negative is not None and self._is_negative(value)
        shelf = self._negative if negative else self._entries
        for gone in shelf.put(key, value, self._monotonic()):
            self._tell(*gone)

    def drop(self, key: K) -> None:
        """Forget one answer, and let no load that is under way bring it back."""
        self._generation += 1
        self._take(key)

    def clear_negative(self) -> None:
        """Forget every negative answer: something new may exist now."""
        self._generation += 1
        for key in list(self._negative.values):
            self._take(key)

    def clear(self) -> None:
        """Forget everything."""
        self.clear_negative()
        for key in list(self._entries.values):
            self._take(key)

    def _take(self, key: K) -> None:
        for shelf in (self._entries, self._negative):
            value = shelf.pop(key)
            if value is not None:
                self._tell(key, value)

    def _tell(self, key: K, value: V) -> None:
        if self._on_drop is not None:
            self._on_drop(key, value)
