"""The audit trail in PostgreSQL: lost answers, servers that go, poolers, several processes, and plans."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import asyncpg
import pytest

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.postgres import PostgresBackend, audit
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.protocols import RecordQuery, UsageQuery
from llm_authmw.trail.record import Person, Record, Who
from llm_authmw.trail.verification import verify
from tests.peers.pgbouncer import pgbouncer
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

Execute = Callable[..., list[str]]

PROCESSES = 3
BATCHES = 20


def record(number: int, user: str = "ann") -> Record:
    return Record(
        time=number, kind="request", id=f"{number:016x}", outcome="allowed", who=Who(tenant="acme"), person=Person(user=user), duration=5
    )


async def requests(backend: PostgresBackend) -> int:
    (row,) = await backend.audit.usage(UsageQuery())
    return row.requests


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresPeer) -> Iterator[int]:
    with pgbouncer(postgres_server) as port:
        yield port


@pytest.fixture
async def pooled(pooler: int, postgres_server: PostgresPeer, postgres_url: str, anyio_backend: Any) -> AsyncIterator[PostgresBackend]:
    made = PostgresBackend(postgres_url.replace(f":{postgres_server.port}/", f":{pooler}/") + "?pooler=transaction")
    yield made
    await made.aclose()


async def test_behind_a_pooler_that_lends_a_connection_for_one_transaction_everything_works(pooled: PostgresBackend) -> None:
    async def write() -> None:
        chain = Chain()
        for start in range(0, 100, 20):
            await pooled.audit.append(chain.link_all([record(number) for number in range(start, start + 20)]))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(write)
    assert verify([entry.line for entry in await pooled.audit.search(RecordQuery(limit=10_000))]).sound
    assert 1000 == await requests(pooled)
    assert 1000 == await pooled.audit.forget("acme", "ann")
    assert 1010 == await pooled.audit.prune(10**18)
    assert 1000 == await requests(pooled)


async def test_an_append_whose_answer_was_lost_is_done_again_and_counted_once(
    backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.start()
    lost = 0
    call = audit._call

    def loses(statement: str, *values: Any) -> Any:
        async def work(connection: "asyncpg.Connection[asyncpg.Record]") -> Any:
            nonlocal lost
            answer = await call(statement, *values)(connection)
            if lost == 0:
                lost += 1
                raise ConnectionResetError
            return answer

        return work

    monkeypatch.setattr(audit, "_call", loses)
    entries = Chain().link_all([record(number) for number in range(5)])
    await backend.audit.append(entries)
    assert 1 == lost
    assert [entry.line for entry in entries] == [entry.line for entry in await backend.audit.search(RecordQuery())]
    assert 5 == await requests(backend)


async def test_while_the_server_is_away_an_append_fails_and_is_there_once_when_it_is_done_again(
    postgres_server: PostgresPeer, backend: PostgresBackend
) -> None:
    chain = Chain()
    await backend.audit.append(chain.link_all([record(1)]))
    entries = chain.link_all([record(2)])
    with postgres_server.away(killed=True), pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await backend.audit.append(entries)
    await backend.audit.append(entries)
    await backend.audit.append(entries)
    assert 2 == await requests(backend)


async def test_who_writes_the_trail_never_waits_for_who_changes_a_key(
    backend: PostgresBackend, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await backend.start()
    await other.execute("BEGIN; SELECT pg_advisory_xact_lock(1635087464, 2)")
    with anyio.fail_after(5):
        await backend.audit.append(Chain().link_all([record(1)]))


async def test_a_caller_who_gives_up_while_he_waits_leaves_the_next_one_his_turn(
    backend: PostgresBackend, other: "asyncpg.Connection[asyncpg.Record]", waiting_for_locks: Callable[[int], Any]
) -> None:
    await backend.start()
    entries = Chain().link_all([record(1)])
    await other.execute("BEGIN; SELECT authmw_audit_lock()")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backend.audit.append, entries)
        await waiting_for_locks(1)
        tasks.cancel_scope.cancel()
    await other.execute("ROLLBACK")
    await backend.audit.append(entries)
    assert 1 == await requests(backend)


async def test_a_user_who_may_only_read_searches_and_writes_nothing(
    postgres_server: PostgresPeer, postgres_url: str, backend: PostgresBackend, sql: Execute, database: str
) -> None:
    await backend.audit.append(Chain().link_all([record(1)]))
    sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    reader = PostgresBackend(postgres_url)
    assert 1 == len(await reader.audit.search(RecordQuery(principal="ann")))
    assert 1 == await requests(reader)
    with pytest.raises(StoreReadOnlyError):
        await reader.audit.append(Chain().link_all([record(2)]))
    await reader.aclose()


async def test_functions_use_what_stands_beside_them_whatever_the_callers_search_path_is(
    backend: PostgresBackend, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await backend.audit.append(Chain().link_all([record(1)]))
    await other.execute("CREATE SCHEMA hostile; CREATE TABLE hostile.authmw_audit_entries (LIKE public.authmw_audit_entries)")
    await other.execute("SET search_path = hostile, public")
    assert 1 == await other.fetchval("SELECT public.authmw_audit_forget('acme', 'user:ann', 'end_user:ann', NULL, 10)")


async def test_a_search_by_a_name_reads_what_it_finds_and_does_not_look_at_every_entry(
    backend: PostgresBackend, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    chain = Chain()
    for start in range(0, 6000, 500):
        await backend.audit.append([chain.link(record(number, user=f"u{number % 500}")) for number in range(start, start + 500)])
    await other.execute("ANALYZE")
    statement, values = audit._search(RecordQuery(principal="u7", limit=5))
    text, *arguments = statement(values)
    plan = "\n".join(row[0] for row in await other.fetch(f"EXPLAIN {text}", *arguments))
    assert "Seq Scan" not in plan


WRITER = f"""
import sys

import anyio

from llm_authmw.stores.postgres import PostgresBackend
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.record import Person, Record, Who


async def main():
    backend = PostgresBackend(sys.argv[1])
    chain = Chain()
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    for first in range(0, {20 * BATCHES}, 20):
        await backend.audit.append(chain.link_all([
            Record(time=number, kind="request", id=f"{{number:016x}}", outcome="allowed", who=Who(tenant="acme"), person=Person(user="ann"))
            for number in range(first, first + 20)
        ]))
        print(first + 20, flush=True)
    await backend.aclose()


anyio.run(main)
"""


@pytest.fixture
def start(postgres_url: str) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def begin() -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", WRITER, postgres_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


async def test_several_processes_of_which_one_is_killed_lose_nothing_that_they_were_told_of(
    backend: PostgresBackend, start: Callable[[], "subprocess.Popen[str]"]
) -> None:
    await backend.start()
    processes = [start() for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    victim, *others = processes
    assert victim.stdout is not None
    acknowledged = [victim.stdout.readline().strip() for _ in range(3)]
    victim.kill()
    acknowledged += [line.strip() for line in victim.stdout if line.endswith("\n")]
    assert [0] * len(others) == [process.wait(60) for process in others]
    # The server may be in the middle of what the one asked that is no more.
    with anyio.fail_after(30):
        await backend.audit.append([Chain().checkpoint()])
    found = await requests(backend) - 20 * BATCHES * len(others)
    assert found - int(acknowledged[-1]) in {0, 20}
    assert verify([entry.line for entry in await backend.audit.search(RecordQuery(limit=10_000))]).sound
