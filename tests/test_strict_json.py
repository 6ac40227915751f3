"""JSON that can be read in one way only, and what is refused for being read in two."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_authmw.strict_json import MAX_DEPTH, is_array, is_object, parse, parse_object

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(['":', '" :', '\\":', '"a":1', "\\"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=16,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.sampled_from([(",", ":"), (" , ", " : "), (",\n", "\n:\r")]))
def test_whatever_was_written_is_read(value: Any, indent: Any, separators: tuple[str, str]) -> None:
    for ascii_only in (True, False):
        assert value == parse(json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only).encode())


def _refuse_repetition(pairs: list[tuple[str, Any]]) -> None:
    assert len(pairs) == len({name for name, _ in pairs})


@given(st.lists(st.tuples(st.sampled_from(["a", "b", '":', "\\u0061"]), values), max_size=4), st.sampled_from([":", " :", "\n:", ":\t"]))
@example([("a", {"a": 1}), ("b", {"a": 1})], ":")
@example([("a", '"b":'), ("a", 1)], ":")
def test_a_member_that_is_there_twice_is_refused_and_nothing_else_is(members: list[tuple[str, Any]], colon: str) -> None:
    written = [f'"{name}"' if name.startswith("\\") else json.dumps(name) for name, _ in members]
    pairs = zip(written, members, strict=True)
    text = "{" + ",".join(f"{name}{colon}{json.dumps(value)}" for name, (_, value) in pairs) + "}"
    try:
        json.loads(text, object_pairs_hook=_refuse_repetition)
    except AssertionError:
        with pytest.raises(ValueError, match=r"there twice"):
            parse(text.encode())
    else:
        assert json.loads(text) == parse(text.encode())


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        value = parse(text)
    except ValueError:
        return
    assert value == json.loads(text.decode("utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1}x',
        b'{"a":1}{"a":1}',
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1}//x',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e400",
        b"[-1e999]",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"0x1",
        b"1" * 5000,
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"a\nb"',
        b'"a\x00b"',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32-be"),
        b'{"a":1}\x00',
    ],
    ids=repr,
)
def test_what_is_no_json_or_not_everybody_s_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_depth_is_bounded(opening: bytes, closing: bytes) -> None:
    levels = opening.count(b"[") + opening.count(b"{")
    deepest = MAX_DEPTH // levels
    parse(opening * deepest + b"1" + closing * deepest)
    for depth in (deepest + 1, 1_000, 200_000):
        with pytest.raises(ValueError, match=r"deep|truncated"):
            parse(opening * depth + b"1" + closing * depth)
    parse(b'{"a":[1]}', max_depth=2)
    with pytest.raises(ValueError, match=r"deep"):
        parse(b'{"a":[1]}', max_depth=1)


@pytest.mark.parametrize("text", [b"[]", b"1", b'"{}"', b"null", b"true"])
def test_an_object_is_an_object(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not an object$"):
        parse_object(text)
    assert {} == parse_object(b" {} ")


def test_objects_and_arrays_are_told_apart() -> None:
    shown: list[Any] = [{}, [], "x"]
    assert [True, False, False] == [is_object(value) for value in shown]
    assert [False, True, False] == [is_array(value) for value in shown]
