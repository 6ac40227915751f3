"""Sums as they are asked for: added up by what the query names."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from llm_authmw.dates import day_text, parse_day
from llm_authmw.errors import InvalidValueError
from llm_authmw.stores.trail.histogram import percentiles
from llm_authmw.stores.trail.sums import AMOUNTS, Combination, Sum
from llm_authmw.stores.trail.terms import storable
from llm_authmw.trail.protocols import UsageQuery, UsageRow

OF_HOLDER: Final = ("tenant", "day", "key", "realm", "user", "team", "org")
DIMENSIONS: Final = (*OF_HOLDER, "model")
"""What use can be summed up by; anything else is the name of an enriched field."""
FILTERS: Final = ("tenant", "key", "user", "team", "org", "model")

_LAST_DAY: Final = 2_932_896
"""The last one of the year 9999."""

_fields: Final = msgspec.json.Decoder(dict[str, str])


def filters_of(query: UsageQuery) -> dict[str, str]:
    """Return the names that sums must have, as they are stored."""
    return {name: storable(value) for name in FILTERS if (value := getattr(query, name)) is not None}


def days_of(query: UsageQuery) -> tuple[int, int]:
    """Return the first and the last day, as numbers of days since 1970.

    Raises:
        InvalidValueError: one of them is no date.
    """
    return _day(query.since, 0), _day(query.until, _LAST_DAY)


class Report:
    """The rows of one query, from any number of sums.

    Args:
        query: What is wanted. The sums that are added are its own: nothing is left out here.
    """

    def __init__(self, query: UsageQuery) -> None:
        self._query: Final = query
        self._own: Final = [name for name in query.by if name in DIMENSIONS]
        self._enriched: Final = [name for name in query.by if name not in DIMENSIONS]
        self._found: Final[dict[tuple[str | None, ...], Sum]] = {}

    def add(self, sums: Iterable[tuple[Combination, Sum]]) -> None:
        """Add sums."""
        for combination, used in sums:
            by = self._by(combination)
            present = self._found.get(by)
            if present is None:
                self._found[by] = present = Sum()
            present.add(used)

    def rows(self) -> Sequence[UsageRow]:
        """Return the rows, those that cost most first, and of equals those with more requests."""
        names = (*self._own, *self._enriched)
        order = [names.index(name) for name in self._query.by]
        found = sorted(self._found.items(), key=lambda item: (-item[1].cost, -item[1].requests, [value or "" for value in item[0]]))
        return [_row({names[place]: by[place] for place in order}, used) for by, used in found[: self._query.limit]]

    def _by(self, combination: Combination) -> tuple[str | None, ...]:
        values: list[str | None] = []
        for name in self._own:
            if name == "day":
                values.append(day_text(combination.holder.day))
            else:
                values.append((combination.model if name == "model" else getattr(combination.holder, name)) or None)
        if self._enriched:
            extra = _fields.decode(combination.extra)
            values += [extra.get(storable(name)) for name in self._enriched]
        return tuple(values)


def _day(text: str | None, otherwise: int) -> int:
    try:
        return otherwise if text is None else parse_day(text)
    except ValueError as error:
        raise InvalidValueError(str(error)) from None


def _row(by: dict[str, str | None], used: Sum) -> UsageRow:
    amounts: dict[str, int] = {name: getattr(used, name) for name in AMOUNTS}
    return UsageRow(by=by, latency=percentiles(used.latency), first_byte=percentiles(used.first_byte), **amounts)
