"""What one caller is limited by: all that does not differ between its requests, worked out once."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, Literal, TypeAlias

import msgspec

from llm_authmw.call import UNLISTED
from llm_authmw.clock import Clock
from llm_authmw.errors import Denial
from llm_authmw.ledger.buckets import Measure
from llm_authmw.ledger.contract import MAX_CLAIMS
from llm_authmw.limits.asked import Asked
from llm_authmw.limits.counted import Counted, Quota, Windows, counted, measure_of
from llm_authmw.limits.scopes import Scope
from llm_authmw.quota import Budget, Limit

Missing: TypeAlias = Literal["deny", "skip"]

_FEW: Final = 4
"""Models of a request up to which its buckets are remembered: it may name a thousand, each of hundreds of letters."""
MAX_REMEMBERED: Final = 64
"""Buckets of requests that are remembered of one caller beside those of all its requests: callers choose what they ask for."""


_LONGEST: Final = 256
"""Characters of a path up to which they are."""


class Rule(msgspec.Struct, frozen=True, gc=False):
    """One quota, and by what it is counted.

    Attributes:
        rank: Of two rules for one subject, measure and window, the one with the higher rank holds.
        scope: By what it is counted.
        quota: How much there may be.
    """

    rank: int
    scope: Scope
    quota: Quota


class Fixed(msgspec.Struct, frozen=True, gc=False):
    """A rule whose subject is known already: a limit of a caller's, or an account's, own."""

    rule: Rule
    subject: str


class Holder:
    """One caller, with all that limits it.

    Args:
        rules: The rules that may apply.
        own: Those of the caller's and its accounts' own.
        asked: The caller, asking for nothing yet.
        missing: What becomes of a request that a rule is about, and which lacks what that is counted by.
        windows: Where calendar windows are remembered.
        clock: Gives the time.

    Attributes:
        needs_call: Whether what a request asks for has to be known.
        needs_address: Whether the client's address has to be.
        moves: Whether two of its requests may be counted in different buckets.
        measures: What is counted for this caller, at most.
        until: When it has to be worked out again, seconds since 1970.
        accounts: The accounts that were looked at.

    Raises:
        Denial: something that a rule is counted by is missing.
    """

    __slots__ = (
        "_by_path",
        "_clock",
        "_fixed",
        "_missing",
        "_moving",
        "_remembered",
        "_room",
        "_windows",
        "accounts",
        "measures",
        "moves",
        "needs_address",
        "needs_call",
        "until",
    )

    def __init__(
        self,
        rules: Iterable[Rule],
        own: Sequence[Fixed],
        asked: Asked,
        *,
        missing: Missing,
        windows: Windows,
        clock: Clock,
        accounts: Sequence[Any],
    ) -> None:
        rules = list(rules)
        self._missing: Final = missing
        self._windows: Final = windows
        self._clock: Final = clock
        self._moving: Final = [rule for rule in rules if rule.scope.moves]
        self._by_path: Final = any(rule.scope.values and "route" in rule.scope.dimensions for rule in self._moving)
        self._remembered: Final[dict[tuple[Any, ...], tuple[Counted, ...]]] = {}
        self._room = MAX_REMEMBERED
        self.accounts: Final = accounts
        self.moves: Final = bool(self._moving)
        self.needs_call: Final = any(rule.scope.needs_call for rule in self._moving)
        self.needs_address: Final = any(rule.scope.needs_address for rule in self._moving)
        self.until: float = math.inf
        found = self._found([rule for rule in rules if not rule.scope.moves], asked)
        self._fixed: Final = self._counted((*found, *own), asked, 0)
        self.measures: Final[frozenset[Measure]] = frozenset(
            measure_of(quota) for quota in (*(one.quota for one in self._fixed), *(rule.quota for rule in self._moving))
        )

    def counted(self, asked: Asked) -> tuple[Counted, ...]:
        """Return the buckets that a request is counted in.

        Raises:
            Denial: something that a rule is counted by is missing, or there are more buckets than one request may be counted in.
        """
        if not self._moving:
            return self._fixed
        call = asked.call
        named = None if call is None else (call.models, call.end_user, call.leaves_choice, call.needs_model, call.operation)
        by_path = self._by_path or (self.needs_call and asked.operation == UNLISTED)
        key = (named, asked.operation, asked.method, asked.path if by_path else None, asked.address)
        known = self._remembered.get(key)
        if known is None:
            moving = self._counted(self._found(self._moving, asked), asked, len(self._fixed))
            if (call is not None and len(call.models) > _FEW) or len(asked.path) > _LONGEST:
                return self._fixed + moving
            self._room -= len(moving) + 1
            if self._room < 0:
                self._remembered.clear()
                self._room = MAX_REMEMBERED - len(moving) - 1
            known = self._remembered[key] = self._fixed + moving
        return known

    def _found(self, rules: Iterable[Rule], asked: Asked) -> list[Fixed]:
        found: list[Fixed] = []
        for rule in rules:
            subjects = rule.scope.subjects(asked)
            if subjects is None:
                if self._missing == "skip":
                    continue
                raise Denial("limit_dimension_missing", rule=rule.scope.text, need=f"what counts by {rule.scope.words}")
            if len(subjects) > MAX_CLAIMS:
                raise Denial("limits_too_many", rule=rule.scope.text)
            found += [Fixed(rule, subject) for subject in subjects]
        return found

    def _counted(self, found: Iterable[Fixed], asked: Asked, others: int) -> tuple[Counted, ...]:
        """Return the buckets of the rules that hold: each subject, measure and window has the rules of the highest rank."""
        holding: dict[tuple[object, ...], list[Fixed]] = {}
        for one in found:
            quota = one.rule.quota
            holders = holding.setdefault((one.subject, measure_of(quota), quota.window), [])
            if holders and holders[0].rule.rank < one.rule.rank:
                holders.clear()
            if not holders or holders[0].rule.rank == one.rule.rank:
                holders.append(one)
        now = self._clock.now()
        buckets: dict[str, Counted] = {}
        for one in (one for holders in holding.values() for one in holders):
            rule = one.rule
            until, new = counted(rule.scope, one.subject, asked.principal.tenant, rule.quota, self._windows, now)
            earlier = buckets.get(new.bucket.name)
            if earlier is not None:
                until, new = counted(
                    rule.scope, one.subject, asked.principal.tenant, _smaller(earlier.quota, rule.quota, now), self._windows, now
                )
            self.until = min(self.until, until)
            buckets[new.bucket.name] = new
        if len(buckets) + others > MAX_CLAIMS:
            raise Denial("limits_too_many", rule=f"{len(buckets) + others} buckets")
        return tuple(buckets.values())


def make_room(remembered: dict[Any, Any], most: int) -> None:
    """Forget the oldest of what is remembered, where that is as much as may be; several at once, since finding them costs something."""
    if len(remembered) >= most:
        for key in list(islice(remembered, max(1, most // 64))):
            remembered.pop(key, None)


def _smaller(one: Quota, other: Quota, now: float) -> Quota:
    """Return what both of two quotas on one bucket let through."""
    if isinstance(one, Limit) and isinstance(other, Limit):
        amount = min(one.amount, other.amount)
        burst = None if one.burst is None and other.burst is None else min(one.burst_amount, other.burst_amount)
        return msgspec.structs.replace(one, amount=amount, burst=burst)
    return min(one, other, key=lambda quota: quota.amount_at(now) if isinstance(quota, Budget) else quota.amount)
