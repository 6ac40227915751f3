"""Routes that no table of operations has, and look like an LLM API's all the same."""

import pytest

from llm_authmw.llm.resemblance import resembles_an_api, resembles_tools


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1/anything",
            "/proxy/v2/embed",
            "/v1beta1/x",
            "/v1alpha/x",
            "/V1/Chat/Completions",
            "/invocations",
            "/cohere/anything",
            "/rag/query",
        ),
        *("/engines/x/new", "/models/x:newAction", "/x:predict", "/mcp-rest/call", "/tools/run", "/openai/", "/a2a/x", "/model/new"),
    ],
)
def test_a_version_an_action_or_a_word_of_such_an_api_makes_it_one(path: str) -> None:
    assert resembles_an_api(path)


@pytest.mark.parametrize(
    "path", ["/", "/admin/keys", "/admin/users/ada", "/feedback", "/files", "/api/messages", "/v", "/version1", "/vx1", "/modelling"]
)
def test_what_any_app_has_is_not_taken_for_one(path: str) -> None:
    assert not resembles_an_api(path)


def test_only_what_speaks_of_tools_may_run_some() -> None:
    assert resembles_tools("/x/mcp-rest/tools/call")
    assert resembles_tools("/MCP")
    assert not resembles_tools("/v1/chat")
