"""Counters in memory: dictionaries, and heaps of when something ends. What a call costs does not depend on how many there are."""

import heapq
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.ledger import booking, gcra
from llm_authmw.ledger.booking import Counter, Key, Mark
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import (
    REMEMBERED,
    Balance,
    Reservation,
    Settlement,
    check_actual,
    check_reservation,
    check_ttl,
    is_id,
    void,
)

MAX_SETTLED: Final = 20_000
"""Settled reservations that are remembered, about 1.5 kB each. A process that has its own ledger repeats a call at once or never."""
_SLACK: Final = 1024
"""Ends that are out of date and are let be, so that few reservations do not have the heap made anew all the time."""
_LINGER: Final = SECOND
"""How long a rolling counter is kept that is full again, in microseconds: one that is asked for all the time is not made anew each time."""
_DROPPED_AT_ONCE: Final = 128
"""Counters that one call drops at most, more than it makes: many windows end in the same moment."""


# The garbage collector need not look at what is kept here, and there is much of it: none of it refers back to what holds it.
class _Counter(Counter, gc=False):
    """What is kept of a bucket, and whether it is kept still: claims hold on to a counter that was dropped meanwhile."""

    kept: bool = False


_Entry: TypeAlias = tuple[Bucket, int, Key, _Counter]


class _Held(msgspec.Struct, gc=False):
    """A reservation that is not settled."""

    reservation: Reservation
    entries: Sequence[_Entry]
    expires_at: int
    expired: bool = False


class _Settled(msgspec.Struct, frozen=True, gc=False):
    """A reservation that is over; without answers where it is void."""

    at: int
    reservation: Reservation | None = None
    settlement: Settlement | None = None


