import asyncio
import os
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.testing.places import Place, make_record
from llm_authmw.trail.verification import verify


def alarms(path: Path) -> list[str]:
    return [str(finding) for finding in verify(path.read_bytes().splitlines()).findings if finding.is_alarm]


def count(path: Path, kind: bytes = b"request") -> int:
    return sum(b'"kind":"%b"' % kind in line for line in path.read_bytes().splitlines())


@pytest.mark.parametrize("fsync", [True, False])
def test_one_loop_after_the_other_uses_a_sink(tmp_path: Path, fsync: bool) -> None:
    sink = FileSink(tmp_path / "audit.jsonl", fsync=fsync, deadline=30)

    async def use() -> None:
        await sink.accept(make_record())
        sink.put(make_record())

    for backend in ("asyncio", "trio", "asyncio"):
        # Nobody closes it: what was put is written when the loop ends.
        anyio.run(use, backend=backend)
        anyio.run(use, backend=backend)
    assert 12 == count(tmp_path / "audit.jsonl")
    anyio.run(sink.aclose)
    assert [] == alarms(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("fsync", [True, False])
def test_several_loops_at_once_use_a_sink(tmp_path: Path, fsync: bool) -> None:
    sink = FileSink(tmp_path / "audit.jsonl", fsync=fsync, deadline=30)
    started = threading.Barrier(4)

    async def use() -> None:
        for _ in range(100):
            await sink.accept(make_record())
            sink.put(make_record())
        await sink.aclose()

    def run(backend: str) -> None:
        started.wait(10)
        anyio.run(use, backend=backend)

    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio", "asyncio", "trio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    anyio.run(sink.aclose)
    assert 800 == count(tmp_path / "audit.jsonl")
    assert [] == alarms(tmp_path / "audit.jsonl")


def test_a_loop_that_stands_still_is_left_behind() -> None:
    place = Place()
    sink = AuditSink(place, deadline=30)
    first = asyncio.new_event_loop()
    first.run_until_complete(sink.accept(make_record(id="a")))
    place.frozen = True
    first.run_until_complete(_begun(sink, place))
    place.frozen = False

    async def use() -> None:
        await sink.accept(make_record(id="c"))
        await sink.aclose()

    anyio.run(use)
    first.run_until_complete(asyncio.sleep(0))
    first.run_until_complete(_cancelled_all())
    first.close()
    assert ["a", "b", "c"] == [record.id for record in place.records][:3]
    assert not [finding for finding in verify(entry.line for entry in place.entries).findings if finding.is_alarm]


async def _begun(sink: AuditSink, place: Place) -> None:
    sink.put(make_record(id="b"))
    await place.until(lambda: place.asked == 2)


async def _cancelled_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("fsync", [True, False])
def test_the_child_of_a_fork_is_a_writer_of_its_own(tmp_path: Path, fsync: bool) -> None:
    path = tmp_path / "audit.jsonl"
    sink = FileSink(path, fsync=fsync, deadline=30, spool=tmp_path / "spool")

    async def use(name: str) -> None:
        for _ in range(10):
            await sink.accept(make_record(id=name))
        await sink.aclose()

    async def begin() -> None:
        await sink.start()
        await sink.accept(make_record(id="parent"))

    anyio.run(begin)
    sink.put(make_record(id="waits"))
    child = os.fork()
    if child == 0:
        try:
            anyio.run(use, "child")
        except BaseException:  # noqa: BLE001 - the child must not go on with pytest
            os._exit(1)
        os._exit(0)
    anyio.run(use, "parent")
    assert (child, 0) == os.waitpid(child, 0)
    ids = [line.partition(b'"id":"')[2].partition(b'"')[0] for line in path.read_bytes().splitlines()]
    # What waited in the parent is the parent's, and is written once.
    assert (11, 10, 1) == (ids.count(b"parent"), ids.count(b"child"), ids.count(b"waits"))
    assert [] == alarms(path)
    assert 2 == verify(path.read_bytes().splitlines()).writers


@pytest.mark.parametrize("yields", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_in_the_middle_of_a_batch_loses_nothing_of_it(backend: str, yields: int) -> None:
    place = Place()
    sink = AuditSink(place, deadline=30)

    async def use() -> None:
        await sink.accept(make_record(id="first"))
        for number in range(400):
            sink.put(make_record(id=str(number)))
        # Wakes the task that writes, and goes away while that takes the records slice by slice.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.accept, make_record(id="last"))
            for _ in range(yields):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    anyio.run(use, backend=backend)
    assert {str(number) for number in range(400)} <= {record.id for record in place.records}
    assert [] == [finding for finding in verify(entry.line for entry in place.entries).findings if finding.is_alarm]
