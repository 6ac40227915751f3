"""Opening the file: make it if it is new, refuse it if it is not ours, and keep its connections."""

import contextlib
import errno
import itertools
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Final

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.sqlite.errors import corrupt, primary_code
from llm_authmw.stores.sqlite.form import Form, migrate, version_of

_PRAGMAS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",  # the file may have been somebody else's to write
    # The log is written into the file once for every 16 MB of it: that waits for the disk twice, whoever's commit it is.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA fullfsync = ON",  # macOS: without it, a synchronous write stops at the disk's own cache
)
_ASK_AGAIN: Final = 0.001
"""Seconds between two attempts to have a lock."""
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


class OpenFile:
    """The connections to one file, which anybody may take as long as the file at this path is the same one.

    Args:
        path: The file, which exists.
        immutable: Read it without any lock and without a log beside it. That is right only while nobody writes.
    """

    def __init__(self, path: Path, *, immutable: bool = False) -> None:
        self._path: Final = path
        self._immutable: Final = immutable
        self._identity: Final = self._identify()
        self._lock: Final = threading.Lock()
        self._idle: Final[dict[tuple[str, ...], list[sqlite3.Connection]]] = {}
        self._closed = False

    def stands(self) -> bool:
        """Say whether the path still leads to this file, and the process is the one that opened it.

        A copy that was put in its place has other keys in it. And what SQLite knows of locks does not hold in a fork.
        """
        return self._identity is not None and self._identity == self._identify()

    def take(self, *settings: str) -> sqlite3.Connection:
        """Return a connection that nobody else uses, to be given back.

        Args:
            settings: Statements that set it up. Each has its own connections, so that they need not be said again each time.

        Raises:
            sqlite3.Error: the file cannot be opened.
        """
        with self._lock:
            if self._idle.get(settings):
                return self._idle[settings].pop()
            new = self._idle.get(())
            connection = new.pop() if new else None
        if connection is None:
            connection = connect(self._path, "mode=ro&immutable=1" if self._immutable else "mode=rw")
        try:
            for setting in settings:
                connection.execute(setting)
        except BaseException:
            connection.close()
            raise
        return connection

    def give(self, connection: sqlite3.Connection, *settings: str) -> None:
        """Take a connection back that was set up so."""
        with self._lock:
            if not self._closed and not connection.in_transaction:
                self._idle.setdefault(settings, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the connections, those in use as soon as they come back. The last one writes the log into the file."""
        with self._lock:
            self._closed = True
            idle = [*itertools.chain.from_iterable(self._idle.values())]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _identify(self) -> tuple[object, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        if self._immutable:
            return os.getpid(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, _has_log(self._path)
        return os.getpid(), found.st_dev, found.st_ino


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Return a connection; every statement outside of a transaction is one of its own.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def begin_in_turn(connection: sqlite3.Connection, wait: float) -> None:
    """Begin to write, as soon as others have let go.

    The lock is asked for often: SQLite itself waits longer each time, and of several who write all the time one starves.

    Args:
        connection: One whose own wait is none.
        wait: Seconds to wait for other processes.

    Raises:
        sqlite3.Error: another process has the lock for longer, or the file cannot be written.
    """
    until = time.monotonic() + wait
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_ASK_AGAIN)
        else:
            return


def open_file(path: Path, wait: float, form: Form) -> OpenFile:
    """Open the file, new or not, and bring it to this release's form.

    Args:
        path: The file.
        wait: Seconds to wait for another process that does the same.
        form: What it is to be.

    Raises:
        StoreError: the file cannot be made, is not ours, is newer than this release, or was cut off.
        sqlite3.Error: it cannot be opened, read or, where it must be brought to this release's form, written.
    """
    _create(path)
    if _size(path) > 0:
        # A look without a lock, a log or a journal first: a file that is not ours stays as it is to the last byte. Where
        # another process is writing it, this can fail, and the look under a lock that follows says what it is.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path, "mode=ro&immutable=1")) as connection:
            version_of(connection, path, form)
    try:
        return _open(path, wait, form, immutable=False)
    except sqlite3.Error as error:
        # A log cannot be made in a directory that is read-only. Where there is none, the file says everything.
        if primary_code(error) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or _has_log(path):
            raise
    return _open(path, wait, form, immutable=True)


def _open(path: Path, wait: float, form: Form, *, immutable: bool) -> OpenFile:
    opened = OpenFile(path, immutable=immutable)
    connection = opened.take()
    try:
        connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        migrate(connection, path, form)
        _refuse_a_part(connection, path)
        if not immutable:
            _keep_a_log(connection, path, wait)
    except BaseException:
        connection.close()
        raise
    opened.give(connection)
    return opened


def _refuse_a_part(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that was cut off within a page: SQLite notices missing pages, but reads zeros for the end of this one."""
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if _size(path) % page_size:
        raise corrupt(path)


def _create(path: Path) -> None:
    """Make an empty file that only its owner may read; SQLite gives its log the same mode. One that exists is not touched.

    Closing a file drops every lock that this process has on it (POSIX), so one that a connection may have open must not
    be opened here.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise StoreUnavailableError(f"{path} is a directory; name a file in it") from None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreUnavailableError(f"{path} cannot be made: the directory {path.parent} does not exist. Make it first") from error
    except OSError as error:
        kind = StoreReadOnlyError if error.errno in _FORBIDDEN else StoreUnavailableError
        raise kind(f"{path} cannot be made in {path.parent}: {error.strerror}") from error


def _keep_a_log(connection: sqlite3.Connection, path: Path, wait: float) -> None:
    """Write changes to a log beside the file (WAL), so that readers and a writer do not wait for each other."""
    until = time.monotonic() + wait
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.Error as error:
            code = primary_code(error)
            if code == sqlite3.SQLITE_READONLY:
                return
            if code != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            # The switch wants the file for itself, and of two who try at once one is turned away without waiting.
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise StoreUnavailableError(f"{path} cannot have a write-ahead log on this file system; put it on a disk of this machine")
        return


def _has_log(path: Path) -> bool:
    """Say whether changes stand beside the file that are not in it yet. SQLite keeps the log where a link leads to."""
    return _size(Path(os.path.realpath(path) + "-wal")) > 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
