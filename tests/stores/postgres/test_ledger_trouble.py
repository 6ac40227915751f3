"""The ledger in PostgreSQL when answers are lost, the server dies or stands still, and when several processes use it."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from llm_authmw.errors import StoreError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.stores.postgres import PostgresBackend
from llm_authmw.stores.postgres.database import WAIT
from llm_authmw.stores.postgres.ledger import PostgresLedger
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

MINUTE = 60 * SECOND
DEADLINE = 2.0
IN_TIME = WAIT
"""Seconds that a statement may take by itself, which is the next bound: whoever has his answer earlier has it by the deadline."""

TOKENS = Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=1_000_000)
SLOTS = Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=1_000_000)
CLAIMS = (Claim(TOKENS, 10), Claim(SLOTS, 1))

PROCESS = """
import asyncio, sys
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.postgres import PostgresBackend

async def main(url, name):
    ledger = (backend := PostgresBackend(url)).ledger
    tokens = Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=1_000_000)
    slots = Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=150)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

    async def ask(number):
        own = Bucket(tenant="t", name=f"of {name}", kind="lifetime", measure="tokens", limit=1_000_000)
        claims = [Claim(bucket, 1) for bucket in ((own, slots, tokens) if number % 2 else (tokens, own, slots))]
        return (await ledger.reserve(f"{name}-{number}", claims, ttl=3600 * SECOND)).granted

    answers = await asyncio.gather(*map(ask, range(100)))
    granted = [number for number, answer in enumerate(answers) if answer]
    await asyncio.gather(*(ledger.settle(f"{name}-{number}", {"tokens": 3}) for number in granted[::2]))
    print(len(granted), len(granted[::2]), flush=True)
    await backend.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


