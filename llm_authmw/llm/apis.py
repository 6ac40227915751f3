"""The built-in table of operations: the routes of the LLM APIs, as data.

Two rules keep it safe. A route with a body whose last segment may be anything is read as JSON, so that a model in it counts all the
same. And what hands on bytes that nobody sees whole, or runs a model that was chosen earlier, needs a model, though it cannot name
one: who may use some models only may not use it.
"""

from typing import Final

from llm_authmw.llm.operation import Operation


def _deployed(*routes: str) -> tuple[str, ...]:
    """Return routes, and each as Azure and the first OpenAI API have it: below the model that it is sent to."""
    return tuple(f"{below}{route}" for below in ("", "deployments/{model...}/", "engines/{model...}/") for route in routes)


# As members of the body, and within what a session or an answer is to be.
_IN_SESSIONS: Final = tuple(
    f"{within}{member}" for within in ("session.", "response.", "") for member in ("max_output_tokens", "max_response_output_tokens")
)
# Bedrock refuses a member that the model does not have, so whichever is there is the right one.
_OF_ITS_MODELS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_gen_len",
    "max_tokens_to_sample",
    "maxTokens",
    "textGenerationConfig.maxTokenCount",
    "inferenceConfig.maxTokens",
    "inferenceConfig.max_new_tokens",
)

_OPENAI: Final = (
    Operation(name="chat", dialect="openai", routes=_deployed("chat/completions"), ceilings=("max_completion_tokens", "max_tokens")),
    Operation(
        name="chat",
        dialect="openai",
        routes=("GET chat/completions", "GET,DELETE chat/completions/*", "GET chat/completions/*/messages"),
        body="none",
        needs_model=False,
    ),
    Operation(name="completions", dialect="openai", routes=_deployed("completions"), ceilings=("max_tokens",)),
    # Over a WebSocket the frames name models, and the query has to.
    Operation(
        name="responses",
        dialect="openai",
        routes=("WS responses", *_deployed("responses", "responses/compact")),
        ceilings=("max_output_tokens",),
    ),
    Operation(
        name="responses",
        dialect="openai",
        routes=("GET,DELETE responses/*", "GET responses/*/input_items", "responses/*/cancel"),
        body="none",
        needs_model=False,
    ),
    Operation(name="count_tokens", dialect="openai", routes=("responses/input_tokens", "utils/token_counter")),
    Operation(name="decisions", dialect="openai", routes=("decisions",)),
    Operation(name="embeddings", dialect="openai", routes=_deployed("embeddings")),
    Operation(name="moderations", dialect="openai", routes=_deployed("moderations")),
    Operation(name="images", dialect="openai", routes=_deployed("images/generations")),
    Operation(name="images", dialect="openai", routes=_deployed("images/edits", "images/variations"), body="multipart"),
    Operation(name="audio.speech", dialect="openai", routes=_deployed("audio/speech")),
    Operation(name="audio.transcriptions", dialect="openai", routes=_deployed("audio/transcriptions"), body="multipart"),
    Operation(name="audio.translations", dialect="openai", routes=_deployed("audio/translations"), body="multipart"),
    Operation(
        name="videos",
        dialect="openai",
        routes=("videos", "videos/characters", "videos/edits", "videos/extensions", "videos/*/remix"),
        body="multipart",
    ),
    Operation(
        name="videos",
        dialect="openai",
        routes=("GET videos", "GET,DELETE videos/*", "GET videos/*/content", "GET videos/characters/*"),
        body="none",
        needs_model=False,
    ),
    Operation(
        name="realtime",
        dialect="openai",
        routes=(
            "WS realtime",
            "WS live/sessions",
            "realtime/sessions",
            "realtime/client_secrets",
            "realtime/transcription_sessions",
            "realtime/translations/client_secrets",
            "realtime/calls/*/accept",
        ),
        ceilings=_IN_SESSIONS,
    ),
    Operation(name="realtime", dialect="openai", routes=("realtime/calls",), body="multipart", ceilings=_IN_SESSIONS),
    Operation(
        name="realtime",
        dialect="openai",
        routes=("realtime/calls/*/hangup", "realtime/calls/*/refer", "realtime/calls/*/reject"),
        body="none",
        needs_model=False,
    ),
    Operation(
        name="assistants",
        dialect="openai",
        routes=("assistants", "threads/runs", "threads/*/runs"),
        ceilings=("max_completion_tokens",),
    ),
    Operation(
        name="assistants",
        dialect="openai",
        routes=(
            "threads",
            "threads/*/messages",
            "threads/*/messages/*",
            "threads/*/runs/*",
            "threads/*/runs/*/submit_tool_outputs",
        ),
        needs_model=False,
    ),
    Operation(
        name="assistants",
        dialect="openai",
        routes=(
            "GET assistants",
            "GET,DELETE assistants/*",
            "GET,DELETE threads/*",
            "GET threads/*/messages",
            "GET,DELETE threads/*/messages/*",
            "GET threads/*/runs",
            "GET threads/*/runs/*",
            "GET threads/*/runs/*/steps",
            "GET threads/*/runs/*/steps/*",
            "threads/*/runs/*/cancel",
        ),
        body="none",
        needs_model=False,
    ),
    Operation(name="fine_tuning", dialect="openai", routes=("fine_tuning/jobs",)),
    Operation(
        name="fine_tuning",
        dialect="openai",
        routes=(
            "GET fine_tuning/jobs",
            "GET fine_tuning/jobs/*",
            "GET fine_tuning/jobs/*/events",
            "GET fine_tuning/jobs/*/checkpoints",
            "fine_tuning/jobs/*/cancel",
            "fine_tuning/jobs/*/pause",
            "fine_tuning/jobs/*/resume",
        ),
        body="none",
        needs_model=False,
    ),
    Operation(name="models", dialect="openai", routes=("GET models", "GET,DELETE models/{model...}"), body="none", needs_model=False),
)

