"""The records that wait for a sink, and the callers who wait until theirs is written."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

import anyio
from anyio.lowlevel import current_token

from llm_authmw.errors import SinkError
from llm_authmw.trail.record import Record


class Deferred(Protocol):
    """What becomes a record when it is written: off the path of the request that it is about."""

    def record(self) -> Record:
        """Return the record."""
        ...


class Ticket:
    """One caller who waits: until a record is written, or until there is room for one.

    Made in the event loop that waits, and settled from any thread.

    Args:
        wanted: What is to be written.
    """

    __slots__ = ("_done", "_error", "_loop", "wanted")

    def __init__(self, wanted: Deferred | None = None) -> None:
        self.wanted: Final[Deferred | None] = wanted
        self._error: str | None = None
        self._loop: Any
        self._done: asyncio.Future[None] | anyio.Event
        if _in_asyncio():
            # What trio knows too takes much longer.
            self._loop = asyncio.get_running_loop()
            self._done = self._loop.create_future()
        else:
            self._loop = current_token().native_token
            self._done = anyio.Event()

    async def wait(self) -> None:
        """Wait until it is settled.

        Raises:
            SinkError: the record is not written.
        """
        await (self._done.wait() if isinstance(self._done, anyio.Event) else self._done)
        if self._error is not None:
            raise SinkError(self._error)

    def settle(self, loop: object, problem: str | None = None) -> None:
        """Let the caller go on.

        Args:
            loop: The event loop that this is called in.
            problem: Why the record is not written; None where it is.
        """
        self._error = problem
        if self._loop is loop:
            self._wake()
            return
        begin = self._loop.call_soon_threadsafe if isinstance(self._loop, asyncio.AbstractEventLoop) else self._loop.run_sync_soon
        try:
            begin(self._wake)
        except RuntimeError:  # the loop has ended, and nobody waits in it
            return

    def _wake(self) -> None:
        if isinstance(self._done, anyio.Event):
            self._done.set()
        elif not self._done.done():
            self._done.set_result(None)


class Queue:
    """What waits in memory, no more of it than a stated number.

    Every method may be called from any thread: each step is one that the interpreter does not interrupt.

    Args:
        most: How many records may wait.
    """

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._records: Final[deque[Deferred]] = deque()
        # In the order in which they came, and any of them can be taken out.
        self._tickets: Final[dict[Ticket, None]] = {}

    def __len__(self) -> int:
        return len(self._records) + len(self._tickets)

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return len(self._records) + len(self._tickets) >= self._most

    def add(self, record: Deferred) -> bool:
        """Take a record; return False where there is no room for it."""
        if len(self._records) + len(self._tickets) >= self._most:
            return False
        self._records.append(record)
        return True

    def add_ticket(self, ticket: Ticket) -> bool:
        """Take a record that somebody waits for; return False where there is no room for it."""
        if self.full:
            return False
        self._tickets[ticket] = None
        return True

    def drop(self, ticket: Ticket) -> bool:
        """Take out a record whose caller has given up; return False where it is being written already."""
        return self._tickets.pop(ticket, self) is None

    def take_tickets(self, most: int) -> list[Ticket]:
        """Take out what somebody waits for."""
        if not self._tickets:
            return []
        # One who gives up just now is not among those that come out.
        return [ticket for ticket in list(self._tickets)[:most] if self.drop(ticket)]

    def take_records(self, most: int) -> list[Deferred]:
        """Take out what nobody waits for, the oldest first."""
        records = self._records
        found: list[Deferred] = []
        while records and len(found) < most:
            found.append(records.popleft())
        return found

    def clear(self) -> int:
        """Throw everything away; return how much that was."""
        left = len(self)
        self._records.clear()
        self._tickets.clear()
        return left


def settle_all(tickets: Iterable[Ticket], problem: str | None = None) -> None:
    """Let several callers go on; see `Ticket.settle`."""
    loop: object = None
    for ticket in tickets:
        loop = loop or running_loop()
        ticket.settle(loop, problem)


def running_loop() -> object:
    """Return what stands for the running event loop; None where none runs."""
    try:
        if _in_asyncio():
            return asyncio.get_running_loop()
        return current_token().native_token
    except RuntimeError:
        return None


def _in_asyncio() -> bool:
    """Say whether a task of asyncio asks. Where trio is a guest in its loop, none does."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
