"""`Introspector`: asks a provider about tokens (RFC 7662), and remembers the answers. It is the handle that layers share."""

import hashlib
import math
import re
from collections.abc import Hashable
from typing import Any, Final, TypedDict, Unpack
from weakref import WeakValueDictionary

from llm_authmw.cache import Cache, SingleFlight
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, TokenInvalid
from llm_authmw.names import Names, names
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.tokens.calls import DEADLINE, MAX_CALLS, Calls
from llm_authmw.tokens.claim_map import ClaimMap
from llm_authmw.tokens.client_auth import ClientAuthMethod, TokenSource
from llm_authmw.tokens.endpoint_options import GITHUB_USER, Mode, token_endpoint
from llm_authmw.tokens.endpoints import Claims
from llm_authmw.tokens.http import Fetcher, HTTPClient
from llm_authmw.tokens.introspected import AnswerRules, Introspected
from llm_authmw.tokens.issuer import Issuer
from llm_authmw.tokens.options import count, name, seconds

MAX_TOKEN: Final = 8_192
MAX_ANSWER: Final = 65_536
LEAST_FRESH: Final = 1.0
"""Seconds for which an open stream's token is not asked about again, however short answers are remembered."""

# RFC 6750 §2.1: what a bearer token is made of. Anything else is nobody's token, and is shown to nobody.
_TOKEN68: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


class IntrospectorOptions(TypedDict, total=False):
    """The options of an `Introspector`, which `IntrospectionMiddleware` takes as well. `Introspector` says what each is."""

    endpoint: str | None
    issuer: str | None
    mode: Mode
    client_id: str | None
    client_secret: str | Secret | TokenSource | None
    client_auth: ClientAuthMethod | None
    client_key: str | Secret | None
    signed_by: Issuer | None
    realm: str | None
    tenant: str
    claims: ClaimMap | None
    audience: str | Names | None
    required_claims: Names
    leeway: float
    cache_ttl: float
    negative_ttl: float
    max_tokens: int
    deadline: float
    max_calls: int
    http: HTTPClient | None
    clock: Clock


