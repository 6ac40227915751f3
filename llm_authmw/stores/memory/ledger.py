"""Counters in memory: dictionaries, and heaps of when something ends. What a call costs does not depend on how many there are."""

import heapq
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import InvalidValueError, StoreError
from llm_authmw.ledger import gcra
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import (
    REMEMBERED,
    Balance,
    Refusal,
    Reservation,
    Settlement,
    check_actual,
    check_reservation,
    check_ttl,
)
from llm_authmw.quota import MAX_AMOUNT

MAX_SETTLED: Final = 20_000
"""Settled reservations that are remembered, about 1.5 kB each. A process that has its own ledger repeats a call at once or never."""
_SLACK: Final = 1024
"""Ends that are out of date and are let be, so that few reservations do not have the heap made anew all the time."""
_DROPPED_AT_ONCE: Final = 128
"""Counters that one call drops at most, more than it makes: many windows end in the same moment."""

Key: TypeAlias = tuple[str, str, str, int, int]
"""Tenant, name and kind of a bucket, and the window for those that have one."""


# The garbage collector need not look at what is kept here, and there is much of it: none of it refers back to what holds it.
class _Counter(msgspec.Struct, gc=False):
    """What is kept of a bucket: how much is used, or when a rolling one is full again."""

    used: int = 0
    full_at: gcra.FullAt = gcra.ALWAYS


_Entry: TypeAlias = tuple[Bucket, int, Key, _Counter]
"""One claim's bucket and amount, and where it is booked."""


class _Held(msgspec.Struct, gc=False):
    """A reservation that is not settled."""

    reservation: Reservation
    entries: tuple[_Entry, ...]
    expires_at: int
    expired: bool = False


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
        self._settled: Final[OrderedDict[str, tuple[Reservation, Settlement]]] = OrderedDict()
        self._due = MAX_MOMENT
        """When the first of all these ends, or earlier."""

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        check_reservation(reservation_id, claims, ttl)
        with self._lock:
            now = self._tick()
            if reservation_id in self._held:
                return self._held[reservation_id].reservation
            if reservation_id in self._settled:
                return self._settled[reservation_id][0]
            entries: list[_Entry] = []
            balances: list[Balance] = []
            levels: list[int] = []
            refusals: list[Refusal] = []
            for claim in claims:
                bucket, amount = claim.bucket, claim.amount
                entry = self._entry(bucket, amount, now)
                level = _level(entry, now)
                unit = bucket.period or 1
                if level + amount * unit > (bucket.burst or bucket.limit) * unit:
                    refusals.append(_refusal(entry, level, len(entries), now))
                entries.append(entry)
                levels.append(level)
            for entry, level in zip(entries, levels, strict=True):
                after = level
                if not refusals:
                    after += entry[1] * (entry[0].period or 1)
                    self._write(entry, after, now)
                balances.append(_balance(entry, after, now))
            reservation = Reservation(now, tuple(balances), tuple(refusals))
            if not refusals:
                self._held[reservation_id] = _Held(reservation, tuple(entries), now + ttl)
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
                return None if settled is None else settled[1]
            entries = [self._present(entry) for entry in held.entries]
            # Whatever can fail is computed for every bucket before the first one is written.
            levels = [_corrected(entry, actual, held, now) for entry in entries]
            balances: list[Balance] = []
            for entry, level in zip(entries, levels, strict=True):
                self._write(entry, level, now)
                balances.append(_balance(entry, level, now))
            settlement = Settlement(now, held.expired, tuple(balances))
            del self._held[reservation_id]
            self._remember(reservation_id, held.reservation, settlement)
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
            entries = [self._entry(bucket, 0, now) for bucket in buckets]
            return tuple([_balance(entry, _level(entry, now), now) for entry in entries])

    def _entry(self, bucket: Bucket, amount: int, now: int) -> _Entry:
        """Return what is known of a bucket; nothing is kept of one that was not known, until it is written."""
        start = end = 0
        if bucket.kind == "window":
            span = bucket.span_at(now)
            if span is None:
                raise StoreError("the ledger's clock is in none of the windows that it was given: the clocks differ")
            start, end = span
        key = (bucket.tenant, bucket.name, bucket.kind, start, end)
        return bucket, amount, key, self._counters.get(key) or _Counter()

    def _present(self, entry: _Entry) -> _Entry:
        """Return where a claim is booked now: its counter may have been dropped since, and another one been made."""
        bucket, amount, key, counter = entry
        present = self._counters.get(key)
        if present is counter or bucket.kind == "window":  # of a window that is over no other one is made
            return entry
        return bucket, amount, key, present or _Counter()

    def _write(self, entry: _Entry, level: int, now: int) -> None:
        bucket, _, key, counter = entry
        kind = bucket.kind
        if kind == "rolling":
            counter.full_at = gcra.refilled(level, now, bucket.limit)
        else:
            counter.used = level
        if key not in self._counters:
            if kind == "rolling":
                self._drop_at(counter.full_at[0] + 1, key)
            elif kind == "window":
                # A whole window later, so that a clock that is set back a little finds it again.
                self._drop_at(2 * key[4] - key[3], key)
            elif level == 0:
                return
            self._counters[key] = counter
        elif level == 0 and kind in {"lease", "lifetime"}:
            del self._counters[key]

    def _end_at(self, moment: int, reservation_id: str) -> None:
        heapq.heappush(self._ends, (moment, reservation_id))
        self._due = min(self._due, moment)

    def _drop_at(self, moment: int, key: Key) -> None:
        heapq.heappush(self._drops, (moment, key))
        self._due = min(self._due, moment)

    def _remember(self, reservation_id: str, reservation: Reservation, settlement: Settlement) -> None:
        self._settled[reservation_id] = reservation, settlement
        self._due = min(self._due, settlement.at + REMEMBERED)
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
            full_at = self._counters[key].full_at[0]
            if full_at < now:
                del self._counters[key]
                heapq.heappop(self._drops)
            else:
                heapq.heapreplace(self._drops, (full_at + 1, key))
        forgotten = now - REMEMBERED
        oldest = MAX_MOMENT
        while self._settled and (oldest := next(iter(self._settled.values()))[1].at) <= forgotten:
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
            for entry in held.entries:
                if entry[0].kind == "lease":
                    self._write(entry, entry[3].used - entry[1], now)
            held.expired = True
            self._end_at(held.expires_at + REMEMBERED, reservation_id)


