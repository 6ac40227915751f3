"""Statements with named parameters, which PostgreSQL numbers; and what can be a parameter at all."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from llm_authmw.stores.rows import is_text

# A name after one colon; after two it is a type.
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")


class Statement:
    """A statement in which `:name` stands for a value.

    Args:
        text: The statement, which is our own: no value ever stands in it.
    """

    def __init__(self, text: str) -> None:
        self._names: Final = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        numbers = {name: f"${number}" for number, name in enumerate(self._names, start=1)}
        self._text: Final = _PARAMETER.sub(lambda match: numbers[match[1]], text)

    def __call__(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments for a connection's `fetch` and `execute`: the text, and the values that it asks for."""
        return self._text, *(values[name] for name in self._names)


def is_storable(*values: str | None) -> bool:
    """Say whether these can be compared with what is stored. PostgreSQL's text has no NUL, so nothing that is there has one."""
    return is_text(*values) and not any("\0" in value for value in values if value is not None)


def insert(table: str, names: Iterable[str]) -> str:
    """Return the statement that writes a row with these columns. Here and below, names are our own and values are parameters."""
    names = tuple(names)
    return f"INSERT INTO {table} ({columns(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608 - see above


def select(table: str, names: Iterable[str], *conditions: str) -> str:
    """Return the statement that reads these columns of the rows for which every condition holds."""
    return f"SELECT {columns(names)} FROM {table} WHERE {' AND '.join(conditions) or 'true'}"  # noqa: S608 - see above


def update(table: str, names: Iterable[str], *conditions: str) -> str:
    """Return the statement that writes these columns of the rows for which every condition holds."""
    values = ", ".join(f'"{name}" = :{name}' for name in names)
    return f"UPDATE {table} SET {values} WHERE {' AND '.join(conditions)}"  # noqa: S608 - see above


def columns(names: Iterable[str]) -> str:
    """Return the columns as a list. They stand in quotes: `user` means something else in SQL."""
    return ", ".join(f'"{name}"' for name in names)
