"""Every place that can name a model: whoever reads the request, the model that it runs is one that was looked at."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import Denial
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.requests import read_request, reading_of
from llm_authmw.strict_json import is_array, is_object

CHAT = Operations().find("POST", "/v1/chat/completions")


def models(body: object) -> tuple[str, ...]:
    return read_request(CHAT, content_type=b"application/json", body=msgspec.json.encode(body)).models


SOURCES: dict[str, object] = {
    "model": {"model": "secret"},
    "models": {"models": ["cheap", "secret"]},
    "models as objects": {"models": [{"model": "secret"}]},
    "deployment_id": {"deployment_id": "secret"},
    "engine": {"engine": "secret"},
    "target_model_names as a list": {"target_model_names": ["secret"]},
    "target_model_names as a text": {"target_model_names": "cheap, secret"},
    "fallbacks as texts": {"fallbacks": ["secret"]},
    "fallbacks as objects": {"fallbacks": [{"model": "secret", "temperature": 0}]},
    "fallbacks as a map": {"fallbacks": [{"cheap": ["secret"]}]},
    "fallbacks as a map of objects": {"fallbacks": [{"*": [{"model": "secret"}]}]},
    "a map that also has a model": {"fallbacks": [{"cheap": ["secret"], "model": "cheap"}]},
    "a map of objects that also has a model": {"fallbacks": [{"cheap": [{"model": "secret"}], "model": "cheap"}]},
    "a map with a name that means something": {"fallbacks": [{"user": ["secret"]}, {"session": ["secret"], "model": "cheap"}]},
    "fallbacks of fallbacks": {"fallbacks": [{"model": "cheap", "fallbacks": ["secret"]}]},
    "context window": {"context_window_fallbacks": [{"cheap": ["secret"]}]},
    "context window dictionary": {"context_window_fallback_dict": {"cheap": "secret"}},
    "content policy": {"content_policy_fallbacks": [{"cheap": ["secret"]}]},
    "default": {"default_fallbacks": ["secret"]},
    "router settings": {"router_settings_override": {"fallbacks": [{"cheap": ["secret"]}]}},
    "extra body": {"extra_body": {"model": "secret"}},
    "extra body in extra body": {"extra_body": {"extra_body": {"fallbacks": ["secret"]}}},
    "a session": {"session": {"model": "secret"}},
    "a session's transcription": {"session": {"audio": {"input": {"transcription": {"model": "secret"}}}}},
    "a session's older transcription": {"session": {"input_audio_transcription": {"model": "secret"}}},
    "a response": {"response": {"model": "secret"}},
    "a setup": {"setup": {"model": "secret"}},
    "an eval's completion": {"completion": {"model": "secret"}},
    "Anthropic's batch": {"requests": [{"custom_id": "1", "params": {"model": "secret"}}]},
    "Gemini's batch": {"requests": [{"model": "secret", "content": {}}]},
    "Gemini's batch of generations": {"batch": {"input_config": {"requests": {"requests": [{"request": {"model": "secret"}}]}}}},
    "a tool": {"tools": [{"type": "image_generation", "model": "secret"}]},
    "a tool's parameters": {"tools": [{"type": "openrouter:fusion", "parameters": {"analysis_models": ["secret"]}}]},
    "a plugin": {"plugins": [{"id": "fusion", "models": ["secret"]}]},
}

CHOOSING = [SOURCES["model"], SOURCES["Anthropic's batch"], SOURCES["Gemini's batch"], SOURCES["Gemini's batch of generations"]]


@pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in SOURCES.items() if body not in CHOOSING])
def test_whoever_is_behind_chooses_where_models_are_named_beside_only(body: dict[str, object]) -> None:
    assert read_request(CHAT, content_type=b"application/json", body=msgspec.json.encode(body), named=("cheap",)).leaves_choice


@pytest.mark.parametrize("body", CHOOSING)
def test_the_request_chooses_where_it_names_the_model_that_is_run(body: dict[str, object]) -> None:
    assert not read_request(CHAT, content_type=b"application/json", body=msgspec.json.encode(body)).leaves_choice


def test_the_model_of_a_path_or_of_a_socket_s_handshake_is_the_one_that_is_run() -> None:
    deployment = Operations().find("POST", "/openai/deployments/cheap/chat/completions")
    assert not read_request(deployment, content_type=None, body=b"{}").leaves_choice
    realtime = Operations().find("WS", "/v1/realtime")
    assert not reading_of(realtime, ("cheap",), (), socket=True).call().leaves_choice
    assert reading_of(realtime, (), (), socket=True).call().leaves_choice
    session = Operations().find("POST", "/v1/realtime/sessions")
    assert not read_request(session, content_type=None, body=b'{"session":{"model":"cheap"}}').leaves_choice


@pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in SOURCES.items()])
def test_a_model_is_found_wherever_it_is_named(body: dict[str, object]) -> None:
    assert "secret" in models({"model": "cheap", **body})


@pytest.mark.parametrize(
    "body",
    [
        {"fallbacks": [{"cheap": ["secret"], "api_base": "https://attacker.example"}]},
        {"fallbacks": [{"cheap": [{"api_key": "x"}]}]},
        {"requests": [{"Params": {"model": "secret"}}]},
        {"session": {"audio": {"input": {"Transcription": {"model": "secret"}}}}},
        {"generationConfig": {"MaxOutputTokens": 10**6}},
        {"metadata": {"user_id": "a"}, "extra_body": {"MODEL": "secret"}},
    ],
)
def test_no_place_inside_is_less_strict(body: dict[str, object]) -> None:
    with pytest.raises(Denial) as refused:
        models(body)
    assert 400 == refused.value.status


def test_what_gemini_calls_a_model_in_a_body_is_what_it_is_called_in_a_path() -> None:
    found = Operations().find("POST", "/v1beta/models/gemini-2.5-pro:batchEmbedContents")
    body = {"requests": [{"model": "models/gemini-2.5-pro"}, {"model": "models/secret"}]}
    call = read_request(found, content_type=None, body=msgspec.json.encode(body))
    assert ("gemini-2.5-pro", "secret") == call.models
    assert ("models/x",) == models({"model": "models/x"})


def test_a_preset_is_a_model_of_its_own() -> None:
    assert ("@preset/mine",) == models({"preset": "mine"})


@pytest.mark.parametrize(
    "value", [["gpt-4o"], {"name": "gpt-4o"}, 4, True, "", " gpt-4o", "gpt-4o,o3", "gpt\u20114o", "\uff47pt-4o", "gpt-4o\n", "a" * 513]
)
@pytest.mark.parametrize("place", ["model", "deployment_id"])
def test_a_model_that_is_no_plain_name_is_refused(place: str, value: object) -> None:
    with pytest.raises(Denial) as refused:
        models({place: value})
    assert "model_malformed" == refused.value.reason


@pytest.mark.parametrize("name", ["Model", "MODEL", "mode\u217c", "\u017feed_model"])
def test_another_spelling_is_taken_for_the_name_that_some_parsers_take_it_for(name: str) -> None:
    # Go's encoding/json folds letters as Unicode does. What it does not fold is another name.
    body = msgspec.json.encode({"model": "cheap", name: "secret"})
    if name.casefold() != "model":
        assert ("cheap",) == read_request(CHAT, content_type=None, body=body).models
        return
    with pytest.raises(Denial) as refused:
        read_request(CHAT, content_type=None, body=body)
    assert "request_malformed" == refused.value.reason


@pytest.mark.parametrize("name", ["api_ba\u017fe", "Api_Key", "\u212ead\u0259rs"])
def test_another_spelling_of_a_field_that_routes_is_no_way_around_its_refusal(name: str) -> None:
    body = msgspec.json.encode({"model": "cheap", name: "https://attacker.example"})
    if name.casefold() in {"api_base", "api_key"}:
        with pytest.raises(Denial):
            read_request(CHAT, content_type=None, body=body)
    else:
        assert ("cheap",) == read_request(CHAT, content_type=None, body=body).models


# What several readers would take for the model, against what was looked at.

NAMES = st.sampled_from(["model", "mod\\u0065l", "\\u006dodel", "models", "x", "extra_body", "Model", "messages", "fallbacks"])
TEXTS = st.sampled_from(["cheap", "secret", "a/b", 'x","model":"secret', "x y", "\u00e9"])


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    blank = st.sampled_from(["", " ", "\n"])
    members = st.lists(st.tuples(NAMES, blank, blank, inner, blank), max_size=4)
    return members.map(lambda drawn: "{" + ",".join(f'"{name}"{b1}:{b2}{value}{b3}' for name, b1, b2, value, b3 in drawn) + "}")


JSON = st.recursive(
    TEXTS.map(json.dumps) | st.sampled_from(["null", "1", "true", "[]"]),
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda drawn: "[" + ",".join(drawn) + "]"),
    max_leaves=8,
)
FOLDED = {"model", "models"}


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in pairs:
        kept.setdefault(name, value)
    return kept


def _folded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.casefold(): value for name, value in pairs}


def seen_by_others(body: bytes) -> set[str]:
    """Return what a program behind may take for the model, or merge into it."""
    readings: list[Any] = [json.loads(body), json.loads(body, object_pairs_hook=_first_wins), json.loads(body, object_pairs_hook=_folded)]
    readings.append(msgspec.json.decode(body))
    found: set[str] = set()
    for reading in readings:
        inner = reading
        while is_object(inner):
            part: dict[str, Any] = inner
            several = [part.get(name) for name in ("models", "fallbacks")]
            named: list[Any] = [part.get("model"), *(name for value in several if is_array(value) for name in value)]
            found |= {name for name in named if isinstance(name, str)}
            inner = part.get("extra_body")
    return found


@given(objects(JSON))
def test_whatever_a_reader_takes_for_a_model_was_looked_at_or_the_request_is_refused(text: str) -> None:
    body = text.encode()
    try:
        call = read_request(CHAT, content_type=None, body=body)
    except Denial:
        return
    assert seen_by_others(body) <= set(call.models)
