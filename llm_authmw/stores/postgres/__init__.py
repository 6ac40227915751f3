"""A store in a PostgreSQL database, which several processes on several machines may use at the same time."""

from typing import Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.stores.postgres.accounts import PostgresAccounts
from llm_authmw.stores.postgres.audit import PostgresAudit
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.feed import PostgresFeed
from llm_authmw.stores.postgres.keys import PostgresKeys
from llm_authmw.stores.postgres.ledger import PostgresLedger
from llm_authmw.stores.postgres.revocations import PostgresRevocations

__all__ = ["PostgresBackend"]


class PostgresBackend:
    """Keys, accounts, revocations, counters and the audit trail in one PostgreSQL database. It is connected to when it is first used.

    Args:
        url: See `Address`.
        clock: Gives the time that changes are dated with, and that idempotency keys and revocations are forgotten by.

    Raises:
        ConfigurationError: the URL cannot be read.
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database: Final = Database(url, clock)
        self.keys: Final = PostgresKeys(self._database, clock)
        self.accounts: Final = PostgresAccounts(self._database, clock)
        self.revocations: Final = PostgresRevocations(self._database, clock)
        self.feed: Final = PostgresFeed(self._database)
        self.ledger: Final = PostgresLedger(self._database)
        self.audit: Final = PostgresAudit(self._database)

    def __repr__(self) -> str:
        return f"PostgresBackend({self._database.place!r})"

    async def start(self) -> None:
        """Connect now.

        Raises:
            StoreError: it cannot be done; says why.
        """
        await self._database.start()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._database.aclose()
