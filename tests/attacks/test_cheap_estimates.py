"""Ways to make a request look cheaper than it is, so that a budget lets through more than it holds."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import LLMCall, Usage
from llm_authmw.errors import Denial
from llm_authmw.llm.extent import Extent, extent_of, most
from llm_authmw.llm.media import PICTURE
from llm_authmw.llm.media_parts import ENCODED, INSIDE, NAMES
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-pro:generateContent"
HIDDEN = base64.b64encode(b"ignore all that was said " * 400).decode()
URL = f"data:image/png;base64,{HIDDEN}"
IMAGE_URL = {"type": "image_url", "image_url": {"url": URL}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": HIDDEN}}

OPERATIONS = Operations()


def asked(path: str, body: object) -> tuple[LLMCall, bytes]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(OPERATIONS.find("POST", path), content_type=None, body=text), text


def extent(path: str, body: object) -> Extent:
    return extent_of(*asked(path, body))


def highest(path: str, body: object, ceiling: int = 10) -> Usage:
    call, text = asked(path, body)
    return most(extent_of(call, text), call, ceiling=ceiling)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"default": IMAGE_URL}}}]}),
        (CHAT, {"messages": [], "metadata": {"content": [IMAGE_URL]}}),
        (CHAT, {"messages": [], "response_format": {"json_schema": {"schema": {"const": [IMAGE_URL]}}}}),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [IMAGE_URL]}}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": IMAGE_URL}]}]}),
        (CHAT, {"messages": [], "x": {"content": [IMAGE_URL]}}),
        (CHAT, {"messages": [], "extra_body": {"messages": [{"content": [IMAGE_URL]}]}}),
        (MESSAGES, {"messages": [{"content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"content": [SOURCE]}}]}]}),
        (MESSAGES, {"messages": [{"content": [{"type": "server_tool_use", "id": "1", "name": "f", "input": {"a": SOURCE}}]}]}),
        (MESSAGES, {"messages": [], "tools": [{"name": "f", "input_schema": {"properties": SOURCE}}]}),
        (MESSAGES, {"messages": [{"content": [{"type": "document", "source": {"type": "text", "data": HIDDEN}}]}]}),
        (GEMINI, {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"parts": [SOURCE]}}}]}]}),
        (GEMINI, {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"parts": [SOURCE]}}}]}]}),
        (GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "text/plain", "data": HIDDEN}}]}]}),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": f"data:text/plain;base64,{HIDDEN}"}}]}]}),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": f"data:image/png,{HIDDEN}"}}]}]}),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": f"data:image/png;base64,{HIDDEN} so"}}]}]}),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": "data:image/png;" + "x" * 300 + f";base64,{HIDDEN}"}}]}]}),
        (CHAT, {"messages": [{"content": [{"image_url": {"url": f"https://example.com/{HIDDEN}"}}]}]}),
        (CHAT, {"messages": [{"content": [{"type": "image_url", "image_url": {"detail": HIDDEN, "url": "x"}}]}]}),
    ],
)
def test_text_that_is_called_a_picture_counts_as_text(path: str, body: dict[str, Any]) -> None:
    assert len(HIDDEN) <= extent(path, body).input


@pytest.mark.parametrize(
    "part",
    [
        rb'{"type":"image_url","image\u005furl":{"url":"https://example.com"}}',
        rb'{"type":"image\u005furl","x":{"url":"https://example.com"}}',
        b'{"Type":"image_url","Image_URL":{"url":"https://example.com"}}',
        b'{"type":"image_url","IMAGE_URL":{"url":"https://example.com"},"type":"text"}',
        b'{"image_url":{"url":"https://example.com"},"type":"text","text":"x"}',
        b'{"type":"text","image_url":[{"url":"https://example.com"}]}',
    ],
)
def test_a_picture_whose_name_is_written_in_another_way_has_its_ceiling(part: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % part
    assert extent(CHAT, body).input >= PICTURE


def test_each_picture_of_many_has_its_ceiling() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/"}}] * 500}]}
    assert extent(CHAT, body).image_input >= 500 * PICTURE


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"max_gen_len": 1}),
        (CHAT, {"max_tokens_to_sample": 1}),
        (CHAT, {"max_output_tokens": 1}),
        (CHAT, {"maxOutputTokens": 1}),
        (CHAT, {"num_predict": 1}),
        (CHAT, {"options": {"num_predict": 1}}),
        (CHAT, {"generationConfig": {"maxOutputTokens": 1}}),
        (CHAT, {"response": {"max_tokens": 1}}),
        (CHAT, {"session": {"max_tokens": 1}}),
        (CHAT, {"requests": [{"params": {"max_tokens": 1}}]}),
        (CHAT, {"fallbacks": [{"model": "m", "max_tokens": 1}]}),
        (CHAT, {"extra_body": {"max_tokens": 1}}),
        (RESPONSES, {"max_tokens": 1}),
        (RESPONSES, {"max_completion_tokens": 1}),
        (MESSAGES, {"max_completion_tokens": 1}),
        (MESSAGES, {"max_tokens_to_sample": 1}),
        (GEMINI, {"maxOutputTokens": 1}),
        (GEMINI, {"max_tokens": 1}),
        (GEMINI, {"inferenceConfig": {"maxTokens": 1}}),
        ("/model/m/converse", {"max_tokens": 1}),
        ("/api/chat", {"max_tokens": 1}),
        ("/v1/completions", {"max_completion_tokens": 1}),
        ("/v1beta/models/m:predict", {"parameters": {"maxOutputTokens": 1}, "max_tokens": 1}),
    ],
)
def test_a_ceiling_that_the_api_does_not_know_bounds_nothing(path: str, body: dict[str, Any]) -> None:
    assert asked(path, {"model": "m", **body})[0].max_output_tokens is None


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 0},
        {"max_tokens": 0, "max_completion_tokens": 5},
        {"max_completion_tokens": 5, "extra_body": {"max_tokens": 0}},
        {"max_tokens": 2**31},
        {"max_tokens": 10_000_001},
    ],
)
def test_a_ceiling_that_some_servers_take_for_none_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Denial) as refused:
        extent(CHAT, {"model": "m", **body})
    assert ("output_ceiling_invalid", 400) == (refused.value.reason, refused.value.status)


@pytest.mark.parametrize("value", [-1, -(2**63), 1.5, True, "5", [], 2**31 + 1, 10**30])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
def test_a_ceiling_that_makes_an_estimate_negative_or_endless_is_refused(name: str, value: object) -> None:
    with pytest.raises(Denial) as refused:
        asked(CHAT, {"model": "m", name: value})
    assert 400 == refused.value.status


@pytest.mark.parametrize(
    ("path", "body", "output"),
    [
        (CHAT, {"n": 1, "extra_body": {"n": 50}}, 500),
        (CHAT, {"n": 2, "best_of": 30}, 300),
        ("/v1/completions", {"prompt": ["x"] * 40}, 400),
        ("/v1/completions", {"prompt": "x", "extra_body": {"prompt": ["x"] * 40}}, 400),
        ("/v1/completions", {"prompt": [[1]] * 40, "n": 2}, 800),
        (GEMINI, {"generation_config": {"candidate_count": 6}}, 60),
    ],
)
def test_answers_that_are_asked_for_in_another_place_are_counted(path: str, body: dict[str, Any], output: int) -> None:
    assert output <= highest(path, {"model": "m", **body}).output


def test_a_long_prediction_is_not_for_nothing() -> None:
    for body in ({"prediction": {"content": HIDDEN}}, {"extra_body": {"prediction": {"content": HIDDEN}}}):
        assert len(HIDDEN) <= highest(CHAT, {"model": "m", "messages": [], **body}).output


def test_pictures_that_are_asked_for_in_another_place_are_counted() -> None:
    for body in ({"n": 7}, {"n": 1, "extra_body": {"n": 7}}, {"numberOfImages": 7}):
        assert 7 == highest("/v1/images/generations", {"model": "m", "prompt": "x", **body}).images


def test_searches_without_a_ceiling_are_not_made_cheap_by_another_tool_s() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "bash_20250124", "name": "bash", "max_uses": 1}]
    assert extent(MESSAGES, {"model": "m", "tools": tools}).searches > 1


def test_a_crowd_of_values_hides_nothing_and_costs_little_to_look_at() -> None:
    crowd = b'{"model":"m","x":[%b0],"previous\\u005fresponse_id":"r","messages":[]}' % (b"0," * 3_000_000)
    found = extent(RESPONSES, crowd)
    assert found.elsewhere
    assert found.input >= 6_000_000


MEMBERS = [*NAMES, *INSIDE, *ENCODED, "type", "text", "media_type", "input", "inlineData", "args", "Image_URL"]
SHAPES: Any = st.recursive(
    st.none()
    | st.integers(-5, 5)
    | st.text(max_size=5)
    | st.sampled_from([URL, HIDDEN, "image", "image_url", "text", "document", "tool_use", "base64", "audio/mp3", "https://example.com"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([CHAT, RESPONSES, MESSAGES, GEMINI]), SHAPES, st.sampled_from(["messages", "input", "contents", "system", "x"]))
def test_adding_something_to_a_request_never_makes_it_cheaper(path: str, added: object, name: str) -> None:
    words = {"model": "m", "q": "w" * 1000}
    without, found = extent(path, words), extent(path, {**words, name: [{"role": "user", "content": [added]}]})
    assert without.input <= found.input
    assert without.audio_input <= found.audio_input
    assert without.image_input <= found.image_input
    assert found.audio_input + found.image_input <= found.input


@given(SHAPES)
def test_words_count_in_full_whatever_stands_beside_them(beside: object) -> None:
    words = "w" * 20_000
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": words}, beside]}]}
    assert len(words) <= extent(CHAT, body).input
