"""`LedgerService`: what `store.ledger` is. Layers are given it, and find in it all that they count with."""

from typing import Final

from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.resource import Resource


class LedgerService:
    """The counters of one store, and the limits and budgets of its accounts.

    Args:
        money: The durable counters.
        rates: Counters that may be lost without harm, of rates and of what runs at once. Left out: the same.
        accounts: The limits and budgets of accounts.
        resource: What `Stack` starts and closes with the app.
        clock: Gives the time.

    Attributes:
        money: The durable counters.
        rates: Counters of rates and of what runs at once.
        accounts: The limits and budgets of accounts.
        resource: What `Stack` starts and closes with the app.
        clock: Gives the time.
    """

    def __init__(
        self,
        money: LedgerHandle,
        *,
        rates: LedgerHandle | None = None,
        accounts: AccountQuotas,
        resource: Resource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.money: Final[LedgerHandle] = money
        self.rates: Final[LedgerHandle] = rates or money
        self.accounts: Final[AccountQuotas] = accounts
        self.resource: Final[Resource | None] = resource
        self.clock: Final[Clock] = clock

    def __repr__(self) -> str:
        return "LedgerService()"

    async def aclose(self) -> None:
        """Settle what is left in both, and log what could not be."""
        try:
            await self.money.aclose()
        finally:
            if self.rates is not self.money:
                await self.rates.aclose()
