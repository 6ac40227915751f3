"""Revocations in SQLite."""

import math
import sqlite3
from typing import Final

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.rows import is_text
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.feed import append_change
from llm_authmw.stores.sqlite.rows import insert, select, update
from llm_authmw.tokens.revocation_records import KEPT_AFTER_END, LiveRevocations, Revocation, RevocationPage, RevocationQuery, merged

_FIELDS: Final = Revocation.__struct_fields__
_KEPT: Final = "(expires_at IS NULL OR expires_at > :ended)"
_STANDING: Final = "lifted_at IS NULL"
_INSERT: Final = insert("revocations", _FIELDS)
_UPDATE: Final = update("revocations", _FIELDS, "tenant = :tenant", "id = :id")
_SELECT_STANDING: Final = select(
    "revocations", _FIELDS, "tenant = :tenant", "kind = :kind", "issuer = :issuer", "value = :value", _STANDING
)
# A person lifts one now and then; where he names no tenant, it may look at every row.
_SELECT_BY_ID: Final = select("revocations", _FIELDS, "id = :id", "(:tenant IS NULL OR tenant = :tenant)", _KEPT)
# Every process reads all that stands whenever one revocation changes, and there may be very many. They come as one row: at each row
# a thread lets go of the interpreter, and beside a busy event loop it waits for milliseconds until it has it again. The `+` keeps
# SQLite from going through an index, and from there to and fro in the table. Nineteen digits give the very number that is stored.
_MOMENT: Final = "iif(issued_before IS NULL, NULL, printf('%!.19g', issued_before))"
_SELECT_LIVE: Final = select(
    "revocations", (f"json_group_array(json_array(tenant, kind, issuer, value, {_MOMENT}))",), f"+{_STANDING}", _KEPT
)
_LIVE: Final = msgspec.json.Decoder(list[tuple[str, str, str, str, str | None]])
_FILTERS: Final = {
    "tenant": "tenant = :tenant",
    "kind": "kind = :kind",
    "issuer": "issuer = :issuer",
    "value": "value = :value",
    "after": "(created_at, id) < (:created_at, :id)",
}


class SQLiteRevocations:
    """See `RevocationStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._now: Final = clock.now

    async def add(self, revocation: Revocation) -> Revocation:
        """See `RevocationStore`."""
        now = self._now()
        return await self._database.write(lambda connection: _add(connection, revocation, now))

    async def lift(self, revocation_id: str, *, tenant: str | None, at: float, actor: str) -> Revocation | None:
        """See `RevocationStore`."""
        if not is_text(revocation_id, tenant):
            return None
        now = self._now()
        return await self._database.write(lambda connection: _lift(connection, revocation_id, tenant, at, actor, now))

    async def query(self, query: RevocationQuery) -> RevocationPage:
        """See `RevocationStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        if not is_text(query.tenant, query.issuer, query.value):
            return RevocationPage((), None)
        now = self._now()
        return await self._database.read(lambda connection: _query(connection, query, before, now))

    async def live(self) -> LiveRevocations:
        """See `RevocationStore`."""
        now = self._now()
        return await self._database.read(lambda connection: _live(connection, now))


def _add(connection: sqlite3.Connection, revocation: Revocation, now: float) -> Revocation:
    connection.execute("DELETE FROM revocations WHERE tenant = ? AND expires_at <= ?", (revocation.tenant, now - KEPT_AFTER_END))
    row = connection.execute(_SELECT_STANDING, revocation.ref._asdict()).fetchone()
    present = None if row is None else _read(row)
    standing = merged(present, revocation)
    if standing != present:
        _write(connection, _INSERT if present is None else _UPDATE, standing, now)
    return standing


def _lift(connection: sqlite3.Connection, revocation_id: str, tenant: str | None, at: float, actor: str, now: float) -> Revocation | None:
    row = connection.execute(_SELECT_BY_ID, {"id": revocation_id, "tenant": tenant, "ended": now - KEPT_AFTER_END}).fetchone()
    present = None if row is None else _read(row)
    if present is None or present.lifted_at is not None:
        return present
    lifted = msgspec.structs.replace(present, lifted_at=at, lifted_by=actor)
    _write(connection, _UPDATE, lifted, now)
    return lifted


def _write(connection: sqlite3.Connection, statement: str, revocation: Revocation, now: float) -> None:
    connection.execute(statement, revocation.as_dict())
    append_change(connection, "revocations", revocation.tenant, revocation.id, now)


def _query(connection: sqlite3.Connection, query: RevocationQuery, before: tuple[float, str] | None, now: float) -> RevocationPage:
    values = query._asdict()
    conditions = [condition for name, condition in _FILTERS.items() if values[name] is not None]
    conditions += [_KEPT, "lifted_at IS NOT NULL" if query.lifted else _STANDING]
    values["created_at"], values["id"] = before or (None, None)
    values["ended"] = now - KEPT_AFTER_END
    values["limit"] = query.size + 1
    statement = select("revocations", _FIELDS, *conditions) + " ORDER BY created_at DESC, id DESC LIMIT :limit"
    found = connection.execute(statement, values).fetchall()
    page = tuple(_read(row) for row in found[: query.size])
    return RevocationPage(page, write_cursor((page[-1].created_at, page[-1].id)) if len(found) > query.size else None)


def _live(connection: sqlite3.Connection, now: float) -> LiveRevocations:
    (found,) = connection.execute(_SELECT_LIVE, {"ended": now - KEPT_AFTER_END}).fetchone()
    return {
        (tenant, kind, issuer, value): math.inf if moment is None else float(moment)
        for tenant, kind, issuer, value, moment in _LIVE.decode(found)
    }


def _read(row: sqlite3.Row) -> Revocation:
    try:
        return msgspec.convert(dict(row), Revocation)
    except msgspec.ValidationError:  # its text quotes what it read
        raise sqlite3.DataError("a record cannot be read") from None
