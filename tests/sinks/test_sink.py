import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw import telemetry
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.history import HistoryEntry
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.losses import INTERVAL
from llm_authmw.sinks.only import Only
from llm_authmw.sinks.retries import Retries
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import Place, make_record
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.record import Record
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

LATE = 0.2


@asynccontextmanager
async def opened(place: Place, **options: Any) -> AsyncGenerator[AuditSink]:
    # The machine may be busy: what is about a deadline names it.
    options.setdefault("deadline", 10)
    sink = AuditSink(place, **options)
    await sink.start()
    try:
        yield sink
    finally:
        place.thaw()
        await sink.aclose()


def within(seconds: float) -> AbstractContextManager[object]:
    return anyio.fail_after(seconds)


def ids(place: Place) -> list[str | None]:
    return [record.id for record in place.records]


def has_been_asked(place: Place, count: int) -> bool:
    return place.asked == count


class Unmade:
    def record(self) -> Record:
        raise RuntimeError("half made")


async def test_what_is_put_is_written_in_order_and_its_chain_verifies() -> None:
    place = Place()
    async with opened(place) as sink:
        for number in range(300):
            sink.put(make_record(id=str(number)))
    assert [str(number) for number in range(300)] == ids(place)
    report = verify(entry.line for entry in place.entries)
    assert ([], 300 + 2) == (report.findings, report.entries - report.checkpoints + 2)
    assert ("opened", "closed") == tuple(
        entry.record.checkpoint.state for entry in (place.entries[0], place.entries[-1]) if entry.record.checkpoint
    )


async def test_an_acceptance_means_that_the_place_has_it() -> None:
    place = Place()
    async with opened(place) as sink:
        await sink.accept(make_record(id="a"))
        assert ["a"] == ids(place)


async def test_callers_at_the_same_time_share_one_write() -> None:
    place = Place()
    async with opened(place) as sink:
        await sink.accept(make_record())
        place.frozen = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.accept, make_record(id="first"))
            await place.until(lambda: place.asked == 2)
            for number in range(100):
                tasks.start_soon(sink.accept, make_record(id=str(number)))
            await anyio.wait_all_tasks_blocked()
            place.thaw()
        assert [1 + 1, 1, 100] == place.writes
        assert 102 == len(place.records)


async def test_a_place_that_hangs_holds_nobody_up_beyond_the_deadline() -> None:
    place = Place()
    async with opened(place, deadline=LATE) as sink:
        place.frozen = True
        with within(LATE * 5), pytest.raises(SinkError, match="within"):
            await sink.accept(make_record(id="hung"))
        began = anyio.current_time()
        with within(LATE * 5), pytest.raises(SinkError, match="has not answered in time"):
            await sink.accept(make_record(id="refused at once"))
        assert LATE / 2 > anyio.current_time() - began
        place.thaw()
        await place.until(lambda: bool(place.records))
        await sink.accept(make_record(id="after"))
    assert ["hung", "after"] == ids(place)


async def test_a_place_that_is_down_refuses_at_once_and_recovers_by_itself() -> None:
    place, clock = Place(), ManualClock()
    async with opened(place, clock=clock) as sink:
        place.down = True
        with pytest.raises(SinkError, match="the place is down"):
            await sink.accept(make_record(id="a"))
        with pytest.raises(SinkError, match="the place is down"):
            await sink.accept(make_record(id="b"))
        assert 1 == place.asked
        place.down = False
        clock.advance(1)
        await place.until(lambda: bool(place.records))
        await sink.accept(make_record(id="c"))
    # The first had been given to the place before it was refused, and the second never was.
    assert ["a", "c"] == ids(place)
    assert not verify(entry.line for entry in place.entries).findings


async def test_a_caller_who_gives_up_leaves_nothing_behind() -> None:
    place = Place()
    async with opened(place) as sink:
        place.frozen = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.accept, make_record(id="first"))
            await place.until(lambda: place.asked == 1)
            tasks.start_soon(sink.accept, make_record(id="second"))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        place.thaw()
    assert ["first"] == ids(place)


async def test_the_pauses_between_two_tries_grow_up_to_two_seconds() -> None:
    clock = ManualClock()
    retries = Retries("place", clock)
    for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        retries.failed(SinkError("down"))
        clock.advance(pause - 0.01)
        assert not retries.due
        clock.advance(0.02)
        assert retries.due
    retries.succeeded()
    assert retries.due
    assert retries.problem is None


