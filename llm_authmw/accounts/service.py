"""Accounts: create, list, change, block. A blocked account stops everything that belongs to it."""

from collections.abc import Callable
from functools import partial
from typing import Final, Unpack, get_args

import msgspec

from llm_authmw.accounts.protocols import AccountPage, AccountQuery, AccountStore
from llm_authmw.accounts.records import (
    AccountFields,
    AccountKind,
    AccountRecord,
    AccountRef,
    AccountStatus,
    check_ref,
    clean_account_fields,
)
from llm_authmw.cache import SingleFlight
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConflictError, InvalidValueError, NotFoundError
from llm_authmw.fields import text
from llm_authmw.history import HistoryEntry, Recorder, unrecorded
from llm_authmw.increases import BudgetChange
from llm_authmw.principal import DEFAULT_TENANT, KEYS_REALM
from llm_authmw.telemetry import asking


class AccountService:
    """The accounts of one store.

    A team that a key names need not have an account: then nothing is known of it, and nothing stops it. What is changed
    here takes effect at once in this process, and within the store's bound in every other one.
    """

    def __init__(
        self, store: AccountStore, *, follower: ChangeFollower, recorder: Recorder = unrecorded, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store: Final = store
        self._recorder: Final = recorder
        self._follower: Final = follower
        self._now: Final = clock.now
        self._monotonic: Final = clock.monotonic
        self.blocked: frozenset[AccountRef] = frozenset()
        """The accounts that are blocked, as `load` last read them."""
        self.stale: bool = True
        """Whether an account changed since `load` last read them."""
        self._generation = 0
        self._flight: Final[SingleFlight[None, frozenset[AccountRef]]] = SingleFlight()
        follower.subscribe(self._forget)

    async def load(self) -> None:
        """Read the blocked accounts again if any account changed since.

        Raises:
            StoreError: the store cannot be read.
        """
        while self.stale:
            await self._flight.run(None, self._read_blocked)

    async def _read_blocked(self) -> frozenset[AccountRef]:
        generation = self._generation
        found: list[AccountRef] = []
        after: str | None = None
        while True:
            query = AccountQuery(status="blocked", after=after, size=1000)
            page = await asking("accounts", "blocked", partial(self._store.query, query), monotonic=self._monotonic)
            found += [record.ref for record in page.accounts]
            after = page.next
            if after is None:
                break
        # What changed while it was read may be missing from it; then it is read once more.
        if generation == self._generation:
            self.blocked = frozenset(found)
            self.stale = False
        return self.blocked

    async def create(
        self,
        kind: AccountKind,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        realm: str | None = None,
        status: AccountStatus = "active",
        actor: str = "api",
        **fields: Unpack[AccountFields],
    ) -> AccountRecord:
        """Add an account.

        Args:
            kind: "user", "team", "org" or "end_user".
            name: Its name, as keys and tokens say it.
            tenant: Whose account it is.
            realm: For users, where the name means one person; left out: the realm of keys that name none.
            status: "blocked" to add it blocked.
            actor: Who does this, for the history.
            fields: See `AccountFields`.

        Raises:
            ConflictError: it exists.
            InvalidValueError: a field is outside its grammar.
            StoreError: the store cannot be written.
        """
        ref = _ref(kind, name, tenant, realm)
        if status not in get_args(AccountStatus):
            raise InvalidValueError(f"{status!r} is not the status of an account: expected one of {', '.join(get_args(AccountStatus))}")
        record = AccountRecord(
            tenant=ref.tenant,
            kind=ref.kind,
            realm=ref.realm,
            name=ref.name,
            status=status,
            created_at=self._now(),
            **clean_account_fields(fields),
        )
        after = record.as_dict()
        changes = {field: [None, after[field]] for field in ("status", *fields)}
        entry = HistoryEntry(at=record.created_at, action="create", actor=text("actor", actor), changes=changes)
        if not await self._store.write(record, entry):
            raise ConflictError("this account exists")
        self._announce(record, entry)
        return record

    async def get(self, kind: AccountKind, name: str, *, tenant: str = DEFAULT_TENANT, realm: str | None = None) -> AccountRecord:
        """Return one account.

        Raises:
            NotFoundError: there is no such account.
            StoreError: the store cannot be read.
        """
        record = await self._store.find(_ref(kind, name, tenant, realm))
        if record is None:
            raise NotFoundError("there is no such account")
        return record

    async def list(
        self,
        *,
        tenant: str | None = None,
        kind: AccountKind | None = None,
        status: AccountStatus | None = None,
        search: str | None = None,
        after: str | None = None,
        size: int = 100,
    ) -> AccountPage:
        """List accounts by tenant, kind, realm and name. Every filter that is given must hold.

        Raises:
            InvalidValueError: `size` is out of range, or the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        if not 1 <= size <= 1000:
            raise InvalidValueError("a page holds 1 to 1000 accounts")
        return await self._store.query(AccountQuery(tenant=tenant, kind=kind, status=status, search=search, after=after, size=size))

    async def history(
        self, kind: AccountKind, name: str, *, tenant: str = DEFAULT_TENANT, realm: str | None = None
    ) -> tuple[HistoryEntry, ...]:
        """Return what was done to an account, oldest first.

        Raises:
            NotFoundError: there is no such account.
            StoreError: the store cannot be read.
        """
        record = await self.get(kind, name, tenant=tenant, realm=realm)
        return await self._store.history(record.ref)

    async def update(
        self,
        kind: AccountKind,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        realm: str | None = None,
        actor: str = "api",
        **fields: Unpack[AccountFields],
    ) -> AccountRecord:
        """Change fields of an account; what is not named stays.

        Raises:
            InvalidValueError: a field is outside its grammar.
            NotFoundError: there is no such account.
            StoreError: the store cannot be written.
        """
        clean = clean_account_fields(fields)
        return await self._change(_ref(kind, name, tenant, realm), "update", actor, lambda record: msgspec.structs.replace(record, **clean))

    async def change_budgets(
        self,
        kind: AccountKind,
        name: str,
        change: BudgetChange,
        *,
        action: str,
        tenant: str = DEFAULT_TENANT,
        realm: str | None = None,
        actor: str = "api",
    ) -> AccountRecord:
        """Make of an account's budgets what `change` makes of them, such as `increases.with_increase`; `action` is for the history.

        Raises:
            InvalidValueError: `change` refuses.
            NotFoundError: there is no such account.
            StoreError: the store cannot be written.
        """

        def changed(record: AccountRecord) -> AccountRecord:
            return msgspec.structs.replace(record, budgets=change(record.budgets))

        return await self._change(_ref(kind, name, tenant, realm), text("action", action), actor, changed)

    async def block(
        self, kind: AccountKind, name: str, *, tenant: str = DEFAULT_TENANT, realm: str | None = None, actor: str = "api"
    ) -> AccountRecord:
        """Stop everything that belongs to an account. Blocking a blocked one changes nothing.

        Raises:
            NotFoundError: there is no such account.
            StoreError: the store cannot be written.
        """
        return await self._change(
            _ref(kind, name, tenant, realm), "block", actor, lambda record: msgspec.structs.replace(record, status="blocked")
        )

    async def unblock(
        self, kind: AccountKind, name: str, *, tenant: str = DEFAULT_TENANT, realm: str | None = None, actor: str = "api"
    ) -> AccountRecord:
        """Let a blocked account work again.

        Raises:
            NotFoundError: there is no such account.
            StoreError: the store cannot be written.
        """
        return await self._change(
            _ref(kind, name, tenant, realm), "unblock", actor, lambda record: msgspec.structs.replace(record, status="active")
        )

    async def _change(self, ref: AccountRef, action: str, actor: str, change: Callable[[AccountRecord], AccountRecord]) -> AccountRecord:
        """Read, change and write, again from the start whenever somebody else was faster."""
        while True:
            record = await self._store.find(ref)
            if record is None:
                raise NotFoundError("there is no such account")
            changed = change(record)
            if changed == record:
                return record
            changed = msgspec.structs.replace(changed, revision=record.revision + 1)
            before, after = record.as_dict(), changed.as_dict()
            differences = {field: [before[field], after[field]] for field in after if field != "revision" and before[field] != after[field]}
            entry = HistoryEntry(at=self._now(), action=action, actor=text("actor", actor), changes=differences)
            if await self._store.write(changed, entry):
                self._announce(changed, entry)
                return changed

    def _announce(self, record: AccountRecord, entry: HistoryEntry) -> None:
        self._follower.announce(Changes(cursor=0, accounts=True))
        self._recorder("account", f"{record.kind}:{record.name}", entry, tenant=record.tenant, realm=record.realm)

    def _forget(self, changes: Changes) -> None:
        if changes.accounts:
            self.stale = True
            self._generation += 1


def _ref(kind: AccountKind, name: str, tenant: str, realm: str | None) -> AccountRef:
    if realm is None:
        realm = KEYS_REALM if kind == "user" else ""
    return check_ref(AccountRef(tenant, kind, realm, name))
