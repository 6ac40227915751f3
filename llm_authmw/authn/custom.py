"""Callers whom a function of the user's own knows."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec
from starlette.requests import HTTPConnection

from llm_authmw import fields
from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.credentials import header_channel
from llm_authmw.authn.expiry import Expiry
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.callbacks import DEFAULT_DEADLINE, Callback
from llm_authmw.challenges import parse_challenge
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial, InvalidValueError
from llm_authmw.identity import IdentitySource
from llm_authmw.names import Names, name_set, names
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import Assurance, Principal
from llm_authmw.restrictions import restriction_of

Verdict: TypeAlias = Principal | Denial | None
Authenticate: TypeAlias = Callable[[HTTPConnection], Verdict] | Callable[[HTTPConnection], Awaitable[Verdict]]

METHOD: Final = "custom"
"""The method of a principal that names somebody and no method."""

_CHECKS: Final[dict[str, fields.Check]] = {
    "email": fields.text_or_none,
    "roles": name_set,
    "scopes": name_set,
    "groups": name_set,
    "tags": name_set,
    "tier": fields.text_or_none,
    "models": fields.models,
    "routes": fields.routes,
    "networks": fields.networks,
    "limits": fields.limits,
    "budgets": fields.budgets,
    "method": fields.text,
    "issuer": fields.text_or_none,
    "authenticated_at": fields.moment,
    "acr": fields.text_or_none,
    "amr": names,
    "actors": names,
    "expires_at": fields.moment,
}
"""What `Principal` itself leaves unchecked, since our own layers only put in what was checked before."""


class CustomAuthMiddleware(AuthenticationLayer):
    """Let callers in whom a function of your own knows.

    The function is asked only where no authentication layer outside has decided yet. It sees the connection with the names of
    the headers in lower case, and cannot read the body. What it returns is held to every later layer like any other principal.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        authenticate: From a connection to a `Principal`; a `Denial`, returned or raised, where the credential is bad; None where
            there is none of its own. An async function, or a sync one, which runs in a worker thread. Whatever else it returns or
            raises is a check that failed: 503.
        realm: Where the user's name means one person, for principals that claim no realm of their own.
        headers: Further headers that carry what it judges, in lower case: two credentials at once are 400.
        query_parameters: Query parameters that do. URLs end up in logs.
        challenge: What it would accept, for `WWW-Authenticate`.
        deadline: Seconds that a call may take.
        required: Whether a caller must be known, by the function or by a layer beside this one.
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.
        clock: Tells which principals have expired.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticate: Authenticate,
        realm: str = METHOD,
        headers: Names = (),
        query_parameters: Names = (),
        challenge: str = "Bearer",
        deadline: float = DEFAULT_DEADLINE,
        required: bool = True,
        trusted_proxies: TrustedProxies | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._ask: Final = Callback("authenticate", authenticate, deadline=deadline)
        try:
            self._realm: Final = fields.text("realm", realm)
        except InvalidValueError as error:
            raise ConfigurationError("realm", str(error)) from None
        if type(challenge) is not str or parse_challenge(challenge) is None:
            raise ConfigurationError("challenge", "takes a challenge such as 'Bearer' or 'Ticket realm=\"desk\"' (RFC 9110 §11.6.1)")
        super().__init__(
            app,
            required=required,
            trusted_proxies=trusted_proxies,
            headers=frozenset(header_channel("headers", name) for name in names("headers", headers)),
            query_parameters=frozenset(names("query_parameters", query_parameters)),
        )
        self.challenge = challenge
        self._clock: Final = clock

    def __repr__(self) -> str:
        return f"CustomAuthMiddleware(authenticate={self._ask!r}, realm={self._realm!r}, required={self.required})"

    def problem_beside(self, inner: AuthenticationLayer) -> str | None:
        """Say why this layer must not stand outside of another one: nothing speaks against two functions side by side."""
        return None if isinstance(inner, CustomAuthMiddleware) else super().problem_beside(inner)

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The function, which may name any issuer and keep any claim."""
        return (IdentitySource(method=METHOD, issuers=None, kept_claims=None),)

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Verdict:
        """Ask the user's function who is calling."""
        found = await self._ask(HTTPConnection(_shown(scope)))
        if found is None or isinstance(found, Denial):
            return found
        principal = checked_principal(found, self._realm)
        if principal.expires_at is not None:
            standing = Expiry(self.name, principal.expires_at, self._clock, credential_id=principal.credential_id)
            denial = standing.refusal()
            if denial is not None:
                return denial
            run.standing = standing
        reason = restriction_of(principal, scope, context)
        if reason is None:
            return principal
        denial = Denial(reason, layer=self.name)
        denial.credential_id = principal.credential_id
        return denial


def checked_principal(found: Any, realm: str) -> Principal:
    """Return the principal that somebody else's code has made, as one of our own layers would have made it.

    Raises:
        TypeError: it is no principal, names nobody, or can be changed behind everybody's back.
        AuthmwError: a field is outside its grammar.
    """
    # No subclass either: one could answer otherwise each time that it is asked.
    if type(found) is not Principal:
        raise TypeError(f"authenticate returned {type(found).__name__} instead of a Principal, a Denial or None")
    if not (found.user or found.client or found.credential_id):
        raise TypeError("authenticate returned a Principal who is nobody; for an anonymous caller it returns None")
    if type(found.assurance) is not Assurance:
        raise TypeError("a principal's assurance is an Assurance")
    pairs: tuple[Any, ...] = (*found.claims, *found.confirmation)
    if any(type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str for pair in pairs):
        raise TypeError("a principal's claims and confirmation are pairs of a name and a value")
    checked = {name: check(name, value) for name, check in _CHECKS.items() if (value := getattr(found, name)) not in (None, ())}
    checked["realm"] = found.realm or realm
    if found.method == "anonymous":
        checked["method"] = METHOD
    principal = msgspec.structs.replace(found, **checked)
    # Whatever is hashable cannot be changed; what is not is a TypeError.
    hash(principal)
    return principal


def _shown(scope: Scope) -> dict[str, Any]:
    """Return a copy of the scope for the function to read: nothing that it does to it reaches the app."""
    # Starlette looks a header up by its name in lower case, and some servers keep the case that the client chose.
    shown = {**scope, "headers": [(name.lower(), value) for name, value in scope["headers"]]}
    shown.setdefault("query_string", b"")
    if "state" in shown:
        # A server may give the same lifespan state to every request.
        shown["state"] = dict(shown["state"])
    return shown
