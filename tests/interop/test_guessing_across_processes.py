"""Several processes on one ledger, hundreds of guesses at once: how many are judged is bounded, whichever process they come to."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from llm_authmw.testing.servers import RunningServer, ServerName

MakeClient = Callable[..., httpx.Client]

PROCESSES = 3
LIMIT = 10
AT_ONCE = 4
"""As `apps/guessed.py` has them."""
GUESSES = 300


@pytest.fixture(params=["sqlite", "valkey"])
def counted_in(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    where = {"AUTHMW_STORE": f"sqlite:///{tmp_path}/authmw.db"}
    if request.param == "valkey":
        where["AUTHMW_COUNTERS"] = request.getfixturevalue("valkey_url")
    return where


@pytest.fixture
def clients(
    start_server: Callable[..., RunningServer], make_client: MakeClient, counted_in: dict[str, str], server: ServerName
) -> Iterator[list[httpx.Client]]:
    with ExitStack() as closing:
        servers = [start_server("guessed:app", server=server, env=counted_in, ready="/judged") for _ in range(PROCESSES)]
        yield [closing.enter_context(make_client(base_url=running.url)) for running in servers]


def judged(clients: list[httpx.Client]) -> list[int]:
    return [client.get("/judged").json()["judged"] for client in clients]


@pytest.mark.parametrize("server", ["uvicorn-httptools", "hypercorn"])
def test_of_hundreds_of_guesses_at_once_at_three_processes_few_are_judged(clients: list[httpx.Client]) -> None:
    assert [200] * PROCESSES == [client.get("/", headers={"x-api-key": "right"}).status_code for client in clients]
    before = sum(judged(clients))

    def guess(number: int) -> int:
        return clients[number % PROCESSES].get("/", headers={"x-api-key": f"wrong-{number}"}).status_code

    with ThreadPoolExecutor(48) as threads:
        statuses = collections.Counter(threads.map(guess, range(GUESSES)))
    assert {401: LIMIT, 429: GUESSES - LIMIT} == statuses
    assert LIMIT <= sum(judged(clients)) - before <= LIMIT + AT_ONCE * PROCESSES
    # None of them judges a guess any more, and each lets in what was good before it all.
    settled = judged(clients)
    for client in clients:
        refused = client.get("/", headers={"x-api-key": "another"})
        assert (429, "locked_out") == (refused.status_code, refused.headers["x-authmw-reason"])
        assert 8500 < int(refused.headers["retry-after"]) <= 8640
    assert settled == judged(clients)
    assert [200] * PROCESSES == [client.get("/", headers={"x-api-key": "right"}).status_code for client in clients]
