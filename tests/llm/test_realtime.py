import json

import pytest

from llm_authmw.errors import Denial
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.realtime import read_frame

REALTIME = Operations().find("WS", "/v1/realtime")


@pytest.mark.parametrize(
    ("event", "models"),
    [
        ({"type": "session.update", "session": {"model": "a"}}, ("a",)),
        ({"type": "session.update", "session": {"input_audio_transcription": {"model": "a"}}}, ("a",)),
        ({"type": "response.create", "response": {"model": "a", "max_output_tokens": "inf"}}, ("a",)),
        ({"type": "response.create", "model": "a"}, ("a",)),
        ({"setup": {"model": "a"}}, ("a",)),
    ],
)
def test_a_frame_that_names_a_model_is_a_call(event: object, models: tuple[str, ...]) -> None:
    text = json.dumps(event)
    for call in (read_frame(REALTIME, text, None), read_frame(REALTIME, None, text.encode())):
        assert call is not None
        assert (models, False, "realtime") == (call.models, call.needs_model, call.operation)
    escaped = text.replace('"model"', '"\\u006dodel"')
    call = read_frame(REALTIME, escaped, None)
    assert call is not None
    assert models == call.models


def test_a_frame_with_a_tool_that_the_provider_runs_is_a_call() -> None:
    call = read_frame(REALTIME, '{"type":"session.update","session":{"tools":[{"type":"mcp","server_url":"https://x"}]}}', None)
    assert call is not None
    assert ("mcp:https://x",) == call.tools


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"type":"input_audio_buffer.append","audio":"bW9kZWw="}', None),
        ('{"type":"conversation.item.create","item":{"content":"which model are you?"}}', None),
        ("ping", None),
        ("", None),
        (None, b"\x00\x01\xff" * 1000),
        (None, None),
    ],
)
def test_a_frame_that_names_nothing_is_no_call(text: str | None, data: bytes | None) -> None:
    assert read_frame(REALTIME, text, data) is None


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ('{"session":{"model":"a"}', None),
        ('{"session":{"model":"a","model":"b"}}', None),
        ('[{"session":{"model":"a"}}]', None),
        ('\ufeff{"session":{"model":"a"}}', None),
        ('{"session":{"model":"a"}}{"session":{"model":"b"}}', None),
        ('{"Session":{"model":"a"}}', None),
        (None, '{"session":{"model":"a"}}'.encode("utf-16")),
        (None, '{"session":{"model":"a"}}'.encode("utf-32-be")),
        (None, b'{"session":{"model":"a"},"x":"\xff"}'),
        ('{"x":"\ud800","model":"a"}', None),
    ],
)
def test_a_frame_that_may_name_a_model_and_cannot_be_read_is_refused(text: str | None, data: bytes | None) -> None:
    with pytest.raises(Denial) as refused:
        read_frame(REALTIME, text, data)
    assert "request_malformed" == refused.value.reason
