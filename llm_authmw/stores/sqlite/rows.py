"""Records as rows and back. What can be filtered by is a column of its own; a list is JSON in one."""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import KeyRecord

Record = TypeVar("Record", KeyRecord, AccountRecord)
Row: TypeAlias = dict[str, Any]

_JSON: Final = frozenset({"roles", "scopes", "models", "routes", "limits", "budgets", "networks", "tags", "metadata", "changes"})


def write_record(record: KeyRecord | AccountRecord) -> Row:
    """Return the columns of a record. None is NULL, and an empty list is `[]`: one restricts nothing, the other allows nothing."""
    return {**_encoded(record.as_dict()), "name_folded": None if record.name is None else record.name.casefold()}


def read_record(kind: type[Record], row: sqlite3.Row) -> Record:
    """Return the record.

    Raises:
        sqlite3.DataError: the row is not what was written.
    """
    try:
        values = _decoded(row)
        if "imported" in values:
            values["imported"] = bool(values["imported"])
        return kind.from_dict(values)
    except (msgspec.MsgspecError, InvalidValueError, TypeError):  # the texts of the first two quote what they read
        raise sqlite3.DataError("a record cannot be read") from None


def write_entry(entry: HistoryEntry) -> Row:
    """Return the columns of an entry of a history."""
    return _encoded(msgspec.structs.asdict(entry))


def read_entries(rows: Iterable[sqlite3.Row]) -> tuple[HistoryEntry, ...]:
    """Return the entries of a history.

    Raises:
        sqlite3.DataError: a row is not what was written.
    """
    try:
        return tuple(msgspec.convert(_decoded(row), HistoryEntry) for row in rows)
    except msgspec.MsgspecError:
        raise sqlite3.DataError("a history cannot be read") from None


def is_text(*values: str | None) -> bool:
    """Say whether these can be compared with what is stored: a lone surrogate (a byte in `argv` that is no UTF-8) cannot."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for value in values if value is not None for letter in value)


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


def _encoded(values: Row) -> Row:
    return {name: msgspec.json.encode(value).decode() if name in _JSON and value is not None else value for name, value in values.items()}


def _decoded(row: sqlite3.Row) -> Row:
    return {name: msgspec.json.decode(row[name]) if name in _JSON and row[name] is not None else row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over its values
