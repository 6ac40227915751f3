"""Frames of a WebSocket: what an event of a realtime API asks for."""

import json
import re
from collections.abc import Collection
from typing import Final

import msgspec

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.mcp import read_messages
from llm_authmw.llm.operation import Found
from llm_authmw.llm.requests import reading_of

_BLANKS: Final = b" \t\r\n"
_ESCAPED: Final = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")


def read_frame(found: Found | None, text: str | None, data: bytes | None, allowed_fields: Collection[str] = ()) -> LLMCall | None:
    """Return what a frame asks for, or None where it names nothing that a rule is about.

    Args:
        found: The operation of the socket; None where it is in no table.
        text: What a text frame holds.
        data: What a binary frame holds.
        allowed_fields: Members that choose where or as whom a request is sent on, and that callers may use all the same.

    Raises:
        Denial: it may name something, and cannot be read in one way only.
    """
    frame = data if text is None else text.encode("utf-8", "surrogatepass")
    if frame is None:
        return None
    if not frame.lstrip(_BLANKS).startswith(b"{"):
        # Sound, or a word of some other protocol.
        if _begins_elsewhere(frame) or b"model" in _unescaped(frame):
            raise Denial("request_malformed")
        return None
    reading = reading_of(None if found is None else Found(found.operation, ()), (), allowed_fields)
    try:
        reading.body(frame)
        if reading.is_message:
            read_messages(reading.tools, frame, ())
    except ValueError as error:
        raise Denial("request_malformed") from error
    call = reading.call()
    if not call.models and not call.tools:
        return None
    return msgspec.structs.replace(call, needs_model=False, leaves_choice=False)


def _begins_elsewhere(frame: bytes) -> bool:
    """Say whether a frame is an object to Python's own parser, which reads UTF-16, UTF-32 and a byte order mark too."""
    try:
        text = frame.decode(json.detect_encoding(frame), "surrogatepass")
    except UnicodeDecodeError:
        return False
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def _unescaped(frame: bytes) -> bytes:
    """Return a frame with its ASCII letters as they are: JSON has escapes for them, and other encodings zeros between them."""
    return _ESCAPED.sub(lambda escaped: bytes([int(escaped[1], 16)]), frame.replace(b"\0", b""))
