"""JSON Web Tokens: the caller's own, or the signed assertion of an edge in front."""

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.credentials import AUTHORIZATION
from llm_authmw.authn.identity_headers import IdentityHeaders, header_name
from llm_authmw.authn.layer import AuthenticationLayer, check_failed
from llm_authmw.authn.run import Run
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial, IssuerUnavailableError, StoreError, TokenInvalid
from llm_authmw.identity import IdentitySource
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import Principal
from llm_authmw.protected_resource import ProtectedResource
from llm_authmw.resource import Resource
from llm_authmw.tokens.introspected import token_name
from llm_authmw.tokens.issuer import Issuer
from llm_authmw.tokens.jws import looks_compact
from llm_authmw.tokens.unverified import UnverifiedToken, read_jwt
from llm_authmw.tokens.verified import VerifiedToken

_BOUND_OF_AN_END: Final = 1.0
"""Seconds between two looks at an open stream whose token can do nothing but end."""


class Revocations(Protocol):
    """Which tokens are revoked: `store.revocations`."""

    @property
    def bound(self) -> float:
        """Seconds within which a revocation by another process takes effect here."""
        ...

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be awaited before `covers` may be believed."""
        ...

    @property
    def resource(self) -> Resource | None:
        """What a lifespan starts and closes."""
        ...

    async def refresh(self) -> None:
        """Learn what others revoked.

        Raises:
            StoreError: the store cannot be read.
        """

    def covers(self, *, tenant: str, issuer: str, jti: str | None, subject: str | None, issued_at: float | None, kid: str | None) -> bool:
        """Say whether a token is revoked, as of the last `refresh`."""
        ...


class JWTMiddleware(AuthenticationLayer):
    """Let callers in who present a token that one of the issuers has signed.

    Tokens come in `Authorization: Bearer`; those of issuers that have a `header`, from the edge in front. A bearer token that is no JWT,
    or that none of these issuers is named in, is left to the layer beside this one.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        issuers: Whose tokens are accepted. All of them are callers' issuers, or all of them edges'.
        required: Whether a caller must be known, by a token or by a layer beside this one.
        revocations: `store.revocations`, where tokens may be revoked before they end.
        resource: What this service is called to clients that look for the way to log in (RFC 9728).
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.

    Raises:
        ConfigurationError: an option is wrong, two issuers have one name, or the layer is misplaced.
    """

    challenge = "Bearer"

    def __init__(
        self,
        app: ASGIApp,
        *,
        issuers: Sequence[Issuer],
        required: bool = True,
        revocations: Revocations | None = None,
        resource: ProtectedResource | None = None,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        self._issuers: Final = _checked(issuers)
        if revocations is not None and not hasattr(revocations, "covers"):
            raise ConfigurationError("revocations", "takes store.revocations")
        edges = {issuer.header: issuer for issuer in self._issuers if issuer.header is not None}
        self.edge: bool = bool(edges)
        if edges and resource is not None:
            raise ConfigurationError("resource", "is for callers' tokens; an edge in front finds its own way")
        super().__init__(app, required=required, resource=resource, trusted_proxies=trusted_proxies)
        for name in edges:
            if header_name("issuers", name.decode()) in self.headers:
                raise ConfigurationError("issuers", f"{name.decode()!r} carries a caller's own credential, and no edge's word")
        self._by_name: Final = {issuer.issuer: issuer for issuer in self._issuers}
        self._by_header: Final = edges
        self._headers: Final = IdentityHeaders(edges)
        self._revocations: Final = revocations

    def __repr__(self) -> str:
        return f"JWTMiddleware(issuers={list(self._issuers)!r}, required={self.required})"

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The issuers."""
        return tuple(
            IdentitySource(method="jwt", issuers=(issuer.issuer,), kept_claims=frozenset(issuer.claims.keep)) for issuer in self._issuers
        )

    @property
    def edge_headers(self) -> frozenset[bytes]:
        """The headers of the edges."""
        return self._headers.names

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The issuers, and the store that revocations are in."""
        store = None if self._revocations is None else self._revocations.resource
        return (*self._issuers, store) if store is not None else self._issuers

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:  # noqa: ARG002 - the base class says what it is given
        """Judge the token that the caller presents, or that the edge has added, if it is one of these issuers'."""
        if self.edge:
            return await self._authenticate_edge(scope, run)
        credential = run.credential
        if credential is None or credential.channel != AUTHORIZATION or credential.scheme != b"bearer":
            return None
        token = credential.token
        digest = hashlib.sha256(token).digest()
        for issuer in self._issuers:
            known = _recall(issuer, digest)
            if known is not None:
                return self._decide(issuer, known, run) if self._fresh else await self._decide_afresh(issuer, known, run)
        unverified = self._claimed(token)
        if unverified is None:
            return None
        return await self._verify(self._by_name[unverified.claims["iss"]], token, unverified, run)

    def _claimed(self, token: bytes) -> UnverifiedToken | None:
        """Read a token that names one of these issuers; anything else is somebody else's, or nobody's."""
        if not looks_compact(token):
            return None
        try:
            unverified = read_jwt(token)
        except TokenInvalid:
            return None
        named = unverified.claims.get("iss")
        return unverified if isinstance(named, str) and named in self._by_name else None

    async def _authenticate_edge(self, scope: Scope, run: Run) -> Principal | Denial | None:
        lines = self._headers.find(scope["headers"])
        if isinstance(lines, Denial):
            return lines
        principal: Principal | None = None
        for name, value in lines:
            if sum(other == name for other, _ in lines) > 1:
                return Denial("identity_header_repeated")
            issuer, token = self._by_header[name], value.strip(b" \t")
            known = _recall(issuer, hashlib.sha256(token).digest())
            # Each of them is judged: an edge that says something false is not made good by another one.
            outcome = await (self._verify(issuer, token, None, run) if known is None else self._decide_afresh(issuer, known, run))
            if isinstance(outcome, Denial):
                return outcome
            principal = principal or outcome
        return principal

    async def _verify(self, issuer: Issuer, token: bytes, unverified: UnverifiedToken | None, run: Run) -> Principal | Denial:
        try:
            verified = await issuer.verify(token, unverified)
        except TokenInvalid as invalid:
            return self._denial(invalid.reason, token_name(token))
        except IssuerUnavailableError as error:
            return Denial("issuer_unavailable", retry_after=error.retry_after)
        return await self._decide_afresh(issuer, verified, run)

    @property
    def _fresh(self) -> bool:
        """Whether what is known of revocations may be believed without asking."""
        return self._revocations is None or not self._revocations.stale

    async def _decide_afresh(self, issuer: Issuer, token: VerifiedToken, run: Run) -> Principal | Denial:
        return await self._refreshed() or self._decide(issuer, token, run)

    async def _refreshed(self) -> Denial | None:
        """Learn what others revoked, if that is not known; return a denial where that cannot be done."""
        if self._revocations is not None and self._revocations.stale:
            try:
                await self._revocations.refresh()
            except StoreError:
                return Denial("store_unavailable", layer=self.name)
        return None

    def _decide(self, issuer: Issuer, token: VerifiedToken, run: Run) -> Principal | Denial:
        denial = self.problem(issuer, token, run.certificate)
        if denial is not None:
            run.proven = token.principal
            return denial
        standing = _Standing(self, issuer, token, run.certificate)
        if self.edge:
            run.edge_standing = run.edge_standing or standing
        else:
            run.standing = standing
        return token.principal

    def problem(self, issuer: Issuer, token: VerifiedToken, certificate: bytes | None) -> Denial | None:
        """Return why a token that was verified does not stand on this connection, as far as is known; None where it does."""
        reason = token.problem(issuer.now())
        if reason is None and token.certificate is not None and token.certificate != certificate:
            reason = "token_binding_mismatch"
        if reason is None and self._revocations is not None and self.revoked(issuer, token):
            reason = "token_revoked"
        return None if reason is None else self._denial(reason, token.principal.credential_id)

    async def confirm(self, issuer: Issuer, token: VerifiedToken, certificate: bytes | None) -> Denial | None:
        """Ask again about a token that was let in; return why it stands no longer, or None."""
        return await self._refreshed() or self.problem(issuer, token, certificate)

    def holds(self, issuer: Issuer, token: VerifiedToken) -> bool:
        """Say whether a token that was let in still stands, without asking anybody; False means that it must be asked."""
        issuer.renew()
        return self._fresh and token.problem(issuer.now()) is None and not self.revoked(issuer, token)

    def revoked(self, issuer: Issuer, token: VerifiedToken) -> bool:
        """Say whether the token was revoked, as far as is known."""
        if self._revocations is None:
            return False
        # A claim may name another tenant than the issuer's own; who revokes for either means this token.
        return any(
            self._revocations.covers(
                tenant=tenant,
                issuer=issuer.issuer,
                jti=token.token_id,
                subject=token.subject,
                issued_at=token.issued_at,
                kid=token.key.kid,
            )
            for tenant in {token.principal.tenant, issuer.tenant}
        )

    @property
    def bound(self) -> float:
        """Seconds within which an end, or a revocation, takes effect on what is open."""
        return _BOUND_OF_AN_END if self._revocations is None else self._revocations.bound

    def _denial(self, reason: str, credential_id: str | None) -> Denial:
        denial = Denial(reason, layer=self.name)
        denial.credential_id = credential_id
        return denial


