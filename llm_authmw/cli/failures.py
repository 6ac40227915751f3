"""How a verb fails: a stable word for each cause, on one line of stderr or as one JSON object."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import click

from llm_authmw.cli.output import emit, printable
from llm_authmw.errors import (
    AuthmwError,
    ConfigurationError,
    ConflictError,
    InvalidValueError,
    MissingExtraError,
    NotFoundError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)


class NoStoreError(StoreError):
    """The store's file does not exist, and this verb does not make one."""


_CODES: Final[dict[type, str]] = {
    AuthmwError: "failed",
    ConfigurationError: "configuration",
    MissingExtraError: "missing_extra",
    InvalidValueError: "invalid_value",
    NotFoundError: "not_found",
    ConflictError: "conflict",
    StoreError: "store_failed",
    StoreUnavailableError: "store_unavailable",
    StoreReadOnlyError: "store_read_only",
    StoreCorruptError: "store_corrupt",
    NoStoreError: "store_missing",
}
_LIKE_A_KEY: Final = re.compile(r"[^-/\s]\S{15,}")


def error_object(error: AuthmwError) -> dict[str, str]:
    """Return an error as `--json` gives it: a stable word, and a sentence."""
    return {"code": next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), "message": str(error)}


def fail(error: dict[str, str], *, as_json: bool) -> None:
    """Print an error on stderr."""
    if as_json:
        emit({"error": error}, err=True)
    else:
        click.echo(f"Error: {printable(error['message'])}", err=True)


def fail_usage(error: click.UsageError, arguments: Sequence[str], *, as_json: bool) -> None:
    """Print on stderr that the command line is wrong."""
    # `keys import sk-…` is a likely slip, and click would print the key back, into a terminal or a job's log.
    message = " ".join(masked(error.format_message(), arguments).split())
    if as_json:
        fail({"code": "usage", "message": message}, as_json=True)
    else:
        click.UsageError(printable(message), error.ctx).show()


def masked(message: str, values: Iterable[str]) -> str:
    """Return a message with the values cut short in it that could be keys: long, and without a blank."""
    for value in values:
        if _LIKE_A_KEY.fullmatch(value) is not None:
            for written in (value, repr(value)[1:-1]):
                message = message.replace(written, f"{value[:4]}…")
    return message
