"""Users who may only read, and those who may not even do that."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from llm_authmw import KeyAuthMiddleware, open_store
from llm_authmw.errors import StoreError, StoreReadOnlyError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.postgres import PostgresBackend, migrations
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


@pytest.fixture
def reader_url(postgres_server: PostgresPeer, database: str, sql: Callable[..., list[str]]) -> Iterator[str]:
    """The URL for a user who may read what the superuser makes."""
    sql("CREATE ROLE reader LOGIN PASSWORD 'r'", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader")
    yield postgres_server.url(database, user="reader", password="r")
    sql("DROP OWNED BY reader", "DROP ROLE reader")


@pytest.fixture
async def reader(reader_url: str, anyio_backend: Any) -> AsyncIterator[PostgresBackend]:
    made = PostgresBackend(reader_url)
    yield made
    await made.aclose()


async def test_who_may_only_read_reads_and_is_told_so_where_he_writes(
    backend: PostgresBackend, reader: PostgresBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    await reader.start()
    assert key() == await reader.keys.find("k1")
    for attempt in (
        lambda: reader.keys.write(key("k2"), entry, None),
        lambda: reader.keys.write(key(revision=2), entry, None),
        lambda: reader.keys.touch([KeyUse("k1", 9.0)]),
    ):
        with pytest.raises(StoreReadOnlyError, match=r"does not allow this user to do that; grant it the rights\. Nothing was changed$"):
            await attempt()
    assert key() == await reader.keys.find("k1")
    assert await backend.keys.find("k2") is None


async def test_keys_are_verified_where_their_use_cannot_be_noted(postgres_url: str, reader_url: str) -> None:
    clock = ManualClock()
    async with open_store(postgres_url, deadline=30.0, clock=clock) as writer:
        created = await writer.keys.create()
    store = open_store(reader_url, deadline=30.0, clock=clock)
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    assert 200 == (await request(layer, "GET /v1/models", headers=[(b"x-api-key", str(created.key).encode())])).status
    with pytest.raises(StoreReadOnlyError):
        await store.aclose()


async def test_transactions_that_may_only_read_are_read_only(
    postgres_server: PostgresPeer, backend: PostgresBackend, database: str, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    standby = PostgresBackend(postgres_server.url(database, default_transaction_read_only="on"))
    assert key() == await standby.keys.find("k1")
    with pytest.raises(StoreReadOnlyError, match="it is a standby, or its transactions are read-only"):
        await standby.keys.write(key("k2"), entry, None)
    await standby.aclose()


async def test_who_may_make_no_tables_is_told_who_has_to(reader: PostgresBackend) -> None:
    with pytest.raises(StoreReadOnlyError, match=r"does not have the store's tables yet, and this user may not make them\. Open it once"):
        await reader.start()


async def test_who_may_not_change_the_form_of_an_older_release_is_told_who_has_to(
    reader: PostgresBackend, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.start()
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE authmw_more (x text)",)))
    with pytest.raises(StoreReadOnlyError, match="has the tables of an older release, and this user may not make them"):
        await reader.start()


async def test_who_may_not_read_gets_nothing(backend: PostgresBackend, reader: PostgresBackend, sql: Callable[..., list[str]]) -> None:
    await backend.start()
    sql("REVOKE SELECT ON authmw_keys FROM reader")
    with pytest.raises(StoreError, match="does not allow this user to do that"):
        await reader.keys.find("k1")


async def test_who_may_change_rows_and_make_no_tables_does_everything(
    postgres_server: PostgresPeer, backend: PostgresBackend, database: str, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.start()
    sql("CREATE ROLE proxy LOGIN PASSWORD 'p'", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO proxy")
    proxy = PostgresBackend(postgres_server.url(database, user="proxy", password="p"))
    cursor = (await proxy.feed.changes(None)).cursor
    assert await proxy.keys.write(key(), entry, None) is True
    await proxy.keys.touch([KeyUse("k1", 9.0)])
    assert key(last_used_at=9.0) == await backend.keys.find("k1")
    assert frozenset({"k1"}) == (await backend.feed.changes(cursor)).keys
    bucket = Bucket(tenant="default", name="team:blue / requests", kind="lifetime", measure="requests", limit=1)
    assert (await proxy.ledger.reserve("r1", [Claim(bucket, 1)], ttl=SECOND)).granted
    assert not (await backend.ledger.reserve("r2", [Claim(bucket, 1)], ttl=SECOND)).granted
    assert await proxy.ledger.settle("r1", {}) is not None
    await proxy.aclose()
    sql("DROP OWNED BY proxy", "DROP ROLE proxy")
