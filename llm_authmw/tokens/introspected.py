"""What a provider says of a token, held against what is demanded, and what is remembered of it."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llm_authmw.errors import TokenInvalid
from llm_authmw.names import name_problem
from llm_authmw.principal import Assurance, Principal
from llm_authmw.tokens.claim_map import ClaimMap, claim_at
from llm_authmw.tokens.claims import check_times, names_audience
from llm_authmw.tokens.confirmation import bound_certificate
from llm_authmw.tokens.principals import principal_of

# RFC 6749 §7.1, and the words of providers that give the kind of the token where its type belongs.
_TOKEN_TYPES: Final = frozenset({"bearer", "access_token"})
# RFC 7662 §2.1 has refresh tokens introspected, too. Keycloak says so in `typ`, Ory Hydra and Cognito in `token_use`.
_KIND_CLAIMS: Final = ("typ", "token_use")
_OTHER_KINDS: Final = frozenset({"refresh", "refresh_token", "offline", "id", "id_token", "logout", "action"})


class Introspected(msgspec.Struct, frozen=True, gc=False):
    """What is known of a token: who it speaks for, or why it is refused. Neither the token nor its claims.

    Attributes:
        principal: Who is calling; None where the token is refused.
        reason: The reason code of a refusal.
        ends: When the token ends, seconds since 1970; infinite where the provider does not say.
        fresh_until: When the provider is to be asked again, in monotonic seconds.
        certificate: SHA-256 of the certificate that the token is bound to (RFC 8705 §3.2); None where it is bound to none.
    """

    principal: Principal | None
    reason: str | None
    ends: float
    fresh_until: float
    certificate: bytes | None = None


class AnswerRules(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must say, and who it then speaks of.

    Attributes:
        issuer: `iss`, to the letter, where the answer has it; None for any.
        source: Who says so: the issuer, else where it was asked.
        audience: `aud` must name one of these; None for any.
        required: Claims that must be there.
        leeway: Seconds by which clocks may differ.
        mapping: Which claims become which fields of the principal.
        realm: Where a user's name means one person.
        tenant: The tenant of its users.
    """

    issuer: str | None
    source: str
    audience: frozenset[str] | None
    required: tuple[str, ...]
    leeway: float
    mapping: ClaimMap
    realm: str
    tenant: str

    def judge(self, token: bytes, claims: Mapping[str, Any], now: float) -> tuple[Principal, float | None, bytes | None]:
        """Hold an answer for an active token against the rules.

        Returns:
            Who is calling, when the token ends, and the certificate that it is bound to.

        Raises:
            TokenInvalid: the answer breaks a rule.
        """
        if self.issuer is not None and claims.get("iss", self.issuer) != self.issuer:
            raise TokenInvalid("issuer_mismatch")
        _check_type(claims)
        if self.audience is not None and not names_audience(claims.get("aud"), self.audience):
            raise TokenInvalid("audience_mismatch")
        check_times(claims, now, leeway=self.leeway)
        if any(claim_at(claims, name) is None for name in self.required):
            raise TokenInvalid("token_claim_missing")
        certificate = bound_certificate(claims.get("cnf"))
        ends = claims.get("exp")
        principal = principal_of(
            claims,
            mapping=self.mapping,
            method="introspection",
            issuer=self.source,
            realm=self.realm,
            tenant=self.tenant,
            assurance=Assurance.INTROSPECTED,
            credential_id=_credential_id(token, claims.get("jti")),
            expires_at=None if ends is None else float(ends),
        )
        return principal, principal.expires_at, certificate


def token_name(token: bytes) -> str:
    """Return what stands for a token in records: enough to find it again, and nothing to use it with."""
    return f"sha256:{hashlib.sha256(token).hexdigest()[:16]}"


def _credential_id(token: bytes, jti: Any) -> str:
    # Some providers use the text of an opaque token for its id, and an id is shown and logged.
    if isinstance(jti, str) and name_problem(jti) is None and jti.encode("utf-8") not in token:
        return jti
    return token_name(token)


def _check_type(claims: Mapping[str, Any]) -> None:
    given: Any = claims.get("token_type")
    if given is not None and not (isinstance(given, str) and given.lower() in _TOKEN_TYPES):
        raise TokenInvalid("token_type_mismatch")
    kinds: list[Any] = [claims.get(name) for name in _KIND_CLAIMS]
    if any(isinstance(kind, str) and kind.lower() in _OTHER_KINDS for kind in kinds):
        raise TokenInvalid("token_type_mismatch")
