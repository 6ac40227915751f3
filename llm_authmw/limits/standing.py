"""What the limits, or budgets, of a caller's own and of its accounts stand at now."""

from collections.abc import Sequence

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.ledger.contract import Balance
from llm_authmw.ledger.service import LedgerService
from llm_authmw.limits.counted import Counted
from llm_authmw.limits.plan import buckets_of
from llm_authmw.principal import Principal
from llm_authmw.quota import Budget, Limit


class Standing(msgspec.Struct, frozen=True):
    """One limit or budget, and what it stands at.

    Attributes:
        counted: Whose it is, how much there may be, and the bucket that it is counted in.
        balance: What the bucket stands at.
    """

    counted: Counted
    balance: Balance


async def standings(
    ledger: LedgerService, principal: Principal, accounts: Sequence[AccountRecord], quota: type[Limit] | type[Budget]
) -> tuple[Standing, ...]:
    """Return what there is of the caller's own and of its accounts. Nothing is booked.

    Args:
        ledger: `store.ledger`.
        principal: Who is calling; anonymous, with the tenant of the accounts, where only these are meant.
        accounts: The accounts that it belongs to.
        quota: `Limit` or `Budget`: which of both.

    Raises:
        Denial: there are more than one request may be counted in.
        StoreError: the ledger does not answer.
    """
    counted = buckets_of(principal, accounts, quota, clock=ledger.clock)
    if not counted:
        return ()
    handle = ledger.money if quota is Budget else ledger.rates
    balances = await handle.balance([one.bucket for one in counted])
    return tuple(map(Standing, counted, balances))
