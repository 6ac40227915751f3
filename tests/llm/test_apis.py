"""The built-in table, held against the routes of the APIs themselves: what the SDKs ask for, and what LiteLLM serves."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.endings import Ending
from llm_authmw.llm.operations import Operation, Operations
from llm_authmw.patterns import is_canonical

OPERATIONS = Operations()
ENDINGS = [
    (operation, method, ending)
    for operation in BUILT_IN
    for ending in map(Ending.parse, operation.routes)
    for method in sorted(ending.methods)
]


def path_of(ending: Ending, free: str = "x1", model: str = "gpt-4o") -> str:
    """A path that ends like this, in an example."""
    segments = [free if segment is None else segment for segment in ending.segments]
    if ending.model is not None:
        segments[ending.model] = model + (ending.action and ":" + ending.action)
    return "/".join(segments)


def name_of(method: str, path: str) -> str | None:
    found = OPERATIONS.find(method, path)
    return None if found is None else found.operation.name


# What each example names in its path stands after it.
EXAMPLES = """
    POST /v1/chat/completions                                           chat
    POST /chat/completions                                              chat
    POST /cursor/chat/completions                                       chat
    POST /queue/chat/completions                                        chat
    POST /v1beta/openai/chat/completions                                chat
    POST /proxy/openai/v1/chat/completions                              chat
    POST /openai/deployments/m/chat/completions                         chat m
    POST /openai/deployments/azure/m/chat/completions                   chat azure/m
    POST /engines/m/chat/completions                                    chat m
    GET /v1/chat/completions                                            chat
    DELETE /v1/chat/completions/c1                                      chat
    POST /v2/chat                                                       chat
    POST /api/chat                                                      chat
    POST /v1/completions                                                completions
    POST /v1/fim/completions                                            completions
    POST /engines/m/completions                                         completions m
    POST /v1/complete                                                   completions
    POST /api/generate                                                  completions
    POST /v1/responses                                                  responses
    POST /openai/v1/responses                                           responses
    POST /backend-api/codex/responses                                   responses
    POST /v1/responses/compact                                          responses
    WS /v1/responses                                                    responses
    GET /v1/responses/r1                                                responses
    DELETE /v1/responses/r1                                             responses
    GET /v1/responses/r1/input_items                                    responses
    POST /v1/responses/r1/cancel                                        responses
    POST /v1/responses/input_tokens                                     count_tokens
    POST /utils/token_counter                                           count_tokens
    POST /v1/embeddings                                                 embeddings
    POST /openai/deployments/m/embeddings                               embeddings m
    POST /api/embeddings                                                embeddings
    POST /api/embed                                                     embeddings
    POST /v2/embed                                                      embeddings
    POST /v1/moderations                                                moderations
    POST /v1/decisions                                                  decisions
    POST /v1/images/generations                                         images
    POST /openai/deployments/m/images/generations                       images m
    POST /v1/images/edits                                               images
    POST /v1/images/variations                                          images
    POST /v1/audio/speech                                               audio.speech
    POST /v1/audio/transcriptions                                       audio.transcriptions
    POST /openai/deployments/whisper/audio/translations                 audio.translations whisper
    POST /v1/videos                                                     videos
    POST /v1/videos/v1/remix                                            videos
    GET /v1/videos/v1/content                                           videos
    WS /v1/realtime                                                     realtime
    WS /openai/realtime                                                 realtime
    WS /v1/live/sessions                                                realtime
    WS /ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent  realtime
    WS /ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent  realtime
    WS /vertex_ai/live                                                  realtime
    POST /v1/realtime/client_secrets                                    realtime
    POST /v1/realtime/calls                                             realtime
    POST /v1/assistants                                                 assistants
    POST /v1/threads/t1/runs                                            assistants
    POST /v1/threads/runs                                               assistants
    POST /v1/fine_tuning/jobs                                           fine_tuning
    POST /v1/files                                                      files
    POST /bedrock/v1/files                                              files
    GET /v1/files/f1/content                                            files
    POST /v1/uploads/u1/parts                                           uploads
    POST /v1/batches                                                    batches
    POST /v1/batches/b1/cancel                                          batches
    POST /v1/vector_stores/vs1/search                                   vector_stores
    GET /v1/models                                                      models
    HEAD /v1/models                                                     models
    GET /v1/models/openai/gpt-4o                                        models openai/gpt-4o
    DELETE /v1/models/ft:gpt-4o:acme::1                                 models ft:gpt-4o:acme::1
    POST /v1/messages                                                   messages
    POST /anthropic/v1/messages                                         messages
    POST /claude_code_gateway/v1/messages                               messages
    POST /v1/messages/count_tokens                                      count_tokens
    POST /v1/messages/batches                                           batches
    GET /v1/messages/batches/b1/results                                 batches
    POST /v1beta/models/gemini-2.5-pro:generateContent                  generate_content gemini-2.5-pro
    POST /v1beta/models/openai/gpt-4o:generateContent                   generate_content openai/gpt-4o
    POST /models/a:b:streamGenerateContent                              generate_content a:b
    POST /v1/projects/p/locations/l/publishers/google/models/m:generateContent  generate_content m
    POST /v1beta/models/m:embedContent                                  embed_content m
    POST /v1beta/models/m:batchEmbedContents                            embed_content m
    POST /v1beta/models/m:countTokens                                   count_tokens m
    POST /v1beta/models/m:batchGenerateContent                          batches m
    POST /v1beta/models/imagen:predict                                  predict imagen
    POST /v1beta/models/veo:predictLongRunning                          predict veo
    POST /v1/projects/p/locations/l/publishers/meta/models/m:rawPredict  predict m
    POST /v1/projects/p/locations/l/publishers/anthropic/models/claude@1:rawPredict  messages claude@1
    POST /v1/projects/p/locations/l/publishers/anthropic/models/claude@1:streamRawPredict  messages claude@1
    POST /v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict  count_tokens
    POST /v1beta/interactions                                           interactions
    GET /v1beta/interactions/i1                                         interactions
    POST /model/anthropic.claude-3-v2:0/invoke                          invoke anthropic.claude-3-v2:0
    POST /bedrock/model/m/invoke-with-response-stream                   invoke m
    POST /async-invoke                                                  invoke
    POST /model/m/converse                                              converse m
    POST /model/m/converse-stream                                       converse m
    POST /model/m/count-tokens                                          count_tokens m
    POST /v1/rerank                                                     rerank
    POST /v2/rerank                                                     rerank
    POST /v1/score                                                      score
    POST /pooling                                                       pooling
    POST /classify                                                      classify
    POST /tokenize                                                      tokenize
    POST /detokenize                                                    tokenize
    POST /invocations                                                   invocations
    POST /v1/ocr                                                        ocr
    POST /mcp                                                           mcp
    POST /mcp/                                                          mcp
    POST /github/mcp                                                    mcp
    POST /toolset/t/mcp                                                 mcp
    POST /mcp/github                                                    mcp
    POST /mcp/rerank                                                    mcp
    POST /mcp/messages                                                  mcp
    POST /mcp/sse/messages                                              mcp
    GET /mcp                                                            mcp
    DELETE /mcp                                                         mcp
