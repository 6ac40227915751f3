import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.llm.operation import Found
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request
from llm_authmw.llm.rewriting import with_ceiling, with_usage_asked

OPERATIONS = Operations()


def found(path: str) -> Found:
    operation = OPERATIONS.find("POST", path)
    assert operation is not None
    return operation


CHAT = found("/v1/chat/completions")
GEMINI = found("/v1beta/models/gemini-2.5-pro:generateContent")
PATHS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
    "/v1/complete": "max_tokens_to_sample",
    "/v1beta/models/gemini-2.5-pro:streamGenerateContent": "generationConfig.maxOutputTokens",
    "/model/anthropic.claude-v2/converse": "inferenceConfig.maxTokens",
    "/api/chat": "options.num_predict",
    "/v2/chat": "max_tokens",
}
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**6) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OTHERS = st.dictionaries(st.text(alphabet='qxyzé\\"\n', min_size=1), VALUES, max_size=4)


def nested(path: str, value: object) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def spaced(body: dict[str, Any]) -> bytes:
    return json.dumps(body, indent=1, ensure_ascii=False).encode()


@given(
    st.sampled_from(sorted(PATHS)),
    OTHERS,
    st.none() | st.integers(1, 9000),
    st.integers(1, 9000),
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), max_size=3),
)
def test_a_body_with_a_lower_ceiling_reads_as_the_same_request_but_for_that(
    path: str, others: dict[str, Any], named: int | None, ceiling: int, turns: list[tuple[str, str]]
) -> None:
    operation = found(path)
    messages = [{"role": role, "content": text} for role, text in turns]
    body = spaced({"model": "m", **others, "messages": messages, "n": 2, **({} if named is None else nested(PATHS[path], named))})
    call = read_request(operation, content_type=None, body=body)
    written = with_ceiling(operation, body, ceiling)
    if named is not None and named <= ceiling:
        assert written is None
        return
    assert written is not None
    assert msgspec.structs.replace(call, max_output_tokens=ceiling) == read_request(operation, content_type=None, body=written)
    assert {**json.loads(body), **nested(PATHS[path], ceiling)} == json.loads(written)


@given(OTHERS, st.sampled_from([None, {}, {"include_usage": False}, {"include_obfuscation": False}, {"x": [1.0]}]))
def test_a_body_that_asks_for_usage_reads_as_the_same_request(others: dict[str, Any], options: object) -> None:
    body = spaced({"model": "m", "stream": True, **others, "stream_options": options})
    written = with_usage_asked(body)
    assert written is not None
    assert read_request(CHAT, content_type=None, body=body) == read_request(CHAT, content_type=None, body=written)
    asked: dict[str, Any] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    assert {**json.loads(body), "stream_options": asked} == json.loads(written)


def test_every_other_member_keeps_its_bytes() -> None:
    body = b'{ "model":"m", "messages":[ {"content" : "\\u0041 \xc3\xa9","x":1.50e+3} ], "max_tokens": 99,"stream":true }'
    kept = b'[ {"content" : "\\u0041 \xc3\xa9","x":1.50e+3} ]'
    assert b'{"model":"m","messages":%b,"max_tokens":5,"stream":true}' % kept == with_ceiling(CHAT, body, 5)
    assert b'{"model":"m","messages":%b,"max_tokens": 99,"stream":true,"stream_options":{"include_usage":true}}'.replace(
        b": 99", b":99"
    ) % (kept) == with_usage_asked(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":false}',
        b'{"stream":"true"}',
        b"{}",
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":true,"stream_options":{"include_usage":false,"include_usage":false}}',
        b'{"stream":true,"stream":true}',
        b"[]",
        b"",
    ],
)
def test_a_body_that_asks_already_or_asks_for_no_stream_stays_as_it_is(body: bytes) -> None:
    assert with_usage_asked(body) is None


def test_all_ceilings_that_are_there_are_lowered_and_none_is_raised() -> None:
    body = b'{"max_tokens":90,"max_completion_tokens":4}'
    assert b'{"max_tokens":5,"max_completion_tokens":4}' == with_ceiling(CHAT, body, 5)
    assert b'{"max_tokens":5,"model":"m"}' == with_ceiling(CHAT, b'{"max_tokens":90,"model":"m"}', 5)
    assert with_ceiling(CHAT, body, 90) is None


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b"{}", b'{"generationConfig":{"maxOutputTokens":5}}'),
        (b'{"generationConfig":null}', b'{"generationConfig":{"maxOutputTokens":5}}'),
        (b'{"generationConfig":{"topK": 1}}', b'{"generationConfig":{"topK":1,"maxOutputTokens":5}}'),
        (b'{"generation_config":{"topK":1}}', b'{"generation_config":{"topK":1,"maxOutputTokens":5}}'),
        (b'{"generation_config":{"max_output_tokens":9}}', b'{"generation_config":{"max_output_tokens":5}}'),
    ],
)
def test_a_ceiling_goes_into_the_settings_that_are_there(body: bytes, written: bytes) -> None:
    assert written == with_ceiling(GEMINI, body, 5)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b'{"extra_body":{"max_tokens":900}}'),
        ("/v1/chat/completions", b'{"max_tokens":9,"options":{"num_predict":900}}'),
        ("/v1/chat/completions", b"[]"),
        ("/v1/chat/completions", b'{"max_tokens":9,"max_tokens":9}'),
        ("/v1beta/models/g:generateContent", b'{"generationConfig":[]}'),
        ("/model/amazon.titan/invoke", b'{"inputText":"x"}'),
        ("/v1beta/models/m:predict", b'{"instances":[]}'),
        ("/v1/audio/transcriptions", b"{}"),
        ("/v1/rerank", b"{}"),
    ],
)
def test_where_nobody_knows_how_to_lower_a_ceiling_nothing_is_written(path: str, body: bytes) -> None:
    assert with_ceiling(found(path), body, 5) is None


@pytest.mark.parametrize("ceiling", [0, -1])
def test_a_ceiling_of_nothing_is_not_written(ceiling: int) -> None:
    assert with_ceiling(CHAT, b"{}", ceiling) is None


def test_a_model_of_bedrock_s_has_the_ceiling_lowered_that_it_names() -> None:
    written = with_ceiling(found("/model/amazon.titan/invoke"), b'{"textGenerationConfig":{"maxTokenCount":900}}', 5)
    assert b'{"textGenerationConfig":{"maxTokenCount":5}}' == written
