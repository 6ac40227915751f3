"""Several processes that count in one file, and one that is killed while it does."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.clock import SYSTEM_CLOCK
from llm_authmw.ledger.buckets import MAX_MOMENT, Bucket, Claim, Span
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

Start = Callable[..., "subprocess.Popen[str]"]

PROCESSES = 4
CALLERS = 8
LIMIT = 150
AMOUNT = 3
LEASE = 30

PREAMBLE = """
import sys

import anyio

from llm_authmw.errors import StoreUnavailableError
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Span
from llm_authmw.stores.sqlite import SQLiteBackend

path, name = sys.argv[1:]
ledger = SQLiteBackend(path).ledger
spans = (Span(0, MAX_MOMENT),)
money = Bucket(tenant="t", name="money", kind="window", measure="nano_usd", limit=LIMIT, spans=spans)
slots = Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=10**6)


def tell(line):
    print(line, flush=True)


async def until_done(call):
    while True:
        try:
            return await call()
        except StoreUnavailableError:  # the machine of the tests may be slow; the same id again is the same request
            continue


tell("ready")
sys.stdin.readline()
"""

SPENDER = """
granted = refused = 0


async def spend(caller):
    global granted, refused
    for number in range(20):
        reservation_id = f"{name}-{caller}-{number}"
        claims = [Claim(money, AMOUNT), Claim(slots, 1)]
        if (await until_done(lambda: ledger.reserve(reservation_id, claims, ttl=60 * SECOND))).granted:
            granted += 1
            # Every other one came to nothing.
            truth = AMOUNT if granted % 2 else 0
            await until_done(lambda: ledger.settle(reservation_id, {"nano_usd": truth}))
            spent.append(truth)
        else:
            refused += 1


spent = []


async def main():
    async with anyio.create_task_group() as tasks:
        for caller in range(CALLERS):
            tasks.start_soon(spend, caller)
    tell(f"{granted} {refused} {sum(spent)}")
    await ledger.aclose()


anyio.run(main)
"""

VICTIM = """
async def main():
    for number in range(1_000_000):
        if (await until_done(lambda: ledger.reserve(f"r{number}", [Claim(money, AMOUNT), Claim(slots, 1)], ttl=LEASE * SECOND))).granted:
            tell(f"r{number}")


anyio.run(main)
"""


def money(limit: int) -> Bucket:
    return Bucket(tenant="t", name="money", kind="window", measure="nano_usd", limit=limit, spans=(Span(0, MAX_MOMENT),))


SLOTS = Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=10**6)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SYSTEM_CLOCK.now())


@pytest.fixture
async def backend(path: Path, anyio_backend: Any, clock: ManualClock) -> AsyncIterator[SQLiteBackend]:
    made = SQLiteBackend(str(path), clock=clock)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, name: str, limit: int) -> "subprocess.Popen[str]":
        source = PREAMBLE + program
        for word, value in (("LIMIT", limit), ("AMOUNT", AMOUNT), ("CALLERS", CALLERS), ("LEASE", LEASE)):
            source = source.replace(word, str(value))
        process = subprocess.Popen(
            [sys.executable, "-c", source, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def all_go(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        assert "ready" == said(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_several_processes_together_never_pass_a_limit_and_use_all_of_it(start: Start, backend: SQLiteBackend) -> None:
    processes = [start(SPENDER, str(number), LIMIT) for number in range(PROCESSES)]
    all_go(*processes)
    told = [[int(word) for word in said(process).split()] for process in processes]
    assert [0] * PROCESSES == [process.wait(60) for process in processes]
    assert PROCESSES * CALLERS * 20 == sum(granted + refused for granted, refused, _ in told)
    assert sum(refused for _, refused, _ in told) > 0
    spent = sum(truth for _, _, truth in told)
    balance, slots = await backend.ledger.balance([money(LIMIT), SLOTS])
    assert (spent, 0) == (balance.used, slots.used)
    assert LIMIT - AMOUNT < spent <= LIMIT


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_process_reserved_before_it_was_killed_stays_booked_and_its_slots_come_back(
    path: Path, start: Start, backend: SQLiteBackend, clock: ManualClock
) -> None:
    everything = money(10**9)
    victim = start(VICTIM, "victim", everything.limit)
    all_go(victim)
    acknowledged = [said(victim) for _ in range(40)]
    victim.kill()
    assert victim.stdout is not None
    # What it had written to the pipe counts too; half a line does not.
    acknowledged += [line.strip() for line in victim.stdout if line.endswith("\n")]
    victim.wait(60)
    assert path.with_name("store.db-wal").stat().st_size > 0
    booked, slots = await backend.ledger.balance([everything, SLOTS])
    # One more may have been written that it could not tell of any more.
    assert slots.used - len(acknowledged) in {0, 1}
    assert booked.used == AMOUNT * slots.used
    clock.advance(LEASE + 60)
    assert (booked.used, 0) == tuple(balance.used for balance in await backend.ledger.balance([everything, SLOTS]))
    settlement = await backend.ledger.settle(acknowledged[0], {"nano_usd": 0})
    assert settlement is not None
    assert (True, booked.used - AMOUNT) == (settlement.late, settlement.balances[0].used)
    assert (await backend.ledger.reserve("next", [Claim(everything, 1), Claim(SLOTS, 1)], ttl=1)).granted


FORKED = """
import os
import sys

import anyio

from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.sqlite import SQLiteBackend

backend = SQLiteBackend(sys.argv[1])
bucket = Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=10)


def reserve(reservation_id):
    anyio.run(lambda: backend.ledger.reserve(reservation_id, [Claim(bucket, 1)], ttl=SECOND))


reserve("before")
closed, close = os.pipe()
child = os.fork()
if child == 0:
    reserve("beside")
    os.read(closed, 1)
    reserve("alone")
    os._exit(0)
reserve("here")
anyio.run(backend.aclose)
os.write(close, b"!")
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
async def test_a_process_that_was_forked_from_one_that_counts_counts_too_and_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await anyio.run_process([sys.executable, "-c", FORKED, str(path)])
    backend = SQLiteBackend(str(path))
    bucket = Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=10)
    assert [4] == [balance.used for balance in await backend.ledger.balance([bucket])]
    await backend.aclose()
