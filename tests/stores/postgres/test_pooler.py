"""Behind a pooler that lends a connection for one transaction, everything works as before it."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from llm_authmw.errors import StoreError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyQuery, KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.postgres import PostgresBackend
from tests.peers.pgbouncer import CONNECTIONS, pgbouncer
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresPeer) -> Iterator[int]:
    with pgbouncer(postgres_server) as port:
        yield port


@pytest.fixture
def pooled_url(pooler: int, postgres_server: PostgresPeer, postgres_url: str) -> str:
    return postgres_url.replace(f":{postgres_server.port}/", f":{pooler}/")


@pytest.fixture
async def pooled(pooled_url: str, anyio_backend: Any) -> AsyncIterator[PostgresBackend]:
    made = PostgresBackend(f"{pooled_url}?pooler=transaction")
    yield made
    await made.aclose()


async def test_many_at_once_over_few_connections_read_and_change_and_lose_nothing(
    pooled: PostgresBackend, key: MakeKey, entry: HistoryEntry, sql: Callable[..., list[str]]
) -> None:
    await pooled.start()
    cursor = (await pooled.feed.changes(None)).cursor

    async def use(number: int) -> None:
        name = f"k{number}"
        assert await pooled.keys.write(key(name), entry, None) is True
        for at in range(5):
            await pooled.keys.touch([KeyUse(name, float(at + 1))])
            found = await pooled.keys.find(name)
            assert found is not None
            assert (name, at + 1) == (found.record.id, found.record.last_used_at)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(use, number)
    assert frozenset(f"k{number}" for number in range(20)) == (await pooled.feed.changes(cursor)).keys
    assert 20 == len((await pooled.keys.query(KeyQuery(now=1.0))).keys)
    served = int(sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")[0])
    assert 1 < served <= CONNECTIONS


async def test_without_being_told_it_fails_and_lets_nobody_in(
    pooled_url: str, pooled: PostgresBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await pooled.keys.write(key(), entry, None)
    untold = PostgresBackend(pooled_url)
    failures: list[StoreError] = []

    async def find() -> None:
        try:
            assert key() == await untold.keys.find("k1")
        except StoreError as error:
            failures.append(error)

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(find)
    assert failures
    await untold.aclose()