_STORED: Final = (
    # The lines of a file for a batch name models, and are read as it is uploaded.
    Operation(name="files", dialect="openai", routes=("files",), body="multipart", needs_model=False),
    Operation(
        name="files", dialect="openai", routes=("GET files", "GET,DELETE files/*", "GET files/*/content"), body="none", needs_model=False
    ),
    # A part may hold lines of a batch, cut anywhere.
    Operation(name="uploads", dialect="openai", routes=("uploads",)),
    Operation(name="uploads", dialect="openai", routes=("uploads/*/parts",), body="multipart"),
    Operation(name="uploads", dialect="openai", routes=("uploads/*/complete", "uploads/*/cancel"), needs_model=False),
    Operation(name="batches", dialect="openai", routes=("batches",), needs_model=False),
    Operation(
        name="batches", dialect="openai", routes=("GET batches", "GET batches/*", "batches/*/cancel"), body="none", needs_model=False
    ),
    Operation(
        name="vector_stores",
        dialect="openai",
        routes=(
            "vector_stores",
            "vector_stores/*",
            "vector_stores/*/search",
            "vector_stores/*/files",
            "vector_stores/*/files/*",
            "vector_stores/*/file_batches",
        ),
        needs_model=False,
    ),
    Operation(
        name="vector_stores",
        dialect="openai",
        routes=(
            "GET vector_stores",
            "GET,DELETE vector_stores/*",
            "GET vector_stores/*/files",
            "GET,DELETE vector_stores/*/files/*",
            "GET vector_stores/*/files/*/content",
            "GET vector_stores/*/file_batches/*",
            "GET vector_stores/*/file_batches/*/files",
            "vector_stores/*/file_batches/*/cancel",
        ),
        body="none",
        needs_model=False,
    ),
)

_ANTHROPIC: Final = (
    Operation(name="messages", dialect="anthropic", routes=("messages", "publishers/anthropic/models/{model...}:rawPredict")),
    Operation(name="messages", dialect="anthropic", routes=("publishers/anthropic/models/{model...}:streamRawPredict",), streams=True),
    Operation(
        # On Vertex AI the body names the model that the tokens are counted for.
        name="count_tokens",
        dialect="anthropic",
        routes=("messages/count_tokens", "publishers/anthropic/models/count-tokens:rawPredict"),
    ),
    Operation(name="batches", dialect="anthropic", routes=("messages/batches",)),
    Operation(
        name="batches",
        dialect="anthropic",
        routes=(
            "GET messages/batches",
            "GET,DELETE messages/batches/*",
            "GET messages/batches/*/results",
            "messages/batches/*/cancel",
        ),
        body="none",
        needs_model=False,
    ),
    Operation(name="completions", dialect="anthropic", routes=("v1/complete",), ceilings=("max_tokens_to_sample",)),
)

