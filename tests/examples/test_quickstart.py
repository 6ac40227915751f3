"""`docs/examples/quickstart.py` as somebody meets it: a key with a limit and a budget from the command line, and an SDK in front."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import openai
import pytest

from llm_authmw.testing.servers import RunningServer, serve

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "quickstart.py"
ASKED: Any = [{"role": "user", "content": "hi"}]
COST = 5 * 500 + 2 * 1500
"""Nano-dollars of one answer: it always says that it used 5 tokens in, and 2 out."""
MOST = 40


@pytest.fixture
def new_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `llm-authmw keys create` where the program is, with the store that both find there."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AUTHMW_")]:
        monkeypatch.delenv(name)

    def make(*options: str) -> str:
        command = [sys.executable, "-m", "llm_authmw.cli", "keys", "create", "--user", "ada", *options, "--quiet"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    return make


@pytest.fixture
def server(new_key: Callable[..., str], tmp_path: Path) -> Iterator[RunningServer]:
    del new_key  # the program is there
    with serve("quickstart:app", directory=tmp_path) as running:
        yield running


class Asking:
    """An OpenAI SDK that may try again, how many requests it has sent, and how many were answered."""

    def __init__(self, url: str, key: str) -> None:
        self.sent = 0
        self.answered = 0
        self._http = httpx2.Client(event_hooks={"request": [self._count]}, trust_env=False)
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=5, timeout=20, http_client=self._http)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def chat(self, *, model: str = "echo", ceiling: int = 1000) -> str | None:
        answer = self.client.chat.completions.create(model=model, messages=ASKED, max_tokens=ceiling)
        self.answered += 1
        return answer.choices[0].message.content

    def chat_often(self) -> None:
        for _ in range(MOST):
            self.chat()

    def _count(self, _: httpx2.Request) -> None:
        self.sent += 1


def test_the_limit_of_a_key_is_the_rate_at_which_it_is_served(server: RunningServer, new_key: Callable[..., str]) -> None:
    with Asking(server.url, new_key("--limit", "2 requests/hour, burst 2")) as ada:
        assert ["hello ada", "hello ada"] == [ada.chat(), ada.chat()]
        # It is told to come back in half an hour, which is more than the SDK waits.
        with pytest.raises(openai.RateLimitError) as refused:
            ada.chat()
    assert ("rate_limited", 3) == (refused.value.code, ada.sent)
    assert 1700 < int(refused.value.response.headers["retry-after"]) <= 1800


def test_the_budget_of_a_key_is_used_up_to_what_the_next_answer_may_cost(server: RunningServer, new_key: Callable[..., str]) -> None:
    with Asking(server.url, new_key("--budget", "0.0016 usd/month")) as ada:
        with pytest.raises(openai.BadRequestError) as too_much:
            ada.chat(ceiling=2000)
        assert "request_exceeds_budget" == too_much.value.code
        with pytest.raises(openai.RateLimitError) as refused:
            ada.chat_often()
    assert ("insufficient_quota", 1 + ada.answered + 1) == (refused.value.code, ada.sent)
    left = re.search(r";left=0\.00(\d{1,7});needed=0\.00(\d{1,7});", refused.value.response.headers["x-authmw-budget"])
    assert left is not None
    of_it, needed = (int(part.ljust(7, "0")) for part in left.groups())
    assert 1_600_000 - ada.answered * COST == of_it
    assert of_it < needed <= of_it + COST


def test_what_no_role_allows_and_what_has_no_key_is_denied(server: RunningServer, new_key: Callable[..., str]) -> None:
    with Asking(server.url, new_key()) as ada, pytest.raises(openai.PermissionDeniedError) as another_model:
        ada.chat(model="gpt-4o")
    assert "model_not_allowed" == another_model.value.code
    with Asking(server.url, "sk-nothing") as nobody, pytest.raises(openai.AuthenticationError):
        nobody.chat()
