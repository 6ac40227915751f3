"""The OpenAI and Anthropic SDKs through rates and budgets, on real servers: what fits is served unchanged, and the rest is their error.

A key has its own limits and budgets in the store, as an operator gives them to it. What is left of a budget is what a refusal says.
"""

import math
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, Protocol, TypeAlias

import anthropic
import httpx
import openai
import pytest

from llm_authmw import CreatedKey
from llm_authmw.testing.servers import RunningServer

pytestmark = pytest.mark.anyio

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-5"
ASKED: Any = [{"role": "user", "content": "hi there"}]
SAID = f"Hello from {GPT}: hi there"
CLAUDE_SAID = f"Hello from {CLAUDE}: hi there"
CEILING = 50
COST = 2 * 1_000 + 5 * 100_000
"""Nano-dollars of an answer to `ASKED`: two words in, and five out."""
PAYS_FOR_ONE = "0.0055 usd"
"""The ceiling of an answer costs half a cent: the second one does not fit, although the first one cost a tenth of that."""
SLOW = "30 requests/minute, burst 1"
"""A request every two seconds."""
LIMIT = 20.0
"""Seconds after which something that was waited for is taken to be missing."""
LONG: Any = [{"role": "user", "content": " ".join(["x" * 120] * 100)}]
"""What the mock answers with this is far longer than its ceiling says, since it counts a word as one token."""

Call: TypeAlias = Callable[[Any], Any]


class MakeGPT(Protocol):
    """Makes an OpenAI client for a key, or for who needs none."""

    def __call__(self, kind: str, key: str = ..., *, max_retries: int = 0) -> openai.OpenAI: ...


class MakeClaude(Protocol):
    """Makes an Anthropic client for a key, or for who needs none."""

    def __call__(self, kind: str, key: str = ..., *, max_retries: int = 0) -> anthropic.Anthropic: ...


class NewKey(Protocol):
    """Makes a key with limits and budgets of its own."""

    def __call__(self, *budgets: str, limits: list[str] = ...) -> str: ...


@pytest.fixture
def anyio_backend() -> Any:
    # On trio the SDKs leave generators behind that were not read to their end, which trio warns of.
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="module", params=["uvicorn-h11", "uvicorn-httptools"])
def url(request: pytest.FixtureRequest, start_server: Callable[..., RunningServer], store_url: str) -> str:
    return start_server("budgets:app", server=request.param, env={"AUTHMW_STORE": store_url}, ready="/seen").url


@pytest.fixture
def key_for(store_url: str, new_key: Callable[..., CreatedKey]) -> NewKey:
    return lambda *budgets, limits=(): str(new_key(store_url, budgets=list(budgets), limits=list(limits)).key)


@pytest.fixture
def http(url: str, make_client: Callable[..., httpx.Client]) -> Iterator[httpx.Client]:
    with make_client(base_url=url) as client:
        yield client


@pytest.fixture
def answered(http: httpx.Client) -> Callable[[], list[int]]:
    """Says with which status each request has been answered since the test began, however often an SDK has tried."""
    before = len(http.get("/seen").json()["answered"])
    return lambda: http.get("/seen").json()["answered"][before:]


@pytest.fixture
def make_gpt(url: str) -> Iterator[MakeGPT]:
    with ExitStack() as opened:
        yield lambda kind, key="none", *, max_retries=0: opened.enter_context(
            openai.OpenAI(base_url=f"{url}/{kind}/v1", api_key=key, max_retries=max_retries, timeout=LIMIT)
        )


@pytest.fixture
def make_claude(url: str) -> Iterator[MakeClaude]:
    with ExitStack() as opened:
        yield lambda kind, key="none", *, max_retries=0: opened.enter_context(
            anthropic.Anthropic(base_url=f"{url}/{kind}", api_key=key, max_retries=max_retries, timeout=LIMIT)
        )


@pytest.fixture
def key_of_the_clients_that_wait(key_for: NewKey) -> str:
    return key_for("1 usd")


