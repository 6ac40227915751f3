"""Cursors of listings: where a page ended, as text that callers hand back and do not look into."""

import base64
from typing import Any, TypeVar

import msgspec

from llm_authmw.errors import InvalidValueError

T = TypeVar("T")


def write_cursor(position: tuple[Any, ...]) -> str:
    """Return the cursor for the position of a page's last entry."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode()


def read_cursor(cursor: str, kind: type[T]) -> T:
    """Return the position, which is a tuple of type `kind`.

    Raises:
        InvalidValueError: `cursor` was not made by `write_cursor` for a position of this kind.
    """
    try:
        return msgspec.json.decode(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True), type=kind)
    except ValueError:  # what base64, UTF-8 and msgspec raise
        raise InvalidValueError("the cursor is not one that this store gave") from None
