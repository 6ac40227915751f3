"""The form of the file: what the design asks of every table and index, and what the statements make of them."""

import re
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.accounts.protocols import AccountQuery
from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import Idempotency, KeyQuery
from llm_authmw.keys.records import KeyRecord, StoredKey
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Span
from llm_authmw.stores.sqlite import SQLiteBackend, file, migrations
from llm_authmw.stores.sqlite.form import migrate
from llm_authmw.stores.sqlite.migrations import APPLICATION_ID, MIGRATIONS, STORE
from llm_authmw.tokens.revocation_records import Revocation, RevocationQuery

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


def rows(statement: str) -> Callable[[sqlite3.Connection], list[tuple[Any, ...]]]:
    return lambda connection: [tuple(row) for row in connection.execute(statement).fetchall()]


async def test_every_table_is_strict(backend: SQLiteBackend) -> None:
    tables = await backend._database.read(
        rows("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'")
    )
    facets = {"keys", "key_secrets", "key_history", "accounts", "account_history", "revocations"}
    assert facets | {"idempotency", "changes", "counters", "reservations"} == {name for name, _ in tables}
    assert {1} == {strict for _, strict in tables}


async def test_the_tenant_is_never_null_and_comes_first_in_every_key_and_index(backend: SQLiteBackend) -> None:
    indexes = await backend._database.read(
        rows(
            """
            SELECT tables.name, indexes.name, indexes."unique", columns.name
            FROM pragma_table_list AS tables, pragma_index_list(tables.name) AS indexes, pragma_index_info(indexes.name) AS columns
            WHERE tables.schema = 'main' AND columns.seqno = 0
            """
        )
    )
    # Authentication knows these two and asks for the tenant.
    exceptions = {("keys_by_id", 1, "id"), ("key_secrets_by_import", 1, "digest")}
    # A reservation is of several tenants, and what is over is dropped whosever it was.
    exceptions |= {
        ("sqlite_autoindex_reservations_1", 1, "id"),
        ("reservations_leased", 0, "expires_at"),
        ("counters_by_end", 0, "look_at"),
    }
    found = {(index, unique, column) for _, index, unique, column in indexes}
    assert exceptions == {entry for entry in found if entry[2] != "tenant"}
    nullable = rows(
        """
        SELECT tables.name FROM pragma_table_list AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.schema = 'main' AND tables.name NOT LIKE 'sqlite_%' AND columns.name = 'tenant' AND columns."notnull" = 0
        """
    )
    assert [] == await backend._database.read(nullable)


async def test_each_field_of_a_record_has_a_column(backend: SQLiteBackend) -> None:
    for table, kind in (("keys", KeyRecord), ("accounts", AccountRecord)):
        columns = await backend._database.read(rows(f"SELECT name FROM pragma_table_info('{table}')"))
        assert {*kind.__struct_fields__, "name_folded"} == {name for (name,) in columns}
    columns = await backend._database.read(rows("SELECT name FROM pragma_table_info('revocations')"))
    assert set(Revocation.__struct_fields__) == {name for (name,) in columns}


async def test_the_file_says_whose_it_is_and_which_form_it_has(backend: SQLiteBackend) -> None:
    assert [(APPLICATION_ID,)] == await backend._database.read(rows("PRAGMA application_id"))
    assert [(len(MIGRATIONS),)] == await backend._database.read(rows("PRAGMA user_version"))
    assert [("wal",)] == await backend._database.read(rows("PRAGMA journal_mode"))
    assert [(1,)] == await backend._database.read(rows("PRAGMA foreign_keys"))
    assert [(0,)] == await backend._database.read(rows("PRAGMA trusted_schema"))
    assert [] == await backend._database.read(rows("PRAGMA foreign_key_check"))
    assert [("ok",)] == await backend._database.read(rows("PRAGMA integrity_check"))


