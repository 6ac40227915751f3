"""Content codings of an answer (RFC 9110 §8.4.1): a copy of its bytes, decoded while they pass and never beyond a bound."""

import zlib
from typing import Final

MAX_PIECE: Final = 256 * 1024
"""Bytes that are decoded at a time."""
MAX_DECODED: Final = 256 * 1024 * 1024
"""Bytes of one answer that are decoded. What grows beyond that is not read."""

_GZIP: Final = 31
_ZLIB: Final = 15
_RAW: Final = -15
_WINDOWS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}


class Inflater:
    """Decodes one answer from its chunks. Nothing is raised: what cannot be decoded is `broken` from there on.

    Args:
        coding: What `content-encoding` says, in lower case. One of gzip and deflate can be read; others, and several, cannot.
        max_decoded: Bytes that are decoded of the answer.

    Attributes:
        broken: Whether it cannot be read, or not to its end.
    """

    def __init__(self, coding: bytes, *, max_decoded: int = MAX_DECODED) -> None:
        window = _WINDOWS.get(coding)
        self.broken: bool = window is None
        self._left = max_decoded
        self._decoder = zlib.decompressobj(_GZIP if window is None else window)
        self._may_be_raw = window == _ZLIB
        self._begun = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return what this chunk holds, in pieces."""
        pieces: list[bytes] = []
        more = bool(chunk)
        while more and not self.broken:
            if self._may_be_raw:
                self._begun += chunk
            try:
                piece = self._decoder.decompress(chunk, MAX_PIECE)
            except zlib.error:
                # Some servers send `deflate` without the wrapper that it has by the standard.
                self.broken = not self._may_be_raw
                self._may_be_raw = False
                self._decoder = zlib.decompressobj(_RAW)
                chunk = self._begun
                continue
            if piece:
                self._may_be_raw = False
                pieces.append(piece)
                self._left -= len(piece)
            chunk = self._decoder.unconsumed_tail
            # Where a piece is full, the decoder may have more of it, though it took the whole chunk.
            more = bool(chunk) or len(piece) == MAX_PIECE
            self.broken = self._left < 0 or bool(self._decoder.unused_data)
        return pieces

    def finish(self) -> None:
        """Say that all of the answer has been fed: where its end is missing, it is broken."""
        self.broken = self.broken or not self._decoder.eof
