"""One SQLite file and the threads that it is used in: nothing here waits in the event loop."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.stores.sqlite.errors import primary_code, store_error
from llm_authmw.stores.sqlite.file import OpenFile, begin_in_turn, open_file
from llm_authmw.stores.sqlite.form import Form
from llm_authmw.stores.sqlite.migrations import STORE

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MIN_VERSION: Final = (3, 38, 0)
"""STRICT tables came with 3.37, and every build from 3.38 on has the JSON functions."""
READERS: Final = 4
"""Reads at the same time."""
READ_WAIT: Final = 0.2
"""Seconds that a read, or the note of a use, waits for a lock: less than a request's deadline."""
WRITE_WAIT: Final = 5.0
"""Seconds that a person's change waits for a lock."""


class Database:
    """One SQLite file, opened when it is first used. It serves any number of event loops.

    Args:
        path: The file; a relative path is taken from where the process is now.
        form: What kind of file it is.

    Raises:
        ConfigurationError: this Python's SQLite is too old, or the path is none.
    """

    def __init__(self, path: str | Path, form: Form = STORE) -> None:
        if sqlite3.sqlite_version_info < MIN_VERSION:
            raise ConfigurationError("url", f"sqlite needs SQLite 3.38 or later, and this Python has {sqlite3.sqlite_version}")
        if "\0" in str(path):
            raise ConfigurationError("url", "names a file with a NUL in its name")
        self.path: Final = Path(path).absolute()
        self._form: Final = form
        self._file: OpenFile | None = None
        self._opening: Final = threading.Lock()
        self._writing: Final = threading.Lock()
        # Counted in the threads themselves: one that was abandoned on a disk that hangs has left its limiter.
        self._reading: Final = threading.BoundedSemaphore(READERS)

    async def start(self) -> None:
        """Open the file, and bring it to this release's form.

        Raises:
            StoreError: it cannot be opened; says why.
        """
        await anyio.to_thread.run_sync(self._start, abandon_on_cancel=True, limiter=_limiter(self._form.writers, 1))

    async def aclose(self) -> None:
        """Close the file, its log written into it."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close, limiter=_limiter(self._form.writers, 1))

    async def read(self, work: Work[T]) -> T:
        """Return what `work` gives, all of it read at one moment. A caller who gives up leaves the thread to itself.

        Raises:
            StoreError: the file cannot be read.
        """
        limiter = _limiter(self._form.readers, READERS)
        return await anyio.to_thread.run_sync(self._read, work, abandon_on_cancel=True, limiter=limiter)

    async def write(self, work: Work[T]) -> T:
        """Return what `work` gives, all of it written, and on the disk, or none of it. A caller who gives up waits for that.

        Raises:
            StoreError: the file cannot be written; nothing was.
        """
        return await anyio.to_thread.run_sync(self._write, work, limiter=_limiter(self._form.writers, 1))

    async def note(self, work: Work[None]) -> None:
        """Write what may be lost in a power cut, and do not wait long for it. All of `work` is written, or none of it.

        Raises:
            StoreError: the file cannot be written; nothing was.
        """
        await anyio.to_thread.run_sync(self._note, work, abandon_on_cancel=True, limiter=_limiter(self._form.writers, 1))

    def book(self, work: Work[T]) -> T:
        """Return what `work` gives, all of it written, or none. A power cut may undo it. Called in a thread of the caller's own.

        Raises:
            StoreError: the file cannot be written; nothing was.
        """
        with self._held(self._writing, READ_WAIT):
            return self._run(work, READ_WAIT, _begin_booking, "PRAGMA busy_timeout = 0", "PRAGMA synchronous = NORMAL")

    def _start(self) -> None:
        with self._errors():
            self._opened(WRITE_WAIT)

    def _read(self, work: Work[T]) -> T:
        with self._held(self._reading, READ_WAIT):
            return self._run(work, READ_WAIT, _begin_reading, _busy_timeout(READ_WAIT))

    def _write(self, work: Work[T]) -> T:
        # A revocation that was acknowledged must still be there after a power cut.
        with self._held(self._writing, WRITE_WAIT):
            return self._run(work, WRITE_WAIT, _begin_writing, _busy_timeout(WRITE_WAIT), "PRAGMA synchronous = FULL")

    def _note(self, work: Work[None]) -> None:
        with self._held(self._writing, READ_WAIT):
            self._run(work, READ_WAIT, _begin_writing, _busy_timeout(READ_WAIT), "PRAGMA synchronous = NORMAL")

    def _run(self, work: Work[T], wait: float, begin: Work[None], *settings: str) -> T:
        with self._errors():
            file = self._opened(wait)
            connection = file.take(*settings)
            try:
                return _transact(connection, begin, work)
            finally:
                file.give(connection, *settings)

    def _opened(self, wait: float) -> OpenFile:
        file = self._file
        if file is not None and file.stands():
            return file
        with self._held(self._opening, wait):
            if self._file is not None and not self._file.stands():
                self._file.close()
                self._file = None
            if self._file is None:
                self._file = open_file(self.path, wait, self._form)
            return self._file

    def _close(self) -> None:
        with self._opening:
            file, self._file = self._file, None
        if file is not None:
            file.close()

    @contextlib.contextmanager
    def _held(self, lock: "threading.Lock | threading.BoundedSemaphore", wait: float) -> Generator[None]:
        if not lock.acquire(timeout=wait):
            raise StoreUnavailableError(f"{self.path} is busy with other work of this process; try again")
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = primary_code(error)
            if code != sqlite3.SQLITE_BUSY:
                # Whatever is wrong with the file may be mended, or another file put in its place: look at it anew.
                self._close()
            # Without a code it is the Python module that complains, and it quotes what it could not read.
            raise store_error(error, self.path) from (None if code is None else error)


def _transact(connection: sqlite3.Connection, begin: Work[None], work: Work[T]) -> T:
    try:
        begin(connection)
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return result


def _busy_timeout(wait: float) -> str:
    return f"PRAGMA busy_timeout = {int(wait * 1000)}"


def _begin_reading(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")


def _begin_writing(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


def _begin_booking(connection: sqlite3.Connection) -> None:
    begin_in_turn(connection, READ_WAIT)


def _limiter(threads: RunVar[anyio.CapacityLimiter], count: int) -> anyio.CapacityLimiter:
    """Return this event loop's limiter."""
    try:
        return threads.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(count)
        threads.set(limiter)
        return limiter
