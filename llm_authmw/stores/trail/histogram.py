"""How long requests took, as counts by length: sums of them are exact, and so percentiles of many processes are those of one.

A bucket ends a fifth above where it begins, so what is told of it is at most 9.1 % off (the middle `2ab / (a + b)` of a bucket from a
to b is as far from both ends, in relation to them).
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, TypeAlias

Histogram: TypeAlias = dict[int, int]
"""Counts by the number of the bucket."""

MAX_ERROR: Final = 1 / 11
"""How far a percentile may be from the truth, in relation to it."""
PERCENTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}

_GROWTH: Final = 1.2
_LONGEST: Final = 7 * 86_400_000_000
"""Microseconds; what takes longer counts as this long."""
_ENDS: Final = tuple(_GROWTH**number for number in range(math.ceil(math.log(_LONGEST, _GROWTH)) + 1))
"""The longest that each bucket holds, in microseconds; the first one holds what takes no time at all, too."""


def bucket_of(microseconds: int) -> int:
    """Return the bucket of a length of time."""
    return min(bisect_left(_ENDS, microseconds), len(_ENDS) - 1)


def add(histogram: Histogram, other: Mapping[int, int]) -> None:
    """Add another one's counts to a histogram."""
    for bucket, count in other.items():
        histogram[bucket] = histogram.get(bucket, 0) + count


def percentiles(histogram: Mapping[int, int]) -> dict[str, float] | None:
    """Return milliseconds within which so many were over; None where there were none."""
    total = sum(histogram.values())
    if total == 0:
        return None
    found: dict[str, float] = {}
    wanted = [(name, math.ceil(share * total)) for name, share in PERCENTILES.items()]
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        while wanted and seen >= wanted[0][1]:
            found[wanted.pop(0)[0]] = _middle(bucket)
    return found


def _middle(bucket: int) -> float:
    if not 0 < bucket < len(_ENDS):
        return _ENDS[0] / 1000
    begin, end = _ENDS[bucket - 1], _ENDS[bucket]
    return round(2 * begin * end / (begin + end) / 1000, 4)
