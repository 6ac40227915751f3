import base64
import gzip
import itertools
import json
import struct
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import LLMCall, Usage
from llm_authmw.llm.meter import Meter
from llm_authmw.llm.sse import EventParser
from llm_authmw.llm.tally import Tally
from llm_authmw.testing.asgi import request
from llm_authmw.testing.provider import MockProvider

CUTS = st.lists(st.integers(0, 100_000), max_size=30)
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json")]
NDJSON = [(b"content-type", b"application/x-ndjson")]
FRAMES = [(b"content-type", b"application/vnd.amazon.eventstream")]


def call(operation: str = "chat") -> LLMCall:
    return LLMCall(dialect="openai", operation=operation, streaming=True)


def metered(
    headers: list[tuple[bytes, bytes]], chunks: Iterable[bytes], *, operation: str = "chat", ends: bool = True, max_held: int = 1 << 20
) -> Meter:
    meter = Meter(call(operation), max_held=max_held)
    meter.start(headers)
    for chunk in chunks:
        meter.feed(chunk)
    if ends:
        meter.end()
    return meter


def split(text: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


def data(*events: Any) -> list[bytes]:
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]


def named(*events: dict[str, Any]) -> list[bytes]:
    return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event, ensure_ascii=False).encode()) for event in events]


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    lines = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode() for name, value in headers.items()
    )
    prelude = struct.pack(">II", len(lines) + len(payload) + 16, len(lines))
    text = prelude + struct.pack(">I", zlib.crc32(prelude)) + lines + payload
    return text + struct.pack(">I", zlib.crc32(text))


def event(kind: str, value: Any) -> bytes:
    return frame({":event-type": kind, ":content-type": "application/json", ":message-type": "event"}, json.dumps(value).encode())


def chunk_of(value: Any) -> bytes:
    return event("chunk", {"bytes": base64.b64encode(json.dumps(value).encode()).decode(), "p": "abcd"})


def chat_chunk(content: str | None, usage: Any = None, finish: str | None = None) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1800000000, "model": "gpt-4o-2024-08-06"}
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}]
    return {**head, "choices": choices, "usage": usage}


CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
CHAT = [
    *data(*(chat_chunk(word) for word in ("Hé", "llo €", " 😀 token")), chat_chunk("", finish="stop")),
    *data(chat_chunk(None, CHAT_USAGE)),
]
CHAT_END = [b"data: [DONE]\n\n"]
CHAT_TRUTH = Usage(input=9, output=12, total=21, model="gpt-4o-2024-08-06", complete=True)

ANTHROPIC = named(
    {
        "type": "message_start",
        "message": {
            "type": "message",
            "model": "claude-sonnet-5",
            "content": [],
            "stop_reason": None,
            "usage": {
                "input_tokens": 25,
                "cache_creation_input_tokens": 4,
                "cache_read_input_tokens": 100,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 4},
                "output_tokens": 1,
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüße 😀"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 7}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 15, "server_tool_use": {"web_search_requests": 1}},
    },
    {"type": "message_stop"},
)
ANTHROPIC_TRUTH = Usage(
    input=129, cached_input=100, cache_write=4, cache_write_1h=4, output=15, searches=1, model="claude-sonnet-5", complete=True
)

RESPONSE: dict[str, Any] = {"object": "response", "model": "gpt-5", "error": None, "output": [], "usage": None, "status": "in_progress"}
RESPONSES_USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 22,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 33,
}


def responses(end: str, **changes: Any) -> list[bytes]:
    ended = {**RESPONSE, "status": end, "usage": RESPONSES_USAGE, "output": [{"type": "web_search_call", "id": "ws"}], **changes}
    return named(
        {"type": "response.created", "response": RESPONSE, "sequence_number": 0},
        {"type": "response.output_text.delta", "item_id": "msg", "output_index": 0, "content_index": 0, "delta": "Hi", "logprobs": []},
        {"type": f"response.{end}", "response": ended, "sequence_number": 2},
    )


RESPONSES_TRUTH = Usage(input=11, output=22, reasoning=10, searches=1, total=33, model="gpt-5", complete=True)


def gemini_chunk(text: str, output: int, finish: str | None = None) -> dict[str, Any]:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0} | ({"finishReason": finish} if finish else {})
    counts = {"promptTokenCount": 4, "candidatesTokenCount": output, "totalTokenCount": 4 + output}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "gemini-2.5-flash"}


