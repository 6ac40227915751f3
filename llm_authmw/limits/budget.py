"""How much money: budgets, reserved at the most that a request can cost before the app sees it, and settled at what it did cost."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from starlette.middleware.cors import CORSMiddleware

from llm_authmw.asgi import ASGIApp, Branching, Receive, Scope, Send, layers_inside, refuse_recording_inside, send_denial
from llm_authmw.call import UNLISTED
from llm_authmw.clock import Clock
from llm_authmw.context import Decision, RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import Deciding, GivesIdentity, ReadsIdentity
from llm_authmw.ledger.contract import Settlement
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lens import DEFAULT_LENS, RequestLens
from llm_authmw.limits.admission import Admission, Basis
from llm_authmw.limits.alerts import Alerts, BudgetAlert
from llm_authmw.limits.codings import PLAIN, with_codings
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.metering import run
from llm_authmw.limits.outcome import CLIENT_GONE, ClientGone
from llm_authmw.limits.plan import Limits, Missing, Plan
from llm_authmw.limits.pricing import Pricing
from llm_authmw.limits.rewriting import Rewriter
from llm_authmw.limits.spending import Spending
from llm_authmw.limits.streams import ON_EXHAUSTED, Editor, OnExhausted
from llm_authmw.llm.price_book import PriceBook
from llm_authmw.llm.prices import Price
from llm_authmw.names import Names
from llm_authmw.protected_resource import ProtectedResourceMiddleware
from llm_authmw.quota import Budget
from llm_authmw.resource import Resource

OnStoreFailure: TypeAlias = Literal["deny", "allow"]
"""What becomes of a request where the ledger does not answer."""

DRAIN: Final = 600.0
"""Seconds for which an app runs on at most after its client has left."""


class BudgetMiddleware(Deciding):
    """Let a request through if every budget that it falls under can pay for the most that it may cost.

    That much is reserved before the app sees the request, in all budgets or in none. The answer is metered as it passes, and the truth
    replaces the estimate once it is over, whichever way that is. What an answer costs beyond its estimate is booked as debt.

    Args:
        app: The app that the layer stands in front of, or the next layer.
        ledger: What the use is counted in: `store.ledger`.
        prices: What models cost: prices under model patterns, or a price book.
        limits: Budgets under the scopes that they are counted by. Those of callers and of their accounts count as well.
        model_groups: Model patterns under a name, for the scope `model_group`.
        missing: What becomes of a request that lacks what a budget is counted by: "deny" or "skip".
        unpriced: The price of every model that has none; left out, requests for such a model are denied.
        free: Models that cost nothing.
        flat: What a request costs, whatever it uses, by its operation: the only way in for those that cannot be metered.
        default_output: Tokens that an answer is thought to have at most, where neither the request nor the price book says.
        overhead: Tokens of input that the app adds.
        clamp_output: Whether the ceiling of the answer is written into the request, and lowered to what is left.
        ask_for_usage: Whether streams are asked for their usage where the caller did not; what that adds is taken out again.
        client_gone: What is charged where the client leaves in the middle: "bill_seen" what has passed, "bill_estimate" the estimate;
            with "drain" the app runs on, ten minutes at most, and the truth is.
        on_exhausted: What becomes of a stream that goes beyond what was reserved for it: "finish" books debt, "extend" reserves as much
            again and ends it where that is refused, "cut" ends it.
        final_event: Whether streams end with a comment that says what they cost and what is left.
        on_alert: Called with a `BudgetAlert` when a budget is used up to a threshold, once in each window.
        lens: How requests are read: operations of your own, the size of bodies.
        on_store_failure: What becomes of a request where the ledger does not answer: "deny" or "allow".
        clock: Tells which window it is; left out, the ledger's own.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: LedgerService,
        prices: Mapping[str, Price] | PriceBook,
        limits: Limits | None = None,
        model_groups: Mapping[str, Names] | None = None,
        missing: Missing = "deny",
        unpriced: Price | None = None,
        free: Names = (),
        flat: Mapping[str, Price] | None = None,
        default_output: int = 4096,
        overhead: int = 0,
        clamp_output: bool = False,
        ask_for_usage: bool = False,
        client_gone: ClientGone = "bill_seen",
        on_exhausted: OnExhausted = "finish",
        final_event: bool = False,
        on_alert: Callable[[BudgetAlert], Any] | None = None,
        lens: RequestLens = DEFAULT_LENS,
        on_store_failure: OnStoreFailure = "deny",
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(ledger, LedgerService):
            raise ConfigurationError("ledger", "takes store.ledger")
        if not isinstance(lens, RequestLens):
            raise ConfigurationError("lens", "takes RequestLens(…)")
        for option, switch in (("clamp_output", clamp_output), ("ask_for_usage", ask_for_usage), ("final_event", final_event)):
            if type(switch) is not bool:
                raise ConfigurationError(option, "is True or False")
        for option, value, words in (
            ("client_gone", client_gone, CLIENT_GONE),
            ("on_exhausted", on_exhausted, ON_EXHAUSTED),
            ("on_store_failure", on_store_failure, get_args(OnStoreFailure)),
        ):
            if value not in words:
                raise ConfigurationError(option, f"is one of {', '.join(words)}")
        self.app: Final = app
        self.name: Final = type(self).__name__
        self.ledger: Final = ledger
        self.lens: Final = lens
        pricing = Pricing(prices, unpriced=unpriced, free=free, flat=flat, default_output=default_output, overhead=overhead)
        self._basis: Final = Basis(
            layer=self.name,
            ledger=ledger,
            plan=Plan(quota=Budget, limits=limits, model_groups=model_groups, missing=missing, clock=clock or ledger.clock),
            pricing=pricing,
            lens=lens,
            rewriter=Rewriter(pricing, clamps=clamp_output, asks=ask_for_usage),
            alerts=Alerts(ledger.money, on_alert),
            closed=on_store_failure == "deny",
        )
        self._client_gone: Final[ClientGone] = client_gone
        self._on_exhausted: Final[OnExhausted] = on_exhausted
        self._final_event: Final = final_event
        self._edits: Final = ask_for_usage or final_event or on_exhausted != "finish"
        unknown = pricing.flat_operations - {operation.name for operation in lens.operations} - {UNLISTED}
        if unknown:
            raise ConfigurationError("flat", f"names {min(unknown)!r}, which is in no table of operations")
        costly = {operation.name for operation in lens.operations if operation.body != "none" or operation.needs_model}
        ignored = pricing.flat_operations - costly - {UNLISTED}
        if ignored:
            raise ConfigurationError("flat", f"names {min(ignored)!r}, which runs nothing, so that its price would be ignored")
        self._check_what_stands_inside()

    def __repr__(self) -> str:
        return f"BudgetMiddleware({self._basis.plan!r})"

    @property
    def plan(self) -> Plan:
        """Which budgets a request falls under."""
        return self._basis.plan

    @property
    def pricing(self) -> Pricing:
        """What a request costs."""
        return self._basis.pricing

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What `Stack` starts and closes with the app: the ledger's store, and the telling of alerts."""
        store = self.ledger.resource
        return (self._basis.alerts,) if store is None else (store, self._basis.alerts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on that the budgets can pay for, or deny it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        exchange = Exchange.of(context, self)
        admission = Admission(self._basis, scope, receive, context, exchange)
        try:
            await admission.decide()
        except Denial as denial:
            # What layers further out hold is given back before anybody hears of the refusal.
            await exchange.release()
            denial.layer = denial.layer or self.name
            context.record(denial, credential_id=context.principal.credential_id)
            await send_denial(scope, send, denial, context)
            return
        except GeneratorExit:
            raise
        except BaseException:
            await exchange.release()
            raise
        if admission.gone:
            await exchange.release()
            return
        context.decided(Decision(self.name, "allowed", None, context.principal.credential_id, admission.mark))
        if admission.estimate is None:
            await self.app(admission.scope, admission.receive, send)
            return
        spending = Spending(self._basis.pricing, admission.estimate, self._client_gone)
        editor = self._editor(send, scope, exchange, admission, spending) if self._edits and scope["type"] == "http" else None
        if editor is not None:
            admission.scope = with_codings(admission.scope, PLAIN)

        def settled(settlement: Settlement | None) -> None:
            if settlement is not None:
                self._basis.alerts.look(admission.counted, settlement.balances)
            if editor is not None:
                editor.settled(settlement)

        if admission.hold is None:
            exchange.account(spending.actual)
        else:
            exchange.add(self.ledger.money, admission.hold, spending.actual, settled)
        if self._client_gone == "drain":
            exchange.drain = DRAIN
        await run(exchange, admission.guarded(self.app), admission.scope, admission.receive, send if editor is None else editor.send)

    def _editor(self, send: Send, scope: Scope, exchange: Exchange, admission: Admission, spending: Spending) -> Editor:
        return Editor(
            self.name,
            send,
            scope,
            exchange,
            admission=admission,
            spending=spending,
            pricing=self._basis.pricing,
            handle=self.ledger.money,
            on_exhausted=self._on_exhausted,
            final_event=self._final_event,
        )

    def _check_what_stands_inside(self) -> None:
        refuse_recording_inside(self.name, self.app)
        for layer in layers_inside(self.app):
            if isinstance(layer, GivesIdentity | ReadsIdentity) and not isinstance(layer, Branching):
                raise ConfigurationError(
                    self.name,
                    f"{type(layer).__name__} stands inside, so nobody is known yet, or what is denied would be reserved: "
                    f"put {self.name} further in, behind it",
                )
            if isinstance(layer, BudgetMiddleware) and layer.ledger.money is self.ledger.money:
                contradiction = self.plan.other_than(layer.plan)
                if contradiction is not None:
                    here, there = contradiction
                    raise ConfigurationError(
                        "limits",
                        f"has '{here.quota}' by {here.scope.text!r}, and a layer further in '{there.quota}', which would be ignored",
                    )
            if isinstance(layer, CORSMiddleware | ProtectedResourceMiddleware):
                raise ConfigurationError(
                    self.name, f"{type(layer).__name__} stands inside, where nobody without money gets to: put it further out"
                )