class _Standing(msgspec.Struct, eq=False):
    """A token that was let in, for as long as its stream or socket is open."""

    layer: JWTMiddleware
    issuer: Issuer
    token: VerifiedToken
    certificate: bytes | None

    @property
    def bound(self) -> float:
        return self.layer.bound

    @property
    def due(self) -> float:
        left = self.token.ends - self.issuer.now()
        return min(self.bound, left) if left > 0 else self.bound

    def holds(self) -> bool:
        return self.layer.holds(self.issuer, self.token)

    async def confirm(self) -> Denial | None:
        try:
            return await self.layer.confirm(self.issuer, self.token, self.certificate)
        except Exception as error:  # noqa: BLE001 - as at the beginning: a check that failed to run has failed
            return check_failed(self.layer.name, error)


def _recall(issuer: Issuer, digest: bytes) -> VerifiedToken | None:
    known = issuer.recall(digest)
    if known is not None:
        issuer.renew()
        if not known.key.current:
            # It may be back, or nobody can say since the issuer is down: either is found out as for a token that was never seen.
            return None
    return known


def _checked(issuers: Sequence[Issuer]) -> tuple[Issuer, ...]:
    if not isinstance(issuers, list | tuple) or not issuers or not all(isinstance(issuer, Issuer) for issuer in issuers):
        raise ConfigurationError("issuers", "takes a list of Issuer(…), at least one")
    given = [issuer.issuer for issuer in issuers]
    headers = [issuer.header for issuer in issuers]
    if len({header is None for header in headers}) > 1:
        raise ConfigurationError("issuers", "mixes callers' issuers with edges', which have a header: give each a JWTMiddleware of its own")
    if headers[0] is None and len(set(given)) < len(given):
        raise ConfigurationError("issuers", "has two of one name, and which of them a token means nobody could say")
    if headers[0] is not None and len(set(headers)) < len(headers):
        raise ConfigurationError("issuers", "has two edges that write one header")
    return tuple(issuers)
