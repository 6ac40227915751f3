"""What a record costs: on the request's path, until it is in a file, and how many a second one core writes.

    python -m benchmarks.audit

Times are µs of process CPU on one core but where it says wall. Cases take turns within each round, and a ratio is taken within a round.
The file is in the folder for temporary files: TMPDIR says on which disk.
"""

import asyncio
import gc
import itertools
import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.layers import bare, discard, receive, scope_with
from benchmarks.ledger import TTL, buckets_of, claims_on
from benchmarks.rounds import Case, Timing, difference, pin_to_one_core, ratio, run_rounds
from llm_authmw.audit.gate import AuditGate
from llm_authmw.audit.middleware import AuditMiddleware
from llm_authmw.errors import SinkError
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.function import FunctionSink
from llm_authmw.stores.audit import StoreAudit
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.testing.places import make_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry

ROUNDS: Final = 15
CALLS: Final = 400
"""As many as wait for a sink while it gathers them, and no more: those beyond the first 500 are weighed as well."""
AT_ONCE: Final = (1, 16, 256)
MANY: Final = 300_000
BURST: Final = 50_000
LEDGER_ROUNDS: Final = 8
LEDGER_RATE: Final = 400
LEDGER_SECONDS: Final = 3
RECORD: Final = make_record()


def show(title: str, timings: dict[str, Timing], base: str) -> None:
    print(f"\n{title}\n\n| case | µs | least | above the base | × | IQR |\n|---|---:|---:|---:|---:|---:|")
    for name, timing in timings.items():
        above, times = difference(timing, timings[base]), ratio(timing, timings[base])
        print(f"| {name} | {timing.median:.2f} | {min(timing.rounds):.2f} | {above:+.2f} | {times:.1f} | {timing.spread:.0f} % |")


async def one_record(folder: Path) -> None:
    """One record after the other, beside what the least program does: encode it, and write it."""
    encode = msgspec.json.Encoder().encode
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chain = Chain()
    quick = FileSink(folder / "quick", fsync=False)
    put = FileSink(folder / "put", fsync=False)
    for sink in (quick, put):
        await sink.start()
        await sink.accept(RECORD)

    async def nothing() -> None:
        return

    async def least() -> None:
        os.write(descriptor, encode(RECORD) + b"\n")

    async def linked() -> None:
        _ = chain.link_all((RECORD.record(),))[0].line

    async def best_effort() -> None:
        put.put(RECORD)

    async def required() -> None:
        await quick.accept(RECORD)

    async def intent_and_outcome() -> None:
        await quick.accept(RECORD)
        await quick.accept(RECORD)

    cases: dict[str, Case] = {
        "nothing": nothing,
        "encoded by msgspec and written, neither chained nor checked": least,
        "made, encoded and chained, not written": linked,
        "put (best effort): the path of the request": best_effort,
        "accepted, FileSink(fsync=False)": required,
        "accepted twice: intent and outcome": intent_and_outcome,
    }
    timings = await run_rounds(cases, rounds=ROUNDS, calls=CALLS, between=put.aclose)
    show("One record", timings, "nothing")
    beside = difference(timings["accepted, FileSink(fsync=False)"], timings["made, encoded and chained, not written"])
    print(f"\nBeside making, encoding and chaining it, an accepted record costs {beside:.1f} µs.")
    os.close(descriptor)
    await quick.aclose()
    await put.aclose()


async def the_layer(folder: Path) -> None:
    """A request through the layer, beside the bare app; what is written after the answer is not in it with best effort."""
    put = FileSink(folder / "layer-put", fsync=False)
    quick = FileSink(folder / "layer-quick", fsync=False)
    synced = FileSink(folder / "layer-synced", fsync=True, deadline=60)
    apps: dict[str, Any] = {
        "bare ASGI app": bare,
        "best effort: the path of the request": AuditMiddleware(bare, sink=put),
        "required, FileSink(fsync=False): intent and outcome": AuditMiddleware(AuditGate(bare), sink=quick, mode="required"),
        "required, FileSink(fsync=True): intent and outcome": AuditMiddleware(AuditGate(bare), sink=synced, mode="required"),
    }

    def asking(app: Any) -> Case:
        async def ask() -> None:
            await app(scope_with(None), receive, discard)

        return ask

    timings = await run_rounds({name: asking(app) for name, app in apps.items()}, rounds=ROUNDS, calls=CALLS, between=put.aclose)
    show("A request", timings, "bare ASGI app")
    for sink in (put, quick, synced):
        await sink.aclose()