class Overtaken(sqlite3.Connection):
    """A connection whose process waits for the lock while another one brings the file to this release's form."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE":
            (_, _, file), *_ = super().execute("PRAGMA database_list").fetchall()
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                migrate(other, Path(file), STORE)
        return super().execute(sql, parameters)


@pytest.mark.parametrize("form", range(len(MIGRATIONS)))
def test_one_who_comes_second_in_migrating_migrates_nothing_again(path: Path, monkeypatch: pytest.MonkeyPatch, form: int) -> None:
    if form > 0:
        with closing(sqlite3.connect(path, isolation_level=None)) as older, monkeypatch.context() as patch:
            patch.setattr(migrations.STORE, "migrations", MIGRATIONS[:form])
            migrate(older, path, STORE)
    with closing(sqlite3.connect(path, factory=Overtaken, isolation_level=None)) as connection:
        migrate(connection, path, STORE)
        assert [(len(MIGRATIONS),)] == rows("PRAGMA user_version")(connection)
        assert [(1,)] == rows("SELECT count(*) FROM changes")(connection)


async def test_no_file_takes_the_cursor_of_another_for_its_own(tmp_path: Path) -> None:
    cursors: set[int] = set()
    for number in range(3):
        backend = SQLiteBackend(str(tmp_path / f"{number}.db"))
        cursors.add((await backend.feed.changes(None)).cursor)
        await backend.aclose()
    assert 3 == len(cursors)
    assert min(cursors) > 0


REF = AccountRef("default", "team", "", "blue")
WISH = Idempotency("default", "create", "once", "f")
REVOCATION = Revocation(id="rv-1", kind="token", issuer="https://issuer.example", value="jti", created_at=1.0, actor="ada")
SLOTS = Bucket(tenant="default", name="slots", kind="lease", measure="concurrent", limit=2)
MONEY = Bucket(tenant="default", name="money", kind="window", measure="nano_usd", limit=2, spans=(Span(0, MAX_MOMENT),))
MINUTE = 60 * SECOND


Ask = Callable[[SQLiteBackend], Awaitable[object]]
ASKED: dict[str, Ask] = {
    "find": lambda backend: backend.keys.find("k1"),
    "find_imported": lambda backend: backend.keys.find_imported(b"digest"),
    "history": lambda backend: backend.keys.history("k1"),
    "replayed": lambda backend: backend.keys.replayed(WISH),
    "a tenant's keys": lambda backend: backend.keys.query(KeyQuery(now=1.0, tenant="default")),
    "an account": lambda backend: backend.accounts.find(REF),
    "an account's history": lambda backend: backend.accounts.history(REF),
    "a tenant's accounts": lambda backend: backend.accounts.query(AccountQuery(tenant="default")),
    "blocked accounts": lambda backend: backend.accounts.query(AccountQuery(status="blocked")),
    "a tenant's revocations": lambda backend: backend.revocations.query(RevocationQuery(tenant="default")),
    "a revocation": lambda backend: backend.revocations.query(
        RevocationQuery(tenant="default", kind="token", issuer=REVOCATION.issuer, value="jti")
    ),
    "a revocation to be": lambda backend: backend.revocations.add(REVOCATION),
    "live revocations": lambda backend: backend.revocations.live(),
    "changes": lambda backend: backend.feed.changes(1),
    "a reservation": lambda backend: backend.ledger.reserve("r", [Claim(SLOTS, 1), Claim(MONEY, 1)], ttl=MINUTE),
    "a settlement": lambda backend: backend.ledger.settle("r", {}),
    "an extension": lambda backend: backend.ledger.extend(["r", "s"], ttl=MINUTE),
    "balances": lambda backend: backend.ledger.balance([SLOTS, MONEY]),
}


ALL_WANTED = re.compile(r"FROM revocations WHERE \+lifted_at IS NULL|FROM reservations ORDER BY number LIMIT")
SCANNED = re.compile(r"accounts_blocked|wanted|CONSTANT ROW|json_each|SCAN \(subquery")
"""An index on nothing else, and what came with the statement."""


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
async def test_what_is_asked_often_is_found_by_an_index_and_not_sorted(
    path: Path, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    statements: list[str] = []
    connect = file.connect

    def traced(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.set_trace_callback(statements.append)
        return connection

    backend = SQLiteBackend(str(path))
    await backend.keys.write(key(), entry, None)
    await backend.aclose()
    monkeypatch.setattr(file, "connect", traced)
    await backend.start()
    statements.clear()
    await ask(backend)
    monkeypatch.undo()
    asked = [
        statement
        for statement in statements
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE counters", "DELETE FROM counters"))
    ]
    assert asked
    for statement in asked:
        plan = [step for *_, step in await backend._database.read(rows(f"EXPLAIN QUERY PLAN {statement}"))]
        assert not [step for step in plan if "TEMP B-TREE" in step], plan
        # Of the revocations that stand, all are wanted, and of the reservations the first ones in the table's own order.
        if not ALL_WANTED.search(statement):
            assert not [step for step in plan if step.startswith("SCAN") and not SCANNED.search(step)], plan
    await backend.aclose()
