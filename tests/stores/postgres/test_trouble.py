"""A server that is down, killed, started again or frozen: a request is answered in time, and nothing of ours is started again."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import asyncpg
import pytest

from llm_authmw import KeyAuthMiddleware, Store, open_store
from llm_authmw.errors import StoreCorruptError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.postgres import PostgresBackend, database, pool
from llm_authmw.stores.postgres.migrations import CHANGE_LOCK
from llm_authmw.testing import ManualClock, Response, request
from llm_authmw.testing.witness import Witness
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]

DEADLINE = 2.0
IN_TIME = database.CONNECT_WAIT
"""Seconds that connecting may take by itself, which is the next bound: whoever has his answer earlier has it by the deadline."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(postgres_url: str, clock: ManualClock, anyio_backend: Any) -> AsyncIterator[Store]:
    async with open_store(postgres_url, clock=clock, deadline=DEADLINE) as opened:
        yield opened


@pytest.fixture
async def ask(store: Store, clock: ManualClock) -> Callable[[], Any]:
    """Ask the app with a key that is good, when whatever was known of it has to be asked anew."""
    key = str((await store.keys.create()).key)
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)

    async def asks() -> Response:
        clock.advance(2.0)
        return await request(layer, "GET /v1/models", headers=[(b"authorization", f"Bearer {key}".encode())])

    return asks


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
async def test_while_the_server_is_away_nobody_gets_in_and_when_it_is_back_everybody_does(
    postgres_server: PostgresPeer, store: Store, ask: Callable[[], Any], killed: bool
) -> None:
    assert 200 == (await ask()).status
    with postgres_server.away(killed=killed):
        refused = await ask()
        with pytest.raises(StoreUnavailableError, match=r"^PostgreSQL at 127\.0\.0\.1:\d+/test_\d+ cannot be reached"):
            await store.keys.create(name="meanwhile")
    assert (503, "1") == (refused.status, refused.header("retry-after"))
    assert 200 == (await ask()).status
    assert "after" == (await store.keys.create(name="after")).record.name


async def test_a_restart_that_nobody_noticed_is_seen_by_nobody(postgres_server: PostgresPeer, store: Store, ask: Callable[[], Any]) -> None:
    assert 200 == (await ask()).status
    with postgres_server.away(killed=True):
        pass
    assert 200 == (await ask()).status
    with postgres_server.away(killed=True):
        pass
    assert (await store.keys.create()).id


async def test_a_server_that_stands_still_is_503_within_the_deadline_and_200_when_it_goes_on(
    postgres_server: PostgresPeer, ask: Callable[[], Any]
) -> None:
    assert 200 == (await ask()).status
    async with postgres_server.frozen():
        for _ in range(2):
            began = time.monotonic()
            assert 503 == (await ask()).status
            assert time.monotonic() - began < IN_TIME
    assert 200 == (await ask()).status


async def test_a_store_that_was_never_reached_answers_in_time_and_works_once_the_server_does(
    postgres_server: PostgresPeer, postgres_url: str, clock: ManualClock
) -> None:
    store = open_store(postgres_url, clock=clock, deadline=DEADLINE)
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    headers = [(b"x-api-key", mint_key().text.encode())]
    async with postgres_server.frozen():
        began = time.monotonic()
        assert 503 == (await request(layer, "GET /v1/models", headers=headers)).status
        assert time.monotonic() - began < IN_TIME
    with anyio.fail_after(60):
        while (answer := (await request(layer, "GET /v1/models", headers=headers)).status) == 503:
            pass
    assert 401 == answer
    await store.aclose()


