from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.authz.model_list import MAX_LIST, ModelListAnswer, without_others
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.keys.static import StaticKey
from llm_authmw.testing import Response, request, stream

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
OPENAI = b'{"object":"list", "data":[{"id": "gpt-4o", "n": 1.50},{"id":"o3","object":"model"} , {"id":"gpt-4o-mini"}]}'
JSON = (b"content-type", b"application/json")


def small(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith("gpt-")]


class Answering:
    """An app that answers with messages that were written down, and keeps the headers of the request."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.headers: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = dict(scope["headers"])
        for message in self.messages:
            await send(message)


def start(*headers: tuple[bytes, bytes], status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def part(body: bytes, *, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more_body}


def guarded(app: Any, *, models: Sequence[str] = ("gpt-*",), filter_models: bool = True) -> Any:
    key = StaticKey(KEY, roles=["member"])
    roles = {"member": Role(routes=["*"], models=list(models))}
    return Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": key})),
        Middleware(RBACMiddleware, roles=roles, filter_models=filter_models),
    )(app)


async def listed(app: Any, target: str = "GET /v1/models", *headers: tuple[bytes, bytes], **options: Any) -> Response:
    return await request(guarded(app, **options), target, headers=[BEARER, *headers])


# What is left of a list.


def test_what_may_be_used_stays_as_it_was_written() -> None:
    assert b'{"object":"list","data":[{"id": "gpt-4o", "n": 1.50},{"id":"gpt-4o-mini"}]}' == without_others(OPENAI, small)


def test_the_prefix_of_gemini_is_no_part_of_the_name() -> None:
    body = b'{"models":[{"name":"models/gpt-x","displayName":"X"},{"name":"models/veo"}],"nextPageToken":"t"}'
    assert b'{"models":[{"name":"models/gpt-x","displayName":"X"}],"nextPageToken":"t"}' == without_others(body, small)


def test_a_server_that_answers_in_two_forms_at_once_hides_a_model_in_both() -> None:
    body = b'{"models":[{"name":"gpt-x"},{"name":"o3"}],"data":[{"id":"gpt-x"},{"id":"o3"}]}'
    assert b'{"models":[{"name":"gpt-x"}],"data":[{"id":"gpt-x"}]}' == without_others(body, small)


PAGES: list[tuple[list[str], bool, Any]] = [
    (["o3", "gpt-a", "gpt-b", "o4"], True, (["gpt-a", "gpt-b"], True, "gpt-a", "gpt-b")),
    (["o3", "gpt-a", "o4"], False, (["gpt-a"], False, "gpt-a", "gpt-a")),
    (["o3", "o4"], False, ([], False, None, None)),
    # With nothing left they are the only way to the next page.
    (["o3", "o4"], True, ([], True, "o3", "o4")),
]


@pytest.mark.parametrize(("entries", "has_more", "expected"), PAGES)
def test_the_ends_of_a_page_name_what_it_has_and_lead_to_the_next_one(entries: list[str], has_more: bool, expected: Any) -> None:
    page = {
        "data": [{"type": "model", "id": name} for name in entries],
        "has_more": has_more,
        "first_id": entries[0],
        "last_id": entries[-1],
    }
    found = msgspec.json.decode(without_others(msgspec.json.encode(page), small) or b"")
    assert expected == ([entry["id"] for entry in found["data"]], found["has_more"], found["first_id"], found["last_id"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"object":"list"}',
        b'{"data":{}}',
        b'{"data":["gpt-4o"]}',
        b'{"data":[{"object":"model"}]}',
        b'{"data":[{"id":7}]}',
        b'{"data":[{"id":""}]}',
        b'{"data":[{"id":"gpt-4o"}],"models":"many"}',
        b'{"data":[{"id":"gpt-4o"}]',
        b'{"data":[{"id":"\xff"}]}',
        b'{"data":' + b"[" * 100_000,
        '{"data":[]}'.encode("utf-16"),
    ],
)
def test_what_cannot_be_read_for_certain_is_not_touched(body: bytes) -> None:
    assert without_others(body, small) is None


@given(st.lists(st.fixed_dictionaries({"id": st.sampled_from(["gpt-a", "gpt-b", "o3", "claude"]), "x": st.integers() | st.text()})))
def test_what_is_left_is_exactly_what_is_allowed_in_its_order(entries: list[dict[str, Any]]) -> None:
    found = msgspec.json.decode(without_others(msgspec.json.encode({"data": entries}), small) or b"")
    assert {"data": [entry for entry in entries if entry["id"].startswith("gpt-")]} == found


# Through requests.


@pytest.mark.parametrize("target", ["GET /v1/models", "GET /models", "GET /openai/v1/models?limit=20", "GET /v1beta/models"])
async def test_a_caller_sees_the_models_that_one_of_its_roles_allows(target: str) -> None:
    app = Answering(start(JSON, (b"content-length", b"%d" % len(OPENAI)), (b"etag", b'"1"'), (b"Last-Modified", b"x")), part(OPENAI))
    response = await listed(app, target)
    expected = b'{"object":"list","data":[{"id": "gpt-4o", "n": 1.50},{"id":"gpt-4o-mini"}]}'
    assert (200, expected) == (response.status, response.body)
    assert str(len(expected)) == response.header("content-length")
    assert ["private"] == response.header_lines("cache-control")
    assert (None, None) == (response.header("etag"), response.header("last-modified"))


async def test_an_answer_in_pieces_is_put_together() -> None:
    app = Answering(start(JSON), *(part(OPENAI[at : at + 7], more_body=True) for at in range(0, len(OPENAI), 7)), part(b""))
    response = await listed(app)
    assert ["gpt-4o", "gpt-4o-mini"] == [entry["id"] for entry in response.json()["data"]]
    assert 1 == len(response.chunks)


async def test_the_app_is_asked_for_all_of_the_list_in_plain_text_and_the_callers_scope_stays() -> None:
    app = Answering(start(JSON), part(OPENAI))
    asked = [(b"Accept-Encoding", b"gzip"), (b"if-none-match", b'"1"'), (b"range", b"bytes=0-9"), (b"x-other", b"1")]
    async with stream(guarded(app), "GET /v1/models", headers=[BEARER, *asked]) as exchange:
        async for _ in exchange:
            pass
    assert {b"authorization", b"x-other"} == set(app.headers)
    assert [BEARER, *asked] == exchange.scope["headers"]


@pytest.mark.parametrize("caching", [b"public, max-age=3600", b"max-age=60"])
async def test_no_cache_may_give_one_callers_list_to_another(caching: bytes) -> None:
    response = await listed(Answering(start(JSON, (b"cache-control", caching)), part(OPENAI)))
    assert ["private"] == response.header_lines("cache-control")
    response = await listed(Answering(start(JSON, (b"cache-control", b"no-store")), part(OPENAI)))
    assert ["no-store"] == response.header_lines("cache-control")


UNTOUCHED: dict[str, dict[str, Any]] = {
    "another status": start(JSON, status=206),
    "an error": start(JSON, status=500),
    "another type": start((b"content-type", b"text/html")),
    "no type": start(),
    "compressed": start(JSON, (b"Content-Encoding", b"gzip")),
    "signed": start(JSON, (b"signature-input", b"sig1=()")),
    "with a digest": start(JSON, (b"content-digest", b"sha-256=:x:")),
    "not to be transformed": start(JSON, (b"cache-control", b"public, No-Transform")),
}


@pytest.mark.parametrize("begin", [pytest.param(begin, id=what) for what, begin in UNTOUCHED.items()])
async def test_any_other_answer_passes_as_it_is(begin: dict[str, Any]) -> None:
    messages = [begin, part(OPENAI[:30], more_body=True), part(OPENAI[30:])]
    response = await listed(Answering(*messages))
    assert messages == response.activity.sent


async def test_an_answer_with_trailers_passes_as_it_is() -> None:
    trailers: dict[str, Any] = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
    messages = [start(JSON, trailers=True), part(OPENAI), trailers]
    scope: dict[str, Any] = {"extensions": {"http.response.trailers": {}}}
    response = await request(guarded(Answering(*messages)), "GET /v1/models", headers=[BEARER], scope=scope)
    assert messages == response.activity.sent


async def test_a_file_that_the_server_sends_passes_as_it_is() -> None:
    messages = [start(JSON), {"type": "http.response.pathsend", "path": "/models.json"}]
    scope: dict[str, Any] = {"extensions": {"http.response.pathsend": {}}}
    response = await request(guarded(Answering(*messages)), "GET /v1/models", headers=[BEARER], scope=scope)
    assert messages == response.activity.sent


async def test_a_list_that_is_too_long_to_hold_passes_as_it_came_and_no_more_of_it_is_held() -> None:
    chunk = b" " * (MAX_LIST // 2)
    messages = [start(JSON), part(chunk, more_body=True), part(chunk, more_body=True), part(b"{", more_body=True)]
    end = part(b'"data":[{"id":"o3"}]}')
    async with stream(guarded(Answering(*messages, end)), "GET /v1/models", headers=[BEARER]) as exchange:
        assert chunk == await exchange.next_chunk()
        # The app waits for the client to take the next piece: nothing is read ahead any more.
        assert len(exchange.activity.sent) <= 3
        async for _ in exchange:
            pass
    assert [*messages, end] == exchange.activity.sent


@pytest.mark.parametrize("target", ["POST /v1/models", "GET /v1/models/o3", "GET /v1/files", "HEAD /v1/models", "OPTIONS /v1/models"])
async def test_only_the_list_of_models_is_looked_at(target: str) -> None:
    messages = [start(JSON), part(OPENAI)]
    response = await listed(Answering(*messages), target, models=["*"])
    assert messages == response.activity.sent


async def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    messages = [start(JSON, (b"etag", b'"1"')), part(OPENAI)]
    app = Answering(*messages)
    response = await listed(app, "GET /v1/models", (b"accept-encoding", b"gzip"), filter_models=False)
    assert messages == response.activity.sent
    assert b"accept-encoding" in app.headers


async def test_what_comes_before_the_answer_is_not_held_back() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    answer = ModelListAnswer(send, small)
    await answer({"type": "http.response.early_hint", "links": []})
    assert 1 == len(sent)
    await answer(start(JSON))
    await answer(part(OPENAI, more_body=True))
    assert 1 == len(sent)
    await answer(part(b""))
    assert 3 == len(sent)
