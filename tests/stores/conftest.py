import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.stores.sqlite import SQLiteBackend, database, migrations

ENTRY = HistoryEntry(at=1.0, action="create", actor="ada")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def backend(path: Path, anyio_backend: Any) -> AsyncIterator[SQLiteBackend]:
    made = SQLiteBackend(str(path))
    yield made
    await made.aclose()


@pytest.fixture
def key() -> Callable[..., StoredKey]:
    def make(key_id: str = "k1", **fields: Any) -> StoredKey:
        values: dict[str, Any] = {"last_four": "4444", "created_at": 1.0, **fields}
        digest = Digest(sha256(key_id.encode()), "sha256", 0)
        return StoredKey(record=KeyRecord(id=key_id, **values), secrets=(KeySecret(digest=digest, created_at=1.0),))

    return make


@pytest.fixture
def entry() -> HistoryEntry:
    return ENTRY


@pytest.fixture
def first_form(path: Path, key: Callable[..., StoredKey], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[int]]:
    """Make the file as the first release did, with some keys in it, and return the cursor of its newest change."""

    async def make(*ids: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(migrations.STORE, "migrations", migrations.MIGRATIONS[:1])
            made = SQLiteBackend(str(path))
            for key_id in ids:
                await made.keys.write(key(key_id), ENTRY, None)
            cursor = (await made.feed.changes(None)).cursor
            await made.aclose()
        return cursor

    return make


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a lock, so that tests need not."""
    monkeypatch.setattr(database, "READ_WAIT", 0.0)
    monkeypatch.setattr(database, "WRITE_WAIT", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody wait for as long as it takes, where threads are many and the machine may be slow."""
    monkeypatch.setattr(database, "READ_WAIT", 60.0)
    monkeypatch.setattr(database, "WRITE_WAIT", 60.0)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that a user without rights can enter; pytest's own ones can be root's alone."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    for directory in (made, *(inner for inner in made.rglob("*") if inner.is_dir())):
        directory.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def without_rights() -> Callable[[], AbstractContextManager[None]]:
    """What permissions forbid is forbidden inside of it: root, for whom they mean nothing, is another user there."""

    @contextlib.contextmanager
    def act() -> Generator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65_534)
        try:
            yield
        finally:
            os.seteuid(0)

    return act
