"""The LiteLLM proxy behind budgets, as docs/litellm.md has it: what its real answers say that they used is what is charged."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anthropic
import httpx
import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from llm_authmw import Budget, CreatedKey
from tests.peers.litellm_proxy import serve_beside_litellm
from tests.peers.litellm_ways import ASKED, SMALL

pytestmark = pytest.mark.timeout(180)

PAGE = Path(__file__).parents[2] / "docs" / "litellm.md"
MODEL = "fake-small"
IN, OUT = 500, 1500
"""Nano-dollars of a token."""
LIMIT = 30.0
"""Seconds after which something that was waited for is taken to be missing."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, store_url: str) -> Iterator[str]:
    program = re.search(r'```python title="budget_front.py"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    directory = tmp_path_factory.mktemp("front")
    (directory / "budget_front.py").write_text(program[1].replace("sqlite:///authmw.db", store_url), encoding="utf-8")
    with serve_beside_litellm("budget_front:app", directory=directory, env={}) as server:
        yield server.url


class Caller:
    """Somebody with a budget, the SDKs, and how many requests the OpenAI SDK has sent."""

    def __init__(self, url: str, key: str, whole: int) -> None:
        self.sent = 0
        self._whole = whole
        counted = httpx2.Client(event_hooks={"request": [self._count]}, trust_env=False)
        self.gpt = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=5, timeout=LIMIT, http_client=counted)
        self.claude = anthropic.Anthropic(base_url=url, api_key=key, max_retries=5, timeout=LIMIT)
        self.http = httpx.Client(base_url=url, headers={"x-api-key": key}, trust_env=False, timeout=LIMIT, verify=False)

    def close(self) -> None:
        self.gpt.close()
        self.claude.close()
        self.http.close()

    def chat(self) -> ChatCompletion:
        return self.gpt.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=100)

    def _count(self, _: httpx2.Request) -> None:
        self.sent += 1

    def left(self) -> int:
        """Return what is left, as the refusal of a request says that is more than all of it."""
        asked = {"model": MODEL, "messages": ASKED, "max_tokens": 1_000_000}
        told = self.http.post("/v1/chat/completions", json=asked).headers
        assert "request_exceeds_budget" == told["x-authmw-reason"]
        left = re.search(r";left=(\d+)(?:\.(\d+))?;", told["x-authmw-budget"])
        assert left is not None
        return int(left[1] + (left[2] or "").ljust(9, "0"))

    def assert_charged(self, nano: int) -> None:
        """Wait until so much is charged: an answer may have been read before it is settled."""
        until = time.monotonic() + LIMIT
        while (left := self.left()) != self._whole - nano:
            assert time.monotonic() < until, f"{self._whole - left} are charged, and {nano} should be"


@pytest.fixture
def make_caller(url: str, store_url: str, new_key: Callable[..., CreatedKey]) -> Iterator[Callable[..., Caller]]:
    with ExitStack() as opened:

        def make(budget: str) -> Caller:
            caller = Caller(url, str(new_key(store_url, user="ada", budgets=[budget]).key), Budget.parse(budget).amount)
            opened.callback(caller.close)
            return caller

        yield make


@pytest.fixture
def caller(make_caller: Callable[..., Caller]) -> Caller:
    return make_caller("1 usd")


def test_a_chat_costs_what_its_usage_says(caller: Caller) -> None:
    answer = caller.chat()
    assert SMALL == answer.choices[0].message.content
    assert answer.usage is not None
    caller.assert_charged(answer.usage.prompt_tokens * IN + answer.usage.completion_tokens * OUT)


def test_a_chat_that_is_streamed_costs_what_its_last_chunk_says(caller: Caller) -> None:
    asking = caller.gpt.chat.completions
    with asking.create(model=MODEL, messages=ASKED, max_tokens=100, stream=True, stream_options={"include_usage": True}) as chunks:
        seen = list(chunks)
    assert SMALL == "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices)
    usage = seen[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 0
    caller.assert_charged(usage.prompt_tokens * IN + usage.completion_tokens * OUT)


def test_a_message_costs_what_its_usage_says(caller: Caller) -> None:
    answer = caller.claude.messages.create(model=MODEL, messages=ASKED, max_tokens=100)
    assert [SMALL] == [block.text for block in answer.content if block.type == "text"]
    caller.assert_charged(answer.usage.input_tokens * IN + answer.usage.output_tokens * OUT)


def test_an_answer_that_litellm_does_not_stream_although_it_was_to_costs_what_it_says(caller: Caller) -> None:
    asked = {"model": MODEL, "messages": ASKED, "max_tokens": 100, "stream": True}
    answer = caller.http.post("/v1/messages", json=asked)
    assert ("application/json", SMALL) == (answer.headers["content-type"], answer.json()["content"][0]["text"])
    usage = answer.json()["usage"]
    caller.assert_charged(usage["input_tokens"] * IN + usage["output_tokens"] * OUT)


def test_an_error_of_litellm_costs_nothing(caller: Caller) -> None:
    with pytest.raises(openai.InternalServerError):
        caller.gpt.with_options(max_retries=0).chat.completions.create(model="fake-failing", messages=ASKED, max_tokens=100)
    caller.assert_charged(0)


def test_a_budget_that_is_used_up_keeps_the_sdk_from_litellm_at_once(make_caller: Callable[..., Caller]) -> None:
    answer = make_caller("1 usd").chat()
    assert answer.usage is not None
    cost = answer.usage.prompt_tokens * IN + answer.usage.completion_tokens * OUT
    with pytest.raises(openai.BadRequestError) as never:
        make_caller("0.000001 usd").chat()
    assert "request_exceeds_budget" == never.value.code
    needed = never.value.response.headers["x-authmw-budget"].rpartition(";needed=0.")[2]
    # It pays for one, and lacks a nano-dollar for another one.
    poor = make_caller(f"0.{int(needed.ljust(9, '0')) + cost - 1:09d} usd")
    assert SMALL == poor.chat().choices[0].message.content
    poor.assert_charged(cost)
    before = poor.sent
    with pytest.raises(openai.RateLimitError) as refused:
        poor.chat()
    assert ("insufficient_quota", before + 1) == (refused.value.code, poor.sent)
    poor.assert_charged(cost)
