"""Refusals that need not have been: though all that was spent, and the most of all that was in flight, left room."""

import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple


class Span(NamedTuple):
    """One request that was let in.

    Attributes:
        begins: The first moment at which it may count.
        ends: From when it counts as what it cost; None where it counts as its most for ever.
        most: What it could cost.
        cost: What it did cost.
    """

    begins: int
    ends: int | None
    most: int
    cost: int


class Refusal(NamedTuple):
    """One request that was not.

    Attributes:
        begins: The first moment at which it may have been decided.
        ends: The last one.
        most: What it could have cost.
    """

    begins: int
    ends: int
    most: int


class _Steps:
    """A sum that grows at moments."""

    def __init__(self, steps: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(steps)
        self._moments: Final = [moment for moment, _ in ordered]
        self._sums: Final = [0, *itertools.accumulate(amount for _, amount in ordered)]

    def before(self, moment: int) -> int:
        return self._sums[bisect.bisect_left(self._moments, moment)]


def false_refusals(spans: Sequence[Span], refusals: Sequence[Refusal], limit: int) -> int:
    """Return how many requests were refused for which there was room at every moment at which that may have been decided.

    Args:
        spans: The requests that were let in.
        refusals: Those that were not.
        limit: The budget.
    """
    begun = _Steps((span.begins, span.most) for span in spans)
    given_back = _Steps((span.ends, span.most - span.cost) for span in spans if span.ends is not None)
    return sum(begun.before(refusal.ends) - given_back.before(refusal.begins) + refusal.most <= limit for refusal in refusals)
