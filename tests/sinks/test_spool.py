import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks import spool as spool_module
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.spool import Spool
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import Place, make_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

LIMIT = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def entries(*ids: str) -> list[Entry]:
    chain = Chain()
    return [chain.link(make_record(id=one)) for one in ids]


def ids(found: list[Entry]) -> list[str | None]:
    return [entry.record.id for entry in found if entry.record.kind == "request"]


async def read_all(spool: Spool) -> list[Entry]:
    found: list[Entry] = []
    while some := await spool.oldest(10):
        found += some
        await spool.forget(len(some))
    return found


async def test_what_is_kept_comes_back_as_it_was_and_in_order(folder: Path) -> None:
    spool = Spool(folder, limit=LIMIT)
    kept = entries(*map(str, range(25)))
    await spool.append(kept[:20])
    await spool.append(kept[20:])
    assert not spool.empty
    assert kept == await read_all(spool)
    assert (True, 0) == (spool.empty, spool.size)
    assert [] == list(folder.iterdir())
    await spool.aclose()


async def test_only_the_owner_can_read_it(folder: Path) -> None:
    spool = Spool(folder, limit=LIMIT)
    await spool.append(entries("a"))
    assert [0o700, 0o600] == [found.stat().st_mode & 0o777 for found in (folder, *folder.iterdir())]
    await spool.aclose()


async def test_it_keeps_no_more_bytes_than_it_may(folder: Path) -> None:
    spool = Spool(folder, limit=3_000)
    await spool.append(entries("a"))
    with pytest.raises(SinkError, match="the spool is full"):
        await spool.append(entries(*map(str, range(20))))
    assert ["a"] == ids(await read_all(spool))
    await spool.append(entries("b"))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000
    await spool.aclose()


async def test_what_a_process_has_left_is_taken_over_by_the_next_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT", 2_000)
    first = Spool(folder, limit=LIMIT)
    for number in range(10):
        await first.append(entries(str(number)))
    await first.forget(len(await first.oldest(4)))
    second = Spool(folder, limit=LIMIT)
    await second.adopt()
    assert second.empty  # what belongs to a process that lives is its own
    await first.aclose()
    await second.adopt()
    # A file is replayed as a whole where that was cut short: an entry may come twice, and is the same one.
    assert [str(number) for number in range(10)][-7:] == ids(await read_all(second))[-7:]
    assert [] == list(folder.iterdir())
    await second.aclose()


async def test_a_torn_end_is_no_entry(folder: Path) -> None:
    first = Spool(folder, limit=LIMIT)
    await first.append(entries("a", "b"))
    await first.aclose()
    (path,) = folder.iterdir()
    os.truncate(path, path.stat().st_size - 5)
    second = Spool(folder, limit=LIMIT)
    await second.adopt()
    assert ["a"] == ids(await read_all(second))
    assert second.empty
    await second.aclose()


async def test_bytes_that_are_no_entry_are_none(folder: Path) -> None:
    folder.mkdir()
    (folder / "0123456789abcdef-00000001.spool").write_bytes(b"\0\0\0\5hello" * 3)
    spool = Spool(folder, limit=LIMIT)
    await spool.adopt()
    assert [] == await read_all(spool)
    assert spool.empty
    await spool.aclose()


async def test_a_full_disk_leaves_no_half_of_an_entry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(folder, limit=LIMIT)
    await spool.append(entries("a"))
    size = next(folder.iterdir()).stat().st_size
    write = os.pwrite

    def fill_up(descriptor: int, data: Any, at: int) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:-50], at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill_up)
        with pytest.raises(SinkError, match="No space left"):
            await spool.append(entries("b"))
    assert size == next(folder.iterdir()).stat().st_size
    await spool.append(entries("c"))
    assert ["a", "c"] == ids(await read_all(spool))
    await spool.aclose()


def test_a_spool_is_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigurationError, match="is no folder"):
        AuditSink(Place(), spool=file)
    with pytest.raises(ConfigurationError, match="spool_limit"):
        AuditSink(Place(), spool=tmp_path, spool_limit=10)


def names(place: Place) -> list[str | None]:
    return [record.id for record in place.records]


