"""`Alerts`: takes what happens, and tells each thing that somebody should look at once."""

import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self, get_args

import anyio

from llm_authmw import telemetry
from llm_authmw.alerts.outbox import Outbox
from llm_authmw.alerts.telling import Destination, Telling
from llm_authmw.alerts.webhook import Webhook
from llm_authmw.callbacks import Callback
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, StoreError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.ledger.handle import Hold
from llm_authmw.ledger.recurring import Sleep
from llm_authmw.ledger.service import LedgerService
from llm_authmw.names import Names, names
from llm_authmw.telemetry import Alert, AlertKind, Reading

KINDS: Final[tuple[str, ...]] = get_args(AlertKind)

logger: Final = logging.getLogger("llm_authmw.alerts")

_REMEMBERED: Final = 10_000
_WAITING: Final = 1_000
_PATIENCE: Final = 2.0
"""Seconds that the last alerts have when the process ends."""


class Alerts:
    """The one stream of alerts, to webhooks, a log and a function of yours. Nothing waits for it, and no request ever does.

    It is an observer: `AuditMiddleware(…, observers=[Alerts(…)])` starts and ends it with the app, and so does `async with`.

    Args:
        webhooks: Who is told by HTTP.
        on_alert: Called with each `Alert`, in the background; sync or async. Where it fails it is called again.
        log: Whether each is written to the logger `llm_authmw.alerts`, as a warning.
        kinds: Which are told; left out: all of them.
        again: Seconds for which the same thing is not told again. How often it was raised meanwhile is told then.
        ledger: Where the processes of a deployment agree on who tells: `store.ledger`. Left out: each process tells.
        clock: Gives the time.
        sleep: Waits in the background.

    Raises:
        ConfigurationError: nobody would be told, a kind is unknown, or an option is out of range.
    """

    def __init__(
        self,
        *,
        webhooks: Webhook | Sequence[Webhook] = (),
        on_alert: Callable[[Alert], Any] | None = None,
        log: bool = False,
        kinds: Names | None = None,
        again: float = 3600.0,
        ledger: LedgerService | None = None,
        clock: Clock = SYSTEM_CLOCK,
        sleep: Sleep = anyio.sleep,
    ) -> None:
        hooks = [webhooks] if isinstance(webhooks, Webhook) else list(webhooks)
        if not all(isinstance(hook, Webhook) for hook in hooks):
            raise ConfigurationError("webhooks", "takes Webhook(…)")
        if not isinstance(log, bool):
            raise ConfigurationError("log", "is True or False")
        if not (type(again) in {int, float} and 1 <= again < math.inf):
            raise ConfigurationError("again", "is a number of seconds, at least 1")
        if ledger is not None and not isinstance(ledger, LedgerService):
            raise ConfigurationError("ledger", "takes store.ledger")
        destinations: list[Destination] = [*hooks, *([_Log()] if log else []), *([] if on_alert is None else [_Function(on_alert)])]
        if not destinations:
            raise ConfigurationError("webhooks", "or on_alert or log is needed, or nobody would be told")
        told = frozenset(KINDS if kinds is None else names("kinds", kinds))
        unknown = told - frozenset(KINDS)
        if unknown:
            raise ConfigurationError("kinds", f"names {min(unknown)!r}; there are {', '.join(KINDS)}")
        self._kinds: Final = told
        self._again: Final = float(again)
        self._clock: Final = clock
        self._outboxes: Final = [Outbox(destination, size=_WAITING, sleep=sleep) for destination in destinations]
        self._ledger: Final = ledger
        self._asking: Final = Outbox(_Agreed(self), size=_WAITING, sleep=sleep)
        self._known: Final[dict[tuple[str, str, str, str], list[float]]] = {}
        telemetry.measure(self)

    def __repr__(self) -> str:
        return f"Alerts({', '.join(repr(outbox) for outbox in self._outboxes)})"

    def observe(self, event: object) -> None:
        """Take an event; see `telemetry.Observer`."""
        if type(event) is Alert and event.kind in self._kinds:
            repeated = self._news(event)
            if repeated is not None:
                telling = Telling(id=f"msg_{secrets.token_hex(12)}", at=self._clock.now(), alert=event, repeated=repeated)
                if self._ledger is None:
                    self.tell(telling)
                else:
                    self._asking.put(telling)

    def tell(self, telling: Telling) -> None:
        """Put an alert on its way to everybody."""
        for outbox in self._outboxes:
            outbox.put(telling)

    def readings(self) -> Iterable[Reading]:
        """Return how many were told and lost, and how many wait."""
        yield Reading("alerts_told", sum(outbox.told for outbox in self._outboxes), counts_up=True)
        yield Reading("alerts_lost", sum(outbox.lost for outbox in self._outboxes), counts_up=True)
        yield Reading("alerts_waiting", sum(map(len, self._outboxes)))

    async def start(self) -> None:
        """Begin to listen; starting twice is starting once."""
        telemetry.attach(self)

    async def aclose(self) -> None:
        """Stop listening, and give what waits a moment to be told."""
        telemetry.detach(self)
        await self._asking.aclose(patience=_PATIENCE)
        async with anyio.create_task_group() as closing:
            for outbox in self._outboxes:
                closing.start_soon(_close, outbox)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def is_first(self, telling: Telling) -> bool:
        """Say whether no other process has told this. Where the ledger does not answer it is told, rather twice than never."""
        if self._ledger is None:
            return True
        alert = telling.alert
        # A digest: a subject may have characters that no bucket's name may have.
        what = hashlib.sha256(f"{alert.subject}\x00{alert.occasion}".encode("utf-8", "surrogatepass")).hexdigest()
        mark = Bucket(
            tenant="alerts",
            name=f"{alert.kind} / {hashlib.sha256(alert.tenant.encode()).hexdigest()[:16]} / {what}",
            kind="rolling",
            measure="requests",
            limit=1,
            burst=1,
            period=round(self._again * SECOND),
        )
        handle = self._ledger.money
        try:
            answer = await handle.reserve([Claim(mark, 1)])
        except StoreError:
            return True
        if not isinstance(answer, Hold):
            return False
        await handle.settle(answer, {})
        return True

    def _news(self, alert: Alert) -> int | None:
        """Return how often the same was raised and not told since it was told last; None where it is not yet time to tell it again."""
        key = (alert.kind, alert.tenant, alert.subject, alert.occasion)
        now = self._clock.monotonic()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            known[1] += 1
            return None
        if known is None and len(self._known) >= _REMEMBERED:
            for oldest in [*self._known][: _REMEMBERED // 8]:
                del self._known[oldest]
        self._known.pop(key, None)
        self._known[key] = [now + self._again, 0]
        return 0 if known is None else int(known[1])


class _Agreed:
    """Whoever is told only what no other process has told."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def __repr__(self) -> str:
        return "the ledger"

    async def tell(self, telling: Telling) -> None:
        if await self._alerts.is_first(telling):
            self._alerts.tell(telling)

    async def aclose(self) -> None:
        """There is nothing to close."""


class _Log:
    """The log."""

    def __repr__(self) -> str:
        return "the log"

    async def tell(self, telling: Telling) -> None:
        alert = telling.alert
        # Quoted, so that a subject with a line break does not begin a line of its own.
        logger.warning(
            "%s in tenant %r about %r: %r", alert.kind, alert.tenant, alert.subject, alert.message, extra={"alert": telling.payload()}
        )

    async def aclose(self) -> None:
        """There is nothing to close."""


class _Function:
    """A function of the user's."""

    def __init__(self, function: Callable[[Alert], Any]) -> None:
        self._call = Callback("on_alert", function)

    def __repr__(self) -> str:
        return f"on_alert={self._call!r}"

    async def tell(self, telling: Telling) -> None:
        await self._call(telling.alert)

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _close(outbox: Outbox) -> None:
    await outbox.aclose(patience=_PATIENCE)
