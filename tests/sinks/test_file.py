import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from blockbuster import blockbuster_ctx

from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks import log_file
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.log_file import LogFile
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import make_record
from llm_authmw.trail.reading import parse
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["fsync", "no-fsync"])
def fsync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def sink(path: Path, fsync: bool, anyio_backend: Any) -> AsyncIterator[FileSink]:
    made = FileSink(path, fsync=fsync, deadline=10)
    await made.start()
    yield made
    await made.aclose()


def read_ids(*paths: Path) -> list[str]:
    """The ids in the files' lines, each of which has to be whole."""
    found: list[str] = []
    for path in paths:
        for line in path.read_bytes().splitlines():
            parsed = parse(line)
            assert parsed is not None, line
            if (at := line.find(b'"id":"')) > 0:
                found.append(line[at + 6 :].partition(b'"')[0].decode())
    return found


def alarms(*paths: Path) -> list[str]:
    report = verify(line for path in paths for line in path.read_bytes().splitlines(keepends=True))
    return [str(finding) for finding in report.findings if finding.is_alarm]


async def write(sink: FileSink, *ids: str) -> None:
    for one in ids:
        await sink.accept(make_record(id=one))


class Disk:
    """What the system does when it is asked to write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.writes: list[int] = []
        self._write: Callable[..., int] = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room is None:
            count = self._write(descriptor, data)
        elif self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            count = self._write(descriptor, data[: self.room])
            self.room -= count
        self.writes.append(count)
        return count


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_a_line_is_in_the_file_when_it_is_accepted(sink: FileSink, path: Path) -> None:
    await write(sink, "a")
    assert ["a"] == read_ids(path)
    assert path.read_bytes().endswith(b"\n")
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert sink.durable


async def test_the_owner_of_a_file_that_is_there_decides_who_reads_it(path: Path, fsync: bool) -> None:
    path.touch(mode=0o640)
    path.chmod(0o640)
    sink = FileSink(path, fsync=fsync, deadline=10)
    await write(sink, "a")
    await sink.aclose()
    assert 0o640 == stat.S_IMODE(path.stat().st_mode)


async def test_callers_at_the_same_time_share_one_write(path: Path, disk: Disk) -> None:
    sink = FileSink(path, fsync=True, deadline=10)
    await write(sink, "first")
    before = len(disk.writes)
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(write, sink, str(number))
    assert len(disk.writes) - before <= 3
    await sink.aclose()
    assert 101 == len(read_ids(path))


async def test_a_full_disk_refuses_and_recovers_by_itself(sink: FileSink, path: Path, disk: Disk) -> None:
    await write(sink, "before")
    disk.room = 0
    for _ in range(3):
        with pytest.raises(SinkError, match="No space left"):
            await write(sink, "refused")
    disk.room = None
    with anyio.fail_after(5):
        while True:
            try:
                await write(sink, "after")
                break
            except SinkError:
                await anyio.sleep(0.01)
    ids = read_ids(path)
    assert ("before", "after", 1) == (ids[0], ids[-1], ids.count("refused"))
    assert [] == alarms(path)


async def test_what_a_failed_write_has_left_whole_is_not_written_twice(path: Path, disk: Disk) -> None:
    file = LogFile(path, fsync=False)
    lines = [b'{"n":%d}\n' % number for number in range(5)]
    disk.room = len(lines[0]) * 2 + 3
    with pytest.raises(SinkError, match="No space left"):
        file.write(lines)
    disk.room = None
    file.write(lines)
    assert b'{"n":0}\n{"n":1}\n{"n\n{"n":2}\n{"n":3}\n{"n":4}\n' == path.read_bytes()
    file.close()


async def test_a_write_that_is_cut_short_is_finished(path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(path, fsync=False)
    cut = iter([12])

    def write_less(descriptor: int, data: bytes) -> int:
        return disk.write(descriptor, data[: next(cut, len(data))])

    monkeypatch.setattr(os, "write", write_less)
    file.write([b'{"n":0}\n', b'{"n":1}\n'])
    assert b'{"n":0}\n{"n"\n{"n":1}\n' == path.read_bytes()
    file.close()


async def test_a_line_that_another_process_has_left_torn_is_no_part_of_ours(path: Path) -> None:
    file = LogFile(path, fsync=False)
    file.write([b'{"n":0}\n'])
    with path.open("ab") as other:
        other.write(b'{"n":')
    file.write([b'{"n":1}\n'])
    assert b'{"n":1}' in path.read_bytes().splitlines()
    with path.open("ab") as other:
        other.write(b'{"n":')
    file.write([b'{"n":2}\n', b'{"n":3}\n'])
    assert [b'{"n":2}', b'{"n":3}'] == path.read_bytes().splitlines()[-2:]
    file.close()
    with path.open("ab") as other:
        other.write(b'{"n":')
    file.write([b'{"n":4}\n'])
    assert [b'{"n":3}', b'{"n":', b'{"n":4}'] == path.read_bytes().splitlines()[-3:]
    file.close()


async def test_what_cannot_be_synced_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(path, fsync=True)
    file.write([b"a\n"])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SinkError, match="Input/output error"):
            file.write([b"b\n"])
    file.write([b"b\n"])
    # The line break says whether the disk takes anything again, and keeps what comes apart from what may be gone.
    assert b"a\nb\n\nb\n" == path.read_bytes()
    file.close()


async def test_a_file_that_is_renamed_is_followed(sink: FileSink, path: Path, fsync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LOOK_EVERY", 0.0)
    await write(sink, "a")
    rotated = path.rename(path.with_suffix(".1"))
    await write(sink, "b", "c")
    await sink.aclose()
    assert ["a", "b", "c"] == read_ids(rotated, path)
    assert ["c"] == read_ids(path)
    # What begins a file says so.
    assert '"state":"opened"' in path.read_text().splitlines()[0]
    assert [] == alarms(rotated, path)


async def test_a_file_that_is_removed_takes_nothing_along_that_was_written_meanwhile(
    sink: FileSink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "LOOK_EVERY", 0.0)
    await write(sink, "a")
    path.unlink()
    await write(sink, "b", "c")
    assert ["b", "c"] == read_ids(path)


async def test_lines_that_are_written_before_a_removal_is_noticed_are_written_again(path: Path) -> None:
    clock = ManualClock()
    file = LogFile(path, fsync=False, clock=clock)
    file.write([b"a\n"])
    path.unlink()
    for line in (b"b\n", b"c\n"):
        file.write([line])
    assert not path.exists()
    clock.advance(log_file.LOOK_EVERY)
    file.write([b"d\n"])
    assert b"b\nc\nd\n" == path.read_bytes()
    file.close()


async def test_a_file_that_is_copied_and_cut_is_written_on_from_its_beginning(sink: FileSink, path: Path) -> None:
    await write(sink, "a", "b")
    copy = path.with_suffix(".1")
    shutil.copy(path, copy)
    os.truncate(path, 0)
    await write(sink, "c", "d")
    assert ["a", "b", "c", "d"] == read_ids(copy, path)
    assert b"\0" not in path.read_bytes()


async def test_a_file_that_is_moved_again_and_again_is_an_error_and_no_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(path, fsync=True)
    sync = os.fsync

    def remove(descriptor: int) -> None:
        sync(descriptor)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(os, "fsync", remove)
    with pytest.raises(SinkError, match="again and again"):
        file.write([b"a\n"])
    file.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what blockbuster knows
async def test_nothing_blocks_the_loop_where_records_are_on_the_disk(path: Path) -> None:
    sink = FileSink(path, fsync=True, deadline=10, spool=path.parent / "spool")
    with blockbuster_ctx():
        await sink.start()
        await write(sink, "a")
        sink.put(make_record(id="b"))
        await sink.aclose()
    assert ["a", "b"] == read_ids(path)


async def test_a_place_that_becomes_something_else_is_refused(path: Path, fsync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.sinks.sink.FLUSH", 0.1)
    sink = FileSink(path, fsync=fsync, deadline=10)
    path.mkdir()
    with pytest.raises(SinkError, match="cannot be opened"):
        await write(sink, "a")
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(SinkError, match="no plain file"):
        await sink.start()
    await sink.aclose()


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(fifo)
    problems = {tmp_path: "no plain file", link: "is a link", fifo: "no plain file", tmp_path / "none" / "file": "does not exist"}
    for path, problem in problems.items():
        with pytest.raises(ConfigurationError, match=problem):
            FileSink(path)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        FileSink("a\0b")