class Introspector:
    """Ask a provider about tokens.

    It belongs to no layer: layers that are given one `Introspector` share what it knows. What it remembers is kept by the SHA-256 of
    the whole token, and is this object's alone, so that no answer counts at another endpoint, for another client or in another realm.

    Args:
        endpoint: Where tokens are asked about. Left out, the issuer's metadata say it.
        issuer: `iss`, to the letter, where an answer has it; and where the metadata are, if there is no `endpoint`.
        mode: How it is asked. "rfc7662": POST, with our client's credentials. "token_info": GET with the token itself, which 200 and
            claims are the answer to. "github": GitHub's `/user` and `/user/orgs`. The last two say that a token is good, and not that
            it is meant for this service.
        client_id: Our id at the provider.
        client_secret: The secret that we share with it, best given as `env:NAME`; for "bearer" a token, or a function that returns one.
        client_auth: "client_secret_basic" (the default with a secret), "client_secret_post", "private_key_jwt", "bearer".
        client_key: The private key of "private_key_jwt", as PEM or JWK, best given as `file:PATH`.
        signed_by: Whose signature answers must bear (RFC 9701).
        realm: Where a user's name means one person. Left out: the issuer's own, or the endpoint's.
        tenant: The tenant of its users.
        claims: Which claims become which fields of the principal.
        audience: What `aud` must name, one or several. Left out, a token for any service that the provider tells us about is good here.
        required_claims: Claims that an answer must have.
        leeway: Seconds by which the provider's clock may differ from ours, 60 at most.
        cache_ttl: Seconds for which an answer is used again, though never past the token's `exp`: so long may a revoked token live.
            0 asks each time.
        negative_ttl: The same for a refusal.
        max_tokens: Tokens that are remembered.
        deadline: Seconds that asking may take in all.
        max_calls: Calls under way at once, in one event loop.
        http: A client of your own (httpx or httpx2) to ask with, for a private CA or a proxy.
        clock: Gives the time.

    Attributes:
        source: What its principals name as their issuer: the issuer, else the endpoint.
        claims: Which claims become which fields of the principal.

    Raises:
        ConfigurationError: an option is wrong, contradicts another one, or would be ignored.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        issuer: str | None = None,
        mode: Mode = "rfc7662",
        client_id: str | None = None,
        client_secret: str | Secret | TokenSource | None = None,
        client_auth: ClientAuthMethod | None = None,
        client_key: str | Secret | None = None,
        signed_by: Issuer | None = None,
        realm: str | None = None,
        tenant: str = DEFAULT_TENANT,
        claims: ClaimMap | None = None,
        audience: str | Names | None = None,
        required_claims: Names = (),
        leeway: float = 5.0,
        cache_ttl: float = 60.0,
        negative_ttl: float = 5.0,
        max_tokens: int = 100_000,
        deadline: float = DEADLINE,
        max_calls: int = MAX_CALLS,
        http: HTTPClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if claims is not None and not isinstance(claims, ClaimMap):
            raise ConfigurationError("claims", "takes ClaimMap(…)")
        asked = issuer or endpoint or GITHUB_USER
        self._calls: Final = Calls(deadline=deadline, max_calls=max_calls, what="introspection", issuer=asked, clock=clock)
        self._fetcher: Final = Fetcher(http, deadline=deadline, max_bytes=MAX_ANSWER)
        self._endpoint: Final = token_endpoint(
            mode,
            endpoint=endpoint,
            issuer=issuer,
            audience=audience,
            client_id=client_id,
            client_secret=client_secret,
            client_auth=client_auth,
            client_key=client_key,
            signed_by=signed_by,
            fetcher=self._fetcher,
            clock=clock,
        )
        source = name("issuer", issuer) if issuer is not None else endpoint or GITHUB_USER
        self.source: Final[str] = source
        self.claims: Final[ClaimMap] = claims or (ClaimMap() if mode != "github" else ClaimMap(scopes=None, groups="groups"))
        self._rules: Final = AnswerRules(
            issuer=issuer,
            source=source,
            audience=None if audience is None else _audience(audience),
            required=names("required_claims", required_claims),
            leeway=seconds("leeway", leeway, most=60.0),
            mapping=self.claims,
            realm=source if realm is None else name("realm", realm),
            tenant=name("tenant", tenant),
        )
        self.bound: Final = max(seconds("cache_ttl", cache_ttl), LEAST_FRESH)
        """Seconds within which an open stream hears of a token that was revoked."""
        self._signed_by: Final = signed_by
        self._described: Final = f"Introspector({source!r}, mode={mode!r})"
        self._now: Final = clock.now
        self._monotonic: Final = clock.monotonic
        self._flights: Final[SingleFlight[bytes, Introspected]] = SingleFlight()
        self._known: Final[Cache[bytes, Introspected]] = Cache(
            max_entries=count("max_tokens", max_tokens),
            ttl=cache_ttl,
            negative_ttl=seconds("negative_ttl", negative_ttl),
            is_negative=lambda known: known.principal is None,
            name="introspection",
            clock=clock,
        )

    def __repr__(self) -> str:
        return self._described

    async def start(self) -> None:
        """Do nothing: the provider is asked when the first token comes."""

    async def aclose(self) -> None:
        """Close the connections; the next use opens them again."""
        await self._fetcher.aclose()
        if self._signed_by is not None:
            await self._signed_by.aclose()

    async def introspect(self, token: bytes) -> Introspected:
        """Find out who a token speaks for; one call serves all who ask about it at the same time.

        Returns:
            What is known of it: a principal. Whether the certificate that it may be bound to was proven is for the caller to check.

        Raises:
            TokenInvalid: it is not a token, is not active, or is not for us.
            IssuerUnavailableError: the provider could not be asked.
        """
        digest = hashlib.sha256(token).digest()
        known = self._known.peek(digest)
        if known is None or known.ends <= self._now():
            if len(token) > MAX_TOKEN or _TOKEN68.fullmatch(token) is None:
                raise TokenInvalid("token_malformed")
            known = await self._flights.run(digest, lambda: self._ask(digest, token))
        if known.reason is not None:
            raise TokenInvalid(known.reason)
        return known

    def holds(self, known: Introspected) -> bool:
        """Say whether what is known still stands; False means that the provider must be asked again."""
        return self.due(known) > 0

    def due(self, known: Introspected) -> float:
        """Return the seconds after which the provider must be asked again; zero or less where it must be asked now."""
        return min(known.fresh_until - self._monotonic(), known.ends - self._now())

    async def _ask(self, digest: bytes, token: bytes) -> Introspected:
        claims = await self._calls.run(lambda: self._endpoint.ask(token.decode("ascii")))
        known = self._judge(token, claims)
        self._known.put(digest, known)
        return known

    def _judge(self, token: bytes, claims: Claims | None) -> Introspected:
        fresh_until = self._monotonic() + self.bound
        if claims is None:
            return Introspected(None, "token_inactive", math.inf, fresh_until)
        try:
            principal, ends, certificate = self._rules.judge(token, claims, self._now())
        except TokenInvalid as invalid:
            return Introspected(None, invalid.reason, math.inf, fresh_until)
        # Without the leeway: an answer that is used again was not given by a clock that may differ.
        return Introspected(principal, None, math.inf if ends is None else ends, fresh_until, certificate)


# Litestar builds a layer once for each route and handler, and `Stack` builds each one twice: one Middleware entry is many layers. Those
# with equal options must know the same, and ask once. A handle lives as long as a layer that has it; then its secrets go, too.
_handles: Final[WeakValueDictionary[Hashable, Introspector]] = WeakValueDictionary()


def introspector_of(**options: Unpack[IntrospectorOptions]) -> Introspector:
    """Return the one handle that has these options.

    Raises:
        ConfigurationError: as `Introspector`.
    """
    given: dict[str, Any] = {**options}
    for option in ("client_secret", "client_key"):
        # What a reference names now, and not the reference: the place may hold something else when the next layer is built.
        if given.get(option) is not None and not callable(given[option]):
            given[option] = resolve_secret(option, given[option])
    key = tuple(sorted((option, _hashable(value)) for option, value in given.items()))
    try:
        found = _handles.get(key)
    except TypeError:
        # Something that no option takes; the handle's own checks say which.
        return Introspector(**given)
    if found is None:
        found = _handles[key] = Introspector(**given)
    return found


def _hashable(value: Any) -> Any:
    entries: Any = value
    if isinstance(value, list):
        return tuple(entries)
    return frozenset(entries) if isinstance(value, set) else value


def _audience(given: str | Names) -> frozenset[str]:
    found = frozenset(names("audience", [given] if isinstance(given, str) else given))
    if not found:
        raise ConfigurationError("audience", "names none, so that no token would be good")
    return found
