"""A store in one SQLite file, which several processes on one machine may use at the same time."""

from typing import Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.stores.sqlite.accounts import SQLiteAccounts
from llm_authmw.stores.sqlite.audit import SQLiteAudit
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.feed import SQLiteFeed
from llm_authmw.stores.sqlite.keys import SQLiteKeys
from llm_authmw.stores.sqlite.ledger import SQLiteLedger
from llm_authmw.stores.sqlite.revocations import SQLiteRevocations

__all__ = ["SQLiteBackend"]


class SQLiteBackend:
    """Keys, accounts, revocations and counters in one SQLite file, and the audit trail in another one beside it.

    A file is opened, and made, when it is first used.

    Args:
        path: The file; a relative path is taken from where the process is now.
        clock: Gives the time that changes are dated with, that idempotency keys and revocations are forgotten by, and that counters
            go by.

    Raises:
        ConfigurationError: this Python's SQLite is older than 3.38, or the path is none.
    """

    def __init__(self, path: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database: Final = Database(path)
        self.keys: Final = SQLiteKeys(self._database, clock)
        self.accounts: Final = SQLiteAccounts(self._database, clock)
        self.revocations: Final = SQLiteRevocations(self._database, clock)
        self.ledger: Final = SQLiteLedger(self._database, clock)
        self.feed: Final = SQLiteFeed(self._database)
        self.audit: Final = SQLiteAudit(self._database.path)

    def __repr__(self) -> str:
        return f"SQLiteBackend({str(self._database.path)!r})"

    async def start(self) -> None:
        """Open the file now; that of the audit trail is left until somebody uses it.

        Raises:
            StoreError: it cannot be opened; says why.
        """
        await self._database.start()

    async def aclose(self) -> None:
        """Close the files, once what is being counted and recorded is in them."""
        await self.ledger.aclose()
        await self._database.aclose()
        await self.audit.aclose()
