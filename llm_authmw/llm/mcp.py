"""Messages of the Model Context Protocol: which tool, prompt or resource each one asks for."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from llm_authmw.errors import Denial
from llm_authmw.header_names import ORDINARY, fold
from llm_authmw.llm.json_body import NULL, OBJECT, begins, check_text, elements_of, members_of, refuse_other_spelling
from llm_authmw.llm.tools import Tools
from llm_authmw.names import name_problem

MAX_MESSAGES: Final = 100
"""Messages in one batch, which revisions of the protocol before 2025-06-18 have."""

_NAMED_BY: Final[Mapping[str, tuple[str, str]]] = {
    "tools/call": ("name", ""),
    "prompts/get": ("name", "prompt:"),
    "resources/read": ("uri", "resource:"),
    "resources/subscribe": ("uri", "resource:"),
    "resources/unsubscribe": ("uri", "resource:"),
}
_REFERENCES: Final[Mapping[str, tuple[str, str]]] = {"ref/prompt": ("name", "prompt:"), "ref/resource": ("uri", "resource:")}
_SPELLINGS: Final = frozenset({"jsonrpc", "method", "params", "name", "uri", "ref", "type"})
_ENCODED: Final = (b"=?base64?", b"?=")

_decode: Final = msgspec.json.Decoder().decode


def read_messages(tools: Tools, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Take what the messages of a body ask for.

    Args:
        tools: Where it is taken to.
        body: A JSON-RPC message, or a batch of them.
        headers: The request's, of which `mcp-method` and `mcp-name` repeat what a message says.

    Raises:
        ValueError: it is no such body, or can be read in more than one way.
        Denial: a message lacks the name of what it asks for (`request_field_invalid`), or a header names something else than the message
            (`mcp_header_mismatch`).
    """
    check_text(body)
    if body.lstrip(b" \t\r\n").startswith(b"["):
        messages = [bytes(message) for message in elements_of(Raw(body))]
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise ValueError("an empty batch, or too many messages")
    else:
        messages = [body]
    asked = [_read(tools, message) for message in messages]
    for header, value in headers:
        if header not in ORDINARY and (folded := fold(header)) in {b"mcp-method", b"mcp-name"}:
            said = _header(value)
            if any(said != (method if folded == b"mcp-method" else name) for method, name in asked):
                # Somebody in front may have decided on what the header says.
                raise Denial("mcp_header_mismatch")


def _read(tools: Tools, message: bytes) -> tuple[str | None, str | None]:
    """Take what one message asks for; return its method, and the name of what it asks for."""
    members = _members(message)
    if "jsonrpc" not in members or _decode(members["jsonrpc"]) != "2.0":
        raise ValueError("no message of JSON-RPC 2.0")
    if "method" not in members:
        # The answer to something that the server has asked.
        if "result" not in members and "error" not in members:
            raise ValueError("neither a request nor an answer")
        return None, None
    method = _decode(members["method"])
    if type(method) is not str:
        raise ValueError("a method is a text")
    if method == "completion/complete":
        reference = _members_of(_members_of(members, "params"), "ref")
        named = _REFERENCES.get(_name(reference, "type"))
        if named is None:
            raise Denial("request_field_invalid", need="ref/prompt or ref/resource as the type of ref")
        member, kind = named
        name = _name(reference, member)
        tools.run.append(kind + name)
        return method, None
    if method not in _NAMED_BY:
        return method, None
    member, kind = _NAMED_BY[method]
    name = _name(_members_of(members, "params"), member)
    tools.run.append(kind + name)
    return method, name


def _members(text: bytes) -> dict[str, Raw]:
    members = members_of(text)
    for name in members:
        if name not in _SPELLINGS:
            refuse_other_spelling(name, _SPELLINGS)
    return members


def _members_of(members: Mapping[str, Raw], name: str) -> dict[str, Raw]:
    value = members.get(name, NULL)
    if begins(value) != OBJECT:
        raise Denial("request_field_invalid", need=f"{name} as an object")
    return _members(bytes(value))


def _name(members: Mapping[str, Raw], member: str) -> str:
    name = _decode(members.get(member, NULL))
    if type(name) is not str or name_problem(name) is not None:
        raise Denial("request_field_invalid", need=f"{member}, which prints and has 512 characters at most")
    return name


def _header(value: bytes) -> str:
    value = value.strip(b" \t")
    begin, end = _ENCODED
    try:
        if value.startswith(begin) and value.endswith(end):
            value = base64.b64decode(value[len(begin) : -len(end)], validate=True)
        return str(value, "utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Denial("mcp_header_mismatch") from error
