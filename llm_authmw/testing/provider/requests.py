"""The requests that the mock understands: the fields that it looks at, of those that the real APIs take."""

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Part(msgspec.Struct):
    """One part of a content; only some types have a text."""

    type: str
    text: str = ""


class Message(msgspec.Struct):
    """One message, or another item of a conversation, which then has no content."""

    role: str = ""
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """What a stream of chat chunks holds besides the answer."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """`POST /v1/chat/completions`."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None


class ResponsesRequest(msgspec.Struct):
    """`POST /v1/responses`."""

    model: str
    input: str | list[Message]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    metadata: dict[str, str] | None = None


class EmbeddingsRequest(msgspec.Struct):
    """`POST /v1/embeddings`: one input or several, each a text or a list of tokens."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: Count = 8
    encoding_format: str = "float"


class MessagesRequest(msgspec.Struct):
    """`POST /v1/messages`."""

    model: str
    messages: list[Message]
    max_tokens: Count
    system: str | list[Part] | None = None
    stream: bool | None = None
