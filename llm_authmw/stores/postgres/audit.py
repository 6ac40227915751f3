"""The audit trail in PostgreSQL. Functions in the database write it (`audit.sql`): every batch is one round trip."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from llm_authmw.errors import ConflictError
from llm_authmw.stores.postgres import usage_sums
from llm_authmw.stores.postgres.database import Database, Work
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.postgres.statements import Statement
from llm_authmw.stores.trail.report import days_of
from llm_authmw.stores.trail.sums import MAX_SUMS, MAX_SUMS_OF_ONE, sums_of
from llm_authmw.stores.trail.terms import TAKEN, end_user_term, personal_terms_of, storable, stored_entry, terms_of, user_term, wanted_terms
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery, StoredEntry, UsageQuery, UsageRow

AT_ONCE: Final = 1000
"""Entries that one transaction removes, or forgets the persons of, at most: others wait for its end."""

_APPEND: Final = "SELECT authmw_audit_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
_OTHERS: Final = """
    SELECT EXISTS (
        SELECT FROM unnest($1::text[], $2::bigint[], $3::text[]) AS given (writer, sequence, hash)
        JOIN authmw_audit_entries AS e USING (writer, sequence) WHERE e.hash <> given.hash
    )
"""
_FORGET: Final = "SELECT authmw_audit_forget($1, $2, $3, $4, $5)"
_REMOVE: Final = "SELECT authmw_audit_remove($1, $2, $3)"
# Where each writer's chain may be cut: at its last checkpoint before the first entry that is to be kept, or at its end where there is none.
_REMOVABLE: Final = """
    SELECT writer, coalesce(
        CASE
            WHEN kept IS NULL THEN (SELECT max(sequence) + 1 FROM authmw_audit_entries WHERE writer = w.writer)
            ELSE (SELECT max(sequence) FROM authmw_audit_entries WHERE writer = w.writer AND kind = 'checkpoint' AND sequence < kept)
        END,
        0
    )
    FROM (SELECT DISTINCT writer FROM authmw_audit_entries WHERE time < $1) AS w
    CROSS JOIN LATERAL (SELECT min(sequence) AS kept FROM authmw_audit_entries WHERE writer = w.writer AND time >= $1) AS k
"""
_COLUMNS: Final = "e.position, e.writer, e.sequence, e.hash, e.sealed, e.person"
_CONDITIONS: Final = {
    "since": "e.time >= :since",
    "until": "e.time < :until",
    "tenant": "e.tenant = :tenant",
    "outcome": "e.outcome = :outcome",
    "after": "e.position > :after",
    "before": "e.position < :before",
}
_HAS_TERM: Final = "EXISTS (SELECT FROM authmw_audit_terms AS t WHERE t.term = :{} AND t.position = e.position)"

_present: Final = msgspec.json.Decoder(list[tuple[str, int]])


class PostgresAudit:
    """See `AuditStore` and `UsageStore`. What was taken is on the server's disk.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    @property
    def durable(self) -> bool:
        """See `TrailStore`."""
        return True

    async def start(self) -> None:
        """Connect now.

        Raises:
            StoreError: it cannot be done; says why.
        """
        await self._database.start()

    async def append(self, entries: Sequence[Entry]) -> None:
        """See `AuditStore`."""
        left = {(entry.writer, entry.sequence): entry for entry in entries}
        while left:
            found: str | None = await self._database.statement(_call(_APPEND, *_append_values(list(left.values()))))
            if found is None:
                return
            # The answer to an earlier try was lost, or it ended late; or somebody has put something else there.
            given = [[entry.writer, entry.sequence, entry.hash] for entry in left.values()]
            if await self._database.read(_call(_OTHERS, *map(list, zip(*given, strict=True)))):
                raise ConflictError(TAKEN)
            for key in _present.decode(found):
                left.pop(key, None)

    async def search(self, query: RecordQuery) -> Sequence[StoredEntry]:
        """See `AuditStore`."""
        statement, values = _search(query)
        rows = await self._database.read(lambda connection: connection.fetch(*statement(values)))
        return [
            stored_entry(position, writer, sequence, digest, sealed.encode(), None if person is None else person.encode())
            for position, writer, sequence, digest, sealed, person in rows
        ]

    async def forget(self, tenant: str, user: str, *, realm: str | None = None) -> int:
        """See `AuditStore`."""
        some = _call(_FORGET, storable(tenant), user_term(user), end_user_term(user), None if realm is None else storable(realm), AT_ONCE)
        forgotten = 0
        while found := await self._database.write(some):
            forgotten += found
        await self._database.write(lambda connection: usage_sums.forget(connection, tenant, user, realm))
        return forgotten

    async def prune(self, before: int) -> int:
        """See `AuditStore`."""
        removed = 0
        for writer, end in await self._database.read(lambda connection: connection.fetch(_REMOVABLE, before)):
            some = _call(_REMOVE, writer, end, AT_ONCE)
            while found := await self._database.write(some):
                removed += found
        return removed

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """See `UsageStore`."""
        days_of(query)  # a wrong date is the caller's, and no trouble of the database's

        async def work(connection: Connection) -> Sequence[UsageRow]:
            return (await usage_sums.report(connection, query)).rows()

        return await self._database.read(work)


def _call(statement: str, *values: Any) -> Work[Any]:
    return lambda connection: connection.fetchval(statement, *values)


def _append_values(entries: Sequence[Entry]) -> tuple[Any, ...]:
    records = [entry.record for entry in entries]
    return (
        [entry.writer for entry in entries],
        [entry.sequence for entry in entries],
        [record.time for record in records],
        [record.kind for record in records],
        [None if record.who is None else storable(record.who.tenant) for record in records],
        [None if record.who is None else storable(record.who.realm) for record in records],
        [record.outcome for record in records],
        [entry.hash for entry in entries],
        [entry.sealed.decode() for entry in entries],
        [None if entry.person is None else entry.person.decode() for entry in entries],
        msgspec.json.encode([terms_of(record) for record in records]).decode(),
        msgspec.json.encode([personal_terms_of(record) for record in records]).decode(),
        usage_sums.as_json(sums_of(records)),
        MAX_SUMS_OF_ONE,
        MAX_SUMS,
    )


def _search(query: RecordQuery) -> tuple[Statement, dict[str, Any]]:
    names = ("term_a", "term_b", "term_c", "term_d", "term_e")
    terms = dict(zip(names, wanted_terms(query), strict=False))
    values: dict[str, Any] = {name: getattr(query, name) for name in _CONDITIONS}
    values["tenant"] = None if query.tenant is None else storable(query.tenant)
    conditions = [_HAS_TERM.format(name) for name in terms]
    conditions += [condition for name, condition in _CONDITIONS.items() if values[name] is not None]
    if query.kinds:
        conditions.append("e.kind = ANY (:kinds::text[])")
    order = "DESC" if query.newest_first else "ASC"
    where = " AND ".join(conditions) or "true"
    text = f"SELECT {_COLUMNS} FROM authmw_audit_entries AS e WHERE {where} ORDER BY e.position {order} LIMIT :limit"  # noqa: S608 - names are our own
    return Statement(text), {**values, **terms, "kinds": list(query.kinds), "limit": query.limit}
