"""The names of headers: what all spellings of one have in common, and those that most requests bring."""

from typing import Final

ORDINARY: Final = frozenset(
    name.encode()
    for name in [
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "origin",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-stainless-arch",
        "x-stainless-async",
        "x-stainless-lang",
        "x-stainless-os",
        "x-stainless-package-version",
        "x-stainless-read-timeout",
        "x-stainless-retry-count",
        "x-stainless-runtime",
        "x-stainless-runtime-version",
    ]
)
"""Headers with a meaning of their own to servers and SDKs. To pass over them at once saves most of a loop over a request's."""

_DASH: Final = ord("-")
# Apache makes `_` of whatever is no letter and no digit; the other gateways do so with a part of these.
_FOLD: Final = bytes(byte if chr(byte).isalnum() and byte < 128 else _DASH for byte in bytes(range(256)).lower())


def fold(name: bytes) -> bytes:
    """Return what all spellings of a header's name have in common; blanks around it are none of it."""
    return name.translate(_FOLD).strip(b"-")