GEMINI = [gemini_chunk('Ein ]}[{" Bär', 5), gemini_chunk("😀", 9), gemini_chunk("", 11, "STOP")]
GEMINI_TRUTH = Usage(input=4, output=11, total=15, model="gemini-2.5-flash", complete=True)

CONVERSE = [
    event("messageStart", {"role": "assistant"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hi"}, "p": "abcdef"}),
    event("messageStop", {"stopReason": "end_turn"}),
    event("metadata", {"metrics": {"latencyMs": 5}, "usage": {"inputTokens": 20, "outputTokens": 8, "totalTokens": 28}}),
]
CONVERSE_TRUTH = Usage(input=20, output=8, total=28, complete=True)

METRICS = {"inputTokenCount": 27, "outputTokenCount": 9, "invocationLatency": 500, "cacheReadInputTokenCount": 3}
INVOKE = [
    chunk_of({"type": "message_start", "message": {"model": "claude-haiku-5", "usage": {"input_tokens": 27, "output_tokens": 1}}}),
    chunk_of({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}),
    chunk_of({"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}),
]
INVOKE_TRUTH = Usage(input=30, cached_input=3, output=9, model="claude-haiku-5", complete=True)

OLLAMA = [
    json.dumps({"model": "llama3.2", "message": {"role": "assistant", "content": word}, "done": False}).encode() + b"\n"
    for word in ("The", " sky", " is")
] + [json.dumps({"model": "llama3.2", "done": True, "prompt_eval_count": 26, "eval_count": 290}).encode() + b"\n"]
OLLAMA_TRUTH = Usage(input=26, output=290, model="llama3.2", complete=True)

COHERE = named(
    {"type": "message-start", "id": "x", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi"}}}},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 71, "output_tokens": 9}}}},
)

STREAMS = {
    "OpenAI's chat": (SSE, [*CHAT, *CHAT_END], CHAT_TRUTH),
    "OpenAI's responses": (SSE, responses("completed"), RESPONSES_TRUTH),
    "OpenAI's responses, incomplete": (SSE, responses("incomplete"), RESPONSES_TRUTH),
    "Anthropic's messages": (SSE, ANTHROPIC, ANTHROPIC_TRUTH),
    "Gemini, events": (SSE, data(*GEMINI), GEMINI_TRUTH),
    "Gemini, one array": (JSON, [json.dumps(GEMINI, indent=2, ensure_ascii=False).encode()], GEMINI_TRUTH),
    "Bedrock's Converse": (FRAMES, CONVERSE, CONVERSE_TRUTH),
    "Bedrock's invocations": (FRAMES, INVOKE, INVOKE_TRUTH),
    "Ollama": (NDJSON, OLLAMA, OLLAMA_TRUTH),
    "Cohere's chat": (SSE, COHERE, Usage(input=71, output=9, complete=True)),
}
every_stream = pytest.mark.parametrize(("headers", "chunks", "truth"), STREAMS.values(), ids=STREAMS)


@every_stream
def test_a_stream_is_metered(headers: list[tuple[bytes, bytes]], chunks: list[bytes], truth: Usage) -> None:
    meter = metered(headers, chunks)
    assert truth == meter.usage
    assert meter.readable
    assert not meter.failed


@every_stream
@given(cuts=CUTS)
def test_a_stream_has_the_same_usage_wherever_it_is_cut(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], truth: Usage, cuts: list[int]
) -> None:
    assert truth == metered(headers, split(b"".join(chunks), cuts)).usage


@every_stream
def test_a_stream_has_the_same_usage_byte_by_byte_and_line_ends_of_two(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], truth: Usage
) -> None:
    text = b"".join(chunks)
    assert truth == metered(headers, [bytes([byte]) for byte in text]).usage
    if headers != FRAMES:
        assert truth == metered(headers, [bytes([byte]) for byte in text.replace(b"\n", b"\r\n")]).usage


@every_stream
def test_a_stream_that_breaks_off_anywhere_is_never_more_than_the_truth_and_never_taken_for_it(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], truth: Usage
) -> None:
    text = b"".join(chunks)
    for end in range(len(text)):
        usage = metered(headers, [text[:end]], ends=False).usage
        assert usage.input <= truth.input
        # Once the provider has said the final counts, nothing behind them matters.
        assert not usage.complete or (usage.input, usage.output) == (truth.input, truth.output)


@every_stream
@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"raw"])
@given(cuts=CUTS)
def test_a_compressed_stream_has_the_same_usage(
    headers: list[tuple[bytes, bytes]], chunks: list[bytes], truth: Usage, coding: bytes, cuts: list[int]
) -> None:
    text = b"".join(chunks)
    coded = {b"gzip": gzip.compress(text), b"deflate": zlib.compress(text), b"raw": zlib.compress(text, wbits=-15)}[coding]
    name = b"deflate" if coding == b"raw" else coding
    assert truth == metered([*headers, (b"content-encoding", name)], split(coded, cuts)).usage


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"unknown"])
def test_a_coding_that_cannot_be_read_makes_the_usage_unknown(coding: bytes) -> None:
    meter = metered([*SSE, (b"content-encoding", coding)], CHAT)
    assert not meter.usage.complete
    assert not meter.readable


