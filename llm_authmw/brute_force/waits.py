"""How many failures there may be, and how long one waits then: limits by what failures are counted by.

Several limits of one dimension make the wait grow: while the shortest window refuses, the next failure is moments away; once the longest
one does, it is the lockout. Each is exact, since a rolling window gives back one failure after the other.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, cast

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.contract import Reservation
from llm_authmw.ledger.windows import kind_of, rolling_of, spans_at
from llm_authmw.quota import WINDOWS, Limit

EVERYWHERE: Final = "*"
"""The tenant of the buckets: who guesses belongs to none."""

Dimension: TypeAlias = str
Failures: TypeAlias = Mapping[str, Sequence[str | Limit]]
"""Limits of failures under what they are counted by."""

ADDRESS: Final = "address"
CREDENTIAL_THERE: Final = "address+credential"
CREDENTIAL: Final = "credential"
CALLER: Final = "caller"
GLOBAL: Final = "global"

DEFAULTS: Final[dict[Dimension, tuple[str, ...]]] = {
    ADDRESS: ("10 requests/minute, burst 10", "30 requests/hour, burst 30", "100 requests/day, burst 100"),
    # Lower than that of the network, so that one client with one wrong key never uses up what all those beside it have.
    CREDENTIAL_THERE: ("5 requests/minute, burst 5", "15 requests/hour, burst 15", "40 requests/day, burst 40"),
    CREDENTIAL: ("100 requests/day, burst 100",),
    CALLER: ("100 requests/day, burst 100",),
    GLOBAL: ("1000 requests/hour, burst 1000",),
}
"""The limits of each dimension that is left out."""

STOPPING: Final = frozenset({ADDRESS, CREDENTIAL_THERE})
"""What locks somebody out: only that which is from one network. The others tell, and stop nobody."""

_SECONDS: Final = 1_000_000


class Subject(NamedTuple):
    """What a failure is counted for.

    Attributes:
        dimension: What it is counted by.
        name: Which network, credential, caller.
    """

    dimension: Dimension
    name: str


class Refused(NamedTuple):
    """That there were too many failures.

    Attributes:
        subject: Of what.
        limit: The limit that was reached, of several the one that holds for the longest time.
        rule: The bucket's name.
        wait: Seconds until there may be one more.
        lasting: Whether that is the longest limit of its dimension: the lockout.
    """

    subject: Subject
    limit: Limit
    rule: str
    wait: float
    lasting: bool


class Waits:
    """The limits of each dimension.

    Args:
        limits: Those that are not the defaults; an empty list counts nothing by that dimension.

    Raises:
        ConfigurationError: a dimension is none, or a limit is none of requests in a time.
    """

    __slots__ = ("_limits",)

    def __init__(self, limits: Failures | None) -> None:
        given: dict[str, Any] = {} if limits is None else dict(limits)
        unknown = given.keys() - DEFAULTS.keys()
        if unknown:
            raise ConfigurationError("limits", f"{min(unknown)!r} is nothing that failures are counted by: expected {', '.join(DEFAULTS)}")
        self._limits: Final = {dimension: _parsed(given.get(dimension, texts)) for dimension, texts in DEFAULTS.items()}
        if not any(self._limits[dimension] for dimension in STOPPING):
            raise ConfigurationError("limits", "stop nobody: leave the layer out, or limit failures by address")

    def __repr__(self) -> str:
        return repr({dimension: [str(limit) for limit in limits] for dimension, limits in self._limits.items()})

    def counts(self, dimension: Dimension) -> bool:
        """Say whether anything is counted by it."""
        return bool(self._limits[dimension])

    def number(self, dimension: Dimension) -> int:
        """Return how many limits it has."""
        return len(self._limits[dimension])

    def claims(self, subject: Subject, now: float) -> list[Claim]:
        """Return what one failure claims.

        Args:
            subject: Whose it is.
            now: Seconds since 1970.
        """
        return [Claim(_bucket(limit, subject, now), 1) for limit in self._limits[subject.dimension]]

    def refused(self, subject: Subject, first: int, answer: Reservation) -> Refused | None:
        """Return what an answer says of one subject.

        Args:
            subject: The subject.
            first: The place of its first claim among those that were made.
            answer: The ledger's.
        """
        limits = self._limits[subject.dimension]
        reached = [(refusal.wait or 0, refusal.claim - first) for refusal in answer.refusals if 0 <= refusal.claim - first < len(limits)]
        if not reached:
            return None
        wait, place = max(reached)
        longest = any(place == len(limits) - 1 for _, place in reached)
        return Refused(subject, limits[place], _name(limits[place], subject), wait / _SECONDS, longest)


def _parsed(given: Any) -> tuple[Limit, ...]:
    if not isinstance(given, list | tuple):
        raise ConfigurationError("limits", "takes a list of limits under each dimension, such as ['5 requests/minute, burst 5']")
    limits: list[Limit] = []
    for entry in cast("Sequence[Any]", given):
        try:
            limit = entry if isinstance(entry, Limit) else Limit.parse(entry)
        except (InvalidValueError, TypeError) as error:
            raise ConfigurationError("limits", str(error)) from None
        if limit.unit != "requests" or limit.window is None:
            raise ConfigurationError("limits", f"{str(limit)!r} counts no requests in a time, and a failure is a request")
        limits.append(limit)
    if len({limit.window for limit in limits}) < len(limits):
        raise ConfigurationError("limits", "has two of one window for one dimension: write one")
    return tuple(sorted(limits, key=lambda limit: WINDOWS.index(limit.window or "")))


def _name(limit: Limit, subject: Subject) -> str:
    window = f"{limit.window}" if limit.calendar else f"{limit.window} rolling"
    return f"failures / {subject.dimension}:{subject.name} / requests / {window}"


@lru_cache(maxsize=1024)
def _bucket_of(limit: Limit, subject: Subject) -> Bucket:
    rolling = rolling_of(limit)
    return Bucket(
        tenant=EVERYWHERE,
        name=_name(limit, subject),
        kind="rolling",
        measure="requests",
        limit=limit.amount,
        burst=rolling.burst,
        period=rolling.period,
    )


def _bucket(limit: Limit, subject: Subject, now: float) -> Bucket:
    if kind_of(limit) == "rolling":
        return _bucket_of(limit, subject)
    return Bucket(
        tenant=EVERYWHERE,
        name=_name(limit, subject),
        kind="window",
        measure="requests",
        limit=limit.amount,
        spans=spans_at(limit, now),
    )
