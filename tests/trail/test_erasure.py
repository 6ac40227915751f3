import fcntl
import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from llm_authmw import InvalidValueError
from llm_authmw.testing import ManualClock
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.erasure import Forgotten, forget_in_file, prune_file
from llm_authmw.trail.reading import read_line
from llm_authmw.trail.record import Person, Record, Who
from llm_authmw.trail.verification import verify

KEY = SigningKey(make_signing_key())
PUBLIC = VerifyingKey(KEY.public_pem)
DAY = 86_400_000_000


def of(user: str | None, *, tenant: str = "default", realm: str = "corp", **fields: Any) -> Record:
    return fake_record(who=Who(tenant=tenant, realm=realm), person=Person(user=user, address="192.0.2.7", **fields))


def write(path: Path, *records: Record) -> list[bytes]:
    chain = Chain(signing_key=KEY)
    lines = [entry.line + b"\n" for entry in [*chain.link_all(records), chain.checkpoint("closed")]]
    path.write_bytes(b"".join(lines))
    return lines


def users(path: Path) -> list[str | None]:
    records = [read_line(line) for line in path.read_bytes().splitlines()]
    return [None if record.person is None else record.person.user for record in records if record.kind != "checkpoint"]


def test_a_person_is_forgotten_and_the_chain_stays_verifiable(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, of("ada"), of("eve"), of("ada", end_user="eve"), of("bob", end_user="ada"))
    inode, size = path.stat().st_ino, path.stat().st_size

    assert Forgotten(3, 0) == forget_in_file(path, "default", "ada")
    assert [None, "eve", None, None] == users(path)
    assert b'"ada"' not in path.read_bytes()
    assert (inode, size) == (path.stat().st_ino, path.stat().st_size)
    report = verify(path.read_bytes().splitlines(), keys=[PUBLIC])
    assert ([], 3) == (report.findings, report.forgotten)
    assert Forgotten(0, 0) == forget_in_file(path, "default", "ada")


def test_a_changed_byte_of_a_person_who_is_still_there_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, of("ada"), of("eve"))
    forget_in_file(path, "default", "ada")
    path.write_bytes(path.read_bytes().replace(b'"user":"eve"', b'"user":"eva"'))
    report = verify(path.read_bytes().splitlines(), keys=[PUBLIC])
    assert [("person_altered", 3)] == [(finding.kind, finding.line) for finding in report.findings]


def test_people_of_the_same_name_elsewhere_are_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, of("ada"), of("ada", tenant="other"), of("ada", realm="partners"), of("ada2"), fake_record(who=None))
    assert 1 == forget_in_file(path, "default", "ada", realm="corp").entries
    assert [None, "ada", "ada", "ada2", "ada"] == users(path)


@pytest.mark.parametrize("user", ['"\\\n\u202e', "ü\x7f", "\U0001f600"])
def test_a_name_of_any_characters_is_forgotten(tmp_path: Path, user: str) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, of(user), of("eve"))
    assert 1 == forget_in_file(path, "default", user).entries
    assert [None, "eve"] == users(path)


def test_a_writer_may_go_on_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    chain = Chain()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for entry in chain.link_all([of("ada")]):
        os.write(descriptor, entry.line + b"\n")
    forget_in_file(path, "default", "ada")
    os.write(descriptor, chain.link(of("eve")).line + b"\n")
    os.close(descriptor)
    assert [None, "eve"] == users(path)
    assert verify(path.read_bytes().splitlines()).sound


def test_a_person_in_a_torn_line_is_forgotten_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    lines = write(path, of("ada"), of("eve"), of("ada"))
    # A short write in the middle, another writer's entry glued to one, and a torn end.
    path.write_bytes(lines[0] + lines[1][:-4] + b"\n" + lines[3][:-3] + lines[2] + lines[1][:-20])
    assert b'"ada"' in path.read_bytes()
    assert 0 == forget_in_file(path, "default", "ada").remaining
    assert b'"ada"' not in path.read_bytes()
    assert b'"eve"' in path.read_bytes()


def test_what_cannot_be_forgotten_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(entry.line + b"\n" for entry in Chain(format="ocsf").link_all([of("ada"), of("eve")])) + b'a note on "ada"\n')
    assert Forgotten(0, 2) == forget_in_file(path, "default", "ada")


def test_a_packed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n"))
    with pytest.raises(InvalidValueError, match="unpack it first"):
        forget_in_file(path, "default", "ada")
    with pytest.raises(InvalidValueError, match="unpack it first"):
        prune_file(path, 0)


def aged(path: Path) -> tuple[int, list[bytes]]:
    """Write ten days of two writers' records with a checkpoint a day; one ended on the third day. Return the last day, and the lines."""
    clock = ManualClock()
    start = int(clock.now()) * 1_000_000
    one, other = Chain(signing_key=KEY, clock=clock), Chain(signing_key=KEY, clock=clock)
    lines: list[bytes] = []
    for day in range(10):
        time = start + day * DAY + 1
        lines += [entry.line + b"\n" for entry in one.link_all([fake_record(time=time, id=f"one-{day}")])]
        if day < 3:
            lines += [entry.line + b"\n" for entry in other.link_all([fake_record(time=time, id=f"other-{day}")])]
        if day == 2:
            lines.append(other.checkpoint("closed").line + b"\n")
        clock.advance(86_400)
    path.write_bytes(b"".join(lines))
    return start + 9 * DAY, lines


def test_what_is_old_is_removed_up_to_a_checkpoint_and_the_rest_is_verifiable(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    last, lines = aged(path)
    path.chmod(0o640)
    before = last - 5 * DAY
    assert verify(lines, keys=[PUBLIC]).sound

    gone = prune_file(path, before)
    left = path.read_bytes().splitlines()
    assert len(lines) - gone == len(left)
    assert {f"one-{day}" for day in range(3, 10)} >= {record.id for record in map(read_line, left) if record.id is not None}
    assert {f"one-{day}" for day in range(4, 10)} <= {record.id for record in map(read_line, left)}
    assert 0o640 == path.stat().st_mode & 0o777
    report = verify(left, keys=[PUBLIC], since=before)
    assert [] == [finding for finding in report.findings if finding.is_alarm]
    assert 1 == report.writers
    assert not verify(left, keys=[PUBLIC]).sound
    assert [path] == list(tmp_path.iterdir())


def test_more_than_age_allows_cannot_be_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    last, lines = aged(path)
    prune_file(path, last - 2 * DAY)
    assert not verify(path.read_bytes().splitlines(), keys=[PUBLIC], since=last - 5 * DAY).sound
    assert len(lines) > len(path.read_bytes().splitlines())


def test_nothing_is_removed_where_nothing_is_old(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    aged(path)
    inode = path.stat().st_ino
    assert 0 == prune_file(path, 0)
    assert inode == path.stat().st_ino


def test_torn_lines_go_with_what_is_as_old_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    last, lines = aged(path)
    path.write_bytes(lines[1][:100] + b"\n" + b"".join(lines) + lines[-1][:100])
    prune_file(path, last - 5 * DAY)
    left = path.read_bytes()
    assert lines[1][:36] not in left
    assert left.endswith(lines[-1][:100])


def test_a_file_that_a_writer_has_open_is_not_pruned(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    last, _ = aged(path)
    with path.open("ab") as writer:
        fcntl.flock(writer.fileno(), fcntl.LOCK_SH)
        with pytest.raises(InvalidValueError, match="being written to"):
            prune_file(path, last)
    assert prune_file(path, last) > 0
