"""Whoever makes records as large as they can be while their place is down, and whoever puts things into the spool's folder."""

import json
import os
import socket
import stat
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import PlainTextResponse

from llm_authmw import AuditMiddleware, AuditSink, RBACMiddleware, Role
from llm_authmw.audit.notes import Notes
from llm_authmw.context import CONTEXT_KEY, MAX_SHADOWED
from llm_authmw.sinks import queue
from llm_authmw.sinks.spool import Spool
from llm_authmw.testing import ManualClock, fake_principal, request, websocket
from llm_authmw.testing.books import called_by
from llm_authmw.testing.places import Place, make_record
from llm_authmw.testing.records import KeptRecords
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.encoding import MAX_LINE
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

LIMIT: Final = 1024 * 1024
LARGEST: Final = json.dumps(
    {
        "model": "m",
        "fallbacks": [f"m{number:03}" + "x" * 500 for number in range(100)],
        "tools": [{"type": f"t{number:03}" + "y" * 500} for number in range(100)],
        "user": "u" * 20_000,
        "messages": [],
    }
).encode()


def guarded(sink: AuditSink) -> AuditMiddleware:
    roles = {"member": Role(routes=["*"], models=["m*"], tools=["*"])}
    return AuditMiddleware(RBACMiddleware(PlainTextResponse("in"), roles=roles, default_role="member"), sink=sink)


async def ask_largely(app: AuditMiddleware) -> int:
    """Send a request whose record is as large as it can be."""
    long = "/v1/" + "é" * 20_000 + "/chat/completions"
    headers = [(name, b"z" * 20_000) for name in (b"traceparent", b"x-forwarded-for", b"user-agent")]
    changes = {"path": long, "raw_path": long.encode(), **called_by(fake_principal())}
    return (await request(app, "POST /v1/chat/completions", headers=headers, body=LARGEST, scope=changes)).status


