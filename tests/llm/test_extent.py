import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import MAX_COUNT, LLMCall, Usage
from llm_authmw.errors import Denial
from llm_authmw.llm.extent import MAX_CEILING, PICTURE_MADE, SEARCHES, TOOL_PROMPT, WINDOW, Extent, extent_of, most
from llm_authmw.llm.media import PICTURE, PICTURE_4O_MINI, SECOND, SLOWEST
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request

OPERATIONS = Operations()
PNG = base64.b64encode(b"\x89PNG" * 3000).decode()
URL = f"data:image/png;base64,{PNG}"
SOUND = base64.b64encode(bytes(range(256)) * 100).decode()
TEXT = "what is on this picture?"

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
CONVERSE = "/model/anthropic.claude-v2/converse"
OLLAMA = "/api/chat"


def asked(path: str, body: dict[str, Any] | bytes, *, boundary: str | None = None) -> tuple[LLMCall, bytes]:
    text = body if isinstance(body, bytes) else json.dumps({"model": "gpt-4o", **body}).encode()
    content_type = None if boundary is None else f"multipart/form-data; boundary={boundary}".encode()
    return read_request(OPERATIONS.find("POST", path), content_type=content_type, body=text), text


def extent(path: str, body: dict[str, Any] | bytes, *, boundary: str | None = None) -> Extent:
    return extent_of(*asked(path, body, boundary=boundary))


def form(fields: dict[str, str], **files: bytes) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    parts += [
        f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--b--\r\n"


def user(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*parts], **more}]}


PICTURES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, user({"type": "image_url", "image_url": {"url": URL, "detail": "high"}})),
    (CHAT, user({"type": "image_url", "image_url": URL})),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]}),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": URL}]}]}),
    (RESPONSES, {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": URL}}]}),
    (MESSAGES, user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}})),
    (
        MESSAGES,
        user(
            {
                "type": "tool_result",
                "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}],
            }
        ),
    ),
    (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": PNG}}]}]}),
    (CONVERSE, user({"image": {"format": "png", "source": {"bytes": PNG}}})),
    (OLLAMA, user(images=[PNG])),
    ("/v2/embed", {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": URL}}]}]}),
    ("/v2/embed", {"images": [URL]}),
]


@pytest.mark.parametrize(("path", "body"), PICTURES)
def test_a_picture_counts_as_the_largest_one_does_and_not_by_its_bytes(path: str, body: dict[str, Any]) -> None:
    found = extent(path, body)
    around = len(json.dumps({"model": "gpt-4o", **body})) - len(PNG)
    assert PICTURE <= found.image_input < 2 * PICTURE
    assert around - len("data:image/png;base64,") <= found.input - found.image_input <= around
    assert not found.elsewhere


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
        (RESPONSES, {"type": "input_image", "file_id": "file-1"}),
        (MESSAGES, {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}),
        (CHAT, {"type": "image", "image": "https://example.com/a.png"}),
        (CHAT, {"type": "image_file", "image_file": {"file_id": "file-1"}}),
        (RESPONSES, {"type": "input_image"}),
    ],
)
def test_a_picture_that_is_only_pointed_to_has_its_ceiling(path: str, part: dict[str, Any]) -> None:
    found = extent(path, user(part))
    assert found.image_input >= PICTURE or found.elsewhere