"""


@pytest.mark.parametrize("example", EXAMPLES.strip().splitlines(), ids=lambda example: " ".join(example.split()[:2]))
def test_a_route_of_an_api_is_found(example: str) -> None:
    method, path, name, *models = example.split()
    found = OPERATIONS.find(method, path)

    assert found is not None
    assert (name, tuple(models)) == (found.operation.name, found.models)


# Each can reach a model in a way that the table cannot see, or none at all; whoever may use some models only may not, but by name.
NOT_FOUND = """
    POST /v1beta/models/m:generateAnswer
    POST /v1beta/models/m:doSomethingNew
    POST /v1beta/models/m:generateContent:x
    POST /v1beta/models/m:GenerateContent
    POST /v1beta/models/:generateContent
    POST /v1beta/models/m
    POST /v1beta/tunedModels/m:generateContent
    POST /v1/projects/p/locations/l/endpoints/1:predict
    POST /v1beta/threads/t:generateContent
    POST /v1beta/vector_stores/v:run
    POST /mcp/tools:call
    POST /v1/chat/completions/c1
    POST /v1/assistants/a1
    POST /v1/threads/t1
    POST /v1/conversations
    POST /v1/evals
    POST /v1/evals/e1/runs
    POST /v1/containers
    POST /v1/agents
    POST /v1/agents/sessions
    POST /v1/fine_tuning/alpha/graders/run
    POST /v1/skills
    POST /v1/rag/query
    POST /v1/rag/ingest
    POST /v1/search
    POST /v1/extraction
    POST /a2a/agent/message/send
    POST /mcp-rest/tools/call
    POST /utils/transform_request
    POST /key/generate
    POST /authorize/complete
    POST /api/pull
    WS /deepgram/v1/listen
    WS /v1/chat/completions
