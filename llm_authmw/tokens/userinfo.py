"""OIDC userinfo: completes what a verified token says of its user (OIDC Core §5.3).

Userinfo says whose token it is, and nothing about whom that token is for. So it only ever adds to a token that was verified, and
nothing that it says takes the place of what the token says.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from llm_authmw.cache import Cache, SingleFlight
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, IssuerUnavailableError, TokenInvalid
from llm_authmw.strict_json import parse_object
from llm_authmw.tokens.calls import DEADLINE, MAX_CALLS, Calls
from llm_authmw.tokens.endpoint_urls import DiscoveredURL, EndpointURL, FixedURL
from llm_authmw.tokens.http import Fetcher, HTTPClient

TTL: Final = 60.0
"""Seconds for which an answer is used again."""
NEGATIVE_TTL: Final = 5.0
MAX_ANSWERS: Final = 10_000
MAX_BYTES: Final = 65_536

# What these say is about the token and not about its user: only the token itself says it.
_OF_THE_TOKEN: Final = frozenset(
    {
        *("iss", "aud", "exp", "nbf", "iat", "jti", "typ", "cnf", "act", "may_act"),
        *("scope", "scp", "client_id", "azp", "acr", "amr", "auth_time"),
    }
)
# Who vouches for one address does not vouch for another.
_ADDRESS: Final = frozenset({"email", "email_verified"})


class _Answer(msgspec.Struct, frozen=True):
    """What the provider said of the user; no claims where it does not accept the token."""

    claims: dict[str, Any] | None

    def __repr__(self) -> str:
        return f"_Answer(accepted={self.claims is not None})"


class Userinfo:
    """Complete tokens at one userinfo endpoint. It belongs to the `Issuer` whose tokens it completes.

    Args:
        endpoint: Where it is; None to find it in the issuer's metadata.
        issuer: The issuer; needed for that.
        deadline: Seconds that asking may take in all.
        max_calls: Calls under way at once.
        http: A client of the operator's own.
        clock: Gives the time.

    Raises:
        ConfigurationError: an address is not one that may be asked, or there is none.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        issuer: str | None = None,
        deadline: float = DEADLINE,
        max_calls: int = MAX_CALLS,
        http: HTTPClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._fetcher: Final = Fetcher(http, deadline=deadline, max_bytes=MAX_BYTES)
        if endpoint is not None:
            url: EndpointURL = FixedURL("userinfo", endpoint)
        elif issuer is not None:
            url = DiscoveredURL(issuer, "userinfo_endpoint", fetcher=self._fetcher, clock=clock)
        else:
            raise ConfigurationError("userinfo", "is a URL, where there is no issuer to ask for it")
        self._url: Final = url
        source = issuer or endpoint or ""
        self._calls: Final = Calls(deadline=deadline, max_calls=max_calls, what="userinfo", issuer=source, clock=clock)
        self._flights: Final[SingleFlight[bytes, _Answer]] = SingleFlight()
        self._answers: Final[Cache[bytes, _Answer]] = Cache(
            max_entries=MAX_ANSWERS,
            ttl=TTL,
            negative_ttl=NEGATIVE_TTL,
            is_negative=lambda answer: answer.claims is None,
            name="userinfo",
            clock=clock,
        )

    @classmethod
    def of(cls, given: bool | str, *, issuer: str, http: HTTPClient | None = None, clock: Clock = SYSTEM_CLOCK) -> Self:  # noqa: FBT001 - an option's value as it was given
        """Return the one that an issuer's option `userinfo` names: True for discovery, or a URL.

        Raises:
            ConfigurationError: it names none.
        """
        if given is not True and not isinstance(given, str):
            raise ConfigurationError("userinfo", "is True, or the URL of the endpoint")
        return cls(None if given is True else str(given), issuer=issuer, http=http, clock=clock)

    async def aclose(self) -> None:
        """Close the connections; the next use opens them again."""
        await self._fetcher.aclose()

    async def complete(self, token: bytes, claims: Mapping[str, Any]) -> dict[str, Any]:
        """Return the claims of a verified token, with what userinfo adds to them.

        Args:
            token: The token. The caller has found it good just now: an answer may be remembered for longer than the token is good.
            claims: What it says, verified. Where both say something, this counts.

        Raises:
            TokenInvalid: the provider does not accept the token any more, or it is of somebody else.
            IssuerUnavailableError: the provider could not be asked.
        """
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise TokenInvalid("token_claim_missing")
        digest = hashlib.sha256(token).digest()
        answer = self._answers.peek(digest)
        if answer is None:
            answer = await self._flights.run(digest, lambda: self._load(digest, token.decode("ascii")))
        if answer.claims is None:
            raise TokenInvalid("token_inactive")
        # OIDC Core §5.3.2: without this, a token could be completed with the answer for somebody else's.
        if answer.claims.get("sub") != subject:
            raise TokenInvalid("token_claim_invalid")
        withheld = _OF_THE_TOKEN if _ADDRESS.isdisjoint(claims) else _OF_THE_TOKEN | _ADDRESS
        return {name: value for name, value in answer.claims.items() if name not in withheld} | dict(claims)

    async def _load(self, digest: bytes, token: str) -> _Answer:
        answer = await self._calls.run(lambda: self._ask(token))
        self._answers.put(digest, answer)
        return answer

    async def _ask(self, token: str) -> _Answer:
        answer = await self._fetcher.get(await self._url(), headers={"authorization": f"Bearer {token}"})
        # RFC 6750 §3.1: revoked meanwhile, or without the scope `openid`.
        if answer.status in (401, 403):
            return _Answer(None)
        if answer.status != 200:
            raise IssuerUnavailableError(f"its userinfo endpoint answered with status {answer.status}")
        if answer.media_type == "application/jwt":
            raise IssuerUnavailableError("its userinfo is signed, which is not read here: register the client for plain JSON")
        try:
            return _Answer(parse_object(answer.body))
        except ValueError:
            raise IssuerUnavailableError("its userinfo is no JSON object") from None
