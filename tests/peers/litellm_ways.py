"""Every way in which the LiteLLM proxy lets a caller choose a model, as its source has them, and a few that it does not.

Each is a request that asks for a model which the caller may not use, in a way of its own.
"""

import base64
import gzip
import json
from typing import Any, Final, NamedTuple

CHAT: Final = "/v1/chat/completions"
ASKED: Final[Any] = [{"role": "user", "content": "hi"}]
SMALL: Final = "served by fake-small"
BIG: Final = "served by fake-big"
WENT_TO_BIG: Final = "model group 'fake-big' failed"  # where LiteLLM has no mock, and asks the provider that there is not
GEMINI: Final[Any] = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
JSON: Final = {"content-type": "application/json"}


class Way(NamedTuple):
    """One way to choose a model.

    Attributes:
        path: Path and query.
        body: A JSON object, or the bytes of something else.
        headers: Beside the key.
        refused: Status and reason for somebody who may not use the model.
        served: What the operator's answer holds, which shows that this way does lead to the model. None where LiteLLM would have to have
            a provider for that, or refuses it too.
        method: The method.
    """

    path: str
    body: dict[str, Any] | bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    refused: tuple[int, str] = (403, "model_not_allowed")
    served: str | None = BIG
    method: str = "POST"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "fake-small", "messages": ASKED, **fields}


def form(content: str = "", **fields: str) -> bytes:
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    file = f'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{content}\r\n--x--\r\n'
    return ("".join(parts) + file).encode()


