import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.llm.json_stream import ElementParser, LineParser

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=5)
CUTS = st.lists(st.integers(0, 10_000), max_size=20)


def split(text: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


def read(parser: LineParser | ElementParser, chunks: list[bytes]) -> list[Any]:
    texts = [text for chunk in chunks for text in parser.feed(chunk)]
    return [json.loads(text) for text in texts + parser.finish()]


@given(values=OBJECTS, indent=st.sampled_from([None, 2]), ascii_only=st.booleans(), cuts=CUTS)
def test_an_array_has_the_same_elements_wherever_it_is_cut(
    values: list[Any], indent: int | None, ascii_only: bool, cuts: list[int]
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    assert values == read(ElementParser(), split(text, cuts))
    assert values == read(ElementParser(), [bytes([byte]) for byte in text])


@given(values=OBJECTS, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), cuts=CUTS)
def test_lines_are_the_same_wherever_they_are_cut(values: list[Any], end: str, last: bool, cuts: list[int]) -> None:
    text = end.join([*map(json.dumps, values), *([""] if last else [])]).encode()
    assert values == read(LineParser(), split(text, cuts))


@given(st.lists(st.binary(max_size=30)))
def test_no_bytes_make_a_parser_fail(chunks: list[bytes]) -> None:
    for parser in (ElementParser(), LineParser()):
        for chunk in chunks:
            parser.feed(chunk)
        parser.finish()


@pytest.mark.parametrize(
    ("parser", "text", "good"),
    [
        (LineParser(max_text=20), b'{"a":"%b"}\n{"b":1}\n' % (b"x" * 50), {"b": 1}),
        (ElementParser(max_text=20), b'[{"a":"%b"},\n{"b":1}]' % (b"x" * 50), {"b": 1}),
    ],
)
def test_a_text_that_is_too_large_is_passed_over_and_the_next_one_read(
    parser: LineParser | ElementParser, text: bytes, good: dict[str, int]
) -> None:
    assert [good] == read(parser, [bytes([byte]) for byte in text])
    assert 1 == parser.skipped


def test_brackets_in_strings_and_escaped_quotation_marks_end_nothing() -> None:
    values = [{"a": '}]\\" {['}, {"b": ["]", "\\"]}]
    assert values == read(ElementParser(), [bytes([byte]) for byte in json.dumps(values).encode()])


@pytest.mark.parametrize(
    ("chunks", "idle"),
    [((b"[{}",), True), ((b"[{}", b',{"a'), False), ((b'[{"a":1', b"}"), True), ((b'["a',), False), ((b'["a', b'"'), True)],
)
def test_a_parser_of_elements_is_idle_only_between_them(chunks: tuple[bytes, ...], idle: bool) -> None:
    parser = ElementParser()
    for chunk in chunks:
        parser.feed(chunk)
    assert idle is parser.idle


@pytest.mark.parametrize(("chunks", "idle"), [((b"{}\n",), True), ((b"{}\n{",), False), ((b"{", b"}\n"), True)])
def test_a_parser_of_lines_is_idle_only_between_them(chunks: tuple[bytes, ...], idle: bool) -> None:
    parser = LineParser()
    for chunk in chunks:
        parser.feed(chunk)
    assert idle is parser.idle
