import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from llm_authmw.errors import ConfigurationError, StoreCorruptError, StoreError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyQuery, KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]


def content_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


async def refused(backend: SQLiteBackend, key: StoredKey, entry: HistoryEntry, kind: type[StoreError]) -> list[str]:
    """Try everything that there is, and return what each attempt was told."""
    texts: list[str] = []
    for attempt in (
        backend.start,
        lambda: backend.keys.find("k1"),
        lambda: backend.keys.query(KeyQuery(now=1.0)),
        lambda: backend.feed.changes(None),
        lambda: backend.keys.touch([KeyUse("k1", 1.0)]),
        lambda: backend.keys.write(key, entry, None),
    ):
        with pytest.raises(kind) as caught:
            await attempt()
        assert caught.type is kind
        texts.append(str(caught.value))
    await backend.aclose()
    return texts


async def test_a_directory_that_is_missing_is_named_and_not_made(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    path = tmp_path / "missing" / "store.db"
    for text in await refused(SQLiteBackend(str(path)), key(), entry, StoreUnavailableError):
        assert f"the directory {path.parent} does not exist" in text
    assert {} == content_of(tmp_path)
    path.parent.mkdir()
    backend = SQLiteBackend(str(path))
    await backend.start()
    await backend.aclose()


async def test_a_parent_that_is_a_file_is_named(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    (tmp_path / "file").write_text("mine")
    for text in await refused(SQLiteBackend(str(tmp_path / "file" / "store.db")), key(), entry, StoreUnavailableError):
        assert f"the directory {tmp_path / 'file'} does not exist" in text
    assert {"file": b"mine"} == content_of(tmp_path)


async def test_a_path_that_is_a_directory_is_refused(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    (tmp_path / "store.db").mkdir()
    for text in await refused(SQLiteBackend(str(tmp_path / "store.db")), key(), entry, StoreUnavailableError):
        assert f"{tmp_path / 'store.db'} is a directory" in text


async def test_a_link_to_nowhere_is_refused(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    (tmp_path / "store.db").symlink_to(tmp_path / "nowhere")
    for text in await refused(SQLiteBackend(str(tmp_path / "store.db")), key(), entry, StoreUnavailableError):
        assert f"{tmp_path / 'store.db'} cannot be opened" in text
    assert {} == content_of(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"name,key\nada,sk-1\n", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 4080, os.urandom(5000)],
    ids=["text", "zeros", "header alone", "noise"],
)
async def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(
    tmp_path: Path, path: Path, key: MakeKey, entry: HistoryEntry, content: bytes
) -> None:
    path.write_bytes(content)
    for text in await refused(SQLiteBackend(str(path)), key(), entry, StoreCorruptError):
        assert f"{path} is " in text
        assert "othing was changed" in text
    assert {"store.db": content} == content_of(tmp_path)


@pytest.mark.parametrize("log", [False, True], ids=["journal", "log"])
@pytest.mark.parametrize("application", [0, 42])
async def test_a_database_of_another_program_is_refused_and_stays_as_it_is(
    tmp_path: Path, path: Path, key: MakeKey, entry: HistoryEntry, log: bool, application: int
) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.db", isolation_level=None)) as theirs:
        theirs.execute(f"PRAGMA application_id = {application}")
        theirs.execute("CREATE TABLE keys (tenant, id)")
        if log:
            # What a program leaves behind that was killed: the last changes are in its log only.
            theirs.execute("PRAGMA journal_mode = WAL")
            theirs.execute("INSERT INTO keys VALUES ('a', 'b')")
            shutil.copy(tmp_path / "theirs.db-wal", tmp_path / "store.db-wal")
        shutil.copy(tmp_path / "theirs.db", path)
    (tmp_path / "theirs.db").unlink()
    before = content_of(tmp_path)
    assert log == ("store.db-wal" in before)
    for text in await refused(SQLiteBackend(str(path)), key(), entry, StoreCorruptError):
        assert f"{path} is a database of another program; nothing was changed" in text
    assert before == content_of(tmp_path)


async def test_a_file_of_a_newer_release_is_refused_and_stays_as_it_is(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    await backend.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 99")
        newer.execute("ALTER TABLE keys ADD COLUMN shape TEXT")
    before = content_of(tmp_path)
    for text in await refused(backend, key("k2"), entry, StoreCorruptError):
        assert f"{path} was written by a newer release of llm-authmw" in text
        assert "Upgrade llm-authmw" in text
    assert before == content_of(tmp_path)


async def test_an_empty_file_becomes_a_store(path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    path.touch()
    written = key()
    assert await backend.keys.write(written, entry, None) is True
    assert written == await backend.keys.find("k1")


async def full_store(backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    for number in range(60):
        await backend.keys.write(key(f"k{number}", name="x" * 300), entry, None)
    await backend.aclose()


@pytest.mark.parametrize("part", [0.999, 0.5, 0.1])
async def test_a_file_that_was_cut_off_is_refused_and_stays_as_it_is(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, part: float
) -> None:
    await full_store(backend, key, entry)
    os.truncate(path, int(path.stat().st_size * part))
    before = content_of(tmp_path)
    for text in await refused(backend, key("new"), entry, StoreCorruptError):
        assert f"{path} is damaged" in text
    assert before == content_of(tmp_path)


async def test_damaged_pages_are_reported_and_not_written_over(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await full_store(backend, key, entry)
    content = bytearray(path.read_bytes())
    # Every page but the first, which holds the schema and says that the file is ours.
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)
    for attempt in (lambda: backend.keys.find("k1"), lambda: backend.keys.write(key("new"), entry, None)):
        with pytest.raises(StoreCorruptError, match="is damaged"):
            await attempt()
    await backend.aclose()
    assert {"store.db": bytes(content)} == content_of(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE keys SET tags = 'hunter2 is no list'",
        "UPDATE keys SET tags = '[\"hunter2\", 7]'",
        "UPDATE keys SET limits = '[\"hunter2\"]'",
        "UPDATE keys SET status = 'hunter2'",
        "UPDATE keys SET name = CAST(x'68756e74657232ff' AS TEXT)",
    ],
)
async def test_a_row_that_cannot_be_read_is_reported_without_what_it_holds(
    path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry, damage: str
) -> None:
    await backend.keys.write(key(), entry, None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)
    for attempt in (lambda: backend.keys.find("k1"), lambda: backend.keys.query(KeyQuery(now=1.0))):
        with pytest.raises(StoreCorruptError) as caught:
            await attempt()
        assert str(path) in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ is True


async def test_a_history_that_cannot_be_read_is_reported(path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key(), entry, None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE key_history SET changes = '[]'")
    with pytest.raises(StoreCorruptError, match="is damaged"):
        await backend.keys.history("k1")


async def test_changes_that_are_gone_are_reported(path: Path, backend: SQLiteBackend) -> None:
    await backend.start()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM changes")
    with pytest.raises(StoreCorruptError, match="is damaged"):
        await backend.feed.changes(None)


async def test_a_table_that_is_missing_is_reported(path: Path, backend: SQLiteBackend) -> None:
    await backend.start()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE key_secrets")
        connection.execute("DROP TABLE key_history")
        connection.execute("DROP TABLE keys")
    with pytest.raises(StoreCorruptError, match="is damaged"):
        await backend.keys.find("k1")


async def test_a_disk_that_is_full_is_reported_and_nothing_is_lost(backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key(), entry, None)

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("INSERT INTO changes (facet, tenant, id, at) VALUES ('', '', ?, 0)", ("x" * 100_000,))

    with pytest.raises(StoreUnavailableError, match="disk is full"):
        await backend._database.write(fill)
    assert key() == await backend.keys.find("k1")
    assert await backend.keys.write(key("k2"), entry, None) is True


async def test_only_the_owner_may_read_the_files(path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    mask = os.umask(0)
    try:
        await backend.keys.write(key(), entry, None)
    finally:
        os.umask(mask)
    files = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert {"store.db": "0o600", "store.db-wal": "0o600", "store.db-shm": "0o600"} == files


async def test_the_mode_of_a_file_that_exists_is_left_to_its_owner(path: Path, backend: SQLiteBackend) -> None:
    path.touch()
    path.chmod(0o640)
    await backend.start()
    assert 0o640 == path.stat().st_mode & 0o777


async def test_closing_writes_the_log_into_the_file(path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry) -> None:
    await backend.keys.write(key(), entry, None)
    assert path.with_name("store.db-wal").stat().st_size > 0
    await backend.aclose()
    assert ["store.db"] == [file.name for file in path.parent.iterdir()]


async def test_names_that_mean_something_in_a_uri_are_names_here(tmp_path: Path, key: MakeKey, entry: HistoryEntry) -> None:
    name = "a b%20c?mode=memory#ü.db"
    backend = SQLiteBackend(str(tmp_path / name))
    await backend.keys.write(key(), entry, None)
    await backend.aclose()
    assert [name] == [file.name for file in tmp_path.iterdir()]


async def test_a_file_is_found_through_a_link(
    tmp_path: Path, path: Path, backend: SQLiteBackend, key: MakeKey, entry: HistoryEntry
) -> None:
    await backend.keys.write(key(), entry, None)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    linked = SQLiteBackend(str(link))
    assert key() == await linked.keys.find("k1")
    await linked.aclose()


def test_a_sqlite_that_is_too_old_is_refused_at_construction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.37.2")
    with pytest.raises(ConfigurationError, match=r"3\.38 or later, and this Python has 3\.37\.2"):
        SQLiteBackend(str(path))


def test_a_name_with_a_nul_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        SQLiteBackend("a\0b")
