import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.llm.sse import EventParser, ServerEvent

LINES = st.sampled_from(
    [
        "data: a",
        "data:b",
        "data:  c",
        "data",
        "data:",
        ": comment",
        ":",
        "event: x",
        "event",
        "id: 7",
        "retry: 9",
        "datum: n",
        "data: é€😀",
        'data: {"a":"b: c"}',
        "",
        "",
        "",
    ]
)
ENDS = st.sampled_from(["\n", "\r", "\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    text = "".join(draw(LINES) + draw(ENDS) for _ in range(draw(st.integers(0, 12))))
    return (draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))) + text.encode() + draw(st.sampled_from([b"", b"data: z"]))


def naive(stream: bytes) -> list[ServerEvent]:
    """Read a whole stream as the standard says it, and what is left at its end as one event more."""
    lines = re.split("\r\n|\r|\n", stream.decode("utf-8-sig"))
    events: list[ServerEvent] = []
    name, data = "", list[str]()
    for line in [*lines, ""]:
        if not line:
            if data:
                events.append(ServerEvent(name.encode(), "\n".join(data).encode()))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return events


def read(parser: EventParser, chunks: list[bytes]) -> list[ServerEvent]:
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.finish()


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(places)]


@given(stream=streams(), cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_a_stream_has_the_same_events_wherever_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    assert naive(stream) == read(EventParser(), split(stream, cuts))


@given(stream=streams())
def test_a_stream_has_the_same_events_byte_by_byte(stream: bytes) -> None:
    assert naive(stream) == read(EventParser(), [bytes([byte]) for byte in stream])


@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_make_the_parser_fail(chunks: list[bytes]) -> None:
    assert read(EventParser(), chunks) == read(EventParser(), [b"".join(chunks)])


def test_an_event_comes_out_with_the_chunk_that_ends_it() -> None:
    parser = EventParser()
    assert [] == parser.feed(b"event: message\ndata: one\n")
    assert [ServerEvent(b"message", b"one")] == parser.feed(b"\nda")
    assert [] == parser.finish() + parser.feed(b"")


@pytest.mark.parametrize("kept", [b"d", b"data: a", b"data: a\n", b"event: a\n", b"data: a\n\r"])
def test_a_parser_is_idle_only_between_events(kept: bytes) -> None:
    states = [parser_state(b""), parser_state(b"data: a\n\n"), parser_state(b"data: a\n\n", kept)]
    assert [False, True, False] == states


def parser_state(*chunks: bytes) -> bool:
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)
    return parser.idle


def test_an_event_that_is_too_large_is_passed_over_and_the_next_one_read() -> None:
    parser = EventParser(max_event=10)
    events = [event for byte in b"data: 0123456789\ndata: 1\n\ndata: ok\n\n" for event in parser.feed(bytes([byte]))]
    assert [ServerEvent(b"", b"ok")] == events
    assert 1 == parser.skipped


def test_many_lines_of_one_event_are_bounded_together() -> None:
    parser = EventParser(max_event=100)
    assert [] == parser.feed(b"data: 123456\n" * 50 + b"\n")
    assert 1 == parser.skipped


def test_comments_that_keep_a_connection_open_take_no_room() -> None:
    parser = EventParser(max_event=100)
    assert [ServerEvent(b"", b"a")] == parser.feed(b": still here\n" * 1000 + b"data: a\n\n")
    assert 0 == parser.skipped


@given(stream=streams(), cuts=st.lists(st.integers(0, 10_000), max_size=20), most=st.integers(1, 40))
def test_a_parser_that_is_idle_keeps_nothing_and_one_that_is_not_goes_on_where_it_was(stream: bytes, cuts: list[int], most: int) -> None:
    whole, parser = EventParser(max_event=most), EventParser(max_event=most)
    events: list[ServerEvent] = []
    for chunk in split(stream, cuts):
        events += parser.feed(chunk)
        if parser.idle:
            assert [] == parser.finish()
    assert read(whole, [stream[at : at + 1] for at in range(len(stream))]) == events + parser.finish()
    assert (whole.skipped > 0) == (parser.skipped > 0)


def test_a_long_event_of_many_chunks_is_kept_in_pieces() -> None:
    parser = EventParser()
    piece = b"x" * 5000
    assert [] == parser.feed(b"data: a\n\n")[1:]
    assert [[], *[[]] * 20] == [parser.feed(b"data: "), *(parser.feed(piece) for _ in range(20))]
    assert [ServerEvent(b"", piece * 20)] == parser.feed(b"\n\n")
    assert parser.idle
