"""What the scripts answer: numbers that a double holds. What may pass 2^53, or is to be worded, is worked out here."""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from llm_authmw.errors import AuthmwError, InvalidValueError, StoreError, StoreUnavailableError
from llm_authmw.ledger import gcra
from llm_authmw.ledger.buckets import Claim
from llm_authmw.ledger.contract import Balance, Refusal

Status: TypeAlias = Literal[
    "granted",
    "refused",
    "settled",
    "unknown",
    "void",
    "extended",
    "balance",
    "acknowledged",
    "outside",
    "too long",
    "too many",
    "too much",
    "lost",
]

_NUMBERS: Final = 6
"""Of one bucket: limit, burst, period, the end of its window, what is used, and a part of one."""

_LOST: Final = (
    "holds no ledger, or less of it than it did: it is new, or has lost what was counted. Nothing is granted until somebody has looked, "
    "and acknowledged it with RedisLedger.acknowledge(), or llm-authmw ledger acknowledge"
)
_FAILURES: Final[dict[Status, tuple[type[AuthmwError], str]]] = {
    "outside": (StoreError, "has a clock that is in none of the windows that it was given: the clocks differ"),
    "too long": (InvalidValueError, "would hold a bucket that is in debt for longer than can be counted"),
    "too many": (InvalidValueError, "gives one request at most 1000 places of a limit on concurrency"),
    "too much": (InvalidValueError, "would hold more in a bucket than can be counted"),
    "void": (StoreError, "was told that this reservation is over before it was made, and booked nothing"),
    "lost": (StoreUnavailableError, _LOST),
}


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a script answers.

    Attributes:
        status: What became of it.
        at: The store's time.
        late: The reservation had expired before it was settled.
        numbers: Of each bucket six numbers; of an extension one for each reservation.
        refused: The places of the claims that were refused.
    """

    status: Status
    at: int
    late: bool = False
    numbers: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()


def failure_of(answer: Answer, place: str) -> AuthmwError | None:
    """Return the error that an answer is, if it is one."""
    if answer.status not in _FAILURES:
        return None
    kind, text = _FAILURES[answer.status]
    return kind(f"{place} {text}")


def balances_of(answer: Answer) -> tuple[Balance, ...]:
    """Return what the buckets stand at."""
    numbers = answer.numbers
    return tuple([_balance(numbers[first : first + _NUMBERS], answer.at) for first in range(0, len(numbers), _NUMBERS)])


def refusals_of(answer: Answer, claims: Sequence[Claim]) -> tuple[Refusal, ...]:
    """Return which claims were refused, and for how long."""
    return tuple([_refusal(place, claims[place], answer) for place in answer.refused])


def _balance(numbers: tuple[int, ...], at: int) -> Balance:
    limit, burst, period, ends, used, part = numbers
    if not period:
        return Balance(used, limit, max(0, limit - used), ends or None)
    missing = used * limit + part
    used = -(-missing // period)
    return Balance(used, limit, max(0, burst - used), at - (-missing // limit) if missing else None)


def _refusal(place: int, claim: Claim, answer: Answer) -> Refusal:
    bucket = claim.bucket
    if claim.amount > bucket.capacity:
        return Refusal(place, never=True, wait=None)
    limit, _, _, ends, used, part = answer.numbers[place * _NUMBERS : (place + 1) * _NUMBERS]
    if bucket.kind == "rolling":
        return Refusal(place, never=False, wait=gcra.wait(used * limit + part, claim.amount, bucket))
    return Refusal(place, never=False, wait=ends - answer.at if ends else None)
