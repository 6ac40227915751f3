"""Keys that another proxy issued: what of them can be taken over."""

from typing import Final

from llm_authmw.errors import InvalidValueError
from llm_authmw.keys.format import MAX_KEY_LENGTH, parse_key
from llm_authmw.keys.hashing import sha256
from llm_authmw.names import name_problem

_HEX_DIGITS: Final = frozenset("0123456789abcdef")


def digest_to_import(sha256_hex: str | None, key: str | None, last_four: str) -> tuple[bytes, str]:
    """Return the digest that the key is found by, and the last four characters of its text.

    Args:
        sha256_hex: Its unsalted SHA-256, 64 hexadecimal digits; or
        key: its text.
        last_four: The last four characters of the text, where only the digest is given.

    Raises:
        InvalidValueError: neither or both are given, or it is nothing that can be imported.
    """
    if (sha256_hex is None) == (key is None):
        raise InvalidValueError("give either the key's SHA-256 or its text")
    if key is not None:
        if not (key.isascii() and key.isprintable() and 16 <= len(key) <= MAX_KEY_LENGTH) or " " in key:
            raise InvalidValueError(f"an imported key is 16 to {MAX_KEY_LENGTH} printable ASCII characters without blanks")
        if parse_key(key) is not None:
            raise InvalidValueError("this key is of our own form: a copy of the store's row is what verifies it, not an import")
        return sha256(key.encode()), key[-4:]
    if last_four and (len(last_four) > 4 or name_problem(last_four) is not None):
        raise InvalidValueError("last_four is at most four characters")
    digits = (sha256_hex or "").lower()
    if len(digits) != 64 or not _HEX_DIGITS.issuperset(digits):
        raise InvalidValueError("a SHA-256 is 64 hexadecimal digits")
    return bytes.fromhex(digits), last_four
