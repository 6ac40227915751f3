"""What each recorded request asks for, written by hand: `file/name` of the shape, and the call that the lens is to read from it."""

from typing import Final

from llm_authmw.call import UNLISTED, LLMCall

SMALL: Final = "gpt-4o-mini"
LARGE: Final = "gpt-4o"
HAIKU: Final = "claude-haiku-5"
SONNET: Final = "claude-sonnet-5"


def _gpt(
    operation: str,
    *models: str,
    needs_model: bool = True,
    max_output_tokens: int | None = None,
    choices: int = 1,
    streaming: bool = False,
    tools: tuple[str, ...] = (),
    functions: tuple[str, ...] = (),
    end_user: str | None = None,
) -> LLMCall:
    return LLMCall(
        dialect="openai",
        operation=operation,
        models=models,
        needs_model=needs_model,
        leaves_choice=needs_model and not models,
        max_output_tokens=max_output_tokens,
        choices=choices,
        streaming=streaming,
        tools=tools,
        functions=functions,
        end_user=end_user,
    )


def _claude(
    operation: str,
    *models: str,
    needs_model: bool = True,
    max_output_tokens: int | None = 64,
    streaming: bool = False,
    tools: tuple[str, ...] = (),
    functions: tuple[str, ...] = (),
    end_user: str | None = None,
) -> LLMCall:
    return LLMCall(
        dialect="anthropic",
        operation=operation,
        models=models,
        needs_model=needs_model,
        leaves_choice=needs_model and not models,
        max_output_tokens=max_output_tokens,
        streaming=streaming,
        tools=tools,
        functions=functions,
        end_user=end_user,
    )


def _stored(operation: str, *models: str) -> LLMCall:
    """Return what a request asks for that looks at something which is there already, or takes it away."""
    return LLMCall(dialect="openai", operation=operation, models=models, needs_model=False)


def _unlisted(*models: str, end_user: str | None = None) -> LLMCall:
    """Return what a request asks for that is in no table: whoever may use some models only is refused it."""
    return LLMCall(dialect="other", operation=UNLISTED, models=models, needs_model=False, end_user=end_user)


CHAT: Final = {
    "chat": _gpt("chat", SMALL),
    "chat.ceiling": _gpt("chat", SMALL, max_output_tokens=64, choices=3),
    "chat.old_ceiling": _gpt("chat", SMALL, max_output_tokens=16),
    "chat.stream": _gpt("chat", SMALL, streaming=True),
    "chat.tools": _gpt("chat", SMALL, functions=("get_weather",)),
    "chat.tool_answer": _gpt("chat", SMALL),
    "chat.functions": _gpt("chat", SMALL, functions=("get_weather",)),
    "chat.custom_tool": _gpt("chat", SMALL, functions=("shell",)),
    "chat.json_schema": _gpt("chat", SMALL),
    "chat.parse": _gpt("chat", SMALL),
    "chat.image": _gpt("chat", LARGE),
    "chat.audio": _gpt("chat", "gpt-4o-audio-preview"),
    "chat.web_search": _gpt("chat", "gpt-4o-search-preview", tools=("web_search",)),
    "chat.end_user": _gpt("chat", SMALL, end_user="u-1"),
    "chat.safety_identifier": _gpt("chat", SMALL, end_user="s-1"),
    "chat.prediction": _gpt("chat", SMALL),
    "chat.extra_body": _gpt("chat", SMALL, LARGE),
    "chat.extra_query": _gpt("chat", LARGE, SMALL),
    "chat.extra_headers": _gpt("chat", LARGE, SMALL),
    "chat.stored": _stored("chat"),
    "chat.stored.list": _stored("chat", SMALL),
    "chat.stored.update": _unlisted(),
    "chat.stored.delete": _stored("chat"),
    "completions": _gpt("completions", "gpt-3.5-turbo-instruct", max_output_tokens=32, choices=4),
    "completions.stream": _gpt("completions", "gpt-3.5-turbo-instruct", streaming=True),
}

