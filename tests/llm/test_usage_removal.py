import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.llm.usage_removal import MAX_EVENT, UsageRemoval

COUNTS = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


def data(**members: object) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", **members}, separators=(",", ":")).encode() + b"\n\n"


def word(text: str = " word", **members: object) -> bytes:
    return data(choices=[{"index": 0, "delta": {"content": text}}], **members)


DONE = b"data: [DONE]\n\n"
EXTRA = data(choices=[], usage=COUNTS)
ASKED = word(usage=None) + word("two", usage=None) + EXTRA + DONE
UNASKED = word() + word("two") + DONE


def passed(chunks: Iterable[bytes]) -> bytes:
    removal = UsageRemoval()
    return b"".join([*map(removal.feed, chunks), removal.finish()])


@st.composite
def cut(draw: st.DrawFn, text: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(st.data(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_however_a_stream_is_cut_it_passes_as_if_nobody_had_asked(drawn: st.DataObject, end: bytes) -> None:
    chunks = drawn.draw(cut(ASKED.replace(b"\n", end)))
    assert UNASKED.replace(b"\n", end) == passed(chunks)


@given(
    st.data(),
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: ", b": ping", b'{"usage', b'"', b"data: [DONE]", b"\xf0\x9f", b"event: x"])),
)
def test_a_stream_that_says_nothing_of_usage_passes_byte_for_byte(drawn: st.DataObject, pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert stream == passed(drawn.draw(cut(stream)))


@given(st.lists(st.sampled_from([word(), word(usage=None), EXTRA, DONE, b": ping\n\n", b"\n", b"\r", b"\r\n"]), max_size=8))
def test_how_a_stream_is_cut_changes_nothing_of_what_passes(events: list[bytes]) -> None:
    stream = b"".join(events)
    assert passed([stream]) == passed([stream[at : at + 1] for at in range(len(stream))])


@pytest.mark.parametrize(
    "event",
    [
        word("what of", usage=COUNTS),
        data(choices=[], error={"message": "no"}, usage=COUNTS),
        data(choices=[], prompt_filter_results=[]),
        word('"usage":null'),
        word('\\"usage\\":null'),
        data(choices=[{"delta": {"usage": None}}]),
        b'data: {"usage":null\n\n',
        b'data: "usage"\n\n',
        b'event: usage\ndata: ["usage"]\n\n',
        b': "usage" null\n\n',
    ],
)
def test_what_is_no_answer_to_our_question_passes_as_it_came(event: bytes) -> None:
    assert event == passed([event])


def test_a_usage_that_stands_first_or_alone_is_taken_out_with_its_comma() -> None:
    stream = b'data: {"usage": null , "choices":[1]}\n\ndata: {"choices":[1], "usage" : null}\n\ndata: {"usage":null}\n\n'
    assert b'data: { "choices":[1]}\n\ndata: {"choices":[1]}\n\ndata: {}\n\n' == passed([stream])


def test_an_event_passes_with_the_chunk_that_completes_it() -> None:
    removal = UsageRemoval()
    assert [b"", word() + b"", b"", DONE] == [
        removal.feed(word()[:30]),
        removal.feed(word()[30:] + EXTRA[:9]),
        removal.feed(EXTRA[9:]),
        removal.feed(DONE),
    ]
    assert removal.removed


def test_a_stream_without_its_last_blank_line_is_rid_of_what_was_used_too() -> None:
    assert word() == passed([word(usage=None) + EXTRA.rstrip(b"\n")])


def test_an_event_that_is_too_long_to_be_held_passes_while_it_comes() -> None:
    long = word("x" * (MAX_EVENT + 10), usage=COUNTS)
    removal = UsageRemoval()
    first = removal.feed(long[: MAX_EVENT + 50])
    assert len(first) > MAX_EVENT
    rest = [removal.feed(long[at : at + 1]) for at in range(MAX_EVENT + 50, len(long))]
    assert long + word() == b"".join([first, *rest, removal.feed(word(usage=None) + EXTRA), removal.finish()])
