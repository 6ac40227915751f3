"""One request while it is decided: read as far as the rules need, held against roles and engine, denials told and recorded."""

import copy
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from llm_authmw.asgi import Receive, Scope
from llm_authmw.authz.access import AccessRequest, StepUp, Verdict
from llm_authmw.authz.authorizer import Engine
from llm_authmw.authz.holders import Holder
from llm_authmw.authz.rules import AccessRules
from llm_authmw.authz.tables import BODYLESS
from llm_authmw.authz.trial import Kept
from llm_authmw.call import LLMCall
from llm_authmw.challenges import for_bearers
from llm_authmw.clock import Clock
from llm_authmw.context import RequestContext, logger
from llm_authmw.errors import Denial
from llm_authmw.lens import RequestLens, brings_body
from llm_authmw.patterns import canonical_route

_BEARER: Final = ("Bearer",)


class Basis(msgspec.Struct, frozen=True, eq=False):
    """What a layer decides by.

    Attributes:
        layer: The layer's name.
        rules: The roles.
        has_roles: Whether roles were given; if not, the rules only hold what credentials are restricted to.
        engine: An engine of the user's own, asked last.
        lens: How requests are read.
        clock: Gives the time.
        shadow: Whether nothing is denied.
    """

    layer: str
    rules: AccessRules
    has_roles: bool
    engine: Engine | None
    lens: RequestLens
    clock: Clock
    shadow: bool


class Asked(msgspec.Struct, frozen=True, eq=False):
    """Who asks, and for what.

    Attributes:
        holder: The caller with its roles.
        request: What is decided.
    """

    holder: Holder
    request: AccessRequest