class Relay:
    """Stands between a client and the server, and cuts the connection instead of passing the next answer on, when it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cut_next = False
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[int]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        forth = asyncio.create_task(self._pass_on(reader, server_writer, answers=False))
        await self._pass_on(server_reader, writer, answers=True)
        forth.cancel()
        for ended in (writer, server_writer):
            ended.close()
        await asyncio.wait([forth])

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.cut_next:
                    self.cut_next = False
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()


@pytest.fixture
async def relayed(postgres_server: PostgresPeer, postgres_url: str, anyio_backend: Any) -> AsyncIterator[tuple[Relay, PostgresLedger]]:
    relay = Relay(postgres_server.port)
    async with relay.running() as port:
        backend = PostgresBackend(postgres_url.replace(f":{postgres_server.port}/", f":{port}/"))
        yield relay, backend.ledger
        await backend.aclose()


async def used(ledger: PostgresLedger) -> list[int]:
    return [balance.used for balance in await ledger.balance([TOKENS, SLOTS])]


async def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_is_booked_twice(relayed: tuple[Relay, PostgresLedger]) -> None:
    relay, ledger = relayed
    # What was prepared once is one message later: the answer that is lost is the one to what was done.
    await ledger.reserve("first", CLAIMS, ttl=MINUTE)
    await ledger.settle("first", {"tokens": 1})
    relay.cut_next = True
    assert (await ledger.reserve("r", CLAIMS, ttl=MINUTE)).granted
    assert [11, 1] == await used(ledger)
    assert await ledger.settle("nobody's", {}) is None
    relay.cut_next = True
    settlement = await ledger.settle("r", {"tokens": 3})
    assert settlement is not None
    assert [4, 0] == await used(ledger)
    assert 2 == relay.cuts
    assert settlement == await ledger.settle("r", {"tokens": 9})


async def test_a_server_that_is_killed_in_the_middle_has_booked_each_reservation_once_or_not_at_all(
    postgres_server: PostgresPeer, backend: PostgresBackend
) -> None:
    ledger = backend.ledger
    answered: dict[str, Any] = {}
    settled: set[str] = set()
    half = anyio.Event()

    async def run(number: int) -> None:
        reservation_id = f"r{number}"
        with contextlib.suppress(StoreError):
            answered[reservation_id] = await ledger.reserve(reservation_id, CLAIMS, ttl=10 * MINUTE)
            if len(answered) == 150:
                half.set()
            if await ledger.settle(reservation_id, {"tokens": 7}) is not None:
                settled.add(reservation_id)

    async def kill() -> None:
        await half.wait()
        postgres_server.kill()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            for number in range(400):
                group.start_soon(run, number)
    finally:
        await anyio.to_thread.run_sync(postgres_server.start)
    assert 150 <= len(answered) < 400
    assert len(settled) < len(answered)
    for number in range(400):
        reservation_id = f"r{number}"
        reservation = await ledger.reserve(reservation_id, CLAIMS, ttl=10 * MINUTE)
        assert reservation == answered.get(reservation_id, reservation)
        assert (await ledger.settle(reservation_id, {"tokens": 7})) is not None
    assert [2800, 0] == await used(ledger)


async def test_a_server_that_stands_still_is_an_error_in_time_and_what_it_does_later_is_undone(
    postgres_server: PostgresPeer, backend: PostgresBackend
) -> None:
    handle = LedgerHandle(backend.ledger, deadline=DEADLINE)
    await backend.start()
    held = await handle.reserve(CLAIMS)
    assert isinstance(held, Hold)
    async with postgres_server.frozen():
        for call in (handle.reserve(CLAIMS), handle.balance([TOKENS])):
            before = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                await call
            assert time.monotonic() - before < IN_TIME
        before = time.monotonic()
        assert await handle.settle(held, {"tokens": 4}) is None
        assert time.monotonic() - before < IN_TIME
    with anyio.fail_after(60):
        while handle.unsettled:  # the machine may be busy
            await handle.aclose()
    assert [4, 0] == await used(backend.ledger)


async def test_whoever_waits_for_a_bucket_leaves_in_time_and_the_bucket_is_free_for_others(backend: PostgresBackend, other: Any) -> None:
    handle = LedgerHandle(backend.ledger, deadline=DEADLINE)
    await backend.start()
    assert isinstance(await handle.reserve(CLAIMS), Hold)
    await other.execute("BEGIN; UPDATE authmw_ledger_counters SET used = used")
    before = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await handle.reserve(CLAIMS)
    assert time.monotonic() - before < IN_TIME
    assert 10 == (await handle.balance([TOKENS]))[0].used
    await other.execute("COMMIT")
    assert isinstance(await handle.reserve(CLAIMS), Hold)
    await handle.aclose()
    assert [20, 2] == await used(backend.ledger)


async def test_what_nobody_waits_for_any_more_keeps_no_connection_of_the_server_for_ever(
    backend: PostgresBackend, other: Any, waiting_for_locks: Callable[[int], Any]
) -> None:
    ledger = backend.ledger
    await ledger.reserve("held", CLAIMS, ttl=MINUTE)
    await other.execute("BEGIN; SELECT FROM authmw_ledger_reservations FOR UPDATE; SELECT FROM authmw_ledger_counters FOR UPDATE")
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ledger.reserve, "r", CLAIMS, ttl=MINUTE))
        group.start_soon(partial(ledger.settle, "held", {"tokens": 0}))
        group.start_soon(partial(ledger.extend, ["held"], ttl=MINUTE))
        await waiting_for_locks(3)
        group.cancel_scope.cancel()
    await waiting_for_locks(0)
    await other.execute("COMMIT")
    assert [10, 1] == await used(ledger)


async def test_several_processes_hold_one_limit_together(postgres_url: str, backend: PostgresBackend) -> None:
    told: list[list[str]] = []
    async with contextlib.AsyncExitStack() as stack, anyio.create_task_group() as group:
        processes = [
            await stack.enter_async_context(await anyio.open_process([sys.executable, "-c", PROCESS, postgres_url, name], stderr=None))
            for name in "abc"
        ]

        async def read(process: Process) -> None:
            assert process.stdout is not None
            told.append(b"".join([data async for data in process.stdout]).decode().split())

        for process in processes:
            assert process.stdout is not None
            assert b"ready" == await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
        for process in processes:
            assert process.stdin is not None
            await process.stdin.send(b"go\n")
            group.start_soon(read, process)
    granted, settled = (sum(int(line[place]) for line in told) for place in (0, 1))
    # Those that were settled made room for others, in whichever order it came.
    assert [granted + 2 * settled, granted - settled] == await used(backend.ledger)
    assert granted - settled <= 150 <= granted <= 300
