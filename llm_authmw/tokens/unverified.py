"""A token that was read and not verified: enough to know whose keys would verify it, and for nothing else."""

from typing import Any, NamedTuple, Protocol

from llm_authmw.errors import TokenInvalid
from llm_authmw.strict_json import parse_object
from llm_authmw.tokens.jws import CompactToken, read_compact


class UnverifiedToken(NamedTuple):
    """What a token claims to be.

    Attributes:
        compact: The token, taken apart.
        claims: What it says; anybody may have written it.
    """

    compact: CompactToken
    claims: dict[str, Any]

    def __repr__(self) -> str:
        return f"UnverifiedToken({self.compact!r})"


class TokenForm(Protocol):
    """How one issuer writes its tokens."""

    def __call__(self, token: bytes) -> UnverifiedToken:
        """Read a token.

        Raises:
            TokenInvalid: it is not of this form.
        """
        ...


def read_jwt(token: bytes) -> UnverifiedToken:
    """Read a JWT in the compact form (RFC 7519 §7.2).

    Raises:
        TokenInvalid: it is none.
    """
    compact = read_compact(token)
    try:
        return UnverifiedToken(compact, parse_object(compact.payload))
    except ValueError:
        raise TokenInvalid("token_malformed") from None
