"""The signed assertion of an AWS Application Load Balancer, which is nearly a JWT.

Its segments are padded base64url and the signature covers the padding; issuer, client and end stand in the header; and its keys are
published one by one, as PEM texts. The header names the load balancer that signed (`signer`): every customer's is signed by the
same keys, so only one's own is believed.
"""

import re
from typing import Final

from llm_authmw.cache import Cache
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import IssuerUnavailableError, TokenInvalid
from llm_authmw.strict_json import parse_object
from llm_authmw.tokens.base64url import decode
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.jws import MAX_HEADER, MAX_TOKEN, CompactToken, Header
from llm_authmw.tokens.keys import KeyRing, UnusableKeyError, VerificationKey, pem_keys
from llm_authmw.tokens.unverified import UnverifiedToken

KEY_TTL: Final = 3600.0
"""Seconds for which a fetched key is used without being asked for again."""
UNKNOWN_TTL: Final = 30.0
"""Seconds for which a key that is not published is not asked for again."""
MAX_UNKNOWN: Final = 16
"""Keys that are remembered as not published: what a flood of invented ids may cost in requests per `UNKNOWN_TTL`."""

_KID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NONE: Final = KeyRing(())


def read_load_balancer_token(token: bytes, *, signer: str) -> UnverifiedToken:
    """Read a token of the load balancer with this ARN.

    Raises:
        TokenInvalid: it is none, or another load balancer's.
    """
    segments = token.split(b".")
    if len(token) > MAX_TOKEN or len(segments) != 3 or len(segments[0]) > MAX_HEADER:
        raise TokenInvalid("token_malformed")
    try:
        header, payload, signature = (decode(_unpadded(segment)) for segment in segments)
        members, claims = parse_object(header), parse_object(payload)
    except ValueError:
        raise TokenInvalid("token_malformed") from None
    algorithm, kid = members.get("alg"), members.get("kid")
    if not isinstance(algorithm, str) or not isinstance(kid, str) or "crit" in members:
        raise TokenInvalid("token_malformed")
    if members.get("signer") != signer:
        raise TokenInvalid("issuer_mismatch")
    # The header is signed as the payload is, and is the one place that always says these.
    told = {"iss": members.get("iss"), "exp": members.get("exp"), "aud": members.get("client")}
    compact = CompactToken(Header(algorithm, kid, None, members), token.rpartition(b".")[0], payload, signature)
    return UnverifiedToken(compact, {**claims, **told})


class LoadBalancerKeys:
    """The keys of a region's load balancers, each fetched when it is first named."""

    def __init__(self, fetcher: Fetcher, *, region: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fetcher: Final = fetcher
        self._url: Final = f"https://public-keys.auth.elb.{region}.amazonaws.com/"
        self._rings: Final[Cache[str, KeyRing]] = Cache(
            max_entries=32,
            ttl=KEY_TTL,
            stale_ttl=24 * 3600.0,
            max_negative=MAX_UNKNOWN,
            negative_ttl=UNKNOWN_TTL,
            is_negative=lambda ring: not ring.keys,
            clock=clock,
        )
        self._monotonic: Final = clock.monotonic
        self._asked: list[float] = []

    def find(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...] | None:
        """See `KeySource`."""
        if kid is None or _KID.fullmatch(kid) is None:
            # It becomes part of a URL, so nothing but an id of theirs may be one.
            return ()
        ring = self._rings.peek(kid)
        return None if ring is None else ring.candidates(None, algorithm)

    def renew(self) -> None:
        """Each key is asked for anew when it is next needed: these assertions live for minutes."""

    async def fetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """See `KeySource`."""
        if kid is None or _KID.fullmatch(kid) is None:
            return ()
        ring = await self._rings.get(kid, self._load)
        return ring.candidates(None, algorithm)

    async def aclose(self) -> None:
        """There is nothing under way that would have to end: whoever made the fetcher closes it."""

    async def _load(self, kid: str) -> KeyRing:
        now = self._monotonic()
        self._asked = [moment for moment in self._asked if now - moment < UNKNOWN_TTL]
        if len(self._asked) >= MAX_UNKNOWN:
            raise IssuerUnavailableError("too many unknown keys were asked for", retry_after=UNKNOWN_TTL)
        self._asked.append(now)
        answer = await self._fetcher.get(self._url + kid)
        if answer.status in (403, 404):
            return _NONE
        if answer.status != 200:
            raise IssuerUnavailableError("the load balancer's key could not be fetched")
        try:
            return KeyRing(pem_keys(answer.body.decode("ascii")))
        except (UnusableKeyError, UnicodeDecodeError) as error:
            raise IssuerUnavailableError("the load balancer's key could not be read") from error


def _unpadded(segment: bytes) -> bytes:
    bare = segment.rstrip(b"=")
    if len(segment) - len(bare) not in (0, -len(bare) % 4):
        raise ValueError("wrong padding")
    return bare
