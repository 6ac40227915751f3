import sqlite3
from pathlib import Path

import pytest

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.sqlite.errors import store_error


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailableError, "locked by another process"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailableError, "locked by another process"),
        (sqlite3.SQLITE_LOCKED, StoreUnavailableError, "locked by another process"),
        (sqlite3.SQLITE_READONLY, StoreReadOnlyError, "read-only"),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailableError, "cannot be opened"),
        (sqlite3.SQLITE_FULL, StoreUnavailableError, "disk is full"),
        (sqlite3.SQLITE_IOERR_READ, StoreUnavailableError, "disk reports an error"),
        (sqlite3.SQLITE_NOTADB, StoreCorruptError, "not a SQLite database"),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorruptError, "is damaged"),
        (sqlite3.SQLITE_ERROR, StoreCorruptError, "is damaged"),
        (None, StoreCorruptError, "is damaged"),
    ],
)
def test_each_error_says_what_is_wrong_with_which_file_and_nothing_that_is_in_it(
    code: int | None, kind: type[StoreError], said: str, path: Path
) -> None:
    error = sqlite3.OperationalError("Could not decode 'hunter2'")
    if code is not None:
        error.sqlite_errorcode = code
    meant = store_error(error, path)
    assert kind is type(meant)
    assert str(meant).startswith(str(path))
    assert said in str(meant)
    assert "hunter2" not in str(meant)
