"""Rolling buckets: the generic cell rate algorithm in whole numbers, exact to the last part.

Of a bucket one moment is kept: when it will be full again if nothing else happens. It holds `burst` then, and gets back
`limit` per `period`. The moment is whole microseconds and a part of one, counted in `1 / limit`: rounded up instead,
the last of a burst of seven would be refused, because a seventh of a second is no whole number of microseconds.

What is granted within a time T is at most `burst + limit × T / period`, and besides what was given back meanwhile of
reservations made in the `period` before it. In the long run it never passes `limit` per `period`.
"""

from typing import TypeAlias

from llm_authmw.ledger.buckets import Bucket

FullAt: TypeAlias = tuple[int, int]
"""When a bucket is full again: whole microseconds since 1970, and a part of one in `1 / limit`."""

ALWAYS: FullAt = (0, 0)
"""Of a bucket that nothing was taken from."""


def taken(full_at: FullAt, now: int, limit: int) -> int:
    """Return how much is missing now, in amounts times microseconds of the period: never rounded, and 0 for a full bucket."""
    moment, part = full_at
    if moment < now:
        return 0
    # A part is of the limit that it was counted in; under a lower one it is less than a microsecond all the same.
    return (moment - now) * limit + (part if part < limit else limit - 1)


def refilled(missing: int, now: int, limit: int) -> FullAt:
    """Return when a bucket is full again of which so much is missing (see `taken`)."""
    whole, part = divmod(missing, limit)
    return now + whole, part


def wait(missing: int, amount: int, bucket: Bucket) -> int:
    """Return the exact microseconds, rounded up, until `amount` can be had; 0 where it can be had now."""
    excess = missing + (amount - bucket.burst) * bucket.period
    return max(0, -(-excess // bucket.limit))