async def on_the_disk(folder: Path) -> None:
    """What callers at the same time wait for a disk, and how many of them share one write."""
    sink = FileSink(folder / "synced", fsync=True, deadline=60)
    await sink.start()
    descriptor = os.open(folder / "direct", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    line = b"x" * 600 + b"\n"
    waits: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(20):
            os.write(descriptor, line)
            os.fsync(descriptor)
        waits.setdefault("one write and one fsync, direct", []).append((time.perf_counter() - began) / 20 * 1e6)
        for at_once in AT_ONCE:
            took: list[float] = []
            count = max(20, 2 * at_once)

            async def caller(took: list[float] = took, turns: int = count // at_once) -> None:
                for _ in range(turns):
                    since = time.perf_counter()
                    await sink.accept(RECORD)
                    took.append((time.perf_counter() - since) * 1e6)

            began = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(at_once):
                    tasks.create_task(caller())
            name = f"accepted, {at_once} at once"
            rates.setdefault(name, []).append(len(took) / (time.perf_counter() - began))
            waits.setdefault(name, []).append(statistics.median(took))
    print("\nFileSink(fsync=True), wall time\n\n| case | µs, median | IQR | records/s |\n|---|---:|---:|---:|")
    for name, each in waits.items():
        low, median, high = statistics.quantiles(each, n=4)
        rate = f"{statistics.median(rates[name]):,.0f}" if name in rates else f"{1e6 / median:,.0f}"
        print(f"| {name} | {median:,.0f} | {100 * (high - low) / median:.0f} % | {rate} |")
    os.close(descriptor)
    await sink.aclose()


async def sustained(folder: Path) -> None:
    """How many records a second reach a file, while a task puts them as quickly as it may without losing one."""
    rates: list[float] = []
    for number in range(5):
        sink = FileSink(folder / f"many-{number}", fsync=False)
        await sink.start()
        gc.collect()
        began, busy = time.perf_counter(), time.process_time()
        left = MANY
        while left:
            waiting = next(reading.value for reading in sink.readings() if reading.name == "audit_queue_length")
            lot = min(left, 5_000 - int(waiting))
            for _ in range(lot):
                sink.put(RECORD)
            left -= max(lot, 0)
            await asyncio.sleep(0)
        await sink.aclose()
        took, busy = time.perf_counter() - began, time.process_time() - busy
        figures = {reading.name: reading.value for reading in sink.readings()}
        if figures["audit_records_lost"]:
            raise SystemExit("records were lost")
        rates.append(MANY / busy)
        size = (folder / f"many-{number}").stat().st_size
        print(f"{MANY:,} records, {size / MANY:.0f} bytes each: {took:.2f} s, {busy / MANY * 1e6:.1f} µs of CPU each")
        (folder / f"many-{number}").unlink()
    print(f"sustained to a file: {statistics.median(rates):,.0f} records for each second of a core")


async def beside_the_ledger(folder: Path) -> None:
    """What reserving and settling take while records are written to the store's other file: 400 requests a second, in rounds by turns."""
    backend = SQLiteBackend(str(folder / "beside.db"))
    await backend.start()
    ways = ("no records", "put", "accepted")
    sinks = {way: StoreAudit(backend.audit, deadline=10) for way in ways[1:]}
    buckets, ids = buckets_of("user:ada"), itertools.count()
    took: dict[str, list[list[float]]] = {way: [] for way in ways}

    async def one(way: str, figures: list[float]) -> None:
        reservation, since = f"rq-{next(ids)}", time.perf_counter()
        await backend.ledger.reserve(reservation, claims_on(buckets), ttl=TTL)
        reserved = time.perf_counter() - since
        if way == "accepted":
            await sinks[way].accept(make_record(kind="intent", outcome=None, status=None, duration=None))
        since = time.perf_counter()
        await backend.ledger.settle(reservation, {"tokens": 700, "nano_usd": 180_000})
        figures.append((reserved + time.perf_counter() - since) * 1e6)
        if way == "put":
            sinks[way].put(make_record())
        elif way == "accepted":
            await sinks[way].accept(make_record())

    for turn in range(LEDGER_ROUNDS + 1):
        for way in ways[turn % 3 :] + ways[: turn % 3]:
            figures: list[float] = []
            began = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for number in range(int(LEDGER_RATE * LEDGER_SECONDS)):
                    if (early := began + number / LEDGER_RATE - time.perf_counter()) > 0:
                        await asyncio.sleep(early)
                    tasks.create_task(one(way, figures))
            if turn:  # the first round warms
                took[way].append(sorted(figures))
    print(f"\nreserve and settle in SQLite at {LEDGER_RATE} requests/s, wall time\n")
    print("| records in the store's other file | µs, median | × | p99 | × |\n|---|---:|---:|---:|---:|")
    for way in ways:
        cells = [f"| {way} "]
        for part in (0.5, 0.99):
            points = [each[int(part * len(each))] for each in took[way]]
            times = statistics.median(mine / its[int(part * len(its))] for mine, its in zip(points, took[ways[0]], strict=True))
            cells.append(f"| {statistics.median(points):,.0f} | {times:.2f} ")
        print("".join(cells) + "|")
    for sink in sinks.values():
        await sink.aclose()
    await backend.aclose()


async def while_it_is_down() -> None:
    """How much memory a sink takes whose place is down."""

    async def down(entries: Sequence[Entry]) -> None:
        raise SinkError("down")

    sink = FunctionSink(down)
    await sink.start()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    most: list[int] = []
    for _ in range(BURST // 1_000):
        for _ in range(1_000):
            sink.put(make_record())
        await asyncio.sleep(0)
        most.append(tracemalloc.get_traced_memory()[0] - before)
    print(
        f"\nwhile the place is down, {BURST:,} records of their own: {max(most) / 1e6:.1f} MB at most, {most[-1] / 1e6:.1f} MB at the end"
    )
    tracemalloc.stop()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        await one_record(Path(folder))
        await the_layer(Path(folder))
        await on_the_disk(Path(folder))
        await sustained(Path(folder))
    await while_it_is_down()


async def on_every_core() -> None:
    with tempfile.TemporaryDirectory() as folder:
        await beside_the_ledger(Path(folder))


if __name__ == "__main__":
    cores = os.sched_getaffinity(0)
    pin_to_one_core()
    asyncio.run(main())
    os.sched_setaffinity(0, cores)
    asyncio.run(on_every_core())
