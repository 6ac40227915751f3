"""How often: requests, tokens and requests at once, counted before the app runs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, cast

from llm_authmw.asgi import ASGIApp, Branching, Message, Receive, Scope, Send, layers_inside, refuse_recording_inside, send_denial
from llm_authmw.clock import Clock
from llm_authmw.context import Decision, RequestContext
from llm_authmw.dialects import dialect_of
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import Deciding, GivesIdentity, ReadsIdentity
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lens import DEFAULT_LENS, RequestLens
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.frames import LimitedSocket
from llm_authmw.limits.limiting import Basis, Limiting
from llm_authmw.limits.metering import run
from llm_authmw.limits.plan import Limits, Missing, Plan, Tiers
from llm_authmw.limits.rate_headers import STYLES, Style
from llm_authmw.llm.extent import MAX_CEILING, WINDOW
from llm_authmw.names import Names, names
from llm_authmw.quota import Limit

DEFAULT_OUTPUT: Final = 4096
"""Tokens of an answer that are reserved where the request names no ceiling."""


class RateLimitMiddleware(Deciding):
    """Let no more through than limits allow: requests, tokens, requests at once, by whatever they are counted.

    It stands inside of the layers that say who is calling and whether they may, and counts what is let in. A caller's own limits hold, and
    those of its user, team and organisation, and of its tier; `limits` are the layer's own. All buckets of a request are claimed in one
    step, or none. Tokens are claimed at the most that a request can use, and corrected when the answer has said what it was.

    Args:
        app: The app that the layer stands in front of, or the next layer.
        ledger: The counters: `store.ledger`.
        limits: Limits under the scope that each is counted by, such as `{"team": ["1000 requests/minute"]}`.
        tiers: Limits under the name of a tier: a list, which each caller has by itself, or scopes as in `limits`.
        model_groups: Model patterns under the name of a group, for the scope `model_group`.
        missing: What becomes of a request that lacks what a limit is counted by: "deny", or "skip" that limit.
        headers: Whose headers tell what is left: some of "ratelimit", "openai", "anthropic". Left out: the first, and those of the
            client's own dialect.
        default_output: Tokens of an answer that are reserved where the request names no ceiling.
        context_window: Tokens that are reserved for input which is not in the body, such as an earlier answer; what a model can be shown at
            most where it is left out.
        lens: How requests are read.
        on_store_failure: "deny" with 503, or "allow", where the ledger does not answer.
        clock: Tells which calendar window it is; the ledger's where it is left out.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: LedgerService,
        limits: Limits | None = None,
        tiers: Tiers | None = None,
        model_groups: Mapping[str, Names] | None = None,
        missing: Missing = "deny",
        headers: Sequence[Style] | None = None,
        default_output: int = DEFAULT_OUTPUT,
        context_window: int = WINDOW,
        lens: RequestLens = DEFAULT_LENS,
        on_store_failure: Literal["deny", "allow"] = "deny",
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(ledger, LedgerService):
            raise ConfigurationError("ledger", f"takes store.ledger, not {type(ledger).__name__}")
        if not isinstance(lens, RequestLens):
            raise ConfigurationError("lens", "takes RequestLens(…)")
        if on_store_failure not in ("deny", "allow"):
            raise ConfigurationError("on_store_failure", "is 'deny' or 'allow'")
        for option, number, most in (("default_output", default_output, MAX_CEILING), ("context_window", context_window, 2**53)):
            if type(number) is not int or not 1 <= number <= most:
                raise ConfigurationError(option, f"is a number of tokens, from 1 to {most}")
        self.app: Final = app
        self.name: Final = type(self).__name__
        self.ledger: Final = ledger
        self.plan: Final = Plan(
            quota=Limit,
            limits=limits,
            # Without tiers of its own, no tier is one that it knows.
            tiers={} if tiers is None else tiers,
            model_groups=model_groups,
            missing=missing,
            clock=ledger.clock if clock is None else clock,
        )
        self.lens: Final[RequestLens] = lens
        self._has_tiers: Final = tiers is not None
        self._by: Final = repr(dict(tiers or {}))
        self._basis: Final = Basis(
            layer=self.name,
            ledger=ledger,
            plan=self.plan,
            lens=lens,
            styles=_by_dialect if headers is None else _always(_styles(headers)),
            default_output=default_output,
            context_window=context_window,
            closed=on_store_failure == "deny",
            terms={},
        )
        self._check_what_stands_inside()

    def __repr__(self) -> str:
        tiers = f"tiers={sorted(self.plan.tiers or ())}" if self._has_tiers else ""
        return f"RateLimitMiddleware({', '.join(filter(None, (repr(self.plan), tiers)))})"

    @property
    def stands(self) -> str:
        """All of its limits; see `Deciding`."""
        return f"{self!r}: {self._by}" if self._has_tiers else repr(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on that is within its limits, or deny it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        outer = Exchange.found(context, self)
        limiting = Limiting(self._basis, scope, receive, context, outer)
        denial = await limiting.decide()
        if denial is not None:
            await self._deny(scope, send, denial, context, outer)
            return
        if limiting.gone:
            if outer is not None:
                await outer.release()
            return
        reason = "ledger_unavailable" if limiting.store_failed else None
        context.decided(Decision(self.name, "allowed", reason, context.principal.credential_id))
        app, receive, hold = self.app, limiting.receive, limiting.hold
        if scope["type"] == "websocket" and limiting.asked is not None and limiting.holder is not None and limiting.holder.needs_call:
            app = LimitedSocket(app, self.name, self._basis.lens, limiting.found, limiting.holder, limiting.asked, context)
        if hold is None:
            await app(scope, receive, send)
            return
        exchange = Exchange.of(context, self)
        exchange.add(self.ledger.rates, hold, limiting.truth)
        await run(exchange, app, scope, receive, send, begin=partial(_telling, limiting))

    async def _deny(self, scope: Scope, send: Send, denial: Denial, context: RequestContext, outer: Exchange | None) -> None:
        denial.layer = denial.layer or self.name
        if outer is not None:
            # The app will not run, so what layers further out have reserved for it is given back before anybody hears of it.
            await outer.release()
        context.record(denial, credential_id=context.principal.credential_id)
        await send_denial(scope, send, denial, context)

    def _check_what_stands_inside(self) -> None:
        refuse_recording_inside(self.name, self.app)
        needs_caller = self.plan.needs_caller or self._has_tiers or not self.plan.scopes
        for layer in layers_inside(self.app):
            misplaced = isinstance(layer, GivesIdentity | ReadsIdentity) and not isinstance(layer, Branching)
            if misplaced and needs_caller:
                raise ConfigurationError(
                    self.name,
                    f"{type(layer).__name__} stands inside, so nobody is known yet, or what is denied would be counted: "
                    f"put {self.name} further in, behind it",
                )
            if isinstance(layer, RateLimitMiddleware):
                self._agree_with(layer)

    def _agree_with(self, inner: "RateLimitMiddleware") -> None:
        both = self.plan.scopes & inner.plan.scopes
        if both and inner.ledger.rates is self.ledger.rates:
            scope, measure, window = min(both, key=str)
            raise ConfigurationError(
                "limits",
                f"of {measure} by {scope!r}{'' if window is None else f' in a {window}'} are those of another layer further in too: "
                "write them once",
            )
        if not inner.has_tiers and self._has_tiers:
            inner.plan.leave_tiers()
        elif not self._has_tiers:
            self.plan.leave_tiers()

    @property
    def has_tiers(self) -> bool:
        """Whether it has tiers of its own."""
        return self._has_tiers


def _telling(limiting: Limiting, message: Message) -> Message:
    """Return the beginning of an answer with what is left of the limits, where the app does not say so itself."""
    added = limiting.headers()
    if not added:
        return message
    own: Any = message.get("headers") or ()
    said = {name.lower() for name, _ in own}
    return {**message, "headers": [*own, *(line for line in added if line[0] not in said)]}


def _styles(given: object) -> tuple[Style, ...]:
    if isinstance(given, str):
        raise ConfigurationError("headers", f"takes a list: write [{given!r}]")
    styles = names("headers", list(cast("Sequence[str]", given)) if isinstance(given, Sequence) else given)
    for style in styles:
        if style not in STYLES:
            raise ConfigurationError("headers", f"does not know {style!r}; expected some of {', '.join(STYLES)}")
    return cast("tuple[Style, ...]", styles)


_PLAIN: Final[tuple[Style, ...]] = ("ratelimit",)
_OF_DIALECTS: Final[dict[str, tuple[Style, ...]]] = {"openai": ("ratelimit", "openai"), "anthropic": ("ratelimit", "anthropic")}


def _by_dialect(scope: Scope) -> Sequence[Style]:
    return _OF_DIALECTS.get(dialect_of(scope), _PLAIN)


def _always(styles: tuple[Style, ...]) -> Callable[[Scope], Sequence[Style]]:
    def chosen(_: Scope) -> Sequence[Style]:
        return styles

    return chosen