async def listening(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def value_of(sink: AuditSink, name: str) -> float:
    return next(one.value for one in sink.readings() if one.name == name)


@contextmanager
def allocated() -> Generator[Callable[[], int]]:
    """Count what is allocated and not given back."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


async def test_what_waits_in_memory_weighs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2 * 1024 * 1024
    monkeypatch.setattr(queue, "MAX_BYTES", most)
    monkeypatch.setattr(queue, "_FEW", 10)
    place, clock = Place(), ManualClock()
    place.down = True
    sink = AuditSink(place, queue=100_000, clock=clock)
    app = guarded(sink)
    assert 200 == await ask_largely(app)
    with anyio.fail_after(5):
        while not place.asked:
            await anyio.lowlevel.checkpoint()
    with allocated() as bytes_now:
        while not value_of(sink, "audit_records_lost"):
            await ask_largely(app)
        waiting = value_of(sink, "audit_queue_length")
        # The first few are not weighed.
        assert bytes_now() < 1.3 * most * waiting / (waiting - 10)
    assert 20 < waiting < 1_000
    place.down = False
    clock.advance(3)
    await sink.aclose()
    assert waiting <= len([record for record in place.records if record.kind == "request"])
    assert all(len(entry.line) <= MAX_LINE for entry in place.entries)
    assert [] == verify(entry.line for entry in place.entries).findings


async def test_a_small_denial_finds_room_where_an_attackers_large_request_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptRecords()
    notes: list[Notes] = []
    monkeypatch.setattr(kept, "put", notes.append)
    await ask_largely(guarded(kept))
    large = notes[-1]
    waits = queue.Queue(1_000_000)
    taken = 0
    while waits.add(large):
        taken += 1
    assert taken <= 500 + queue.MAX_BYTES // large.weight()
    assert waits.add(make_record(outcome="denied", reason="key_revoked", status=401))


async def test_what_the_spool_and_the_queue_have_taken_arrives_once_and_the_rest_is_counted(tmp_path: Path) -> None:
    place, clock, folder = Place(), ManualClock(), tmp_path / "spool"
    place.down = True
    sink = AuditSink(place, spool=folder, spool_limit=LIMIT, queue=50, clock=clock, batch=5)
    app = guarded(sink)
    sent = 0
    while value_of(sink, "audit_records_lost") < 20:
        sent += 1
        assert 200 == await ask_largely(app)
        denied = await request(
            guarded(sink), "POST /v1/chat/completions", json={"model": "gpt", "messages": []}, scope=called_by(fake_principal())
        )
        assert 403 == denied.status
        assert LIMIT >= sum(path.stat().st_size for path in folder.iterdir()) if folder.exists() else True
        assert value_of(sink, "audit_queue_length") <= 50
    place.down = False
    clock.advance(3)
    with anyio.fail_after(20):
        await place.until(lambda: value_of(sink, "audit_queue_length") == 0 and not list(folder.iterdir()), time_limit=20)
    await sink.aclose()
    requests = [record for record in place.records if record.kind == "request"]
    assert len({record.id for record in requests}) == len(requests)
    lost = value_of(sink, "audit_records_lost")
    assert len(place.records) + lost == len(requests) + lost + len([record for record in place.records if record.kind == "policy"])
    assert 2 * sent >= len(requests) >= 2 * sent - lost
    assert lost == sum(entry.record.lost or 0 for entry in place.entries)
    # Who came first is kept, whoever that was: nobody's denial gives way to another one's request.
    assert abs(sum(record.outcome == "denied" for record in requests) - len(requests) / 2) <= 50
    assert [] == verify(entry.line for entry in place.entries).findings


async def test_a_socket_whose_every_frame_would_be_denied_grows_no_longer_than_a_record_is() -> None:
    kept = KeptRecords()
    layers = RBACMiddleware(listening, roles={"member": Role(routes=["*"], models=["gpt-*"])}, default_role="member", shadow=True)
    app = AuditMiddleware(layers, sink=kept)
    scope = called_by(fake_principal())
    async with websocket(app, "/v1/realtime?model=gpt-4o", scope=scope) as connection:
        for _ in range(3 * MAX_SHADOWED):
            await connection.send_text('{"type":"session.update","session":{"model":"o3"}}')
    assert MAX_SHADOWED <= len(scope[CONTEXT_KEY].decisions) <= MAX_SHADOWED + 5


# The spool's folder.


def plant_link(folder: Path, ours: Path) -> None:
    (folder / "0-link.spool").symlink_to(ours)


def plant_fifo(folder: Path, _: Path) -> None:
    os.mkfifo(folder / "0-fifo.spool", 0o600)


def plant_folder(folder: Path, _: Path) -> None:
    (folder / "0-folder.spool").mkdir()


def plant_socket(folder: Path, _: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a name that is short enough
    made.bind("0-socket.spool")
    os.chdir(here)
    made.close()


def plant_what_others_may_write(folder: Path, ours: Path) -> None:
    (folder / "0-open.spool").write_bytes(ours.read_bytes())
    (folder / "0-open.spool").chmod(0o622)


def plant_second_name(folder: Path, ours: Path) -> None:
    (folder / "0-second.spool").hardlink_to(ours)


def plant_somebody_elses(folder: Path, ours: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    (folder / "0-theirs.spool").write_bytes(ours.read_bytes())
    os.chown(folder / "0-theirs.spool", 12_345, 12_345)


@pytest.mark.parametrize(
    "plant",
    [plant_link, plant_fifo, plant_folder, plant_socket, plant_what_others_may_write, plant_second_name, plant_somebody_elses],
)
async def test_what_others_have_put_into_the_folder_is_left_alone_and_what_is_ours_is_replayed(
    tmp_path: Path, plant: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    forged = Spool(elsewhere, limit=LIMIT)
    await forged.append([Chain().link(make_record(id="forged"))])
    await forged.aclose()
    ours = Spool(folder, limit=LIMIT)
    await ours.append([Chain().link(make_record(id="ours"))])
    await ours.aclose()
    (target,) = elsewhere.iterdir()
    content = target.read_bytes()
    plant(folder, target)
    (planted,) = folder.glob("0-*")
    place = Place()
    sink = AuditSink(place, spool=folder, deadline=30)
    with anyio.fail_after(10):
        await sink.start()
        await place.until(lambda: bool(place.records))
        await sink.accept(make_record(id="new"))
        await sink.aclose()
    assert ["ours", "new"] == [record.id for record in place.records]
    assert [planted] == list(folder.iterdir())
    assert content == target.read_bytes()
    assert f"{planted.name} is left alone" in caplog.text


async def test_a_file_that_says_it_is_huge_takes_no_memory_and_is_no_entry(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    ours = Spool(folder, limit=LIMIT)
    await ours.append([Chain().link(make_record(id="ours"))])
    await ours.aclose()
    huge = folder / "0-huge.spool"
    huge.write_bytes(b"\xff\xff\xff\xff" + bytes(100))
    huge.chmod(0o600)
    os.truncate(huge, 16 * 1024**3)
    place = Place()
    sink = AuditSink(place, spool=folder, deadline=30)
    with allocated() as bytes_now, anyio.fail_after(20):
        await sink.start()
        await place.until(lambda: bool(place.records))
        peak = tracemalloc.get_traced_memory()[1]
        assert bytes_now() <= peak < 32 * 1024 * 1024
    await sink.accept(make_record(id="new"))
    await sink.aclose()
    assert ["ours", "new"] == [record.id for record in place.records]
    assert [] == list(folder.iterdir())


async def test_a_long_file_is_read_piece_by_piece_and_nothing_of_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.sinks.spool.SEGMENT", 5_000)
    chain = Chain()
    entries = [chain.link(make_record(id=str(number), path="/" + "x" * (40 * number))) for number in range(200)]
    ours = Spool(tmp_path, limit=100 * LIMIT)
    await ours.append(entries)
    found: list[Any] = []
    while not ours.empty:
        some = await ours.oldest(7)
        found += [entry.record.id for entry in some]
        await ours.forget(len(some))
    assert [entry.record.id for entry in entries] == found
    await ours.aclose()


async def test_a_folder_that_others_may_write_to_is_complained_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o777)
    spool = Spool(tmp_path, limit=LIMIT)
    await spool.adopt()
    assert "can be written by others" in caplog.text
    await spool.append([Chain().link(make_record(id="a"))])
    assert [0o600] == [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
    await spool.aclose()