def test_a_compressed_answer_that_lacks_its_end_or_is_no_such_is_not_complete() -> None:
    gzipped = gzip.compress(b"".join(CHAT[:2]))
    for broken in (gzipped[:-9], b"plain", gzipped + b"more"):
        meter = metered([*SSE, (b"content-encoding", b"gzip")], [broken])
        assert not meter.usage.complete
        assert not meter.readable


def test_an_answer_that_grows_without_end_is_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(b"data: " + b"0" * (1 << 22) + b"\n\n")
    meter = Meter(call())
    meter.start([*SSE, (b"content-encoding", b"gzip")])
    assert meter._inflater is not None
    monkeypatch.setattr(meter._inflater, "_left", 1 << 20)
    meter.feed(bomb)
    meter.end()
    assert not meter.readable


@pytest.mark.parametrize("kind", [b"audio/mpeg", b"application/octet-stream", b""])
def test_an_answer_of_another_kind_makes_the_usage_unknown(kind: bytes) -> None:
    meter = metered([(b"content-type", kind)], [b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}'])
    assert Usage() == meter.usage
    assert not meter.readable


def test_plain_text_has_no_counts_and_is_seen() -> None:
    meter = metered([(b"content-type", b"text/plain; charset=utf-8")], [b'{"usage":{"prompt_tokens":1,', b'"completion_tokens":1}}'])
    assert Usage(output=12) == meter.usage
    assert not meter.readable
    assert not meter.hides


def test_a_chat_that_was_not_asked_for_usage_is_estimated_by_what_passed() -> None:
    words = ["word "] * 10 + ["a longer text of sixty bytes, as some providers send at once"]
    meter = metered(SSE, [*data(*map(chat_chunk, words)), *CHAT_END])
    assert not meter.usage.complete
    assert 0 == meter.usage.input
    assert 11 <= meter.output_seen == meter.usage.output <= 30
    assert meter.output_seen == metered(SSE, [b"".join(data(*map(chat_chunk, words)))]).output_seen


def test_what_was_seen_grows_while_a_stream_runs() -> None:
    meter = Meter(call())
    assert Usage() == meter.usage
    meter.start(SSE)
    seen = [0]
    for chunk in data(*[chat_chunk("word")] * 20):
        meter.feed(chunk)
        seen.append(meter.usage.output)
    assert seen == list(range(21))


def test_what_repeats_the_text_and_what_stands_around_it_is_not_taken_for_more_of_it() -> None:
    whole = "word " * 2000
    around = named(
        {"type": "response.created", "response": {**RESPONSE, "instructions": whole}},
        *(
            {"type": "response.output_text.delta", "item_id": "msg", "output_index": 0, "content_index": 0, "delta": "word "}
            for _ in range(9)
        ),
        {"type": "response.output_text.done", "item_id": "msg", "output_index": 0, "content_index": 0, "text": whole},
    )
    assert 9 == metered(SSE, around, operation="responses").output_seen
    assert 9 == metered(SSE, [b"".join(around)], operation="responses").output_seen


def test_text_about_tokens_and_errors_is_text() -> None:
    meter = metered(SSE, data(*map(chat_chunk, ["token "] * 10)))
    assert 10 == meter.output_seen
    quoted = metered(SSE, data(*map(chat_chunk, ['an "error" or "usage"'] * 10)))
    assert not quoted.failed
    assert 10 <= quoted.output_seen <= 70


@pytest.mark.parametrize("tokens", [1, 2, 4, 16, 100])
def test_what_is_seen_of_a_stream_is_no_less_where_all_its_events_are_of_one_length(tokens: int) -> None:
    assert 10 * tokens <= metered(SSE, data(*[chat_chunk("word " * tokens)] * 10), ends=False).output_seen <= 13 * tokens


def test_counts_that_run_along_are_the_truth_only_at_the_end() -> None:
    chunks = data(*(chat_chunk("x", {"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n}) for n in (1, 2, 3)))
    assert not metered(SSE, chunks, ends=False).usage.complete
    assert Usage(input=9, output=3, total=12, model="gpt-4o-2024-08-06", complete=True) == metered(SSE, chunks).usage


def test_the_final_counts_are_the_truth_though_the_client_left_before_the_end() -> None:
    assert CHAT_TRUTH == metered(SSE, CHAT, ends=False).usage
    assert ANTHROPIC_TRUTH == metered(SSE, ANTHROPIC[:-1], ends=False).usage


def test_the_first_count_of_anthropic_is_not_the_truth_though_the_stream_ended_there() -> None:
    usage = metered(SSE, ANTHROPIC[:4]).usage
    assert not usage.complete
    assert (129, 100) == (usage.input, usage.cached_input)


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"message": "The server had an error", "type": "server_error"}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"type": "error", "code": "server_error", "message": "x", "param": None},
    ],
)
def test_an_error_in_a_stream_leaves_what_was_seen(failure: dict[str, Any]) -> None:
    running = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    meter = metered(SSE, data(chat_chunk("a"), chat_chunk("b", running), failure))
    assert meter.failed
    assert not meter.usage.complete
    assert (9, 3) == (meter.usage.input, meter.usage.output)


def test_a_response_that_failed_says_what_it_used() -> None:
    meter = metered(SSE, responses("failed", error={"code": "server_error", "message": "x"}))
    assert meter.failed
    assert RESPONSES_TRUTH == meter.usage


def test_an_exception_in_an_event_stream_of_bedrock_is_a_failure() -> None:
    failed = frame({":exception-type": "throttlingException", ":message-type": "exception"}, b'{"message":"Too many"}')
    meter = metered(FRAMES, [*CONVERSE[:2], failed])
    assert meter.failed
    assert not meter.usage.complete


@pytest.mark.parametrize("place", [2, 9, 20, -1, -30])
def test_a_frame_that_is_damaged_makes_what_follows_unreadable(place: int) -> None:
    stream = bytearray(CONVERSE[3])
    stream[place] ^= 1
    meter = metered(FRAMES, [bytes(stream), CONVERSE[3]])
    assert not meter.usage.complete
    assert not meter.readable


def test_headers_of_bedrock_count_where_the_answer_does_not() -> None:
    headers = [
        *JSON,
        (b"x-amzn-bedrock-input-token-count", b"12"),
        (b"x-amzn-bedrock-output-token-count", b"34"),
        (b"x-amzn-bedrock-cache-read-input-token-count", b"5"),
    ]
    titan = b'{"results":[{"outputText":"Hi","completionReason":"FINISH"}]}'
    assert Usage(input=17, cached_input=5, output=34, complete=True) == metered(headers, [titan], operation="invoke").usage
    claude = b'{"model":"claude-haiku-5","usage":{"input_tokens":12,"cache_read_input_tokens":5,"output_tokens":34}}'
    expected = Usage(input=17, cached_input=5, output=34, model="claude-haiku-5", complete=True)
    assert expected == metered(headers, [claude], operation="invoke").usage


@given(cuts=CUTS)
def test_a_whole_answer_is_metered_wherever_it_is_cut(cuts: list[int]) -> None:
    answer = {"model": "gpt-4o", "choices": [{"message": {"content": "é😀"}}], "usage": CHAT_USAGE}
    text = b"\r\n " + json.dumps(answer, ensure_ascii=False, indent=1).encode() + b"\n"
    assert Usage(input=9, output=12, total=21, model="gpt-4o", complete=True) == metered(JSON, split(text, cuts)).usage


def test_a_whole_answer_that_did_not_come_whole_is_not_complete() -> None:
    text = json.dumps({"usage": CHAT_USAGE, "choices": []}).encode()
    for end in range(len(text)):
        assert not metered(JSON, [text[:end]]).usage.complete
        assert not metered(JSON, [text[:end]], ends=False).usage.complete


def test_of_an_answer_that_is_too_large_to_keep_the_end_is_read() -> None:
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.25] * 40_000}]
    embeddings = json.dumps({"data": vectors, "model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}}).encode()
    chunks = [embeddings[at : at + 5000] for at in range(0, len(embeddings), 5000)]
    meter = metered(JSON, chunks, operation="embeddings", max_held=100_000)
    assert Usage(input=8, total=8, complete=True) == meter.usage


@pytest.mark.parametrize(
    "hidden",
    [
        {"data": ["x" * 200_000, {"usage": {"prompt_tokens": 1, "total_tokens": 1}}]},
        {"data": ["x" * 200_000, '"usage": {"prompt_tokens": 1, "total_tokens": 1}}']},
        {"usage": CHAT_USAGE, "data": "x" * 200_000},
    ],
)
def test_what_is_no_member_of_an_answer_that_is_too_large_is_not_taken_for_its_usage(hidden: dict[str, Any]) -> None:
    assert not metered(JSON, [json.dumps(hidden).encode()], operation="embeddings", max_held=100_000).usage.complete


def test_an_event_that_is_too_large_to_keep_makes_the_usage_unknown_unless_a_later_one_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.llm.meter.EventParser", partial(EventParser, max_event=1000))
    large = data(gemini_chunk("x" * 2000, 5))
    assert not metered(SSE, [*data(GEMINI[0]), *large]).usage.complete
    assert CHAT_TRUTH == metered(SSE, [*large, *CHAT]).usage


@pytest.mark.parametrize("text", [b"", b"data: {", b"data: {}\n\n", b"data: no, not token JSON\n\n"])
def test_nothing_said_is_not_zero(text: bytes) -> None:
    assert not metered(SSE, [text]).usage.complete
    assert not metered(JSON, [text]).usage.complete
    assert not metered(NDJSON, [text]).usage.complete


@given(
    st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([SSE, JSON, NDJSON, FRAMES]), st.sampled_from([b"gzip", b"deflate", None])
)
def test_no_bytes_make_the_meter_fail(chunks: list[bytes], headers: list[tuple[bytes, bytes]], coding: bytes | None) -> None:
    lines = headers if coding is None else [*headers, (b"content-encoding", coding)]
    assert not metered(lines, chunks).usage.complete


ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "How are you"}], "max_tokens": 100}


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("operation", "path", "body"),
    [
        ("chat", "/v1/chat/completions", {"model": "gpt-4o", "stream_options": {"include_usage": True}, **ASKED}),
        ("responses", "/v1/responses", {"model": "gpt-4o", "input": "How are you"}),
        ("messages", "/v1/messages", {"model": "claude-haiku-5", **ASKED}),
    ],
)
async def test_the_mock_provider_is_metered(operation: str, path: str, body: dict[str, Any], stream: bool) -> None:
    answer = await request(
        MockProvider(),
        f"POST {path}",
        headers=[(b"content-type", b"application/json")],
        body=json.dumps({**body, "stream": stream}).encode(),
    )
    usage = metered(answer.headers, [answer.body], operation=operation).usage
    assert usage.complete
    assert (3, 6, body["model"]) == (usage.input, usage.output, usage.model)


@given(
    st.lists(
        st.sampled_from(
            [
                {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
                {"prompt_tokens": 9, "completion_tokens": 25, "total_tokens": 34},
                {"prompt_tokens": 9, "completion_tokens": None},
                {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}},
                {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}},
                {},
                None,
            ]
        ),
        min_size=1,
        max_size=6,
    )
)
def test_counts_that_come_with_every_chunk_add_up_as_if_each_were_taken_alone(usages: list[dict[str, Any] | None]) -> None:
    known: dict[str, Any] = {}
    tally = Tally("chat")
    for usage in usages:
        tally.read(json.dumps({"model": "m", "choices": [{}], "usage": usage}).encode())
        known |= {name: value for name, value in (usage or {}).items() if value is not None}
    if known:
        whole = Tally("chat")
        whole.read(json.dumps({"model": "m", "choices": [{}], "usage": known}).encode())
        assert whole.usage() == tally.usage()
    else:
        assert tally.usage() is None
