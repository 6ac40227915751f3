"""The text of an API key: `sk-<id>_<secret><checksum>`, minted and parsed.

The id is public. The secret is 256 random bits in base 62. The checksum is the CRC-32 of all that stands before it, as
secret scanners know it from GitHub's tokens: a mistyped or random string is refused without asking the store. `-` occurs
in the prefix only, so the rest is one word that a double click selects.
"""

import re
import secrets
import zlib
from typing import Final, NamedTuple

from llm_authmw.errors import ConfigurationError

DEFAULT_PREFIX: Final = "sk-"
MAX_KEY_LENGTH: Final = 512
"""Characters of a key that anybody may present, imported ones included."""

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 16
_SECRET_BITS: Final = 256
_SECRET_LENGTH: Final = 43
_CHECK_LENGTH: Final = 6
_PREFIX: Final = re.compile(r"[a-z][a-z0-9-]{0,30}-")
_KEY: Final = re.compile(rf"[a-z][a-z0-9-]{{0,30}}-([0-9a-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECK_LENGTH}}}")


class MintedKey(NamedTuple):
    """A new key: its public id, and its text, which is a secret."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"MintedKey(id={self.id!r}, text='**********')"


def check_prefix(prefix: str) -> str:
    """Return `prefix` if keys may begin with it.

    Raises:
        ConfigurationError: it is not lower-case letters, digits and `-`, beginning with a letter and ending in `-`.
    """
    if _PREFIX.fullmatch(prefix) is None:
        raise ConfigurationError("prefix", f"{prefix!r} is not lower-case letters and digits that end in '-', such as 'sk-'")
    return prefix


def new_key_id() -> str:
    """Return a new public id: 16 lower-case letters and digits."""
    return "".join(secrets.choice(_ID_DIGITS) for _ in range(_ID_LENGTH))


def mint_key(*, key_id: str | None = None, prefix: str = DEFAULT_PREFIX) -> MintedKey:
    """Make a new key, with a new id or under an id that exists.

    Raises:
        ConfigurationError: `prefix` is not one.
    """
    key_id = key_id or new_key_id()
    body = f"{check_prefix(prefix)}{key_id}_{_base62(secrets.randbits(_SECRET_BITS), _SECRET_LENGTH)}"
    return MintedKey(key_id, body + _checksum(body))


def parse_key(text: str) -> str | None:
    """Return the public id of a well-formed key with a right checksum, else None. Says nothing about who knows it."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-_CHECK_LENGTH]) != text[-_CHECK_LENGTH:]:
        return None
    return match[1]


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
