"""One request before the app sees it: which limits it falls under, and what of them is reserved for it."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.asgi import Receive, Scope
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.context import RequestContext, logger
from llm_authmw.errors import Denial, StoreError
from llm_authmw.ledger.buckets import SECOND, Claim, Measure
from llm_authmw.ledger.contract import Refusal, Reservation
from llm_authmw.ledger.handle import Hold
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lens import Replay, RequestLens
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.holders import make_room
from llm_authmw.limits.plan import Asked, Counted, Holder, Plan
from llm_authmw.limits.rate_headers import Headers, LimitHeaders, Style
from llm_authmw.limits.tokens import TOKENS, Estimate, estimated, runs_model
from llm_authmw.limits.waiting import asked_for
from llm_authmw.llm.extent import extent_of
from llm_authmw.llm.operation import Found
from llm_authmw.overrides import remove_overrides
from llm_authmw.patterns import canonical_route

CONCURRENCY_WAIT: Final = 1.0
"""Seconds after which a client is told to try again where too much is under way at once: when something ends, nobody knows."""

MAX_TERMS: Final = 16_384
"""Kinds of requests for which it is remembered what they claim and are told."""


class Terms(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The buckets that a kind of request is counted in, with what can be made of them beforehand.

    Attributes:
        origin: What the plan has given, whose place in memory stands for it.
        counted: Those of them that the request is counted in.
        claims: One of each.
        headers: What a client is told of them.
    """

    origin: tuple[Counted, ...]
    counted: tuple[Counted, ...]
    claims: tuple[Claim, ...]
    headers: LimitHeaders


class Basis(msgspec.Struct, frozen=True, eq=False):
    """What a layer limits by.

    Attributes:
        layer: The layer's name.
        ledger: Where requests are counted.
        plan: Which limits a request falls under.
        lens: How requests are read.
        styles: Whose headers are sent, by the dialect that a client speaks.
        default_output: Tokens of an answer whose ceiling is not named.
        context_window: Tokens of input that is not in the body.
        closed: Whether a request is denied where the ledger does not answer.
        terms: What was made of the buckets of a kind of request.
    """

    layer: str
    ledger: LedgerService
    plan: Plan
    lens: RequestLens
    styles: Callable[[Scope], Sequence[Style]]
    default_output: int
    context_window: int
    closed: bool
    terms: dict[tuple[int, bool], Terms]


