"""`Issuer`: whose tokens are accepted, and what they must say. It owns the keys and remembers what was verified."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from llm_authmw.cache import Cache
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, TokenInvalid
from llm_authmw.names import Names, name_problem, names
from llm_authmw.principal import DEFAULT_TENANT, Assurance
from llm_authmw.secrets import Secret
from llm_authmw.tokens.claim_map import ClaimMap
from llm_authmw.tokens.claims import AT_JWT, ClaimRules
from llm_authmw.tokens.confirmation import bound_certificate
from llm_authmw.tokens.http import Fetcher, HTTPClient
from llm_authmw.tokens.introspected import token_name
from llm_authmw.tokens.jws import check_algorithms, is_hmac, verify_signature
from llm_authmw.tokens.key_options import key_source
from llm_authmw.tokens.keys import ASYMMETRIC_ALGORITHMS, VerificationKey
from llm_authmw.tokens.presets import preset
from llm_authmw.tokens.principals import principal_of
from llm_authmw.tokens.sources import KeySource
from llm_authmw.tokens.unverified import TokenForm, UnverifiedToken, read_jwt
from llm_authmw.tokens.userinfo import TTL as USERINFO_TTL
from llm_authmw.tokens.userinfo import Userinfo
from llm_authmw.tokens.verified import VerifiedToken

MAX_LEEWAY: Final = 60.0
MAX_TOKENS: Final = 100_000
"""Verified tokens that one issuer remembers."""

_MAX_SHARED: Final = 10_000


class Issuer:
    """Whose tokens are accepted, and what they must say.

    Only this issuer's keys, algorithms, audience and claim map apply to its tokens. It belongs to no layer: layers that are given one
    `Issuer` share its keys and what it has verified. Without `jwks_url`, `jwks`, `pem` or `secret`, its keys are found by discovery
    (OIDC Discovery §4, RFC 8414 §3).

    Args:
        issuer: `iss`, to the letter; for discovery, its URL.
        audience: What `aud` must name, one or several; this service, never the client.
        realm: Where a user's name means one person; issuers, keys and headers of one realm mean the same people. Left out: the
            issuer's own.
        tenant: The tenant of its users.
        claims: Which claims become which fields of the principal.
        algorithms: The signature algorithms that are accepted. Left out: HS256 for a secret, else every one with public keys; a key
            is good only for its own.
        jwks_url: Where its keys are published (RFC 7517 §5), `https`, or `http` on loopback.
        jwks: Its keys, as a JWK set of public keys.
        pem: Its public keys or certificates as PEM text, or `file:PATH`.
        secret: A shared secret for HMAC, at least as long as the hash; best given as `env:NAME`.
        leeway: Seconds by which its clock may differ from ours, 60 at most.
        max_age: Seconds since `iat` after which a token is refused; demands `iat`.
        typ: The type that the header must name; `at+jwt` also demands the claims of RFC 9068 §2.2. Left out: whatever is not plainly
            another kind of token.
        required_claims: Claims that must be there, or a mapping from claims to the value, or values, that each may have; None for any.
        clients: The OAuth clients whose tokens are accepted, by `azp` or `client_id`.
        id_tokens: Whether ID tokens (OIDC Core §2) are accepted, which are meant for a client and not for a service.
        audience_claim: The claim that names the audience, for issuers that do not write `aud`.
        header: The header in which an edge in front puts its signed assertion; left out: the caller's own `Authorization: Bearer`.
        userinfo: Whether claims that the token lacks are asked for at the issuer's userinfo endpoint (OIDC Core §5.3), or its URL.
        http: A client of your own (httpx or httpx2) to ask with, for a private CA or a proxy.
        clock: Gives the time.

    Raises:
        ConfigurationError: an option is wrong, contradicts another one, or would be ignored; a key is weak.
    """

    def __init__(
        self,
        issuer: str,
        *,
        audience: str | Names,
        realm: str | None = None,
        tenant: str = DEFAULT_TENANT,
        claims: ClaimMap | None = None,
        algorithms: Names | None = None,
        jwks_url: str | None = None,
        jwks: Mapping[str, Any] | None = None,
        pem: str | Secret | None = None,
        secret: str | Secret | None = None,
        leeway: float = 5.0,
        max_age: float | None = None,
        typ: str | None = None,
        required_claims: Names | Mapping[str, str | Names | None] = (),
        clients: Names | None = None,
        id_tokens: bool = False,
        audience_claim: str = "aud",
        header: str | None = None,
        userinfo: bool | str = False,
        http: HTTPClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.issuer: Final = _name("issuer", issuer)
        self.realm: Final = _name("realm", realm) if realm is not None else self.issuer
        self.tenant: Final = _name("tenant", tenant)
        self.header: Final = None if header is None else _header(header)
        if claims is not None and not isinstance(claims, ClaimMap):
            raise ConfigurationError("claims", "takes ClaimMap(…)")
        self.claims: Final = claims or ClaimMap()
        default = ("HS256",) if secret is not None else ASYMMETRIC_ALGORITHMS
        self.algorithms: Final = check_algorithms(default if algorithms is None else names("algorithms", algorithms))
        if any(is_hmac(name) for name in self.algorithms) and (secret is None or not all(is_hmac(name) for name in self.algorithms)):
            raise ConfigurationError("algorithms", "HMAC goes with a secret, and with nothing else: a public key would be the secret")
        if secret is not None and not all(is_hmac(name) for name in self.algorithms):
            raise ConfigurationError("algorithms", "a secret is for HS256, HS384 and HS512")
        if not isinstance(id_tokens, bool):
            raise ConfigurationError("id_tokens", "is True or False")
        self._rules: Final = ClaimRules(
            issuer=self.issuer,
            audience=frozenset(names("audience", [audience] if isinstance(audience, str) else audience)),
            audience_claim=_name("audience_claim", audience_claim),
            leeway=_seconds("leeway", leeway, least=0.0, most=MAX_LEEWAY),
            max_age=None if max_age is None else _seconds("max_age", max_age, least=1.0, most=math.inf),
            typ=None if typ is None else _name("typ", typ).lower().removeprefix("application/"),
            id_tokens=id_tokens,
            clients=None if clients is None else frozenset(names("clients", clients)),
            required=_required(required_claims),
        )
        if not self._rules.audience:
            raise ConfigurationError("audience", "names none: a token for any service would be good for this one")
        if self._rules.clients is not None and not self._rules.clients:
            raise ConfigurationError("clients", "names none, so nobody's token would be accepted")
        if id_tokens and self._rules.typ == AT_JWT:
            raise ConfigurationError("id_tokens", "contradicts typ='at+jwt'")
        if userinfo is not False and header is not None:
            raise ConfigurationError("userinfo", "is asked with a caller's token, and what an edge signs is none")
        if http is not None and userinfo is False and (jwks is not None or pem is not None or secret is not None):
            raise ConfigurationError("http", "would be ignored: the keys are given, and nobody is asked anything")
        self._fetcher: Final = Fetcher(http)
        self._source: KeySource = key_source(
            self.issuer,
            algorithms=self.algorithms,
            jwks_url=jwks_url,
            jwks=jwks,
            pem=pem,
            secret=secret,
            fetcher=self._fetcher,
            clock=clock,
        )
        self._userinfo: Final = None if userinfo is False else Userinfo.of(userinfo, issuer=self.issuer, http=http, clock=clock)
        self._read: TokenForm = read_jwt
        # What userinfo said is asked for again; what a token says never changes.
        remembered = math.inf if self._userinfo is None else USERINFO_TTL
        self._verified: Final[Cache[bytes, VerifiedToken]] = Cache(max_entries=MAX_TOKENS, ttl=remembered, name="tokens", clock=clock)
        # These two are the cost of a token that is known, so nothing stands between them and whoever asks.
        self.now: Final = clock.now
        """Gives the time, in seconds since 1970."""
        self.recall: Final = self._verified.peek
        """Returns what is remembered of the token with this SHA-256, or None. Whether it still stands, its `problem` says."""
        self.renew: Callable[[], None] = self._source.renew
        """Has the keys fetched anew where they are due: what is known must not outlive a key that was withdrawn."""
        self._shared: Final[dict[Any, Any]] = {}

    @classmethod
    def preset(cls, name: str, *, audience: str | Names, **options: Any) -> Self:
        """Return an issuer with what is known about a product filled in.

        Args:
            name: entra, google, okta, auth0, keycloak, cognito, gitlab, onelogin, github-actions; and for the signed assertions of an edge
                in front: google-iap, aws-alb, cloudflare-access, pomerium.
            audience: As for `Issuer`.
            options: What the product is told apart by (`tenant=`, `domain=`, …), and any option of `Issuer`.

        Raises:
            ConfigurationError: there is no such preset, or an option is missing or wrong.
        """
        chosen = preset(name, options)
        issuer = cls(audience=audience, **chosen.options)
        if chosen.form is not None:
            issuer._read = chosen.form
        if chosen.source is not None:
            issuer._source = chosen.source(issuer._fetcher, clock=options.get("clock", SYSTEM_CLOCK))
            issuer.renew = issuer._source.renew
        return issuer

    def __repr__(self) -> str:
        return f"Issuer({self.issuer!r})"

    async def start(self) -> None:
        """Do nothing: keys are fetched when the first token needs them."""

    async def aclose(self) -> None:
        """End what is under way, and close the connections; the next use opens them again."""
        await self._source.aclose()
        await self._fetcher.aclose()
        if self._userinfo is not None:
            await self._userinfo.aclose()

    def read(self, token: bytes) -> UnverifiedToken:
        """Read a token as this issuer writes them.

        Raises:
            TokenInvalid: it is not of that form.
        """
        return self._read(token)

    async def verify(self, token: bytes, unverified: UnverifiedToken | None = None) -> VerifiedToken:
        """Verify a token, and remember it.

        Args:
            token: The token.
            unverified: The same, where the caller has read it already.

        Raises:
            TokenInvalid: it is not valid; says why.
            IssuerUnavailableError: the key, or userinfo, is not at hand and cannot be had now.
        """
        compact, claims = unverified or self._read(token)
        if claims.get("iss") != self.issuer:
            raise TokenInvalid("issuer_mismatch")
        key = await self.signing_key(unverified or UnverifiedToken(compact, claims))
        ends = self._rules.check(compact.header, claims, self.now())
        if self._userinfo is not None:
            claims = await self._userinfo.complete(token, claims)
        verified = self._verified_token(token, claims, key, ends)
        digest = hashlib.sha256(token).digest()
        self._verified.put(digest, verified)
        return verified

    async def signing_key(self, token: UnverifiedToken) -> VerificationKey:
        """Return the key of this issuer that signed the token; what the token says is for the caller to judge.

        Raises:
            TokenInvalid: none did, with an algorithm that is allowed.
            IssuerUnavailableError: the key is not at hand and cannot be had now.
        """
        header = token.compact.header
        if header.algorithm not in self.algorithms:
            raise TokenInvalid("token_algorithm_not_allowed")
        keys = self._source.find(header.kid, header.algorithm)
        if keys is None:
            keys = await self._source.fetch(header.kid, header.algorithm)
        return verify_signature(token.compact, keys)

    def _verified_token(self, token: bytes, claims: Mapping[str, Any], key: VerificationKey, ends: float) -> VerifiedToken:
        subject, token_id, issued = claims.get("sub"), claims.get("jti"), claims.get("iat")
        if not isinstance(subject, str | None) or not isinstance(token_id, str | None):
            raise TokenInvalid("token_claim_invalid")
        certificate = bound_certificate(claims.get("cnf"))
        named = token_id is not None and name_problem(token_id) is None
        principal = principal_of(
            claims,
            mapping=self.claims,
            method="jwt",
            issuer=self.issuer,
            realm=self.realm,
            tenant=self.tenant,
            assurance=Assurance.SIGNED if certificate is None else Assurance.BOUND,
            credential_id=token_id if named else token_name(token),
            expires_at=float(claims["exp"]),
            share=self._one_of,
        )
        begins = claims.get("nbf")
        return VerifiedToken(
            principal=principal,
            begins=-math.inf if begins is None else begins - self._rules.leeway,
            ends=ends,
            key=key,
            subject=subject,
            token_id=token_id,
            issued_at=issued,
            certificate=certificate,
        )

    def _one_of(self, value: Any) -> Any:
        """Return the one object that stands for all that are equal to `value`: most tokens of an issuer name the same roles."""
        if len(self._shared) > _MAX_SHARED:
            self._shared.clear()
        return self._shared.setdefault(value, value)


def _name(option: str, value: object) -> str:
    problem = name_problem(value) if isinstance(value, str) else "takes a text"
    if problem is not None:
        raise ConfigurationError(option, problem)
    return str(value)


def _header(value: object) -> bytes:
    name = _name("header", value)
    if name != name.lower() or not name.isascii() or not name.replace("-", "").isalnum():
        raise ConfigurationError("header", f"{name!r} is not the name of a header in lower case (RFC 9110 §5.1)")
    return name.encode()


def _seconds(option: str, value: float, *, least: float, most: float) -> float:
    if type(value) not in (int, float) or not least <= value <= most or value == math.inf:
        raise ConfigurationError(option, f"is a number of seconds from {least:g}" + (f" to {most:g}" if most < math.inf else " on"))
    return float(value)


def _required(given: Names | Mapping[str, str | Names | None]) -> tuple[tuple[str, tuple[str, ...] | None], ...]:
    claims = names("required_claims", list(given) if isinstance(given, Mapping) else given)
    wanted = given if isinstance(given, Mapping) else dict.fromkeys(claims)
    return tuple((claim, _values(wanted[claim])) for claim in claims)


def _values(given: str | Names | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    values = names("required_claims", [given] if isinstance(given, str) else given)
    if not values:
        raise ConfigurationError("required_claims", "allows a claim no value, so nobody's token would be accepted")
    return values