async def test_memory_is_bounded_while_the_place_is_down_and_what_is_lost_is_counted_exactly() -> None:
    place, clock = Place(), ManualClock()
    async with opened(place, clock=clock, queue=100, batch=10) as sink:
        place.down = True
        sink.put(make_record(id="hand"))
        await place.until(lambda: place.asked == 1)
        for number in range(5_000):
            sink.put(make_record(id=str(number)))
        assert {"audit_queue_length": 100, "audit_records_lost": 4_900} == read(sink, "audit_queue_length", "audit_records_lost")
        place.down = False
        clock.advance(1)
        await place.until(lambda: len(place.records) == 101)
        told = [entry.record.lost for entry in place.entries if entry.record.kind == "loss"]
        assert [4_900] == told
    assert not verify(entry.line for entry in place.entries).findings


def read(sink: AuditSink, *names: str) -> dict[str, float]:
    return {reading.name: reading.value for reading in sink.readings() if reading.name in names}


async def test_a_loss_is_logged_and_told_once_per_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock, alerts = ManualClock(), Alerts()
    place = Place()
    telemetry.attach(alerts)
    try:
        async with opened(place, clock=clock, queue=1, name="the file") as sink:
            place.frozen = True
            for _ in range(3):
                sink.put(make_record())
            clock.advance(INTERVAL - 1)
            sink.put(make_record())
            assert [1] == [alert.details["lost"] for alert in alerts.told]
            clock.advance(2)
            sink.put(make_record())
            assert [1, 3] == [alert.details["lost"] for alert in alerts.told]
    finally:
        telemetry.detach(alerts)
    assert [("audit_loss", "the file")] * 2 == [(alert.kind, alert.subject) for alert in alerts.told]
    assert len({alert.occasion for alert in alerts.told}) == 2
    assert 2 == sum("records of what happened are lost" in record.message for record in caplog.records)


class Alerts:
    def __init__(self) -> None:
        self.told: list[telemetry.Alert] = []

    def observe(self, event: object) -> None:
        if isinstance(event, telemetry.Alert):
            self.told.append(event)


async def test_closing_writes_what_waits_and_counts_the_rest_as_lost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_authmw.sinks.sink.FLUSH", 0.1)
    place = Place()
    sink = AuditSink(place, batch=10)
    for number in range(50):
        sink.put(make_record(id=str(number)))
    await sink.aclose()
    assert 50 == len(place.records)
    place.down = True
    for number in range(50):
        sink.put(make_record(id=str(number)))
    await sink.aclose()
    assert {"audit_records_lost": 50, "audit_queue_length": 0} == read(sink, "audit_records_lost", "audit_queue_length")
    assert "50 records of what happened are lost" in caplog.text
    assert 2 == place.closed


async def test_a_closed_sink_begins_a_chain_of_its_own_when_it_is_used_again() -> None:
    place = Place()
    sink = AuditSink(place)
    for number in range(2):
        await sink.accept(make_record(id=str(number)))
        await sink.aclose()
    assert ["0", "1"] == ids(place)
    assert 2 == len({entry.writer for entry in place.entries})
    report = verify(entry.line for entry in place.entries)
    assert ([], 2) == (report.findings, report.writers)


async def test_a_record_that_cannot_be_made_is_lost_alone() -> None:
    place = Place()
    async with opened(place) as sink:
        sink.put(Unmade())
        sink.put(make_record(id="a"))
        with pytest.raises(SinkError, match="could not be made"):
            await sink.accept(Unmade())
    assert ["a"] == ids(place)
    assert {"audit_records_lost": 2} == read(sink, "audit_records_lost")


async def test_an_entry_that_is_refused_for_good_is_lost_alone() -> None:
    place = Place()
    refused: list[str] = []
    place.refuses = lambda entry: entry.record.id == "bad"

    async def accept(name: str) -> None:
        try:
            await sink.accept(make_record(id=name))
        except SinkError:
            refused.append(name)

    async with opened(place) as sink:
        for name in ("a", "bad", "b"):
            sink.put(make_record(id=name))
        async with anyio.create_task_group() as tasks:
            for name in ("c", "bad", "d"):
                tasks.start_soon(accept, name)
    assert ["a", "b", "c", "d"] == sorted(str(name) for name in ids(place))
    assert ["bad"] == refused
    assert {"audit_records_lost": 2} == read(sink, "audit_records_lost")
    assert 2 == sum(entry.record.lost for entry in place.entries)