async def test_while_the_place_is_down_everything_goes_through_the_spool_in_order(folder: Path) -> None:
    place, clock = Place(), ManualClock()
    sink = AuditSink(place, spool=folder, clock=clock, queue=50, batch=20, deadline=30)
    await sink.start()
    place.down = True
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(sink.accept, make_record(id=str(number)))
    # All of them are accepted: they are on the disk.
    assert place.entries == []
    for number in range(10, 500):
        await sink.accept(make_record(id=str(number)))
    place.down = False
    clock.advance(3)
    await place.until(lambda: len(place.records) >= 500)
    await sink.accept(make_record(id="last"))
    await sink.aclose()
    assert [*(str(number) for number in range(500)), "last"] == sorted(names(place)[:10], key=lambda one: int(str(one))) + names(place)[10:]
    assert [] == verify(entry.line for entry in place.entries).findings
    assert [] == list(folder.iterdir())


async def test_a_spool_makes_a_place_durable_that_is_not(folder: Path) -> None:
    place = Place(durable=False)
    assert not AuditSink(place).durable
    sink = AuditSink(place, spool=folder, deadline=30)
    assert sink.durable
    await sink.start()
    place.frozen = True
    await sink.accept(make_record(id="a"))
    assert 1 == len(list(folder.iterdir()))
    place.thaw()
    await place.until(lambda: names(place) == ["a"])
    await sink.aclose()
    assert [] == list(folder.iterdir())


async def test_what_a_place_that_is_not_durable_is_given_is_on_the_disk_before(folder: Path) -> None:
    place = Place(durable=False)
    kept: list[int] = []

    def look(_: Entry) -> bool:
        kept.extend(path.stat().st_size for path in folder.iterdir())
        return False

    place.refuses = look
    sink = AuditSink(place, spool=folder, deadline=30)
    await sink.accept(make_record(id="a"))
    await place.until(lambda: names(place) == ["a"])
    await sink.aclose()
    assert kept[0] > 500


async def test_what_could_not_be_delivered_is_delivered_by_the_next_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.sinks.sink.FLUSH", 0.3)
    place = Place()
    place.down = True
    first = AuditSink(place, spool=folder)
    for number in range(20):
        first.put(make_record(id=str(number)))
    await first.aclose()
    assert [("audit_records_lost", 0)] == [(one.name, one.value) for one in first.readings() if one.name == "audit_records_lost"]
    place.down = False
    second = AuditSink(place, spool=folder, deadline=30)
    await second.start()
    await place.until(lambda: len(place.records) == 20)
    await second.accept(make_record(id="new"))
    await second.aclose()
    assert [*map(str, range(20)), "new"] == names(place)
    assert [] == [finding for finding in verify(entry.line for entry in place.entries).findings if finding.is_alarm]


async def test_a_full_spool_refuses_and_what_is_put_meanwhile_is_counted(folder: Path) -> None:
    place, clock = Place(), ManualClock()
    sink = AuditSink(place, spool=folder, spool_limit=65_536, clock=clock, queue=10, deadline=30)
    await sink.start()
    place.down = True
    refused = 0
    for number in range(200):
        try:
            await sink.accept(make_record(id=str(number)))
        except SinkError:
            refused += 1
    assert 0 < refused < 150
    place.down = False
    clock.advance(3)
    await place.until(lambda: 200 - refused <= len(place.records))
    await sink.aclose()
    assert [] == verify(entry.line for entry in place.entries).findings


async def test_what_is_kept_is_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", note)
    spool = Spool(folder, limit=LIMIT)
    await spool.append(entries("a"))
    await spool.append(entries("b"))
    assert spool.size == synced[-1]
    await spool.aclose()


async def test_a_place_that_hangs_leaves_time_enough_for_the_spool(folder: Path) -> None:
    place = Place()
    sink = AuditSink(place, spool=folder, deadline=2)
    await sink.start()
    place.frozen = True
    with anyio.fail_after(4):
        # The first has waited for half of the time; those who come after it find the spool at once.
        await sink.accept(make_record(id="a"))
        async with anyio.create_task_group() as tasks:
            for name in ("b", "c"):
                tasks.start_soon(sink.accept, make_record(id=name))
    assert [] == place.entries
    place.thaw()
    await place.until(lambda: {"a", "b", "c"} == set(names(place)), time_limit=10)
    await sink.aclose()