"""


@pytest.mark.parametrize("route", NOT_FOUND.strip().splitlines(), ids=str.strip)
def test_a_route_of_which_the_table_cannot_tell_what_it_runs_is_not_found(route: str) -> None:
    assert name_of(*route.split()) is None


def routes_of_an_sdk(package: str) -> Iterator[tuple[str, str]]:
    """Every method and path that an SDK sends, from its source, with `x1` for each parameter."""
    specification = importlib.util.find_spec(package)
    assert specification is not None
    assert specification.origin is not None
    methods = {"_post": "POST", "_put": "PUT", "_patch": "PATCH"}
    for file in Path(specification.origin).parent.glob("resources/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods and node.args:
                path = node.args[0].args[0] if isinstance(node.args[0], ast.Call) else node.args[0]
                assert isinstance(path, ast.Constant), ast.dump(path)
                yield methods[node.func.attr], re.sub(r"\{\w+\}", "x1", str(path.value)).partition("?")[0]


# Products of the SDKs that are no operations: administration, agents that run by themselves, what stores and evaluates.
APART = re.compile(
    r"(/v1)?/(organizations?|projects|agents|chatkit|containers|content_provenance_checks|conversations|evals|live|skills|vaults|webhook_endpoints"
    r"|deployments|dreams|environments|memory_stores|sessions|tunnels|user_profiles|audio/voices|audio/voice_consents|fine_tuning/alpha"
    r"|fine_tuning/checkpoints|chat/completions/x1|assistants/x1|threads/x1)(/.*)?"
)


@pytest.mark.parametrize("package", ["openai", "anthropic"])
def test_whatever_an_sdk_can_send_with_a_body_is_found_or_belongs_to_a_product_that_is_left_out(package: str) -> None:
    routes = set(routes_of_an_sdk(package))
    missed = {(method, path) for method, path in routes if name_of(method, path) is None}

    assert ("POST", "/chat/completions" if package == "openai" else "/v1/messages") in routes - missed
    assert set() == {path for _, path in missed if not APART.fullmatch(path)}


@pytest.mark.parametrize(("operation", "method", "ending"), ENDINGS, ids=lambda value: getattr(value, "name", None))
def test_each_ending_is_found_as_its_own_operation_behind_any_mount(operation: Operation, method: str, ending: Ending) -> None:
    for prefix in ("", "/v1", "/a/b/c", "/openai/v1", "/~tenant/proxy"):
        found = OPERATIONS.find(method, f"{prefix}/{path_of(ending)}")
        assert found is not None
        assert (operation, () if ending.model is None else ("gpt-4o",)) == (found.operation, found.models)


LITERALS = {segment for _, _, ending in ENDINGS for segment in ending.segments if segment is not None}
SEGMENTS = st.text(min_size=1, max_size=6).filter(
    lambda segment: is_canonical("/" + segment) and "/" not in segment and segment not in LITERALS
)


@given(st.sampled_from(ENDINGS), st.lists(SEGMENTS, max_size=4), st.booleans())
def test_each_ending_is_found_behind_any_prefix(ending: tuple[Operation, str, Ending], prefix: list[str], trailing_slash: bool) -> None:
    operation, method, end = ending
    found = OPERATIONS.find(method, "/".join(["", *prefix, path_of(end)]) + "/" * trailing_slash)

    assert found is not None
    assert operation == found.operation


def test_a_body_that_comes_to_a_route_with_a_free_end_is_looked_into() -> None:
    blind = {
        (operation.name, method)
        for operation, method, ending in ENDINGS
        if operation.body == "none" and method not in {"GET", "DELETE"} and ending.segments[-1] is None
    }
    assert set() == blind


def test_what_runs_a_model_can_name_it() -> None:
    assert [] == [operation for operation in BUILT_IN if operation.needs_model and operation.body in {"none", "mcp"}]


def test_what_always_streams_is_known_from_its_route() -> None:
    streaming = {path_of(ending, model="m") for operation, _, ending in ENDINGS if operation.streams}

    assert {
        "models/m:streamGenerateContent",
        "models/m:streamRawPredict",
        "publishers/anthropic/models/m:streamRawPredict",
        "model/m/invoke-with-response-stream",
        "model/m/converse-stream",
        "api/chat",
        "api/generate",
    } == streaming


def test_every_name_is_one_that_is_typed_without_thinking() -> None:
    assert [] == [operation.name for operation in BUILT_IN if re.fullmatch(r"[a-z_]+(\.[a-z]+)?", operation.name) is None]