RESPONSES: Final = {
    "responses": _gpt("responses", SMALL),
    "responses.items": _gpt("responses", SMALL, max_output_tokens=256),
    "responses.stream": _gpt("responses", SMALL, streaming=True),
    "responses.functions": _gpt("responses", SMALL, functions=("get_weather",)),
    "responses.provider_tools": _gpt(
        "responses", LARGE, "gpt-image-1", tools=("code_interpreter", "file_search", "image_generation", "web_search")
    ),
    "responses.mcp": _gpt("responses", LARGE, tools=("mcp:https://mcp.example.com",)),
    "responses.background": _gpt("responses", "o3"),
    "responses.previous": _gpt("responses", SMALL),
    "responses.conversation": _gpt("responses", SMALL, end_user="u-1"),
    "responses.stored_prompt": _gpt("responses"),
    "responses.parse": _gpt("responses", SMALL),
    "responses.compact": _gpt("responses", SMALL),
    "responses.count": _gpt("count_tokens", SMALL),
    "responses.stored": _stored("responses"),
    "responses.stored.resumed": _stored("responses"),
    "responses.stored.items": _stored("responses"),
    "responses.stored.cancel": _stored("responses"),
    "responses.stored.delete": _stored("responses"),
    "conversations.create": _unlisted(),
    "decisions": _gpt("decisions", SMALL),
}

MEDIA: Final = {
    "embeddings": _gpt("embeddings", "text-embedding-3-small"),
    "embeddings.list": _gpt("embeddings", "text-embedding-3-large", end_user="u-1"),
    "embeddings.tokens": _gpt("embeddings", "text-embedding-3-small"),
    "moderations": _gpt("moderations", "omni-moderation-latest"),
    "moderations.default": _gpt("moderations"),
    "images.generate": _gpt("images", "gpt-image-1", choices=2, end_user="u-1"),
    "images.generate.stream": _gpt("images", "gpt-image-1", streaming=True),
    "images.generate.default": _gpt("images"),
    "images.edit": _gpt("images", "gpt-image-1"),
    "images.variation": _gpt("images", "dall-e-2"),
    "audio.speech": _gpt("audio.speech", "gpt-4o-mini-tts"),
    "audio.transcription": _gpt("audio.transcriptions", "whisper-1"),
    "audio.transcription.stream": _gpt("audio.transcriptions", "gpt-4o-transcribe", streaming=True),
    "audio.translation": _gpt("audio.translations", "whisper-1"),
    "videos.create": _gpt("videos", "sora-2"),
    "videos.create.default": _gpt("videos"),
    "videos.remix": _gpt("videos"),
    "videos.content": _stored("videos"),
}

LATER: Final = {
    "files.create.batch": _gpt("files", SMALL, "text-embedding-3-small", needs_model=False),
    "files.create.user_data": _stored("files"),
    "files.list": _stored("files"),
    "files.retrieve": _stored("files"),
    "files.content": _stored("files"),
    "files.delete": _stored("files"),
    "uploads.create": _gpt("uploads"),
    "uploads.part": _gpt("uploads"),
    "uploads.complete": _stored("uploads"),
    "batches.create": _stored("batches"),
    "batches.list": _stored("batches"),
    "batches.retrieve": _stored("batches"),
    "batches.cancel": _stored("batches"),
    "fine_tuning.create": _gpt("fine_tuning", "gpt-4o-mini-2024-07-18"),
    "fine_tuning.list": _stored("fine_tuning"),
    "fine_tuning.grader": _unlisted(),
    "evals.create": _unlisted(),
    "evals.run": _unlisted(),
    "vector_stores.create": _stored("vector_stores"),
    "vector_stores.search": _stored("vector_stores"),
    "containers.create": _unlisted(),
    "models.list": _stored("models"),
    "models.retrieve": _stored("models", SMALL),
    "models.delete": _stored("models", "ft:gpt-4o-mini:acme::1"),
}

SESSIONS: Final = {
    "realtime.client_secret": _gpt("realtime", "gpt-realtime", functions=("f",)),
    "realtime.client_secret.transcription": _gpt("realtime", "gpt-4o-transcribe"),
    "realtime.call": _gpt("realtime", "gpt-realtime"),
    "realtime.call.accept": _gpt("realtime", "gpt-realtime"),
    "realtime.call.hangup": _stored("realtime"),
    "realtime.session": _gpt("realtime", "gpt-4o-realtime-preview"),
    "realtime.transcription_session": _gpt("realtime", "gpt-4o-transcribe"),
    "realtime.connect": _gpt("realtime", "gpt-realtime"),
    "responses.connect": _gpt("responses"),
    "assistants.create": _gpt("assistants", LARGE, tools=("code_interpreter", "file_search")),
    "assistants.update": _unlisted(SMALL),
    "threads.create": _stored("assistants"),
    "threads.message": _stored("assistants"),
    "threads.run": _gpt("assistants", LARGE, max_output_tokens=64),
    "threads.run.default": _gpt("assistants"),
    "threads.create_and_run": _gpt("assistants", LARGE),
    "agents.create": _unlisted(LARGE),
    "chatkit.session": _unlisted(end_user="u-1"),
}