async def test_a_connection_that_takes_longer_than_a_request_may_is_there_for_the_next_one(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    gate = anyio.Event()
    connect = asyncpg.connect

    async def slowly(*args: Any, **options: Any) -> Any:
        await gate.wait()
        made.append(await connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(asyncpg, "connect", slowly)
    backend = PostgresBackend(postgres_url)
    for _ in range(3):
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await backend.keys.find("k1")
    gate.set()
    assert await backend.keys.find("k1") is None
    assert 1 == len(made)
    await backend.aclose()
    assert [True] == [connection.is_closed() for connection in made]


async def test_a_change_that_the_server_does_not_answer_ends_and_says_that_it_may_have_been_made(
    postgres_server: PostgresPeer, backend: PostgresBackend, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.start()
    monkeypatch.setattr(database, "WAIT", 0.1)
    async with postgres_server.frozen():
        with pytest.raises(StoreUnavailableError, match=r"did not answer in time; a change may have been made all the same$"):
            await backend.keys.write(key(), entry, None)
        with pytest.raises(StoreUnavailableError, match=r"did not answer in time$"):
            await backend.keys.find("k1")


async def test_a_change_whose_end_is_not_answered_says_that_it_may_have_been_made(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.start()
    sql(
        "CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT ON authmw_keys DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION gone()",
    )
    with pytest.raises(StoreUnavailableError, match="closed the connection at the very end of a change; look whether it was made"):
        await backend.keys.write(key(), entry, None)
    sql("DROP TRIGGER at_the_end ON authmw_keys")
    assert await backend.keys.find("k1") is None
    assert await backend.keys.write(key(), entry, None) is True


async def test_a_connection_whose_answer_nobody_waited_for_is_not_used_again(
    postgres_url: str, other: "asyncpg.Connection[asyncpg.Record]", waiting_for_locks: Callable[[int], Any]
) -> None:
    here = database.Database(postgres_url)

    async def number() -> int:
        return await here.read(lambda connection: connection.fetchval("SELECT pg_backend_pid()"))

    async def wait(connection: pool.Connection) -> None:
        await connection.execute("SELECT FROM authmw_keys")

    first = await number()
    await other.execute("BEGIN; LOCK TABLE authmw_keys IN ACCESS EXCLUSIVE MODE")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.read, wait)
        await waiting_for_locks(1)
        tasks.cancel_scope.cancel()
    assert first != await number()
    await here.aclose()


async def test_whoever_gives_up_while_a_change_waits_leaves_nothing_behind(
    backend: PostgresBackend,
    other: "asyncpg.Connection[asyncpg.Record]",
    key: MakeKey,
    entry: HistoryEntry,
    waiting_for_locks: Callable[[int], Any],
) -> None:
    await backend.start()
    await other.execute("BEGIN; LOCK TABLE authmw_keys IN EXCLUSIVE MODE")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(backend.keys.write, key(), entry, None)
        await waiting_for_locks(1)
        tasks.cancel_scope.cancel()
    await other.execute("COMMIT")
    await waiting_for_locks(0)
    assert await backend.keys.find("k1") is None
    assert await backend.keys.write(key(), entry, None) is True


async def test_a_change_does_not_wait_for_another_one_for_ever(
    backend: PostgresBackend,
    other: "asyncpg.Connection[asyncpg.Record]",
    key: MakeKey,
    entry: HistoryEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await backend.keys.write(key(), entry, None)
    await other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({CHANGE_LOCK})")
    monkeypatch.setattr(database, "_CHANGE", database._CHANGE.replace("'5s'", "'10ms'"))
    with pytest.raises(StoreUnavailableError, match=r"is busy with another change; try again$"):
        await backend.keys.write(key("k2"), entry, None)
    assert key() == await backend.keys.find("k1")
    await other.execute("ROLLBACK")
    assert await backend.keys.write(key("k2"), entry, None) is True


async def test_no_more_connections_are_made_than_the_limit_and_everybody_gets_one_in_the_end(
    backend: PostgresBackend,
    other: "asyncpg.Connection[asyncpg.Record]",
    key: MakeKey,
    entry: HistoryEntry,
    waiting_for_locks: Callable[[int], Any],
) -> None:
    await backend.keys.write(key(), entry, None)
    await other.execute("BEGIN; LOCK TABLE authmw_keys IN ACCESS EXCLUSIVE MODE")
    found: list[StoredKey | None] = []

    async def find() -> None:
        found.append(await backend.keys.find("k1"))

    async with anyio.create_task_group() as tasks:
        for _ in range(3 * pool.MAX_CONNECTIONS):
            tasks.start_soon(find)
        await waiting_for_locks(pool.MAX_CONNECTIONS)
        assert [] == found
        await other.execute("ROLLBACK")
    assert [key()] * 30 == found
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'llm-authmw' AND datname = current_database()"
    assert pool.MAX_CONNECTIONS == await other.fetchval(ours)


async def test_a_connection_that_lay_idle_for_long_is_not_trusted(postgres_url: str) -> None:
    clock = ManualClock()
    here = database.Database(postgres_url, clock)

    async def number() -> int:
        return await here.read(lambda connection: connection.fetchval("SELECT pg_backend_pid()"))

    first = await number()
    clock.advance(pool.IDLE_LIMIT)
    assert first == await number()
    clock.advance(pool.IDLE_LIMIT + 1)
    assert first != await number()
    await here.aclose()


async def test_a_server_that_has_no_connection_left_says_so(
    postgres_server: PostgresPeer, postgres_url: str, sql: Callable[..., list[str]]
) -> None:
    sql("CREATE ROLE narrow LOGIN PASSWORD 'p' CONNECTION LIMIT 0", "GRANT ALL ON SCHEMA public TO narrow")
    backend = PostgresBackend(postgres_server.url(postgres_url.rpartition("/")[2], user="narrow", password="p"))
    with pytest.raises(StoreUnavailableError, match="has no connection left"):
        await backend.start()
    await backend.aclose()
    sql("DROP OWNED BY narrow", "DROP ROLE narrow")


@pytest.mark.parametrize(
    ("user", "password", "database", "complaint"),
    [
        ("postgres", "wrong-hunter2", None, "refuses this user: check the user, the password and sslmode in the URL"),
        ("nobody-here", "wrong-hunter2", None, "refuses this user"),
        ("postgres", None, "missing", "has no database of this name"),
    ],
)
async def test_who_is_not_let_in_is_told_why_without_the_password(
    postgres_server: PostgresPeer, postgres_url: str, user: str, password: str | None, database: str | None, complaint: str
) -> None:
    given = {} if password is None else {"password": password}
    backend = PostgresBackend(postgres_server.url(database or postgres_url.rpartition("/")[2], user=user, **given))
    with pytest.raises(StoreUnavailableError, match=complaint) as caught:
        await backend.start()
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__
    await backend.aclose()


async def test_a_server_without_tls_is_refused_where_the_url_asks_for_it(postgres_url: str) -> None:
    backend = PostgresBackend(f"{postgres_url}?sslmode=require")
    with pytest.raises(StoreUnavailableError, match=r"cannot be reached, .* SSL"):
        await backend.start()
    await backend.aclose()


async def test_a_host_that_nobody_knows_is_said() -> None:
    backend = PostgresBackend("postgresql://user:hunter2@nowhere.invalid/db")
    with pytest.raises(StoreUnavailableError, match=r"^PostgreSQL at nowhere\.invalid/db cannot be reached"):
        await backend.start()
    await backend.aclose()


async def test_tables_that_are_gone_are_corrupt_and_made_anew_at_the_next_look(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    with pytest.raises(StoreCorruptError, match="does not have the tables that were made there"):
        await backend.keys.find("k1")
    assert await backend.keys.find("k1") is None
    assert await backend.keys.write(key(), entry, None) is True


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE authmw_keys SET roles = 'hunter2'", "find"),
        ("UPDATE authmw_keys SET created_at = 'NaN', status = 'hunter2'", "find"),
        ("UPDATE authmw_key_secrets SET scheme = 'hunter2'", "find"),
        ("UPDATE authmw_keys SET limits = '[\"hunter2\"]'", "find"),
        ("UPDATE authmw_key_history SET changes = 'hunter2'", "history"),
    ],
)
async def test_a_row_that_cannot_be_read_is_corrupt_and_is_not_quoted(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry, statement: str, read: str
) -> None:
    await backend.keys.write(key(), entry, None)
    sql(statement)
    with pytest.raises(StoreCorruptError, match="is damaged: it cannot be read as what was written") as caught:
        await getattr(backend.keys, read)("k1")
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_changes_that_are_gone_are_corrupt(backend: PostgresBackend, sql: Callable[..., list[str]]) -> None:
    await backend.start()
    sql("DELETE FROM authmw_changes")
    with pytest.raises(StoreCorruptError):
        await backend.feed.changes(None)


async def test_a_statement_that_the_server_refuses_is_told_by_its_code_alone(
    backend: PostgresBackend, sql: Callable[..., list[str]], key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.start()
    sql("ALTER TABLE authmw_keys ADD CONSTRAINT no_key CHECK (id <> 'k1')")
    with pytest.raises(Exception, match=r"refused what was asked \(SQLSTATE 23514\); look into its log$"):
        await backend.keys.write(key(), entry, None)
    assert await backend.keys.write(key("k2"), entry, None) is True
