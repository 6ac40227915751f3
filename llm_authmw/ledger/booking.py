"""What reserving and settling do to buckets: plain functions over counters, for stores that decide in Python."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from llm_authmw.errors import InvalidValueError, StoreError
from llm_authmw.ledger import gcra
from llm_authmw.ledger.buckets import MAX_MOMENT, Bucket, Measure
from llm_authmw.ledger.contract import Balance, Refusal, Reservation
from llm_authmw.quota import MAX_AMOUNT

Key: TypeAlias = tuple[str, str, str, int, int]
"""Tenant, name and kind of a bucket, and the window for those that have one."""


# The garbage collector need not look at counters, and there are many of them: none refers back to what holds it.
class Counter(msgspec.Struct, gc=False):
    """What is kept of a bucket: how much is used, or when a rolling one is full again."""

    used: int = 0
    full_at: gcra.FullAt = gcra.ALWAYS


Entry: TypeAlias = tuple[Bucket, int, Key, Counter]
"""One claim's bucket and amount, and where it is booked."""

Mark: TypeAlias = tuple[int, gcra.FullAt]
"""What a counter is to be set to: how much is used, and when a rolling one is full again."""


def key_at(bucket: Bucket, now: int) -> Key:
    """Return where a bucket is counted at this moment.

    Raises:
        StoreError: it is in none of the bucket's windows.
    """
    start = end = 0
    if bucket.kind == "window":
        span = bucket.span_at(now)
        if span is None:
            raise StoreError("the ledger's clock is in none of the windows that it was given: the clocks differ")
        start, end = span
    return bucket.tenant, bucket.name, bucket.kind, start, end


def level_of(entry: Entry, now: int) -> int:
    """Return what counts against the limit: amounts, and times its period for a rolling bucket, where they come back in parts."""
    bucket, _, _, counter = entry
    return gcra.taken(counter.full_at, now, bucket.limit) if bucket.kind == "rolling" else counter.used


def balance_of(entry: Entry, now: int) -> Balance:
    """Return what a bucket stands at."""
    bucket, _, key, _ = entry
    level, limit = level_of(entry, now), bucket.limit
    if bucket.kind == "rolling":
        used = -(-level // bucket.period)
        return Balance(used, limit, max(0, bucket.burst - used), now - (-level // limit) if level else None)
    return Balance(level, limit, max(0, limit - level), key[4] or None)


def reserved(entries: Sequence[Entry], now: int) -> tuple[Reservation, Sequence[Mark]]:
    """Return the answer to these claims, and what their counters are to be set to: nothing where one is refused."""
    marks: list[Mark] = []
    balances: list[Balance] = []
    # As if all were granted, in one pass and without a call for each claim, which would cost as much as the rest.
    for bucket, amount, key, counter in entries:
        limit = bucket.limit
        if bucket.kind == "rolling":
            period, burst = bucket.period, bucket.burst
            moment, part = counter.full_at
            level = amount * period
            if moment >= now:
                level += (moment - now) * limit + (part if part < limit else limit - 1)
            if level > burst * period:
                return _refused(entries, now), ()
            used = -(-level // period)
            moment, part = now + level // limit, level % limit
            marks.append((0, (moment, part)))
            balances.append(Balance(used, limit, burst - used, moment + (part > 0) if level else None))
        else:
            level = counter.used + amount
            if level > limit:
                return _refused(entries, now), ()
            marks.append((level, gcra.ALWAYS))
            balances.append(Balance(level, limit, limit - level, key[4] or None))
    return Reservation(now, tuple(balances)), marks


def settled(
    entries: Sequence[Entry], actual: Mapping[Measure, int], *, reserved_at: int, leased: bool, now: int
) -> tuple[tuple[Balance, ...], Sequence[Mark]]:
    """Return what the buckets stand at once the truth has replaced the estimate, and what their counters are to be set to.

    Args:
        entries: What was reserved.
        actual: The truth.
        reserved_at: When it was reserved.
        leased: Whether its leases have not ended yet.
        now: The store's time.

    Raises:
        InvalidValueError: a bucket would hold more than can be counted.
    """
    marks: list[Mark] = []
    balances: list[Balance] = []
    for bucket, amount, key, counter in entries:
        limit = bucket.limit
        if bucket.kind == "rolling":
            period = bucket.period
            moment, part = counter.full_at
            level = (moment - now) * limit + (part if part < limit else limit - 1) if moment >= now else 0
            more = actual.get(bucket.measure, amount) - amount
            if more > 0 or (more and reserved_at + period > now):
                level = max(0, level + more * period)
            used = -(-level // period)
            moment, part = now + level // limit, level % limit
            if moment > MAX_MOMENT:
                raise InvalidValueError("a bucket would be in debt for longer than can be counted")
            marks.append((0, (moment, part)))
            left, ends_at = bucket.burst - used, moment + (part > 0) if level else None
        else:
            used = counter.used
            if bucket.kind != "lease":
                used += actual.get(bucket.measure, amount) - amount
                if used > MAX_AMOUNT:
                    raise InvalidValueError("a bucket would hold more than can be counted")
            elif leased:
                used -= amount
            marks.append((used, gcra.ALWAYS))
            left, ends_at = limit - used, key[4] or None
        balances.append(Balance(used, limit, left if left > 0 else 0, ends_at))  # noqa: FURB136 - a call for each claim is felt
    return tuple(balances), marks


def _refused(entries: Sequence[Entry], now: int) -> Reservation:
    balances = [balance_of(entry, now) for entry in entries]
    refusals = [_refusal(entry, place, now) for place, entry in enumerate(entries)]
    return Reservation(now, tuple(balances), tuple([refusal for refusal in refusals if refusal is not None]))


def _refusal(entry: Entry, place: int, now: int) -> Refusal | None:
    bucket, amount, key, _ = entry
    level, unit = level_of(entry, now), bucket.period or 1
    if level + amount * unit <= bucket.capacity * unit:
        return None
    if amount > bucket.capacity:
        return Refusal(place, never=True, wait=None)
    if bucket.kind == "rolling":
        return Refusal(place, never=False, wait=gcra.wait(level, amount, bucket))
    return Refusal(place, never=False, wait=key[4] - now if bucket.kind == "window" else None)
