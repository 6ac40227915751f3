"""Several processes on one file. Each is started, says that it is ready, and goes when all are told to."""

import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyQuery
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
Start = Callable[..., "subprocess.Popen[str]"]

PROCESSES = 4
CHANGES = 12

PREAMBLE = """
import sys

import anyio
import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.protocols import Idempotency
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend

path, name = sys.argv[1:]
backend = SQLiteBackend(path)
entry = HistoryEntry(at=1.0, action="create", actor=name)


def key(key_id, **fields):
    secret = KeySecret(digest=Digest(key_id.encode().ljust(32), "sha256", 0), created_at=1.0)
    return StoredKey(record=KeyRecord(id=key_id, last_four="4444", created_at=1.0, **fields), secrets=(secret,))


def tell(line):
    print(line, flush=True)


tell("ready")
sys.stdin.readline()
"""

WRITER = """
async def main():
    created = await backend.keys.write(key(f"own-{name}"), entry, Idempotency("default", "create", "once", "f"))
    tell("created" if created is True else f"replayed {created.key_id}")
    for _ in range(CHANGES):
        while True:
            stored = await backend.keys.find("shared")
            if stored is None:
                continue
            record = msgspec.structs.replace(stored.record, revision=stored.record.revision + 1)
            if await backend.keys.write(msgspec.structs.replace(stored, record=record), entry, None):
                break
    await backend.aclose()


anyio.run(main)
"""

STARTER = """
async def main():
    await backend.start()
    tell(str((await backend.feed.changes(None)).cursor))
    await backend.keys.write(key(f"own-{name}"), entry, None)
    await backend.aclose()


anyio.run(main)
"""

VICTIM = """
async def main():
    for number in range(1_000_000):
        await backend.keys.write(key(f"k{number}", metadata={"size": "x" * 400}), entry, None)
        tell(f"k{number}")


anyio.run(main)
"""


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, name: str) -> "subprocess.Popen[str]":
        source = PREAMBLE + program.replace("CHANGES", str(CHANGES))
        command = [sys.executable, "-c", source, str(path), name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def all_go(processes: list["subprocess.Popen[str]"]) -> None:
    for process in processes:
        assert "ready" == said(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def all_end(processes: list["subprocess.Popen[str]"]) -> None:
    assert [0] * len(processes) == [process.wait(60) for process in processes]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_several_processes_may_make_a_new_file_at_the_same_time(start: Start, backend: SQLiteBackend) -> None:
    processes = [start(STARTER, str(number)) for number in range(PROCESSES)]
    all_go(processes)
    cursors = [int(said(process)) for process in processes]
    all_end(processes)
    page = await backend.keys.query(KeyQuery(now=1.0))
    assert {f"own-{number}" for number in range(PROCESSES)} == {record.id for record in page.keys}
    # All began in one and the same file: every cursor is one of its.
    for cursor in cursors:
        assert (await backend.feed.changes(cursor)).keys is not None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_several_processes_may_upgrade_an_older_file_at_the_same_time(
    start: Start, backend: SQLiteBackend, first_form: Callable[..., Awaitable[int]]
) -> None:
    before = await first_form("old")
    processes = [start(STARTER, str(number)) for number in range(PROCESSES)]
    all_go(processes)
    cursors = [int(said(process)) for process in processes]
    all_end(processes)
    own = {f"own-{number}" for number in range(PROCESSES)}
    assert own | {"old"} == {record.id for record in (await backend.keys.query(KeyQuery(now=1.0))).keys}
    assert frozenset(own) == (await backend.feed.changes(before)).keys
    for cursor in cursors:
        assert (await backend.feed.changes(cursor)).keys is not None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_change_of_several_processes_is_lost(start: Start, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key("shared"), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    processes = [start(WRITER, str(number)) for number in range(PROCESSES)]
    all_go(processes)
    answers = [said(process) for process in processes]
    all_end(processes)
    shared = await backend.keys.find("shared")
    assert shared is not None
    assert 1 + PROCESSES * CHANGES == shared.record.revision
    actors = [noted.actor for noted in await backend.keys.history("shared")]
    assert sorted(["ada", *(str(number) for number in range(PROCESSES) for _ in range(CHANGES))]) == sorted(actors)
    (winner,) = [number for number, answer in enumerate(answers) if answer == "created"]
    assert [f"replayed own-{winner}"] * (PROCESSES - 1) == [answer for answer in answers if answer != "created"]
    assert frozenset({"shared", f"own-{winner}"}) == (await backend.feed.changes(cursor)).keys
    assert {"shared", f"own-{winner}"} == {record.id for record in (await backend.keys.query(KeyQuery(now=1.0))).keys}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_process_acknowledged_before_it_was_killed_is_there(start: Start, path: Path, backend: SQLiteBackend) -> None:
    victim = start(VICTIM, "victim")
    all_go([victim])
    acknowledged = [said(victim) for _ in range(30)]
    victim.kill()
    victim.wait(60)
    assert path.with_name("store.db-wal").stat().st_size > 0
    for key_id in acknowledged:
        assert await backend.keys.find(key_id) is not None
        assert 1 == len(await backend.keys.history(key_id))
