"""The content codings that an app may answer in: those that are read here, since what is in another one costs its estimate."""

from typing import Final

from llm_authmw.asgi import Scope

READABLE: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"identity"})
"""What a meter reads."""
PLAIN: Final = frozenset({b"identity"})
"""What can be changed on its way."""

_ACCEPTS: Final = b"accept-encoding"


def with_codings(scope: Scope, codings: frozenset[bytes]) -> Scope:
    """Return a connection whose client takes some codings only: who chooses the coding must not choose what is metered, or cut.

    What compresses further out goes by what the client has sent.

    Args:
        scope: The connection, which is not touched.
        codings: Which ones, in lower case.
    """
    headers = scope.get("headers", ())
    said = [value for name, value in headers if name.lower() == _ACCEPTS]
    if not said:
        return scope
    taken = [coding.strip() for coding in b",".join(said).split(b",")]
    kept = [coding for coding in taken if coding.partition(b";")[0].strip().lower() in codings]
    if len(kept) == len(taken):
        return scope
    others = [line for line in headers if line[0].lower() != _ACCEPTS]
    return {**scope, "headers": [*others, (_ACCEPTS, b", ".join(kept) or b"identity")]}
