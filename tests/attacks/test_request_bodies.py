"""Bodies that two programs read in two ways, and fields that send a request elsewhere (attacks on the model allow-list and on limits)."""

import contextlib
import gzip
import json
import zlib

import msgspec
import pytest

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.body_fields import INSIDE_BATCHES, ROUTING
from llm_authmw.llm.encodings import decoded
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.reading import READERS
from llm_authmw.llm.requests import read_request

CHAT = Operations().find("POST", "/v1/chat/completions")
TRANSCRIPTION = Operations().find("POST", "/v1/audio/transcriptions")
GEMINI = Operations().find("POST", "/v1beta/models/gemini-2.5-pro:generateContent")


def read(body: object, *, content_type: bytes | None = b"application/json") -> LLMCall:
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return read_request(CHAT, content_type=content_type, body=text)


def refused(body: object, *, content_type: bytes | None = b"application/json") -> tuple[int, str]:
    with pytest.raises(Denial) as denied:
        read(body, content_type=content_type)
    return denied.value.status, denied.value.reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","model":"secret"}',
        b'{"model":"cheap","mod\\u0065l":"secret"}',
        b'{"model":"cheap"}{"model":"secret"}',
        b'{"model":"cheap"} trailing',
        b'{"model":"cheap"}\x00',
        b'\xef\xbb\xbf{"model":"cheap"}',
        '{"model":"cheap"}'.encode("utf-16"),
        '{"model":"cheap"}'.encode("utf-32-le"),
        b'{"model":"cheap","temperature":NaN}',
        b'{"model":"cheap",/* "model":"secret" */"n":1}',
        b'{"model":"cheap","x":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"model":"cheap","messages":[{"content":"\xff"}]}',
        b'{"extra_body":{"model":"cheap","model":"secret"}}',
        b'{"fallbacks":[{"model":"cheap","model":"secret"}]}',
        b'{"tools":[{"type":"function","type":"web_search","name":"x"}]}',
        b'[{"model":"cheap"}]',
        b'"model"',
        b"null",
        b"model=cheap",
    ],
)
def test_a_body_that_two_parsers_read_in_two_ways_is_refused(body: bytes) -> None:
    assert (400, "request_malformed") == refused(body)


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json; charset=utf-16",
        b"application/json; charset=utf-8; charset=utf-7",
        b"application/json, text/plain",
        b"application/json; x=form",
        b"application/merge-patch+json",
        b"application/jsonl",
        b"",
        b"json",
    ],
)
def test_json_under_another_type_is_refused(content_type: bytes) -> None:
    assert (415, "content_type_not_accepted") == refused({"model": "cheap"}, content_type=content_type)


@pytest.mark.parametrize(
    "content_type", [None, b"application/json", b'Application/JSON ; charset="UTF-8"', b"application/json;charset=utf-8"]
)
def test_json_under_its_own_type_or_none_is_read(content_type: bytes | None) -> None:
    assert ("cheap",) == read({"model": "cheap"}, content_type=content_type).models


@pytest.mark.parametrize("field", sorted(ROUTING))
def test_a_field_that_chooses_where_a_request_goes_is_refused(field: str) -> None:
    assert (400, "request_field_not_allowed") == refused({"model": "cheap", field: "x"})
    assert (400, "request_field_not_allowed") == refused({"extra_body": {field: {"a": 1}}})
    assert (400, "request_field_not_allowed") == refused({"fallbacks": [{"model": "cheap", field: "x"}]})
    assert ("cheap",) == read({"model": "cheap", field: None}).models


def test_a_field_that_chooses_where_a_request_goes_may_be_let_through_by_name() -> None:
    body = msgspec.json.encode({"model": "cheap", "api_key": "sk-own", "api_base": "https://own.example"})
    with pytest.raises(Denial) as denied:
        read_request(CHAT, content_type=None, body=body, allowed_fields={"api_key"})
    assert "a request without api_base" == denied.value.need
    assert ("cheap",) == read_request(CHAT, content_type=None, body=body, allowed_fields={"api_key", "api_base"}).models


@pytest.mark.parametrize("value", [-1, 1.5, 10.0, True, False, "100", 2**31 + 1, 10**30, [], {}, [5]])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"])
def test_a_ceiling_that_is_no_plain_number_is_refused(field: str, value: object) -> None:
    assert (400, "request_field_invalid") == refused(json.dumps({"model": "cheap", field: value}).encode())


