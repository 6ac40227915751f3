"""What is remembered of a token that was verified."""

import msgspec

from llm_authmw.principal import Principal
from llm_authmw.tokens.keys import VerificationKey


class VerifiedToken(msgspec.Struct, frozen=True, gc=False):
    """A token whose signature and claims were good, without the token and without its claims.

    Attributes:
        principal: Who is calling.
        begins: When it begins to be valid, seconds since 1970.
        ends: When it ends, leeway included, seconds since 1970.
        key: The key that it was signed with; it stands no longer than that does.
        subject: `sub`, as the issuer writes it, for revocations.
        token_id: `jti`.
        issued_at: `iat`, seconds since 1970.
        certificate: SHA-256 of the certificate that it is bound to (RFC 8705 §3.1); None where it is bound to none.
    """

    principal: Principal
    begins: float
    ends: float
    key: VerificationKey
    subject: str | None
    token_id: str | None
    issued_at: float | None
    certificate: bytes | None

    def problem(self, now: float) -> str | None:
        """Return the reason code why it stands no longer at this moment, or None."""
        if now >= self.ends:
            return "token_expired"
        if now < self.begins:
            return "token_not_yet_valid"
        return None if self.key.current else "token_key_unknown"
