"""Several event loops and several processes on one database, and the command line."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from llm_authmw import open_store
from llm_authmw.cli.program import program
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.postgres import PostgresBackend

MakeKey = Callable[..., StoredKey]

PROCESSES = 4
CHANGES = 20

WRITER = f"""
import sys

import anyio
import msgspec

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.protocols import Idempotency
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.stores.postgres import PostgresBackend

url, name = sys.argv[1:]
entry = HistoryEntry(at=1.0, action="create", actor=name)


def key(key_id):
    secret = KeySecret(digest=Digest(key_id.encode().ljust(32), "sha256", 0), created_at=1.0)
    return StoredKey(record=KeyRecord(id=key_id, last_four="4444", created_at=1.0), secrets=(secret,))


async def main():
    backend = PostgresBackend(url)
    print("ready", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    created = await backend.keys.write(key(name), entry, Idempotency("default", "create", "once", "f"))
    print("created" if created is True else f"replayed {{created.key_id}}", flush=True)
    done = 0
    while done < {CHANGES}:
        stored = await backend.keys.find("shared")
        record = msgspec.structs.replace(stored.record, revision=stored.record.revision + 1)
        done += await backend.keys.write(msgspec.structs.replace(stored, record=record), entry, None)
    await backend.aclose()


anyio.run(main)
"""


@pytest.fixture
def filled(postgres_url: str, key: MakeKey, entry: HistoryEntry) -> str:
    async def fill() -> None:
        backend = PostgresBackend(postgres_url)
        await backend.keys.write(key("shared"), entry, None)
        await backend.aclose()

    anyio.run(fill)
    return postgres_url


def test_of_several_processes_none_loses_a_change_and_one_makes_what_all_want_once(filled: str) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, filled, f"own{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
    said = [process.communicate("go\n", timeout=60)[0].strip() for process in started]
    assert [0] * PROCESSES == [process.returncode for process in started]
    (maker,) = [f"own{number}" for number, line in enumerate(said) if line == "created"]
    assert [f"replayed {maker}"] * (PROCESSES - 1) == [line for line in said if line != "created"]

    async def look() -> None:
        backend = PostgresBackend(filled)
        found = await backend.keys.find("shared")
        assert found is not None
        assert 1 + PROCESSES * CHANGES == found.record.revision
        assert 1 + PROCESSES * CHANGES == len(await backend.keys.history("shared"))
        await backend.aclose()

    anyio.run(look)


def test_event_loops_in_threads_share_a_backend_and_not_their_connections(filled: str, key: MakeKey, entry: HistoryEntry) -> None:
    backend = PostgresBackend(filled)
    together = threading.Barrier(4)
    done: list[str] = []

    async def use(name: str) -> None:
        together.wait(10)
        for number in range(10):
            assert await backend.keys.write(key(f"{name}{number}"), entry, None) is True
            assert key("shared") == await backend.keys.find("shared")
        await backend.aclose()
        done.append(name)

    threads = [threading.Thread(target=anyio.run, args=(use, name)) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ["a", "b", "c", "d"] == sorted(done)


def test_keys_of_the_command_line_open_doors_and_its_password_is_not_printed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTHMW_PEPPER", raising=False)
    ran = [
        CliRunner().invoke(program, [*verb, "--store", postgres_url])
        for verb in (["keys", "list"], ["keys", "create", "--name", "laptop"], ["keys", "list"], ["keys", "show", "missing"])
    ]
    assert [0, 0, 0, 1] == [result.exit_code for result in ran]
    assert "No such keys in postgresql://postgres:***@127.0.0.1" in ran[0].stderr
    assert "is in postgresql://postgres:***@127.0.0.1" in ran[1].stderr
    assert "laptop" in ran[2].stdout
    assert "in postgresql://postgres:***@127.0.0.1" in ran[3].stderr
    assert [] == [result.output for result in ran if "word" in result.output]
    assert [] == list(tmp_path.iterdir())

    async def verify() -> None:
        async with open_store(postgres_url, deadline=30.0) as store:
            known = await store.keys.verifier.verify(ran[1].stdout.strip().encode())
            assert store.keys.verifier.judge(known) is None

    anyio.run(verify)


def test_the_command_line_says_what_is_wrong_with_a_server_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, ["keys", "create", "--store", "postgresql://ann:hunter2@nowhere.invalid/db"])
    assert 1 == result.exit_code
    assert "Error: PostgreSQL at nowhere.invalid/db cannot be reached" in result.stderr
    assert "hunter2" not in result.output