class Case:
    """One request.

    Args:
        basis: What it is decided by.
        scope: The connection.
        receive: Where the request comes from.
        context: The request's.

    Attributes:
        asked: Who asks, and for what, once that is known.
        watched: Whether the frames of the socket matter too.
        kept: Where the layer is on trial, what was read for it.
        gone: Whether the client has left before all of the request was there.
        shadowed: Whether it was denied by what is on trial.
        rule: The role that decided.
    """

    __slots__ = ("_basis", "_receive", "asked", "context", "gone", "kept", "rule", "scope", "shadowed", "watched")

    def __init__(self, basis: Basis, scope: Scope, receive: Receive, context: RequestContext) -> None:
        self._basis: Final = basis
        self.kept: Final = Kept(receive) if basis.shadow else None
        self._receive: Receive = receive if self.kept is None else self.kept.keep
        self.scope: Final = scope
        self.context: Final = context
        self.asked: Asked | None = None
        self.watched: bool = False
        self.gone: bool = False
        self.shadowed: bool = False
        self.rule: str | None = None

    @property
    def receive(self) -> Receive:
        """Where the app receives the request from: all of it, whatever was read of it here."""
        return self._receive if self.kept is None else self.kept.again

    async def judge(self) -> Denial | None:
        """Decide; return the denial that is to be sent, or None. It never raises: what fails to be decided is denied."""
        try:
            denial = await self._judge()
        except Denial as raised:
            denial = raised
        except Exception as error:  # noqa: BLE001 - a decision that failed is a denial, and never a 500
            denial = self._undecided(error)
        return None if denial is None else self.deny(denial)

    def deny(self, denial: Denial, *, shadowed: bool = False) -> Denial | None:
        """Record a denial; return it as it is told, or None where it, or all of the layer, is on trial."""
        # A copy: it may be a constant of the user's engine.
        told = copy.copy(denial)
        told.layer = told.layer or self._basis.layer
        if not told.challenges and (told.status == 401 or told.reason == "insufficient_scope"):
            told.challenges = self._offered
        if shadowed or self._basis.shadow:
            self.shadowed = True
            self.context.record_shadow(told)
            return None
        self.context.record(told, credential_id=self.context.principal.credential_id)
        return told

    async def _judge(self) -> Denial | None:
        basis, context = self._basis, self.context
        principal = context.principal
        route = canonical_route(self.scope)
        if route is None:
            return Denial("ambiguous_path")
        if not principal.is_authenticated:
            return Denial("missing_credential")
        # What an own role means, an engine that decides alone says itself.
        holder = basis.rules.holder(principal if basis.has_roles else msgspec.structs.replace(principal, roles=()))
        context.roles = holder.roles if basis.has_roles else principal.roles
        engine = basis.engine
        found = basis.lens.find(*route)
        request = AccessRequest(
            principal=principal,
            method=route[0],
            path=route[1],
            found=found,
            with_body=found is None and route[0] in BODYLESS and brings_body(self.scope),
            address=context.client_address(self.scope) if holder.needs_address or engine is not None else None,
            now=basis.clock.now(),
        )
        self.asked = Asked(holder, request)
        verdict = basis.rules.decide_route(holder, request)
        if verdict is None or (verdict.allowed and engine is not None and engine.needs_call):
            await self._read(request)
            if self.gone:
                return None
            request = msgspec.structs.replace(request, call=context.call)
            verdict = verdict or basis.rules.decide(holder, request)
        denial = self._enforced(verdict)
        if denial is None and engine is not None:
            denial = await engine.judge(request)
        if denial is None and verdict.tier is not None:
            # A layer further in that names no tier does not take away what one further out has given.
            context.tier = verdict.tier
        return denial

    async def _read(self, request: AccessRequest) -> None:
        """Read what the request asks for.

        Raises:
            Denial: it cannot be read in one way only.
        """
        if self.scope["type"] == "websocket":
            self._basis.lens.handshake(self.scope, self.context, request.found)
            self.watched = True
            return
        receive = await self._basis.lens.read(self.scope, self._receive, self.context, request.found)
        self.gone = receive is None
        self._receive = receive or self._receive

    def _enforced(self, verdict: Verdict) -> Denial | None:
        """Return the denial of a verdict, unless only roles on trial say so: then it is recorded."""
        self.rule = verdict.rule if self._basis.has_roles else None
        denial = verdict.denial
        if denial is not None and verdict.step_up is not None:
            denial.challenges = for_bearers(self._offered, _login(verdict.step_up))
        return self.deny(denial, shadowed=True) if denial is not None and verdict.shadowed else denial

    # The frames of a socket.

    def watch(self, asked: Asked, judge: Callable[[LLMCall], Denial | None], deny: Callable[[Denial], Awaitable[None]]) -> Receive:
        """Return where frames come from that are held against the rules; see `RequestLens.watch`."""
        return self._basis.lens.watch(self._receive, asked.request.found, judge, deny)

    def judge_frame(self, asked: Asked, call: LLMCall) -> Denial | None:
        """Hold a frame against the roles; return why it is denied, or None."""
        try:
            denial = self._enforced(self._basis.rules.decide(asked.holder, self._anew(asked, call)))
        except Exception as error:  # noqa: BLE001 - as at the beginning
            denial = self._undecided(error)
        return self.deny(denial) if denial is not None and self._basis.shadow else denial

    async def ask_about_frame(self, asked: Asked, call: LLMCall) -> Denial | None:
        """Ask the engine, if there is one, about a frame that the roles allow."""
        try:
            return None if self._basis.engine is None else await self._basis.engine.judge(self._anew(asked, call))
        except Exception as error:  # noqa: BLE001 - as at the beginning
            return self._undecided(error)

    def _anew(self, asked: Asked, call: LLMCall) -> AccessRequest:
        return msgspec.structs.replace(asked.request, call=call, now=self._basis.clock.now())

    # What is told.

    @property
    def _offered(self) -> tuple[str, ...]:
        """What the authentication layers of the request would accept; every 401 has a challenge (RFC 9110 §15.5.2)."""
        run = self.context.authentication
        return _BEARER if run is None or run.entrance is None else run.entrance.offered

    def _undecided(self, error: Exception) -> Denial:
        # Where and what, but not the error's own text, which may quote what was being decided on.
        place = traceback.extract_tb(error.__traceback__)[-1]
        logger.error("%s could not decide: %s at %s:%s", self._basis.layer, type(error).__name__, place.filename, place.lineno)
        return Denial("authorization_unavailable")


def _login(step_up: StepUp) -> dict[str, str]:
    """Return the login that is lacking, as the parameters of a challenge (RFC 9470 §3)."""
    wanted = {} if step_up.max_age is None else {"max_age": f"{step_up.max_age:.0f}"}
    return wanted | ({"acr_values": " ".join(step_up.acr)} if step_up.acr else {})
