"""The tables: made once by whoever comes first, beside what others have there, and refused where they are newer."""

from collections.abc import Callable

import anyio
import pytest

from llm_authmw.errors import StoreCorruptError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.postgres import PostgresBackend, migrations
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
Execute = Callable[..., list[str]]

FORM = "SELECT version FROM authmw_form"
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"


async def test_of_many_who_come_first_one_makes_the_tables(postgres_url: str, sql: Execute) -> None:
    backends = [PostgresBackend(postgres_url) for _ in range(8)]
    async with anyio.create_task_group() as tasks:
        for made in backends:
            tasks.start_soon(made.start)
    for made in backends:
        await made.aclose()
    assert [str(len(migrations.MIGRATIONS))] == sql(FORM)
    assert ["1"] == sql("SELECT count(*) FROM authmw_changes")


async def test_an_older_form_is_brought_to_this_releases_and_keeps_what_it_has(
    postgres_url: str, sql: Execute, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = PostgresBackend(postgres_url)
    await older.keys.write(key(), entry, None)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE authmw_more (x text)",)))
    newer = PostgresBackend(postgres_url)
    assert key() == await newer.keys.find("k1")
    assert [str(len(migrations.MIGRATIONS))] == sql(FORM)
    assert "authmw_more" in sql(TABLES)
    assert await older.keys.write(key("k2"), entry, None) is True
    await older.aclose()
    await newer.aclose()


async def test_a_form_that_cannot_be_made_leaves_nothing_of_it(
    postgres_url: str, sql: Execute, monkeypatch: pytest.MonkeyPatch, key: MakeKey, entry: HistoryEntry
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE authmw_more (x text)", "no SQL")))
        backend = PostgresBackend(postgres_url)
        with pytest.raises(Exception, match="SQLSTATE 42601"):
            await backend.start()
        assert [] == sql(TABLES)
    assert await backend.keys.write(key(), entry, None) is True
    await backend.aclose()


async def test_a_newer_form_is_refused_and_stays_as_it_is(backend: PostgresBackend, postgres_url: str, sql: Execute) -> None:
    await backend.start()
    sql("UPDATE authmw_form SET version = 99")
    late = PostgresBackend(postgres_url)
    with pytest.raises(StoreCorruptError, match=r"was written by a newer release of llm-authmw \(form 99, this one knows \d+\)"):
        await late.start()
    await late.aclose()
    assert ["99"] == sql(FORM)


async def test_tables_of_another_program_are_left_alone(backend: PostgresBackend, sql: Execute, key: MakeKey, entry: HistoryEntry) -> None:
    sql("CREATE TABLE keys (id text)", "INSERT INTO keys VALUES ('theirs')")
    await backend.keys.write(key(), entry, None)
    assert ["theirs"] == sql("SELECT id FROM keys")
    assert ["k1"] == sql("SELECT id FROM authmw_keys")


async def test_two_schemas_are_two_stores(
    postgres_server: PostgresPeer, backend: PostgresBackend, database: str, sql: Execute, key: MakeKey, entry: HistoryEntry
) -> None:
    sql("CREATE SCHEMA aside")
    aside = PostgresBackend(postgres_server.url(database, search_path="aside"))
    await backend.keys.write(key(), entry, None)
    assert await aside.keys.find("k1") is None
    await aside.keys.write(key("k2"), entry, None)
    assert await backend.keys.find("k2") is None
    await aside.aclose()


async def test_what_listings_are_sorted_by_has_the_order_of_every_store_and_not_the_databases_own(
    backend: PostgresBackend, sql: Execute
) -> None:
    await backend.start()
    columns = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_name IN ('authmw_keys', 'authmw_accounts',"
        " 'authmw_revocations') AND column_name IN ('tenant', 'id', 'kind', 'realm', 'name') AND collation_name"
    )
    assert [] == sql(f"{columns} IS DISTINCT FROM 'C'")
    assert 10 < len(sql(f"{columns} = 'C'"))
