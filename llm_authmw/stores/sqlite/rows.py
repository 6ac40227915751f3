"""Rows of SQLite, and the statements that write and read them."""

import sqlite3
from collections.abc import Iterable

from llm_authmw.history import HistoryEntry
from llm_authmw.stores import rows
from llm_authmw.stores.rows import Record


def read_record(kind: type[Record], row: sqlite3.Row) -> Record:
    """Return the record.

    Raises:
        sqlite3.DataError: the row is not what was written.
    """
    values = dict(row)
    if "imported" in values:
        values["imported"] = bool(values["imported"])
    try:
        return rows.read_record(kind, values)
    except rows.UnreadableRowError:
        raise sqlite3.DataError("a record cannot be read") from None


def read_entries(found: Iterable[sqlite3.Row]) -> tuple[HistoryEntry, ...]:
    """Return the entries of a history.

    Raises:
        sqlite3.DataError: a row is not what was written.
    """
    try:
        return rows.read_entries(dict(row) for row in found)
    except rows.UnreadableRowError:
        raise sqlite3.DataError("a history cannot be read") from None


def insert(table: str, names: Iterable[str]) -> str:
    """Return the statement that writes a row with these columns. Here and below, names are our own and values are parameters."""
    names = tuple(names)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608 - see above


def select(table: str, names: Iterable[str], *conditions: str) -> str:
    """Return the statement that reads these columns of the rows for which every condition holds."""
    return f"SELECT {', '.join(names)} FROM {table} WHERE {' AND '.join(conditions) or '1'}"  # noqa: S608 - see above


def update(table: str, names: Iterable[str], *conditions: str) -> str:
    """Return the statement that writes these columns of the rows for which every condition holds."""
    return f"UPDATE {table} SET {', '.join(f'{name} = :{name}' for name in names)} WHERE {' AND '.join(conditions)}"  # noqa: S608 - see above
