"""Guesses that one HTTP/2 connection carries at once: as many are judged as of those that come one by one, and owners are let in beside."""

import collections
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from llm_authmw.testing.servers import RunningServer

pytestmark = pytest.mark.anyio

LIMIT = 10
AT_ONCE = 4
"""As `apps/guessed.py` has them."""
GUESSES = 64


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
async def client(start_server: Callable[..., RunningServer], tmp_path: Path, anyio_backend: Any) -> AsyncIterator[httpx.AsyncClient]:
    server = start_server("guessed:app", server="hypercorn", env={"AUTHMW_STORE": f"sqlite:///{tmp_path}/authmw.db"}, ready="/judged")
    # One connection, and HTTP/2 on it from its first byte on (RFC 9113 §3.3).
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        base_url=server.url, http1=False, http2=True, limits=limits, trust_env=False, verify=False, timeout=30
    ) as made:
        yield made


async def ask_at_once(client: httpx.AsyncClient, keys: list[str]) -> list[httpx.Response]:
    answers: list[httpx.Response] = []

    async def ask(key: str) -> None:
        answers.append(await client.get("/", headers={"x-api-key": key}))

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(ask, key)
    assert {"HTTP/2"} == {answer.http_version for answer in answers}
    assert 1 == len({answer.extensions["network_stream"].get_extra_info("client_addr") for answer in answers})
    return answers


async def judged(client: httpx.AsyncClient) -> int:
    number: int = (await client.get("/judged")).json()["judged"]
    return number


async def test_of_many_guesses_at_once_on_one_connection_few_are_judged_and_the_owner_beside_is_let_in(client: httpx.AsyncClient) -> None:
    (known,) = await ask_at_once(client, ["right"])
    assert 200 == known.status_code
    before = await judged(client)
    guesses = [f"wrong-{number}" for number in range(GUESSES)]
    # The owner's come in between, on the same connection.
    answers = await ask_at_once(client, [key for guess in guesses for key in ([guess, "right"] if guess.endswith("7") else [guess])])
    owners = sum(guess.endswith("7") for guess in guesses)
    assert {401: LIMIT, 429: GUESSES - LIMIT, 200: owners} == collections.Counter(answer.status_code for answer in answers)
    assert LIMIT <= await judged(client) - before - owners <= LIMIT + AT_ONCE
    assert {"too_many_failures", "locked_out"} >= {answer.headers["x-authmw-reason"] for answer in answers if answer.status_code == 429}
    settled = await judged(client)
    assert {429} == {answer.status_code for answer in await ask_at_once(client, guesses)}
    assert settled == await judged(client)
    assert {200} == {answer.status_code for answer in await ask_at_once(client, ["right"] * 8)}
