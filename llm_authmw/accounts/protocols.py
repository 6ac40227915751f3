"""What a store must be able to do with accounts. `tests/conformance/` says it in full; each method is atomic."""

from typing import NamedTuple, Protocol

from llm_authmw.accounts.records import AccountKind, AccountRecord, AccountRef, AccountStatus
from llm_authmw.history import HistoryEntry


class AccountQuery(NamedTuple):
    """Which accounts to list; every filter that is given must hold. Sorted by tenant, kind, realm and name.

    Attributes:
        after: The cursor of the page before.
        size: Accounts in a page, 1 to 1000.
    """

    tenant: str | None = None
    kind: AccountKind | None = None
    status: AccountStatus | None = None
    search: str | None = None
    after: str | None = None
    size: int = 100


class AccountPage(NamedTuple):
    """One page of a listing; `next` is the cursor of the next one, None on the last."""

    accounts: tuple[AccountRecord, ...]
    next: str | None


class AccountStore(Protocol):
    """What accounts need of a store."""

    async def find(self, ref: AccountRef) -> AccountRecord | None:
        """Return the account.

        Raises:
            StoreError: the store cannot be read.
        """

    async def write(self, record: AccountRecord, entry: HistoryEntry) -> bool:
        """Write an account and append to its history: a new one at revision 1, else one whose stored revision is one less.

        Returns False where it is not so: it exists already, or somebody else was faster; then nothing was written.

        Raises:
            StoreError: the store cannot be written; nothing was.
        """
        ...

    async def query(self, query: AccountQuery) -> AccountPage:
        """List accounts.

        Raises:
            InvalidValueError: the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        ...

    async def history(self, ref: AccountRef) -> tuple[HistoryEntry, ...]:
        """Return the account's history, oldest first; empty where there is no such account.

        Raises:
            StoreError: the store cannot be read.
        """
        ...
