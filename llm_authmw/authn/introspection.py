"""Bearer tokens that only their provider can read: asked about by introspection (RFC 7662)."""

import hmac
from typing import Final, Unpack

import msgspec

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.credentials import AUTHORIZATION
from llm_authmw.authn.layer import AuthenticationLayer, check_failed
from llm_authmw.authn.run import Run
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial, IssuerUnavailableError, TokenInvalid
from llm_authmw.identity import IdentitySource
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import Principal
from llm_authmw.protected_resource import ProtectedResource
from llm_authmw.resource import Resource
from llm_authmw.tokens.introspected import Introspected, token_name
from llm_authmw.tokens.introspection import Introspector, IntrospectorOptions, introspector_of


class IntrospectionMiddleware(AuthenticationLayer):
    """Let callers in whose bearer token the provider says is good.

    It takes every `Authorization: Bearer` that the layers outside of it have left, so it stands innermost of those that look at one.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        introspector: A handle of your own, for stacks that are to share what it knows. Left out, the options below make one;
            layers with equal options share it anyway.
        required: Whether a caller must be known, by a token or by a layer beside this one.
        resource: What this service is called to clients that look for the way to log in (RFC 9728).
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.
        options: As for `Introspector`: `endpoint=`, `client_id=`, `client_secret=`, `realm=`, `claims=` and the others.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced.
    """

    challenge = "Bearer"

    def __init__(
        self,
        app: ASGIApp,
        *,
        introspector: Introspector | None = None,
        required: bool = True,
        resource: ProtectedResource | None = None,
        trusted_proxies: TrustedProxies | None = None,
        **options: Unpack[IntrospectorOptions],
    ) -> None:
        if introspector is not None and not isinstance(introspector, Introspector):
            raise ConfigurationError("introspector", "takes Introspector(…)")
        if introspector is not None and options:
            raise ConfigurationError(min(options), "would be ignored: the introspector that is given has options of its own")
        self._introspector: Final = introspector if introspector is not None else introspector_of(**options)
        super().__init__(app, required=required, resource=resource, trusted_proxies=trusted_proxies)

    def __repr__(self) -> str:
        return f"IntrospectionMiddleware({self._introspector!r}, required={self.required})"

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The provider."""
        asked = self._introspector
        return (IdentitySource(method="introspection", issuers=(asked.source,), kept_claims=frozenset(asked.claims.keep)),)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The connections to the provider."""
        return (self._introspector,)

    def problem_beside(self, inner: AuthenticationLayer) -> str | None:
        """Say why a layer that looks at bearer tokens must not stand inside of this one, which leaves none of them."""
        problem = super().problem_beside(inner)
        if problem is None and not inner.edge:
            return f"takes every bearer token, so {inner.name} inside of it would see none: put IntrospectionMiddleware after it"
        return problem

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        """Ask about the bearer token that the caller presents, if there is one."""
        del scope, context
        credential = run.credential
        if credential is None or credential.channel != AUTHORIZATION or credential.scheme != b"bearer":
            return None
        found = await self.judge(credential.token, run.certificate)
        if isinstance(found, Denial):
            return found
        run.standing = _Standing(self, self._introspector, credential.token, run.certificate, found)
        return found.principal

    async def judge(self, token: bytes, certificate: bytes | None) -> Introspected | Denial:
        """Return what is known of the token, or why it is no good.

        Args:
            token: The token.
            certificate: SHA-256 of the certificate that the client has proven to hold, if it has.
        """
        try:
            known = await self._introspector.introspect(token)
        except TokenInvalid as invalid:
            denial = Denial(invalid.reason, layer=self.name)
        except IssuerUnavailableError as error:
            denial = Denial("issuer_unavailable", layer=self.name, retry_after=error.retry_after)
        else:
            bound_to = known.certificate
            # RFC 8705 §3: a stolen token is worth nothing without the certificate.
            if bound_to is None or (certificate is not None and hmac.compare_digest(bound_to, certificate)):
                return known
            denial = Denial("token_binding_mismatch", layer=self.name)
        denial.credential_id = token_name(token)
        return denial


class _Standing(msgspec.Struct, eq=False):
    """A token that was let in, for as long as its stream or socket is open."""

    layer: IntrospectionMiddleware
    introspector: Introspector
    token: bytes
    certificate: bytes | None
    known: Introspected

    def __repr__(self) -> str:
        return f"_Standing({self.known!r})"

    @property
    def bound(self) -> float:
        return self.introspector.bound

    @property
    def due(self) -> float:
        due = self.introspector.due(self.known)
        return due if due > 0 else self.bound

    def holds(self) -> bool:
        return self.introspector.holds(self.known)

    async def confirm(self) -> Denial | None:
        try:
            found = await self.layer.judge(self.token, self.certificate)
        except Exception as error:  # noqa: BLE001 - as at the beginning: a check that failed to run has failed
            return check_failed(self.layer.name, error)
        if isinstance(found, Denial):
            return found
        self.known = found
        return None
