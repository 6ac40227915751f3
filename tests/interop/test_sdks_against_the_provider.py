"""The real OpenAI and Anthropic SDKs against the mock provider, so that what works against the mock works against them.

The SDKs build their objects without checking them; here each answer is also validated against the SDK's own types.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from anthropic.types import RawMessageStreamEvent
from openai.types.responses import ResponseStreamEvent

from llm_authmw.testing.servers import RunningServer

pytestmark = pytest.mark.anyio

SAID = "Hello from gpt-4o: hi there"
CLAUDE_SAID = "Hello from claude-sonnet-5: hi there"
ASKED: Any = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def anyio_backend() -> Any:
    # On trio the SDKs leave generators behind that were not read to their end, which trio warns of.
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def url(start_server: Callable[..., RunningServer]) -> str:
    return start_server("provider_app:app", ready="/health").url


@pytest.fixture
def gpt(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-x", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def async_gpt(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-x", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def claude(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="sk-x", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def async_claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-x", max_retries=0, timeout=10) as client:
        yield client


def check(answer: pydantic.BaseModel, kind: Any = None) -> None:
    """Validate what the SDK built without looking."""
    pydantic.TypeAdapter(kind or type(answer)).validate_python(answer.model_dump(mode="python", by_alias=True, exclude_unset=True))


def test_chat_completions(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model="gpt-4o", messages=ASKED)
    check(answer)
    assert (SAID, "stop") == (answer.choices[0].message.content, answer.choices[0].finish_reason)
    assert answer.usage is not None
    assert (2, 5, 7) == (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)


def test_chat_completions_streamed(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True, stream_options={"include_usage": True}) as chunks:
        *said, last = list(chunks)
    for chunk in (*said, last):
        check(chunk)
    assert SAID == "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert ([], 7) == (last.choices, last.usage and last.usage.total_tokens)


def test_responses(gpt: openai.OpenAI) -> None:
    answer = gpt.responses.create(model="gpt-4o", input="hi there")
    check(answer)
    assert (SAID, "completed", 7) == (answer.output_text, answer.status, answer.usage and answer.usage.total_tokens)


def test_responses_streamed(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model="gpt-4o", input="hi there") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert (SAID, SAID) == ("".join(deltas), final.output_text)
    with gpt.responses.create(model="gpt-4o", input="hi there", stream=True) as events:
        for event in events:
            check(event, ResponseStreamEvent)


def test_embeddings_in_both_encodings(gpt: openai.OpenAI) -> None:
    answer = gpt.embeddings.create(model="text-embedding-3-small", input=["hi there", "ho"], encoding_format="float", dimensions=5)
    check(answer)
    # Left out, the SDK asks for base64 and decodes it.
    packed = gpt.embeddings.create(model="text-embedding-3-small", input=["hi there", "ho"], dimensions=5)
    assert [entry.embedding for entry in packed.data] == [entry.embedding for entry in answer.data]
    assert (2, 5, 3) == (len(answer.data), len(answer.data[1].embedding), answer.usage.total_tokens)


def test_models(gpt: openai.OpenAI) -> None:
    listed = gpt.models.list()
    for model in listed:
        check(model)
    assert ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"] == [model.id for model in listed]
    assert "gpt-4o" == gpt.models.retrieve("gpt-4o").id
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        gpt.models.retrieve("gpt-0")


# The SDK calls its WebSocket library in a way that the newest release of that one deprecates.
@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")
def test_realtime(gpt: openai.OpenAI) -> None:
    with gpt.realtime.connect(model="gpt-realtime") as connection:
        connection.response.create()
        event = connection.recv()
    assert event.type == "response.done"
    check(event)
    assert event.response.usage is not None
    assert (2, 4) == (event.response.usage.input_tokens, event.response.usage.total_tokens)  # the words of {"type": "response.create"}


def test_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="claude-sonnet-5", max_tokens=100, messages=ASKED)
    check(answer)
    assert answer.content[0].type == "text"
    assert (CLAUDE_SAID, "end_turn") == (answer.content[0].text, answer.stop_reason)
    assert (2, 5) == (answer.usage.input_tokens, answer.usage.output_tokens)


def test_messages_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="claude-sonnet-5", max_tokens=100, messages=ASKED) as stream:
        said = list(stream.text_stream)
        final = stream.get_final_message()
    assert (CLAUDE_SAID, 5) == ("".join(said), len(said))
    assert (2, 5, "end_turn") == (final.usage.input_tokens, final.usage.output_tokens, final.stop_reason)
    with claude.messages.create(model="claude-sonnet-5", max_tokens=100, messages=ASKED, stream=True) as events:
        for event in events:
            check(event, RawMessageStreamEvent)


def test_anthropic_models(claude: anthropic.Anthropic) -> None:
    listed = claude.models.list()
    for model in listed:
        check(model)
    assert ["claude-haiku-5", "claude-sonnet-5"] == [model.id for model in listed]
    assert "claude-haiku-5" == claude.models.retrieve("claude-haiku-5").id


async def test_the_async_clients(async_gpt: openai.AsyncOpenAI, async_claude: anthropic.AsyncAnthropic) -> None:
    chat = await async_gpt.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert SAID == chat.choices[0].message.content
    async with await async_gpt.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True) as chunks:
        assert SAID == "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    response = await async_gpt.responses.create(model="gpt-4o", input="hi there")
    assert SAID == response.output_text
    async with async_gpt.responses.stream(model="gpt-4o", input="hi there") as responses:
        assert SAID == (await responses.get_final_response()).output_text
    assert 8 == len((await async_gpt.embeddings.create(model="text-embedding-3-small", input="hi")).data[0].embedding)
    assert ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"] == [model.id async for model in async_gpt.models.list()]
    message = await async_claude.messages.create(model="claude-sonnet-5", max_tokens=100, messages=ASKED)
    assert message.content[0].type == "text"
    assert CLAUDE_SAID == message.content[0].text
    async with async_claude.messages.stream(model="claude-sonnet-5", max_tokens=100, messages=ASKED) as messages:
        assert CLAUDE_SAID == await messages.get_final_text()


@pytest.mark.parametrize(
    ("status", "kind", "claude_kind"),
    [
        (400, openai.BadRequestError, anthropic.BadRequestError),
        (401, openai.AuthenticationError, anthropic.AuthenticationError),
        (403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
        (429, openai.RateLimitError, anthropic.RateLimitError),
        (500, openai.InternalServerError, anthropic.InternalServerError),
    ],
)
def test_a_status_fault_is_the_typed_error_of_the_sdk(
    gpt: openai.OpenAI,
    claude: anthropic.Anthropic,
    status: int,
    kind: type[openai.APIStatusError],
    claude_kind: type[anthropic.APIStatusError],
) -> None:
    fault = {"x-mock-fault": f"status={status}"}
    with pytest.raises(kind, match="The fault that was asked for"):
        gpt.chat.completions.create(model="gpt-4o", messages=ASKED, extra_headers=fault)
    with pytest.raises(claude_kind, match="The fault that was asked for"):
        claude.messages.create(model="claude-sonnet-5", max_tokens=100, messages=ASKED, extra_headers=fault)


def test_a_dropped_stream_is_a_connection_error_after_the_chunks_before_it(gpt: openai.OpenAI) -> None:
    chunks = gpt.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True, extra_headers={"x-mock-fault": "drop-after=2"})
    assert ["", "Hello"] == [next(chunks).choices[0].delta.content for _ in range(2)]
    with pytest.raises(openai.APIConnectionError):
        next(chunks)
