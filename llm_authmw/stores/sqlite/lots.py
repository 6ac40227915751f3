"""Many rows in one statement: at each statement a thread lets go of the interpreter, and waits until it has it again."""

import functools
import itertools
import sqlite3
from collections.abc import Collection, Iterator
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

_ROWS: Final = 64
"""Rows of one statement."""


def decoded(decoder: "msgspec.json.Decoder[T]", text: str) -> T:
    """Return what stands in a column or a row of JSON.

    Raises:
        sqlite3.DataError: it is not what was written.
    """
    try:
        return decoder.decode(text)
    except msgspec.MsgspecError:  # its text quotes what it read
        raise sqlite3.DataError("a row cannot be read") from None


def lots(rows: Collection[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Cut rows into lots of which there are few lengths, each a power of two, so that few statements are to be prepared.

    The last one is repeated until its lot is full: to want it, or to write it, more than once changes nothing.
    """
    rows = [*rows]
    for first in range(0, len(rows), _ROWS):
        lot = rows[first : first + _ROWS]
        yield lot + [lot[-1]] * ((1 << (len(lot) - 1).bit_length()) - len(lot))


def flat(rows: list[tuple[Any, ...]]) -> list[Any]:
    """Return the values of all rows, one after another, as the parameters of a statement."""
    return [*itertools.chain.from_iterable(rows)]


@functools.cache
def wanted(names: str, width: int, count: int, statement: str) -> str:
    """Return a statement that reads from `wanted`, a table of `count` rows of parameters."""
    return f"WITH wanted ({names}) AS (VALUES {_places(width, count)}) {statement}"


@functools.cache
def insert_rows(table: str, width: int, count: int, conflict: str = "") -> str:
    """Return the statement that writes `count` rows of parameters. Names are our own."""
    return f"INSERT INTO {table} VALUES {_places(width, count)} {conflict}"  # noqa: S608 - names are our own


def _places(width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return ", ".join([row] * count)
