"""The file of the audit trail: trouble with it is its own, and several processes write it at the same time."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.memory import audit as memory_audit
from llm_authmw.stores.memory.audit import MemoryAudit
from llm_authmw.stores.sqlite import SQLiteBackend, audit_rows, audit_sums
from llm_authmw.stores.sqlite.audit import beside
from llm_authmw.stores.sqlite.audit_migrations import AUDIT
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.protocols import RecordQuery, UsageQuery
from llm_authmw.trail.record import Person, Record, Who
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
Start = Callable[[str], "subprocess.Popen[str]"]
WithoutRights = Callable[[], AbstractContextManager[None]]

PROCESSES = 4
BATCHES = 25


@pytest.fixture
def trail(path: Path) -> Path:
    return path.with_name("store.audit.db")


def record(number: int) -> Record:
    return Record(
        time=number, kind="request", id=f"{number:016x}", outcome="allowed", who=Who(tenant="acme"), person=Person(user="ann"), duration=5
    )


def content_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


async def refused(backend: SQLiteBackend, kind: type[StoreError]) -> list[str]:
    """Try everything that there is, and return what each attempt was told; the store itself works all the same."""
    texts: list[str] = []
    for attempt in (
        backend.audit.start,
        lambda: backend.audit.append([Chain().link(record(1))]),
        lambda: backend.audit.search(RecordQuery()),
        lambda: backend.audit.usage(UsageQuery()),
        lambda: backend.audit.forget("acme", "ann"),
        lambda: backend.audit.prune(1),
    ):
        with pytest.raises(kind) as caught:
            await attempt()
        assert caught.type is kind
        texts.append(str(caught.value))
    await backend.keys.find("k1")
    await backend.aclose()
    return texts


@pytest.mark.parametrize(
    ("store", "file"),
    [("authmw.db", "authmw.audit.db"), ("store", "store.audit"), (".hidden", ".hidden.audit"), ("a.b.sqlite", "a.b.audit.sqlite")],
)
def test_the_trail_has_a_file_beside_the_stores(store: str, file: str) -> None:
    assert Path("/dir", file) == beside(Path("/dir", store))


async def test_it_is_made_when_something_is_recorded_and_for_its_owner_only(backend: SQLiteBackend, trail: Path) -> None:
    await backend.start()
    await backend.audit.search(RecordQuery())
    await backend.audit.usage(UsageQuery())
    assert 0 == await backend.audit.forget("acme", "ann") + await backend.audit.prune(10**18)
    assert not trail.exists()
    await backend.audit.append([Chain().link(record(1))])
    assert 0o600 == trail.stat().st_mode & 0o777


@pytest.mark.parametrize("content", [b"name,key\n", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 4080])
async def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(
    tmp_path: Path, backend: SQLiteBackend, trail: Path, content: bytes
) -> None:
    trail.write_bytes(content)
    for text in await refused(backend, StoreCorruptError):
        assert f"{trail} is " in text
        assert "othing was changed" in text
    assert content == content_of(tmp_path)["store.audit.db"]


async def test_the_store_itself_is_no_trail_and_a_trail_no_store(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    backend = SQLiteBackend(str(tmp_path / "a.db"))
    await backend.keys.write(key(), entry, None)
    await backend.audit.append([Chain().link(record(1))])
    await backend.aclose()
    (tmp_path / "a.db").rename(tmp_path / "b.audit.db")
    (tmp_path / "a.audit.db").rename(tmp_path / "c.db")
    before = content_of(tmp_path)
    with pytest.raises(StoreCorruptError, match="database of another program"):
        await SQLiteBackend(str(tmp_path / "b.db")).audit.start()
    with pytest.raises(StoreCorruptError, match="database of another program"):
        await SQLiteBackend(str(tmp_path / "c.db")).start()
    assert before == content_of(tmp_path)


async def test_a_file_of_a_newer_release_is_refused_and_stays_as_it_is(tmp_path: Path, backend: SQLiteBackend, trail: Path) -> None:
    await backend.audit.append([Chain().link(record(1))])
    await backend.aclose()
    with closing(sqlite3.connect(trail, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = content_of(tmp_path)["store.audit.db"]
    for text in await refused(backend, StoreCorruptError):
        assert f"form 99, this one knows {len(AUDIT.migrations)}" in text
    assert before == content_of(tmp_path)["store.audit.db"]


async def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    backend = SQLiteBackend(str(tmp_path / "missing" / "store.db"))
    with pytest.raises(StoreUnavailableError, match="does not exist"):
        await backend.audit.append([Chain().link(record(1))])
    await backend.aclose()


@pytest.mark.usefixtures("impatient")
async def test_while_another_writes_an_append_is_refused_and_is_there_once_when_it_is_done_again(
    backend: SQLiteBackend, trail: Path
) -> None:
    chain = Chain()
    first, second = chain.link(record(1)), chain.link(record(2))
    await backend.audit.append([first])
    with closing(sqlite3.connect(trail, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match=r"store\.audit\.db is locked by another process"):
            await backend.audit.append([second])
        assert [first.line] == [entry.line for entry in await backend.audit.search(RecordQuery())]
        other.execute("ROLLBACK")
    await backend.audit.append([second])
    await backend.audit.append([second])
    assert [2] == [row.requests for row in await backend.audit.usage(UsageQuery())]


@pytest.mark.usefixtures("impatient")
async def test_who_writes_the_trail_never_waits_for_who_writes_the_store_nor_the_other_way_round(
    backend: SQLiteBackend, path: Path, trail: Path, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.start()
    await backend.audit.start()
    for locked, work in (
        (path, lambda: backend.audit.append([Chain().link(record(1))])),
        (trail, lambda: backend.keys.write(key(), entry, None)),
    ):
        with closing(sqlite3.connect(locked, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await work()


async def test_what_can_only_be_read_is_searched_and_not_written(open_directory: Path, without_rights: WithoutRights) -> None:
    backend = SQLiteBackend(str(open_directory / "store.db"))
    await backend.audit.append([Chain().link(record(1))])
    await backend.aclose()
    for file in (open_directory / "store.audit.db", open_directory):
        file.chmod(0o555 if file.is_dir() else 0o444)
    with without_rights():
        for _ in range(2):
            assert 1 == len(await backend.audit.search(RecordQuery(principal="ann")))
            assert [1] == [row.requests for row in await backend.audit.usage(UsageQuery())]
            with pytest.raises(StoreReadOnlyError, match=r"store\.audit\.db cannot be written"):
                await backend.audit.append([Chain().link(record(2))])
        await backend.aclose()


async def test_a_row_that_is_not_what_was_written_is_an_error_that_quotes_nothing(backend: SQLiteBackend, trail: Path) -> None:
    await backend.audit.append([Chain().link(record(1))])
    await backend.aclose()
    with closing(sqlite3.connect(trail, isolation_level=None)) as other:
        other.execute("""UPDATE sums SET latency = '["hunter2"]'""")
    with pytest.raises(StoreCorruptError, match="damaged") as caught:
        await backend.audit.usage(UsageQuery())
    assert "hunter2" not in str(caught.value)


async def test_a_batch_that_fails_in_its_middle_leaves_nothing_behind(backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Chain().link_all([record(number) for number in range(100)])

    def fails(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(audit_sums, "count", fails)
        with pytest.raises(StoreError):
            await backend.audit.append(entries)
    assert [] == await backend.audit.search(RecordQuery())
    await backend.audit.append(entries)
    assert [100] == [row.requests for row in await backend.audit.usage(UsageQuery())]


async def test_what_was_forgotten_stands_nowhere_in_the_files(tmp_path: Path, backend: SQLiteBackend) -> None:
    secret = "Annabel-Lee-of-the-sea"
    chain = Chain()
    for number in range(40):
        person = Person(user=secret, email=f"{secret}@example.com") if number % 4 == 0 else Person(user="bob")
        await backend.audit.append([chain.link(Record(time=number, kind="request", who=Who(tenant="acme"), person=person))])
    assert 10 == await backend.audit.forget("acme", secret)
    await backend.aclose()
    assert not [name for name, content in content_of(tmp_path).items() if secret.encode() in content]


def plan_of(statement: str, values: dict[str, Any], connection: sqlite3.Connection) -> list[str]:
    return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


async def test_a_search_by_a_name_reads_what_it_finds_and_does_not_look_at_every_entry(backend: SQLiteBackend) -> None:
    await backend.audit.start()
    queries = [
        RecordQuery(principal="ann", limit=5),
        RecordQuery(team="blue", reason="rate_limited"),
        RecordQuery(model="m", newest_first=True, tenant="acme"),
        RecordQuery(id="x"),
    ]
    for query in queries:
        statement, values = audit_rows._statement(query)
        plan = await backend.audit._database.read(partial(plan_of, statement, values))
        assert "SEARCH t USING PRIMARY KEY (term=?)" in plan[0]
        assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN e")]


async def test_a_store_in_memory_keeps_the_newest_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_audit, "MAX_ENTRIES", 10)
    audit = MemoryAudit()
    entries = Chain().link_all([record(number) for number in range(25)])
    for start in range(0, 26, 4):
        await audit.append(entries[start : start + 4])
    assert [entry.line for entry in entries[-10:]] == [entry.line for entry in await audit.search(RecordQuery())]
    assert [25] == [row.requests for row in await audit.usage(UsageQuery())]


async def test_a_store_in_memory_keeps_the_sums_of_the_newest_days_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_audit, "MAX_KEPT_SUMS", 3)
    audit, chain = MemoryAudit(), Chain()
    for day in range(6):
        await audit.append([chain.link(record(day * 86_400_000_000))])
    assert {"1970-01-04", "1970-01-05", "1970-01-06"} == {row.by["day"] for row in await audit.usage(UsageQuery(by=("day",)))}


PREAMBLE = """
import sys

