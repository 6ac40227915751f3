"""Secrets that a person chose: refused when short, well known, or of one letter."""

from typing import Final

from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret

MIN_LENGTH: Final = 32
MAX_LENGTH: Final = 512
MIN_DISTINCT: Final = 10

# Words that stand in published examples, and in the systems that copied them (APISIX CVE-2020-13945).
_WELL_KNOWN: Final = (
    "1234567890",
    "abcdefghij",
    "changeme",
    "change-me",
    "change_me",
    "edd1c9f034335f136f87ad84b625c8f1",
    "example",
    "insecure",
    "master-key",
    "master_key",
    "masterkey",
    "password",
    "placeholder",
    "qwertyuiop",
    "replace-me",
    "sk-1234",
    "your-key",
    "yourkey",
)


def check_chosen_key(option: str, secret: Secret) -> bytes:
    """Return a key that a person chose, as bytes.

    Raises:
        ConfigurationError: it is shorter than 32 or longer than 512 characters, holds a published default, has fewer than ten
            different characters, or cannot travel in a header.
    """
    key = secret.reveal()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(option, "holds a character that cannot be sent in a header; use printable ASCII without blanks")
    if not MIN_LENGTH <= len(key) <= MAX_LENGTH:
        raise ConfigurationError(
            option, f"has {len(key)} characters, and {MIN_LENGTH} to {MAX_LENGTH} are asked for; make one with: openssl rand -hex 32"
        )
    lowered = key.lower()
    if any(word in lowered for word in _WELL_KNOWN) or len(set(key)) < MIN_DISTINCT:
        raise ConfigurationError(option, "is a well-known or easily guessed value; make one with: openssl rand -hex 32")
    return key.encode()
