import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from llm_authmw import Denial
from llm_authmw.llm.model_names import model_name
from llm_authmw.llm.outside_body import models_named_outside

Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    "query",
    [
        b"model=",
        b"model",
        b"model=a&model",
        b"model=a,b",
        b"model=a+b",
        b"model=+a",
        b"model=a%00",
        b"model=a%0a",
        b"model=%ff",
        b"model=\xff",
        b"model=%EF%BD%81",
        b"model=%5B%22a%22%5D",
        b"MODEL=a*",
        b"deployment=a;b",
        b"target_model_names=a,,b",
        b"target_model_names=",
        b"target_model_names=a%09,b",
        b"model=" + b"m" * 513,
    ],
)
def test_a_parameter_that_names_a_model_by_something_else_is_refused(query: bytes) -> None:
    with pytest.raises(Denial) as caught:
        models_named_outside(query, [])

    assert "model_malformed" == caught.value.reason


@pytest.mark.parametrize("value", [b"", b" ", b"a,b", b"a b", b"a\x00", b"\xff", b"\xef\xbd\x81", b"[a]", b"a\xa0", b"m" * 513])
def test_a_header_that_names_a_model_by_something_else_is_refused(value: bytes) -> None:
    with pytest.raises(Denial) as caught:
        models_named_outside(b"", [(b"x-litellm-model", value)])

    assert "model_malformed" == caught.value.reason


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"model=a", ("a",)),
        (b"model=a&model=b&model=a", ("a", "b")),
        (b"stream=true&model=openai/gpt-4o", ("openai/gpt-4o",)),
        (b"%6dodel=a", ("a",)),
        (b"%4D%4f%64el=a", ("a",)),
        (b"model=%67pt-4o", ("gpt-4o",)),
        (b"model=x%2Fy%3A1", ("x/y:1",)),
        (b"model=a%2Bb", ("a+b",)),
        (b"Model=a&MODEL=b", ("a", "b")),
        (b"deployment=gpt-4o-realtime&api-version=1", ("gpt-4o-realtime",)),
        (b"target_model_names=a,b", ("a", "b")),
        (b"target_model_names=a,+b%20,a", ("a", "b")),
        (b"&&model=a&", ("a",)),
    ],
)
def test_every_model_of_the_query_is_found(query: bytes, expected: tuple[str, ...]) -> None:
    assert expected == models_named_outside(query, [])


@pytest.mark.parametrize("query", [b"", b"models=a", b"xmodel=a", b"model%20=a", b"model%00=a", b"limit=5&after=a,b", b"q=model=a"])
def test_other_parameters_name_no_model(query: bytes) -> None:
    assert () == models_named_outside(query, [])


@pytest.mark.parametrize(
    "name", [b"x-litellm-model", b"X-LiteLLM-Model", b"x_litellm_model", b"X_LITELLM-MODEL", b"x.litellm.model", b"x-litellm-model "]
)
def test_a_header_that_chooses_the_model_is_found_in_every_spelling(name: bytes) -> None:
    assert ("gpt-4o",) == models_named_outside(b"", [(b"host", b"a"), (name, b"gpt-4o")])


@pytest.mark.parametrize("name", [b"x-litellm-models", b"x-litellm-model-id", b"litellm-model", b"model", b"user-agent", b"x-model"])
def test_other_headers_name_no_model(name: bytes) -> None:
    assert () == models_named_outside(b"", [(name, b"gpt-4o, and more")])


def test_repeated_headers_all_count_and_blanks_around_a_value_do_not() -> None:
    headers: Headers = [(b"x-litellm-model", b" a\t"), (b"accept", b"*/*"), (b"X-Litellm-Model", b"b"), (b"x-litellm-model", b"a")]

    assert ("c", "a", "b") == models_named_outside(b"model=c", headers)


@given(st.binary(max_size=60) | st.from_regex(rb"(?i)([a&%=;+m]|%6d|model=|deployment=)*", fullmatch=True))
def test_what_starlette_shows_the_app_as_a_model_is_found_or_the_request_is_refused(query: bytes) -> None:
    shown = [value for name, value in QueryParams(query).multi_items() if name in {"model", "deployment"}]
    try:
        found = models_named_outside(query, [])
    except Denial as denial:
        assert denial.reason == "model_malformed"  # noqa: PT017 - whether it is raised depends on what is generated
        return
    assert set(shown) <= set(found)
    assert [model_name(model) for model in found] == list(found)
