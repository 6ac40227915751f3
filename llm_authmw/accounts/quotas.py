"""The accounts that a caller belongs to, for their limits and budgets, from memory while nothing changed."""

import math
from typing import Final, NamedTuple

import anyio

from llm_authmw.accounts.protocols import AccountStore
from llm_authmw.accounts.records import AccountRecord, AccountRef, accounts_of
from llm_authmw.cache import Cache
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.principal import Principal
from llm_authmw.telemetry import Asked, asking, emit

MAX_ACCOUNTS: Final = 100_000
"""Accounts that are remembered, and as many combinations of them that callers belong to."""


class _Belonging(NamedTuple):
    """What of a principal says which accounts it belongs to."""

    tenant: str
    realm: str
    user: str | None
    team: str | None
    org: str | None


class AccountQuotas:
    """Find the accounts of principals.

    What is remembered counts while the follower is fresh, so that what another process changed takes effect within its bound.

    Args:
        store: Where accounts are kept.
        follower: Tells what others changed, and whether what is remembered may be used.
        max_accounts: Accounts that are remembered.
        deadline: Seconds that asking the store may take in all.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: `deadline` is not above zero.
    """

    def __init__(
        self,
        store: AccountStore,
        *,
        follower: ChangeFollower,
        max_accounts: int = MAX_ACCOUNTS,
        deadline: float = 0.25,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self._store: Final = store
        self._follower: Final = follower
        self._deadline: Final = deadline
        self._monotonic: Final = clock.monotonic
        # One record each, or none where there is no such account: teams that have no account are as many as teams.
        self._records: Final[Cache[AccountRef, tuple[AccountRecord, ...]]] = Cache(max_entries=max_accounts, ttl=math.inf, clock=clock)
        self._found: Final[Cache[_Belonging, tuple[AccountRecord, ...]]] = Cache(
            max_entries=max_accounts, ttl=math.inf, name="accounts", clock=clock
        )
        follower.subscribe(self._forget)

    def recall(self, principal: Principal) -> tuple[AccountRecord, ...] | None:
        """Return the accounts without asking anybody, or None where the store must be asked.

        It is the very same tuple for as long as nothing changed.
        """
        if self._follower.fresh_until <= self._monotonic():
            return None
        return self._found.peek(_belonging(principal))

    async def load(self, principal: Principal, *, waited: float = 0.0) -> tuple[AccountRecord, ...]:
        """Return those of the principal's user, team and organisation that have an account.

        Args:
            principal: The caller.
            waited: Seconds for which the request has waited for the store before: the deadline is for all of its questions.

        Raises:
            StoreError: the store cannot be read, or did not answer within the deadline.
        """
        with anyio.move_on_after(self._deadline - waited):
            await self._follower.refresh()
            return await self._found.get(_belonging(principal), lambda _: self._load(principal))
        emit(Asked("accounts", "find", self._deadline, "late"))
        raise StoreUnavailableError("the store did not answer in time")

    async def _load(self, principal: Principal) -> tuple[AccountRecord, ...]:
        found: list[AccountRecord] = []
        for ref in accounts_of(principal):
            found += await self._records.get(ref, self._find)
        return tuple(found)

    async def _find(self, ref: AccountRef) -> tuple[AccountRecord, ...]:
        record = await asking("accounts", "find", lambda: self._store.find(ref), monotonic=self._monotonic)
        return () if record is None else (record,)

    def _forget(self, changes: Changes) -> None:
        if changes.accounts:
            self._records.clear()
            self._found.clear()


def _belonging(principal: Principal) -> _Belonging:
    return _Belonging(principal.tenant, principal.realm, principal.user, principal.team, principal.org)
