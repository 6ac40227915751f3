"""Tells somebody, once, that a budget is used up to a threshold."""

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from llm_authmw import telemetry
from llm_authmw.background import Background
from llm_authmw.callbacks import Callback
from llm_authmw.context import logger
from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.ledger.contract import Balance
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.limits.counted import Counted
from llm_authmw.quota import NANO_USD, Budget

_USED_UP: Final = 100
_REMEMBERED: Final = 10_000
"""Alerts that this process need not ask the ledger about any more."""


class BudgetAlert(msgspec.Struct, frozen=True, kw_only=True):
    """A budget is used up to a threshold. What requests hold that are under way counts as used.

    Attributes:
        tenant: Whose bucket it is; "*" where all tenants share it.
        scope: By what the budget is counted: "team".
        subject: Whose, or of what, it is: "team:blue".
        budget: The budget, as it is written.
        percent: Which threshold: one of the soft ones, or 100 where nothing is left for what is asked for.
        used: What is used, in nano-dollars.
        limit: How much there is, in nano-dollars.
        ends_at: When the window ends, in seconds since 1970; None where the budget is for ever.
    """

    tenant: str
    scope: str
    subject: str
    budget: str
    percent: int
    used: int
    limit: int
    ends_at: float | None


class Alerts:
    """Looks at what the ledger answers, and tells of each threshold once in a window, whichever process comes upon it.

    The ledger itself keeps who was first: a bucket of one beside each budget's.

    Args:
        handle: Where budgets are counted.
        on_alert: Called with each `BudgetAlert`, in the background; None where the log is enough.

    Raises:
        ConfigurationError: `on_alert` is no function.
    """

    def __init__(self, handle: LedgerHandle, on_alert: Callable[[BudgetAlert], Any] | None) -> None:
        self._handle: Final = handle
        self._tell: Final = None if on_alert is None else Callback("on_alert", on_alert)
        self._background: Final = Background()
        self._known: Final[set[tuple[str, str, int | None, str]]] = set()

    def look(self, counted: Sequence[Counted], balances: Sequence[Balance]) -> None:
        """Look whether a threshold is reached. It takes no time."""
        for one, balance in zip(counted, balances, strict=True):
            soft = cast("Budget", one.quota).soft
            if balance.used * 100 >= (soft[0] if soft else _USED_UP) * balance.limit:
                for percent in (*soft, _USED_UP):
                    if balance.used * 100 >= percent * balance.limit:
                        self._reached(one, balance, percent, f"{percent}%")

    def refused(self, one: Counted, balance: Balance) -> None:
        """Take a budget that has refused a request.

        It need not be used up, since a caller may ask for as much as he likes: that is told of beside this, once it is.
        """
        self._reached(one, balance, _USED_UP, "refused")

    async def start(self) -> None:
        """There is nothing to open."""

    async def aclose(self) -> None:
        """End what is being told."""
        await self._background.aclose()

    def _reached(self, one: Counted, balance: Balance, percent: int, what: str) -> None:
        bucket = one.bucket
        key = (bucket.tenant, bucket.name, balance.ends_at, what)
        if key in self._known:
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known.add(key)

        async def announce() -> None:
            try:
                first = await self._is_first(bucket, what)
            except StoreError:
                # Whoever comes upon it next tries again.
                self._known.discard(key)
                return
            if first:
                await self._announce(_alert(one, balance, percent))

        self._background.start(announce)

    async def _is_first(self, bucket: Bucket, what: str) -> bool:
        mark = Bucket(
            tenant=bucket.tenant,
            name=f"{bucket.name[:_LONGEST]} / alert {what}",
            kind=bucket.kind,
            measure="requests",
            limit=1,
            spans=bucket.spans,
        )
        answer = await self._handle.reserve([Claim(mark, 1)])
        if not isinstance(answer, Hold):
            return False
        await self._handle.settle(answer, {})
        return True

    async def _announce(self, alert: BudgetAlert) -> None:
        logger.warning(
            "budget '%s' of %s in tenant %s: %d%% reached, %.6f of %.2f usd used",
            alert.budget,
            alert.subject,
            alert.tenant,
            alert.percent,
            alert.used / NANO_USD,
            alert.limit / NANO_USD,
        )
        telemetry.emit(_event(alert))
        if self._tell is not None:
            try:
                await self._tell(alert)
            except Exception as error:  # noqa: BLE001 - a user's function: nobody waits for it, and the log has said it already
                logger.error("on_alert failed: %s", type(error).__name__)


def _event(alert: BudgetAlert) -> telemetry.Alert:
    return telemetry.Alert(
        kind="budget_exhausted" if alert.percent >= _USED_UP else "budget_soft",
        tenant=alert.tenant,
        subject=alert.subject,
        message=(
            f"The budget '{alert.budget}' has reached {alert.percent}%: "
            f"{alert.used / NANO_USD:.6f} of {alert.limit / NANO_USD:.2f} usd are used."
        ),
        details={
            "scope": alert.scope,
            "budget": alert.budget,
            "percent": alert.percent,
            "used_nano_usd": alert.used,
            "limit_nano_usd": alert.limit,
            "ends_at": alert.ends_at,
        },
        occasion=f"{alert.budget} {alert.percent} {alert.ends_at}",
    )


_LONGEST: Final = 2000
"""Characters of a bucket's name that are kept in that of its alerts."""


def _alert(one: Counted, balance: Balance, percent: int) -> BudgetAlert:
    return BudgetAlert(
        tenant=one.bucket.tenant,
        scope=one.scope.text,
        subject=one.subject,
        budget=str(one.quota),
        percent=percent,
        used=balance.used,
        limit=balance.limit,
        ends_at=None if balance.ends_at is None else balance.ends_at / SECOND,
    )
