"""One request before the app sees it: read, priced at the most that it can cost, and that much reserved for it."""

import traceback
from typing import Final, NoReturn, TypeAlias

import anyio.to_thread
import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.asgi import ASGIApp, Receive, Scope
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.context import RequestContext, logger
from llm_authmw.dates import rfc3339
from llm_authmw.errors import Denial, StoreError
from llm_authmw.ledger.buckets import SECOND, Claim
from llm_authmw.ledger.contract import Balance, Refusal, Reservation
from llm_authmw.ledger.handle import Hold
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lens import Replay, RequestLens
from llm_authmw.limits.alerts import Alerts
from llm_authmw.limits.counted import EVERYWHERE
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.frames import LimitedSocket
from llm_authmw.limits.metered import comes_later, is_free, kind_of
from llm_authmw.limits.plan import Asked, Counted, Holder, Plan
from llm_authmw.limits.pricing import Estimate, Pricing
from llm_authmw.limits.rewriting import Rewriter, Written
from llm_authmw.limits.waiting import asked_for
from llm_authmw.llm.extent import Extent, extent_of
from llm_authmw.llm.operation import Found
from llm_authmw.overrides import remove_overrides
from llm_authmw.patterns import canonical_route
from llm_authmw.quota import NANO_USD

BUDGET_HEADER: Final = b"x-authmw-budget"
"""Of a denial: which budget it was, what is left of it, what the request could cost, and when it begins anew."""

_AT_ONCE: Final = 256 * 1024
"""Bytes of a body that are looked through within a few milliseconds, so that it need not be done in a thread."""

_Refused: TypeAlias = tuple[Counted, Balance, Refusal]


class Basis(msgspec.Struct, frozen=True, eq=False):
    """What a layer admits requests by.

    Attributes:
        layer: The layer's name.
        ledger: Where budgets are counted.
        plan: Which budgets a request falls under.
        pricing: What requests cost.
        lens: How they are read.
        rewriter: What is written into them.
        alerts: Who is told of thresholds.
        closed: Whether a request is denied where the ledger does not answer.
    """

    layer: str
    ledger: LedgerService
    plan: Plan
    pricing: Pricing
    lens: RequestLens
    rewriter: Rewriter
    alerts: Alerts
    closed: bool


