"""One PostgreSQL database and the connections to it: one set per event loop, opened when they are first used."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
import asyncpg

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import AuthmwError, ConfigurationError, StoreCorruptError, StoreError, StoreUnavailableError
from llm_authmw.stores.postgres.address import Address
from llm_authmw.stores.postgres.errors import ERRORS, LOST, store_error, too_slow
from llm_authmw.stores.postgres.migrations import CHANGE_LOCK, migrate
from llm_authmw.stores.postgres.pool import Connection, Pool
from llm_authmw.stores.rows import UnreadableRowError

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

CONNECT_WAIT: Final = 5.0
"""Seconds that connecting may take, with TLS, the password and, the first time, the form."""
WAIT: Final = 10.0
"""Seconds that anything may take. Requests have a deadline of their own, which is shorter."""
STATEMENTS: Final = 100
"""Prepared statements that a connection keeps."""

# Where a process vanishes in the middle of a transaction, the server ends it, or nobody else could change anything.
_LIMITS: Final = "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '10s'"
# Who waited for a lock is to see what was done meanwhile, whatever the database's own default is.
_ISOLATION: Final = "SET default_transaction_isolation = 'read committed'"
_READ: Final = "BEGIN READ ONLY"
_WRITE: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED; {_LIMITS}"
_ONE_BY_ONE: Final = f"SELECT pg_advisory_xact_lock({CHANGE_LOCK})"
_CHANGE: Final = f"{_WRITE}; {_ONE_BY_ONE}"
_NOTE: Final = f"{_WRITE}; SET LOCAL synchronous_commit = off; {_ONE_BY_ONE}"


class Database:
    """One PostgreSQL database. It serves any number of event loops of asyncio.

    `work` is given a connection that nobody else uses, and leaves nothing behind on it that outlives a transaction.

    Args:
        url: See `Address`.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: the URL cannot be read.
    """

    def __init__(self, url: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock: Final = clock
        self._address: Final = Address(url)
        self.place: Final = self._address.place
        self._pools: Final[dict[asyncio.AbstractEventLoop, Pool]] = {}
        self._lock: Final = threading.Lock()
        self._has_form = False

    async def start(self) -> None:
        """Connect, and bring the database to this release's form.

        Raises:
            StoreError: it cannot be opened; says why.
            ConfigurationError: a parameter of the URL cannot be used.
        """
        await self._run(_nothing, WAIT, None, again=True)

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # another kind of event loop has none
        with self._lock:
            pool = self._pools.pop(loop, None)
        if pool is not None:
            with anyio.CancelScope(shield=True):
                await pool.aclose()

    async def read(self, work: Work[T]) -> T:
        """Return what `work` gives. What one statement reads is of one moment; where a connection was lost, it is read again.

        Raises:
            StoreError: the database cannot be read.
        """
        return await self._run(work, WAIT, _READ if self._address.pooled else None, again=True)

    async def statement(self, work: Work[T]) -> T:
        """Return what `work` gives, which is one statement that may be done twice: one round trip, and all of it is written or none.

        Where the connection was lost, it is done again.

        Raises:
            StoreError: it failed. It may have been done all the same.
        """
        return await self._run(work, WAIT, _WRITE if self._address.pooled else None, again=True)

    async def write(self, work: Work[T]) -> T:
        """Return what `work` gives, all of it written, or none of it.

        Raises:
            StoreError: the database cannot be written; nothing was. Where the connection was lost at the very end, it may have been
                all the same, and the text says so.
        """
        return await self._run(work, WAIT, _WRITE)

    async def change(self, work: Work[T]) -> T:
        """Do as `write` does, but one after another: of all who change records here, in any process, nobody else does so meanwhile.

        Raises:
            StoreError: see `write`.
        """
        return await self._run(work, WAIT, _CHANGE)

    async def note(self, work: Work[None]) -> None:
        """Do as `change` does with what may be lost when the server dies.

        Raises:
            StoreError: the database cannot be written; nothing was.
        """
        await self._run(work, WAIT, _NOTE)

    async def _run(self, work: Work[T], wait: float, begin: str | None, *, again: bool = False) -> T:
        pool = self._pool()
        try:
            async with asyncio.timeout(wait):
                try:
                    return await self._used(pool, work, begin)
                except LOST:
                    if not again:
                        raise
                pool.forget()
                return await self._used(pool, work, begin)
        except TimeoutError:
            pool.forget()
            raise too_slow(self.place, changing=not again) from None
        except (*ERRORS, UnreadableRowError) as error:
            meaning = store_error(error, self.place)
            if isinstance(meaning, StoreCorruptError):
                # It may be mended, or another database put in its place: look at it anew.
                self._has_form = False
                pool.forget()
            raise meaning from None

    async def _used(self, pool: Pool, work: Work[T], begin: str | None) -> T:
        connection = await _begun(pool, begin)
        sound = ending = False
        try:
            result = await work(connection)
            ending = True
            if begin is not None:
                await connection.execute("COMMIT")
            sound = True
        except LOST:
            if begin is None or not ending:
                raise
            raise StoreUnavailableError(
                f"{self.place} closed the connection at the very end of a change; look whether it was made before trying again"
            ) from None
        except (AuthmwError, UnreadableRowError, asyncpg.PostgresError):
            with contextlib.suppress(*ERRORS):
                if begin is not None:
                    await connection.execute("ROLLBACK")
                sound = True
            raise
        finally:
            (pool.give if sound else pool.drop)(connection)
        return result

    def _pool(self) -> Pool:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise StoreError(f"{self.place} can be used with asyncio only, since asyncpg knows no trio") from None
        with self._lock:
            pool = self._pools.get(loop)
            if pool is None:
                for ended in [known for known in self._pools if known.is_closed()]:
                    del self._pools[ended]
                pool = self._pools[loop] = Pool(self._connect, self._clock)
            return pool

    async def _connect(self) -> Connection:
        async with asyncio.timeout(CONNECT_WAIT):
            connection = await self._connected()
            try:
                if not self._address.pooled:
                    await connection.execute(_ISOLATION)
                if not self._has_form:
                    await migrate(connection, self.place)
                    self._has_form = True
            except BaseException:
                connection.terminate()
                raise
            return connection

    async def _connected(self) -> Connection:
        # A pooler may lend another connection for each transaction, and none of them knows a statement that was prepared on another.
        statements = 0 if self._address.pooled else STATEMENTS
        try:
            return await asyncpg.connect(self._address.dsn.reveal(), statement_cache_size=statements)
        except ValueError:  # what asyncpg makes of parameters; its text quotes them
            raise ConfigurationError(
                "url", "has a parameter that cannot be used; check sslmode and the files that sslrootcert, sslcert and sslkey name"
            ) from None


async def _begun(pool: Pool, begin: str | None) -> Connection:
    """Return a connection with a transaction begun. What lay idle may have been cut off long ago, and nothing was done yet."""
    if begin is None:
        return await pool.take()
    try:
        return await _begin(pool, begin)
    except LOST:
        pool.forget()
    return await _begin(pool, begin)


async def _begin(pool: Pool, begin: str) -> Connection:
    connection = await pool.take()
    try:
        await connection.execute(begin)
    except BaseException:
        pool.drop(connection)
        raise
    return connection


async def _nothing(connection: Connection) -> None:
    """Do nothing: a connection was to be had."""
