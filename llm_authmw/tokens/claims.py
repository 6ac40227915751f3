"""What a token must say before anybody looks at who it names (RFC 7519 §4.1, RFC 8725 §3, RFC 9068 §4)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llm_authmw.errors import TokenInvalid
from llm_authmw.strict_json import is_array
from llm_authmw.tokens.claim_map import claim_at
from llm_authmw.tokens.jws import Header

MAX_SECONDS: Final = 1e12
AT_JWT: Final = "at+jwt"
_AT_JWT_CLAIMS: Final = ("sub", "client_id", "iat", "jti")
# Keycloak says in the claim `typ` what kind of token it is, Cognito and Ory Hydra in `token_use`; in lower case.
_KIND_CLAIMS: Final = ("typ", "token_use")
_ID_KINDS: Final = frozenset({"id", "id_token"})
_OTHER_KINDS: Final = frozenset({"refresh", "refresh_token", "offline", "logout", "action"})
_ID_TOKEN_CLAIMS: Final = ("nonce", "at_hash", "c_hash")


class ClaimRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one issuer.

    Attributes:
        issuer: `iss`, to the letter.
        audience: The audience must name one of these.
        audience_claim: The claim that names it: `aud`.
        leeway: Seconds by which clocks may differ.
        max_age: Seconds since `iat` after which a token is too old; None for no such bound.
        typ: The type that the header must name; None accepts what is not plainly something else.
        id_tokens: Whether ID tokens (OIDC Core §2) are accepted.
        clients: `azp` or `client_id` must be one of these; None for any.
        required: Claims that must be there, each with the values that it may have; None for any value.
    """

    issuer: str
    audience: frozenset[str]
    audience_claim: str
    leeway: float
    max_age: float | None
    typ: str | None
    id_tokens: bool
    clients: frozenset[str] | None
    required: tuple[tuple[str, tuple[str, ...] | None], ...]

    def check(self, header: Header, claims: Mapping[str, Any], now: float) -> float:
        """Hold a verified token against the rules; return when it ends, leeway included, in seconds since 1970.

        Raises:
            TokenInvalid: it breaks one.
        """
        if claims.get("iss") != self.issuer:
            raise TokenInvalid("issuer_mismatch")
        self._check_type(header, claims)
        if not names_audience(claims.get(self.audience_claim), self.audience):
            raise TokenInvalid("audience_mismatch")
        ends = check_times(claims, now, leeway=self.leeway, max_age=self.max_age)
        if ends is None:
            raise TokenInvalid("token_claim_missing")
        if self.clients is not None:
            self._check_client(claims)
        for path, values in self.required:
            value = claim_at(claims, path)
            if value is None:
                raise TokenInvalid("token_claim_missing")
            if values is not None and not (isinstance(value, str) and value in values):
                raise TokenInvalid("token_claim_invalid")
        return ends

    def _check_type(self, header: Header, claims: Mapping[str, Any]) -> None:
        # Whatever names a type of its own is for somebody who expects that type (RFC 8725 §2.8, §3.11): a logout token, say.
        explicit = header.typ is not None and header.typ.endswith("+jwt") and header.typ != AT_JWT
        if explicit if self.typ is None else header.typ != self.typ:
            raise TokenInvalid("token_type_mismatch")
        if self.typ == AT_JWT and any(claims.get(name) is None for name in _AT_JWT_CLAIMS):
            raise TokenInvalid("token_claim_missing")
        kinds = {kind.lower() for name in _KIND_CLAIMS if isinstance(kind := claims.get(name), str)}
        if "events" in claims or not kinds.isdisjoint(_OTHER_KINDS):
            raise TokenInvalid("token_type_mismatch")
        if not self.id_tokens and (not kinds.isdisjoint(_ID_KINDS) or any(name in claims for name in _ID_TOKEN_CLAIMS)):
            raise TokenInvalid("token_type_mismatch")

    def _check_client(self, claims: Mapping[str, Any]) -> None:
        named = [claims[name] for name in ("azp", "client_id") if claims.get(name) is not None]
        if not named:
            raise TokenInvalid("token_claim_missing")
        if self.clients is None or any(not isinstance(client, str) or client not in self.clients for client in named):
            raise TokenInvalid("token_claim_invalid")


def check_times(claims: Mapping[str, Any], now: float, *, leeway: float, max_age: float | None = None) -> float | None:
    """Hold `exp`, `nbf` and `iat` against the time; return when the token ends, leeway included, or None where it does not say.

    Raises:
        TokenInvalid: it has ended, has not begun, is too old, or one of them is no moment.
    """
    expires, begins, issued = (_moment(claims.get(name)) for name in ("exp", "nbf", "iat"))
    if expires is not None and now >= expires + leeway:
        raise TokenInvalid("token_expired")
    if begins is not None and now < begins - leeway:
        raise TokenInvalid("token_not_yet_valid")
    if issued is not None and now < issued - leeway:
        raise TokenInvalid("token_not_yet_valid")
    if max_age is None:
        return None if expires is None else expires + leeway
    if issued is None:
        raise TokenInvalid("token_claim_missing")
    too_old = issued + max_age + leeway
    if now >= too_old:
        raise TokenInvalid("token_too_old")
    return None if expires is None else min(expires + leeway, too_old)


def names_audience(aud: Any, accepted: frozenset[str]) -> bool:
    """Say whether `aud`, a text or a list of texts (RFC 7519 §4.1.3), names one of the accepted audiences, to the letter."""
    if isinstance(aud, str):
        return aud in accepted
    return is_array(aud) and all(isinstance(member, str) for member in aud) and not accepted.isdisjoint(aud)


def _moment(value: Any) -> float | None:
    if value is None:
        return None
    # A boolean is an integer to Python, NaN is never past (and compares with nothing), and a date in the year 10^300 never comes.
    if type(value) not in (int, float) or not abs(value) <= MAX_SECONDS:
        raise TokenInvalid("token_claim_invalid")
    return float(value)
