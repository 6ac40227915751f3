"""The content codings that an app may answer in: those that are read here, since what is in another one costs its estimate."""

from functools import lru_cache
from typing import Final

from llm_authmw.asgi import Scope

READABLE: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"identity"})
"""What a meter reads."""
PLAIN: Final = frozenset({b"identity"})
"""What can be changed on its way."""

_ACCEPTS: Final = b"accept-encoding"
_LENGTH: Final = len(_ACCEPTS)
_SHORT: Final = 128
"""Bytes of a header up to which it is remembered what is left of it."""


def with_codings(scope: Scope, codings: frozenset[bytes]) -> Scope:
    """Return a connection whose client takes some codings only: who chooses the coding must not choose what is metered, or cut.

    What compresses further out goes by what the client has sent.

    Args:
        scope: The connection, which is not touched.
        codings: Which ones, in lower case.
    """
    headers = scope.get("headers", ())
    said = b""
    for name, value in headers:
        if len(name) == _LENGTH and name.lower() == _ACCEPTS:
            said = said + b"," + value if said else value
    if not said:
        return scope
    kept = (_kept if len(said) <= _SHORT else _kept.__wrapped__)(said, codings)
    if kept is None:
        return scope
    others = [line for line in headers if line[0].lower() != _ACCEPTS]
    return {**scope, "headers": [*others, (_ACCEPTS, kept)]}


@lru_cache(maxsize=256)
def _kept(said: bytes, codings: frozenset[bytes]) -> bytes | None:
    """Return what is left of a header; None where that is all of it."""
    taken = [coding.strip() for coding in said.split(b",")]
    kept = [coding for coding in taken if coding.partition(b";")[0].strip().lower() in codings]
    return None if len(kept) == len(taken) else b", ".join(kept) or b"identity"
