"""Sums of use as rows of SQLite, many in one statement."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from llm_authmw.stores.sqlite.lots import decoded, flat, insert_rows, lots, wanted
from llm_authmw.stores.trail.report import Report, days_of, filters_of
from llm_authmw.stores.trail.sums import Combination, Holder, Sum, Sums, placed, places
from llm_authmw.stores.trail.terms import storable
from llm_authmw.trail.protocols import UsageQuery

_HOLDER: Final = "tenant, day, key, realm, user, team, org"
_KEY: Final = f"{_HOLDER}, model, extra"
_AMOUNTS: Final = "requests, denied, failed, input_tokens, output_tokens, cost"
_COLUMNS: Final = f"{_KEY}, {_AMOUNTS}, latency, first_byte"
# Here and below, names are our own and values are parameters.
_ROWS: Final = f"SELECT json_group_array(json_array({_KEY}, {_AMOUNTS}, json(latency), json(first_byte))) FROM"
_PRESENT: Final = f"{_ROWS} wanted CROSS JOIN sums USING ({_KEY})"
_OF_HOLDERS: Final = f"SELECT json_group_array(json_array({_HOLDER}, found)) FROM (SELECT {_HOLDER}, count(*) AS found FROM wanted CROSS JOIN sums USING ({_HOLDER}) GROUP BY {_HOLDER})"  # noqa: E501, S608 - see above
_OF_DAY: Final = "SELECT count(*) FROM sums WHERE tenant = ? AND day = ?"
_PUT: Final = f"ON CONFLICT ({_KEY}) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in f"{_AMOUNTS}, latency, first_byte".split(", ")
)
_DAYS: Final = """
    SELECT json_group_array(json_array(tenant, day)) FROM (SELECT DISTINCT tenant, day FROM sums WHERE {} AND day BETWEEN :first AND :last)
"""
_DAYS_OF_USER: Final = """
    SELECT json_group_array(DISTINCT day) FROM sums WHERE tenant = :tenant AND user = :user AND (:realm IS NULL OR realm = :realm)
"""
_OF_USER: Final = f"{_ROWS} sums WHERE tenant = :tenant AND day = :day AND user = :user AND (:realm IS NULL OR realm = :realm)"
_DROP: Final = "DELETE FROM sums WHERE tenant = :tenant AND day = :day AND user = :user AND (:realm IS NULL OR realm = :realm)"

_Row = tuple[str, int, str, str, str, str, str, str, str, int, int, int, int, int, int, dict[int, int], dict[int, int]]
_rows: Final = msgspec.json.Decoder(list[_Row])
_counts: Final = msgspec.json.Decoder(list[tuple[str, int, str, str, str, str, str, int]])
_days: Final = msgspec.json.Decoder(list[tuple[str, int]])
_numbers: Final = msgspec.json.Decoder(list[int])


def count(connection: sqlite3.Connection, sums: Sums) -> None:
    """Add to the sums."""
    if not sums:
        return
    present = dict(_read(connection, {place for combination in sums for place in places(combination)}))
    holders = {combination.holder for combination in sums if combination not in present}
    of_holder = _of_holders(connection, holders)
    of_day = {holder[:2]: 0 for holder in holders}
    for day in of_day:
        (of_day[day],) = connection.execute(_OF_DAY, day).fetchone()
    changed: Sums = {}
    for combination, used in placed(sums, set(present), of_holder, of_day).items():
        changed[combination] = present.get(combination) or Sum()
        changed[combination].add(used)
    _write(connection, changed)


def report(connection: sqlite3.Connection, query: UsageQuery) -> Report:
    """Return what a query wants."""
    found = Report(query)
    first, last = days_of(query)
    values: dict[str, Any] = filters_of(query)
    conditions = [f"{name} = :{name}" for name in values]
    own_tenant = "tenant = :tenant" if "tenant" in values else "1"
    (text,) = connection.execute(_DAYS.format(own_tenant), {**values, "first": first, "last": last}).fetchone()
    statement = f"{_ROWS} sums WHERE {' AND '.join([*conditions, 'tenant = :tenant', 'day = :day'])}"
    for tenant, day in decoded(_days, text):
        (rows,) = connection.execute(statement, {**values, "tenant": tenant, "day": day}).fetchone()
        found.add(_sums(rows))
    return found


def days_of_user(connection: sqlite3.Connection, tenant: str, user: str, realm: str | None) -> list[int]:
    """Return the days on which somebody used something."""
    (text,) = connection.execute(_DAYS_OF_USER, _of_user(tenant, user, realm)).fetchone()
    return decoded(_numbers, text)


def forget(connection: sqlite3.Connection, tenant: str, user: str, realm: str | None, day: int) -> None:
    """Add the sums of somebody's day to those of nobody."""
    values = {**_of_user(tenant, user, realm), "day": day}
    (text,) = connection.execute(_OF_USER, values).fetchone()
    nameless: Sums = {}
    for combination, used in _sums(text):
        nameless.setdefault(combination.without_user(), Sum()).add(used)
    connection.execute(_DROP, values)
    for combination, used in _read(connection, nameless):
        nameless[combination].add(used)
    _write(connection, nameless)


def _of_user(tenant: str, user: str, realm: str | None) -> dict[str, str | None]:
    return {"tenant": storable(tenant), "user": storable(user), "realm": None if realm is None else storable(realm)}


def _read(connection: sqlite3.Connection, combinations: Iterable[Combination]) -> Iterable[tuple[Combination, Sum]]:
    for lot in lots([(*combination.holder, combination.model, combination.extra) for combination in combinations]):
        (text,) = connection.execute(wanted(_KEY, 9, len(lot), _PRESENT), flat(lot)).fetchone()
        yield from _sums(text)


def _of_holders(connection: sqlite3.Connection, holders: Iterable[Holder]) -> dict[Holder, int]:
    found = Counter[Holder]()
    for lot in lots(list(holders)):
        # A holder that fills up a lot is there more than once, and is counted once.
        unique = list(dict.fromkeys(lot))
        (text,) = connection.execute(wanted(_HOLDER, 7, len(unique), _OF_HOLDERS), flat(unique)).fetchone()
        for row in decoded(_counts, text):
            found[Holder(*row[:7])] = row[7]
    return found


def _write(connection: sqlite3.Connection, sums: Sums) -> None:
    rows = [
        (
            *combination.holder,
            combination.model,
            combination.extra,
            *(used.requests, used.denied, used.failed, used.input_tokens, used.output_tokens, used.cost),
            msgspec.json.encode(used.latency).decode(),
            msgspec.json.encode(used.first_byte).decode(),
        )
        for combination, used in sums.items()
    ]
    for lot in lots(rows):
        connection.execute(insert_rows(f"sums ({_COLUMNS})", 17, len(lot), _PUT), flat(lot))


def _sums(text: str) -> Iterable[tuple[Combination, Sum]]:
    for row in decoded(_rows, text):
        yield Combination(Holder(*row[:7]), row[7], row[8]), Sum(*row[9:])
