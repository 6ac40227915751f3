"""Layers that count, over a ledger that can be looked into: for tests of what is spent."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.changes import ChangeFollower
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.contract import Balance, Ledger, Reservation, Settlement
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing.clock import ManualClock


class Books:
    """A ledger of yours, and what is written in it.

    Args:
        ledger: The ledger; one in memory where it is left out.
        clock: Its clock.

    Attributes:
        clock: The clock.
        accounts: The accounts of callers.
        service: What layers are given.
        estimates: What each request that was let in has claimed, the earliest first, by the names of buckets.
        truths: What each was settled at.
    """

    def __init__(self, ledger: Ledger | None = None, *, clock: ManualClock | None = None, deadline: float | None = None) -> None:
        self.clock: Final = clock or ManualClock()
        self.estimates: Final[list[dict[str, int]]] = []
        self.truths: Final[list[dict[Measure, int]]] = []
        backend = MemoryBackend(clock=self.clock)
        follower = ChangeFollower(backend.feed, bound=1.0, deadline=0.25, clock=self.clock)
        self.accounts: Final = backend.accounts
        self._ledger: Final[Ledger] = backend.ledger if ledger is None else ledger
        self._buckets: Final[dict[str, Bucket]] = {}
        self._counted: Final[set[str]] = set()
        self.service: Final = LedgerService(
            LedgerHandle(self, deadline=deadline, clock=self.clock),
            accounts=AccountQuotas(backend.accounts, follower=follower, clock=self.clock),
            clock=self.clock,
        )

    @property
    def held(self) -> int:
        """Reservations that are not settled."""
        return self.service.money.held

    async def used(self, *, alerts: bool = False) -> dict[str, int]:
        """Return what is used of each bucket that was ever claimed."""
        names = [name for name in self._buckets if alerts or " / alert " not in name]
        balances = await self._ledger.balance([self._buckets[name] for name in names])
        return {name: balance.used for name, balance in zip(names, balances, strict=True)}

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        self._buckets.update({claim.bucket.name: claim.bucket for claim in claims})
        answer = await self._ledger.reserve(reservation_id, claims, ttl=ttl)
        amounts = {claim.bucket.name: claim.amount for claim in claims if " / alert " not in claim.bucket.name}
        if answer.granted and amounts:
            self.estimates.append(amounts)
            self._counted.add(reservation_id)
        return answer

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        answer = await self._ledger.settle(reservation_id, actual)
        if reservation_id in self._counted:
            self.truths.append(dict(actual))
        return answer

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        return await self._ledger.extend(reservation_ids, ttl=ttl)

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        return await self._ledger.balance(buckets)


def called_by(principal: Principal = ANONYMOUS) -> dict[str, Any]:
    """Return the members of a scope that a layer finds once somebody is logged in."""
    context = RequestContext()
    context.principal = principal
    return {CONTEXT_KEY: context}
