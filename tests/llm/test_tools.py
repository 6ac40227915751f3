import msgspec
import pytest

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request

CHAT = Operations().find("POST", "/v1/responses")


def read(body: object) -> LLMCall:
    return read_request(CHAT, content_type=None, body=msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("tool", "functions"),
    [
        ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}, ("weather",)),
        ({"type": "function", "name": "weather", "parameters": {"model": 7}}, ("weather",)),
        ({"name": "weather", "input_schema": {"type": "object"}}, ("weather",)),
        ({"type": "custom", "name": "grep"}, ("grep",)),
        ({"type": "bash_20250124", "name": "bash"}, ("bash",)),
        ({"type": "local_shell"}, ("local_shell",)),
        ({"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, ("a", "b")),
        ({"function_declarations": [{"name": "a"}]}, ("a",)),
        ({"toolSpec": {"name": "a", "inputSchema": {}}}, ("a",)),
    ],
)
def test_what_the_caller_runs_is_a_function_and_no_tool(tool: object, functions: tuple[str, ...]) -> None:
    call = read({"tools": [tool]})
    assert (functions, ()) == (call.functions, call.tools)


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ({"type": "web_search"}, "web_search"),
        ({"type": "web_search_preview_2025_03_11"}, "web_search_preview"),
        ({"type": "web_search_20250305", "name": "web_search"}, "web_search"),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
        ({"type": "shell"}, "shell"),
        ({"googleSearch": {}}, "google_search"),
        ({"google_search": {}}, "google_search"),
        ({"type": "mcp", "server_label": "wiki", "server_url": "https://wiki.example/mcp"}, "mcp:https://wiki.example/mcp"),
        ({"type": "mcp", "server_label": "drive", "connector_id": "connector_googledrive"}, "mcp:connector_googledrive"),
        ({"type": "mcp", "server_label": "wiki"}, "mcp:wiki"),
        ({"type": "mcp_toolset", "mcp_server_name": "wiki"}, "mcp:wiki"),
    ],
)
def test_what_the_provider_runs_is_a_tool(tool: object, name: str) -> None:
    call = read({"tools": [tool, {"type": "function", "name": "f"}, tool]})
    assert ((name,), ("f",)) == (call.tools, call.functions)


def test_the_label_of_a_server_does_not_stand_for_its_address() -> None:
    call = read({"tools": [{"type": "mcp", "server_label": "allowed", "server_url": "https://attacker.example"}]})
    assert ("mcp:https://attacker.example",) == call.tools


def test_a_toolset_of_a_server_that_the_request_brings_is_that_server() -> None:
    servers = [{"type": "url", "url": "https://wiki.example", "name": "wiki"}]
    call = read({"mcp_servers": servers, "tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}]})
    assert ("mcp:https://wiki.example",) == call.tools
    assert ("mcp:https://wiki.example",) == read({"mcp_servers": servers}).tools


def test_tools_outside_of_the_list_of_tools_count() -> None:
    assert ("web_search",) == read({"web_search_options": {}}).tools
    assert ("web",) == read({"plugins": [{"id": "web"}]}).tools
    assert ("web_search",) == read({"session": {"tools": [{"type": "web_search"}]}}).tools
    assert ("old",) == read({"functions": [{"name": "old"}]}).functions
    bedrock = read(
        {"toolConfig": {"tools": [{"toolSpec": {"name": "f"}}, {"cachePoint": {"type": "default"}}, {"systemTool": {"name": "x"}}]}}
    )
    assert (("system_tool",), ("f",)) == (bedrock.tools, bedrock.functions)
    assert () == read({"tools": None}).tools


@pytest.mark.parametrize(
    "tools",
    [
        "web_search",
        {"type": "web_search"},
        ["web_search"],
        [{"type": 7}],
        [{"type": ["web_search"]}],
        [{"type": "function"}],
        [{"type": "function", "function": {}}],
        [{"type": "mcp"}],
        [{"type": "mcp_toolset"}],
        [{"type": "mcp", "server_url": 7}],
        [{"type": "web\nsearch"}],
        [{"functionDeclarations": {"name": "a"}}],
    ],
)
def test_a_tool_that_cannot_be_told_is_refused(tools: object) -> None:
    with pytest.raises(Denial) as refused:
        read({"tools": tools})
    assert (400, "request_field_invalid") == (refused.value.status, refused.value.reason)


@pytest.mark.parametrize("tool", [{"Type": "web_search", "name": "f"}, {"type": "mcp", "Server_URL": "https://x", "server_label": "wiki"}])
def test_a_tool_in_another_spelling_is_refused(tool: object) -> None:
    with pytest.raises(Denial) as refused:
        read({"tools": [tool]})
    assert "request_malformed" == refused.value.reason
