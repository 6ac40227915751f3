"""The real OpenAI and Anthropic SDKs, pointed at the proxy, and what they see of each call."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self, TypeAlias

import anthropic
import httpx2
import openai
from anthropic.types import Usage
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseUsage

GPT: Final = "gpt-4o-mini"
CLAUDE: Final = "claude-sonnet-5"
DEARER_GPT: Final = "gpt-4o"
DEARER_CLAUDE: Final = "claude-opus-5"
QUESTION: Final = "hi there"
LONG_QUESTION: Final = "word " * 1000
"""The mock says it back, a token for a word."""

_MESSAGES: Final[Any] = [{"role": "user", "content": QUESTION}]
_Usage: TypeAlias = CompletionUsage | ResponseUsage | Usage | None
_COUNT_TOKENS: Final[Any] = {"include_usage": True}


class Seen(NamedTuple):
    """What a client saw of one call.

    Attributes:
        status: The HTTP status.
        error: The exception that the SDK raised; empty where it raised none.
        reason: The reason header of a denial.
        body: The answer, or the body of the error.
        note: What the answer says about tokens.
    """

    status: int
    error: str = ""
    reason: str = ""
    body: str = ""
    note: str = ""


class Clients:
    """Both SDKs with one key.

    Args:
        url: Where the proxy is.
        key: The key.
        max_retries: How often they may try a call again.

    Attributes:
        answered: How many of their calls were answered, and not denied.
        sent: How many requests they have sent.
        wait: Seconds that the last answer told them to wait; 0 where it told nothing.
    """

    def __init__(self, url: str, key: str, *, max_retries: int = 0) -> None:
        # One HTTP client below both, as the SDKs do not show the status of a good answer.
        self._http: Final = httpx2.Client(event_hooks={"response": [self._remember]}, trust_env=False)
        self._gpt: Final = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=max_retries, timeout=10, http_client=self._http)
        self._claude: Final = anthropic.Anthropic(base_url=url, api_key=key, max_retries=max_retries, timeout=10, http_client=self._http)
        self._status = 0
        self.answered = 0
        self.sent = 0
        self.wait = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def see(self, call: Callable[[], tuple[str, str]]) -> Seen:
        """Make a call, and return what the client saw."""
        try:
            body, note = call()
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            sdk = type(error).__module__.partition(".")[0]
            return Seen(
                error.status_code, f"{sdk}.{type(error).__name__}", error.response.headers.get("x-authmw-reason", ""), error.response.text
            )
        self.answered += 1
        return Seen(self._status, body=body, note=note)

    def chat(self, **headers: Any) -> tuple[str, str]:
        return self._said(self._gpt.chat.completions.create(model=GPT, messages=_MESSAGES, extra_headers=headers))

    def chat_with_another_model(self) -> tuple[str, str]:
        return self._said(self._gpt.chat.completions.create(model=DEARER_GPT, messages=_MESSAGES))

    def chat_with_a_fallback(self) -> tuple[str, str]:
        asked = {"fallbacks": [DEARER_GPT]}
        return self._said(self._gpt.chat.completions.create(model=GPT, messages=_MESSAGES, extra_body=asked))

    def chat_without_key(self) -> tuple[str, str]:
        return self.chat(authorization=openai.Omit())

    def chat_briefly(self) -> tuple[str, str]:
        return self._said(self._gpt.chat.completions.create(model=GPT, messages=_MESSAGES, max_tokens=100))

    def chat_at_length(self) -> tuple[str, str]:
        asked: Any = [{"role": "user", "content": LONG_QUESTION}]
        answer = self._gpt.chat.completions.create(model=GPT, messages=asked, max_tokens=2000)
        return f"{len((answer.choices[0].message.content or '').split())} words", _tokens(answer.usage)

    def chat_streamed(self) -> tuple[str, str]:
        chunks = self._gpt.chat.completions.create(model=GPT, messages=_MESSAGES, stream=True, stream_options=_COUNT_TOKENS)
        *said, last = chunks
        pieces = [chunk.choices[0].delta.content or "" for chunk in said]
        return "".join(pieces), _streamed(pieces, last.usage)

    def respond(self) -> tuple[str, str]:
        answer = self._gpt.responses.create(model=GPT, input=QUESTION)
        return answer.output_text, _tokens(answer.usage)

    def respond_streamed(self) -> tuple[str, str]:
        with self._gpt.responses.stream(model=GPT, input=QUESTION) as events:
            pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
            usage = events.get_final_response().usage
        return "".join(pieces), _streamed(pieces, usage)

    def embed(self) -> tuple[str, str]:
        answer = self._gpt.embeddings.create(model="text-embedding-3-small", input=[QUESTION, "Nobody."])
        return f"{len(answer.data)} vectors of {len(answer.data[0].embedding)} numbers", f"{answer.usage.total_tokens} tokens in"

    def models(self) -> tuple[str, str]:
        return ", ".join(model.id for model in self._gpt.models.list()), ""

    def message(self, *, model: str = CLAUDE, **headers: Any) -> tuple[str, str]:
        answer = self._claude.messages.create(model=model, max_tokens=100, messages=_MESSAGES, extra_headers=headers)
        text = "".join(block.text for block in answer.content if block.type == "text")
        return text, _tokens(answer.usage)

    def message_with_another_model(self) -> tuple[str, str]:
        return self.message(model=DEARER_CLAUDE)

    def message_without_key(self) -> tuple[str, str]:
        return self.message(authorization=anthropic.Omit())

    def message_streamed(self) -> tuple[str, str]:
        with self._claude.messages.stream(model=CLAUDE, max_tokens=100, messages=_MESSAGES) as events:
            pieces = list(events.text_stream)
            usage = events.get_final_message().usage
        return "".join(pieces), _streamed(pieces, usage)

    @staticmethod
    def _said(answer: ChatCompletion) -> tuple[str, str]:
        return answer.choices[0].message.content or "", _tokens(answer.usage)

    def _remember(self, response: httpx2.Response) -> None:
        self._status = response.status_code
        self.wait = int(response.headers.get("retry-after-ms", 0)) / 1000
        self.sent += 1


def _tokens(usage: _Usage) -> str:
    if usage is None:
        return "no word about tokens"
    if isinstance(usage, CompletionUsage):
        return f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out"
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


def _streamed(pieces: list[str], usage: _Usage) -> str:
    return f"{sum(map(bool, pieces))} pieces, {_tokens(usage)}"
