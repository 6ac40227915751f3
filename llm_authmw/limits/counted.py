"""Which bucket a quota is counted in, and what that bucket is called."""

import hashlib
import math
from typing import Final, TypeAlias

import msgspec

from llm_authmw.ledger.buckets import Bucket, Claim, Measure, Span
from llm_authmw.ledger.windows import kind_of, rolling_of, spans_at, window_at
from llm_authmw.limits.scopes import Scope
from llm_authmw.quota import Budget, Limit

Quota: TypeAlias = Limit | Budget

EVERYWHERE: Final = "*"
"""The tenant of the buckets that all tenants share. Only these have `global` in their names, so no tenant of that name meets them."""

_LONGEST: Final = 1500
"""Characters of a subject that its bucket is called by; of a longer one it is the digest."""


class Counted(msgspec.Struct, frozen=True, gc=False):
    """One bucket that a request is counted in.

    Attributes:
        scope: What it is counted by.
        subject: Whose, or of what, the bucket is.
        quota: How much there may be.
        bucket: The bucket.
        one: The claim for one request.
        name: What a client is told that it is called: the scope and the quota's measure and window, and no name of anybody's.
    """

    scope: Scope
    subject: str
    quota: Quota
    bucket: Bucket
    one: Claim
    name: str


class Windows:
    """The calendar windows of now, computed once for each window, time zone and first day."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: Final[dict[tuple[object, ...], tuple[float, tuple[Span, ...]]]] = {}

    def at(self, quota: Quota, now: float) -> tuple[float, tuple[Span, ...]]:
        """Return until when the answer holds, in seconds since 1970, and the windows that a bucket carries."""
        key = (quota.window, quota.timezone, quota.starts) if isinstance(quota, Budget) else (quota.window,)
        known = self._known.get(key)
        # The clock of this machine may have been set back.
        if known is None or not known[1][0].start <= now * 1e6 < known[0] * 1e6:
            known = self._known[key] = (window_at(quota, now)[1], spans_at(quota, now))
        return known


def measure_of(quota: Quota) -> Measure:
    """Return what is counted."""
    return "nano_usd" if isinstance(quota, Budget) else quota.unit


def counted(scope: Scope, subject: str, tenant: str, quota: Quota, windows: Windows, now: float) -> tuple[float, Counted]:
    """Return until when the bucket is the one to count in, in seconds since 1970, and the bucket.

    Args:
        scope: What is counted by.
        subject: Whose bucket.
        tenant: The caller's tenant.
        quota: How much there may be.
        windows: Where calendar windows are remembered.
        now: Seconds since 1970.
    """
    kind, measure = kind_of(quota), measure_of(quota)
    until: float = math.inf
    limit, burst, period = quota.amount, 0, 0
    spans: tuple[Span, ...] = ()
    if isinstance(quota, Budget):
        limit = quota.amount_at(now)
        if quota.until is not None and now < quota.until:
            until = quota.until
    elif kind == "rolling":
        rolling = rolling_of(quota)
        burst, period = rolling.burst, rolling.period
    if kind == "window":
        end, spans = windows.at(quota, now)
        until = min(until, end)
    bucket = Bucket(
        tenant=EVERYWHERE if scope.tenantless else tenant,
        name=f"{_called(subject)} / {_words(quota, measure)}",
        kind=kind,
        measure=measure,
        limit=limit,
        burst=burst,
        period=period,
        spans=spans,
    )
    return until, Counted(scope, subject, quota, bucket, Claim(bucket, 1), f"{scope.words}: {_plainly(quota, measure)}")


def _called(subject: str) -> str:
    # No subject begins so, since each begins with a dimension.
    return subject if len(subject) <= _LONGEST else f"sha256 {hashlib.sha256(subject.encode()).hexdigest()}"


def _words(quota: Quota, measure: Measure) -> str:
    """Return the part of a bucket's name that says what is counted over which window; its amount is not a part of it."""
    if isinstance(quota, Limit):
        if quota.window is None:
            return measure
        return f"{measure} / {quota.window}" + ("" if quota.calendar else " rolling")
    text = f"{measure} / {quota.window or 'ever'}"
    if quota.starts != 1:
        text += f" from {quota.starts}"
    return text if quota.timezone == "UTC" or quota.window is None else f"{text} {quota.timezone}"


def _plainly(quota: Quota, measure: Measure) -> str:
    what = "usd" if measure == "nano_usd" else measure
    return what if quota.window is None else f"{what}/{quota.window}"
