"""The one mutable object of a request, which the outermost of our layers opens and every other one finds."""

import logging
import random
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Final, Protocol

import msgspec
from starlette.authentication import AuthCredentials

from llm_authmw.call import Charge, LLMCall, Usage
from llm_authmw.errors import Denial
from llm_authmw.network import Address, TrustedProxies, peer_address
from llm_authmw.principal import ANONYMOUS, Principal

logger: Final = logging.getLogger("llm_authmw")

CONTEXT_KEY: Final = "llm_authmw.context"

_OF_STORES: Final = frozenset({"authorization_unavailable", "issuer_unavailable", "ledger_unavailable", "store_unavailable"})
"""Reasons of which each means that somebody who was asked has not answered."""

MAX_SHADOWED: Final = 64
"""Decisions beyond which none that is only on trial is noted: a socket may be denied at each of its frames, and goes on."""

_shadowed: Final[Counter[tuple[str, str | None, str]]] = Counter()
# By layer, rule and reason, each of them of the configuration: no request adds a new one of its own making.

_current: Final[ContextVar[Principal]] = ContextVar("llm_authmw.principal")


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one layer decided.

    Attributes:
        layer: The layer's name.
        outcome: "allowed", "denied", "passed" where the layer found no credential of its own or left it to a policy's layers, or
            "shadowed" where it would have denied and is, or its rule is, on trial.
        reason: The exact reason code of a denial, one in shadow too.
        credential_id: The id of the credential that was judged, if it was found out; never the credential.
        mark: What a reader of the record should notice: "master_key", "retiring_secret", "imported_secret".
        rule: The role, policy or rule that decided.
    """

    layer: str
    outcome: str
    reason: str | None = None
    credential_id: str | None = None
    mark: str | None = None
    rule: str | None = None


class Attempt(Protocol):
    """A request's attempt to get in, of which the authentication layers tell whoever counts those that fail."""

    async def begin(self, scope: Any, context: "RequestContext", run: Any) -> Denial | None:
        """Hear of a run of layers that is about to judge what the request presents; return why it is not judged at all, or None."""
        ...

    async def failed(self, scope: Any, context: "RequestContext", run: Any, denial: Denial) -> Denial:
        """Hear that a run denies the request; return what it is denied for: that, or something else that counts for more."""
        ...

    def succeeded(self, context: "RequestContext") -> None:
        """Hear that a run lets the request in."""


