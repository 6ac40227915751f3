"""What a request asks for, read from its body once and strictly."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.ceilings import CEILINGS
from llm_authmw.llm.forms import read_form
from llm_authmw.llm.mcp import read_messages
from llm_authmw.llm.multipart import boundary_of, parts_of
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.llm.reading import Reading

_JSON: Final = re.compile(rb'application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?[ \t]*', re.IGNORECASE)


class _Unlisted(Operation, frozen=True, kw_only=True):
    """What a route asks for that is in no table."""

    def __post_init__(self) -> None:
        """Have the name that nobody else may have."""


# Whether such a route runs a model, nobody knows.
_UNLISTED: Final = _Unlisted(name=UNLISTED, routes=(), needs_model=False, ceilings=CEILINGS["openai"])


def is_json(content_type: bytes | None) -> bool:
    """Say whether a body of this type is read as JSON. One without a type is, as many servers do so."""
    return content_type is None or content_type == b"application/json" or _JSON.fullmatch(content_type) is not None


def may_be_json(content_type: bytes | None) -> bool:
    """Say whether somebody may read a body of this type as JSON, so that it has to be read here on a route that nobody knows."""
    return content_type is None or b"json" in content_type.lower()


def reading_of(found: Found | None, named: Sequence[str], allowed_fields: Collection[str], *, socket: bool = False) -> Reading:
    """Return what is known of a request before its body is read: for the handshake of a WebSocket, all of it."""
    if found is None:
        return Reading(_UNLISTED, named, allowed_fields)
    return Reading(found.operation, (*found.models, *named), allowed_fields, chosen=bool(found.models or (socket and named)))


def read_request(
    found: Found | None,
    *,
    content_type: bytes | None,
    body: bytes,
    named: Sequence[str] = (),
    allowed_fields: Collection[str] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> LLMCall:
    """Return what a request asks for.

    Args:
        found: Its operation; None for a route that is in no table.
        content_type: The value of its only `content-type`, if it has one.
        body: All of its body, not compressed.
        named: The models that its query and its headers name.
        allowed_fields: Members that choose where or as whom a request is sent on, and that callers may use all the same.
        headers: Its headers as the scope has them, of which some MCP clients repeat what the body says.

    Raises:
        Denial: it cannot be read in one way only, or has a field that is not accepted.
    """
    reading = reading_of(found, named, allowed_fields)
    if body or reading.operation.body == "mcp":
        try:
            _read_body(reading, content_type, body, headers)
        except ValueError as error:
            raise Denial("request_malformed") from error
    return reading.call()


def _read_body(reading: Reading, content_type: bytes | None, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    kind = reading.operation.body
    boundary = boundary_of(content_type) if kind == "multipart" else None
    if kind == "none":
        return
    if boundary is not None:
        read_form(reading, parts_of(boundary, body))
    elif not is_json(content_type):
        if reading.operation is not _UNLISTED or may_be_json(content_type):
            raise Denial("content_type_not_accepted")
    elif kind == "mcp":
        read_messages(reading.tools, body, headers)
    else:
        reading.body(body)
        if reading.is_message:
            # An MCP server may be anywhere: SDKs have had it listen at `/messages`, which is also where Anthropic's API is.
            read_messages(reading.tools, body, headers)
