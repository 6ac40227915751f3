"""What was used, summed up by who and what it was: the sums that a store keeps are made, placed and added up here, for all stores alike.

How many there are is bounded, since names come from outside: a caller who names ever new models has a hundred sums a day, and then one
more for all the rest of his.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from llm_authmw.stores.trail.histogram import Histogram, add, bucket_of
from llm_authmw.stores.trail.terms import storable
from llm_authmw.trail.record import Detail, Record

OTHER: Final = "(other)"
"""The name of all for which there is no room any more."""
MAX_SUMS: Final = 10_000
"""Sums of one tenant and day; what comes then is in one more."""
MAX_SUMS_OF_ONE: Final = 100
"""Sums of one tenant and day that differ in the model and the enriched fields only; what comes then is in one more."""
MAX_AMOUNT: Final = 2**62
"""A sum grows no further: what a database can hold ends a little above."""

_KEYS: Final = frozenset({"key", "master_key"})
"""Methods whose credentials are few and known. A token has an id of its own each."""
_DAY: Final = 86_400_000_000


class Holder(NamedTuple):
    """Who used something on one day, the empty text where that is not said."""

    tenant: str
    day: int
    key: str
    realm: str
    user: str
    team: str
    org: str


class Combination(NamedTuple):
    """What a sum is of.

    Attributes:
        holder: Who.
        model: The model that answered, or was asked for; empty where none was, and for what was denied, since anybody can name anything.
        extra: Enriched fields and their values, as a JSON object with sorted names.
    """

    holder: Holder
    model: str = ""
    extra: str = "{}"

    def without_user(self) -> "Combination":
        """Return the same of nobody."""
        return self._replace(holder=self.holder._replace(user="", realm=""))


class Sum(msgspec.Struct, gc=False):
    """What was used. See `UsageRow`; times are histograms."""

    requests: int = 0
    denied: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    latency: Histogram = {}
    first_byte: Histogram = {}

    def add(self, other: "Sum") -> None:
        """Add another one to it."""
        for name in AMOUNTS:
            setattr(self, name, min(getattr(self, name) + getattr(other, name), MAX_AMOUNT))
        add(self.latency, other.latency)
        add(self.first_byte, other.first_byte)


AMOUNTS: Final = ("requests", "denied", "failed", "input_tokens", "output_tokens", "cost")

Sums: TypeAlias = dict[Combination, Sum]


def sums_of(records: Iterable[Record]) -> Sums:
    """Return what the requests among these records used."""
    sums: Sums = {}
    for record in records:
        if record.kind == "request":
            combination = _combination(record)
            found = sums.get(combination)
            if found is None:
                found = sums[combination] = Sum()
            _count(found, record)
    return sums


def placed(
    sums: Mapping[Combination, Sum], known: set[Combination], of_holder: dict[Holder, int], of_day: dict[tuple[str, int], int]
) -> Sums:
    """Return what is to be added to which sums, so that there are no more of them than there may be.

    Args:
        sums: What was used.
        known: Those of its combinations, and of those that these may be counted to instead, that the store has sums of.
        of_holder: How many sums the store has, by holder; those that are new here are counted too.
        of_day: How many it has by tenant and day; likewise.
    """
    found: Sums = {}
    for combination, used in sums.items():
        place = _place(combination, known, of_holder, of_day)
        present = found.get(place)
        if present is None:
            found[place] = used
        else:
            present.add(used)
    return found


def places(combination: Combination) -> tuple[Combination, Combination, Combination]:
    """Return where a combination is counted to: itself, all the rest of its holder's, and all the rest of its tenant's."""
    holder = combination.holder
    everybody = Holder(holder.tenant, holder.day, OTHER, "", OTHER, OTHER, OTHER)
    return combination, Combination(holder, OTHER), Combination(everybody, OTHER)


def _place(
    combination: Combination, known: set[Combination], of_holder: dict[Holder, int], of_day: dict[tuple[str, int], int]
) -> Combination:
    own, rest_of_holder, rest = places(combination)
    holder, day = own.holder, own.holder[:2]
    if own in known:
        return own
    if of_holder.get(holder, 0) >= MAX_SUMS_OF_ONE:
        own = rest_of_holder
    if own not in known and of_day.get(day, 0) >= MAX_SUMS:
        own = rest
    if own not in known:
        known.add(own)
        of_holder[own.holder] = of_holder.get(own.holder, 0) + 1
        of_day[day] = of_day.get(day, 0) + 1
    return own


def _combination(record: Record) -> Combination:
    who, person = record.who, record.person
    day = record.time // _DAY
    if who is None:
        holder = Holder("", day, "", "", "", "", "")
    else:
        user = None if person is None else person.user
        key = who.credential_id if who.method in _KEYS else None
        holder = Holder(
            storable(who.tenant), day, _text(key), "" if user is None else storable(who.realm), _text(user), _text(who.team), _text(who.org)
        )
    model = None if record.outcome == "denied" else record.served or next(iter(record.models), None)
    return Combination(holder, _text(model), extra_text(record.extra) if record.extra else "{}")


def extra_text(extra: Mapping[str, Detail]) -> str:
    """Return enriched fields as one text; what is None is not there."""
    fields = {storable(name): _detail(value) for name, value in sorted(extra.items()) if value is not None}
    return msgspec.json.encode(fields).decode()


def _count(found: Sum, record: Record) -> None:
    found.requests += 1
    denied = record.outcome == "denied"
    if denied:
        found.denied += 1
    elif record.outcome == "failed" or (record.status or 0) >= 500:
        found.failed += 1
    if record.usage is not None:
        found.input_tokens = min(found.input_tokens + record.usage.input, MAX_AMOUNT)
        found.output_tokens = min(found.output_tokens + record.usage.output, MAX_AMOUNT)
    if record.charge is not None:
        found.cost = min(found.cost + record.charge.amount, MAX_AMOUNT)
    if not denied:
        _take(found.latency, record.duration)
        _take(found.first_byte, record.first_byte)


def _take(histogram: Histogram, microseconds: int | None) -> None:
    if microseconds is not None:
        bucket = bucket_of(microseconds)
        histogram[bucket] = histogram.get(bucket, 0) + 1


def _detail(value: Detail) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else storable(str(value))


def _text(value: str | None) -> str:
    return "" if value is None else storable(value)
