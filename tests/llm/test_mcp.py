import base64

import msgspec
import pytest

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.mcp import MAX_MESSAGES
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request

MCP = Operations().find("POST", "/mcp")


def read(body: object, *headers: tuple[bytes, bytes]) -> LLMCall:
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return read_request(MCP, content_type=b"application/json", body=text, headers=headers)


def message(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def reason(body: object, *headers: tuple[bytes, bytes]) -> str:
    with pytest.raises(Denial) as refused:
        read(body, *headers)
    return refused.value.reason


@pytest.mark.parametrize(
    ("asked", "tools"),
    [
        (message("tools/call", name="search", arguments={"model": "secret"}), ("search",)),
        (message("prompts/get", name="review"), ("prompt:review",)),
        (message("resources/read", uri="file:///etc/passwd"), ("resource:file:///etc/passwd",)),
        (message("resources/subscribe", uri="db://x"), ("resource:db://x",)),
        (message("completion/complete", ref={"type": "ref/prompt", "name": "review"}), ("prompt:review",)),
        (message("completion/complete", ref={"type": "ref/resource", "uri": "db://x"}), ("resource:db://x",)),
        (message("tools/list"), ()),
        (message("initialize", protocolVersion="2025-06-18"), ()),
        ({"jsonrpc": "2.0", "method": "notifications/initialized"}, ()),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, ()),
        ([message("tools/call", name="b"), message("tools/call", name="a")], ("a", "b")),
    ],
)
def test_a_message_names_what_it_asks_for(asked: object, tools: tuple[str, ...]) -> None:
    call = read(asked)
    assert (tools, (), "mcp", False) == (call.tools, call.models, call.operation, call.needs_model)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        {"model": "gpt-4o", "messages": []},
        {"jsonrpc": "1.0", "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "method": 7},
        b'{"jsonrpc":"2.0","method":"tools/list","method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","name":"b"}}',
        {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a", "Name": "b"}},
        {"jsonrpc": "2.0", "method": "tools/list", "Method": "tools/call"},
        [message("tools/list")] * (MAX_MESSAGES + 1),
    ],
)
def test_what_is_no_message_is_refused(body: object) -> None:
    assert "request_malformed" == reason(body)


@pytest.mark.parametrize(
    "body",
    [
        message("tools/call"),
        message("tools/call", name=["a"]),
        message("tools/call", name=""),
        message("tools/call", name="a\n"),
        {"jsonrpc": "2.0", "method": "tools/call"},
        {"jsonrpc": "2.0", "method": "tools/call", "params": ["a"]},
        message("completion/complete", ref={"type": "ref/tool", "name": "a"}),
        message("completion/complete"),
    ],
)
def test_a_message_that_does_not_say_what_it_asks_for_is_refused(body: object) -> None:
    assert "request_field_invalid" == reason(body)


def test_headers_that_repeat_the_message_must_agree_with_it() -> None:
    asked = message("tools/call", name="search")
    assert ("search",) == read(asked, (b"mcp-method", b"tools/call"), (b"Mcp-Name", b" search ")).tools
    encoded = b"=?base64?" + base64.b64encode(b"search") + b"?="
    assert ("search",) == read(asked, (b"mcp-name", encoded)).tools
    for headers in (
        [(b"mcp-method", b"tools/list")],
        [(b"mcp-name", b"other")],
        [(b"MCP_NAME", b"other")],
        [(b"mcp-name", b"search"), (b"mcp-name", b"other")],
        [(b"mcp-name", b"=?base64?!?=")],
        [(b"mcp-name", b"\xff")],
    ):
        assert "mcp_header_mismatch" == reason(asked, *headers)
    assert "mcp_header_mismatch" == reason(message("tools/list"), (b"mcp-name", b"search"))
    assert "mcp_header_mismatch" == reason([asked, message("tools/call", name="other")], (b"mcp-name", b"search"))