import anyio

from llm_authmw.errors import StoreUnavailableError
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.record import Person, Record, Who

backend = SQLiteBackend(sys.argv[1])
chain = Chain()


def tell(line):
    print(line, flush=True)


def batch(first):
    return chain.link_all([
        Record(time=number, kind="request", id=f"{number:016x}", outcome="allowed", who=Who(tenant="acme"), person=Person(user="ann"))
        for number in range(first, first + 20)
    ])


async def append(entries):
    while True:
        try:
            return await backend.audit.append(entries)
        except StoreUnavailableError:  # the machine of the tests may be slow; the same entries again are the same entries
            continue


tell("ready")
sys.stdin.readline()
"""

WRITER = f"""
async def main():
    for number in range({BATCHES}):
        entries = batch(20 * number)
        await append(entries)
        if number % 5 == 0:
            await append(entries)
    await backend.aclose()
    tell("done")


anyio.run(main)
"""

VICTIM = """
async def main():
    for number in range(1_000_000):
        await append(batch(20 * number))
        tell(str(20 * number + 19))


anyio.run(main)
"""


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(program: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


@pytest.fixture
async def later(path: Path, anyio_backend: Any) -> AsyncIterator[SQLiteBackend]:
    made = SQLiteBackend(str(path))
    yield made
    await made.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_several_processes_lose_nothing_and_count_each_request_once(start: Start, later: SQLiteBackend) -> None:
    processes = [start(WRITER) for _ in range(PROCESSES)]
    all_go(*processes)
    assert ["done"] * PROCESSES == [said(process) for process in processes]
    found = [entry.line for entry in await later.audit.search(RecordQuery(limit=100_000))]
    report = verify(found)
    assert (True, PROCESSES) == (report.sound, report.writers)
    assert PROCESSES * (20 * BATCHES + 1) == report.entries
    assert [PROCESSES * 20 * BATCHES] == [row.requests for row in await later.audit.usage(UsageQuery(by=("user",)))]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("batches", [1, 30])
async def test_a_process_that_is_killed_in_the_middle_of_an_append_has_lost_nothing_that_it_was_told_of(
    start: Start, later: SQLiteBackend, batches: int
) -> None:
    victim = start(VICTIM)
    all_go(victim)
    acknowledged = [said(victim) for _ in range(batches)]
    victim.kill()
    assert victim.stdout is not None
    acknowledged += [line.strip() for line in victim.stdout if line.endswith("\n")]
    victim.wait(60)
    found = [entry.line for entry in await later.audit.search(RecordQuery(limit=1_000_000))]
    assert verify(found).sound
    # One batch more may have been written that it could not tell of any more; a part of one never is.
    (row,) = await later.audit.usage(UsageQuery())
    assert row.requests - int(acknowledged[-1]) - 1 in {0, 20}
    assert row.requests == len(await later.audit.search(RecordQuery(principal="ann", limit=1_000_000)))
    with anyio.fail_after(30):
        await later.audit.append(Chain().link_all([record(1)]))