AZURE: Final = {
    "chat": _gpt("chat", "my-gpt-4o"),
    "chat.stream": _gpt("chat", "my-gpt-4o", streaming=True),
    "completions": _gpt("completions", "my-instruct"),
    "embeddings": _gpt("embeddings", "my-embedding"),
    "responses": _gpt("responses", "my-gpt-4o"),
    "images.generate": _gpt("images", "my-image"),
    "images.edit": _gpt("images", "my-image"),
    "audio.transcription": _gpt("audio.transcriptions", "my-whisper"),
    "audio.speech": _gpt("audio.speech", "my-tts"),
    "batches.create": _stored("batches"),
    "models.list": _stored("models"),
}

ANTHROPIC: Final = {
    "messages": _claude("messages", HAIKU),
    "messages.stream": _claude("messages", HAIKU, streaming=True),
    "messages.tools": _claude("messages", HAIKU, functions=("get_weather",)),
    "messages.provider_tools": _claude("messages", SONNET, tools=("code_execution", "web_search"), functions=("bash",)),
    "messages.cache": _claude("messages", SONNET),
    "messages.thinking": _claude("messages", SONNET, max_output_tokens=4096, end_user="u-1"),
    "messages.tool_answer": _claude("messages", HAIKU),
    "messages.count": _claude("count_tokens", HAIKU, max_output_tokens=None),
    "messages.beta": _claude("messages", SONNET, tools=("mcp:https://mcp.example.com",)),
    "messages.beta.fallbacks": _claude("messages", SONNET, HAIKU),
    "messages.batch": _claude("batches", HAIKU, SONNET, max_output_tokens=128),
    "messages.batch.list": _claude("batches", needs_model=False, max_output_tokens=None),
    "messages.batch.retrieve": _claude("batches", needs_model=False, max_output_tokens=None),
    "messages.batch.cancel": _claude("batches", needs_model=False, max_output_tokens=None),
    "messages.batch.delete": _claude("batches", needs_model=False, max_output_tokens=None),
    "files.upload": _stored("files"),
    "files.list": _stored("files"),
    "files.retrieve": _stored("files"),
    "files.content": _stored("files"),
    "files.delete": _stored("files"),
    "models.list": _stored("models"),
    "models.retrieve": _stored("models", HAIKU),
    "agents.create": _unlisted(SONNET),
    "dreams.create": _unlisted(SONNET),
}

HOSTED: Final = {
    "messages": _claude("messages", HAIKU),
    "messages.stream": _claude("messages", HAIKU, streaming=True),
    "messages.thinking": _claude("messages", SONNET, max_output_tokens=4096, end_user="u-1"),
}


def _on_bedrock(call: LLMCall) -> LLMCall:
    return LLMCall(
        dialect="bedrock",
        operation="invoke",
        models=call.models,
        max_output_tokens=call.max_output_tokens,
        streaming=call.streaming,
        end_user=call.end_user,
    )


EXPECTED: Final = {
    "openai": {**CHAT, **RESPONSES, **MEDIA, **LATER, **SESSIONS},
    "azure": AZURE,
    "anthropic": ANTHROPIC,
    "anthropic_foundry": HOSTED,
    "anthropic_vertex": HOSTED,
    "anthropic_bedrock": {name: _on_bedrock(call) for name, call in HOSTED.items()},
}
"""The call of each shape, by file and name."""

REFUSED: Final = {"openai/realtime.call.sdp": (415, "content_type_not_accepted")}
"""Shapes that are not read at all: status and reason."""

FRAMES: Final = {
    "openai/realtime.connect": [_gpt("realtime", "gpt-realtime-mini", needs_model=False)],
    "openai/responses.connect": [_gpt("responses", SMALL, needs_model=False, max_output_tokens=64)],
}
"""What those frames of a socket ask for that name something."""
