"""The mock's own behaviour, over the raw driver. That the real SDKs understand it is for tests/interop."""

import base64
import struct
from functools import reduce
from operator import getitem
from typing import Any

import msgspec
import pytest

from llm_authmw.testing import MockProvider, Response, StreamDropped, request, stream, websocket

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"
RESPONSES = "POST /v1/responses"
EMBEDDINGS = "POST /v1/embeddings"
MESSAGES = "POST /v1/messages"

ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi there"}]},
    RESPONSES: {"model": "m", "instructions": "be kind", "input": "hi there"},
    EMBEDDINGS: {"model": "m", "input": "hi there"},
    MESSAGES: {"model": "m", "max_tokens": 100, "system": "be kind", "messages": [{"role": "user", "content": "hi there"}]},
}
STREAMED = [CHAT, RESPONSES, MESSAGES]


def fault(asked: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-mock-fault", asked.encode())]


def events(response: Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [msgspec.json.decode(entry) for entry in data if entry != "[DONE]"]


@pytest.mark.parametrize("target", list(ASKED))
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Input data was truncated"),
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `model`"),
        (b'{"model": 1}', r"Expected `str`, got `int` - at `$.model`"),
    ],
)
async def test_a_body_that_is_not_a_request_is_a_400_in_the_dialect(target: str, body: bytes, complaint: str) -> None:
    response = await request(MockProvider(), target, body=body)
    assert 400 == response.status
    assert "invalid_request_error" == response.json()["error"]["type"]
    assert complaint in response.json()["error"]["message"]
    assert ("error" == response.json().get("type")) == (target == MESSAGES)


@pytest.mark.parametrize("asked", ["", "status", "status=200", "status=x", "status=600", "drop-after=-1", "drop-after", "slow"])
async def test_an_unknown_fault_is_a_400_and_not_ignored(asked: str) -> None:
    response = await request(MockProvider(), CHAT, json=ASKED[CHAT], headers=fault(asked))
    assert 400 == response.status
    assert "is no fault; expected status=N, drop-after=N or no-usage" in response.json()["error"]["message"]


async def test_a_path_that_does_not_exist_is_a_404_and_is_remembered() -> None:
    provider = MockProvider()
    assert 404 == (await request(provider, "POST /v1/nothing", body=b"x")).status
    assert [("POST", "/v1/nothing")] == [(seen.method, seen.path) for seen in provider.seen]


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([], {"message": "The model 'gpt-0' does not exist.", "type": "invalid_request_error", "param": None, "code": None}),
        ([(b"anthropic-version", b"2023-06-01")], {"type": "not_found_error", "message": "The model 'gpt-0' does not exist."}),
    ],
)
async def test_a_model_that_does_not_exist_is_a_404_in_the_dialect(headers: list[tuple[bytes, bytes]], error: dict[str, Any]) -> None:
    response = await request(MockProvider(), "GET /v1/models/gpt-0", headers=headers)
    assert (404, error) == (response.status, response.json()["error"])


@pytest.mark.parametrize("target", list(ASKED))
async def test_it_remembers_what_it_saw_to_the_byte(target: str) -> None:
    provider = MockProvider()
    headers = [(b"Authorization", b"Bearer sk-x"), (b"x-odd", b"\xff"), (b"x-odd", b"2")]
    body = msgspec.json.encode(ASKED[target])
    response = await request(provider, f"{target}?a=%20b", headers=headers, body=[body[:7], b"", body[7:]])
    assert 200 == response.status
    (seen,) = provider.seen
    assert (target, b"a=%20b", headers, body) == (f"{seen.method} {seen.path}", seen.query, seen.headers, seen.body)
    assert [b"\xff", b"2"] == seen.header_lines("X-Odd")


async def test_it_forgets_the_oldest_request_after_a_thousand() -> None:
    provider = MockProvider()
    for number in range(1_002):
        await request(provider, f"GET /health?{number}")
    assert (1_000, b"2") == (len(provider.seen), provider.seen[0].query)


@pytest.mark.parametrize("target", list(ASKED))
async def test_equal_requests_have_equal_answers_and_others_have_other_ids(target: str) -> None:
    answers = [await request(MockProvider(), target, json={**ASKED[target], "extra": extra}) for extra in (1, 1, 2)]
    assert answers[0].body == answers[1].body
    if target != EMBEDDINGS:
        assert answers[0].json()["id"] != answers[2].json()["id"]