@pytest.mark.parametrize("text", [b"1e999", b"-0.0", b"1e2", b"99999999999999999999999"])
def test_a_number_in_another_notation_is_refused(text: bytes) -> None:
    assert 400 == refused(b'{"max_tokens":%b}' % text)[0]


def test_of_several_ceilings_the_largest_counts() -> None:
    body = {"max_tokens": 5, "max_completion_tokens": 70, "extra_body": {"max_tokens": 900}, "options": {"num_predict": 8}}
    assert 900 == read(body).max_output_tokens
    gemini = {"generationConfig": {"maxOutputTokens": 7, "candidateCount": 3}, "generation_config": {"max_output_tokens": 9}}
    call = read_request(GEMINI, content_type=None, body=msgspec.json.encode(gemini))
    assert (9, 3) == (call.max_output_tokens, call.choices)
    assert 4 == read({"n": 2, "best_of": 4}).choices
    assert read({"max_tokens": None}).max_output_tokens is None
    assert read({"max_tokens": 5, "max_response_output_tokens": "inf"}).max_output_tokens is None


@pytest.mark.parametrize("value", ["true", 1, 0, [], {}])
def test_a_stream_is_asked_for_by_true_or_false_only(value: object) -> None:
    assert (400, "request_field_invalid") == refused({"stream": value})


def test_what_is_merged_into_the_body_is_an_object() -> None:
    assert (400, "request_field_invalid") == refused({"extra_body": '{"model":"secret"}'})


def test_who_the_request_is_for_is_a_label_and_nothing_else() -> None:
    assert "ada" == read({"user": "ada"}).end_user
    assert "bob" == read({"metadata": {"user_id": "bob"}}).end_user
    assert "ada" == read({"metadata": {"user_id": "bob"}, "user": "ada"}).end_user
    for value in ({"id": 1}, 7, "a\nb", "", " a", "x" * 513):
        assert read({"user": value}).end_user is None


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("deflate", 15)])
def test_a_compressed_body_is_decoded_within_a_bound(coding: str, window: int) -> None:
    def packed(data: bytes) -> bytes:
        packer = zlib.compressobj(wbits=window)
        return packer.compress(data) + packer.flush()

    assert b"x" * 1000 == decoded(coding, packed(b"x" * 1000), 1000)
    with pytest.raises(Denial) as denied:
        decoded(coding, packed(b"x" * 50_000_000), 1000)
    assert "body_too_large" == denied.value.reason
    for body in (packed(b"{}") + packed(b"{}"), packed(b"{}")[:-1], packed(b"{}") + b"x", b"{}"):
        with pytest.raises(Denial) as denied:
            decoded(coding, body, 1000)
        assert "request_malformed" == denied.value.reason


@pytest.mark.parametrize("name", sorted({*READERS, *INSIDE_BATCHES, "x"}))
@pytest.mark.parametrize(("opens", "closes"), [(b"%b", b""), (b"[%b", b"]"), (b'{"x":%b', b"}"), (b'[{"model":"m","x":%b', b"}]")])
def test_objects_within_objects_are_each_read_once(name: str, opens: bytes, closes: bytes) -> None:
    # Were one read twice at each level, this would not end.
    opening, _ = opens.split(b"%b")
    levels = 60 // (1 + opening.count(b"[") + opening.count(b"{"))
    text = b'{"%b":%b' % (name.encode(), opening) * levels + b'"m"' + (closes + b"}") * levels
    for outer in ("fallbacks", "requests", "extra_body"):
        with contextlib.suppress(Denial):
            read(b'{"%b":%b}' % (outer.encode(), text))


def test_a_stream_without_its_frame_is_not_taken_for_deflate() -> None:
    with pytest.raises(Denial):
        decoded("deflate", zlib.compress(b"{}", wbits=-15), 1000)
    assert b"" == decoded("gzip", b"", 10)
    assert b"{}" == decoded("gzip", gzip.compress(b"{}"), 10)


def test_a_form_is_no_way_around_the_type_of_an_operation() -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
    call = read_request(TRANSCRIPTION, content_type=b"multipart/form-data; boundary=x", body=form)
    assert ("whisper-1",) == call.models
    assert (415, "content_type_not_accepted") == refused(form, content_type=b"multipart/form-data; boundary=x")
