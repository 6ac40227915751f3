"""Sums of use, as the functions in the database take them and as they come back."""

from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from typing import Any, Final

import anyio.lowlevel
import asyncpg
import msgspec

from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.postgres.statements import Statement
from llm_authmw.stores.rows import UnreadableRowError
from llm_authmw.stores.trail.report import Report, days_of, filters_of
from llm_authmw.stores.trail.sums import Combination, Holder, Sum, Sums, places
from llm_authmw.stores.trail.terms import storable
from llm_authmw.trail.protocols import UsageQuery

_NAMES: Final = 'tenant, day, key, realm, "user", team, org, model, extra'
_AMOUNTS: Final = "requests, denied, failed, input_tokens, output_tokens, cost"
# Here and below, names are our own and values are parameters.
_SELECT: Final = f"SELECT {_NAMES}, {_AMOUNTS}, latency::text AS latency, first_byte::text AS first_byte FROM authmw_usage_sums"  # noqa: S608 - see above
_DAYS: Final = "SELECT DISTINCT tenant, day FROM authmw_usage_sums WHERE {} AND day BETWEEN :first AND :last"
_OF_USER: Final = Statement(_SELECT + ' WHERE tenant = :tenant AND "user" = :name AND (:realm::text IS NULL OR realm = :realm)')
_DROP_OF_USER: Final = Statement(
    'DELETE FROM authmw_usage_sums WHERE tenant = :tenant AND "user" = :name AND (:realm::text IS NULL OR realm = :realm)'
)
_ADD: Final = "SELECT authmw_usage_add(jsonb_populate_record(NULL::authmw_usage_sums, value)) FROM jsonb_array_elements($1)"
_LOCK: Final = "SELECT authmw_audit_lock()"

_histogram: Final = msgspec.json.Decoder(dict[int, int])


def as_json(sums: Sums) -> str:
    """Return what was used as `authmw_usage_count` takes it: the rows that each of them may be added to."""
    return _json([[_row(place, used) for place in places(combination)] for combination, used in sums.items()])


async def report(connection: Connection, query: UsageQuery) -> Report:
    """Return what a query wants. A day is read at a time, so that the event loop waits for none of them long."""
    found = Report(query)
    async for rows in _days(connection, query):
        found.add(_read(row) for row in rows)
        await anyio.lowlevel.checkpoint()
    return found


async def forget(connection: Connection, tenant: str, user: str, realm: str | None) -> None:
    """Add somebody's sums to those of nobody, in the transaction that the connection is in."""
    await connection.execute(_LOCK)
    values = {"tenant": storable(tenant), "name": storable(user), "realm": None if realm is None else storable(realm)}
    nameless: Sums = {}
    for row in await connection.fetch(*_OF_USER(values)):
        combination, used = _read(row)
        nameless.setdefault(combination.without_user(), Sum()).add(used)
    await connection.execute(*_DROP_OF_USER(values))
    await connection.execute(_ADD, _json([_row(combination, used) for combination, used in nameless.items()]))


async def _days(connection: Connection, query: UsageQuery) -> AsyncIterator[list[asyncpg.Record]]:
    first, last = days_of(query)
    given = filters_of(query)
    values: dict[str, Any] = {**given, "first": first, "last": last}
    days = await connection.fetch(*Statement(_DAYS.format("tenant = :tenant" if "tenant" in given else "true"))(values))
    conditions = [f'"{name}" = :{name}' for name in given if name != "tenant"]
    statement = Statement(" AND ".join([f"{_SELECT} WHERE tenant = :tenant AND day = :day", *conditions]))
    for tenant, day in days:
        yield await connection.fetch(*statement({**values, "tenant": tenant, "day": day}))


def _row(combination: Combination, used: Sum) -> dict[str, Any]:
    holder = combination.holder
    named = {**holder._asdict(), "model": combination.model, "extra": combination.extra}
    return {**named, "holder": _digest(*holder), "combination": _digest(*holder, *combination[1:]), **msgspec.structs.asdict(used)}


def _digest(*names: str | int) -> str:
    return "\\x" + sha256(msgspec.json.encode(names)).hexdigest()


def _json(value: Iterable[Any]) -> str:
    return msgspec.json.encode(value).decode()


def _read(row: asyncpg.Record) -> tuple[Combination, Sum]:
    try:
        times = [_histogram.decode(row[name]) for name in ("latency", "first_byte")]
    except msgspec.MsgspecError:  # its text quotes what it read
        raise UnreadableRowError from None
    return Combination(Holder(*row[:7]), row["model"], row["extra"]), Sum(*row[9:15], *times)
