"""The guards beside LiteLLM: what their workers run, what can be restarted under them, and how their books are read."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.overshoot import counter
from benchmarks.overshoot.books import Books, books_of_ours, held, total
from benchmarks.overshoot.fleet import Program
from benchmarks.overshoot.notes import read
from benchmarks.overshoot.stores import StoreName, ledger_at, store

STILL: Final = 2.0
"""Seconds for which a sum does not change before it is taken for the last word."""
PATIENCE: Final = 30.0
"""Seconds that are waited for the books to come to rest."""
_TICK: Final = 0.25


@dataclass(frozen=True)
class Guard:
    """One guard that is ready to be started.

    Attributes:
        name: What it is called in the table.
        key: The clients' key.
        program: What its workers run.
        quiet: Waits until nothing is in flight in its own books, which may never be.
        books: Reads its books. They are not to be gone on with afterwards.
        restart: Restarts its store; None where there is no server to restart.
    """

    name: str
    key: str
    program: Program
    quiet: Callable[[], Awaitable[None]]
    books: Callable[[], Awaitable[Books]]
    restart: Callable[[], None] | None = None


@contextlib.contextmanager
def ours(name: StoreName, folder: Path, limit: int, *, lease: float) -> Generator[Guard]:
    """Make our layers ready.

    Args:
        name: The store that they count in.
        folder: Where everything is noted.
        limit: The budget in nano-dollars.
        lease: Seconds after which what a killed worker held is nobody's.
    """
    key = secrets.token_urlsafe(32)
    with store(name, folder) as peer:
        env = {
            "OVERSHOOT_FOLDER": str(folder),
            "OVERSHOOT_STORE": peer.place,
            "OVERSHOOT_NANO": str(limit),
            "OVERSHOOT_LEASE": str(lease),
            "OVERSHOOT_KEY": key,
        }

        async def quiet() -> None:
            end = time.monotonic() + PATIENCE + lease
            async with ledger_at(peer.place) as ledger:
                while time.monotonic() < end:
                    if not await held(ledger, folder):
                        return
                    await asyncio.sleep(_TICK)

        yield Guard(
            f"llm_authmw, {name}",
            key,
            Program("benchmarks.overshoot.guarded:app", env),
            quiet,
            lambda: books_of_ours(peer.place, folder, limit),
            peer.restart,
        )


@contextlib.contextmanager
def check_then_count(folder: Path, limit: int) -> Generator[Guard]:
    """Make the middleware ready that reads, compares, and adds afterwards.

    Args:
        folder: Where everything is noted.
        limit: The budget in nano-dollars.
    """
    counter.database(folder).close()

    async def books() -> Books:
        return Books(counter.spent(folder), total(read(folder, "charge")))

    yield Guard(
        "check, then count",
        "nobody's",
        Program("benchmarks.overshoot.counter:app", {"OVERSHOOT_FOLDER": str(folder), "OVERSHOOT_NANO": str(limit)}),
        lambda: until_still(lambda: counter.spent(folder)),
        books,
    )


async def until_still(value: Callable[[], object]) -> None:
    """Wait until something has not changed for a while."""
    end = time.monotonic() + PATIENCE
    last, since = value(), time.monotonic()
    while time.monotonic() < min(end, since + STILL):
        await asyncio.sleep(_TICK)
        if (now := value()) != last:
            last, since = now, time.monotonic()
