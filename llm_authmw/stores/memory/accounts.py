"""Accounts in memory."""

import threading
from typing import Final

import msgspec

from llm_authmw.accounts.protocols import AccountPage, AccountQuery
from llm_authmw.accounts.records import AccountKind, AccountRecord, AccountRef
from llm_authmw.history import HistoryEntry
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.memory.copies import copied
from llm_authmw.stores.memory.feed import MemoryFeed


class MemoryAccounts:
    """See `AccountStore`."""

    def __init__(self, lock: threading.Lock, feed: MemoryFeed) -> None:
        self._lock: Final = lock
        self._feed: Final = feed
        self._accounts: Final[dict[AccountRef, AccountRecord]] = {}
        self._history: Final[dict[AccountRef, list[bytes]]] = {}

    async def find(self, ref: AccountRef) -> AccountRecord | None:
        """See `AccountStore`."""
        with self._lock:
            record = self._accounts.get(ref)
            return None if record is None else copied(record)

    async def write(self, record: AccountRecord, entry: HistoryEntry) -> bool:
        """See `AccountStore`."""
        with self._lock:
            present = self._accounts.get(record.ref)
            if record.revision != (1 if present is None else present.revision + 1):
                return False
            self._accounts[record.ref] = copied(record)
            self._history.setdefault(record.ref, []).append(msgspec.json.encode(entry))
            self._feed.append("accounts", record.name)
            return True

    async def query(self, query: AccountQuery) -> AccountPage:
        """See `AccountStore`."""
        after = None if query.after is None else AccountRef(*read_cursor(query.after, tuple[str, AccountKind, str, str]))
        with self._lock:
            found = sorted(ref for ref, record in self._accounts.items() if (after is None or ref > after) and _matches(record, query))
            page = tuple(copied(self._accounts[ref]) for ref in found[: query.size])
            return AccountPage(page, write_cursor(page[-1].ref) if len(found) > query.size else None)

    async def history(self, ref: AccountRef) -> tuple[HistoryEntry, ...]:
        """See `AccountStore`."""
        with self._lock:
            return tuple(msgspec.json.decode(entry, type=HistoryEntry) for entry in self._history.get(ref, ()))


def _matches(record: AccountRecord, query: AccountQuery) -> bool:
    return (
        query.tenant in (None, record.tenant)
        and query.kind in (None, record.kind)
        and query.status in (None, record.status)
        and (query.search is None or query.search.casefold() in record.name.casefold())
    )
