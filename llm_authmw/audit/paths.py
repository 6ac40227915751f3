"""What a record says of texts that a client has chosen: what looks like a credential in them is left out.

A path is where keys get to by mistake (a base URL with the key in it, an id where a token was meant). So a segment is masked when it has
the shape of one, and what is masked in error costs a reader little: the operation stands in the record as well.
"""

import re
from functools import lru_cache
from typing import Final

MASK: Final = "[masked]"
"""What stands in a record for a text, or a part of a path, that looks like a credential."""

MAX_PATH: Final = 2048
"""Characters of a path that are looked at and recorded."""
MAX_SEGMENT: Final = 128
"""A segment that is longer is no part of a route."""

_REMEMBERED: Final = 512
_SHORTEST: Final = 20
"""Characters of a text that is random enough to be a secret: 128 bits take 22 in base 64."""
_MOST_CHANGES: Final = 6
"""How often letters and digits take turns, or a capital letter follows a small one, in a text that somebody has thought of."""

# Each begins where it can begin, and not anywhere within what it begins with: else a long text takes the square of its length.
_SHAPES: Final = re.compile(
    r"""
      -[0-9a-z]{16}_[0-9A-Za-z]{20}                          # a key of ours, or most of one
    | (?<![A-Za-z0-9])(?:sk|pk|rk)[-_][A-Za-z0-9_-]{4}       # OpenAI, Anthropic, Stripe, LiteLLM, and master keys that follow them
    | (?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abposre]-|AKIA|ASIA|AIza|ya29\.|npm_|pypi-)[A-Za-z0-9_-]{8}
    | eyJ[A-Za-z0-9_-]{5,}                                   # what every JSON Web Token begins with (RFC 7519 §3)
    | (?i:bearer|basic)[ +:=_-]+\S{4}
    | (?i:token|secret|passw(?:or)?d|api[_-]?key|credential|signature|code)s?[=:]\S                         # a name, and its value
    | (?<![^:@/\s])[^:@/\s]+:[^:@/\s]+@                      # a user and a password in front of a host (RFC 3986 §3.2.1)
    """,
    re.VERBOSE,
)
_CHANGE: Final = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z])")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def masked_path(path: str) -> str:
    """Return a path without its segments that look like credentials."""
    return _masked_path(path) if len(path) <= _REMEMBERED else _masked_path.__wrapped__(path)


@lru_cache(maxsize=1024)
def _masked_path(path: str) -> str:
    shown = "/".join([MASK if _is_suspect(segment) else segment for segment in path[:MAX_PATH].split("/")])
    return shown if len(path) <= MAX_PATH else shown + "…"


def masked(text: str) -> str:
    """Return a name of a model, a tool or a person that a client has chosen, or the mask where it has the shape of a credential."""
    return MASK if _SHAPES.search(text[:MAX_PATH]) is not None else text


def _is_suspect(segment: str) -> bool:
    if len(segment) > MAX_SEGMENT or _SHAPES.search(segment) is not None:
        return True
    if len(segment) < _SHORTEST or _UUID.fullmatch(segment) is not None:
        return False
    return sum(1 for _ in _CHANGE.finditer(segment)) >= _MOST_CHANGES
