"""What an LLM request asks for: the one object that every layer reads it from."""

from typing import Final, Literal, TypeAlias

import msgspec

ApiDialect: TypeAlias = Literal["openai", "anthropic", "gemini", "bedrock", "rerank", "mcp", "other"]

UNLISTED: Final = "unlisted"
"""The operation of a request whose route is in no table: what it names is looked for where most APIs name it."""


class LLMCall(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for, read once and strictly. What was read goes on byte for byte.

    For a WebSocket it is what the handshake asks for; its frames are held against the same rules as they come.

    Attributes:
        dialect: Whose API it is.
        operation: What is asked for, as the table of operations names it: "chat", "embeddings", "mcp".
        models: Every model that it names, wherever it does, each once: the body's, the path's, the query's, a header's, fallbacks. Whoever
            may not use all of them may not make the request.
        needs_model: Whether the operation runs a model.
        leaves_choice: Whether it does, and nothing where the API looks for the model names one: whoever is behind chooses, whatever
            fallbacks or headers say.
        max_output_tokens: The largest ceiling that it names for what is generated, in tokens; None where it names none.
        choices: How many answers to each input it asks for.
        streaming: Whether it asks for a stream.
        tools: What it has run at the provider or at an MCP server, each once and sorted: an MCP tool's name, the type of a provider's own
            tool ("web_search"), "prompt:<name>", "resource:<uri>".
        functions: Names of the functions that it declares, which the caller runs himself.
        end_user: Whom the caller says that it is for. A label, never an identity.
    """

    dialect: ApiDialect
    operation: str
    models: tuple[str, ...] = ()
    needs_model: bool = True
    leaves_choice: bool = False
    max_output_tokens: int | None = None
    choices: int = 1
    streaming: bool = False
    tools: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    end_user: str | None = None