def test_a_model_that_counts_pictures_four_times_over_has_a_ceiling_of_its_own() -> None:
    body = {"model": "openai/gpt-4o-mini", **user({"type": "image_url", "image_url": {"url": URL}})}
    assert PICTURE_4O_MINI == extent(CHAT, body).image_input


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, user({"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}})),
        (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/mp3", "data": SOUND}}]}]}),
    ],
)
def test_sound_counts_by_the_seconds_that_its_bytes_may_last(path: str, body: dict[str, Any]) -> None:
    found = extent(path, body)
    assert (len(SOUND) // SLOWEST + 1) * SECOND == found.audio_input
    assert found.input - found.audio_input < 300


ELSEWHERE: list[tuple[str, dict[str, Any]]] = [
    (RESPONSES, {"input": "go on", "previous_response_id": "resp_1"}),
    (RESPONSES, {"input": "go on", "conversation": "conv_1"}),
    (RESPONSES, {"input": "go on", "conversation": {"id": "conv_1"}}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://example.com"}]}]}),
    (RESPONSES, {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
    (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_label": "s", "server_url": "https://example.com"}]}),
    (CHAT, user({"type": "file", "file": {"file_id": "file-1"}})),
    (CHAT, user({"type": "video_url", "video_url": {"url": "https://example.com"}})),
    (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    (CHAT, {**user(), "data_sources": [{"type": "azure_search"}]}),
    (CHAT, {**user(), "web_search_options": {}}),
    (CHAT, {**user(), "Previous_Response_Id": "x"}),
    (MESSAGES, user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}})),
    (MESSAGES, user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})),
    (MESSAGES, user({"type": "container_upload", "file_id": "file_1"})),
    (MESSAGES, {**user(), "container": "container_1"}),
    (MESSAGES, {**user(), "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
    (GEMINI, {"contents": [{"parts": [{"fileData": {"fileUri": "gs://a/b"}}]}]}),
    (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "video/mp4", "data": PNG}}]}]}),
    (GEMINI, {"contents": [], "cachedContent": "cachedContents/1"}),
    (GEMINI, {"contents": [], "cached_content": "cachedContents/1"}),
    (GEMINI, {"contents": [], "tools": [{"googleSearch": {}}]}),
    (CONVERSE, user({"document": {"format": "pdf", "name": "d", "source": {"bytes": PNG}}})),
    (CONVERSE, user({"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://a/b"}}}})),
]


@pytest.mark.parametrize(
    ("path", "body"),
    ELSEWHERE,
)
def test_input_that_is_not_in_the_body_is_bounded_by_what_a_model_can_be_shown(path: str, body: dict[str, Any]) -> None:
    call, text = asked(path, body)
    found = extent_of(call, text)
    assert found.elsewhere
    highest = most(found, call, ceiling=5, context_window=128_000)
    assert (128_000, 128_000, 128_000) == (highest.input, highest.audio_input, highest.image_input)
    assert WINDOW == most(found, call, ceiling=5).input


WORDS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "a picture of an image_url, a file and a document"}]}),
    (CHAT, {**user(), "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"file_id": {}}}}}]}),
    (CHAT, {**user(), "response_format": {"json_schema": {"schema": {"properties": {"image": {}, "document": {}}}}}}),
    (MESSAGES, user({"type": "tool_use", "id": "1", "name": "read", "input": {"file": "a.py", "image": "x"}})),
    (MESSAGES, user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}})),
    (GEMINI, {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"file": "a.py"}}}]}]}),
    (RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"properties": {"file": {}}}}}}),
    (RESPONSES, {"input": "x", "previous_response_id": None, "conversation": None}),
]


@pytest.mark.parametrize(
    ("path", "body"),
    WORDS,
)
def test_words_and_schemas_that_speak_of_media_are_text(path: str, body: dict[str, Any]) -> None:
    found = extent(path, body)
    assert (False, 0, 0) == (found.elsewhere, found.image_input, found.audio_input)
    assert len(json.dumps({"model": "gpt-4o", **body})) <= found.input


@given(st.lists(st.text()), st.booleans())
def test_text_never_has_fewer_bytes_than_it_is_counted_for(texts: list[str], ascii_only: bool) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    body = json.dumps({"model": "gpt-4o", "messages": messages}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if b"\xed" not in body and "\\ud" not in body.decode():
        assert sum(len(text.encode()) for text in texts) <= extent(CHAT, body).input


@pytest.mark.parametrize(
    ("path", "body", "answers"),
    [
        (CHAT, {**user(), "n": 3}, 3),
        (GEMINI, {"contents": [], "generationConfig": {"candidateCount": 4}}, 4),
        ("/v1/completions", {"prompt": "x", "best_of": 5, "n": 2}, 5),
        ("/v1/completions", {"prompt": ["x", "y", "z"], "n": 2}, 6),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 1),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, 2),
        ("/v1/embeddings", {"input": ["x", "y"]}, 0),
        ("/v1/moderations", {"input": "x"}, 0),
        (MESSAGES, {**user(), "max_tokens": 7}, 1),
    ],
)
def test_each_answer_can_be_as_long_as_the_ceiling(path: str, body: dict[str, Any], answers: int) -> None:
    call, text = asked(path, body)
    found = extent_of(call, text)
    assert answers == found.answers
    highest = most(found, call, ceiling=100, overhead=1000)
    assert (100 * answers, 100 * answers, found.input + 1000) == (highest.output, highest.reasoning, highest.input)


