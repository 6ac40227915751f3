"""What an answer says that it used, in our own counts: each API's own way of counting, made one.

OpenAI's parts are parts of their whole. Anthropic and Bedrock count the tokens of caches apart from the input, Gemini thoughts apart
from the output, and xAI reasoning: they are added up. Whoever charges by these counts never charges less than was used.
"""

import math
from typing import Final

from llm_authmw.call import Usage
from llm_authmw.llm.usage_fields import Counted, Details, InvocationMetrics, Modality, UsageMetadata

_NONE: Final = Details()


def usage_of(counted: Counted, *, generates: bool = True) -> Usage:
    """Return what an object `usage` says.

    Args:
        counted: The object; of a stream, all that its events have said.
        generates: Whether the operation has tokens of its answer. An embedding has none, and then the sum is the input.

    Returns:
        The usage, `complete` if both directions are known.

    Raises:
        InvalidValueError: a sum is beyond all sense.
    """
    if counted.tokens is not None or counted.billed_units is not None:
        return _from_cohere(counted)
    if counted.inputTokens is not None or counted.outputTokens is not None:
        return _from_converse(counted)
    if counted.input_tokens is not None or counted.output_tokens is not None:
        return _from_input_and_output(counted)
    if counted.prompt_tokens is None and counted.completion_tokens is None and counted.seconds is not None:
        return Usage(seconds=math.ceil(counted.seconds), complete=True)
    return _from_prompt_and_completion(counted, generates=generates)


def usage_of_metadata(counted: UsageMetadata) -> Usage:
    """Return what Gemini's `usageMetadata` says. A count that is zero is left out there; a prompt never is.

    Raises:
        InvalidValueError: a sum is beyond all sense.
    """
    spoken = counted.candidates_token_count or counted.response_token_count or 0
    thought = counted.thoughts_token_count or 0
    return Usage(
        input=(counted.prompt_token_count or 0) + (counted.tool_use_prompt_token_count or 0),
        cached_input=counted.cached_content_token_count or 0,
        audio_input=_of(counted.prompt_tokens_details, "AUDIO"),
        image_input=_of(counted.prompt_tokens_details, "IMAGE"),
        output=spoken + thought,
        reasoning=thought,
        audio_output=_of(counted.candidates_tokens_details, "AUDIO"),
        image_output=_of(counted.candidates_tokens_details, "IMAGE"),
        total=counted.total_token_count,
        complete=counted.prompt_token_count is not None,
    )


def usage_of_metrics(counted: InvocationMetrics) -> Usage:
    """Return what Bedrock says of an invocation, whichever the model.

    Raises:
        InvalidValueError: a sum is beyond all sense.
    """
    cached, written = counted.cache_read_input_token_count or 0, counted.cache_write_input_token_count or 0
    return Usage(
        input=(counted.input_token_count or 0) + cached + written,
        cached_input=cached,
        cache_write=written,
        output=counted.output_token_count or 0,
        complete=counted.input_token_count is not None and counted.output_token_count is not None,
    )


def _from_prompt_and_completion(counted: Counted, *, generates: bool) -> Usage:
    into, out = counted.prompt_tokens_details or _NONE, counted.completion_tokens_details or _NONE
    prompt, completion, total = counted.prompt_tokens, counted.completion_tokens, counted.total_tokens
    if prompt is None and not generates:
        prompt = total
    if completion is None and not generates:
        completion = 0
    if completion is None and prompt is not None and total is not None and total >= prompt:
        completion = total - prompt
    reasoning = out.reasoning_tokens or 0
    if reasoning and completion is not None and total == (prompt or 0) + completion + reasoning:
        completion += reasoning
    return Usage(
        input=prompt or 0,
        cached_input=into.cached_tokens or 0,
        cache_write=into.cache_write_tokens or 0,
        audio_input=into.audio_tokens or 0,
        image_input=into.image_tokens or 0,
        output=completion or 0,
        reasoning=reasoning,
        audio_output=out.audio_tokens or 0,
        image_output=out.image_tokens or 0,
        total=total,
        complete=prompt is not None and completion is not None,
    )


def _from_input_and_output(counted: Counted) -> Usage:
    """Return what OpenAI's Responses, audio and images say, and Anthropic's messages: they share two names, and no other."""
    into = counted.input_tokens_details or counted.input_token_details or _NONE
    out = counted.output_tokens_details or counted.output_token_details or _NONE
    read, written = counted.cache_read_input_tokens or 0, counted.cache_creation_input_tokens or 0
    hour = None if counted.cache_creation is None else counted.cache_creation.ephemeral_1h_input_tokens
    searches = None if counted.server_tool_use is None else counted.server_tool_use.web_search_requests
    return Usage(
        input=(counted.input_tokens or 0) + read + written,
        cached_input=read or into.cached_tokens or 0,
        cache_write=written or into.cache_write_tokens or 0,
        cache_write_1h=hour or 0,
        audio_input=into.audio_tokens or 0,
        image_input=into.image_tokens or 0,
        output=counted.output_tokens or 0,
        reasoning=out.reasoning_tokens or out.thinking_tokens or 0,
        audio_output=out.audio_tokens or 0,
        image_output=out.image_tokens or 0,
        searches=searches or 0,
        total=counted.total_tokens,
        complete=counted.input_tokens is not None and counted.output_tokens is not None,
    )


def _from_converse(counted: Counted) -> Usage:
    read, written = counted.cacheReadInputTokens or 0, counted.cacheWriteInputTokens or 0
    return Usage(
        input=(counted.inputTokens or 0) + read + written,
        cached_input=read,
        cache_write=written,
        cache_write_1h=sum(detail.inputTokens or 0 for detail in counted.cacheDetails or () if detail.ttl == "1h"),
        output=counted.outputTokens or 0,
        total=counted.totalTokens,
        complete=counted.inputTokens is not None and counted.outputTokens is not None,
    )


def _from_cohere(counted: Counted) -> Usage:
    tokens, billed = counted.tokens, counted.billed_units
    searches = 0 if billed is None else billed.search_units or 0
    into = out = None
    if tokens is not None:
        into, out = tokens.input_tokens, tokens.output_tokens
    if billed is not None:
        # What is billed is less than all tokens; where both are said, all of them count.
        into = into if into is not None else billed.input_tokens if billed.input_tokens is not None else billed.total_tokens
        out = out if out is not None else billed.output_tokens
    return Usage(input=into or 0, output=out or 0, searches=searches, complete=into is not None or searches > 0)


def _of(details: list[Modality] | None, modality: str) -> int:
    return sum(detail.token_count or 0 for detail in details or () if detail.modality == modality)
