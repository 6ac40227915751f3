"""A bounded cache for answers that cost I/O: single flight, negative entries, stale answers while one caller renews.

It belongs to a handle (`store.keys`, an `Issuer`), never to a layer. Nothing in it runs by itself: there is no task and
no lock, and a hit is two dictionary operations.
"""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from llm_authmw.clock import SYSTEM_CLOCK, Clock

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


class Cache(Generic[K, V]):
    """Remember what `load` answered.

    Args:
        max_entries: Entries kept; beyond that the least recently loaded goes.
        max_negative: Negative entries kept, apart from the others, so that a flood of bad keys evicts no good one.
        ttl: Seconds for which an answer is fresh.
        stale_ttl: Further seconds for which an answer is served while one caller renews it, or while renewing fails.
        negative_ttl: Seconds for which a negative answer is kept.
        is_negative: Tells a negative answer.
        on_drop: Told of every answer that is forgotten before it was replaced.
        clock: Gives the monotonic time.
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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._max_entries: Final = max_entries
        self._max_negative: Final = max_negative
        self._ttl: Final = ttl
        self._stale_ttl: Final = stale_ttl
        self._negative_ttl: Final = negative_ttl
        self._is_negative: Final = is_negative
        self._on_drop: Final = on_drop
        self._monotonic: Final = clock.monotonic
        self._entries: Final[OrderedDict[K, tuple[V, float]]] = OrderedDict()
        self._negative: Final[OrderedDict[K, tuple[V, float]]] = OrderedDict()
        self._flights: Final[SingleFlight[K, V]] = SingleFlight()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self._negative)

    def peek(self, key: K) -> V | None:
        """Return the fresh answer for `key`, or None; never waits."""
        entry = self._entries.get(key) or self._negative.get(key)
        if entry is None or entry[1] <= self._monotonic():
            return None
        return entry[0]

    async def get(self, key: K, load: Callable[[K], Awaitable[V]]) -> V:
        """Return the answer for `key`, loading it at most once for any number of callers.

        An error of `load` reaches every caller that waits for it and is not remembered; where a stale answer is at
        hand, that is returned instead.
        """
        entry = self._entries.get(key) or self._negative.get(key)
        now = self._monotonic()
        if entry is not None and entry[1] > now:
            return entry[0]
        if key not in self._entries or entry is None or entry[1] + self._stale_ttl <= now:
            return await self._flights.run(key, lambda: self._load(key, load))
        if self._flights.under_way(key):
            return entry[0]
        try:
            return await self._flights.run(key, lambda: self._load(key, load))
        except Exception:  # noqa: BLE001 - whatever it was, the stale answer is still good for `stale_ttl`
            return entry[0]

    async def _load(self, key: K, load: Callable[[K], Awaitable[V]]) -> V:
        generation = self._generation
        value = await load(key)
        # What was loaded before an invalidation may be what was invalidated: it is good for those who asked before that
        # happened, and is not kept.
        if generation == self._generation:
            self._keep(key, value)
        return value

    def _keep(self, key: K, value: V) -> None:
        negative = self._is_negative is not None and self._is_negative(value)
        if negative:
            kept, bound, ttl = self._negative, self._max_negative, self._negative_ttl
        else:
            kept, bound, ttl = self._entries, self._max_entries, self._ttl
        self._take(key)
        kept[key] = (value, math.inf if ttl == math.inf else self._monotonic() + ttl)
        while len(kept) > bound:
            self._tell(*kept.popitem(last=False))

    def drop(self, key: K) -> None:
        """Forget one answer, and let no load that is under way bring it back."""
        self._generation += 1
        self._take(key)

    def clear_negative(self) -> None:
        """Forget every negative answer: something new may exist now."""
        self._generation += 1
        while self._negative:
            self._tell(*self._negative.popitem())

    def clear(self) -> None:
        """Forget everything."""
        self.clear_negative()
        while self._entries:
            self._tell(*self._entries.popitem())

    def _take(self, key: K) -> None:
        entry = self._entries.pop(key, None) or self._negative.pop(key, None)
        if entry is not None:
            self._tell(key, entry)

    def _tell(self, key: K, entry: tuple[V, float]) -> None:
        if self._on_drop is not None:
            self._on_drop(key, entry[0])