def test_tokens_that_are_given_by_their_numbers_are_fewer_than_their_digits() -> None:
    numbers = list(range(500))
    assert extent("/v1/embeddings", {"input": [numbers, numbers]}).input >= 1000


def test_a_prediction_that_turns_out_wrong_is_paid_for_as_output() -> None:
    body = {**user(), "prediction": {"type": "content", "content": "x" * 5000}, "max_completion_tokens": 10}
    call, text = asked(CHAT, body)
    assert 5000 <= most(extent_of(call, text), call, ceiling=10).output < 5100


def test_tools_come_with_instructions_of_the_provider_s() -> None:
    without, body = extent(MESSAGES, user()), {**user(), "tools": [{"type": "bash_20250124", "name": "bash"}]}
    assert 2 * TOOL_PROMPT + without.input <= extent(MESSAGES, body).input


SEARCHING: list[tuple[str, dict[str, Any], int]] = [
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}, 3),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, SEARCHES),
    (RESPONSES, {"tools": [{"type": "web_search"}], "max_tool_calls": 2}, 2),
    (CHAT, {"web_search_options": {}}, 1),
    (CHAT, {"search_parameters": {"mode": "on"}}, SEARCHES),
    (GEMINI, {"tools": [{"google_search": {}}]}, SEARCHES),
    (RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": []}]}, 0),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "web_search"}}]}, 0),
]


@pytest.mark.parametrize(
    ("path", "more", "searches"),
    SEARCHING,
)
def test_searches_are_counted_up_to_what_the_request_allows(path: str, more: dict[str, Any], searches: int) -> None:
    assert searches == extent(path, {**user(), **more}).searches


def test_sound_is_answered_where_it_is_asked_for_only() -> None:
    highest: list[int] = []
    asking: list[dict[str, Any]] = [
        {},
        {"modalities": ["text", "audio"]},
        {"extra_body": {"modalities": ["audio"]}},
        {"audio": {"voice": "alloy"}},
    ]
    for more in asking:
        call, text = asked(CHAT, {**user(), **more})
        highest.append(most(extent_of(call, text), call, ceiling=9).audio_output)
    assert [0, 9, 9, 9] == highest
    assert extent(GEMINI, {"contents": [], "generationConfig": {"responseModalities": ["AUDIO"]}}).speaks


CACHING: list[tuple[str, dict[str, Any], tuple[bool, bool]]] = [
    (MESSAGES, {}, (False, False)),
    (MESSAGES, {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, (True, False)),
    (MESSAGES, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, (True, True)),
    (MESSAGES, {"tools": [{"name": "f", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, (True, True)),
    (CONVERSE, {"system": [{"cachePoint": {"type": "default"}}]}, (True, False)),
    (CHAT, {}, (True, False)),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "cache_control": {"ttl": "1h"}}}]}, (True, True)),
]


@pytest.mark.parametrize(
    ("path", "more", "caches"),
    CACHING,
)
def test_what_is_written_to_a_cache_is_counted_where_it_may_be(path: str, more: dict[str, Any], caches: tuple[bool, bool]) -> None:
    call, text = asked(path, {**user(), **more})
    found = extent_of(call, text)
    assert caches == (found.caches, found.caches_1h)
    highest = most(found, call, ceiling=5)
    assert [highest.input if cached else 0 for cached in caches] == [highest.cache_write, highest.cache_write_1h]


def test_pictures_to_be_made_count_one_by_one_and_in_tokens() -> None:
    call, text = asked("/v1/images/generations", {"prompt": "a cat", "n": 4})
    highest = most(extent_of(call, text), call, ceiling=9)
    assert (4, 4 * PICTURE_MADE, 4 * PICTURE_MADE, 0) == (highest.images, highest.output, highest.image_output, highest.audio_output)


def test_pictures_to_be_edited_count_as_shown_and_as_made() -> None:
    found = extent("/v1/images/edits", form({"model": "gpt-image-1", "n": "2", "prompt": "x"}, image=b"1", mask=b"2"), boundary="b")
    assert (2, 2 * PICTURE) == (found.images, found.image_input)


