"""The rows of a file of keys to import: JSON lines, or CSV with a header."""

import csv
import io
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from llm_authmw.cli.durations import parse_expiry, parse_moment
from llm_authmw.cli.failures import masked
from llm_authmw.errors import InvalidValueError

LIST_SEPARATOR: Final = ";"
"""Between the entries of a list in a CSV cell: limits hold commas."""


class ImportRow(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One key to import; the names are those of `KeyRecord`, and a date is a number of seconds since 1970 or a text."""

    sha256: str
    last_four: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    realm: str | UnsetType = UNSET
    user: str | UnsetType | None = UNSET
    team: str | UnsetType | None = UNSET
    org: str | UnsetType | None = UNSET
    roles: list[str] | UnsetType = UNSET
    scopes: list[str] | UnsetType = UNSET
    models: list[str] | UnsetType | None = UNSET
    routes: list[str] | UnsetType | None = UNSET
    tier: str | UnsetType | None = UNSET
    limits: list[str] | UnsetType = UNSET
    budgets: list[str] | UnsetType = UNSET
    networks: list[str] | UnsetType | None = UNSET
    tags: list[str] | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    not_before: float | str | UnsetType | None = UNSET
    expires_at: float | str | UnsetType | None = UNSET


COLUMNS: Final = ImportRow.__struct_fields__
_LISTS: Final = frozenset({"roles", "scopes", "models", "routes", "limits", "budgets", "networks", "tags"})


class Row(NamedTuple):
    """One row as it was read.

    Attributes:
        line: Where it stands in the file, from 1 on.
        fields: What it says; None where it cannot be read.
        problem: Why not; never quotes the row.
    """

    line: int
    fields: dict[str, Any] | None
    problem: str | None = None


def read_rows(content: bytes, *, now: float) -> list[Row]:
    """Return the rows of a file; `{` at its beginning tells JSON lines from CSV.

    Args:
        content: The file.
        now: Seconds since 1970, which durations in it count from.

    Raises:
        InvalidValueError: the file as a whole cannot be read: no UTF-8, no rows, an unknown column.
    """
    try:
        text = content.decode("utf-8-sig")  # spreadsheets put a byte order mark before a CSV
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"the file is not UTF-8: byte {error.start + 1} is not text") from None
    start = text.lstrip()[:1]
    if start == "[":
        raise InvalidValueError("the file is one JSON list, and one object a line is expected: jq -c '.[]' makes them")
    rows = list(_json_rows(text, now) if start == "{" else _csv_rows(text, now))
    if not rows:
        raise InvalidValueError("the file holds no rows")
    return rows


def _json_rows(text: str, now: float) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(ImportRow)
    # Not `splitlines`: a JSON text may hold U+2028 and its kin as they are.
    for line, given in enumerate(text.split("\n"), start=1):
        if given.strip():
            try:
                yield Row(line, _fields(decoder.decode(given), now))
            except (msgspec.DecodeError, InvalidValueError) as error:
                yield Row(line, None, str(error))


def _csv_rows(text: str, now: float) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, list[str]())
        _check_header(header)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                yield Row(reader.line_num, None, f"has {len(cells)} cells, and the header has {len(header)}")
                continue
            try:
                values = {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True) if cell}
                yield Row(reader.line_num, _fields(msgspec.convert(values, ImportRow), now))
            except (msgspec.ValidationError, InvalidValueError) as error:
                yield Row(reader.line_num, None, str(error))
    except csv.Error as error:
        raise InvalidValueError(f"line {reader.line_num} is not CSV: {error}") from None


def _check_header(header: list[str]) -> None:
    unknown = [number for number, name in enumerate(header, start=1) if name not in COLUMNS]
    if unknown or "sha256" not in header or len(set(header)) < len(header):
        problem = f"column {unknown[0]} is none of them" if unknown else "sha256 is missing, or a column comes twice"
        # The heading itself is not quoted: in a file without a header it is somebody's row.
        raise InvalidValueError(f"the file is neither JSON lines nor CSV with a header of {', '.join(COLUMNS)}: {problem}")


def _cell(name: str, cell: str) -> Any:
    if name in _LISTS:
        return [entry.strip() for entry in cell.split(LIST_SEPARATOR) if entry.strip()]
    if name == "metadata":
        pairs = [pair.partition("=") for pair in cell.split(LIST_SEPARATOR)]
        if any(not equals for _, equals, _ in pairs):
            raise InvalidValueError("metadata is NAME=VALUE;NAME=VALUE")
        return {key.strip(): value.strip() for key, _, value in pairs}
    return cell


def _fields(row: ImportRow, now: float) -> dict[str, Any]:
    fields = {name: value for name in COLUMNS if (value := getattr(row, name)) is not UNSET}
    for name, parse in (("not_before", parse_moment), ("expires_at", parse_expiry)):
        text = fields.get(name)
        if isinstance(text, str):
            try:
                fields[name] = parse(text, now=now)
            except InvalidValueError as error:
                raise InvalidValueError(f"{name}: {masked(str(error), [text])}") from None
    return fields
