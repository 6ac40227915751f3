"""Who guesses credentials is slowed down, then locked out; nobody else is."""

from typing import Final

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside, no_app, refuse_recording_inside
from llm_authmw.brute_force.attempt import Attempt, Defence
from llm_authmw.brute_force.counting import Counting
from llm_authmw.brute_force.memory import memory_of
from llm_authmw.brute_force.networks import Networks
from llm_authmw.brute_force.waits import Failures, Waits
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import CountsFailures, GivesIdentity
from llm_authmw.ledger.service import LedgerService
from llm_authmw.names import Names

MAX_REMEMBERED: Final = 7 * 86_400.0
"""Seconds for which a good credential is remembered at most."""
MAX_AT_ONCE: Final = 10_000


class BruteForceMiddleware(CountsFailures):
    """Count credentials that are no good, let whoever presents too many of them wait, and then lock them out.

    It stands outside of the layers that say who is calling, and inside of `AuditMiddleware`. Those layers tell it what they found, so it
    reads no answer and costs a good credential neither a question to the ledger nor anything on the way out.

    A lockout is of one network, or of one credential from one network, and never of a credential alone: guessing at somebody's key from
    elsewhere does not touch it. While a network is locked out, what comes from there is not judged, be it good or bad, unless that
    very credential was good from there lately.

    Args:
        app: The app that the layer stands in front of: the authentication layers, or what holds them.
        ledger: The counters, which processes share: `store.ledger`.
        limits: Limits of failures under what they are counted by: `address`, `address+credential`, `credential`, `caller`, `global`, as
            in `{"address": ["10 requests/minute, burst 10", "100 requests/day, burst 100"]}`. One that is left out has its default; an
            empty list counts nothing by it.
        exempt: Networks from where nothing is counted and nobody is locked out: whoever is in one of them may guess for ever.
        ipv4_prefix: Bits of an IPv4 address that are counted as one network.
        ipv6_prefix: Bits of an IPv6 address that are.
        remembered: Seconds for which a credential that was good from a network is judged even while that is locked out.
        at_once: Credentials of one network that are judged at once by one process, besides those that were good lately; others wait.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced: no authentication layer stands inside of
            it, or another one of its kind does, or `AuditMiddleware`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: LedgerService,
        limits: Failures | None = None,
        exempt: Names = (),
        ipv4_prefix: int = 32,
        ipv6_prefix: int = 64,
        remembered: float = 86_400.0,
        at_once: int = 16,
    ) -> None:
        if not isinstance(ledger, LedgerService):
            raise ConfigurationError("ledger", f"takes store.ledger, not {type(ledger).__name__}")
        if type(remembered) not in (int, float) or not 1 <= remembered <= MAX_REMEMBERED:
            raise ConfigurationError("remembered", f"is a number of seconds from 1 to {MAX_REMEMBERED:g}")
        if type(at_once) is not int or not 1 <= at_once <= MAX_AT_ONCE:
            raise ConfigurationError("at_once", f"is a number from 1 to {MAX_AT_ONCE}")
        self.app: Final = app
        self.name: Final = type(self).__name__
        self.ledger: Final[LedgerService] = ledger
        self._waits: Final = Waits(limits)
        self._networks: Final = Networks(ipv4_prefix=ipv4_prefix, ipv6_prefix=ipv6_prefix, exempt=exempt)
        self._memory: Final = memory_of(ledger)
        self._defence: Final = Defence(
            layer=self.name,
            networks=self._networks,
            counting=Counting(ledger, self._waits, self._memory),
            memory=self._memory,
            remembered=float(remembered),
            at_once=at_once,
            clock=ledger.clock,
        )
        self._check_what_stands_inside()

    def __repr__(self) -> str:
        return f"BruteForceMiddleware(limits={self._waits!r}, networks={self._networks!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and hear of what becomes of it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        outer = context.attempt
        attempt = context.attempt = Attempt(self._defence)
        try:
            await self.app(scope, receive, send)
        finally:
            attempt.leave()
            context.attempt = outer

    def _check_what_stands_inside(self) -> None:
        refuse_recording_inside(self.name, self.app)
        inside = list(layers_inside(self.app))
        if any(isinstance(layer, CountsFailures) for layer in inside):
            raise ConfigurationError(self.name, "stands inside of it once more, and a failure would be counted by one of them only")
        if inside[-1] is not no_app and not any(isinstance(layer, GivesIdentity) for layer in inside):
            raise ConfigurationError(
                self.name, "hears of no failure, since no authentication layer stands inside of it: put it right outside of them"
            )