async def test_a_place_that_raises_whatever_it_likes_is_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    place, clock = Place(), ManualClock()

    def fail(_: object) -> bool:
        raise RuntimeError("text that quotes a record")

    async with opened(place, clock=clock) as sink:
        place.refuses = fail
        with pytest.raises(SinkError, match="RuntimeError"):
            await sink.accept(make_record(id="a"))
        place.refuses = Place().refuses
        clock.advance(1)
    assert ["a"] == ids(place)
    assert "quotes" not in caplog.text


async def test_failures_and_recoveries_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    place, clock = Place(), ManualClock()
    async with opened(place, clock=clock) as sink:
        place.down = True
        sink.put(make_record())
        for count in range(1, 5):
            await place.until(partial(has_been_asked, place, count))
            clock.advance(3)
        place.down = False
        await place.until(lambda: bool(place.entries))
    assert ["place takes no records: the place is down", "place takes records again"] == [record.message for record in caplog.records]


async def test_a_full_queue_refuses_what_has_to_be_accepted() -> None:
    place = Place()
    async with opened(place, queue=1) as sink:
        place.frozen = True
        sink.put(make_record(id="in hand"))
        await place.until(lambda: place.asked == 1)
        sink.put(make_record(id="waits"))
        with within(5), pytest.raises(SinkError, match="the queue is full"):
            await sink.accept(make_record(id="refused"))
    assert ["in hand", "waits"] == ids(place)
    assert {"audit_records_lost": 0} == read(sink, "audit_records_lost")


async def test_a_request_waits_for_room_no_longer_than_the_deadline() -> None:
    place = Place()
    async with opened(place, queue=1, when_full="wait", deadline=LATE) as sink:
        assert sink.waits
        place.frozen = True
        sink.put(make_record())
        await place.until(lambda: place.asked == 1)
        sink.put(make_record())
        with within(LATE * 5):
            began = anyio.current_time()
            await sink.room()
        assert LATE <= anyio.current_time() - began + 0.01
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.room)
            await anyio.wait_all_tasks_blocked()
            place.thaw()
    assert {"audit_records_lost": 0} == read(sink, "audit_records_lost")


async def test_a_sink_that_drops_never_lets_a_request_wait_for_room() -> None:
    place = Place()
    async with opened(place, queue=1, deadline=60) as sink:
        assert not sink.waits
        place.frozen = True
        sink.put(make_record())
        sink.put(make_record())
        with within(LATE):
            await sink.room()


async def test_a_sample_takes_its_share_of_the_allowed_requests_and_every_denial() -> None:
    place = Place()
    async with opened(place, sample=0.25) as sink:
        for number in range(2_000):
            sink.put(make_record(id=f"{number:016x}", outcome=("allowed", "denied", "failed")[number % 3]))
            sink.put(make_record(id=f"{number:016x}", kind="intent", outcome=None))
        sink.put(make_record(kind="change", outcome=None))
    outcomes = [record.outcome for record in place.records]
    assert (667, 666, 1) == (
        outcomes.count("denied"),
        outcomes.count("failed"),
        sum(record.kind == "change" for record in place.records),
    )
    assert 667 * 0.15 < outcomes.count("allowed") < 667 * 0.35
    # An intent shares the fate of its request.
    allowed = {record.id for record in place.records if record.outcome == "allowed"}
    assert allowed <= {record.id for record in place.records if record.kind == "intent"}


async def test_what_is_accepted_is_written_whatever_filters_and_samples_say() -> None:
    place = Place()
    async with opened(place, sample=0, only=Only(outcomes=["denied"])) as sink:
        await sink.accept(make_record(id="accepted"))
        sink.put(make_record(id="put"))
    assert ["accepted"] == ids(place)


async def test_checkpoints_are_anchored_once_they_are_written() -> None:
    place = Place()
    anchored: list[str] = []

    async def anchor(entry: Any) -> None:
        assert entry in place.entries
        anchored.append(entry.record.checkpoint.state)
        raise RuntimeError("nothing depends on it")

    async with opened(place, checkpoint_every=10, anchor=anchor) as sink:
        for _ in range(15):
            sink.put(make_record())
    assert ["opened", "running", "closed"] == anchored


async def test_checkpoints_are_anchored_while_records_come_without_a_pause() -> None:
    place, told = Place(), anyio.Event()
    seen: list[Entry] = []

    async def anchor(entry: Entry) -> None:
        seen.append(entry)
        if len(seen) >= 3:
            told.set()

    sink = AuditSink(place, anchor=anchor, checkpoint_every=5, deadline=30)
    await sink.start()

    async def write() -> None:
        # Far more than it takes.
        for _ in range(10_000):
            if told.is_set():
                return
            await sink.accept(make_record())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(write)
    assert told.is_set()
    await sink.aclose()


