import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from llm_authmw.llm import json_body
from llm_authmw.llm.json_body import check_text, elements_of
from llm_authmw.strict_json import MAX_DEPTH

SEPARATORS = [(",", ":"), (", ", ": "), (" , ", " : "), ("\n,\t", "\r\n:")]
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=12
)
BAD = {
    "nothing": b"",
    "an array": b"[]",
    "a text": b'"{}"',
    "two documents": b"{}{}",
    "something behind it": b"{} x",
    "a comment": b'{"a":1}//',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "bad UTF-8 in a name": b'{"a\xff":1}',
    "bad UTF-8 in a value": b'{"a":"\xff"}',
    "bad UTF-8 deep in a value": b'{"a":[{"b":"\xc3("}]}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "NaN": b'{"a":NaN}',
    "infinity": b'{"a":[Infinity]}',
    "single quotes": b"{'a':1}",
    "a comma at the end": b'{"a":1,}',
    "a leading zero": b'{"a":01}',
    "a control character": b'{"a":"\x01"}',
    "a name that is no text": b"{1:1}",
    "no end": b'{"a":1',
}


def members_of(text: bytes) -> dict[str, Raw]:
    check_text(text)
    return json_body.members_of(text)


@pytest.mark.parametrize("text", [pytest.param(text, id=what) for what, text in BAD.items()])
def test_what_is_no_one_json_object_in_utf_8_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        members_of(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1, "a":2}',
        b'{ "a" : 1 , "a" : 12 }',
        b'{"a":12,"a":1 }',
        b'{"a":1,"\\u0061":1}',
        b'{"\\u0061":1,"a":1}',
        '{"é":1,"\\u00e9":1}'.encode(),
        # The first value holds, where the walk goes on behind the last one's length, what looks like the members that were kept.
        b'{"a":[1,"b":2]}'.replace(b'"b":2', b'{"b":2}'),
        b'{"a":"x\\",\\"b\\":1","b":1,"a":"x"}',
        b'{"a":{"p":1,"b":2},"b":2,"a":{"p":1}}',
    ],
)
def test_a_member_that_is_there_twice_is_refused(text: bytes) -> None:
    pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    if len({name for name, _ in pairs}) == len(pairs):
        assert len(pairs) == len(members_of(text))
    else:
        with pytest.raises(ValueError, match="twice"):
            members_of(text)


@given(
    st.dictionaries(st.text(max_size=6), VALUES, max_size=6), st.sampled_from(SEPARATORS), st.booleans(), st.sampled_from([None, 1, "\t"])
)
def test_members_are_what_another_parser_reads(
    value: dict[str, object], separators: tuple[str, str], ascii_only: bool, indent: object
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only, indent=indent)  # type: ignore[arg-type]
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return
    members = members_of(encoded)
    assert [*value] == [*members]
    assert value == {name: json.loads(bytes(raw)) for name, raw in members.items()}


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "model"]), VALUES), max_size=5),
    st.sampled_from(SEPARATORS),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_members_are_read_exactly_where_each_is_there_once(
    pairs: list[tuple[str, object]], separators: tuple[str, str], escaped: list[bool]
) -> None:
    names = [
        json.dumps(name) if not escape else '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'
        for (name, _), escape in zip(pairs, escaped, strict=False)
    ]
    comma, colon = separators
    text = "{" + comma.join(name + colon + json.dumps(value) for name, (_, value) in zip(names, pairs, strict=True)) + "}"
    if len({name for name, _ in pairs}) == len(pairs):
        assert [name for name, _ in pairs] == [*members_of(text.encode())]
    else:
        with pytest.raises(ValueError, match="twice"):
            members_of(text.encode())


@pytest.mark.parametrize("padding", [0, 10_000])
@pytest.mark.parametrize(("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_is_bounded_whatever_the_size(opens: bytes, closes: bytes, padding: int) -> None:
    levels = opens.count(b"[") + opens.count(b"{")

    def nested(depth: int) -> bytes:
        return b'{"pad":"%b","a":%b1%b}' % (b"x" * padding, opens * (depth // levels), closes * (depth // levels))

    assert ["pad", "a"] == [*members_of(nested(MAX_DEPTH - 2))]
    with pytest.raises(ValueError, match="deep"):
        members_of(nested(MAX_DEPTH + 2))
    with pytest.raises(ValueError, match="deep"):
        members_of(nested(200_000))


def test_brackets_in_texts_and_beside_each_other_are_no_nesting() -> None:
    texts = b'{"a":"%b"}' % (b"[{" * 5000)
    assert ["a"] == [*members_of(texts)]
    beside = b'{"a":[%b]}' % b",".join([b"[{}]"] * 5000)
    assert ["a"] == [*members_of(beside)]


def test_elements_are_what_an_array_holds() -> None:
    assert [b"1", b'{"a": [2]}', b'"x"'] == [bytes(element) for element in elements_of(Raw(b'[1, {"a": [2]} ,"x"]'))]
    with pytest.raises(ValueError):
        elements_of(Raw(b"{}"))
