"""What a ledger must be able to do. `tests/conformance/` says it in full; each method is one atomic step of the store.

A reservation is *held* from when it is granted until it is settled, or until its lease ends: then it has *expired*, and
what was estimated stays booked. Either way it is remembered for another 24 hours, so that repeating a call changes nothing
and a late truth is still booked. One that was settled before it was made is *void*: a store that stood still may carry a call
out long after its caller has left and has settled it, and then books nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from llm_authmw.errors import InvalidValueError, StoreError
from llm_authmw.ledger.buckets import SECOND, SETTLED, Bucket, Claim, Measure, check_amount

MAX_CLAIMS: Final = 64
"""Claims of one reservation: what a request costs the store is bounded."""
MAX_ID: Final = 128
"""Characters of a reservation's id."""
REMEMBERED: Final = 86_400 * SECOND
"""Microseconds for which a reservation is remembered after it was settled or has expired."""
MAX_TTL: Final = REMEMBERED


class Balance(msgspec.Struct, frozen=True, gc=False):
    """What a bucket stands at.

    Attributes:
        used: What counts against the limit now; more than `limit` is debt.
        limit: The bucket's limit.
        left: The most that a claim could have now; 0 where there is debt.
        ends_at: When nothing of what is used counts any more: the end of the window, or when a rolling bucket will be full again.
            None where that is not a matter of time.
    """

    used: int
    limit: int
    left: int
    ends_at: int | None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why one claim was refused.

    Attributes:
        claim: Its place among the claims.
        never: It is for more than the bucket ever has, so that waiting is of no use.
        wait: Exact microseconds after which it is granted if nothing else happens; None where that is not a matter of time.
    """

    claim: int
    never: bool
    wait: int | None


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """The answer to `reserve`.

    Attributes:
        at: The store's time.
        balances: What each claim's bucket stands at, in the order of the claims: with the reservation, or as it was where that is refused.
        refusals: The claims that were refused; none where all were granted.
    """

    at: int
    balances: tuple[Balance, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def granted(self) -> bool:
        """Whether all claims were granted. If not, nothing was booked anywhere."""
        return not self.refusals

    @property
    def wait(self) -> int | None:
        """Microseconds after which every refused claim is granted if nothing else happens; None where that is not a matter of time."""
        waits = [refusal.wait for refusal in self.refusals]
        known = [wait for wait in waits if wait is not None]
        return max(known, default=0) if len(known) == len(waits) else None


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """The answer to `settle`.

    Attributes:
        at: The store's time.
        late: The reservation had expired before.
        balances: What the buckets stand at that were claimed, in the order of the claims. Of a window, the one that was reserved.
    """

    at: int
    late: bool
    balances: tuple[Balance, ...]


class Ledger(Protocol):
    """A store's counters. Its own clock rules."""

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """Book all claims or none, and hold them.

        Calling it again with the id of a reservation that was granted returns the first answer. One that was refused
        left nothing behind, and is decided anew.

        Args:
            reservation_id: An id of ours, never used for another request; 1 to 128 characters that print.
            claims: 1 to 64, each on another bucket.
            ttl: Microseconds until it expires unless it is extended, at most 24 hours.

        Raises:
            InvalidValueError: the arguments are out of range, or two claims are on one bucket.
            StoreError: the store cannot be written, its clock is in none of a bucket's windows, or the reservation is void.
        """
        ...

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """Replace the estimate by the truth, up or down, in the windows that were reserved, and end the leases.

        A measure that is not given stays as it was estimated, so a request that came to nothing is settled with zero money
        and zero tokens, and is still counted. Calling it again returns the first answer, whatever `actual` is then.
        What a rolling bucket is given back counts for as long as the reservation is within its period; after that
        it has come back by itself.

        Returns:
            None where no such reservation is remembered, and nothing was booked. It is void from then on, for 24 hours.

        Raises:
            InvalidValueError: a measure or an amount is out of range, or a bucket would hold more than 2^53. Nothing was booked.
            StoreError: the store cannot be written.
        """
        ...

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """Let those that are held expire `ttl` microseconds from now, if that is later than they would.

        Returns:
            The ids of those that are held. One that is missing has been settled, has expired, or never was.

        Raises:
            InvalidValueError: `ttl` is out of range.
            StoreError: the store cannot be written.
        """
        ...

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """Return what the buckets stand at now, in their order.

        Raises:
            StoreError: the store cannot be read, or its clock is in none of a bucket's windows.
        """
        ...


def check_reservation(reservation_id: str, claims: Sequence[Claim], ttl: int) -> None:
    """Check the arguments of `reserve`, as every store does before it does anything.

    Raises:
        InvalidValueError: one is out of range, or two claims are on one bucket.
    """
    if not is_id(reservation_id):
        raise InvalidValueError(f"a reservation's id is 1 to {MAX_ID} characters that print")
    if not 1 <= len(claims) <= MAX_CLAIMS:
        raise InvalidValueError(f"a reservation has 1 to {MAX_CLAIMS} claims")
    check_ttl(ttl)
    # Nearly always the names alone differ already, which is quicker to see.
    if len({claim.bucket.name for claim in claims}) < len(claims) and len({claim.bucket.ref for claim in claims}) < len(claims):
        raise InvalidValueError("two claims of one reservation are on one bucket")


def is_id(reservation_id: str) -> bool:
    """Say whether a reservation can have this id."""
    return 1 <= len(reservation_id) <= MAX_ID and reservation_id.isprintable()


def void(place: str) -> StoreError:
    """Return what to raise where a reservation was settled before it was made."""
    return StoreError(f"{place} was told that this reservation is over before it was made, and booked nothing")


def check_ttl(ttl: int) -> None:
    """Check a time to live.

    Raises:
        InvalidValueError: it is not above zero, or above 24 hours.
    """
    if type(ttl) is not int or not 1 <= ttl <= MAX_TTL:
        raise InvalidValueError("a reservation's ttl is a whole number of microseconds, above zero and at most 24 hours")


def check_actual(actual: Mapping[Measure, int]) -> None:
    """Check the argument of `settle`.

    Raises:
        InvalidValueError: a measure is none that is settled, or an amount is out of range.
    """
    for measure, amount in actual.items():
        if measure not in SETTLED:
            raise InvalidValueError(f"{measure!r} is not settled: expected one of {', '.join(SETTLED)}")
        check_amount(amount)