async def test_checkpoints_are_anchored_where_each_record_is_written_at_once(tmp_path: Path) -> None:
    told = anyio.Event()
    seen: list[Entry] = []

    async def anchor(entry: Entry) -> None:
        seen.append(entry)
        if len(seen) >= 3:
            told.set()

    sink = FileSink(tmp_path / "audit.jsonl", fsync=False, anchor=anchor, checkpoint_every=5)
    await sink.start()
    for _ in range(20):
        await sink.accept(make_record())
    with anyio.fail_after(20):
        await told.wait()
    await sink.aclose()
    assert [entry.line + b"\n" for entry in seen] == [
        line for line in (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True) if b'"kind":"checkpoint"' in line
    ]


async def test_an_anchor_that_is_slow_holds_no_record_up() -> None:
    place, asked = Place(), anyio.Event()
    seen: list[Entry] = []
    go_on = anyio.Event()

    async def anchor(entry: Entry) -> None:
        asked.set()
        await go_on.wait()
        seen.append(entry)

    sink = AuditSink(place, anchor=anchor, checkpoint_every=5, deadline=30)
    await sink.start()
    with anyio.fail_after(4):
        await sink.accept(make_record())
        await asked.wait()
        for _ in range(20):
            await sink.accept(make_record())
    assert [] == seen
    go_on.set()
    await sink.aclose()
    assert [entry.hash for entry in place.entries if entry.record.kind == "checkpoint"] == [entry.hash for entry in seen]


@pytest.mark.parametrize(
    ("target", "told", "user", "end_user"),
    [("team:blue", "team:blue", None, None), ("user:wilma", "user", "wilma", None), ("end_user:bob", "end_user", None, "bob")],
)
async def test_a_change_is_recorded_and_names_persons_where_they_can_be_forgotten(
    target: str, told: str, user: str | None, end_user: str | None
) -> None:
    place = Place()
    async with opened(place) as sink:
        sink.changed(
            "account", target, HistoryEntry(at=12.5, action="update", actor="eve", changes={"status": ["on", "off"]}), tenant="acme"
        )
    record = place.records[0]
    assert record.change is not None
    assert record.person is not None
    assert record.who is not None
    assert ("change", 12_500_000, "acme") == (record.kind, record.time, record.who.tenant)
    assert ("account", told, "update", ("status",)) == (
        record.change.what,
        record.change.target,
        record.change.action,
        record.change.fields,
    )
    assert (user, end_user, "eve", {"status": ["on", "off"]}) == (
        record.person.user,
        record.person.end_user,
        record.person.actor,
        record.person.changes,
    )
    assert not any(name and name.encode() in place.entries[1].sealed for name in (user, end_user, "eve"))


def test_without_an_event_loop_what_is_put_waits() -> None:
    place = Place()
    sink = AuditSink(place)
    sink.put(make_record())
    assert {"audit_queue_length": 1} == read(sink, "audit_queue_length")
    anyio.run(sink.aclose)
    assert 1 == len(place.records)


WRONG: dict[str, Callable[[], AuditSink]] = {
    "deadline": lambda: AuditSink(Place(), deadline=0),
    "queue": lambda: AuditSink(Place(), queue=0),
    "batch": lambda: AuditSink(Place(), batch=0),
    "sample": lambda: AuditSink(Place(), sample=1.5),
    "when_full": lambda: AuditSink(Place(), when_full="block"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "only": lambda: AuditSink(Place(), only={"outcomes": ["denied"]}),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "spool_limit": lambda: AuditSink(Place(), spool_limit=1_000_000),
    "signing_key": lambda: AuditSink(Place(), signing_key="no key"),
    "checkpoint_every": lambda: AuditSink(Place(), checkpoint_every=0),
    "checkpoint_interval": lambda: AuditSink(Place(), checkpoint_interval=0),
    "anchor": lambda: AuditSink(Place(), anchor="a file"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("option", WRONG)
def test_an_option_that_is_wrong_is_an_error(option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WRONG[option]()
    assert option == caught.value.option


def test_it_prints_its_name() -> None:
    assert "AuditSink('place')" == repr(AuditSink(Place()))
    assert "far" == AuditSink(Place(), name="far").name
