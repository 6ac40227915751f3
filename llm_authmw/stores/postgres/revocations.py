"""Revocations in PostgreSQL."""

from typing import Final

import anyio.lowlevel
import asyncpg
import msgspec

from llm_authmw.clock import Clock
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.feed import append_change
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.postgres.statements import Statement, insert, is_storable, select, update
from llm_authmw.stores.rows import UnreadableRowError
from llm_authmw.tokens.revocation_records import KEPT_AFTER_END, LiveRevocations, Revocation, RevocationPage, RevocationQuery, merged

_FIELDS: Final = Revocation.__struct_fields__
_KEPT: Final = "(expires_at IS NULL OR expires_at > :ended)"
_STANDING: Final = "lifted_at IS NULL"
_INSERT: Final = Statement(insert("authmw_revocations", _FIELDS))
_UPDATE: Final = Statement(update("authmw_revocations", _FIELDS, "tenant = :tenant", "id = :id"))
_SELECT_STANDING: Final = Statement(
    select("authmw_revocations", _FIELDS, "tenant = :tenant", "kind = :kind", "issuer = :issuer", "value = :value", _STANDING)
)
# A person lifts one now and then; where he names no tenant, it may look at every row.
_SELECT_BY_ID: Final = Statement(
    select("authmw_revocations", _FIELDS, "id = :id", "(:tenant::text IS NULL OR tenant = :tenant)", _KEPT) + " ORDER BY tenant LIMIT 1"
)
_FORGET: Final = "DELETE FROM authmw_revocations WHERE tenant = $1 AND expires_at <= $2"
# Every process reads all that stands whenever one revocation changes, and there may be very many. They come as columns of some
# thousand values: for each row the client would make an object, and for all of them in one row the event loop would have to wait.
_AT_ONCE: Final = 2000
_LIVE: Final = f"""
    SELECT array_agg(tenant), array_agg(kind), array_agg(issuer), array_agg(value), array_agg(coalesce(issued_before, 'Infinity'))
    FROM (
        SELECT tenant, kind, issuer, value, issued_before, row_number() OVER () / {_AT_ONCE} AS part FROM authmw_revocations
        WHERE lifted_at IS NULL AND (expires_at IS NULL OR expires_at > $1)
    ) AS standing GROUP BY part
"""  # noqa: S608 - a number of our own
_FILTERS: Final = {
    "tenant": "tenant = :tenant",
    "kind": "kind = :kind",
    "issuer": "issuer = :issuer",
    "value": "value = :value",
    "after": "(created_at, id) < (:created_at, :id)",
}


class PostgresRevocations:
    """See `RevocationStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._now: Final = clock.now

    async def add(self, revocation: Revocation) -> Revocation:
        """See `RevocationStore`."""
        now = self._now()
        return await self._database.change(lambda connection: _add(connection, revocation, now))

    async def lift(self, revocation_id: str, *, tenant: str | None, at: float, actor: str) -> Revocation | None:
        """See `RevocationStore`."""
        if not is_storable(revocation_id, tenant):
            return None
        now = self._now()
        return await self._database.change(lambda connection: _lift(connection, revocation_id, tenant, at, actor, now))

    async def query(self, query: RevocationQuery) -> RevocationPage:
        """See `RevocationStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        if not is_storable(query.tenant, query.issuer, query.value, *(before or ())[1:]):
            return RevocationPage((), None)
        now = self._now()
        return await self._database.read(lambda connection: _query(connection, query, before, now))

    async def live(self) -> LiveRevocations:
        """See `RevocationStore`."""
        ended = self._now() - KEPT_AFTER_END
        rows = await self._database.read(lambda connection: connection.fetch(_LIVE, ended))
        live: dict[tuple[str, str, str, str], float] = {}
        for tenants, kinds, issuers, values, moments in rows:
            live.update(zip(zip(tenants, kinds, issuers, values, strict=True), moments, strict=True))
            await anyio.lowlevel.checkpoint()
        return live


async def _add(connection: Connection, revocation: Revocation, now: float) -> Revocation:
    await connection.execute(_FORGET, revocation.tenant, now - KEPT_AFTER_END)
    row = await connection.fetchrow(*_SELECT_STANDING(revocation.ref._asdict()))
    present = None if row is None else _read(row)
    standing = merged(present, revocation)
    if standing != present:
        await _write(connection, _INSERT if present is None else _UPDATE, standing, now)
    return standing


async def _lift(connection: Connection, revocation_id: str, tenant: str | None, at: float, actor: str, now: float) -> Revocation | None:
    row = await connection.fetchrow(*_SELECT_BY_ID({"id": revocation_id, "tenant": tenant, "ended": now - KEPT_AFTER_END}))
    present = None if row is None else _read(row)
    if present is None or present.lifted_at is not None:
        return present
    lifted = msgspec.structs.replace(present, lifted_at=at, lifted_by=actor)
    await _write(connection, _UPDATE, lifted, now)
    return lifted


async def _write(connection: Connection, statement: Statement, revocation: Revocation, now: float) -> None:
    await connection.execute(*statement(revocation.as_dict()))
    await append_change(connection, "revocations", revocation.tenant, revocation.id, now)


async def _query(connection: Connection, query: RevocationQuery, before: tuple[float, str] | None, now: float) -> RevocationPage:
    values = query._asdict()
    conditions = [condition for name, condition in _FILTERS.items() if values[name] is not None]
    conditions += [_KEPT, "lifted_at IS NOT NULL" if query.lifted else _STANDING]
    values["created_at"], values["id"] = before or (None, None)
    values["ended"] = now - KEPT_AFTER_END
    values["limit"] = query.size + 1
    statement = select("authmw_revocations", _FIELDS, *conditions) + " ORDER BY created_at DESC, id DESC LIMIT :limit"
    found = await connection.fetch(*Statement(statement)(values))
    page = tuple(_read(row) for row in found[: query.size])
    return RevocationPage(page, write_cursor((page[-1].created_at, page[-1].id)) if len(found) > query.size else None)


def _read(row: asyncpg.Record) -> Revocation:
    try:
        return msgspec.convert(dict(row), Revocation)
    except msgspec.ValidationError:  # its text quotes what it read
        raise UnreadableRowError from None
