"""Base64url as JOSE wants it (RFC 7515 §2): no padding, no other character, and one text for each value."""

import binascii
from typing import Final

# What only ordinary base64 has becomes a character that none has.
_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING: Final = (b"", None, b"==", b"=")
# The characters that leave no bit set behind the last byte, by how many characters there are in the last group of four.
_LAST: Final = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")


class InvalidBase64urlError(ValueError):
    """The text is not base64url without padding, in its one canonical form."""


def decode(text: bytes) -> bytes:
    """Return what the text stands for.

    Raises:
        InvalidBase64urlError: it is not base64url, has padding, or has bits set behind its last byte: then another text would stand
            for the same value, and what is remembered by its text could be asked for by another.
    """
    rest = len(text) % 4
    padding = _PADDING[rest]
    if padding is None or (rest and text[-1] not in _LAST[rest]):
        raise InvalidBase64urlError("not base64url in its canonical form")
    try:
        return binascii.a2b_base64(text.translate(_TO_STANDARD) + padding, strict_mode=True)
    except binascii.Error:
        raise InvalidBase64urlError("not base64url") from None


def encode(value: bytes) -> bytes:
    """Return the text that stands for the value."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_")
