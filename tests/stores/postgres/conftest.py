from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import asyncpg
import pytest

from llm_authmw.stores.postgres import PostgresBackend, ledger
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.ledger import PostgresLedger
from llm_authmw.testing import ManualClock
from tests.peers.postgres import PostgresPeer


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}  # asyncpg knows no trio


@pytest.fixture
def database(postgres_url: str) -> str:
    return postgres_url.rpartition("/")[2]


@pytest.fixture
async def backend(postgres_url: str, anyio_backend: Any) -> AsyncIterator[PostgresBackend]:
    made = PostgresBackend(postgres_url)
    yield made
    await made.aclose()


@pytest.fixture
async def other(postgres_url: str, anyio_backend: Any) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of somebody else's."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    connection.terminate()


@pytest.fixture
def sql(postgres_server: PostgresPeer, database: str) -> Callable[..., list[str]]:
    """Execute statements in the test's database as the superuser."""
    return lambda *statements: postgres_server.execute(*statements, database=database)


@pytest.fixture
def waiting_for_locks(other: "asyncpg.Connection[asyncpg.Record]") -> Callable[[int], Any]:
    """Wait until so many connections wait for a lock."""

    async def wait(number: int) -> None:
        with anyio.fail_after(60):
            while number != await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass

    return wait


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledgers(postgres_url: str, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[PostgresLedger]]:
    """Three that know nothing of each other, as in three processes. Hundreds may ask at once, and the machine may be slow."""
    monkeypatch.setattr("llm_authmw.stores.postgres.database.WAIT", 120.0)
    databases = [Database(postgres_url) for _ in range(3)]
    yield [PostgresLedger(database) for database in databases]
    for database in databases:
        await database.aclose()


@pytest.fixture
async def manual(postgres_url: str, clock: ManualClock, anyio_backend: Any) -> AsyncIterator[PostgresLedger]:
    """One whose time a test moves."""
    database = Database(postgres_url)
    await database.start()
    yield PostgresLedger(database, clock=clock)
    await database.aclose()


@pytest.fixture
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever collides with another one fail."""
    monkeypatch.setattr(ledger, "_TRIES", 1)
