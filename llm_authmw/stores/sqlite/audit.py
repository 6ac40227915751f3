"""The audit trail in a SQLite file of its own, beside the store's: who writes one never waits for who writes the other."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from llm_authmw.stores.sqlite import audit_rows, audit_sums
from llm_authmw.stores.sqlite.audit_migrations import AUDIT
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.writer import Writer
from llm_authmw.stores.trail.report import days_of
from llm_authmw.stores.trail.sums import sums_of
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery, StoredEntry, UsageQuery, UsageRow


class _Append(msgspec.Struct, frozen=True):
    entries: Sequence[Entry]


class _Forget(msgspec.Struct, frozen=True):
    tenant: str
    user: str
    realm: str | None
    day: int | None = None
    """Whose sums; None where it is about entries."""


class _Remove(msgspec.Struct, frozen=True):
    writer: str
    end: int


_Wish: TypeAlias = _Append | _Forget | _Remove


class SQLiteAudit:
    """See `AuditStore` and `UsageStore`.

    What was taken is in the file, and outlives the process. A power cut may take the last moments back.

    Args:
        path: The store's file; `authmw.audit.db` is the one beside `authmw.db`.
    """

    def __init__(self, path: Path) -> None:
        self._database: Final = Database(beside(path), AUDIT)
        self._writer: Final[Writer[_Wish, int]] = Writer(self._database, _write)

    @property
    def durable(self) -> bool:
        """See `TrailStore`."""
        return True

    @property
    def _is_new(self) -> bool:
        # Whoever only looks makes no file.
        return not self._database.path.exists()

    async def start(self) -> None:
        """Open the file now.

        Raises:
            StoreError: it cannot be opened; says why.
        """
        await self._database.start()

    async def aclose(self) -> None:
        """Close the file, once what is waited for is in it."""
        await self._writer.aclose()
        await self._database.aclose()

    async def append(self, entries: Sequence[Entry]) -> None:
        """See `AuditStore`."""
        if entries:
            await self._writer.ask(_Append(tuple(entries)))

    async def search(self, query: RecordQuery) -> Sequence[StoredEntry]:
        """See `AuditStore`."""
        if self._is_new:
            return []
        return await self._database.read(lambda connection: audit_rows.search(connection, query))

    async def forget(self, tenant: str, user: str, *, realm: str | None = None) -> int:
        """See `AuditStore`."""
        forgotten = 0
        if self._is_new:
            return forgotten
        while found := await self._writer.ask(_Forget(tenant, user, realm)):
            forgotten += found
        for day in await self._database.read(lambda connection: audit_sums.days_of_user(connection, tenant, user, realm)):
            await self._writer.ask(_Forget(tenant, user, realm, day))
        return forgotten

    async def prune(self, before: int) -> int:
        """See `AuditStore`."""
        removed = 0
        if self._is_new:
            return removed
        for writer, end in await self._database.read(lambda connection: audit_rows.removable(connection, before)):
            while found := await self._writer.ask(_Remove(writer, end)):
                removed += found
        return removed

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """See `UsageStore`."""
        days_of(query)  # a wrong date is the caller's, and no trouble of the file's
        if self._is_new:
            return []
        return await self._database.read(lambda connection: audit_sums.report(connection, query).rows())


def beside(path: Path) -> Path:
    """Return the file of the audit trail of the store in this file."""
    return path.with_name(f"{path.stem}.audit{path.suffix}")


def _write(connection: sqlite3.Connection, wishes: Sequence[_Wish]) -> list[int | Exception]:
    appended = [entry for wish in wishes if isinstance(wish, _Append) for entry in wish.entries]
    new = audit_rows.add(connection, appended)
    audit_sums.count(connection, sums_of([entry.record for entry in new]))
    return [len(wish.entries) if isinstance(wish, _Append) else _removed(connection, wish) for wish in wishes]


def _removed(connection: sqlite3.Connection, wish: _Forget | _Remove) -> int:
    if isinstance(wish, _Remove):
        return audit_rows.remove(connection, wish.writer, wish.end)
    if wish.day is None:
        return audit_rows.forget(connection, wish.tenant, wish.user, wish.realm)
    audit_sums.forget(connection, wish.tenant, wish.user, wish.realm, wish.day)
    return 0