def managed(text: str) -> str:
    """Return an id as LiteLLM makes them: whoever knows the form can make one."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


LINE = json.dumps({"custom_id": "1", "method": "POST", "url": CHAT, "body": chat(model="fake-big")})
FORM = {"content-type": "multipart/form-data; boundary=x"}
BATCH = {"endpoint": CHAT, "completion_window": "24h"}
MALFORMED = (400, "model_malformed")
UNREADABLE = (400, "request_malformed")
IN_BYTES = json.dumps(chat(model="fake-big")).encode()
OF_ANOTHER_TYPE = (415, "content_type_not_accepted")
COMPRESSED = (415, "content_encoding_not_accepted")
NAMELESS = (400, "model_missing")
UNKNOWN = (403, "operation_unknown")

THE_BODY = {
    "chat": Way(CHAT, chat(model="fake-big")),
    "chat, no /v1": Way("/chat/completions", chat(model="fake-big")),
    "chat, of cursor": Way("/cursor/chat/completions", chat(model="fake-big")),
    "completions": Way("/v1/completions", {"model": "fake-big", "prompt": "hi"}),
    "responses": Way("/v1/responses", {"model": "fake-big", "input": "hi"}),
    "responses, of openai": Way("/openai/v1/responses", {"model": "fake-big", "input": "hi"}),
    "messages": Way("/v1/messages", chat(model="fake-big", max_tokens=9)),
    "interactions": Way("/v1beta/interactions", {"model": "fake-big", "input": "hi"}),
    "embeddings": Way("/v1/embeddings", {"model": "fake-big", "input": "hi"}, served=BIG),
    "images": Way("/v1/images/generations", {"model": "fake-big", "prompt": "hi"}),
    "tokens": Way("/utils/token_counter", {"model": "fake-big", "prompt": "hi"}, served="big-upstream"),
    "count": Way("/v1/messages/count_tokens", chat(model="fake-big"), served="input_tokens"),
    "rerank": Way("/v1/rerank", {"model": "fake-big", "query": "a", "documents": ["b"]}, served=WENT_TO_BIG),
    "decisions": Way("/v1/decisions", {"model": "fake-big", "input": "hi"}, served=None),
    "moderations": Way("/v1/moderations", {"model": "fake-big", "input": "hi"}, served=None),
    "speech": Way("/v1/audio/speech", {"model": "fake-big", "input": "hi", "voice": "alloy"}, served=WENT_TO_BIG),
    "ocr": Way("/v1/ocr", {"model": "fake-big", "document": {}}, served=WENT_TO_BIG),
    "assistants": Way("/v1/assistants", {"model": "fake-big"}, served=None),
    "a run": Way("/v1/threads/t/runs", {"model": "fake-big", "assistant_id": "a"}, served=None),
    "fine-tuning": Way("/v1/fine_tuning/jobs", {"model": "fake-big", "training_file": "f"}, served=None),
}

ANOTHER_NAME = {
    "the provider's own": Way(CHAT, chat(model="openai/big-upstream")),
    "the deployment's id": Way(CHAT, chat(model="the-big-deployment")),
    "an alias": Way(CHAT, chat(model="fake-alias")),
    "an agent": Way(CHAT, chat(model="a2a/agent"), served=None),
    "another case": Way(CHAT, chat(model="Fake-Small"), served=None),
    "two at once": Way(CHAT, chat(model="fake-small,fake-big"), refused=MALFORMED),
    "a race of two": Way(CHAT, chat(model="fake-big,fake-small", fastest_response=True), refused=MALFORMED, served="served by fake"),
    "a blank": Way(CHAT, chat(model=" fake-big"), refused=MALFORMED, served=None),
    "a list": Way(CHAT, chat(model=["fake-small", "fake-big"]), refused=MALFORMED, served=None),
    "full width": Way(CHAT, chat(model="\uff46ake-big"), refused=MALFORMED, served=None),
}

THE_TARGET = {
    "query": Way(f"{CHAT}?model=fake-big", chat()),
    "query, where the body has none": Way(f"{CHAT}?model=fake-big", {"messages": ASKED}),
    "query, the last of two": Way(f"{CHAT}?model=fake-small&model=fake-big", chat()),
    "query, encoded": Way(f"{CHAT}?%6dodel=fake%2Dbig", chat()),
    "query of completions": Way("/v1/completions?model=fake-big", {"model": "fake-small", "prompt": "hi"}),
    "deployment": Way("/openai/deployments/fake-big/chat/completions", chat()),
    "deployment, with a slash": Way("/openai/deployments/openai/big-upstream/chat/completions", chat()),
    "engine": Way("/engines/fake-big/chat/completions", chat()),
    "engine, completions": Way("/engines/fake-big/completions", {"model": "fake-small", "prompt": "hi"}),
    "deployment, embeddings": Way("/openai/deployments/fake-big/embeddings", {"model": "fake-small", "input": "hi"}, served=BIG),
    "gemini": Way("/v1beta/models/fake-big:generateContent", GEMINI),
    "gemini, no version": Way("/models/fake-big:generateContent", GEMINI),
    "gemini, the provider's own name": Way("/v1beta/models/openai/big-upstream:generateContent", GEMINI),
    "gemini, stream": Way("/v1beta/models/fake-big:streamGenerateContent", GEMINI, served='"candidates"'),
    "gemini, count": Way("/v1beta/models/fake-big:countTokens", GEMINI, served="totalTokens"),
    "bedrock": Way("/bedrock/model/fake-big/invoke", {"messages": ASKED}, served=None),
    "bedrock, converse": Way("/bedrock/model/fake-big/converse-stream", {"messages": []}, served=None),
    "vertex": Way("/vertex_ai/v1/projects/p/locations/l/publishers/google/models/fake-big:generateContent", GEMINI, served=None),
    "vertex, claude": Way("/vertex_ai/v1/projects/p/locations/l/publishers/anthropic/models/fake-big:rawPredict", {}, served=None),
    "azure": Way("/azure/openai/deployments/fake-big/chat/completions", chat(), served=None),
    "header": Way("/v1/batches", {**BATCH, "input_file_id": "f"}, {"x-litellm-model": "fake-big"}, served=None),
    "query of batches": Way("/v1/batches?model=fake-big", {**BATCH, "input_file_id": "f"}, served=None),
    "query of files": Way("/v1/files?target_model_names=fake-small,fake-big", form(purpose="batch"), FORM, served=None),
}

FALLBACKS = {
    "string": Way(CHAT, chat(model="fake-failing", fallbacks=["fake-big"])),
    "object": Way(CHAT, chat(model="fake-failing", fallbacks=[{"model": "fake-big"}])),
    "map": Way(CHAT, chat(model="fake-failing", fallbacks=[{"fake-failing": ["fake-big"]}])),
    "nested": Way(CHAT, chat(model="fake-failing", fallbacks=[{"model": "fake-failing", "fallbacks": ["fake-big"]}])),
    "context window": Way(CHAT, chat(model="fake-narrow", context_window_fallbacks=[{"fake-narrow": ["fake-big"]}])),
    "context window, of the SDK": Way(
        CHAT, chat(model="fake-narrow", context_window_fallback_dict={"fake-narrow": "fake-big"}), served=None
    ),
    "content policy": Way(CHAT, chat(content_policy_fallbacks=[{"fake-small": ["fake-big"]}]), served=None),
    "of messages": Way("/v1/messages", chat(model="fake-failing", max_tokens=9, fallbacks=["fake-big"])),
    "of responses": Way("/v1/responses", {"model": "fake-failing", "input": "hi", "fallbacks": ["fake-big"]}, served=None),
    "override": Way(CHAT, chat(model="fake-failing", router_settings_override={"fallbacks": [{"fake-failing": ["fake-big"]}]})),
}

NESTED = {
    "a session": Way("/v1/realtime/client_secrets", {"session": {"type": "realtime", "model": "fake-big"}}, served=WENT_TO_BIG),
    "a grader": Way("/v1/evals", {"data_source_config": {}, "testing_criteria": [{"model": "fake-big"}]}, refused=UNKNOWN, served=None),
    "a batch of messages": Way("/v1/messages/batches", {"requests": [{"custom_id": "1", "params": chat(model="fake-big")}]}, served=None),
    "what is merged into the body": Way(CHAT, chat(extra_body={"model": "fake-big"}), served=SMALL),
    "a line of a batch": Way("/v1/files", form(LINE, purpose="batch"), FORM, served=None),
    "a search": Way("/v1/vector_stores/vs_1/search", {"query": "hi", "litellm_embedding_model": "fake-big"}, served=None),
    "a file's target": Way("/v1/files", form(purpose="batch", target_model_names="fake-small,fake-big"), FORM, served=None),
    "a transcription": Way("/v1/audio/transcriptions", form(model="fake-big"), FORM, served=WENT_TO_BIG),
    "an image edit": Way("/v1/images/edits", form(model="fake-big", prompt="hi").replace(b'"file"', b'"image"'), FORM, served=WENT_TO_BIG),
    "a video": Way("/v1/videos", form(model="fake-big", prompt="hi"), FORM, served=WENT_TO_BIG),
    "a file's id": Way("/v1/batches", {**BATCH, "input_file_id": f"file-{managed('litellm:file-1;model,fake-big')}"}, served=None),
    "a managed file's id": Way(
        "/v1/batches",
        {**BATCH, "input_file_id": managed("litellm_proxy:application/json;unified_id,1;target_model_names,fake-big")},
        served=None,
    ),
    "a video's id": Way(
        f"/v1/videos/video_{managed('litellm:custom_llm_provider:openai;model_id:the-big-deployment;video_id:v')}/remix",
        {"prompt": "hi"},
        refused=NAMELESS,
        served=None,
    ),
}

READ_TWICE = {
    "a second model": Way(
        CHAT, b'{"model": "fake-small", "messages": [{"role": "user", "content": "hi"}], "model": "fake-big"}', JSON, UNREADABLE
    ),
    "a second model, escaped": Way(
        CHAT, b'{"model": "fake-small", "messages": [{"role": "user", "content": "hi"}], "mod\\u0065l": "fake-big"}', JSON, UNREADABLE
    ),
    "as text": Way(CHAT, IN_BYTES, {"content-type": "text/plain"}, OF_ANOTHER_TYPE),
    "as nothing": Way(CHAT, IN_BYTES),
    "as a form": Way(CHAT, b"model=fake-big", {"content-type": "application/x-www-form-urlencoded"}, OF_ANOTHER_TYPE, served=None),
    "compressed": Way(CHAT, gzip.compress(IN_BYTES), {**JSON, "content-encoding": "gzip"}, COMPRESSED, served=None),
    "in UTF-16": Way(CHAT, IN_BYTES.decode().encode("utf-16"), JSON, UNREADABLE, served=None),
    "with a mark": Way(CHAT, b"\xef\xbb\xbf" + IN_BYTES, JSON, UNREADABLE, served=None),
}

NOT_FOR_CALLERS = (400, "request_field_not_allowed")

ROUTING = {
    "a stored prompt": Way(CHAT, chat(prompt_id="of-the-big-one"), refused=NOT_FOR_CALLERS),
    "another provider": Way(CHAT, chat(custom_llm_provider="anthropic"), refused=NOT_FOR_CALLERS, served=SMALL),
    "another address": Way(CHAT, chat(api_base="http://127.0.0.1:9"), refused=NOT_FOR_CALLERS, served=None),
    "another key": Way(CHAT, chat(api_key="sk-other"), refused=NOT_FOR_CALLERS, served=None),
    "other headers": Way(CHAT, chat(extra_headers={"x": "y"}), refused=NOT_FOR_CALLERS, served=SMALL),
    "a list of models": Way(CHAT, chat(model_list=[{"model_name": "fake-small"}]), refused=NOT_FOR_CALLERS, served=None),
    "parameters of a deployment": Way(CHAT, chat(litellm_params={"model": "openai/big-upstream"}), refused=NOT_FOR_CALLERS, served=SMALL),
    "an answer made up": Way(CHAT, chat(mock_response="made up"), refused=NOT_FOR_CALLERS, served=SMALL),
    "a router of one's own": Way(
        CHAT,
        chat(user_config={"model_list": [{"model_name": "fake-small", "litellm_params": {"model": "openai/big-upstream"}}]}),
        refused=NOT_FOR_CALLERS,
        served=None,
    ),
}

NO_OPERATION = {
    "a question to documents": Way("/v1/rag/query", chat(model="fake-big", retrieval_config={}), refused=UNKNOWN, served=None),
    "a request to transform": Way(
        "/utils/transform_request", {"call_type": "completion", "request_body": chat(model="fake-big")}, refused=UNKNOWN, served="fake-big"
    ),
    "speech, by way of a provider": Way("/azure_speech/synthesize", b"hi", refused=UNKNOWN, served=None),
    "a transcription, by way of one": Way("/transcribe/StartTranscriptionJob", {"Media": {}}, refused=UNKNOWN, served=None),
    "a passage to a provider": Way("/openai_passthrough/v1/anything", chat(), refused=UNKNOWN, served=None),
    "an agent": Way("/a2a/agent", {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}, refused=UNKNOWN, served=None),
    "a tool": Way("/mcp-rest/tools/call", {"name": "t", "arguments": {}}, refused=UNKNOWN, served=None),
    "a new model": Way("/model/new", {"model_name": "fake-small", "litellm_params": {"model": "openai/x"}}, refused=UNKNOWN, served=None),
    "a new key": Way("/key/generate", {"models": ["fake-big"]}, refused=UNKNOWN, served=None),
}

NO_MODEL = {
    "none": Way(CHAT, {"messages": ASKED}, refused=NAMELESS, served=None),
    "null": Way(CHAT, chat(model=None), refused=NAMELESS, served=None),
    "none, for an image": Way("/v1/images/generations", {"prompt": "hi"}, refused=NAMELESS, served=None),
    "a stored prompt": Way("/v1/responses", {"prompt": {"id": "p"}, "input": "hi"}, refused=NAMELESS, served=None),
}

TOOLS = {
    "of an MCP server": Way(
        "/mcp",
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}},
        {"accept": "application/json, text/event-stream"},
        refused=(403, "tool_not_allowed"),
        served="User not allowed to call this tool",
    ),
    "of LiteLLM's own servers": Way(
        "/v1/responses",
        {"model": "fake-small", "input": "hi", "tools": [{"type": "mcp", "server_url": "litellm_proxy", "server_label": "l"}]},
        refused=(403, "tool_not_allowed"),
        served=SMALL,
    ),
    "of the provider": Way(
        "/v1/responses",
        {"model": "fake-small", "input": "hi", "tools": [{"type": "web_search"}]},
        refused=(403, "tool_not_allowed"),
        served=SMALL,
    ),
}

AMBIGUOUS = (400, "ambiguous_path")

PATHS = {
    "dots": Way("/openai/deployments/fake-small/..%2Ffake-big/chat/completions", chat(), refused=AMBIGUOUS, served=None),
    "an encoded slash": Way("/openai/deployments/fake-small%2F..%2Ffake-big/chat/completions", chat(), refused=AMBIGUOUS, served=None),
    "two slashes": Way("/v1//chat/completions", chat(model="fake-big"), refused=AMBIGUOUS, served=None),
    "a slash at the end": Way(f"{CHAT}/", chat(model="fake-big"), served=None),
    "another method": Way("/openai_passthrough/v1/chat/completions", chat(), refused=UNKNOWN, served=None, method="PUT"),
}

GROUPS = {
    "path": PATHS,
    "routing": ROUTING,
    "body": THE_BODY,
    "name": ANOTHER_NAME,
    "target": THE_TARGET,
    "fallback": FALLBACKS,
    "nested": NESTED,
    "read twice": READ_TWICE,
    "no operation": NO_OPERATION,
    "no model": NO_MODEL,
    "tool": TOOLS,
}
