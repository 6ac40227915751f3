"""What a person sees and what a program reads. Every value goes through `printable`: names are other people's text."""

import json
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED: Final = 100_000
"""Columns of an output that is no terminal: a program that reads a table wants whole values."""

_LEAST_CUT: Final = 6
"""Columns of a terminal that a value gets which may be cut: with less, nobody could tell it from another."""
_LONGEST_WORD: Final = 20
"""Columns in which a word of a value that is wrapped stays whole: a route, a reason code. Longer ones are other people's."""
_GAP: Final = 2

_STYLES: Final = {
    "active": "green",
    "blocked": "red",
    "revoked": "red",
    "expired": "yellow",
    "not yet valid": "yellow",
    "allowed": "green",
    "denied": "red",
    "error": "red",
    "warning": "yellow",
    "yes": "green",
    "no": "red",
}


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: What stands above it.
        narrow: What becomes of its values where the terminal is too narrow.
        colored: Whether its values are states, which have colors.
    """

    heading: str
    narrow: Literal["keep", "cut", "wrap"] = "keep"
    colored: bool = False


def printable(value: object) -> str:
    """Return a value as text of one line: what would move the cursor or turn the text around is written as an escape."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def note(text: str) -> None:
    """Tell the person something that is not the answer: on stderr, so that pipes stay clean."""
    click.echo(printable(text), err=True)


def say(text: str) -> None:
    """Print one line of the answer."""
    click.echo(printable(text))


def emit(value: object, *, err: bool = False) -> None:
    """Print one JSON value on one line, in ASCII: no encoding can break it, and no terminal acts on it."""
    click.echo(json.dumps(value, allow_nan=False), err=err)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str | None]]) -> None:
    """Print a table, with whole values where the output is no terminal; None is nothing."""
    console = _console()
    lines = [[Text(column.heading) for column in columns], *([*map(_cell, row, columns)] for row in rows)]
    widths = [max(cell.cell_len for cell in cells) for cells in zip(*lines, strict=True)]
    floors = [_floor(column, width, cells) for column, width, cells in zip(columns, widths, zip(*lines, strict=True), strict=True)]
    gaps = _GAP * (len(columns) - 1)
    while sum(widths) + gaps > console.width and widths != floors:
        # The widest gives way first, as long as there is one that may.
        place = max(range(len(widths)), key=lambda place: (widths[place] > floors[place], widths[place]))
        widths[place] -= 1
    # On a terminal that is narrower still, its own line breaks hide less than columns without width would.
    console.width = max(console.width, sum(widths) + gaps)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(Text(column.heading), no_wrap=column.narrow == "keep", width=width)
    for cells in lines[1:]:
        table.add_row(*cells)
    _print(table, console)


def print_fields(rows: Sequence[tuple[str, str | None]]) -> None:
    """Print names and values, one under the other; a value of None is left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(Text(name), _text(value, colored=name in {"state", "status"}))
    _print(table, _console())


def _floor(column: Column, width: int, cells: Sequence[Text]) -> int:
    if column.narrow == "keep":
        return width
    if column.narrow == "cut":
        return min(width, _LEAST_CUT)
    return min(_LONGEST_WORD, max(cell_len(word) for cell in cells for word in (cell.plain.split() or [""])))


def _cell(value: str | None, column: Column) -> Text:
    text = _text("-" if value is None else value, colored=column.colored)
    if column.narrow == "cut":
        # rich narrows the columns that may wrap; a value that says itself not to wrap is then cut to its column's width.
        text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _text(value: str, *, colored: bool) -> Text:
    return Text(printable(value), style=_STYLES.get(value, "") if colored else "", overflow="fold")


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_UNBOUNDED)


def _print(table: Table, console: Console) -> None:
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())
