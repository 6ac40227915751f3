"""AWS event streams (`application/vnd.amazon.eventstream`), read while they pass: frames of typed headers and a payload, in binary."""

import struct
import zlib
from typing import Final, NamedTuple

MAX_FRAME: Final = 24 * 1024 * 1024
"""Bytes of one frame: AWS allows payloads of 16 MiB, in base64 here and there."""

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_LENGTH: Final = struct.Struct(">H")
_FIXED: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; the others, 6 (bytes) and 7 (a string), say how long they are."""
_STRING: Final = 7


class Frame(NamedTuple):
    """One frame.

    Attributes:
        headers: Its headers that are strings.
        payload: What it holds.
    """

    headers: dict[bytes, bytes]
    payload: bytes


class FrameParser:
    """Reads the frames of one stream from its chunks, wherever these are cut.

    Attributes:
        broken: Whether the stream stopped being one: a checksum that is wrong, or lengths that cannot be. Nothing behind that is read.
    """

    def __init__(self) -> None:
        self.broken: bool = False
        self._kept = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that this chunk completes."""
        frames: list[Frame] = []
        if self.broken:
            return frames
        self._kept += chunk
        begin = 0
        while len(self._kept) - begin >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(self._kept, begin)
            if zlib.crc32(self._kept[begin : begin + 8]) != checksum or not headers + 16 <= total <= MAX_FRAME:
                self.broken = True
                break
            if len(self._kept) - begin < total:
                break
            frame = _frame(bytes(self._kept[begin : begin + total]), headers)
            if frame is None:
                self.broken = True
                break
            frames.append(frame)
            begin += total
        if self.broken:
            self._kept.clear()
        else:
            del self._kept[:begin]
        return frames

    @property
    def idle(self) -> bool:
        """Whether nothing is kept: all that came so far are whole frames."""
        return not self._kept


def _frame(text: bytes, headers_size: int) -> Frame | None:
    if zlib.crc32(text[:-4]) != _CRC.unpack(text[-4:])[0]:
        return None
    end = _PRELUDE.size + headers_size
    headers: dict[bytes, bytes] = {}
    at = _PRELUDE.size
    try:
        while at < end:
            name = text[at + 1 : at + 1 + text[at]]
            at += 1 + len(name)
            kind = text[at]
            at += 1
            if kind in _FIXED:
                at += _FIXED[kind]
                continue
            size: int = _LENGTH.unpack_from(text, at)[0]
            at += _LENGTH.size
            if kind == _STRING:
                headers[name] = text[at : at + size]
            at += size
    except (IndexError, struct.error):
        return None
    return Frame(headers, text[end:-4]) if at == end else None
