"""A file that an older release made, in the hands of this one."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.changes import Changes
from llm_authmw.errors import StoreError, StoreReadOnlyError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.stores.sqlite import SQLiteBackend, migrations
from llm_authmw.stores.sqlite.migrations import MIGRATIONS
from llm_authmw.tokens.revocation_records import Revocation, RevocationQuery

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
FirstForm = Callable[..., Awaitable[int]]

REVOCATION = Revocation(id="rv-1", kind="token", issuer="https://issuer.example", value="jti", created_at=1.0, actor="ada")


def asked(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def form_of(path: Path) -> int:
    ((version,),) = asked(path, "PRAGMA user_version")
    return int(version)


def schema_of(path: Path) -> set[tuple[Any, ...]]:
    return set(asked(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema"))


async def test_a_file_of_the_first_form_is_upgraded_with_all_that_is_in_it(
    path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, first_form: FirstForm
) -> None:
    cursor = await first_form("k1", "k2")
    assert 1 == form_of(path)
    assert [] == asked(path, "SELECT name FROM sqlite_schema WHERE name LIKE 'revocations%'")
    for key_id in ("k1", "k2"):
        assert key(key_id) == await backend.keys.find(key_id)
        assert (entry,) == await backend.keys.history(key_id)
    assert len(MIGRATIONS) == form_of(path)
    # Whoever follows the file goes on where he was.
    assert Changes(cursor=cursor) == await backend.feed.changes(cursor)
    assert REVOCATION == await backend.revocations.add(REVOCATION)
    assert (await backend.feed.changes(cursor)).revocations is True
    assert (REVOCATION,) == (await backend.revocations.query(RevocationQuery())).revocations
    claim = Claim(Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=1), 1)
    assert (await backend.ledger.reserve("r", [claim], ttl=1)).granted


async def test_an_upgraded_file_has_the_form_of_a_new_one(
    path: Path, tmp_path: Path, backend: SQLiteBackend, first_form: FirstForm
) -> None:
    await first_form("k1")
    await backend.start()
    new = SQLiteBackend(str(tmp_path / "new.db"))
    await new.start()
    assert schema_of(tmp_path / "new.db") == schema_of(path)
    await new.aclose()


async def test_a_process_of_the_older_release_goes_on_with_the_file_that_it_has_open(
    path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = SQLiteBackend(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(migrations.STORE, "migrations", migrations.MIGRATIONS[:1])
        await older.start()
    cursor = (await older.feed.changes(None)).cursor
    await backend.revocations.add(REVOCATION)
    assert len(MIGRATIONS) == form_of(path)
    assert await older.keys.write(key("k1"), entry, None) is True
    assert key("k1") == await backend.keys.find("k1")
    assert frozenset({"k1"}) == (await older.feed.changes(cursor)).keys == (await backend.feed.changes(cursor)).keys
    await older.aclose()


async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(
    path: Path, backend: SQLiteBackend, key: MakeKey, first_form: FirstForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first_form("k1")
    before = schema_of(path)

    *earlier, last = MIGRATIONS
    with monkeypatch.context() as patch:
        patch.setattr(migrations.STORE, "migrations", (*earlier, (*last, last[0])))
        with pytest.raises(StoreError):
            await backend.start()
    assert (1, before) == (form_of(path), schema_of(path))
    assert key("k1") == await backend.keys.find("k1")
    assert len(MIGRATIONS) == form_of(path)


@pytest.mark.parametrize("directory_too", [False, True])
async def test_an_older_file_that_cannot_be_written_is_refused_with_what_to_do(
    open_directory: Path,
    without_rights: Callable[[], AbstractContextManager[None]],
    key: MakeKey,
    entry: HistoryEntry,
    monkeypatch: pytest.MonkeyPatch,
    directory_too: bool,
) -> None:
    path = open_directory / "store.db"
    older = SQLiteBackend(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(migrations.STORE, "migrations", migrations.MIGRATIONS[:1])
        await older.keys.write(key("k1"), entry, None)
        await older.aclose()
    path.chmod(0o444)
    open_directory.chmod(0o555 if directory_too else 0o777)
    before = path.read_bytes()
    backend = SQLiteBackend(str(path))
    with without_rights():
        with pytest.raises(
            StoreReadOnlyError,
            match=rf"form of an older release \(form 1, this one has {len(MIGRATIONS)}\) and cannot be written\. Open it",
        ):
            await backend.keys.find("k1")
        await backend.aclose()
    assert before == path.read_bytes()
