from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.ledger.contract import Ledger
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock
from llm_authmw.tokens.revocation_records import Revocation
from tests.peers.needs import need

ASYNCIO_ONLY = {"postgres", "redis"}
"""Stores whose clients know no other event loop."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def impossible(item: pytest.Item) -> bool:
        params: dict[str, Any] = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        return params.get("anyio_backend") == "trio" and not ASYNCIO_ONLY.isdisjoint(map(str, params.values()))

    gone = [item for item in items if impossible(item)]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def backend(request: pytest.FixtureRequest, anyio_backend: Any, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Backend]:
    made: Backend
    if request.param == "memory":
        made = MemoryBackend(clock=clock)
    elif request.param == "sqlite":
        made = SQLiteBackend(str(tmp_path / "store.db"), clock=clock)
        await made.start()  # or those who come first at the same time wait for that
    else:
        need("asyncpg")
        from llm_authmw.stores.postgres import PostgresBackend  # noqa: PLC0415 - imports asyncpg

        made = PostgresBackend(request.getfixturevalue("postgres_url"), clock=clock)
    yield made
    await made.aclose()


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
async def ledger(request: pytest.FixtureRequest, anyio_backend: Any, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger(clock=clock)
    elif request.param == "sqlite":
        made = SQLiteBackend(str(tmp_path / "ledger.db"), clock=clock)
        await made.start()
        yield made.ledger
        await made.aclose()
    elif request.param == "postgres":
        need("asyncpg")
        from llm_authmw.stores.postgres.database import Database  # noqa: PLC0415 - imports asyncpg
        from llm_authmw.stores.postgres.ledger import PostgresLedger  # noqa: PLC0415 - likewise

        database = Database(request.getfixturevalue("postgres_url"))
        yield PostgresLedger(database, clock=clock)
        await database.aclose()
    else:
        need("redis")
        from llm_authmw.stores.redis import RedisLedger  # noqa: PLC0415 - imports redis-py

        ledger = RedisLedger(request.getfixturevalue("valkey_url"), deadline=10.0, clock=clock)
        yield ledger
        await ledger.aclose()


@pytest.fixture
def secret() -> Callable[..., KeySecret]:
    def make(text: str = "secret", *, created_at: float = 1.0, not_after: float | None = None, imported: bool = False) -> KeySecret:
        digest = Digest(sha256(text.encode()), "sha256", 0)
        return KeySecret(digest=digest, created_at=created_at, not_after=not_after, imported=imported)

    return make


@pytest.fixture
def key(secret: Callable[..., KeySecret]) -> Callable[..., StoredKey]:
    def make(key_id: str = "k1", *, secrets: tuple[KeySecret, ...] | None = None, **fields: Any) -> StoredKey:
        values: dict[str, Any] = {"last_four": "4444", "created_at": 1.0, **fields}
        record = KeyRecord(id=key_id, **values)
        return StoredKey(record=record, secrets=(secret(key_id),) if secrets is None else secrets)

    return make


@pytest.fixture
def account() -> Callable[..., AccountRecord]:
    def make(name: str = "blue", **fields: Any) -> AccountRecord:
        values: dict[str, Any] = {"kind": "team", "created_at": 1.0, **fields}
        return AccountRecord(name=name, **values)

    return make


@pytest.fixture
def entry() -> Callable[..., HistoryEntry]:
    def make(action: str = "create", **fields: Any) -> HistoryEntry:
        values: dict[str, Any] = {"at": 1.0, "actor": "ada", **fields}
        return HistoryEntry(action=action, **values)

    return make


@pytest.fixture
def revocation() -> Callable[..., Revocation]:
    def make(revocation_id: str = "rv-1", **fields: Any) -> Revocation:
        values: dict[str, Any] = {
            "kind": "token",
            "issuer": "https://issuer.example",
            "value": "jti",
            "created_at": 1.0,
            "actor": "ada",
            **fields,
        }
        return Revocation(id=revocation_id, **values)

    return make
