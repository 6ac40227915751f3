"""The LiteLLM proxy behind our layers: what they allow is what it serves, for every way in which it lets a caller choose a model.

Each way is shown to be one: an operator, who may use every model, is served by the model that it chooses.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from llm_authmw import CreatedKey
from tests.peers.litellm_proxy import LiteLLMProxy, litellm_proxy, serve_beside_litellm
from tests.peers.litellm_ways import ASKED, BIG, CHAT, GEMINI, GROUPS, SMALL, Way

pytestmark = pytest.mark.timeout(180)

LIMIT = 30.0
PAGE = Path(__file__).parents[2] / "docs" / "litellm.md"
WAYS = [pytest.param(way, id=f"{group}: {name}") for group, ways in GROUPS.items() for name, way in ways.items()]


@pytest.fixture(scope="module")
def proxy() -> Iterator[LiteLLMProxy]:
    with litellm_proxy() as running:
        yield running


@pytest.fixture(scope="module")
def http(proxy: LiteLLMProxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=LIMIT, verify=False) as client:
        yield client


@pytest.fixture
def gpt(proxy: LiteLLMProxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=proxy.keys["member"], max_retries=0, timeout=LIMIT) as client:
        yield client


@pytest.fixture
def claude(proxy: LiteLLMProxy) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=proxy.url, api_key=proxy.keys["member"], max_retries=0, timeout=LIMIT) as client:
        yield client


def send(http: httpx.Client, way: Way, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", **way.headers}
    if isinstance(way.body, bytes):
        return http.request(way.method, way.path, content=way.body, headers=headers)
    return http.request(way.method, way.path, json=way.body, headers=headers)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_a_model_that_is_not_allowed_leads_to_litellm(proxy: LiteLLMProxy, http: httpx.Client, way: Way) -> None:
    if way.served is not None:
        assert way.served in send(http, way, proxy.keys["operator"]).text
    before = proxy.reached()
    refused = send(http, way, proxy.keys["member"])
    assert way.refused == (refused.status_code, refused.headers.get("x-authmw-reason")), refused.text
    assert before == proxy.reached()


ALLOWED = {
    "chat": (CHAT, {"model": "fake-small", "messages": ASKED}),
    "messages": ("/v1/messages", {"model": "fake-small", "messages": ASKED, "max_tokens": 9}),
    "responses": ("/v1/responses", {"model": "fake-small", "input": "hi"}),
    "completions": ("/v1/completions", {"model": "fake-small", "prompt": "hi"}),
    "embeddings": ("/v1/embeddings", {"model": "fake-small", "input": "hi"}),
    "images": ("/v1/images/generations", {"model": "fake-small", "prompt": "hi"}),
    "interactions": ("/v1beta/interactions", {"model": "fake-small", "input": "hi"}),
    "deployment": ("/openai/deployments/fake-small/chat/completions", {"model": "fake-small", "messages": ASKED}),
    "engine": ("/engines/fake-small/completions", {"prompt": "hi"}),
    "query": (f"{CHAT}?model=fake-small", {"model": "fake-small", "messages": ASKED}),
    "gemini": ("/v1beta/models/fake-small:generateContent", GEMINI),
    "fallback": (CHAT, {"model": "fake-failing", "messages": ASKED, "fallbacks": ["fake-small"]}),
    "fallback, as a map": (
        CHAT,
        {"model": "fake-narrow", "messages": ASKED, "context_window_fallbacks": [{"fake-narrow": ["fake-small"]}]},
    ),
}


@pytest.mark.parametrize(("path", "body"), ALLOWED.values(), ids=list(ALLOWED))
def test_what_is_allowed_is_what_litellm_serves(proxy: LiteLLMProxy, http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    served = send(http, Way(path, body), proxy.keys["member"])
    assert 200 == served.status_code, served.text
    assert SMALL in served.text
    assert BIG not in served.text


def test_the_sdks_work_through_the_layers(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert SMALL == gpt.chat.completions.create(model="fake-small", messages=ASKED).choices[0].message.content
    with gpt.chat.completions.create(model="fake-small", messages=ASKED, stream=True) as chunks:
        assert SMALL == "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert SMALL == gpt.responses.create(model="fake-small", input="hi").output_text
    content = claude.messages.create(model="fake-small", max_tokens=9, messages=ASKED).content[0]
    assert content.type == "text"
    assert SMALL == content.text
    with pytest.raises(openai.PermissionDeniedError) as refused:
        gpt.chat.completions.create(model="fake-small", messages=ASKED, extra_body={"fallbacks": ["fake-big"]})
    assert "model_not_allowed" == refused.value.code
    with pytest.raises(anthropic.PermissionDeniedError):
        claude.messages.create(model="fake-big", max_tokens=9, messages=ASKED)


def test_the_list_of_models_shows_what_the_caller_may_use(gpt: openai.OpenAI) -> None:
    assert ["fake-failing", "fake-narrow", "fake-small"] == sorted(model.id for model in gpt.models.list())


@pytest.mark.parametrize("path", ["/health", "/v1/completions", "/model/info", "/v1/mcp/tools"])
def test_a_role_that_names_its_routes_reaches_no_other(proxy: LiteLLMProxy, http: httpx.Client, path: str) -> None:
    before = proxy.reached()
    refused = send(http, Way(path, b"", method="GET"), proxy.keys["reader"])
    assert (403, "route_not_allowed") == (refused.status_code, refused.headers.get("x-authmw-reason"))
    assert before == proxy.reached()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer {master}"},
        {"x-api-key": "{master}"},
        {"api-key": "{master}"},
        {"x-goog-api-key": "{master}"},
        {"x-litellm-api-key": "Bearer {master}"},
        {"cookie": "token={master}"},
    ],
    ids=lambda headers: next(iter(headers), "none"),
)
def test_the_master_key_of_litellm_is_no_key_of_ours(proxy: LiteLLMProxy, http: httpx.Client, headers: dict[str, str]) -> None:
    before = proxy.reached()
    sent = {name: value.format(master=proxy.master_key) for name, value in headers.items()}
    refused = http.post(CHAT, json={"model": "fake-small", "messages": ASKED}, headers=sent)
    assert 401 == refused.status_code
    assert proxy.master_key not in refused.text
    assert before == proxy.reached()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v1/realtime?model=fake-big", "model_not_allowed"),
        ("/realtime?model=fake-small&model=fake-big", "model_not_allowed"),
        ("/openai/v1/realtime?model=fake-big", "model_not_allowed"),
        ("/v1/realtime", "model_missing"),
        ("/vertex_ai/live?model=fake-big", "model_not_allowed"),
        ("/mcp", "operation_unknown"),
    ],
)
def test_no_socket_to_a_model_that_is_not_allowed_is_opened(proxy: LiteLLMProxy, path: str, reason: str) -> None:
    before = proxy.reached()
    headers = {"authorization": f"Bearer {proxy.keys['member']}"}
    with pytest.raises(InvalidStatus) as refused, connect(f"{proxy.url.replace('http', 'ws', 1)}{path}", additional_headers=headers):
        pass
    assert reason == refused.value.response.headers["x-authmw-reason"]
    assert before == proxy.reached()


def test_the_program_of_the_page_guards_the_real_proxy(
    tmp_path: Path, store_url: str, new_key: Callable[..., CreatedKey], make_client: Callable[..., httpx.Client]
) -> None:
    program = re.search(r'```python title="front.py"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    (tmp_path / "front.py").write_text(program[1].replace("sqlite:///authmw.db", store_url), encoding="utf-8")
    key = new_key(store_url, user="ada").key
    assert key is not None
    with serve_beside_litellm("front:app", directory=tmp_path, env={}) as server, make_client(base_url=server.url, timeout=LIMIT) as client:
        served, refused = (
            client.post(CHAT, json={"model": model, "messages": ASKED}, headers={"x-api-key": key}) for model in ("fake-small", "fake-big")
        )
    assert (200, SMALL) == (served.status_code, served.json()["choices"][0]["message"]["content"])
    assert (403, "model_not_allowed") == (refused.status_code, refused.headers["x-authmw-reason"])
