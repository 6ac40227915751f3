"""What records survive: real processes that are killed, stopped, rotated under, and run out of disk."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

import pytest

from llm_authmw.trail.reading import parse
from llm_authmw.trail.verification import verify

WRITER = Path(__file__).parent / "apps" / "audit_writer.py"
ENOUGH = 100


@contextlib.contextmanager
def writing(path: Path, **options: object) -> Generator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, WRITER, path, json.dumps(options)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        out(process).close()


def out(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def accepted(lines: Iterator[str], count: int) -> list[str]:
    """Return the next so many ids that were accepted."""
    found: list[str] = []
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "accepted":
            found.append(rest)
            if len(found) == count:
                break
    return found


def ids(*paths: Path) -> list[str]:
    """Return the ids of the whole lines."""
    lines = [line for path in paths for line in path.read_bytes().split(b"\n") if parse(line) is not None]
    return [line.partition(b'"id":"')[2].partition(b'"')[0].decode() for line in lines]


def alarms(*paths: Path) -> list[str]:
    report = verify(line for path in paths for line in path.read_bytes().splitlines(keepends=True))
    return [str(finding) for finding in report.findings if finding.is_alarm]


@pytest.mark.parametrize("at_once", [1, 16])
@pytest.mark.parametrize("fsync", [True, False])
def test_a_process_that_is_killed_loses_no_record_that_it_has_accepted(tmp_path: Path, fsync: bool, at_once: int) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with writing(path, fsync=fsync, at_once=at_once, size=3_000) as process:
            said = accepted(iter(out(process)), ENOUGH)
            process.send_signal(signal.SIGKILL)
            said += accepted(iter(out(process)), 10**9)
        assert len(said) >= ENOUGH
        assert set(said) <= set(ids(path))
    assert [] == alarms(path)


@pytest.mark.parametrize("fsync", [True, False])
def test_several_processes_write_whole_lines_into_one_file(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "audit.jsonl"
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(writing(path, fsync=fsync, count=ENOUGH, at_once=4, size=3_000)) for _ in range(4)]
        said = [one for process in processes for one in accepted(iter(out(process)), ENOUGH)]
        assert [0] * 4 == [process.wait(60) for process in processes]
    assert 4 * ENOUGH == len(said)
    assert sorted(said) == sorted(filter(None, ids(path)))
    report = verify(path.read_bytes().splitlines(keepends=True))
    assert ([], 4) == (report.findings, report.writers)


@pytest.mark.parametrize("fsync", [True, False])
def test_a_process_vouches_for_those_that_were_writing_into_the_file_when_it_opened_it(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "audit.jsonl"
    with writing(path, fsync=fsync) as first:
        accepted(iter(out(first)), ENOUGH)
        with writing(path, fsync=fsync, count=ENOUGH) as second:
            accepted(iter(out(second)), ENOUGH)
            assert 0 == second.wait(60)
        first.send_signal(signal.SIGKILL)
        first.wait()
    lines = path.read_bytes().splitlines(keepends=True)
    assert [] == alarms(path)
    (own,) = {line.writer for line in map(parse, (one.rstrip(b"\n") for one in lines)) if line is not None and b"closed" in line.sealed}
    # Everything that the other one has written is taken out, its own lines being as they were.
    left = [line for line in lines if b'"writer":"%b"' % own.encode() in line]
    assert 2 <= len(lines) - len(left)
    assert ["cut_off"] == [finding.kind for finding in verify(left).findings if finding.is_alarm]


@pytest.mark.parametrize("way", ["renamed", "renamed and made anew", "copied and cut", "removed"])
@pytest.mark.parametrize("fsync", [True, False])
def test_a_file_that_is_rotated_from_outside_is_followed(tmp_path: Path, fsync: bool, way: str) -> None:
    path, rotated = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    with writing(path, fsync=fsync) as process:
        lines = iter(out(process))
        before = accepted(lines, ENOUGH)
        if way == "copied and cut":
            # What is written between the two is lost, as those who do this say: here nothing is.
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            shutil.copy(path, rotated)
            os.truncate(path, 0)
            process.send_signal(signal.SIGCONT)
        elif way == "removed":
            path.unlink()
        else:
            path.rename(rotated)
        if way == "renamed and made anew":
            path.touch(mode=0o640)
        # What was written before, and is read only now, may still be in the pipe: 64 KB of it.
        after = accepted(lines, 3_000)
        process.send_signal(signal.SIGKILL)
        after += accepted(lines, 10**9)
    if way == "removed":
        assert set(after[2_500:]) <= set(ids(path))
        return
    assert set(before + after) <= set(ids(rotated, path))
    assert set(after[2_900:]) <= set(ids(path))
    assert [] == alarms(rotated, path)


def test_a_disk_that_is_full_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with writing(path, limit=100_000, size=1_000) as process:
        said: list[str] = []
        for line in out(process):
            word, _, rest = line.strip().partition(" ")
            if word == "refused":
                assert "File too large" in rest
                break
            said.append(rest)
        process.send_signal(signal.SIGUSR1)
        said += accepted(iter(out(process)), ENOUGH)
        process.send_signal(signal.SIGKILL)
    assert set(said) <= set(ids(path))
    assert [] == alarms(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True).returncode
    )
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("fsync", [True, False])
def test_a_file_system_that_is_full_refuses_and_goes_on_when_there_is_room(small_disk: Path, fsync: bool) -> None:
    path, ballast = small_disk / "audit.jsonl", small_disk / "ballast"
    ballast.write_bytes(b"x" * 128 * 1024)
    with writing(path, fsync=fsync, size=1_000, at_once=4) as process:
        said: list[str] = []
        for line in out(process):
            word, _, rest = line.strip().partition(" ")
            if word == "refused":
                assert "No space left" in rest
                break
            said.append(rest)
        ballast.unlink()
        said += accepted(iter(out(process)), 50)
        process.send_signal(signal.SIGKILL)
    assert set(said) <= set(ids(path))
    assert [] == alarms(path)


def test_a_burst_that_is_ended_by_sigterm_is_written_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with writing(path, put=True, count=50_000) as process:
        assert "put 50000\n" == out(process).readline()
        process.send_signal(signal.SIGTERM)
        lost = int(float(out(process).readline().split()[1]))
        assert 0 == process.wait(30)
    assert 50_000 == len([one for one in ids(path) if one]) + lost
    report = verify(path.read_bytes().splitlines(keepends=True))
    assert [] == report.findings


def test_a_spool_that_a_killed_process_has_left_is_replayed_by_the_next_one(tmp_path: Path) -> None:
    path, spool = tmp_path / "audit.jsonl", tmp_path / "spool"
    with writing(path, limit=100_000, spool=str(spool)) as process:
        # The limit is on each file: about 160 records in this one, and then some in the spool's.
        said = accepted(iter(out(process)), 190)
        process.send_signal(signal.SIGKILL)
        said += accepted(iter(out(process)), 10**9)
    assert not set(said) <= set(ids(path))
    with writing(path, count=10, spool=str(spool)) as process:
        said += accepted(iter(out(process)), 10)
        assert 0 == process.wait(60)
    assert set(said) <= set(ids(path))
    assert [] == list(spool.iterdir())
    assert [] == alarms(path)
