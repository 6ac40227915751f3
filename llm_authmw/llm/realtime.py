"""Frames of a WebSocket: what an event of a realtime API asks for."""

from collections.abc import Collection
from typing import Final

import msgspec

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.operation import Found
from llm_authmw.llm.requests import reading_of

_BLANKS: Final = b" \t\r\n"


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
        # Sound, or a word of some other protocol. Python's own parser also reads UTF-16 and UTF-32, whose bytes have zeros between.
        if b"model" in frame.replace(b"\0", b""):
            raise Denial("request_malformed")
        return None
    reading = reading_of(None if found is None else Found(found.operation, ()), (), allowed_fields)
    try:
        reading.body(frame)
    except ValueError as error:
        raise Denial("request_malformed") from error
    call = reading.call()
    if not call.models and not call.tools:
        return None
    return msgspec.structs.replace(call, needs_model=False, leaves_choice=False)
