"""What SQLite's errors mean to whoever runs the store. The texts name the file and what to do; they hold no row."""

import sqlite3
from pathlib import Path

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError


def primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; None where the error is the Python module's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """Return what `error` means."""
    match primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailableError(f"{path} is locked by another process that is writing to it; try again")
        case sqlite3.SQLITE_READONLY:
            return read_only(path)
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreUnavailableError(
                f"{path} cannot be opened; check that it is a file, and that this user may read and write it and its directory"
            )
        case sqlite3.SQLITE_FULL:
            return StoreUnavailableError(f"{path} cannot grow: its disk is full. Nothing was written; free some space")
        case sqlite3.SQLITE_IOERR:
            return StoreUnavailableError(f"{path} cannot be read or written: its disk reports an error. Look into the system's log")
        case sqlite3.SQLITE_NOTADB:
            return StoreCorruptError(f"{path} is not a SQLite database; nothing was changed. Name another file for the store")
        case _:
            return corrupt(path)


def corrupt(path: Path) -> StoreCorruptError:
    """Return the error for a file whose content cannot be read."""
    return StoreCorruptError(f"{path} is damaged: it cannot be read as what was written. Nothing was changed; restore it from a copy")


def read_only(path: Path) -> StoreReadOnlyError:
    """Return the error for a file that cannot be written."""
    return StoreReadOnlyError(f"{path} cannot be written: the file, its directory or its file system is read-only. Nothing was changed")
