"""URLs of stores, as they may be shown."""

import re
from typing import Final

_HIDDEN: Final = "***"
# To the last `@`, and not as a URL is read: a password with a slash in it, which its user forgot to escape, is one all the same.
_PASSWORD: Final = re.compile(r"^([^:/?#]+://[^:/?#@]*):.*@", re.DOTALL)
_PARAMETER: Final = re.compile(r"([?&][a-z_]*password=)[^&#]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """Return the URL with stars for the passwords in it."""
    return _PARAMETER.sub(rf"\g<1>{_HIDDEN}", _PASSWORD.sub(rf"\g<1>:{_HIDDEN}@", url))
