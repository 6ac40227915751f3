"""The Anthropic API as the mock speaks it: messages and models; functions as in `openai.py`."""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from llm_authmw.testing.provider.echo import Echo, echo
from llm_authmw.testing.provider.requests import MessagesRequest

JSON: TypeAlias = dict[str, Any]

CREATED: Final = "2027-01-15T08:00:00Z"
MODELS: Final = {"claude-haiku-5": "Claude Haiku 5 (mock)", "claude-sonnet-5": "Claude Sonnet 5 (mock)"}

_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error(status: int, message: str) -> JSON:
    """Return the body of an error."""
    return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}, "request_id": "req_mock"}


def model(name: str) -> JSON:
    """Return one model."""
    return {"type": "model", "id": name, "display_name": MODELS[name], "created_at": CREATED, "lifecycle": "active"}


def models() -> JSON:
    """Return the list of models."""
    names = list(MODELS)
    return {"data": [model(name) for name in names], "has_more": False, "first_id": names[0], "last_id": names[-1]}


def message(asked: MessagesRequest, key: str, *, usage: bool) -> JSON:
    """Answer `POST /v1/messages`."""
    answer = _echo(asked)
    content = [{"type": "text", "text": answer.text}]
    return _message(asked, key, content, _stop_reason(answer), _usage(answer, answer.output_tokens) if usage else None)


def message_stream(asked: MessagesRequest, key: str, *, usage: bool) -> Iterator[JSON]:
    """Answer `POST /v1/messages` in events. Usage comes with the first and, cumulative, with the last but one."""
    answer = _echo(asked)
    yield {"type": "message_start", "message": _message(asked, key, [], None, _usage(answer, 1) if usage else None)}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for word in answer.words:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield {"type": "content_block_stop", "index": 0}
    ended = {"type": "message_delta", "delta": {"stop_reason": _stop_reason(answer), "stop_sequence": None}}
    yield {**ended, **({"usage": _usage(answer, answer.output_tokens)} if usage else {})}
    yield {"type": "message_stop"}


def _echo(asked: MessagesRequest) -> Echo:
    return echo(asked.model, asked.messages, instructions=asked.system, ceiling=asked.max_tokens)


def _stop_reason(answer: Echo) -> str:
    return "max_tokens" if answer.cut else "end_turn"


def _message(asked: MessagesRequest, key: str, content: list[JSON], stop_reason: str | None, usage: JSON | None) -> JSON:
    said = {"id": f"msg_{key}", "type": "message", "role": "assistant", "model": asked.model, "content": content}
    return {**said, "stop_reason": stop_reason, "stop_sequence": None, **({} if usage is None else {"usage": usage})}


def _usage(answer: Echo, output_tokens: int) -> JSON:
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": answer.input_tokens, **cached, "output_tokens": output_tokens}
