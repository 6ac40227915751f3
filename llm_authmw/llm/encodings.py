"""Content codings: a body that came compressed, decoded to be read, and never beyond a bound."""

import zlib
from typing import Final

from llm_authmw.errors import Denial

_WINDOWS: Final = {"gzip": 31, "deflate": 15}
CODINGS: Final = frozenset(_WINDOWS)
"""The codings that can be decoded (RFC 9110 §8.4.1)."""


def decoded(coding: str, body: bytes, limit: int) -> bytes:
    """Return what a body holds.

    Args:
        coding: One of `CODINGS`.
        body: All of the body as it came.
        limit: Bytes that it may hold.

    Raises:
        Denial: it holds more (`body_too_large`), or is no one whole stream of that coding (`request_malformed`).
    """
    if not body:
        return body
    decoder = zlib.decompressobj(_WINDOWS[coding])
    try:
        held = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise Denial("request_malformed") from error
    if len(held) > limit:
        raise Denial("body_too_large")
    if not decoder.eof or decoder.unused_data:
        # Some decoders read a second stream behind the first, and some stop there.
        raise Denial("request_malformed")
    return held
