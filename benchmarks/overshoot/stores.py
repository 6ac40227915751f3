"""The stores that the layers count in: one of them for all workers, real, and restarted in the middle where there is a server."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import anyio

from llm_authmw.errors import StoreError
from llm_authmw.ledger.contract import Ledger
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.postgres import PostgresBackend
from llm_authmw.stores.redis import RedisLedger
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.store import Backend
from tests.peers.postgres import postgres
from tests.peers.valkey import valkey

StoreName: TypeAlias = Literal["sqlite", "postgres", "redis"]
STORES: Final[tuple[StoreName, ...]] = get_args(StoreName)

DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


class StorePeer(NamedTuple):
    """A store that runs.

    Attributes:
        place: Where workers find it; see `opened`.
        restart: Kills its server and starts it again; None where there is none.
    """

    place: str
    restart: Callable[[], None] | None


@contextlib.contextmanager
def store(name: StoreName, folder: Path) -> Generator[StorePeer]:
    """Start a store, and end it with the block.

    Args:
        name: Which one.
        folder: Where a file may be.
    """
    if name == "sqlite":
        yield StorePeer(f"sqlite {folder / 'store.db'}", None)
    elif name == "redis":
        with valkey(*DURABLE) as server:
            anyio.run(RedisLedger(server.url, whole=True).acknowledge)
            yield StorePeer(f"redis {server.url}", server.restart)
    else:
        with postgres() as database:
            url = database.url(database.make_database())

            def restart() -> None:
                with database.away(killed=True):
                    pass

            yield StorePeer(f"postgres {url}", restart)


def opened(place: str) -> tuple[Backend, Ledger]:
    """Return the records and the counters of a store.

    Args:
        place: Where it is.
    """
    name, _, where = place.partition(" ")
    if name == "redis":
        return MemoryBackend(), RedisLedger(where, whole=True, deadline=None)
    backend = SQLiteBackend(where) if name == "sqlite" else PostgresBackend(where)
    return backend, backend.ledger


@contextlib.asynccontextmanager
async def ledger_at(place: str) -> AsyncGenerator[Ledger]:
    """Open the counters of a store, in the process that looks at them afterwards."""
    backend, ledger = opened(place)
    await backend.start()
    try:
        yield ledger
    finally:
        if isinstance(ledger, RedisLedger):
            with contextlib.suppress(StoreError):
                await ledger.aclose()
        await backend.aclose()