def test_speech_counts_by_characters_and_in_tokens() -> None:
    call, text = asked("/v1/audio/speech", {"input": "é" * 100, "voice": "alloy"})
    highest = most(extent_of(call, text), call, ceiling=9)
    assert 100 == highest.characters
    assert 800 == highest.output == highest.audio_output


def test_an_upload_of_sound_counts_by_the_seconds_that_it_may_last() -> None:
    call, text = asked("/v1/audio/transcriptions", form({"model": "whisper-1"}, file=b"x" * SLOWEST * 60), boundary="b")
    highest = most(extent_of(call, text), call, ceiling=100)
    assert (61, 61 * SECOND) == (highest.seconds, highest.audio_input)
    assert highest.output > 100


def test_sound_that_is_only_pointed_to_is_taken_for_a_long_one() -> None:
    address = {"model": "whisper-1", "url": "https://example.com/a.mp3"}
    bounds = [
        extent("/v1/audio/transcriptions", form(address), boundary="b"),
        extent("/v1/audio/transcriptions", form(address, file=b"x"), boundary="b"),
        extent("/v1/audio/transcriptions", form({"model": "whisper-1"}), boundary="b"),
        extent("/v1/audio/transcriptions", address),
    ]
    assert all(4 * 3600 <= found.seconds < 5 * 3600 for found in bounds)


def test_what_is_ranked_counts_by_the_hundred_documents_and_with_the_query_for_each() -> None:
    found = extent("/v1/rerank", {"query": "q" * 50, "documents": ["d"] * 250})
    assert (3, 0) == (found.searches, found.answers)
    assert 250 * 50 <= found.input
    long = extent("/v1/rerank", {"query": "q", "documents": ["word " * 50_000]})
    assert long.searches >= 5


def test_a_film_counts_by_its_seconds() -> None:
    assert [8, 60] == [extent("/v1/videos", {"prompt": "x", **more}).seconds for more in ({"seconds": "8"}, {})]


def test_a_body_of_more_values_than_are_looked_at_is_taken_for_anything() -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 40_000}]}
    found = extent(CHAT, body)
    assert found.elsewhere
    assert len(json.dumps(body)) <= found.input
    many = extent("/v1/completions", {"prompt": [""] * 60_000})
    assert many.answers >= 60_000
    tokens = extent("/v1/embeddings", {"input": [1] * 60_000})
    assert (False, 0) == (tokens.elsewhere, tokens.answers)


@pytest.mark.parametrize("ceiling", [0, MAX_CEILING + 1])
def test_a_ceiling_that_no_model_has_is_refused(ceiling: int) -> None:
    with pytest.raises(Denial) as refused:
        extent(CHAT, {**user(), "max_tokens": ceiling})
    assert "output_ceiling_invalid" == refused.value.reason
    assert 1 == extent(CHAT, {**user(), "max_tokens": MAX_CEILING}).answers


@pytest.mark.parametrize("body", [b"[]", b"{", b"5", b'{"a":"\xff"}', b"--", b"--b\r\nx", b"--b\r\n\r\n\r\n--b--x"])
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(Denial) as refused:
        extent_of(LLMCall(dialect="openai", operation="chat"), body)
    assert "request_malformed" == refused.value.reason


def test_no_count_is_above_what_any_store_counts_exactly() -> None:
    call = LLMCall(dialect="openai", operation="chat", choices=2**31)
    highest = most(Extent(input=MAX_COUNT, answers=2**31), call, ceiling=MAX_CEILING, overhead=5)
    assert (MAX_COUNT, MAX_COUNT) == (highest.input, highest.output)


def test_the_highest_usage_of_one_model_names_it() -> None:
    assert "m" == most(Extent(input=1), LLMCall(dialect="openai", operation="chat", models=("m",)), ceiling=1).model
    assert most(Extent(input=1), LLMCall(dialect="openai", operation="chat", models=("m", "n")), ceiling=1).model is None
    assert 0 == most(Extent(input=1), LLMCall(dialect="anthropic", operation="messages"), ceiling=1).images


def test_usage_within_an_extent_counts_one_request() -> None:
    assert Usage().requests == most(Extent(input=1), LLMCall(dialect="openai", operation="chat"), ceiling=1).requests
