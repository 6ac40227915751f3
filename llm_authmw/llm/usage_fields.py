"""Where the APIs put what a call used: the members of their answers that count, under their own names.

Nothing else of an answer is looked at. A count that is negative, fractional or beyond all sense makes its object unreadable, which
is not the same as zero.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from llm_authmw.call import MAX_COUNT

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None
NOTHING: Final = Raw(b"null")


class Details(msgspec.Struct, frozen=True):
    """OpenAI: parts of the tokens of one direction, under whichever name the API has for them."""

    cached_tokens: Count = None
    cache_write_tokens: Count = None
    audio_tokens: Count = None
    image_tokens: Count = None
    reasoning_tokens: Count = None
    thinking_tokens: Count = None


class CacheCreation(msgspec.Struct, frozen=True):
    """Anthropic: tokens written to a cache, by how long they are kept."""

    ephemeral_1h_input_tokens: Count = None


class ServerTools(msgspec.Struct, frozen=True):
    """Anthropic: what the provider's own tools did."""

    web_search_requests: Count = None


class CacheDetail(msgspec.Struct, frozen=True):
    """Bedrock: tokens written to a cache, by how long they are kept."""

    inputTokens: Count = None  # noqa: N815 - the API's own name
    ttl: str | None = None


class BilledUnits(msgspec.Struct, frozen=True):
    """Cohere: what is billed, where it is not all tokens."""

    search_units: Count = None
    total_tokens: Count = None
    input_tokens: Count = None
    output_tokens: Count = None


class Counted(msgspec.Struct, frozen=True):
    """The object `usage` of OpenAI's APIs, Anthropic's and Bedrock's Converse, of those that follow them, and Cohere's tokens."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    total_tokens: Count = None

    input_tokens: Count = None
    output_tokens: Count = None
    input_tokens_details: Details | None = None
    input_token_details: Details | None = None
    output_tokens_details: Details | None = None
    output_token_details: Details | None = None
    seconds: Annotated[float, Meta(ge=0, le=MAX_COUNT)] | None = None

    cache_creation_input_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation: CacheCreation | None = None
    server_tool_use: ServerTools | None = None

    inputTokens: Count = None  # noqa: N815 - the API's own name
    outputTokens: Count = None  # noqa: N815 - likewise
    totalTokens: Count = None  # noqa: N815 - likewise
    cacheReadInputTokens: Count = None  # noqa: N815 - likewise
    cacheWriteInputTokens: Count = None  # noqa: N815 - likewise
    cacheDetails: list[CacheDetail] | None = None  # noqa: N815 - likewise

    tokens: "Counted | None" = None
    billed_units: BilledUnits | None = None


class Modality(msgspec.Struct, frozen=True, rename="camel"):
    """Gemini: tokens of one modality."""

    modality: str | None = None
    token_count: Count = None


class UsageMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """Gemini: the object `usageMetadata`."""

    prompt_token_count: Count = None
    cached_content_token_count: Count = None
    candidates_token_count: Count = None
    response_token_count: Count = None
    thoughts_token_count: Count = None
    tool_use_prompt_token_count: Count = None
    total_token_count: Count = None
    prompt_tokens_details: list[Modality] | None = None
    candidates_tokens_details: list[Modality] | None = None


class InvocationMetrics(msgspec.Struct, frozen=True, rename="camel"):
    """Bedrock: what the last chunk of an invocation's stream says, and headers where there is no stream."""

    input_token_count: Count = None
    output_token_count: Count = None
    cache_read_input_token_count: Count = None
    cache_write_input_token_count: Count = None


class Answer(msgspec.Struct, frozen=True):
    """One answer or one event of a stream. What a member is differs between APIs, so each is read where it is looked for."""

    type: Raw = NOTHING
    model: Raw = NOTHING
    modelVersion: Raw = NOTHING  # noqa: N815 - the API's own name
    usage: Raw = NOTHING
    usageMetadata: Raw = NOTHING  # noqa: N815 - likewise
    metrics: Raw = msgspec.field(default=NOTHING, name="amazon-bedrock-invocationMetrics")
    meta: Raw = NOTHING
    error: Raw = NOTHING
    choices: Raw = NOTHING
    candidates: Raw = NOTHING
    message: Raw = NOTHING
    response: Raw = NOTHING
    delta: Raw = NOTHING
    output: Raw = NOTHING
    data: Raw = NOTHING
    done: Raw = NOTHING
    prompt_eval_count: Count = None
    eval_count: Count = None
    prompt_token_count: Count = None
    generation_token_count: Count = None


class Inner(msgspec.Struct, frozen=True):
    """What stands inside of an event: Anthropic's message, the response of OpenAI's Responses, Cohere's delta."""

    model: Raw = NOTHING
    usage: Raw = NOTHING
    meta: Raw = NOTHING
    error: Raw = NOTHING
    output: Raw = NOTHING
    stop_reason: Raw = NOTHING


class Grounding(msgspec.Struct, frozen=True, rename="camel"):
    """Gemini: what was searched for."""

    web_search_queries: list[Raw] | None = None


class Candidate(msgspec.Struct, frozen=True, rename="camel"):
    """Gemini: one answer."""

    grounding_metadata: Grounding | None = None


class Typed(msgspec.Struct, frozen=True):
    """Anything that says what it is."""

    type: str | None = None
