"""What a token is bound to (RFC 7800 `cnf`): only what can be proven here is accepted, and nothing of it is ignored."""

from typing import Any, Final

from llm_authmw.errors import TokenInvalid
from llm_authmw.tokens.base64url import decode

_THUMBPRINT: Final = "x5t#S256"
_SHA256_BYTES: Final = 32


def bound_certificate(cnf: Any) -> bytes | None:
    """Return the SHA-256 of the certificate that the token is bound to (RFC 8705 §3.1); None where it is bound to nothing.

    Raises:
        TokenInvalid: it is bound to what cannot be proven here, such as a DPoP key; to ignore that would make it a bearer token.
    """
    if cnf is None:
        return None
    try:
        (member,) = cnf.items()
        thumbprint = decode(member[1].encode("ascii"))
    except (AttributeError, TypeError, ValueError):
        raise TokenInvalid("token_binding_mismatch") from None
    if member[0] != _THUMBPRINT or len(thumbprint) != _SHA256_BYTES:
        raise TokenInvalid("token_binding_mismatch")
    return thumbprint
