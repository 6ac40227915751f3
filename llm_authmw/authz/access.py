"""What is decided, and on what: the request as the rules see it, the verdict, and the seam for an engine of one's own."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import msgspec

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.operations import Found
from llm_authmw.network import Address
from llm_authmw.principal import Principal


class AccessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as far as rules look at it. A WebSocket's frame is one too, with a call of its own.

    Attributes:
        principal: Who is calling.
        method: As `patterns.canonical_route` gives it: "WS" for a WebSocket.
        path: As `patterns.canonical_route` gives it.
        found: The operation of the route; None where no table has it.
        with_body: Whether it brings a body though its method is one that has none as a rule, such as `GET` (RFC 9110 §9.3.1).
        call: What the request asks for; None where no rule had to know.
        address: The client's address as the trusted-proxy setting resolves it; None where it is not known, or nothing asks for it
            (`Holder.needs_address`).
        now: When the request came, seconds since 1970.
    """

    principal: Principal
    method: str
    path: str
    found: Found | None = None
    with_body: bool = False
    call: LLMCall | None = None
    address: Address | None = None
    now: float = 0.0


class StepUp(msgspec.Struct, frozen=True):
    """How the caller would have to log in for the request to be allowed; the layer makes the challenge of it (RFC 9470 §3).

    Attributes:
        max_age: Seconds that may have passed since; None where any time will do.
        acr: Authentication context classes, one of which it has to be; empty where any will do.
    """

    max_age: float | None
    acr: tuple[str, ...]


class Verdict(msgspec.Struct, frozen=True):
    """What was decided.

    The denial is this request's own, and has neither layer nor challenges: the layer fills them in. For "missing_credential" they are
    those of the run of authentication layers, for "authentication_too_old" and "authentication_class_not_accepted" the one that
    `step_up` gives.

    Attributes:
        denial: Why not; None where the request is allowed. Where `shadowed`, it is to be recorded and not to be sent.
        rule: The role that allowed the request, or the one that came nearest.
        tier: The tier of the role that allowed it.
        shadowed: Whether the denial is not enforced, as every role of the caller is on trial.
        step_up: The login that is lacking.
    """

    denial: Denial | None = None
    rule: str | None = None
    tier: str | None = None
    shadowed: bool = False
    step_up: StepUp | None = None

    @property
    def allowed(self) -> bool:
        """Whether the request goes on."""
        return self.denial is None or self.shadowed


class Authorizer(Protocol):
    """An engine of one's own, asked once the roles allow a request: it can only narrow.

    Attributes:
        needs_call: Whether it looks at what the request asks for, so that the body has to be read for it.
    """

    needs_call: bool

    async def authorize(self, request: AccessRequest) -> bool | Denial:
        """Say whether the request is allowed, or return the denial. Whatever else it returns or raises denies."""
        ...


AuthorizerFunction: TypeAlias = Callable[[AccessRequest], bool | Denial | Awaitable[bool | Denial]]
"""A function in the place of an `Authorizer`: sync or async. It is given the call."""