class Admission:
    """One request.

    Args:
        basis: What it is admitted by.
        scope: The connection.
        receive: Where the request comes from.
        context: The request's.
        exchange: What passes, and what layers further out hold for it.

    Attributes:
        scope: The connection, as the app is to see it.
        receive: Where the app receives the request from.
        estimate: The most that it can cost; None where it costs nothing.
        extent: How much it can use; None where that is no matter.
        counted: The budgets that it falls under.
        hold: What is reserved for it; None where there is no budget, or where it was let in though the ledger does not answer.
        adds_usage: Whether the answer has counts that the caller did not ask for.
        gone: Whether the client has left before all of the request was there.
        mark: What the record is to say beside that it was allowed.
    """

    __slots__ = (
        "_asked",
        "_basis",
        "_context",
        "_exchange",
        "_found",
        "_holder",
        "adds_usage",
        "counted",
        "estimate",
        "extent",
        "gone",
        "hold",
        "mark",
        "receive",
        "scope",
    )

    def __init__(self, basis: Basis, scope: Scope, receive: Receive, context: RequestContext, exchange: Exchange) -> None:
        self._basis: Final = basis
        self._context: Final = context
        self._exchange: Final = exchange
        self.scope: Scope = scope
        self.receive: Receive = receive
        self.estimate: Estimate | None = None
        self.extent: Extent | None = None
        self.counted: tuple[Counted, ...] = ()
        self.hold: Hold | None = None
        self.adds_usage: bool = False
        self.gone: bool = False
        self.mark: str | None = None
        self._holder: Holder | None = None
        self._found: Found | None = None
        self._asked: Asked | None = None

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """Return the app as the request may meet it: a socket is held to what its handshake asked for, where a budget counts by that."""
        holder, asked = self._holder, self._asked
        if self.scope["type"] != "websocket" or holder is None or asked is None or not holder.needs_call:
            return app
        return LimitedSocket(app, self._basis.layer, self._basis.lens, self._found, holder, asked, self._context)

    async def decide(self) -> None:
        """Find out what the request can cost, and reserve it.

        Raises:
            Denial: it is not let in.
        """
        try:
            await self._decide()
        except Denial:
            raise
        except Exception as error:
            # Where and what, but not the error's own text, which may quote what was being decided on.
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s could not decide: %s at %s:%s", self._basis.layer, type(error).__name__, place.filename, place.lineno)
            raise Denial("ledger_unavailable") from error

    async def claim(self, amount: int, *, waited: float = 0.0) -> Hold | Reservation:
        """Reserve an amount in all budgets of the request.

        Args:
            amount: Nano-dollars.
            waited: Seconds for which the request has waited for the store before.

        Raises:
            StoreError: the ledger does not answer.
        """
        return await self._basis.ledger.money.reserve([Claim(one.bucket, amount) for one in self.counted], waited=waited)

    async def _decide(self) -> None:
        basis, scope = self._basis, self.scope
        route = canonical_route(scope)
        if route is None:
            raise Denial("ambiguous_path")
        remove_overrides(scope)
        found = basis.lens.find(*route)
        kind = kind_of(scope, *route, found)
        operation = UNLISTED if found is None else found.operation.name
        flat = basis.pricing.flat(operation)
        if is_free(kind, found, flat=flat is not None):
            return
        if kind == "unmetered" and flat is None:
            raise Denial("operation_unmetered", rule=operation)
        call, body = await self._read(found)
        if call is None:
            return
        if kind == "unknown" and not call.models:
            return
        if flat is not None:
            self.estimate = msgspec.structs.replace(flat, models=call.models)
        elif found is None or comes_later(operation, body):
            raise Denial("operation_unmetered", rule=operation)
        else:
            self.extent = await self.receive.extent() if isinstance(self.receive, Replay) else extent_of(call, body)
            self.estimate = basis.pricing.estimate(call, self.extent)
        principal = self._context.principal
        accounts = basis.ledger.accounts.recall(principal)
        if accounts is None:
            accounts = await self._accounts()
            if accounts is None:
                return
        tier = self._context.tier if principal.tier is None else principal.tier
        self._found, self._holder = found, basis.plan.holder(principal, tier, accounts)
        address = self._context.client_address(scope) if self._holder.needs_address else None
        self._asked = Asked(principal, tier, call, *route, operation, address)
        self.counted = self._holder.counted(self._asked)
        if self.counted:
            # What a layer further out has counted in a bucket is not counted there once more.
            held = self._exchange.buckets(basis.ledger.money)
            if not held.isdisjoint([one.bucket.ref for one in self.counted]):
                self.counted = tuple(one for one in self.counted if one.bucket.ref not in held)
        if self.extent is not None and found is not None and basis.rewriter.writes:
            await self._rewrite(found, call, body, self.extent, self.estimate)
        if self.counted:
            await self._reserve(self.estimate.charge.amount)

    async def _read(self, found: Found | None) -> tuple[LLMCall | None, bytes]:
        """Return what the request asks for, and its body as far as that was read; no call where the client has left."""
        lens, context = self._basis.lens, self._context
        if self.scope["type"] == "websocket":
            lens.handshake(self.scope, context, found)
            return context.call, b""
        receive = await lens.read(self.scope, self.receive, context, found)
        if receive is None:
            self.gone = True
            return None, b""
        self.receive = receive
        return context.call, receive.body if isinstance(receive, Replay) else b""

    async def _accounts(self) -> tuple[AccountRecord, ...] | None:
        """Ask for the caller's accounts; None where nobody answers, and the request is let in all the same."""
        try:
            ledger, context = self._basis.ledger, self._context
            return await asked_for(context, ledger.clock, lambda waited: ledger.accounts.load(context.principal, waited=waited))
        except StoreError as error:
            self._open_or_deny(error)
            return None

    async def _rewrite(self, found: Found, call: LLMCall, body: bytes, extent: Extent, estimate: Estimate) -> None:
        rewriter = self._basis.rewriter
        left: int | None = None
        if rewriter.clamps and self.counted and estimate.ceiling:
            try:
                money, buckets = self._basis.ledger.money, [one.bucket for one in self.counted]
                balances = await asked_for(self._context, self._basis.ledger.clock, lambda waited: money.balance(buckets, waited=waited))
            except StoreError as error:
                self._open_or_deny(error)
            else:
                left = min(balance.left for balance in balances)

        def rewrite() -> Written | None:
            return rewriter.rewrite(self.scope, found, call, body, extent=extent, estimate=estimate, left=left)

        written = rewrite() if len(body) <= _AT_ONCE else await anyio.to_thread.run_sync(rewrite)
        if written is not None:
            self.estimate, self.adds_usage = written.estimate, written.adds_usage
            self.scope = written.scope(self.scope)
            self.receive = await written.replay(self.receive, self._basis.lens, found, self._context)

    async def _reserve(self, amount: int) -> None:
        try:
            answer = await asked_for(self._context, self._basis.ledger.clock, lambda waited: self.claim(amount, waited=waited))
        except StoreError as error:
            self._open_or_deny(error)
            return
        if isinstance(answer, Hold):
            self.hold = answer
        elif amount:
            self._refuse(answer, amount)
        # What costs nothing is let in where there is debt, too.

    def _refuse(self, answer: Reservation, amount: int) -> NoReturn:
        refused = [(self.counted[refusal.claim], answer.balances[refusal.claim], refusal) for refusal in answer.refusals]
        never = [one for one in refused if one[2].never]
        if never:
            raise _denial("request_exceeds_budget", min(never, key=_limit), amount)
        for counted, balance, _ in refused:
            self._basis.alerts.refused(counted, balance)
        raise _denial("insufficient_quota", max(refused, key=_end), amount)

    def _open_or_deny(self, error: StoreError) -> None:
        # As every denial; what is to wake somebody up, the ledger's handle says once.
        logger.info("request %s: the ledger is unavailable: %s", self._context.request_id, error)
        if self._basis.closed:
            raise Denial("ledger_unavailable") from error
        self.mark = "ledger_unavailable"
        self._context.store_trouble = True


def _limit(refused: _Refused) -> int:
    return refused[1].limit


def _end(refused: _Refused) -> float:
    """Return when a budget begins anew: of several that refuse, the one that does last is the one to wait for."""
    ends_at = refused[1].ends_at
    return float("inf") if ends_at is None else ends_at


def _denial(reason: str, refused: _Refused, amount: int) -> Denial:
    counted, balance, refusal = refused
    name = counted.name
    header = f'"{name}"'
    if counted.bucket.tenant != EVERYWHERE:
        # What is left of a budget that tenants share says what the others use.
        header += f";limit={_dollars(balance.limit)};left={_dollars(balance.left)}"
    header += f";needed={_dollars(amount)}"
    need = f"room in the budget by {name}"
    if balance.ends_at is not None and not refusal.never:
        anew = rfc3339(balance.ends_at // SECOND)
        header += f";anew={anew}"
        need += f", which begins anew at {anew}"
    return Denial(reason, rule=f"{counted.scope.text}: {counted.quota}", need=need, headers=[(BUDGET_HEADER, header.encode())])


def _dollars(nano: int) -> str:
    whole, part = divmod(nano, NANO_USD)
    return f"{whole}.{part:09d}".rstrip("0").rstrip(".")
