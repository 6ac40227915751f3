"""A disk that loses what it was given and says so once, as kernels do it: `fsync` fails, the next one does not, and the data are gone."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from llm_authmw.errors import SinkError
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.log_file import LogFile
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.spool import Spool
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import Place, make_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

LIMIT: Final = 1024 * 1024
TIMES: Final = 12


class Platter:
    """What is on the disk, of all that was written in a folder; a power cut leaves nothing else.

    Attributes:
        syncs: How often it was asked.
        fails: Which of these times fail.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs: int = 0
        self.fails: Callable[[int], bool] = lambda _: False
        self._folder = folder
        self._cached: dict[int, list[tuple[int, bytes]]] = {}
        self._content: dict[int, bytearray] = {}
        self._named: dict[str, int] = {}
        self._write, self._pwrite, self._truncate, self._sync = os.write, os.pwrite, os.ftruncate, os.fsync
        for name in ("write", "pwrite", "ftruncate", "fsync"):
            monkeypatch.setattr(os, name, getattr(self, name))

    def write(self, descriptor: int, data: bytes) -> int:
        at = os.fstat(descriptor).st_size
        return self._note(descriptor, at, data, self._write(descriptor, data))

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        return self._note(descriptor, at, data, self._pwrite(descriptor, data, at))

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._truncate(descriptor, size)
        cached = self._cached.get(os.fstat(descriptor).st_ino, [])
        cached[:] = [(at, data[: size - at]) for at, data in cached if at < size]

    def fsync(self, descriptor: int) -> None:
        self.syncs += 1
        found = os.fstat(descriptor)
        cached = self._cached.pop(found.st_ino, [])
        if self.fails(self.syncs):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if stat.S_ISDIR(found.st_mode):
            self._named.update({entry.name: entry.stat().st_ino for entry in os.scandir(self._folder)})
            return
        content = self._content.setdefault(found.st_ino, bytearray())
        for at, data in cached:
            content.extend(bytes(max(0, at + len(data) - len(content))))
            content[at : at + len(data)] = data

    def after_a_power_cut(self) -> dict[str, bytes]:
        """Return what the files hold, by their names."""
        return {name: bytes(self._content[number]) for name, number in self._named.items() if number in self._content}

    def _note(self, descriptor: int, at: int, data: bytes, count: int) -> int:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            self._cached.setdefault(found.st_ino, []).append((at, bytes(data[:count])))
        return count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "records"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def platter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platter]:
    with monkeypatch.context() as patch:
        yield Platter(folder, patch)


async def accepted(sink: AuditSink, clock: ManualClock) -> list[str]:
    """Ask for records to be accepted until so many were, and return which."""
    found: list[str] = []
    asked = 0
    with anyio.fail_after(20):
        while len(found) < TIMES:
            asked += 1
            try:
                await sink.accept(make_record(id=f"{asked:016x}"))
            except SinkError:
                clock.advance(3)
                # It tries again by itself.
                await anyio.sleep(0.01)
            else:
                found.append(f"{asked:016x}")
    assert asked > TIMES
    return found


def missing_from(lines: bytes, ids: list[str]) -> list[str]:
    """Return those ids of which no line of the file says that they are its own."""
    found = [line for line in lines.split(b"\n") if line.startswith(b'{"time":')]
    return [one for one in ids if not any(b'"id":"%b"' % one.encode() in line for line in found)]


@pytest.mark.parametrize("failing", range(1, 9))
@pytest.mark.parametrize("times", [1, 3])
async def test_what_a_file_has_accepted_is_on_the_disk_whichever_sync_fails(
    folder: Path, platter: Platter, failing: int, times: int
) -> None:
    clock = ManualClock()
    platter.fails = lambda count: failing <= count < failing + times
    sink = FileSink(folder / "audit.jsonl", clock=clock, deadline=30)
    ids = await accepted(sink, clock)
    await sink.aclose()
    assert platter.syncs > failing + times
    for content in (platter.after_a_power_cut()["audit.jsonl"], (folder / "audit.jsonl").read_bytes()):
        assert [] == missing_from(content, ids)
        report = verify(content.splitlines(keepends=True))
        assert {"repeated", "blank", "torn"} >= {finding.kind for finding in report.findings}
        assert report.sound


async def test_lines_that_are_gone_take_none_along_that_comes_after_them(folder: Path, platter: Platter) -> None:
    file = LogFile(folder / "audit.jsonl", fsync=True)
    file.write([b"a\n"])
    platter.fails = lambda count: count == 3
    with pytest.raises(SinkError, match="Input/output error"):
        file.write([b"b\n"])
    file.write([b"b\n"])
    file.close()
    assert b"a\n\0\0\nb\n" == platter.after_a_power_cut()["audit.jsonl"]