_GOOGLE: Final = (
    Operation(name="generate_content", dialect="gemini", routes=("models/{model...}:generateContent",)),
    Operation(name="generate_content", dialect="gemini", routes=("models/{model...}:streamGenerateContent",), streams=True),
    Operation(
        name="embed_content",
        dialect="gemini",
        routes=(
            "models/{model...}:embedContent",
            "models/{model...}:batchEmbedContents",
            "models/{model...}:asyncBatchEmbedContent",
        ),
    ),
    Operation(name="count_tokens", dialect="gemini", routes=("models/{model...}:countTokens", "models/{model...}:computeTokens")),
    Operation(name="batches", dialect="gemini", routes=("models/{model...}:batchGenerateContent",)),
    Operation(
        name="predict",
        dialect="gemini",
        routes=("models/{model...}:predict", "models/{model...}:predictLongRunning", "models/{model...}:rawPredict"),
        # Each publisher's models have another name for it, and pass over the others'.
        ceilings=(),
    ),
    Operation(name="predict", dialect="gemini", routes=("models/{model...}:streamRawPredict",), streams=True, ceilings=()),
    Operation(
        name="realtime",
        dialect="gemini",
        routes=(
            "WS google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
            "WS google.ai.generativelanguage.v1alpha.GenerativeService.BidiGenerateContent",
            "WS google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent",
            "WS google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent",
            "WS vertex_ai/live",
        ),
        ceilings=("setup.generationConfig.maxOutputTokens", "setup.generation_config.max_output_tokens"),
    ),
    # An agent is run as a model is.
    Operation(name="interactions", dialect="gemini", routes=("interactions",), model_fields=("agent",)),
    Operation(
        name="interactions",
        dialect="gemini",
        routes=("GET,DELETE interactions/*", "interactions/*/cancel"),
        body="none",
        needs_model=False,
    ),
)

_BEDROCK: Final = (
    Operation(name="invoke", dialect="bedrock", routes=("model/{model...}/invoke",), ceilings=_OF_ITS_MODELS),
    Operation(
        name="invoke",
        dialect="bedrock",
        routes=("model/{model...}/invoke-with-response-stream",),
        streams=True,
        ceilings=_OF_ITS_MODELS,
    ),
    Operation(name="invoke", dialect="bedrock", routes=("async-invoke",), model_fields=("modelId",)),
    Operation(name="converse", dialect="bedrock", routes=("model/{model...}/converse",)),
    Operation(name="converse", dialect="bedrock", routes=("model/{model...}/converse-stream",), streams=True),
    Operation(name="count_tokens", dialect="bedrock", routes=("model/{model...}/count-tokens",)),
)

_OTHERS: Final = (
    Operation(name="rerank", dialect="rerank", routes=_deployed("rerank")),
    # Cohere.
    Operation(name="chat", routes=("v1/chat", "v2/chat"), ceilings=("max_tokens",)),
    Operation(name="embeddings", routes=("embed",)),
    # Ollama, which streams unless the body says otherwise.
    Operation(name="chat", routes=("api/chat",), streams=True, ceilings=("options.num_predict",)),
    Operation(name="completions", routes=("api/generate",), streams=True, ceilings=("options.num_predict",)),
    # vLLM.
    Operation(name="score", routes=("score",)),
    Operation(name="pooling", routes=("pooling",)),
    Operation(name="classify", routes=("classify",)),
    Operation(name="tokenize", routes=("tokenize", "detokenize")),
    # And SageMaker's and Databricks', where the path says which endpoint.
    Operation(
        name="invocations",
        routes=("invocations", "endpoints/{model}/invocations", "serving-endpoints/{model}/invocations"),
        ceilings=("max_tokens", "max_completion_tokens", "parameters.max_new_tokens"),
    ),
    # Mistral, and LiteLLM in front of it. An agent is run as a model is.
    Operation(name="chat", routes=("agents/completions",), model_fields=("agent_id",), ceilings=("max_tokens",)),
    Operation(name="ocr", routes=("ocr",)),
    # The second form is the transport that came before Streamable HTTP; the third LiteLLM's, a server's name after it.
    Operation(name="mcp", dialect="mcp", routes=("mcp", "sse/messages", "mcp/*"), body="mcp", needs_model=False),
    Operation(name="mcp", dialect="mcp", routes=("GET,DELETE mcp", "GET,DELETE mcp/*"), body="none", needs_model=False),
)

BUILT_IN: Final = _OPENAI + _STORED + _ANTHROPIC + _GOOGLE + _BEDROCK + _OTHERS
"""Every operation that is known without being told."""
