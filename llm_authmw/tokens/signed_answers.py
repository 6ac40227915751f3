"""Signed answers to introspection (RFC 9701): who signed them, for whom, when, and what they say of the token."""

from typing import Any, Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import IssuerUnavailableError, TokenInvalid
from llm_authmw.strict_json import is_object
from llm_authmw.tokens.claims import check_times, names_audience
from llm_authmw.tokens.issuer import Issuer

TYP: Final = "token-introspection+jwt"
MAX_AGE: Final = 60.0
"""Seconds after which an answer is no answer to what was just asked."""
LEEWAY: Final = 60.0


class SignedAnswers:
    """Read the answers that one issuer signs for us.

    Args:
        issuer: Who signs. Its keys and algorithms count; its audience and claims are those of its access tokens, and do not.
        client_id: Whom the answers are for.
        clock: Gives the time.
    """

    def __init__(self, issuer: Issuer, *, client_id: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._issuer: Final = issuer
        self._audience: Final = frozenset({client_id})
        self._now: Final = clock.now

    async def __call__(self, answer: bytes) -> dict[str, Any]:
        """Return what the answer says of the token.

        Raises:
            IssuerUnavailableError: it is not signed by the issuer, for us, just now; so nothing is known of the token.
        """
        try:
            unverified = self._issuer.read(answer.strip())
            await self._issuer.signing_key(unverified)
            claims = unverified.claims
            # RFC 9701 §5 and §8.1: the type and the audience keep an access token, and an answer for somebody else, from being this.
            genuine = (
                unverified.compact.header.typ == TYP
                and claims.get("iss") == self._issuer.issuer
                and names_audience(claims.get("aud"), self._audience)
            )
            # With a bound on its age, `iat` must be there.
            check_times(claims, self._now(), leeway=LEEWAY, max_age=MAX_AGE)
        except TokenInvalid:
            raise IssuerUnavailableError("its signed answer is not valid") from None
        said: Any = claims.get("token_introspection")
        if not genuine or not is_object(said):
            raise IssuerUnavailableError("its signed answer is not one to us")
        return said