@pytest.fixture
async def async_gpt(url: str, key_of_the_clients_that_wait: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/tells/v1", api_key=key_of_the_clients_that_wait, max_retries=0, timeout=LIMIT) as client:
        yield client


@pytest.fixture
async def async_claude(url: str, key_of_the_clients_that_wait: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=f"{url}/tells", api_key=key_of_the_clients_that_wait, max_retries=0, timeout=LIMIT
    ) as client:
        yield client


def chat(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": GPT, "messages": ASKED, "max_tokens": CEILING, **fields})


def message(client: Any, **fields: Any) -> Any:
    return client.messages.create(**{"model": CLAUDE, "messages": ASKED, "max_tokens": CEILING, **fields})


def tries_of(client: Any) -> int:
    """Ask, and return how often the SDK has tried again until it was served."""
    kind, of = (client.chat.completions, GPT) if isinstance(client, openai.OpenAI) else (client.messages, CLAUDE)
    raw = kind.with_raw_response.create(model=of, max_tokens=CEILING, messages=ASKED)
    assert 200 == raw.status_code
    tries: int = raw.retries_taken
    return tries


def tries_of_two(client: Any) -> list[int]:
    return [tries_of(client), tries_of(client)]


def left(http: httpx.Client, key: str) -> int:
    """Return the nano-dollars that are left of a key's budget: a request that is too much for the whole of it is told."""
    asked = {"model": GPT, "messages": ASKED, "max_tokens": 1_000_000}
    told = http.post("/plain/v1/chat/completions", json=asked, headers={"x-api-key": key})
    assert "request_exceeds_budget" == told.headers["x-authmw-reason"]
    found = re.search(r";left=(-?\d+)(?:\.(\d+))?", told.headers["x-authmw-budget"])
    assert found is not None
    return int(f"{found[1]}{(found[2] or '').ljust(9, '0')}")


def wait_until_left(http: httpx.Client, key: str, nano: int) -> None:
    """Wait until so much is left; an answer may have been read before it has been settled."""
    until = time.monotonic() + LIMIT
    while (now := left(http, key)) != nano:
        assert time.monotonic() < until, f"{now} are left, and {nano} should be"


INCLUDED: Any = {"include_usage": True}
GPT_CALLS: dict[str, Call] = {
    "chat": lambda c: c.chat.completions.with_streaming_response.create(model=GPT, messages=ASKED, max_tokens=CEILING),
    "chat, streamed": lambda c: c.chat.completions.with_streaming_response.create(model=GPT, messages=ASKED, stream=True),
    "chat, streamed with usage": lambda c: c.chat.completions.with_streaming_response.create(
        model=GPT, messages=ASKED, stream=True, stream_options=INCLUDED
    ),
    "responses": lambda c: c.responses.with_streaming_response.create(model=GPT, input="hi there"),
    "responses, streamed": lambda c: c.responses.with_streaming_response.create(model=GPT, input="hi there", stream=True),
    "embeddings": lambda c: c.embeddings.with_streaming_response.create(model="text-embedding-3-small", input="hi there"),
}
CLAUDE_CALLS: dict[str, Call] = {
    "messages": lambda c: c.messages.with_streaming_response.create(model=CLAUDE, messages=ASKED, max_tokens=CEILING),
    "messages, streamed": lambda c: c.messages.with_streaming_response.create(
        model=CLAUDE, messages=ASKED, max_tokens=CEILING, stream=True
    ),
}


def bytes_of(call: Call, client: Any) -> tuple[int, str, bytes]:
    with call(client) as answer:
        return answer.status_code, answer.headers["content-type"], b"".join(answer.iter_bytes())


def nameless(answer: tuple[int, str, bytes]) -> tuple[int, str, bytes]:
    """Return an answer without its id, which the mock makes of the request's bytes."""
    status, kind, content = answer
    return status, kind, re.sub(rb"chatcmpl-[0-9a-f]+", b"chatcmpl-", content)


def without_last_words(content: bytes) -> bytes:
    return re.sub(rb": llm-authmw .*\n\n$", b"", content)


@pytest.mark.parametrize("call", GPT_CALLS.values(), ids=list(GPT_CALLS))
def test_an_answer_to_the_openai_sdk_is_the_provider_s_byte_for_byte(make_gpt: MakeGPT, key_for: NewKey, call: Call) -> None:
    key = key_for("1 usd", limits=["100 requests/minute", "1000000 tokens/minute, burst 1000000", "4 concurrent"])
    assert bytes_of(call, make_gpt("bare")) == bytes_of(call, make_gpt("plain", key))


@pytest.mark.parametrize("call", CLAUDE_CALLS.values(), ids=list(CLAUDE_CALLS))
def test_an_answer_to_the_anthropic_sdk_is_the_provider_s_byte_for_byte(make_claude: MakeClaude, key_for: NewKey, call: Call) -> None:
    key = key_for("1 usd", limits=["100 requests/minute", "1000000 tokens/minute, burst 1000000", "4 concurrent"])
    assert bytes_of(call, make_claude("bare")) == bytes_of(call, make_claude("plain", key))


def test_usage_that_was_asked_for_in_the_caller_s_name_is_charged_and_never_seen(
    make_gpt: MakeGPT, key_for: NewKey, http: httpx.Client
) -> None:
    call, key = GPT_CALLS["chat, streamed"], key_for("1 usd")
    assert nameless(bytes_of(call, make_gpt("bare"))) == nameless(bytes_of(call, make_gpt("asks", key)))
    wait_until_left(http, key, 1_000_000_000 - COST)
    with chat(make_gpt("asks", key), stream=True) as chunks:
        seen = list(chunks)
    assert SAID == "".join(chunk.choices[0].delta.content or "" for chunk in seen)
    assert [False] * len(seen) == ["usage" in chunk.model_fields_set for chunk in seen]
    wait_until_left(http, key, 1_000_000_000 - 2 * COST)


def test_who_asks_for_usage_gets_all_of_it(make_gpt: MakeGPT, key_for: NewKey, http: httpx.Client) -> None:
    call, key = GPT_CALLS["chat, streamed with usage"], key_for("1 usd")
    assert bytes_of(call, make_gpt("bare")) == bytes_of(call, make_gpt("asks", key))
    with chat(make_gpt("asks", key), stream=True, stream_options=INCLUDED) as chunks:
        *_, last = chunks
    assert ([], 2, 5) == (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens)
    wait_until_left(http, key, 1_000_000_000 - 2 * COST)


def test_the_last_words_of_a_stream_say_what_it_cost_and_change_nothing_else(
    make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey
) -> None:
    key = key_for("1 usd")
    left_nano = 1_000_000_000
    for call, bare, guarded in (
        (GPT_CALLS["chat, streamed"], make_gpt("bare"), make_gpt("tells", key)),
        (GPT_CALLS["chat, streamed with usage"], make_gpt("bare"), make_gpt("tells", key)),
        (GPT_CALLS["responses, streamed"], make_gpt("bare"), make_gpt("tells", key)),
        (CLAUDE_CALLS["messages, streamed"], make_claude("bare"), make_claude("tells", key)),
    ):
        left_nano -= COST
        status, kind, content = bytes_of(call, guarded)
        assert content.endswith(b': llm-authmw {"charged_nano_usd":%d,"left_nano_usd":%d}\n\n' % (COST, left_nano))
        assert nameless(bytes_of(call, bare)) == nameless((status, kind, without_last_words(content)))


def test_the_sdks_pass_over_the_last_words(make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey) -> None:
    key = key_for("1 usd")
    gpt, claude = make_gpt("tells", key), make_claude("tells", key)
    with chat(gpt, stream=True) as chunks:
        assert SAID == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    with gpt.responses.stream(model=GPT, input="hi there") as events:
        assert SAID == events.get_final_response().output_text
    with claude.messages.stream(model=CLAUDE, max_tokens=CEILING, messages=ASKED) as events_of_claude:
        assert CLAUDE_SAID == events_of_claude.get_final_text()


async def test_the_clients_that_wait_pass_over_them_too(async_gpt: openai.AsyncOpenAI, async_claude: anthropic.AsyncAnthropic) -> None:
    async with async_gpt.chat.completions.stream(model=GPT, messages=ASKED) as events:
        assert SAID == (await events.get_final_completion()).choices[0].message.content
    async with async_claude.messages.stream(model=CLAUDE, max_tokens=CEILING, messages=ASKED) as events_of_claude:
        assert CLAUDE_SAID == await events_of_claude.get_final_text()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_rate_that_was_reached_is_the_rate_limit_error_of_both_sdks(
    make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey, *, stream: bool
) -> None:
    key = key_for(limits=["1 requests/hour"])
    chat(make_gpt("plain", key))
    with pytest.raises(openai.RateLimitError) as refused:
        chat(make_gpt("plain", key), stream=stream)
    assert ("rate_limited", "rate_limit_error") == (refused.value.code, refused.value.type)
    assert "at most 1 requests/hour per API key" in refused.value.message
    assert 3500 < int(refused.value.response.headers["retry-after"]) <= 3600
    with pytest.raises(anthropic.RateLimitError) as refused_by_claude:
        message(make_claude("plain", key), stream=stream)
    body: Any = refused_by_claude.value.body
    assert "rate_limit_error" == body["error"]["type"]
    assert "rate_limited" == refused_by_claude.value.response.headers["x-authmw-reason"]


def test_the_sdks_wait_for_a_rate_as_long_as_they_are_told_and_are_served_then(
    make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey, answered: Callable[[], list[int]]
) -> None:
    of_gpt, of_claude = key_for(limits=[SLOW]), key_for(limits=[SLOW])
    gpt, claude = make_gpt("plain", of_gpt, max_retries=5), make_claude("plain", of_claude, max_retries=5)
    with ThreadPoolExecutor() as both:
        tries = both.map(tries_of_two, (gpt, claude))
    # Whoever came back too early would have been refused once more.
    assert [[0, 1], [0, 1]] == list(tries)
    assert [200] * 4 + [429] * 2 == sorted(answered())


def test_a_rate_is_told_to_the_millisecond(make_gpt: MakeGPT, key_for: NewKey) -> None:
    gpt = make_gpt("plain", key_for(limits=[SLOW]))
    chat(gpt)
    with pytest.raises(openai.RateLimitError) as refused:
        chat(gpt)
    seconds, milliseconds = (int(refused.value.response.headers[name]) for name in ("retry-after", "retry-after-ms"))
    assert 0 < milliseconds <= 2000
    assert math.ceil(milliseconds / 1000) == seconds


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_budget_that_is_used_up_is_refused_once_and_not_hammered(
    make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey, http: httpx.Client, answered: Callable[[], list[int]], *, stream: bool
) -> None:
    key = key_for(PAYS_FOR_ONE)
    chat(make_gpt("plain", key))
    wait_until_left(http, key, 5_500_000 - COST)
    before = len(answered())
    with pytest.raises(openai.RateLimitError) as refused:
        chat(make_gpt("plain", key, max_retries=5), stream=stream)
    assert ("insufficient_quota", "false") == (refused.value.code, refused.value.response.headers["x-should-retry"])
    assert "A budget is used up. Needed: room in the budget by API key: usd" in refused.value.message
    assert "retry-after" not in refused.value.response.headers
    assert [429] == answered()[before:]
    with pytest.raises(anthropic.RateLimitError) as refused_by_claude:
        message(make_claude("plain", key, max_retries=5), stream=stream)
    assert "insufficient_quota" == refused_by_claude.value.response.headers["x-authmw-reason"]
    assert [429, 429] == answered()[before:]
    assert 5_500_000 - COST == left(http, key)


TOO_MUCH: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "a ceiling that the whole budget cannot pay for": ([], {"max_tokens": 100_000}, "request_exceeds_budget"),
    "a ceiling above the whole limit": (["1000 tokens/minute, burst 1000"], {"max_tokens": 2_000}, "request_exceeds_limit"),
    "a ceiling of zero": ([], {"max_tokens": 0}, "output_ceiling_invalid"),
    "a ceiling below zero": ([], {"max_tokens": -1}, "request_field_invalid"),
}


@pytest.mark.parametrize(("limits", "fields", "reason"), TOO_MUCH.values(), ids=list(TOO_MUCH))
def test_what_never_fits_is_a_bad_request_and_not_tried_again(
    make_gpt: MakeGPT,
    make_claude: MakeClaude,
    key_for: NewKey,
    answered: Callable[[], list[int]],
    limits: list[str],
    fields: dict[str, Any],
    reason: str,
) -> None:
    key = key_for("1 usd", limits=limits)
    with pytest.raises(openai.BadRequestError) as refused:
        chat(make_gpt("plain", key, max_retries=5), **fields)
    assert (reason, "invalid_request_error") == (refused.value.code, refused.value.type)
    with pytest.raises(anthropic.BadRequestError) as refused_by_claude:
        message(make_claude("plain", key, max_retries=5), **fields)
    assert reason == refused_by_claude.value.response.headers["x-authmw-reason"]
    assert [400, 400] == answered()


def test_a_model_without_a_price_is_not_for_sale(make_gpt: MakeGPT, key_for: NewKey, answered: Callable[[], list[int]]) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        chat(make_gpt("plain", key_for("1 usd"), max_retries=5), model="gpt-4o")
    assert ("model_unpriced", [403]) == (refused.value.code, answered())


def test_a_ledger_that_does_not_answer_is_tried_again_until_it_serves(
    make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey, http: httpx.Client, store_url: str, answered: Callable[[], list[int]]
) -> None:
    key = key_for("1 usd")
    chat(make_gpt("plain", key))
    wait_until_left(http, key, 1_000_000_000 - COST)
    before = len(answered())
    with closing(sqlite3.connect(store_url.removeprefix("sqlite:///"), isolation_level=None)) as other, ThreadPoolExecutor() as both:
        other.execute("BEGIN IMMEDIATE")
        tries = both.map(tries_of, (make_gpt("plain", key, max_retries=5), make_claude("plain", key, max_retries=5)))
        until = time.monotonic() + LIMIT
        while answered()[before:].count(503) < 2:
            assert time.monotonic() < until
        other.execute("ROLLBACK")
    assert 0 < min(tries)
    after = answered()[before:]
    assert ({200, 503}, 2) == (set(after), after.count(200))
    # What was refused is not paid for, and what was served is paid for once.
    wait_until_left(http, key, 1_000_000_000 - 3 * COST)


def test_a_stream_that_is_cut_is_the_openai_sdk_s_error_and_the_client_goes_on(
    make_gpt: MakeGPT, key_for: NewKey, http: httpx.Client
) -> None:
    key = key_for("1 usd")
    gpt = make_gpt("cuts", key)
    pieces: list[str] = []
    with pytest.raises(openai.APIError) as cut, gpt.chat.completions.create(model=GPT, messages=LONG, stream=True) as chunks:
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert ("insufficient_quota", "rate_limit_error") == (cut.value.code, cut.value.type)
    assert "A budget is used up. Needed: room in the budget for the rest of the answer" in cut.value.message
    assert SAID == chat(gpt).choices[0].message.content
    assert 0 < 1_000_000_000 - COST - left(http, key)


def test_a_stream_that_is_cut_is_the_anthropic_sdk_s_error_and_the_client_goes_on(make_claude: MakeClaude, key_for: NewKey) -> None:
    claude = make_claude("cuts", key_for("1 usd"))
    pieces: list[str] = []
    with (
        pytest.raises(anthropic.APIError) as cut,
        claude.messages.stream(model=CLAUDE, max_tokens=100, messages=LONG) as events,
    ):
        pieces.extend(events.text_stream)
    assert 3 < len(pieces) < 100
    body: Any = cut.value.body
    assert ("error", "rate_limit_error") == (body["type"], body["error"]["type"])
    assert CLAUDE_SAID == message(claude).content[0].text


def test_a_stream_that_is_cut_ends_well_formed_and_its_connection_serves_the_next_request(http: httpx.Client, key_for: NewKey) -> None:
    asked = {"model": GPT, "messages": LONG, "stream": True}
    connections = http.get("/seen").json()["connections"]
    for _ in range(3):
        content = http.post("/cuts/v1/chat/completions", json=asked, headers={"x-api-key": key_for("1 usd")}).content
        *events, last = content.removesuffix(b"\n\n").split(b"\n\n")
        assert 1 < len(events) < 100
        assert last.startswith(b'data: {"error":')
    assert http.get("/seen").json()["connections"] - connections <= 1


def test_what_is_left_of_a_rate_can_be_read_from_an_answer(make_gpt: MakeGPT, make_claude: MakeClaude, key_for: NewKey) -> None:
    key = key_for(limits=["100 requests/year, calendar", "4 concurrent"])
    raw = make_gpt("plain", key).chat.completions.with_raw_response.create(model=GPT, messages=ASKED)
    assert SAID == raw.parse().choices[0].message.content
    assert ("100", "99") == (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-remaining-requests"])
    assert re.fullmatch(r"(?:\d+d)?(?:\d+h)?(?:\d+m)?[\d.]+m?s", raw.headers["x-ratelimit-reset-requests"])
    of_claude = make_claude("plain", key).messages.with_raw_response.create(model=CLAUDE, max_tokens=CEILING, messages=ASKED)
    assert "98" == of_claude.headers["anthropic-ratelimit-requests-remaining"]
    assert of_claude.headers["anthropic-ratelimit-requests-reset"].endswith("-01-01T00:00:00Z")
    assert re.search(r'"API key: requests/year";r=98;t=\d+', of_claude.headers["ratelimit"])
    assert '"API key: concurrent";r=3' in of_claude.headers["ratelimit"]


def test_tokens_of_a_stream_are_counted_at_what_they_were(make_gpt: MakeGPT, key_for: NewKey) -> None:
    gpt = make_gpt("asks", key_for(limits=["1000000 tokens/year, calendar"]))
    until = time.monotonic() + LIMIT
    counted: list[int] = []
    while len(counted) < 2 or counted[-2] - counted[-1] != 7:
        assert time.monotonic() < until, counted
        with gpt.chat.completions.with_streaming_response.create(model=GPT, messages=ASKED, stream=True) as answer:
            counted.append(int(answer.headers["x-ratelimit-remaining-tokens"]))
            answer.read()