class Limiting:
    """One request.

    Args:
        basis: What it is limited by.
        scope: The connection.
        receive: Where the request comes from.
        context: The request's.
        outer: What layers further out hold for it; None where they hold nothing.

    Attributes:
        receive: Where the app receives the request from.
        holder: What limits the caller.
        found: The kind of request, where that had to be known.
        asked: Who asks for what.
        hold: What is reserved; None where no limit applies, or the ledger does not answer and the request is let in all the same.
        gone: Whether the client has left before all of the request was there.
        store_failed: Whether it is let in although the ledger does not answer.
    """

    __slots__ = (
        "_basis",
        "_context",
        "_estimate",
        "_outer",
        "_scope",
        "_terms",
        "asked",
        "found",
        "gone",
        "hold",
        "holder",
        "receive",
        "store_failed",
    )

    def __init__(self, basis: Basis, scope: Scope, receive: Receive, context: RequestContext, outer: Exchange | None) -> None:
        self._basis: Final = basis
        self._scope: Final = scope
        self._context: Final = context
        self._outer: Final = outer
        self._terms: Terms | None = None
        self._estimate: Estimate | None = None
        self.receive: Receive = receive
        self.holder: Holder | None = None
        self.found: Found | None = None
        self.asked: Asked | None = None
        self.hold: Hold | None = None
        self.gone: bool = False
        self.store_failed: bool = False

    async def decide(self) -> Denial | None:
        """Reserve what the request is counted as; return why it is denied, or None. It never raises: what cannot be counted is denied."""
        try:
            return await self._decide()
        except Denial as denial:
            return denial
        except StoreError as error:
            return self._without_store(error)
        except Exception as error:  # noqa: BLE001 - a decision that failed is a denial, and never a 500
            # Where and what, but not the error's own text, which may quote what was being decided on.
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s could not decide: %s at %s:%s", self._basis.layer, type(error).__name__, place.filename, place.lineno)
            return Denial("ledger_unavailable")

    @property
    def truth(self) -> Callable[[Exchange], Mapping[Measure, int]]:
        """What says at what the hold is settled."""
        return _as_estimated if self._estimate is None or self.hold is None else self._estimate.truth(self.hold.claims)

    def headers(self) -> Headers:
        """Return what an answer tells of the limits."""
        terms = self._terms
        return [] if self.hold is None or terms is None else self._headers(terms, self.hold.reservation, None)

    async def _decide(self) -> Denial | None:
        basis, context, scope = self._basis, self._context, self._scope
        route = canonical_route(scope)
        if route is None:
            return Denial("ambiguous_path")
        principal = context.principal
        accounts: Sequence[AccountRecord] = ()
        if principal.is_authenticated:
            recalled = basis.ledger.accounts.recall(principal)
            accounts = await self._accounts() if recalled is None else recalled
        self.holder = holder = basis.plan.holder(principal, context.tier, accounts)
        tokens = not TOKENS.isdisjoint(holder.measures)
        call: LLMCall | None = None
        if tokens or holder.moves:
            remove_overrides(scope)
            self.found = basis.lens.find(*route)
            if tokens or holder.needs_call:
                call = await self._read(route, tokens=tokens)
                if self.gone:
                    return None
        address = context.client_address(scope) if holder.needs_address else None
        operation = UNLISTED if self.found is None else self.found.operation.name
        self.asked = asked = Asked(principal, context.tier, call, *route, operation, address)
        self._terms = terms = self._terms_of(holder.counted(asked))
        if not terms.counted:
            return None
        claims = terms.claims if self._estimate is None else tuple(self._estimate.claims(terms.counted))
        answer = await asked_for(context, basis.ledger.clock, lambda waited: basis.ledger.rates.reserve(claims, waited=waited))
        if isinstance(answer, Hold):
            self.hold = answer
            return None
        return self._refused(terms, answer)

    async def _accounts(self) -> Sequence[AccountRecord]:
        """Ask for the caller's accounts; none where nobody answers, and the request is let in all the same."""
        try:
            ledger, context = self._basis.ledger, self._context
            return await asked_for(context, ledger.clock, lambda waited: ledger.accounts.load(context.principal, waited=waited))
        except StoreError:
            if self._basis.closed:
                raise
            self.store_failed = self._context.store_trouble = True
            return ()

    async def _read(self, route: tuple[str, str], *, tokens: bool) -> LLMCall | None:
        """Return what the request asks for, and estimate its tokens where these are limited; None where the client has left."""
        basis, context, scope = self._basis, self._context, self._scope
        replay: Replay | None = None
        if scope["type"] == "websocket":
            basis.lens.handshake(scope, context, self.found)
        else:
            receive = await basis.lens.read(scope, self.receive, context, self.found)
            if receive is None:
                self.gone = True
                return None
            self.receive = receive
            replay = receive if isinstance(receive, Replay) else None
        call = context.call
        if tokens and call is not None and runs_model(scope, *route, self.found, call, b"" if replay is None else replay.body):
            extent = extent_of(call, b"") if replay is None else await replay.extent()
            self._estimate = estimated(extent, call, default_output=basis.default_output, context_window=basis.context_window)
        return call

    def _terms_of(self, counted: tuple[Counted, ...]) -> Terms:
        if self._outer is not None:
            # What a layer further out has counted in a bucket is not counted there once more.
            held = self._outer.buckets(self._basis.ledger.rates)
            if held and any(one.bucket.ref in held for one in counted):
                return _terms(tuple(one for one in counted if one.bucket.ref not in held), tokens=self._estimate is not None)
        known = self._basis.terms
        key = (id(counted), self._estimate is not None)
        terms = known.get(key)
        if terms is None:
            make_room(known, MAX_TERMS)
            terms = known[key] = _terms(counted, tokens=self._estimate is not None)
        return terms

    def _refused(self, terms: Terms, answer: Reservation) -> Denial:
        refusal = max(answer.refusals, key=_weight)
        one = terms.counted[refusal.claim]
        limit = f"at most {one.quota} per {one.scope.words}"
        wait = max(CONCURRENCY_WAIT if other.wait is None else other.wait / SECOND for other in answer.refusals)
        reason = "concurrency_limited" if one.bucket.kind == "lease" else "rate_limited"
        return Denial(reason, rule=one.bucket.name, need=limit, retry_after=wait, headers=self._headers(terms, answer, wait))

    def _headers(self, terms: Terms, answer: Reservation, wait: float | None) -> Headers:
        headers: Headers = []
        for style in self._basis.styles(self._scope):
            headers += terms.headers.lines(style, answer.balances, answer.at, wait)
        return headers

    def _without_store(self, error: StoreError) -> Denial | None:
        if self._basis.closed:
            # As every denial; what is to wake somebody up, the ledger's handle says once.
            logger.info("request %s: the ledger is unavailable: %s", self._context.request_id, error)
            return Denial("ledger_unavailable")
        self.store_failed = self._context.store_trouble = True
        return None


def _terms(counted: tuple[Counted, ...], *, tokens: bool) -> Terms:
    having = tuple(one for one in counted if tokens or one.bucket.measure not in TOKENS)
    return Terms(counted, having, tuple(one.one for one in having), LimitHeaders(having))


def _weight(refusal: Refusal) -> float:
    """Say which of several refusals is the one that is told: the one that takes the longest."""
    return CONCURRENCY_WAIT * SECOND if refusal.wait is None else refusal.wait


def _as_estimated(_: Exchange) -> Mapping[Measure, int]:
    return {}
