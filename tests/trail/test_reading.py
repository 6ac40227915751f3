import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_authmw import InvalidValueError
from llm_authmw.context import Decision
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.files import follow, last_heads, lines_of, open_trail
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import behind_torn, is_torn, matches, parse, read_line, time_of
from llm_authmw.trail.record import Record, Who


class Enough(Exception):  # noqa: N818 - no error: it ends the following
    pass


RECORD = fake_record(decisions=(Decision("RBACMiddleware", "shadowed", "model_not_allowed"),), reason="budget_exhausted")


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"since": RECORD.time, "until": RECORD.time + 1},
        {"kinds": ("change", "request")},
        {"tenant": "default"},
        {"principal": "ada"},
        {"principal": "key:2030-01"},
        {"team": "blue"},
        {"reason": "budget_exhausted"},
        {"reason": "model_not_allowed"},
        {"model": "gpt-4o"},
        {"model": "gpt-4o-2024-11-20"},
        {"outcome": "allowed"},
        {"id": "0123456789abcdef"},
        {"principal": "ada", "team": "blue", "outcome": "allowed", "kinds": ("request",)},
    ],
)
def test_a_record_that_is_asked_for_is_found(query: dict[str, Any]) -> None:
    assert matches(RECORD, RecordQuery(**query))


@pytest.mark.parametrize(
    "query",
    [
        {"since": RECORD.time + 1},
        {"until": RECORD.time},
        {"kinds": ("change",)},
        {"tenant": "other"},
        {"principal": "eve"},
        {"principal": "client:ada"},
        {"principal": "key:ada"},
        {"principal": "customer-1"},
        {"team": "red"},
        {"reason": "model_missing"},
        {"model": "o3"},
        {"outcome": "denied"},
        {"id": "x"},
        {"principal": "ada", "team": "red"},
    ],
)
def test_a_record_that_is_not_asked_for_is_not_found(query: dict[str, Any]) -> None:
    assert not matches(RECORD, RecordQuery(**query))


@pytest.mark.parametrize("query", [{"tenant": "default"}, {"team": "blue"}, {"principal": "ada"}, {"principal": "key:x"}])
def test_a_record_of_nobody_is_not_of_somebody(query: dict[str, str]) -> None:
    assert not matches(Record(time=0, kind="loss"), RecordQuery(**query))  # type: ignore[arg-type]


def test_a_client_is_found_by_its_name() -> None:
    assert matches(fake_record(who=Who(tenant="default", client="ci")), RecordQuery(principal="client:ci"))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"nonsense",
        b'{"time":"2026-13-01T00:00:00.000000Z","kind":"request"}',
        b'{"time":"2026-11-01T00:00:00.000000Z","kind":"nonsense"}',
        b'{"time":"2026-11-01T00:00:00Z","kind":"request"}',
        b'{"time":"2026-11-01T00:00:00.000000Z","kind":"request","usage":{"input":-1}}',
    ],
)
def test_what_is_no_record_is_refused_and_not_quoted(line: bytes) -> None:
    with pytest.raises(InvalidValueError, match=r"^not a record$"):
        read_line(line)


def test_an_entry_within_the_changes_of_another_is_a_part_of_it() -> None:
    inner = Chain().link(fake_record()).line.decode()
    entry = Chain().link(fake_record(person=fake_record().person, extra={"a": inner}))
    line = parse(entry.line)
    assert line is not None
    assert entry.hash == line.hash
    assert behind_torn(entry.line) is None


def test_times_are_read_from_both_formats() -> None:
    for chain in (Chain(), Chain(format="ocsf")):
        assert 1_795_000_000_000_007 == time_of(chain.link(fake_record(time=1_795_000_000_000_007)).sealed)
    assert time_of(b'{"time":"2026-02-30T00:00:00.000000Z"}') is None
    assert time_of(b"nonsense") is None


def test_only_the_beginning_of_an_entry_is_torn() -> None:
    line = Chain().link(fake_record()).line
    assert all(is_torn(line[:length]) for length in range(1, len(line)))
    assert not is_torn(line)
    assert not is_torn(b"x" + line[:100])
    assert not is_torn(line[:100] + b"\xff" * 5)


def test_heads_are_those_of_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    old, new, other = Chain(), Chain(), Chain()
    entries = [*old.link_all([fake_record()]), *new.link_all([fake_record()] * 300), *other.link_all([fake_record()]), new.checkpoint()]
    path.write_bytes(b"".join(entry.line + b"\n" for entry in entries) + b'{"time":"torn')
    with path.open("rb") as file:
        heads = last_heads(file.fileno())
    assert {other.writer: other.head, new.writer: new.head} == heads
    assert [other.writer, new.writer] == list(heads)
    with path.open("ab") as file:
        assert {} == last_heads(file.fileno())


def test_a_packed_file_is_read_as_another(tmp_path: Path) -> None:
    lines = [b"one\n", b"two"]
    (tmp_path / "plain").write_bytes(b"".join(lines))
    (tmp_path / "packed").write_bytes(gzip.compress(b"".join(lines)))
    for name in ("plain", "packed"):
        with open_trail(tmp_path / name) as file:
            assert lines == list(lines_of(file))


def test_of_an_endless_line_the_beginning_is_read(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"a" * 1_000_000 + b"\nb\n")
    with open_trail(path) as file:
        first, second = lines_of(file)
    assert (True, b"b\n") == (len(first) < 200_000, second)


def test_a_file_is_followed_while_it_grows_and_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    def steps() -> Iterator[None]:
        path.write_bytes(b"one\n")
        yield
        with path.open("ab") as out:
            out.write(b"tw")
        yield
        with path.open("ab") as out:
            out.write(b"o\nthree\n")
        path.rename(tmp_path / "audit.jsonl.1")
        yield
        with (tmp_path / "audit.jsonl.1").open("ab") as out:
            out.write(b"four\n")
        path.write_bytes(b"five\n")
        yield
        path.write_bytes(b"")  # copied elsewhere, and cut
        yield
        with path.open("ab") as out:
            out.write(b"six\n")
        yield

    step = steps()

    def wait() -> None:
        try:
            next(step)
        except StopIteration:
            raise Enough from None

    found: list[bytes] = []
    with pytest.raises(Enough):
        found.extend(follow(path, wait=wait, from_start=True))
    assert [b"one\n", b"two\n", b"three\n", b"four\n", b"five\n", b"six\n"] == found


def test_following_begins_at_the_end_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"old\n")

    def wait() -> None:
        if path.stat().st_size > 4:
            raise Enough
        path.write_bytes(b"old\nnew\n")

    found: list[bytes] = []
    with pytest.raises(Enough):
        found.extend(follow(path, wait=wait))
    assert [b"new\n"] == found
