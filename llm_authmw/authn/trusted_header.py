"""Identity that a proxy in front has established, and hands on in headers."""

from functools import lru_cache
from typing import Any, Final

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.header_reader import HeaderReader
from llm_authmw.authn.identity_headers import IdentityHeaders, with_family, without
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.proof import Proof, chosen_proof, spent_headers
from llm_authmw.authn.run import Run
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import IdentitySource
from llm_authmw.names import Names, name_problem
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import DEFAULT_TENANT, Principal

_REMEMBERED: Final = 512
"""Callers of one layer whose principals are kept."""


class HeaderTrustMiddleware(AuthenticationLayer):
    """Let callers in whom a proxy in front has authenticated, and take the proxy's headers from everybody else.

    Trust needs a fact that the client cannot write: a UNIX socket, a secret that only the proxy knows, a certificate of the
    proxy's; or the operator's word that no server rewrites the address of the peer. An address list alone is refused.

    Headers from anyone else are removed before the app sees them; the same headers in another spelling are refused, whoever sends
    them. A caller may also present a credential of its own, which then is the one that counts.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        realm: Where a user's name means one person.
        headers: Which headers become which fields: `HeaderMap(user="x-forwarded-user")`, or `HeaderMap.preset("oauth2-proxy")`.
        proof: What shows that a request came through the proxy: `SharedSecret`, `UnixSocket`, `ProxyCertificate`.
        peers: In place of a proof: the proxies' networks, on the word that `server_does_not_rewrite` gives.
        server_does_not_rewrite: True says that the server takes the peer's address from the connection, never from a header.
        tenant: The tenant, unless a header names it.
        required: Whether a caller must be known, by the proxy's headers or by a layer beside this one.
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, nothing proves the proxy, or the layer is misplaced.
    """

    # There is nothing that a client could send, but a 401 has a challenge (RFC 9110 §15.5.2).
    challenge: str = "TrustedHeader"
    edge: bool = True

    def __init__(
        self,
        app: ASGIApp,
        *,
        realm: str,
        headers: HeaderMap,
        proof: Proof | None = None,
        peers: Names | None = None,
        server_does_not_rewrite: bool = False,
        tenant: str = DEFAULT_TENANT,
        required: bool = True,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        given: Any = headers
        if not isinstance(given, HeaderMap):
            raise ConfigurationError("headers", "takes HeaderMap(…)")
        self.proof: Final = chosen_proof(proof=proof, peers=peers, server_does_not_rewrite=server_does_not_rewrite)
        if headers.needs_strong_proof and not self.proof.strong:
            raise ConfigurationError("peers", "is too weak for these headers, which the cloud does not sign: give proof= instead")
        self._mapped: Final = frozenset(headers.named.values())
        self.trusted_headers: Final = with_family(self._mapped)
        if not self.trusted_headers.isdisjoint(self.proof.headers):
            raise ConfigurationError("proof", "is in a header that also says who is calling")
        super().__init__(app, required=required, trusted_proxies=trusted_proxies)
        clash = self.headers & (self.trusted_headers | self.proof.headers)
        if clash:
            raise ConfigurationError("headers", f"{min(clash)!r} carries the caller's own credential")
        self._identity: Final = IdentityHeaders(self.trusted_headers | self.proof.headers)
        self._spent: Final = spent_headers(self.proof, self.neighbour)
        self._not_a_strangers: Final = self.trusted_headers | self._spent
        # On the layer, though caches are not: what it remembers is a pure function of the values and of options that never change, so
        # it can be neither stale nor wrong. Only values from a proven proxy get here, and denials are not remembered.
        self._read: Final = lru_cache(maxsize=_REMEMBERED)(
            HeaderReader(headers, realm=_name("realm", realm), tenant=_name("tenant", tenant)).read
        )

    def __repr__(self) -> str:
        return f"HeaderTrustMiddleware(proof={self.proof!r}, headers={sorted(self._mapped)!r}, required={self.required})"

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The proxy."""
        return (IdentitySource(method="header"),)

    @property
    def edge_headers(self) -> frozenset[bytes]:
        """The headers of the proxy, and those that prove it."""
        return self._identity.names

    def problem_beside(self, inner: AuthenticationLayer) -> str | None:
        """Let two proxies stand side by side whose headers differ."""
        if not isinstance(inner, HeaderTrustMiddleware):
            return super().problem_beside(inner)
        shared = self.trusted_headers & inner.trusted_headers
        return f"two HeaderTrustMiddleware read {min(shared)!r}, which the outer one removes from whom it does not know" if shared else None

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:  # noqa: ARG002 - the base class says what it is given
        """Take the proxy's word for who is calling, once it is proven to be the proxy's."""
        found = self._identity.find(scope["headers"])
        if isinstance(found, Denial):
            return found
        verdict = self.proof.judge(scope)
        if verdict == "wrong":
            return Denial("proxy_proof_invalid")
        if verdict != "proven":
            if found:
                scope["headers"] = without(scope["headers"], self._not_a_strangers)
            return None
        if self._spent:
            scope["headers"] = without(scope["headers"], self._spent)
        lines = tuple(line for line in found if line[0] in self._mapped)
        return self._read(lines) if lines else None


def _name(option: str, value: Any) -> str:
    problem = name_problem(value) if isinstance(value, str) else "is not a text"
    if problem is not None:
        raise ConfigurationError(option, problem)
    return str(value)
