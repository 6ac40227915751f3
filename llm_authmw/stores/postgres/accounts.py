"""Accounts in PostgreSQL."""

from typing import Final

import msgspec

from llm_authmw.accounts.protocols import AccountPage, AccountQuery
from llm_authmw.accounts.records import AccountKind, AccountRecord, AccountRef, AccountStatus
from llm_authmw.clock import Clock
from llm_authmw.history import HistoryEntry
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.feed import append_change
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.postgres.statements import Statement, insert, is_storable, select, update
from llm_authmw.stores.rows import read_entries, read_record, write_entry, write_record

_FIELDS: Final = AccountRecord.__struct_fields__
_WRITTEN: Final = (*_FIELDS, "name_folded")
_THIS: Final = "tenant = :tenant AND kind = :kind AND realm = :realm AND name = :name"
_INSERT: Final = Statement(insert("authmw_accounts", _WRITTEN) + " ON CONFLICT DO NOTHING")
_UPDATE: Final = Statement(update("authmw_accounts", _WRITTEN, _THIS, "revision = :revision - 1"))
_SELECT_ONE: Final = Statement(select("authmw_accounts", _FIELDS, _THIS))
_HISTORY: Final = Statement(select("authmw_account_history", HistoryEntry.__struct_fields__, _THIS) + " ORDER BY revision")
_WRITE_HISTORY: Final = Statement(
    insert("authmw_account_history", ("tenant", "kind", "realm", "name", "revision", *HistoryEntry.__struct_fields__))
)
# The statuses stand in the statement, since an index on the blocked ones serves no parameter.
_STATUSES: Final[dict[AccountStatus, str]] = {"active": "status = 'active'", "blocked": "status = 'blocked'"}
_NO_ROW: Final = ("INSERT 0 0", "UPDATE 0")
_FILTERS: Final = {
    "tenant": "tenant = :tenant",
    "kind": "kind = :kind",
    "search": "strpos(name_folded, :search) > 0",
    "after": "(tenant, kind, realm, name) > (:after_tenant, :after_kind, :after_realm, :after_name)",
}


class PostgresAccounts:
    """See `AccountStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._now: Final = clock.now

    async def find(self, ref: AccountRef) -> AccountRecord | None:
        """See `AccountStore`."""
        if not is_storable(*ref):
            return None
        return await self._database.read(lambda connection: _find(connection, ref))

    async def write(self, record: AccountRecord, entry: HistoryEntry) -> bool:
        """See `AccountStore`."""
        now = self._now()
        return await self._database.change(lambda connection: _write(connection, record, entry, now))

    async def query(self, query: AccountQuery) -> AccountPage:
        """See `AccountStore`."""
        after = None if query.after is None else AccountRef(*read_cursor(query.after, tuple[str, AccountKind, str, str]))
        if not is_storable(query.tenant, query.search, *(after or ())):
            return AccountPage((), None)
        return await self._database.read(lambda connection: _query(connection, query, after))

    async def history(self, ref: AccountRef) -> tuple[HistoryEntry, ...]:
        """See `AccountStore`."""
        if not is_storable(*ref):
            return ()
        return await self._database.read(lambda connection: _history(connection, ref))


async def _find(connection: Connection, ref: AccountRef) -> AccountRecord | None:
    row = await connection.fetchrow(*_SELECT_ONE(ref._asdict()))
    return None if row is None else read_record(AccountRecord, dict(row))


async def _write(connection: Connection, record: AccountRecord, entry: HistoryEntry, now: float) -> bool:
    row = write_record(record)
    if await connection.execute(*(_INSERT if record.revision == 1 else _UPDATE)(row)) in _NO_ROW:
        return False
    await connection.execute(*_WRITE_HISTORY({**row, **write_entry(entry)}))
    await append_change(connection, "accounts", record.tenant, msgspec.json.encode(record.ref[1:]).decode(), now)
    return True


async def _query(connection: Connection, query: AccountQuery, after: AccountRef | None) -> AccountPage:
    values = query._asdict()
    conditions = [condition for name, condition in _FILTERS.items() if values[name] is not None]
    if query.status is not None:
        conditions.append(_STATUSES[query.status])
    if query.search is not None:
        values["search"] = query.search.casefold()
    if after is not None:
        values.update({f"after_{name}": value for name, value in after._asdict().items()})
    values["limit"] = query.size + 1
    statement = select("authmw_accounts", _FIELDS, *conditions) + " ORDER BY tenant, kind, realm, name LIMIT :limit"
    found = await connection.fetch(*Statement(statement)(values))
    page = tuple(read_record(AccountRecord, dict(row)) for row in found[: query.size])
    return AccountPage(page, write_cursor(page[-1].ref) if len(found) > query.size else None)


async def _history(connection: Connection, ref: AccountRef) -> tuple[HistoryEntry, ...]:
    return read_entries(dict(row) for row in await connection.fetch(*_HISTORY(ref._asdict())))
