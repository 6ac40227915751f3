"""The OpenAI and Anthropic SDKs through keys and roles, on real servers: what they may do works, and the rest is their typed error."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol, TypeAlias

import anthropic
import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llm_authmw.testing.servers import RunningServer

pytestmark = [
    pytest.mark.anyio,
    # What the OpenAI SDK does with a newer websockets than it was written for.
    pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"),
]

ASKED: Any = [{"role": "user", "content": "hi there"}]
SAID = "Hello from gpt-4o-mini: hi there"
CLAUDE_SAID = "Hello from claude-haiku-5: hi there"
ROLES = ("member", "searcher", "reader", "chatter")
LARGE_TEXT = "x" * 5_000

Call: TypeAlias = Callable[[Any], Any]


class MakeGPT(Protocol):
    """Makes an OpenAI client with the key of a role."""

    def __call__(self, role: str, *, max_retries: int = 0) -> openai.OpenAI: ...


class MakeClaude(Protocol):
    """Makes an Anthropic client with the key of a role."""

    def __call__(self, role: str, *, max_retries: int = 0) -> anthropic.Anthropic: ...


@pytest.fixture
def anyio_backend() -> Any:
    # On trio the SDKs leave generators behind that were not read to their end, which trio warns of.
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return {role: secrets.token_urlsafe(32) for role in ROLES}


@pytest.fixture(scope="module", params=["uvicorn-h11", "uvicorn-httptools"])
def url(request: pytest.FixtureRequest, start_server: Callable[..., RunningServer], keys: dict[str, str]) -> str:
    environment = {f"{role.upper()}_KEY": key for role, key in keys.items()}
    return start_server("policies:app", server=request.param, env=environment, ready="/seen").url


@pytest.fixture
def seen(url: str, make_client: Callable[..., httpx.Client]) -> Iterator[Callable[[], int]]:
    """Says how many requests have come through to the provider."""
    with make_client() as client:
        yield lambda: int(client.get(f"{url}/seen").text)


@pytest.fixture
def make_gpt(url: str, keys: dict[str, str]) -> Iterator[MakeGPT]:
    with ExitStack() as opened:
        yield lambda role, *, max_retries=0: opened.enter_context(
            openai.OpenAI(base_url=f"{url}/v1", api_key=keys[role], max_retries=max_retries, timeout=10)
        )


@pytest.fixture
def make_claude(url: str, keys: dict[str, str]) -> Iterator[MakeClaude]:
    with ExitStack() as opened:
        yield lambda role, *, max_retries=0: opened.enter_context(
            anthropic.Anthropic(base_url=url, api_key=keys[role], max_retries=max_retries, timeout=10)
        )


@pytest.fixture
async def async_gpt(url: str, keys: dict[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=keys["member"], max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def async_claude(url: str, keys: dict[str, str]) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=keys["member"], max_retries=0, timeout=10) as client:
        yield client


def chat(model: str, **fields: Any) -> Call:
    return lambda client: client.chat.completions.create(model=model, messages=ASKED, **fields)


def messages(model: str, **fields: Any) -> Call:
    return lambda client: client.messages.create(model=model, max_tokens=100, messages=ASKED, **fields)


def read_errors(connection: Any) -> None:
    while True:
        assert "error" == connection.recv().type


GPT_DENIED: dict[str, tuple[str, Call, str]] = {
    "a model": ("member", chat("gpt-4o"), "model_not_allowed"),
    "a model, in a stream": ("member", chat("gpt-4o", stream=True), "model_not_allowed"),
    "a model to fall back on": ("member", chat("gpt-4o-mini", extra_body={"fallbacks": ["gpt-4o"]}), "model_not_allowed"),
    "a model in the query": ("member", chat("gpt-4o-mini", extra_query={"model": "gpt-4o"}), "model_not_allowed"),
    "a model in a header": ("member", chat("gpt-4o-mini", extra_headers={"x-litellm-model": "gpt-4o"}), "model_not_allowed"),
    "a model's embeddings": ("member", lambda c: c.embeddings.create(model="gpt-4o", input="hi"), "model_not_allowed"),
    "a route": ("member", lambda c: c.moderations.create(input="hi"), "route_not_allowed"),
    "a route for who may only look": ("reader", chat("gpt-4o-mini"), "route_not_allowed"),
    "a tool": (
        "member",
        lambda c: c.responses.create(model="gpt-4o-mini", input="hi", tools=[{"type": "web_search"}]),
        "tool_not_allowed",
    ),
    "another tool": (
        "searcher",
        lambda c: c.responses.create(model="gpt-4o-mini", input="hi", tools=[{"type": "web_search"}, {"type": "image_generation"}]),
        "tool_not_allowed",
    ),
    "another operation": ("chatter", lambda c: c.embeddings.create(model="text-embedding-3-small", input="hi"), "operation_not_allowed"),
}

CLAUDE_DENIED: dict[str, tuple[str, Call, str]] = {
    "a model": ("member", messages("claude-sonnet-5"), "model_not_allowed"),
    "a model, in a stream": ("member", messages("claude-sonnet-5", stream=True), "model_not_allowed"),
    "a tool": (
        "member",
        messages("claude-haiku-5", tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        "tool_not_allowed",
    ),
    "a route": ("member", lambda c: c.messages.count_tokens(model="claude-haiku-5", messages=ASKED), "route_not_allowed"),
    "another operation": ("chatter", messages("claude-haiku-5"), "operation_not_allowed"),
}


def test_what_a_role_allows_works_as_without_the_layers(make_gpt: MakeGPT, make_claude: MakeClaude) -> None:
    gpt, claude = make_gpt("member"), make_claude("member")
    assert SAID == gpt.chat.completions.create(model="gpt-4o-mini", messages=ASKED).choices[0].message.content
    with gpt.chat.completions.create(model="gpt-4o-mini", messages=ASKED, stream=True) as chunks:
        assert SAID == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert SAID == gpt.responses.create(model="gpt-4o-mini", input="hi there").output_text
    assert 8 == len(gpt.embeddings.create(model="text-embedding-3-small", input="hi").data[0].embedding)
    content = claude.messages.create(model="claude-haiku-5", max_tokens=100, messages=ASKED).content[0]
    assert content.type == "text"
    assert CLAUDE_SAID == content.text
    with claude.messages.stream(model="claude-haiku-5", max_tokens=100, messages=ASKED) as events:
        assert CLAUDE_SAID == events.get_final_text()


async def test_what_a_role_allows_works_with_the_clients_that_wait(
    async_gpt: openai.AsyncOpenAI, async_claude: anthropic.AsyncAnthropic
) -> None:
    async with async_gpt.chat.completions.stream(model="gpt-4o-mini", messages=ASKED) as events:
        assert SAID == (await events.get_final_completion()).choices[0].message.content
    async with async_claude.messages.stream(model="claude-haiku-5", max_tokens=100, messages=ASKED) as events_of_claude:
        assert CLAUDE_SAID == await events_of_claude.get_final_text()
    with pytest.raises(openai.PermissionDeniedError):
        await async_gpt.chat.completions.create(model="gpt-4o", messages=ASKED, stream=True)
    with pytest.raises(anthropic.PermissionDeniedError):
        await async_claude.messages.create(model="claude-sonnet-5", max_tokens=100, messages=ASKED, stream=True)


@pytest.mark.parametrize(("role", "call", "reason"), GPT_DENIED.values(), ids=list(GPT_DENIED))
def test_what_no_role_allows_is_the_openai_error_with_the_reason(
    make_gpt: MakeGPT, seen: Callable[[], int], role: str, call: Call, reason: str
) -> None:
    before = seen()
    with pytest.raises(openai.PermissionDeniedError) as denied:
        call(make_gpt(role, max_retries=2))
    assert (reason, "permission_error") == (denied.value.code, denied.value.type)
    assert reason == denied.value.response.headers["x-authmw-reason"]
    assert denied.value.request_id is not None
    assert before == seen()


@pytest.mark.parametrize(("role", "call", "reason"), CLAUDE_DENIED.values(), ids=list(CLAUDE_DENIED))
def test_what_no_role_allows_is_the_anthropic_error_with_the_reason(
    make_claude: MakeClaude, seen: Callable[[], int], role: str, call: Call, reason: str
) -> None:
    before = seen()
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        call(make_claude(role, max_retries=2))
    body: Any = denied.value.body
    assert ("error", "permission_error") == (body["type"], body["error"]["type"])
    assert reason == denied.value.response.headers["x-authmw-reason"]
    assert before == seen()


def test_a_tool_that_a_role_allows_may_be_run(make_gpt: MakeGPT) -> None:
    answer = make_gpt("searcher").responses.create(model="gpt-4o-mini", input="hi there", tools=[{"type": "web_search"}])
    assert SAID == answer.output_text


def test_the_caller_s_own_functions_need_no_leave(make_gpt: MakeGPT) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
    answer = make_gpt("member").chat.completions.create(model="gpt-4o-mini", messages=ASKED, tools=tools)
    assert SAID == answer.choices[0].message.content


def test_a_request_without_a_model_is_a_bad_request(make_gpt: MakeGPT, seen: Callable[[], int]) -> None:
    before = seen()
    with pytest.raises(openai.BadRequestError) as denied:
        make_gpt("member").responses.create(prompt={"id": "pmpt_1"})
    assert "model_missing" == denied.value.code
    assert before == seen()


def test_a_body_that_is_too_large_is_a_413_in_both_sdks(make_gpt: MakeGPT, make_claude: MakeClaude, seen: Callable[[], int]) -> None:
    before = seen()
    large: Any = [{"role": "user", "content": LARGE_TEXT}]
    with pytest.raises(openai.APIStatusError) as refused:
        make_gpt("member", max_retries=2).chat.completions.create(model="gpt-4o-mini", messages=large)
    assert (413, "body_too_large") == (refused.value.status_code, refused.value.code)
    with pytest.raises(anthropic.RequestTooLargeError) as refused_by_claude:
        make_claude("member", max_retries=2).messages.create(model="claude-haiku-5", max_tokens=9, messages=large)
    body: Any = refused_by_claude.value.body
    assert "request_too_large" == body["error"]["type"]
    assert before == seen()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"content-type": "text/plain"}, "content_type_not_accepted"),
        ({"content-encoding": "gzip"}, "content_encoding_not_accepted"),
    ],
    ids=["type", "encoding"],
)
def test_a_body_of_another_form_is_a_415_in_both_sdks(
    make_gpt: MakeGPT, make_claude: MakeClaude, seen: Callable[[], int], headers: dict[str, str], reason: str
) -> None:
    before = seen()
    with pytest.raises(openai.APIStatusError) as refused:
        chat("gpt-4o-mini", extra_headers=headers)(make_gpt("member", max_retries=2))
    assert (415, reason) == (refused.value.status_code, refused.value.code)
    with pytest.raises(anthropic.APIStatusError) as refused_by_claude:
        messages("claude-haiku-5", extra_headers=headers)(make_claude("member", max_retries=2))
    assert (415, reason) == (refused_by_claude.value.status_code, refused_by_claude.value.response.headers["x-authmw-reason"])
    assert before == seen()


@pytest.mark.parametrize(("role", "shown"), [("member", ["gpt-4o-mini", "text-embedding-3-small"]), ("reader", [])])
def test_the_list_of_models_shows_what_the_caller_may_use(make_gpt: MakeGPT, role: str, shown: list[str]) -> None:
    assert shown == [model.id for model in make_gpt(role).models.list()]


def test_the_list_of_models_is_filtered_for_the_anthropic_sdk_too(make_claude: MakeClaude) -> None:
    assert ["claude-haiku-5"] == [model.id for model in make_claude("member").models.list()]


def test_a_realtime_session_with_a_model_that_is_allowed_works(make_gpt: MakeGPT) -> None:
    with make_gpt("member").realtime.connect(model="gpt-4o-mini") as connection:
        connection.response.create()
        assert "response.done" == connection.recv().type


def test_a_realtime_session_with_another_model_is_refused_at_the_handshake(make_gpt: MakeGPT, seen: Callable[[], int]) -> None:
    before = seen()
    with pytest.raises(InvalidStatus) as refused, make_gpt("member").realtime.connect(model="gpt-4o"):
        pass
    assert (403, "model_not_allowed") == (refused.value.response.status_code, refused.value.response.headers["x-authmw-reason"])
    assert before == seen()


def test_a_realtime_session_that_changes_to_another_model_is_closed(make_gpt: MakeGPT) -> None:
    with make_gpt("member").realtime.connect(model="gpt-4o-mini") as connection:
        connection.session.update(session={"type": "realtime", "model": "gpt-4o"})
        # The reason may come first, as an event of the protocol.
        with pytest.raises(ConnectionClosed) as closed:
            read_errors(connection)
    assert closed.value.rcvd is not None
    assert 1008 == closed.value.rcvd.code
