"""No change hides behind a cursor that has passed it, however long writers take to finish."""

from collections.abc import Callable

import anyio
import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.postgres import PostgresBackend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]

WRITERS = 6
CHANGES = 8


async def test_a_change_that_is_finished_late_is_told_all_the_same(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.start()
    # The number of a change is given out, and then its writer takes his time.
    sql(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(random() * 0.01); RETURN NULL; END $$",
        "CREATE TRIGGER lingers AFTER INSERT ON authmw_changes FOR EACH ROW EXECUTE FUNCTION linger()",
    )
    cursor = (await backend.feed.changes(None)).cursor
    told: set[str] = set()
    written: set[str] = set()

    async def write(name: str) -> None:
        for number in range(CHANGES):
            assert await backend.keys.write(key(f"{name}{number}"), entry, None) is True
            written.add(f"{name}{number}")

    async def follow() -> None:
        nonlocal cursor
        while len(written) < WRITERS * CHANGES:
            changes = await backend.feed.changes(cursor)
            assert changes.keys is not None
            cursor = changes.cursor
            told.update(changes.keys)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        for name in "abcdef":
            tasks.start_soon(write, name)
    last = await backend.feed.changes(cursor)
    assert written == told | (last.keys or frozenset())


async def test_a_copy_in_the_databases_place_is_noticed(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    cursor = (await backend.feed.changes(None)).cursor
    assert frozenset() == (await backend.feed.changes(cursor)).keys
    # What came after the copy was made is gone, and something else came in its place.
    sql("DELETE FROM authmw_changes WHERE id = 'k1'", "ALTER TABLE authmw_changes ALTER seq RESTART WITH 2")
    await backend.keys.write(key("k2"), entry, None)
    changes = await backend.feed.changes(cursor)
    assert (None, True, True) == (changes.keys, changes.accounts, changes.revocations)
