"""The OpenAI API as the mock speaks it: chat completions, responses, embeddings, models, realtime.

Each function takes a request and the digest that ids are made of, and returns the answer, or the events of its stream.
"""

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from llm_authmw.testing.provider.echo import Echo, count_tokens, digest, echo
from llm_authmw.testing.provider.requests import ChatRequest, EmbeddingsRequest, ResponsesRequest

JSON: TypeAlias = dict[str, Any]

CREATED: Final = 1_800_000_000
"""When everything was made, seconds since 1970: always the same, so that equal requests have equal answers."""
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")

_ERROR_TYPES: Final = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}


def error(status: int, message: str, code: str | None = None) -> JSON:
    """Return the body of an error."""
    return {"error": {"message": message, "type": _ERROR_TYPES.get(status, "server_error"), "param": None, "code": code}}


def model(name: str) -> JSON:
    """Return one model."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "mock"}


def models() -> JSON:
    """Return the list of models."""
    return {"object": "list", "data": [model(name) for name in MODELS]}


def chat(asked: ChatRequest, key: str, *, usage: bool) -> JSON:
    """Answer `POST /v1/chat/completions`."""
    answer = _chat_echo(asked)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
    head = {"id": f"chatcmpl-{key}", "object": "chat.completion", "created": CREATED, "model": asked.model}
    return {**head, "choices": [choice], **({"usage": _chat_usage(answer)} if usage else {})}


def chat_stream(asked: ChatRequest, key: str, *, usage: bool) -> Iterator[JSON]:
    """Answer `POST /v1/chat/completions` in chunks. The usage comes last, where the request asks for it."""
    answer = _chat_echo(asked)
    wanted = usage and asked.stream_options is not None and asked.stream_options.include_usage
    head = {"id": f"chatcmpl-{key}", "object": "chat.completion.chunk", "created": CREATED, "model": asked.model}

    def chunk(delta: JSON, finish_reason: str | None = None) -> JSON:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**head, "choices": [choice], **({"usage": None} if wanted else {})}

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    yield from (chunk({"content": word}) for word in answer.words)
    yield chunk({}, _finish_reason(answer))
    if wanted:
        yield {**head, "choices": [], "usage": _chat_usage(answer)}


def _chat_echo(asked: ChatRequest) -> Echo:
    return echo(asked.model, asked.messages, ceiling=asked.max_completion_tokens or asked.max_tokens)


def _finish_reason(answer: Echo) -> str:
    return "length" if answer.cut else "stop"


def _chat_usage(answer: Echo) -> JSON:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def respond(asked: ResponsesRequest, key: str, *, usage: bool) -> JSON:
    """Answer `POST /v1/responses`."""
    answer = _responses_echo(asked)
    status = _status(answer)
    return _response(asked, key, status, _item(key, status, _part(answer.text)), usage=_responses_usage(answer) if usage else None)


def respond_stream(asked: ResponsesRequest, key: str, *, usage: bool) -> Iterator[JSON]:
    """Answer `POST /v1/responses` in typed events. The last one carries the whole response and its usage."""
    answer = _responses_echo(asked)
    status = _status(answer)
    where = {"item_id": f"msg_{key}", "output_index": 0, "content_index": 0}
    started = _response(asked, key, "in_progress")
    whole = _part(answer.text)
    events: list[JSON] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        {"type": "response.output_item.added", "output_index": 0, "item": _item(key, "in_progress")},
        {"type": "response.content_part.added", **where, "part": _part("")},
        *({"type": "response.output_text.delta", **where, "delta": word, "logprobs": []} for word in answer.words),
        {"type": "response.output_text.done", **where, "text": answer.text, "logprobs": []},
        {"type": "response.content_part.done", **where, "part": whole},
        {"type": "response.output_item.done", "output_index": 0, "item": _item(key, status, whole)},
        {"type": f"response.{status}", "response": respond(asked, key, usage=usage)},
    ]
    yield from ({**event, "sequence_number": number} for number, event in enumerate(events))


def _responses_echo(asked: ResponsesRequest) -> Echo:
    return echo(asked.model, asked.input, instructions=asked.instructions, ceiling=asked.max_output_tokens)


def _status(answer: Echo) -> str:
    return "incomplete" if answer.cut else "completed"


def _part(text: str) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(key: str, status: str, *parts: JSON) -> JSON:
    return {"id": f"msg_{key}", "type": "message", "role": "assistant", "status": status, "content": list(parts)}


def _response(asked: ResponsesRequest, key: str, status: str, *items: JSON, usage: JSON | None = None) -> JSON:
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": list(items),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    }


def _responses_usage(answer: Echo) -> JSON:
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def embed(asked: EmbeddingsRequest, *, usage: bool) -> JSON:
    """Answer `POST /v1/embeddings` with vectors that are made of a hash of each input."""
    several = isinstance(asked.input, list) and not any(isinstance(entry, int) for entry in asked.input)
    inputs: list[Any] = list(asked.input) if several else [asked.input]
    tokens = sum(count_tokens(entry) if isinstance(entry, str) else len(entry) for entry in inputs)
    vectors = [_vector(entry, asked.dimensions) for entry in inputs]
    if asked.encoding_format == "base64":
        data: list[Any] = [base64.b64encode(struct.pack(f"<{asked.dimensions}f", *vector)).decode() for vector in vectors]
    else:
        data = vectors
    listed = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(data)]
    counted = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if usage else {}
    return {"object": "list", "data": listed, "model": asked.model, **counted}


def _vector(entry: Any, length: int) -> list[float]:
    # Multiples of 1/128, which a float32 holds exactly: both encodings give the same numbers.
    return [byte / 128 - 1 for byte in hashlib.shake_128(repr(entry).encode()).digest(length)]


def realtime_done(text: str, name: str) -> JSON:
    """Return the `response.done` event that answers one text of a realtime session, which it echoes."""
    tokens = count_tokens(text)
    key = digest(text.encode())
    content = [{"type": "output_text", "text": text}]
    item = {"id": f"item_{key}", "object": "realtime.item", "type": "message", "role": "assistant", "status": "completed"}
    usage = {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": 2 * tokens}
    response = {"id": f"resp_{key}", "object": "realtime.response", "status": "completed", "output": [{**item, "content": content}]}
    return {"type": "response.done", "event_id": f"event_{key}", "response": {**response, "model": name, "usage": usage}}
