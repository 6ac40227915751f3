"""The connections of one event loop. One on which anything went wrong is cut off, so that nobody waits for what it still does.

asyncpg's own pool waits for the server when a connection comes back, and with it everybody who was cancelled in time.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from llm_authmw.clock import Clock
from llm_authmw.stores.postgres.errors import ERRORS

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MAX_CONNECTIONS: Final = 10
"""Connections of one event loop."""
IDLE_LIMIT: Final = 60.0
"""Seconds that a connection may lie idle. What stands between us and the server may forget it without a word."""
_GOODBYE: Final = 1.0


class Pool:
    """Connections, made as they are needed.

    Args:
        connect: Makes one, within a time of its own.
        clock: Gives the monotonic time.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], clock: Clock) -> None:
        self._connect: Final = connect
        self._monotonic: Final = clock.monotonic
        self._idle: Final[list[tuple[Connection, float]]] = []
        """With when each was given back; the last one is taken first."""
        self._waiting: Final[OrderedDict[asyncio.Future[Connection], None]] = OrderedDict()
        self._opening: Final[set[asyncio.Task[None]]] = set()
        self._count = 0
        self._under_way = 0
        self._closed = False

    async def take(self) -> Connection:
        """Return a connection that nobody else uses, to be given back or dropped. Who gives up leaves it to the next one.

        Raises:
            Exception: what `connect` raises.
        """
        oldest = self._monotonic() - IDLE_LIMIT
        while self._idle:
            connection, since = self._idle.pop()
            if since >= oldest and not connection.is_closed():
                return connection
            self.drop(connection)
        if self._closed:
            raise ConnectionAbortedError
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        self._open()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiting.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give(waiter.result())
            raise

    def give(self, connection: Connection) -> None:
        """Take a connection back. One that is in the middle of something is cut off."""
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            self.drop(connection)
            return
        waiter = self._next_waiter()
        if waiter is None:
            self._idle.append((connection, self._monotonic()))
        else:
            waiter.set_result(connection)

    def drop(self, connection: Connection) -> None:
        """Cut a connection off."""
        connection.terminate()
        self._count -= 1
        self._open()

    def forget(self) -> None:
        """Cut off what lies idle: it leads to where a connection was just lost."""
        self._count -= len(self._idle)
        while self._idle:
            self._idle.pop()[0].terminate()

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as they come back."""
        self._closed = True
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        self._fail(ConnectionAbortedError())
        self._count -= len(self._idle)
        while self._idle:
            with contextlib.suppress(*ERRORS):  # also where the server does not say goodbye in time: it is cut off then
                await self._idle.pop()[0].close(timeout=_GOODBYE)

    def _open(self) -> None:
        """Make a connection, unless there are enough of them, or enough under way."""
        if self._under_way < len(self._waiting) and self._count < MAX_CONNECTIONS and not self._closed:
            self._count += 1
            self._under_way += 1
            # A task of its own: who asked may have less time than it takes, and the next one is glad of it.
            task = asyncio.get_running_loop().create_task(self._opened())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _opened(self) -> None:
        made: Connection | Exception
        try:
            made = await self._connect()
        except Exception as error:  # noqa: BLE001 - goes to those who wait
            made = error
        finally:
            self._under_way -= 1  # before anybody hears of it, who may ask for another one at once
        if not isinstance(made, Exception):
            self.give(made)
            return
        self._count -= 1
        if self._count == 0:  # else they wait for one that is in use, or under way
            self._fail(made)

    def _fail(self, error: Exception) -> None:
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(error)

    def _next_waiter(self) -> "asyncio.Future[Connection] | None":
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None