class RequestContext(msgspec.Struct, eq=False):
    """What our layers know of one request.

    It is the same object in every copy of the scope, deep ones too: what an inner layer writes, an outer one reads.

    Attributes:
        proxies: The one trusted-proxy setting, from whoever opened the context.
        principal: Who is calling; anonymous until a layer has decided.
        decisions: What each layer decided, in the order in which they did.
        denial: A denial that came from inside the app (a framework dependency); the layer renders it when the app's
            own error response starts.
        authentication: The run of authentication layers that the request is in; theirs alone.
        call: What the request asks for, once a layer has read it.
        roles: The roles that the principal has here, its own and granted ones, as the innermost `RBACMiddleware` found them.
        tier: The tier that the role gives which allowed the request; the principal's own goes before it.
        attempt: Whoever counts credentials that are no good, told of by the authentication layers; None where nobody does.
        exchange: What passes between the client and the app, watched by the layers that count it; theirs alone.
        holds: What was reserved for it (`ledger.hold.Hold`), in the order in which that was done; each knows how it was settled.
        store_trouble: Whether a store did not answer a question about it in time, whatever became of the request then.
        usage: What the answer used, once it is over; None where nothing metered it.
        charge: What that cost, once it is over; None where nothing priced it.
        answer_failed: Whether the answer itself says that the call failed, as far as a layer has read it.
        store_waited: Seconds that the request has waited for answers about limits and budgets: all of them share one deadline.
        monotonic: Tells the time of decisions, in seconds; None where nobody asks for it.
        timings: When each of `decisions` was taken, as far as `monotonic` tells.
        audit: The record that is being made of the request; the audit layers' alone.
    """

    proxies: TrustedProxies | None = None
    principal: Principal = ANONYMOUS
    decisions: list[Decision] = []
    denial: Denial | None = None
    authentication: Any = None
    call: LLMCall | None = None
    roles: tuple[str, ...] = ()
    tier: str | None = None
    attempt: Attempt | None = None
    exchange: Any = None
    holds: list[Any] = []
    store_trouble: bool = False
    usage: Usage | None = None
    charge: Charge | None = None
    answer_failed: bool = False
    store_waited: float = 0.0
    monotonic: Callable[[], float] | None = None
    timings: list[float] = []
    audit: Any = None
    _request_number: int | None = None
    _address: Address | None = None
    _address_known: bool = False

    @classmethod
    def of(cls, scope: Any, proxies: TrustedProxies | None = None) -> "RequestContext":
        """Find the context in the scope, or open one there."""
        context: RequestContext | None = scope.get(CONTEXT_KEY)
        if context is None:
            context = scope[CONTEXT_KEY] = cls(proxies)
        elif context.proxies is None and proxies is not None:
            # Whatever was resolved without the setting was the proxy's own address, which other networks are good for.
            context.proxies, context._address_known = proxies, False
        return context

    @property
    def request_id(self) -> str:
        """An id of ours for this request, 16 hexadecimal digits; never one that the client chose. It is no secret."""
        return request_id(self.request_number)

    @property
    def request_number(self) -> int:
        """The number of which the id is made."""
        if self._request_number is None:
            self._request_number = random.getrandbits(64)
        return self._request_number

    @property
    def address(self) -> Address | None:
        """The client's address, as far as a layer has asked for it."""
        return self._address

    def client_address(self, scope: Any) -> Address | None:
        """Return the client's address as the one trusted-proxy setting resolves it, or None where it is not known."""
        if not self._address_known:
            self._address = self.proxies.client_address(scope) if self.proxies is not None else peer_address(scope)
            self._address_known = True
        return self._address

    def decided(self, decision: Decision) -> None:
        """Note what a layer decided, and when."""
        self.decisions.append(decision)
        if self.monotonic is not None:
            self.timings.append(self.monotonic())

    def record(self, denial: Denial, *, credential_id: str | None = None, mark: str | None = None) -> None:
        """Note a denial among the decisions, and in the log: ids and reason codes only."""
        self.decided(Decision(denial.layer, "denied", denial.reason, credential_id, mark, denial.rule))
        self.store_trouble = self.store_trouble or denial.reason in _OF_STORES
        if logger.isEnabledFor(logging.INFO):
            logger.info("request %s denied by %s: %s (credential %s)", self.request_id, denial.layer, denial.reason, credential_id)

    def record_shadow(self, denial: Denial) -> None:
        """Note a denial that is not enforced, since its layer or its rule is on trial; count it for the process."""
        if len(self.decisions) < MAX_SHADOWED:
            self.decided(Decision(denial.layer, "shadowed", denial.reason, None, None, denial.rule))
        self.store_trouble = self.store_trouble or denial.reason in _OF_STORES
        _shadowed[denial.layer, denial.rule, denial.reason] += 1
        if logger.isEnabledFor(logging.INFO):
            logger.info("request %s would be denied by %s: %s (rule %s)", self.request_id, denial.layer, denial.reason, denial.rule)

    def __copy__(self) -> "RequestContext":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "RequestContext":
        return self

    def __repr__(self) -> str:
        return f"RequestContext(request_id={self.request_id!r}, subject={self.principal.subject!r})"


def request_id(number: int) -> str:
    """Return the id that is made of a number of 64 bits."""
    return f"{number:016x}"


def current_principal() -> Principal:
    """Return who is calling, from anywhere inside the request, without the request at hand.

    Raises:
        LookupError: Not inside a request that one of our authentication layers let through. Reading it from a task that
            outlives its request, or from outside a `BaseHTTPMiddleware`, is such a case: `request.user` works there.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("current_principal() was called outside a request that an authentication layer let through") from None


def shadow_counts() -> dict[tuple[str, str | None, str], int]:
    """Return how many requests of this process would have been denied, by layer, rule and reason code, were nothing on trial."""
    return dict(_shadowed)


def publish(scope: Any, principal: Principal) -> Token[Principal]:
    """Set the principal where the frameworks look for it; return the token that `unpublish` takes."""
    scope["user"] = principal
    # Never shared between requests: a handler that appends to its scopes would grant them to everybody after it.
    scope["auth"] = AuthCredentials(principal.scopes)
    state = scope.get("state")
    # Copied, not written into: a server may hand the same lifespan state to every request.
    scope["state"] = {**state, "principal": principal} if state else {"principal": principal}
    return _current.set(principal)


unpublish: Final = _current.reset
