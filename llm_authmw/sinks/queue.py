"""The records that wait for a sink, and the callers who wait until theirs is written."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import anyio
from anyio.lowlevel import current_token

from llm_authmw.errors import SinkError
from llm_authmw.trail.record import Record

MAX_BYTES: Final = 64 * 1024 * 1024
"""What waits in memory takes no more than that, beside the first records that do."""
_FEW: Final = 500
# So many records are not weighed: nearly always there are fewer, and together they are smaller than that.
_HEAVY: Final = 65_536
# Of a record that does not say what it weighs.


class Deferred(Protocol):
    """What becomes a record when it is written: off the path of the request that it is about.

    Where it has a method `weight` too, that says about how many bytes it takes while it waits.
    """

    def record(self) -> Record:
        """Return the record."""
        ...


class Kept:
    """A record that was refused to somebody who would have waited, and is written later, whatever filters and samples say.

    Args:
        wanted: What is to be written.
    """

    __slots__ = ("_wanted",)

    def __init__(self, wanted: Deferred) -> None:
        self._wanted: Final = wanted

    def record(self) -> Record:
        """Return the record."""
        return self._wanted.record()

    def weight(self) -> int:
        """Return about how many bytes it takes while it waits."""
        return _weight_of(self._wanted)


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
    """What waits in memory, no more of it than a stated number, and of those that nobody waits for no more than a stated size.

    Every method may be called from any thread: each step is one that the interpreter does not interrupt.

    Args:
        most: How many records may wait.
    """

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._records: Final[deque[Deferred]] = deque()
        # Behind these, where there are many: those that were weighed. Several threads may add to them.
        self._weighed: Final[deque[tuple[Deferred, int]]] = deque()
        self._bytes: int = 0
        self._lock = threading.Lock()
        # In the order in which they came, and any of them can be taken out.
        self._tickets: Final[dict[Ticket, None]] = {}

    def __len__(self) -> int:
        return len(self._records) + len(self._weighed) + len(self._tickets)

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return len(self) >= self._most or self._bytes >= MAX_BYTES

    def add(self, record: Deferred) -> bool:
        """Take a record; return False where there is no room for it."""
        if len(self._records) + len(self._tickets) >= self._most:
            return False
        if self._weighed or len(self._records) >= _FEW:
            return self._add_weighed(record)
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
        while self._weighed and len(found) < most:
            with self._lock:
                record, weight = self._weighed.popleft()
                self._bytes -= weight
            found.append(record)
        return found

    def clear(self) -> int:
        """Throw everything away; return how much that was."""
        left = len(self)
        self._records.clear()
        with self._lock:
            self._weighed.clear()
            self._bytes = 0
        self._tickets.clear()
        return left

    def forked(self) -> None:
        """Begin anew in the child of a fork, where another thread may have held the lock."""
        self._lock = threading.Lock()
        self.clear()

    def _add_weighed(self, record: Deferred) -> bool:
        weight = _weight_of(record)
        with self._lock:
            if self._bytes + weight > MAX_BYTES or len(self) >= self._most:
                return False
            self._weighed.append((record, weight))
            self._bytes += weight
        return True


def _weight_of(record: Deferred) -> int:
    weigh: Callable[[], int] | None = getattr(record, "weight", None)
    return _HEAVY if weigh is None else weigh()


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
