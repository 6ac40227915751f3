import json

import pytest

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm.batch_lines import MAX_LINES
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request

TRANSCRIPTIONS = Operations().find("POST", "/v1/audio/transcriptions")
FILES = Operations().find("POST", "/v1/files")


def form(fields: list[tuple[str, str | bytes]], file: bytes | None = None, file_field: str = "file") -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in fields
    ]
    if file is not None:
        parts.append(
            b'--x\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\nContent-Type: application/octet-stream\r\n\r\n%b\r\n'
            % (file_field.encode(), file)
        )
    return b"".join(parts) + b"--x--\r\n"


def read(body: bytes, found: object = TRANSCRIPTIONS) -> LLMCall:
    return read_request(found, content_type=b"multipart/form-data; boundary=x", body=body)  # type: ignore[arg-type]


def reason(body: bytes, found: object = TRANSCRIPTIONS) -> str:
    with pytest.raises(Denial) as refused:
        read(body, found)
    return refused.value.reason


def test_the_fields_of_a_form_mean_what_those_of_json_do() -> None:
    body = form([("model", "whisper-1"), ("stream", "True"), ("n", "2"), ("user", "ada"), ("temperature", "0")], b"\xff\x00model")
    call = read(body)
    assert (("whisper-1",), True, 2, "ada") == (call.models, call.streaming, call.choices, call.end_user)


@pytest.mark.parametrize(
    "fields",
    [
        [("models", '["a","secret"]')],
        [("models[]", "a"), ("models[]", "secret")],
        [("target_model_names", "a, secret")],
        [("target_model_names[0]", "secret")],
        [("fallbacks", '[{"a":["secret"]}]')],
        [("extra_body", '{"model":"secret"}')],
        [("session", '{"type":"realtime","model":"secret"}')],
    ],
)
def test_every_field_that_names_models_counts(fields: list[tuple[str, str | bytes]]) -> None:
    assert "secret" in read(form([("model", "whisper-1"), *fields])).models


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("model", "a"), ("model", "b")], "request_malformed"),
        ([("model", "a"), ("Model", "b")], "request_malformed"),
        ([("model", "a b")], "model_malformed"),
        ([("model", '["a"]')], "model_malformed"),
        ([("model", b"\xff")], "request_malformed"),
        ([("model[name]", "a")], "request_field_invalid"),
        ([("extra_body[model]", "a")], "request_field_invalid"),
        ([("extra_body", "model=a")], "request_field_invalid"),
        ([("fallbacks", '["a"],"model":"b"')], "model_malformed"),
        ([("api_base", "https://attacker.example")], "request_field_not_allowed"),
        ([("n", "-1")], "request_field_invalid"),
        ([("n", "many")], "request_field_invalid"),
        ([("stream", "maybe")], "request_field_invalid"),
        ([("purpose", "batch"), ("purpose", "assistants")], "request_malformed"),
        ([("Purpose", "batch"), ("purpose", "assistants")], "request_malformed"),
    ],
)
def test_a_form_that_is_no_clear_request_is_refused(fields: list[tuple[str, str | bytes]], expected: str) -> None:
    assert expected == reason(form(fields))


def test_a_file_in_the_place_of_a_name_is_refused() -> None:
    assert "request_field_invalid" == reason(form([], b"secret", file_field="model"))


def test_a_form_may_say_things_that_nobody_here_reads() -> None:
    body = form([("model", "a"), ("include[]", "logprobs"), ("include[]", "x"), ("metadata[user_id]", "ada"), ("language", "en")])
    assert ("a",) == read(body).models


def lines(*requests: object) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def test_every_line_of_a_batch_file_is_a_request() -> None:
    content = lines(
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "a", "max_tokens": 7}},
        {"custom_id": "2", "method": "POST", "url": "/openai/deployments/b/chat/completions", "body": {}},
        {"recordId": "3", "modelInput": {"model": "c"}},
        {"key": "4", "request": {"model": "d"}},
        {"custom_id": "5", "params": {"model": "e"}},
    )
    call = read(form([("purpose", "batch")], content), FILES)
    assert ({"a", "b", "c", "d", "e"}, 7) == (set(call.models), call.max_output_tokens)
    assert ("z",) == read(form([("purpose", "batch")], b'\r\n{"body":{"model":"z"}}\r\n\n'), FILES).models


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "request_malformed"),
        (b'{"body":{"model":"a"}}\n{"body":{"model":"a","model":"b"}}', "request_malformed"),
        (b'{"body":{"model":"a"},"body":{"model":"b"}}', "request_malformed"),
        (b'{"body":{"model":"a"}} {"body":{"model":"b"}}', "request_malformed"),
        (b'{"body":{"api_key":"x"}}', "request_field_not_allowed"),
        (b'{"url":"/v1/../x","body":{}}', "request_field_invalid"),
        (b'{"url":["/v1"],"body":{}}', "request_field_invalid"),
        (b'{"body":{"model":""}}', "model_malformed"),
        (b"\n" * (MAX_LINES + 2), "body_too_large"),
    ],
)
def test_a_batch_file_with_a_line_that_is_no_clear_request_is_refused(content: bytes, expected: str) -> None:
    assert expected == reason(form([("purpose", "batch")], content), FILES)


def test_the_content_of_other_files_is_not_looked_at() -> None:
    assert () == read(form([("purpose", "assistants")], b'{"body":{"model":"a"}}\xff'), FILES).models
