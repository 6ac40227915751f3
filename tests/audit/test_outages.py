"""Mode "required", while the place of the records is away: what it missed is there afterwards, and once."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from llm_authmw import AuditGate, AuditMiddleware
from llm_authmw.errors import SinkError
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.places import Place, make_record
from llm_authmw.testing.witness import Witness
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio


class ImmediatePlace(Place):
    """One that is also written to without waiting, as a file without fsync is."""

    def write_now(self, entries: Sequence[Entry]) -> None:
        self.asked += 1
        if self.down:
            raise SinkError("the place is down")
        self.entries.extend(entries)
        self._tell()


class Answering:
    """An app that has its requests wait inside until it is told, so that all their outcomes come while the place is away."""

    def __init__(self) -> None:
        self.inside = 0
        self.all_inside, self.go_on = anyio.Event(), anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.inside += 1
        if self.inside == REQUESTS:
            self.all_inside.set()
        await self.go_on.wait()
        await Witness()(scope, receive, send)


REQUESTS = 20


def kinds(place: Place) -> dict[str | None, list[str]]:
    """The kinds of record that there are of each request, in order."""
    found: dict[str | None, list[str]] = {}
    for record in place.records:
        if record.kind in {"intent", "request"}:
            found.setdefault(record.id, []).append(record.kind)
    return found


@pytest.mark.parametrize("place", [Place, ImmediatePlace])
@pytest.mark.parametrize("sample", [1.0, 0.0])
async def test_every_outcome_of_an_outage_is_written_once(place: type[Place], sample: float) -> None:
    there, app, clock = place(), Answering(), ManualClock()
    # What somebody had to wait for is in no sample: that one record of a request is there, and the other is not, would say nothing.
    sink = AuditSink(there, deadline=10, sample=sample, clock=clock)
    await sink.start()
    guarded = AuditMiddleware(AuditGate(app), sink=sink, mode="required", clock=clock)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(REQUESTS):
                tasks.start_soon(request, guarded, "GET /x")
            await app.all_inside.wait()
            there.down = True
            app.go_on.set()
        assert [["intent"]] * REQUESTS == list(kinds(there).values())
        there.down = False
        clock.advance(60)
        await sink.aclose()
    assert [["intent", "request"]] * REQUESTS == list(kinds(there).values())
    assert [] == [finding for finding in verify([entry.line for entry in there.entries]).findings if finding.is_alarm]
    assert {"audit_records_lost": 0}.items() <= {reading.name: reading.value for reading in sink.readings()}.items()


async def test_an_outcome_that_is_late_is_written_once() -> None:
    place, clock = Place(), ManualClock()
    sink = AuditSink(place, deadline=0.05, clock=clock)
    await sink.start()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        place.frozen = True
        await Witness()(scope, receive, send)

    with anyio.fail_after(20):
        await request(AuditMiddleware(AuditGate(app), sink=sink, mode="required", clock=clock), "GET /x")
        # The first is in hand, and the others wait in the queue; nobody waits for any of them.
        for number in range(3):
            with pytest.raises(SinkError):
                await sink.accept(make_record(id=str(number)), keep=True)
        assert 1 == len(kinds(place))
        place.thaw()
        clock.advance(60)
        await sink.aclose()
    (first, *others) = kinds(place).values()
    assert ["intent", "request"] == first
    assert [["request"]] * 3 == others


async def test_a_caller_who_gives_up_leaves_what_is_to_be_kept() -> None:
    place = Place()
    sink = AuditSink(place, deadline=10)
    await sink.accept(make_record(id="first"))
    place.frozen = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.accept, make_record(id="second"))
        await place.until(lambda: place.asked == 2)
        tasks.start_soon(lambda: sink.accept(make_record(id="third"), keep=True))
        tasks.start_soon(sink.accept, make_record(id="fourth"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    place.thaw()
    await sink.aclose()
    assert ["first", "second", "third"] == [record.id for record in place.records]


async def test_what_is_to_be_kept_and_finds_no_room_is_counted_once() -> None:
    place, clock = Place(), ManualClock()
    sink = AuditSink(place, deadline=10, queue=2, clock=clock)
    await sink.start()
    place.down = True
    for number in range(5):
        with pytest.raises(SinkError, match="the place is down"):
            await sink.accept(make_record(id=str(number)), keep=True)
    place.down = False
    clock.advance(60)
    await sink.aclose()
    # One is in hand, and two wait.
    assert Counter("012") == Counter(record.id for record in place.records)
    assert [2] == [entry.record.lost for entry in place.entries if entry.record.kind == "loss"]


@pytest.mark.parametrize("place", [Place, ImmediatePlace])
async def test_a_place_that_comes_back_gets_what_it_has_missed_without_anybody_coming(place: type[Place]) -> None:
    there, clock = place(), ManualClock()
    sink = AuditSink(there, deadline=10, clock=clock)
    await sink.accept(make_record(id="before"))
    there.down = True
    with pytest.raises(SinkError):
        await sink.accept(make_record(id="missed"), keep=True)
    there.down = False
    clock.advance(60)
    await there.until(lambda: 2 == len(there.records))
    assert ["before", "missed"] == [record.id for record in there.records]
    await sink.aclose()
