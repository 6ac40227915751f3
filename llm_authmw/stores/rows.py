"""Records as columns and back. What can be filtered by is a column of its own; a list is JSON in one."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import KeyRecord

Record = TypeVar("Record", KeyRecord, AccountRecord)
Row: TypeAlias = dict[str, Any]

_JSON: Final = frozenset({"roles", "scopes", "models", "routes", "limits", "budgets", "networks", "tags", "metadata", "changes"})


class UnreadableRowError(Exception):
    """A row is not what was written."""


def write_record(record: KeyRecord | AccountRecord) -> Row:
    """Return the columns of a record. None is NULL, and an empty list is `[]`: one restricts nothing, the other allows nothing."""
    return {**_encoded(record.as_dict()), "name_folded": None if record.name is None else record.name.casefold()}


def read_record(kind: type[Record], row: Mapping[str, Any]) -> Record:
    """Return the record.

    Raises:
        UnreadableRowError: the row is not what was written.
    """
    try:
        return kind.from_dict(_decoded(row))
    except (msgspec.MsgspecError, InvalidValueError, TypeError):  # the texts of the first two quote what they read
        raise UnreadableRowError from None


def write_entry(entry: HistoryEntry) -> Row:
    """Return the columns of an entry of a history."""
    return _encoded(msgspec.structs.asdict(entry))


def read_entries(rows: Iterable[Mapping[str, Any]]) -> tuple[HistoryEntry, ...]:
    """Return the entries of a history.

    Raises:
        UnreadableRowError: a row is not what was written.
    """
    try:
        return tuple(msgspec.convert(_decoded(row), HistoryEntry) for row in rows)
    except msgspec.MsgspecError:
        raise UnreadableRowError from None


def is_text(*values: str | None) -> bool:
    """Say whether these can be compared with what is stored: a lone surrogate (a byte in `argv` that is no UTF-8) cannot."""
    return not any(0xD800 <= ord(letter) <= 0xDFFF for value in values if value is not None and not value.isascii() for letter in value)


def _encoded(values: Row) -> Row:
    return {name: msgspec.json.encode(value).decode() if name in _JSON and value is not None else value for name, value in values.items()}


def _decoded(row: Mapping[str, Any]) -> Row:
    return {name: msgspec.json.decode(value) if name in _JSON and value is not None else value for name, value in row.items()}
