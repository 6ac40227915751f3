"""Several processes on one store file: workers that start at once, and one that is killed while it writes."""

import concurrent.futures
import functools
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from llm_authmw import CreatedKey, open_store
from llm_authmw.testing.servers import RunningServer, ServerName

BOUND = 0.2
ALLOWANCE = 1.0
LIMIT = 10.0

MakeClient = Callable[..., httpx.Client]
NewKey = Callable[..., CreatedKey]

MAKES_KEYS = """
import sys, anyio
from llm_authmw import open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        while True:
            print((await store.keys.create()).key, flush=True)

anyio.run(main)
"""


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/authmw.db"


def revoke(store_url: str, key_id: str) -> None:
    async def revoked() -> None:
        async with open_store(store_url) as store:
            await store.keys.revoke(key_id)

    anyio.run(revoked)


@contextmanager
def one_client_for_each_worker(connected: MakeClient, workers: int) -> Generator[dict[int, httpx.Client]]:
    """Give clients by the id of the process that they talk to: a connection stays with the worker that took it."""
    found: dict[int, httpx.Client] = {}

    def ask(client: httpx.Client) -> int:
        pid: int = client.get("/who").json()["pid"]
        return pid

    with ExitStack() as closing, concurrent.futures.ThreadPoolExecutor(8) as threads:
        deadline = time.monotonic() + LIMIT
        while len(found) < workers and time.monotonic() < deadline:
            # Several at once, so that a worker which is busy leaves some to the other one.
            clients = [connected() for _ in range(8)]
            for client in clients:
                closing.enter_context(client)
            found |= dict(zip(threads.map(ask, clients), clients, strict=True))
        yield found


@pytest.mark.parametrize("name", ["uvicorn-h11", "hypercorn", "granian"])
def test_workers_that_start_at_once_on_a_new_file_all_serve_and_all_follow(
    start_server: Callable[..., RunningServer], make_client: MakeClient, new_key: NewKey, store_url: str, name: ServerName
) -> None:
    server = start_server("lab:app", server=name, env={"AUTHMW_STORE": store_url, "LAB_BOUND": str(BOUND)}, options=["--workers", "2"])
    created = new_key(store_url)
    connected = functools.partial(make_client, base_url=server.url, headers={"x-api-key": str(created.key)})
    with one_client_for_each_worker(connected, 2) as clients:
        assert 2 == len(clients)
        revoke(store_url, created.record.id)
        by = time.monotonic() + BOUND + ALLOWANCE
        refused: set[int] = set()
        for pid, client in itertools.cycle(clients.items()):
            sent = time.monotonic()
            status = client.get("/who").status_code
            assert status == 401 or (sent < by and pid not in refused)
            refused |= {pid} if status == 401 else set()
            if refused == set(clients):
                break
    server.stop()
    assert "Traceback" not in server.output


def test_every_key_that_was_handed_out_before_its_maker_was_killed_works(
    start_server: Callable[..., RunningServer], make_client: MakeClient, store_url: str
) -> None:
    server = start_server("lab:app", server="uvicorn-httptools", env={"AUTHMW_STORE": store_url})
    keys: list[str] = []
    with make_client(base_url=server.url) as client:
        for _ in range(3):
            with subprocess.Popen([sys.executable, "-c", MAKES_KEYS, store_url], stdout=subprocess.PIPE, text=True) as maker:
                assert maker.stdout is not None
                keys += [next(maker.stdout).strip() for _ in range(20)]
                maker.kill()
                # What it had written to the pipe counts too; half a line does not.
                keys += [line.strip() for line in maker.stdout if line.endswith("\n")]
        assert {200} == {client.get("/who", headers={"x-api-key": key}).status_code for key in keys}
    server.stop()
    assert "Traceback" not in server.output
