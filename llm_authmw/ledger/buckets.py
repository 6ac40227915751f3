"""Buckets and claims: whose use is counted, of what, over which time, and how much of it one request wants.

Every amount is an integer: money in nano-dollars, tokens, requests. Every moment in the ledger is a whole number of
microseconds since 1970, every duration one of microseconds.
"""

from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import msgspec

from llm_authmw.errors import InvalidValueError
from llm_authmw.quota import MAX_AMOUNT

Kind: TypeAlias = Literal["window", "rolling", "lifetime", "lease"]
"""How use comes back: at a calendar boundary, little by little, never, or when the request ends."""

Measure: TypeAlias = Literal["requests", "tokens", "input tokens", "output tokens", "nano_usd", "concurrent"]
"""What is counted. A settlement gives the truth per measure."""

KINDS: Final[tuple[str, ...]] = get_args(Kind)
MEASURES: Final[tuple[str, ...]] = get_args(Measure)
SETTLED: Final = tuple(measure for measure in MEASURES if measure != "concurrent")
"""Those of which an answer can tell the truth."""

SECOND: Final = 1_000_000
MAX_MOMENT: Final = 2**53
"""Microseconds since 1970 that a double holds exactly: the year 2255."""
MAX_BUCKET_NAME: Final = 2048
MAX_SPANS: Final = 8


class Span(NamedTuple):
    """One calendar window: from its first microsecond to the first one after it."""

    start: int
    end: int


class BucketRef(NamedTuple):
    """What identifies a bucket."""

    tenant: str
    name: str


class Bucket(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whose use of what is counted, how it comes back, and how much there may be.

    Two buckets of one tenant have different names: the name says whose, what and which window, as in
    `team:blue / nano_usd / month`. The limit is not part of what identifies it: raising it keeps what was used.

    Attributes:
        tenant: The tenant.
        name: The bucket's name in that tenant, 1 to 2048 characters that print.
        kind: How use comes back.
        measure: What is counted; `concurrent` for a lease, and only there.
        limit: The most that may be used: in a window, in one `period`, ever, or at once. 1 to 2^53.
        burst: What a rolling bucket holds when it is full, 1 to `limit`; 0 for other kinds.
        period: The microseconds in which a rolling bucket gives back `limit`; 0 for other kinds.
        spans: The windows of which the store picks the one that its own clock is in, 1 to 8, ascending; empty for other kinds.

    Raises:
        InvalidValueError: The parts contradict each other, or one is out of range.
    """

    tenant: str
    name: str
    kind: Kind
    measure: Measure
    limit: int
    burst: int = 0
    period: int = 0
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        _check_text(self.tenant, "tenant")
        _check_text(self.name, "bucket's name")
        if self.kind not in KINDS:
            raise InvalidValueError(f"{self.kind!r} is not a kind of bucket: expected one of {', '.join(KINDS)}")
        if self.measure not in MEASURES:
            raise InvalidValueError(f"{self.measure!r} is not counted: expected one of {', '.join(MEASURES)}")
        if (self.kind == "lease") != (self.measure == "concurrent"):
            raise InvalidValueError("a lease counts what is concurrent, and nothing else does")
        check_amount(self.limit, least=1)
        if self.kind == "rolling":
            check_amount(self.burst, least=1)
            check_amount(self.period, least=1)
            if self.burst > self.limit:
                raise InvalidValueError("a burst is at most the limit")
        elif self.burst or self.period:
            raise InvalidValueError("burst and period are for rolling buckets")
        if (self.kind == "window") != bool(self.spans):
            raise InvalidValueError("the windows to pick from are for window buckets, which have at least one")
        _check_spans(self.spans)

    @property
    def ref(self) -> BucketRef:
        """What identifies it."""
        return BucketRef(self.tenant, self.name)

    @property
    def capacity(self) -> int:
        """The most that one request can ever have of it."""
        return self.burst or self.limit

    def span_at(self, now: int) -> Span | None:
        """Return the window that this moment is in, or None where it is in none of them."""
        for span in self.spans:
            if span[0] <= now < span[1]:
                return span
        return None


class Claim(msgspec.Struct, frozen=True, gc=False):
    """An amount that is wanted from a bucket.

    Attributes:
        bucket: The bucket.
        amount: How much, 0 to 2^53; at least 1 from a lease.

    Raises:
        InvalidValueError: The amount is out of range.
    """

    bucket: Bucket
    amount: int

    def __post_init__(self) -> None:
        # A request makes several; all but those of nothing are in range at one glance.
        if type(self.amount) is not int or not 1 <= self.amount <= MAX_AMOUNT:
            check_amount(self.amount, least=1 if self.bucket.kind == "lease" else 0)


def check_amount(amount: Any, *, least: int = 0) -> None:
    """Check one amount.

    Raises:
        InvalidValueError: it is no integer, or out of range.
    """
    # `type(…) is`: a boolean is an integer to `isinstance`, and never an amount.
    if type(amount) is not int or not least <= amount <= MAX_AMOUNT:
        raise InvalidValueError(f"an amount is a whole number from {least} to 2^53")


def _check_text(text: Any, what: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_BUCKET_NAME or not text.isprintable():
        raise InvalidValueError(f"a {what} is 1 to {MAX_BUCKET_NAME} characters that print")


def _check_spans(spans: tuple[Span, ...]) -> None:
    if len(spans) > MAX_SPANS:
        raise InvalidValueError(f"a bucket has at most {MAX_SPANS} windows to pick from")
    earlier = 0
    for start, end in spans:
        if type(start) is not int or type(end) is not int or not earlier <= start < end <= MAX_MOMENT:
            raise InvalidValueError("windows are whole microseconds since 1970, ascend, and do not overlap")
        earlier = end