def _level(entry: _Entry, now: int) -> int:
    """Return what counts against the limit: amounts, and times its period for a rolling bucket, where they come back in parts."""
    bucket, _, _, counter = entry
    return gcra.taken(counter.full_at, now, bucket.limit) if bucket.kind == "rolling" else counter.used


def _refusal(entry: _Entry, level: int, place: int, now: int) -> Refusal:
    bucket, amount, key, _ = entry
    if amount > bucket.capacity:
        return Refusal(place, never=True, wait=None)
    if bucket.kind == "rolling":
        return Refusal(place, never=False, wait=gcra.wait(level, amount, bucket))
    return Refusal(place, never=False, wait=key[4] - now if bucket.kind == "window" else None)


def _corrected(entry: _Entry, actual: Mapping[Measure, int], held: _Held, now: int) -> int:
    """Return a bucket's level once the truth has replaced the estimate.

    Raises:
        InvalidValueError: it is more than can be counted.
    """
    bucket, amount, _, _ = entry
    level = _level(entry, now)
    if bucket.kind == "lease":
        return level if held.expired else level - amount
    more = actual.get(bucket.measure, amount) - amount
    if bucket.kind != "rolling":
        if level + more > MAX_AMOUNT:
            raise InvalidValueError("a bucket would hold more than can be counted")
        return level + more
    if more < 0 and held.reservation.at + bucket.period <= now:
        return level
    level = max(0, level + more * bucket.period)
    if now + level // bucket.limit > MAX_MOMENT:
        raise InvalidValueError("a bucket would be in debt for longer than can be counted")
    return level


def _balance(entry: _Entry, level: int, now: int) -> Balance:
    bucket, _, key, _ = entry
    limit = bucket.limit
    if bucket.kind == "rolling":
        used = -(-level // bucket.period)
        left = bucket.burst - used
        return Balance(used, limit, max(0, left), now - (-level // limit) if level else None)
    left = limit - level
    return Balance(level, limit, max(0, left), key[4] or None)
