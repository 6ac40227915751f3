"""A server whose store file is locked, replaced or gone: a clear refusal in time, never a way in, and no restart afterwards."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from llm_authmw import CreatedKey
from llm_authmw.testing.servers import RunningServer

BOUND = 0.2
DEADLINE = 0.25
"""Seconds that a request waits for the store: what stores say unless they are told otherwise."""
ALLOWANCE = 1.0
ENOUGH = 8
"""Requests that show what is the case."""


class Guarded(NamedTuple):
    server: RunningServer
    file: Path
    client: httpx.Client

    def ask(self) -> httpx.Response:
        """Ask with a good key, and look at how long the answer takes."""
        asked = time.monotonic()
        answer = self.client.get("/who")
        assert time.monotonic() - asked < DEADLINE + ALLOWANCE
        return answer

    def assert_refused_within_the_bound(self, status: int, reason: str) -> None:
        by = time.monotonic() + BOUND + ALLOWANCE
        while (answer := self.ask()).status_code == 200:
            assert time.monotonic() < by
        for _ in range(ENOUGH):
            assert (status, reason) == (answer.status_code, answer.headers["x-authmw-reason"])
            assert ("1" if status == 503 else None) == answer.headers.get("retry-after")
            answer = self.ask()

    def assert_let_in_again(self) -> None:
        by = time.monotonic() + BOUND + ALLOWANCE
        while self.ask().status_code != 200:
            assert time.monotonic() < by


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "authmw.db"


@pytest.fixture
def key(file: Path, new_key: Callable[..., CreatedKey]) -> str:
    return str(new_key(f"sqlite:///{file}").key)


@pytest.fixture
def guarded(
    start_server: Callable[..., RunningServer], make_client: Callable[..., httpx.Client], file: Path, key: str
) -> Iterator[Guarded]:
    # Without a lifespan, so that the server starts whatever state the file is in.
    environment = {"AUTHMW_STORE": f"sqlite:///{file}", "LAB_BOUND": str(BOUND)}
    server = start_server("lab:app", server="uvicorn-httptools", env=environment, options=["--lifespan", "off"])
    with make_client(base_url=server.url, headers={"x-api-key": key}) as client:
        yield Guarded(server, file, client)
    server.stop()
    assert "Traceback" not in server.output
    assert key not in server.output


def replaced(file: Path, content: bytes) -> Path:
    """Put another file in its place, and return where it went."""
    away, other = file.with_name("away.db"), file.with_name("other.db")
    other.write_bytes(content)
    file.rename(away)
    other.rename(file)
    return away


@pytest.mark.parametrize("content", [b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000], ids=["garbage", "a damaged file"])
def test_a_file_that_was_replaced_by_something_unreadable_is_503_until_it_is_back(guarded: Guarded, content: bytes) -> None:
    assert 200 == guarded.ask().status_code
    with guarded.client.stream("GET", "/ticks/stream") as answer:
        lines = answer.iter_lines()
        assert "data: tick" == next(lines)
        away = replaced(guarded.file, content)
        guarded.assert_refused_within_the_bound(503, "store_unavailable")
        # What is open is closed as well, with the reason.
        last = [line for line in lines if line][-1]
        assert {"status": 503, "reason": "store_unavailable"}.items() <= json.loads(last.removeprefix("data: ")).items()
    assert content == guarded.file.read_bytes(), "what cannot be read is not touched"
    away.rename(guarded.file)
    guarded.assert_let_in_again()


def test_a_file_that_was_deleted_lets_nobody_in_until_it_is_back(guarded: Guarded) -> None:
    assert 200 == guarded.ask().status_code
    away = guarded.file.rename(guarded.file.with_name("away.db"))
    guarded.assert_refused_within_the_bound(401, "invalid_api_key")
    away.rename(guarded.file)
    guarded.assert_let_in_again()


def test_a_directory_that_was_taken_away_is_503_until_it_is_back(guarded: Guarded) -> None:
    assert 200 == guarded.ask().status_code
    away = guarded.file.parent.rename(guarded.file.parent.with_name("away"))
    guarded.assert_refused_within_the_bound(503, "store_unavailable")
    away.rename(guarded.file.parent)
    guarded.assert_let_in_again()


def test_a_file_that_another_keeps_for_itself_is_503_until_it_is_done(key: str, file: Path, request: pytest.FixtureRequest) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        guarded: Guarded = request.getfixturevalue("guarded")
        guarded.assert_refused_within_the_bound(503, "store_unavailable")
    guarded.assert_let_in_again()


def test_another_who_writes_for_a_long_time_stops_nobody(guarded: Guarded, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        until = time.monotonic() + 2 * BOUND
        while time.monotonic() < until:
            assert 200 == guarded.ask().status_code
        other.execute("ROLLBACK")