async def test_every_dialect_echoes_the_last_text_of_the_user_and_counts_words() -> None:
    chat = (await request(MockProvider(), CHAT, json=ASKED[CHAT])).json()
    responses = (await request(MockProvider(), RESPONSES, json=ASKED[RESPONSES])).json()
    messages = (await request(MockProvider(), MESSAGES, json=ASKED[MESSAGES])).json()
    embeddings = (await request(MockProvider(), EMBEDDINGS, json=ASKED[EMBEDDINGS])).json()
    said = [chat["choices"][0]["message"], responses["output"][0]["content"][0], messages["content"][0]]
    assert ["Hello from m: hi there"] * 3 == [said[0]["content"], said[1]["text"], said[2]["text"]]
    assert (4, 5, 9) == tuple(chat["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    assert (4, 5, 9) == tuple(responses["usage"][name] for name in ("input_tokens", "output_tokens", "total_tokens"))
    assert (4, 5) == tuple(messages["usage"][name] for name in ("input_tokens", "output_tokens"))
    assert {"prompt_tokens": 2, "total_tokens": 2} == embeddings["usage"]


async def test_contents_in_parts_count_their_texts_and_nothing_else() -> None:
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "three"}]
    asked = {"model": "m", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]}
    answer = (await request(MockProvider(), CHAT, json=asked)).json()
    assert "Hello from m: one two three" == answer["choices"][0]["message"]["content"]
    assert 3 == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("target", "ceiling", "where", "ended", "cut"),
    [
        (CHAT, "max_tokens", ["choices", 0, "finish_reason"], "stop", "length"),
        (CHAT, "max_completion_tokens", ["choices", 0, "finish_reason"], "stop", "length"),
        (RESPONSES, "max_output_tokens", ["status"], "completed", "incomplete"),
        (MESSAGES, "max_tokens", ["stop_reason"], "end_turn", "max_tokens"),
    ],
)
async def test_the_output_ceiling_cuts_the_answer_off_and_says_so(
    target: str, ceiling: str, where: list[Any], ended: str, cut: str
) -> None:
    whole = await request(MockProvider(), target, json={**ASKED[target], ceiling: 5})
    less = await request(MockProvider(), target, json={**ASKED[target], ceiling: 4})
    assert ("Hello from m: hi there" in whole.text, "Hello from m: hi there" in less.text) == (True, False)
    assert "Hello from m: hi" in less.text
    assert (ended, cut) == (reduce(getitem, where, whole.json()), reduce(getitem, where, less.json()))


async def test_chat_chunks_hold_the_usage_only_where_it_was_asked_for() -> None:
    asked = {**ASKED[CHAT], "stream": True}
    plain = await request(MockProvider(), CHAT, json=asked)
    counted = await request(MockProvider(), CHAT, json={**asked, "stream_options": {"include_usage": True}})
    assert "text/event-stream; charset=utf-8" == plain.header("content-type")
    assert (b"data: [DONE]\n\n", b"") == tuple(plain.chunks[-2:])
    assert all("usage" not in event for event in events(plain))
    *chunks, last = events(counted)
    assert "Hello from m: hi there" == "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert {None} == {chunk["usage"] for chunk in chunks}
    assert ([], 9) == (last["choices"], last["usage"]["total_tokens"])


async def test_responses_events_are_named_numbered_and_end_with_the_whole_response() -> None:
    streamed = await request(MockProvider(), RESPONSES, json={**ASKED[RESPONSES], "stream": True})
    listed = events(streamed)
    names = [line.removeprefix("event: ") for line in streamed.text.split("\n") if line.startswith("event: ")]
    assert [event["type"] for event in listed] == names
    assert [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 5,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ] == names
    assert list(range(len(listed))) == [event["sequence_number"] for event in listed]
    assert ("in_progress", None, "completed", 9) == (
        listed[0]["response"]["status"],
        listed[0]["response"]["usage"],
        listed[-1]["response"]["status"],
        listed[-1]["response"]["usage"]["total_tokens"],
    )
    cut = events(await request(MockProvider(), RESPONSES, json={**ASKED[RESPONSES], "stream": True, "max_output_tokens": 1}))
    assert "response.incomplete" == cut[-1]["type"]


async def test_message_events_hold_the_usage_at_the_start_and_cumulative_at_the_end() -> None:
    listed = events(await request(MockProvider(), MESSAGES, json={**ASKED[MESSAGES], "stream": True}))
    assert [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 5,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ] == [event["type"] for event in listed]
    start, end = listed[0]["message"]["usage"], listed[-2]["usage"]
    assert (4, 1, 4, 5) == (start["input_tokens"], start["output_tokens"], end["input_tokens"], end["output_tokens"])
    assert "end_turn" == listed[-2]["delta"]["stop_reason"]


@pytest.mark.parametrize("target", STREAMED)
async def test_each_event_is_sent_as_a_chunk_of_its_own(target: str) -> None:
    async with stream(MockProvider(), target, json={**ASKED[target], "stream": True}) as exchange:
        first = await exchange.next_chunk() or b""
        assert (1, b"\n\n") == (first.count(b"data: "), first[-2:])
        rest = [chunk async for chunk in exchange]
    assert all(chunk.count(b"data: ") == 1 for chunk in rest[:-1])
    assert b"" == rest[-1]