class MemoryLedger:
    """See `Ledger`. Of what is settled, the newest are remembered: 20,000, and none for more than 24 hours.

    Args:
        clock: Gives the time.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock: Final = clock.now
        # A process may run several event loops, each in a thread of its own. Nothing waits while it holds the lock.
        self._lock: Final = threading.Lock()
        self._counters: Final[dict[Key, _Counter]] = {}
        self._drops: Final[list[tuple[int, Key]]] = []
        """A heap of when a counter can be dropped; a rolling one may have to be put back."""
        self._held: Final[dict[str, _Held]] = {}
        self._ends: Final[list[tuple[int, str]]] = []
        """A heap of when reservations expire, and then are forgotten; out of date where one was extended or settled since."""
        self._settled: Final[OrderedDict[str, _Settled]] = OrderedDict()
        self._due = MAX_MOMENT
        """When the first of all these ends, or earlier."""

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        check_reservation(reservation_id, claims, ttl)
        with self._lock:
            now = self._tick()
            if reservation_id in self._held:
                return self._held[reservation_id].reservation
            settled = self._settled.get(reservation_id)
            if settled is not None:
                if settled.reservation is None:
                    raise void("the ledger")
                return settled.reservation
            entries = self._entries(claims, now)
            reservation, marks = booking.reserved(entries, now)
            if not reservation.refusals:
                self._write(entries, marks)
                self._held[reservation_id] = _Held(reservation, entries, now + ttl)
                self._end_at(now + ttl, reservation_id)
            return reservation

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        check_actual(actual)
        with self._lock:
            now = self._tick()
            held = self._held.get(reservation_id)
            if held is None:
                settled = self._settled.get(reservation_id)
                if settled is None and is_id(reservation_id):
                    self._remember(reservation_id, _Settled(now))
                return None if settled is None else settled.settlement
            entries = [entry if entry[3].kept else self._present(entry) for entry in held.entries]
            # Whatever can fail is computed for every bucket before the first one is written.
            balances, marks = booking.settled(entries, actual, reserved_at=held.reservation.at, leased=not held.expired, now=now)
            self._write(entries, marks)
            settlement = Settlement(now, held.expired, balances)
            del self._held[reservation_id]
            self._remember(reservation_id, _Settled(now, held.reservation, settlement))
            return settlement

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        check_ttl(ttl)
        with self._lock:
            now = self._tick()
            living: set[str] = set()
            for reservation_id in reservation_ids:
                held = self._held.get(reservation_id)
                if held is not None and not held.expired:
                    # The heap learns of it when the earlier moment has come.
                    held.expires_at = max(held.expires_at, now + ttl)
                    living.add(reservation_id)
            return frozenset(living)

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        with self._lock:
            now = self._tick()
            entries = self._entries([Claim(bucket, 1) for bucket in buckets], now)
            return tuple([booking.balance_of(entry, now) for entry in entries])

    def _entries(self, claims: Iterable[Claim], now: int) -> list[_Entry]:
        """Return what is known of the buckets; nothing is kept of one that was not known, until it is written."""
        entries: list[_Entry] = []
        known = self._counters.get
        for claim in claims:
            bucket = claim.bucket
            kind = bucket.kind
            key = booking.key_at(bucket, now) if kind == "window" else (bucket.tenant, bucket.name, kind, 0, 0)
            entries.append((bucket, claim.amount, key, known(key) or _Counter()))
        return entries

    def _present(self, entry: _Entry) -> _Entry:
        """Return where a claim is booked now that its counter was dropped: another one may have been made since."""
        bucket, amount, key, _ = entry
        if bucket.kind == "window":  # of a window that is over no other one is made
            return entry
        return bucket, amount, key, self._counters.get(key) or _Counter()

    def _write(self, entries: Sequence[_Entry], marks: Sequence[Mark]) -> None:
        for (bucket, _, key, counter), mark in zip(entries, marks, strict=True):
            counter.used, counter.full_at = mark
            if not counter.kept:
                self._keep(key, counter)
            elif not mark[0] and (bucket.kind == "lease" or bucket.kind == "lifetime"):  # noqa: PLR1714 - a set is slower
                self._drop(key)

    def _keep(self, key: Key, counter: _Counter) -> None:
        if key in self._counters:
            return  # the clock was set back by more than a window, and another one was made in it
        kind = key[2]
        if kind == "rolling":
            self._drop_at(counter.full_at[0] + _LINGER, key)
        elif kind == "window":
            # A whole window later, so that a clock that is set back a little finds it again.
            self._drop_at(2 * key[4] - key[3], key)
        elif not counter.used:
            return
        counter.kept = True
        self._counters[key] = counter

    def _drop(self, key: Key) -> None:
        self._counters.pop(key).kept = False

    def _end_at(self, moment: int, reservation_id: str) -> None:
        heapq.heappush(self._ends, (moment, reservation_id))
        self._due = min(self._due, moment)

    def _drop_at(self, moment: int, key: Key) -> None:
        heapq.heappush(self._drops, (moment, key))
        self._due = min(self._due, moment)

    def _remember(self, reservation_id: str, settled: _Settled) -> None:
        self._settled[reservation_id] = settled
        self._due = min(self._due, settled.at + REMEMBERED)
        if len(self._settled) > MAX_SETTLED:
            self._settled.popitem(last=False)
        if len(self._ends) > 2 * len(self._held) + _SLACK:
            self._ends[:] = [end for end in self._ends if end[1] in self._held]
            heapq.heapify(self._ends)

    def _tick(self) -> int:
        """Return what time it is, after everything has ended that ends until then."""
        now = round(self._clock() * SECOND)
        if now >= self._due:
            self._sweep(now)
        return now

    def _sweep(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._end(heapq.heappop(self._ends)[1], now)
        for _ in range(_DROPPED_AT_ONCE):
            if not self._drops or self._drops[0][0] > now:
                break
            key = self._drops[0][1]
            drop_at = self._counters[key].full_at[0] + _LINGER
            if drop_at <= now:
                self._drop(key)
                heapq.heappop(self._drops)
            else:
                heapq.heapreplace(self._drops, (drop_at, key))
        forgotten = now - REMEMBERED
        oldest = MAX_MOMENT
        while self._settled and (oldest := next(iter(self._settled.values())).at) <= forgotten:
            self._settled.popitem(last=False)
        firsts = [heap[0][0] for heap in (self._ends, self._drops) if heap]
        self._due = min(oldest + REMEMBERED, *firsts, MAX_MOMENT)

    def _end(self, reservation_id: str, now: int) -> None:
        held = self._held.get(reservation_id)
        if held is None:
            return
        if held.expired:
            del self._held[reservation_id]
        elif held.expires_at > now:
            self._end_at(held.expires_at, reservation_id)
        else:
            leases = [entry for entry in held.entries if entry[0].kind == "lease"]
            self._write(leases, [(counter.used - amount, gcra.ALWAYS) for _, amount, _, counter in leases])
            held.expired = True
            self._end_at(held.expires_at + REMEMBERED, reservation_id)
