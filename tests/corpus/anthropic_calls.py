"""Every call of the Anthropic SDK that reaches a model or carries a body, and those that look at what such a call left."""

from typing import Any, Final

from tests.corpus.recorder import Calls

ASKED: Final = [{"role": "user", "content": "Say hi, “please”."}]
SMALL: Final = "claude-haiku-5"
LARGE: Final = "claude-sonnet-5"
WEATHER: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def _read(stream: Any) -> None:
    with stream as events:
        for _ in events:
            pass


MESSAGES: Final[Calls] = {
    "messages": lambda c: c.messages.create(model=SMALL, max_tokens=64, messages=ASKED),
    "messages.stream": lambda c: _read(c.messages.create(model=SMALL, max_tokens=64, messages=ASKED, stream=True)),
    "messages.tools": lambda c: c.messages.create(
        model=SMALL,
        max_tokens=64,
        messages=ASKED,
        tools=[{"name": "get_weather", "input_schema": WEATHER}],
        tool_choice={"type": "tool", "name": "get_weather"},
    ),
    "messages.provider_tools": lambda c: c.messages.create(
        model=LARGE,
        max_tokens=64,
        messages=ASKED,
        tools=[
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "code_execution_20250825", "name": "code_execution"},
        ],
    ),
    "messages.cache": lambda c: c.messages.create(
        model=LARGE,
        max_tokens=64,
        system=[{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                    {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}},
                ],
            }
        ],
    ),
    "messages.thinking": lambda c: c.messages.create(
        model=LARGE, max_tokens=4096, messages=ASKED, thinking={"type": "enabled", "budget_tokens": 1024}, metadata={"user_id": "u-1"}
    ),
    "messages.tool_answer": lambda c: c.messages.create(
        model=SMALL,
        max_tokens=64,
        messages=[
            *ASKED,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t_1", "name": "get_weather", "input": {"city": "Ulm"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t_1", "content": "rain"}]},
        ],
    ),
    "messages.count": lambda c: c.messages.count_tokens(model=SMALL, messages=ASKED),
}

MORE: Final[Calls] = {
    "messages.beta": lambda c: c.beta.messages.create(
        model=LARGE,
        max_tokens=64,
        messages=ASKED,
        betas=["mcp-client-2025-11-20"],
        mcp_servers=[{"type": "url", "url": "https://mcp.example.com", "name": "docs"}],
        tools=[{"type": "mcp_toolset", "mcp_server_name": "docs"}],
    ),
    "messages.beta.fallbacks": lambda c: c.beta.messages.create(model=LARGE, max_tokens=64, messages=ASKED, fallbacks=[{"model": SMALL}]),
    "messages.batch": lambda c: c.messages.batches.create(
        requests=[
            {"custom_id": "1", "params": {"model": SMALL, "max_tokens": 64, "messages": ASKED}},
            {"custom_id": "2", "params": {"model": LARGE, "max_tokens": 128, "messages": ASKED}},
        ]
    ),
    "messages.batch.list": lambda c: c.messages.batches.list(limit=2),
    "messages.batch.retrieve": lambda c: c.messages.batches.retrieve("msgbatch_1"),
    "messages.batch.cancel": lambda c: c.messages.batches.cancel("msgbatch_1"),
    "messages.batch.delete": lambda c: c.messages.batches.delete("msgbatch_1"),
    "files.upload": lambda c: c.files.upload(file=("a.txt", b"hi", "text/plain")),
    "files.list": lambda c: c.files.list(),
    "files.retrieve": lambda c: c.files.retrieve_metadata("file_1"),
    "files.content": lambda c: c.files.download("file_1"),
    "files.delete": lambda c: c.files.delete("file_1"),
    "models.list": lambda c: c.models.list(),
    "models.retrieve": lambda c: c.models.retrieve(SMALL),
    "agents.create": lambda c: c.beta.agents.create(model=LARGE, name="a"),
    "dreams.create": lambda c: c.beta.dreams.create(model=LARGE, inputs=[]),
}

HOSTED: Final[Calls] = {name: call for name, call in MESSAGES.items() if name in {"messages", "messages.stream", "messages.thinking"}}