async def test_a_file_whose_name_could_not_be_put_on_the_disk_takes_nothing_before_it_is(folder: Path, platter: Platter) -> None:
    path = folder / "audit.jsonl"
    file = LogFile(path, fsync=True)
    platter.fails = lambda count: count <= 2
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with pytest.raises(SinkError, match="Input/output error"):
            file.write([b"a\n"])
    assert opened == len(list(Path("/proc/self/fd").iterdir()))
    file.write([b"a\n"])
    assert b"a\n" == platter.after_a_power_cut()["audit.jsonl"]
    file.close()


async def test_a_disk_that_never_syncs_again_is_not_filled_with_what_it_does_not_keep(folder: Path, platter: Platter) -> None:
    path = folder / "audit.jsonl"
    file = LogFile(path, fsync=True)
    batch = [b"%d%b\n" % (number, b"x" * 1_000) for number in range(500)]
    platter.fails = lambda count: 1 < count < 1_000
    for _ in range(900):
        with pytest.raises(SinkError, match="Input/output error"):
            file.write(batch)
    assert path.stat().st_size < 600_000
    platter.fails = lambda _: False
    file.write(batch)
    assert b"".join(batch) in platter.after_a_power_cut()["audit.jsonl"]
    assert not file._unseen
    file.close()


async def test_a_full_disk_that_is_made_empty_by_removing_the_file_loses_no_line(
    folder: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "audit.jsonl"
    file = LogFile(path, fsync=True)
    lines = [b"%d\n" % number for number in range(10, 16)]
    room = [7]

    def fill_up(descriptor: int, data: bytes) -> int:
        if room and not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = platter.write(descriptor, data[: room[0]] if room else data)
        if room:
            room[0] -= count
        return count

    monkeypatch.setattr(os, "write", fill_up)
    with pytest.raises(SinkError, match="No space left"):
        file.write(lines)
    path.unlink()
    room.clear()
    file.write(lines)
    assert lines == path.read_bytes().splitlines(keepends=True)
    file.close()


@pytest.mark.parametrize("failing", range(1, 9))
@pytest.mark.parametrize("times", [1, 3])
async def test_what_a_spool_has_accepted_is_on_the_disk_whichever_sync_fails(
    folder: Path, platter: Platter, failing: int, times: int, tmp_path: Path
) -> None:
    place, clock = Place(), ManualClock()
    place.down = True
    platter.fails = lambda count: failing <= count < failing + times
    sink = AuditSink(place, spool=folder, clock=clock, deadline=30)
    ids = await accepted(sink, clock)
    assert platter.syncs > failing + times
    kept = platter.after_a_power_cut()
    place.down = False
    clock.advance(3)
    await place.until(lambda: ids[-1] in {record.id for record in place.records})
    await sink.aclose()
    found = [str(record.id) for record in place.records]
    assert sorted(found) == found
    assert set(ids) <= set(found)
    assert [] == verify(entry.line for entry in place.entries).findings
    # The same, where the power fails before the place is back.
    other = tmp_path / "restored"
    other.mkdir(mode=0o700)
    for name, content in kept.items():
        descriptor = os.open(other / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, content, 0)
        os.close(descriptor)
    spool = Spool(other, limit=LIMIT)
    await spool.adopt()
    restored = {entry.record.id for entry in await spool.oldest(1_000)}
    assert [] == [one for one in ids if one not in restored]
    await spool.aclose()


async def test_a_spool_that_cannot_take_back_what_it_could_not_keep_has_no_half_of_it(
    folder: Path, platter: Platter, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain()
    spool = Spool(folder, limit=LIMIT)
    await spool.append(chain.link_all([make_record(id="a")]))
    platter.fails = lambda _: True

    def fail(_: int, __: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(SinkError, match="Input/output error"):
            await spool.append([chain.link(make_record(id="long", path="/" + "x" * 4_000))])
    platter.fails = lambda _: False
    await spool.append([Chain().link(make_record(id="b"))])
    await spool.aclose()
    next_one = Spool(folder, limit=LIMIT)
    await next_one.adopt()
    found: list[Any] = []
    with anyio.fail_after(5):
        while not next_one.empty and (some := await next_one.oldest(10)):
            found += [entry.record.id for entry in some if entry.record.id is not None]
            await next_one.forget(len(some))
    assert ["a", "b"] == found
    await next_one.aclose()
