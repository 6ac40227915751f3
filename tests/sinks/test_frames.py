import os
import re
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import ConfigurationError
from llm_authmw.sinks.frames import MAX_MESSAGE, SyslogFormat
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.parts import joined, split
from llm_authmw.trail.record import Person, Record

HEADER = re.compile(
    rb"<(?P<priority>[0-9]{1,3})>1 (?P<time>[0-9T:.Z-]+) (?P<host>[!-~]+) (?P<app>[!-~]{1,48}) (?P<process>[0-9]+) (?P<id>[a-z]{1,32}) - "
)


def entry(record: Record | None = None, **fields: Any) -> Entry:
    return Chain().link(record or Record(time=1_700_000_000_123_456, kind="request", **fields))


def unframed(frames: bytes) -> list[bytes]:
    """Read frames as RFC 6587 §3.4.1 says."""
    messages: list[bytes] = []
    while frames:
        length, blank, rest = frames.partition(b" ")
        assert (b" ", True) == (blank, re.fullmatch(rb"[1-9][0-9]*", length) is not None)
        assert int(length) <= len(rest)
        messages.append(rest[: int(length)])
        frames = rest[int(length) :]
    return messages


def messages(one: Entry, **options: Any) -> list[bytes]:
    return unframed(b"".join(SyslogFormat(**options).frames(one)))


def body(message: bytes) -> bytes:
    header = HEADER.match(message)
    assert header is not None
    return message[header.end() :]


@pytest.mark.parametrize(
    "options",
    [
        {"facility": "kern"},
        {"facility": 10},
        {"app_name": ""},
        {"app_name": "two words"},
        {"app_name": "a" * 49},
        {"app_name": "line\nbreak"},
        {"hostname": ""},
        {"hostname": "höst"},
        {"hostname": "h" * 256},
        {"max_message": 2_047},
        {"max_message": 8_000.0},
    ],
)
def test_a_header_that_the_standard_does_not_allow_is_a_configuration_error(options: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SyslogFormat(**options)

    assert next(iter(options)) == caught.value.option


def test_a_message_has_the_header_of_rfc_5424_and_the_whole_line() -> None:
    one = entry(outcome="allowed")

    (message,) = messages(one, hostname="gw1.example.com", app_name="gateway")

    header = HEADER.match(message)
    assert header is not None
    assert b"2023-11-14T22:13:20.123456Z" == header["time"]
    assert (b"gw1.example.com", b"gateway", str(os.getpid()).encode(), b"request") == header.group("host", "app", "process", "id")
    assert one.line == body(message)


def test_a_machine_whose_name_the_header_does_not_allow_has_none_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Zoë's machine")

    (message,) = messages(entry())

    assert b" - llm_authmw " in message


@pytest.mark.parametrize(
    ("fields", "severity"),
    [
        ({"kind": "request", "outcome": "failed"}, 3),
        ({"kind": "loss", "lost": 2}, 3),
        ({"kind": "request", "outcome": "denied"}, 4),
        ({"kind": "change"}, 5),
        ({"kind": "policy"}, 5),
        ({"kind": "request", "outcome": "allowed"}, 6),
        ({"kind": "intent"}, 6),
        ({"kind": "checkpoint"}, 6),
    ],
)
@pytest.mark.parametrize(("facility", "code"), [("authpriv", 10), ("audit", 13), ("local7", 23)])
def test_the_priority_is_the_facility_and_how_severe_it_is(fields: Any, severity: int, facility: Any, code: int) -> None:
    (message,) = messages(entry(Record(time=1, **fields)), facility=facility)

    assert f"<{8 * code + severity}>1 ".encode() == message[: message.index(b" ") + 1]


@pytest.mark.parametrize("moment", [-1, 10**18])
def test_a_clock_far_off_gives_a_timestamp_all_the_same(moment: int) -> None:
    (message,) = messages(entry(Record(time=moment, kind="request")))

    assert HEADER.match(message)


@pytest.mark.parametrize("size", [MAX_MESSAGE, 2_048, 65_536])
def test_no_message_is_longer_than_the_limit_and_its_parts_are_the_whole_line(size: int) -> None:
    extra: dict[str, Any] = {f"field{number}": '"\\' * 1_500 + "é\n<13>1 - - - - - - forged" for number in range(3)}
    one = entry(extra=extra, person=Person(user="\\" * 4_000))

    sent = messages(one, max_message=size)

    assert size >= max(map(len, sent))
    assert (len(one.line) > size - 200) == (len(sent) > 1)
    assert all(re.fullmatch(rb"[ -~]+", message) for message in sent)
    assert [one.line] == list(joined(map(body, sent)))


@given(st.text(alphabet='"\\aé', min_size=1_000, max_size=3_000), st.integers(600, 700))
def test_a_line_in_parts_is_whole_again_whatever_is_in_it(text: str, room: int) -> None:
    one = entry(extra={"text": text})

    parts = split(one, room)

    assert room >= max(map(len, parts))
    assert [one.line] == list(joined(parts))


def test_parts_of_several_writers_that_come_interleaved_and_twice_are_put_together() -> None:
    chain = Chain()
    first, other = (entry(extra={"text": letter * 3_000}) for letter in "ab")
    second, short = chain.link(Record(time=1, kind="request", extra={"text": "c" * 3_000})), chain.link(Record(time=1, kind="loss", lost=1))
    one, two, three = (split(each, 1_000) for each in (first, other, second))

    lines = [one[0], two[0], one[1], short.line, two[1], *one[:1], *three, *one[2:], *two[2:]]

    assert sorted([short.line, second.line, first.line, other.line]) == sorted(joined(lines))


def test_parts_whose_others_are_missing_and_what_only_looks_like_a_part_come_out_as_they_are() -> None:
    parts = split(entry(extra={"text": "a" * 3_000}), 1_000)
    odd = [
        b'{"part":',
        b'{"part":{"writer":"w","sequence":0,"number":3,"of":2,"text":"x"}}',
        b'{"part":{"writer":"w","sequence":0,"number":1,"of":1000000,"text":"x"}}',
        b'{"part":{"writer":"w","sequence":0,"number":0,"of":1,"text":"x"}}',
        b'{"part":{"writer":"w","sequence":0,"number":1,"of":1,"text":"x"},"more":1}',
        b"Nov 21 host sshd: Accepted",
        b"",
    ]

    assert [*odd, *parts[1:]] == list(joined([parts[1], *odd, *parts[2:]]))


def test_a_reader_keeps_only_so_many_unfinished_entries() -> None:
    unfinished = [split(entry(extra={"text": "a" * 3_000}), 1_000)[0] for _ in range(300)]
    lines = iter(unfinished)
    reader = joined(lines)

    given_back = next(reader)

    assert unfinished[0] == given_back
    assert 300 - 257 == len(list(lines))