@pytest.mark.parametrize(
    ("asked", "inputs", "tokens"),
    [("one two", 1, 2), (["one", "two three"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3), ([], 0, 0)],
)
async def test_embeddings_take_one_input_or_several_as_text_or_tokens(asked: Any, inputs: int, tokens: int) -> None:
    answer = (await request(MockProvider(), EMBEDDINGS, json={"model": "m", "input": asked})).json()
    assert (inputs, tokens) == (len(answer["data"]), answer["usage"]["total_tokens"])


async def test_both_encodings_of_an_embedding_hold_the_same_numbers() -> None:
    asked = {"model": "m", "input": ["one", "two"], "dimensions": 5}
    plain = (await request(MockProvider(), EMBEDDINGS, json=asked)).json()["data"]
    packed = (await request(MockProvider(), EMBEDDINGS, json={**asked, "encoding_format": "base64"})).json()["data"]
    assert [entry["embedding"] for entry in plain] == [list(struct.unpack("<5f", base64.b64decode(entry["embedding"]))) for entry in packed]
    assert plain[0]["embedding"] != plain[1]["embedding"]
    assert all(-1 <= number < 1 for number in plain[0]["embedding"])


@pytest.mark.parametrize("target", list(ASKED))
@pytest.mark.parametrize("status", [401, 429, 500, 529])
async def test_a_status_fault_answers_with_the_error_of_the_dialect(target: str, status: int) -> None:
    response = await request(MockProvider(), target, json=ASKED[target], headers=fault(f"status={status}"))
    assert (status, "The fault that was asked for.") == (response.status, response.json()["error"]["message"])
    assert ("error" == response.json().get("type")) == (target == MESSAGES)


@pytest.mark.parametrize("target", STREAMED)
async def test_a_dropped_stream_ends_after_that_many_events(target: str) -> None:
    asked = {**ASKED[target], "stream": True}
    response = await request(MockProvider(), target, json=asked, headers=fault("drop-after=2"), reraise=False)
    assert (200, 2, StreamDropped) == (response.status, len(response.chunks), type(response.activity.raised))


@pytest.mark.parametrize("target", list(ASKED))
async def test_a_dropped_answer_that_is_no_stream_never_begins(target: str) -> None:
    response = await request(MockProvider(), target, json=ASKED[target], headers=fault("drop-after=2"), reraise=False)
    assert ([], StreamDropped) == (response.activity.sent, type(response.activity.raised))


@pytest.mark.parametrize("target", list(ASKED))
async def test_an_answer_without_usage_holds_none(target: str) -> None:
    whole = (await request(MockProvider(), target, json=ASKED[target], headers=fault("no-usage"))).json()
    assert whole.get("usage") is None
    if target in STREAMED:
        asked = {**ASKED[target], "stream": True, "stream_options": {"include_usage": True}}
        streamed = await request(MockProvider(), target, json=asked, headers=fault("no-usage"))
        assert '"total_tokens":' not in streamed.text
        assert '"output_tokens":' not in streamed.text


async def test_models_are_listed_in_the_dialect_of_the_client() -> None:
    ours = (await request(MockProvider(), "GET /v1/models")).json()
    theirs = (await request(MockProvider(), "GET /v1/models", headers=[(b"anthropic-version", b"2023-06-01")])).json()
    assert ("list", ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]) == (ours["object"], [entry["id"] for entry in ours["data"]])
    assert (False, ["claude-haiku-5", "claude-sonnet-5"]) == (theirs["has_more"], [entry["id"] for entry in theirs["data"]])


async def test_it_is_healthy() -> None:
    response = await request(MockProvider(), "GET /health")
    assert (200, {"status": "ok"}) == (response.status, response.json())


@pytest.mark.parametrize(("offered", "chosen"), [(["realtime", "openai-insecure-api-key.x"], "realtime"), (["other"], None), ([], None)])
async def test_realtime_takes_the_subprotocol_realtime_and_answers_each_text(offered: list[str], chosen: str | None) -> None:
    provider = MockProvider()
    async with websocket(provider, "/v1/realtime?model=gpt-realtime-2", subprotocols=offered) as socket:
        assert (True, chosen) == (socket.accepted, socket.subprotocol)
        await socket.send_text("one two")
        done = await socket.receive_json()
        await socket.send_bytes(b"three")
        assert 1 == (await socket.receive_json())["response"]["usage"]["input_tokens"]
    assert ("response.done", "gpt-realtime-2", 4, "one two") == (
        done["type"],
        done["response"]["model"],
        done["response"]["usage"]["total_tokens"],
        done["response"]["output"][0]["content"][0]["text"],
    )
    assert [("WS", "/v1/realtime")] == [(seen.method, seen.path) for seen in provider.seen]
