"""What ASGI allows in a message, whatever kind of conversation it is in."""

from collections.abc import Iterable
from typing import Any


class ProtocolError(AssertionError):
    """The app sent what ASGI does not allow at that point, or returned before it was done."""


def kind_of(message: Any) -> str:
    """Return a message's type.

    Raises:
        ProtocolError: it has none.
    """
    try:
        kind = message["type"]
    except (TypeError, KeyError):
        kind = None
    if not isinstance(kind, str):
        raise ProtocolError(f"{message!r} was sent, which is not a message: it has no type")
    return kind


def checked_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return a message's headers as a list.

    Raises:
        ProtocolError: they are not pairs of byte strings.
    """
    lines: list[tuple[bytes, bytes]] = []
    given: Iterable[Any] = headers
    for line in given:
        try:
            name, value = line
        except (TypeError, ValueError):
            raise ProtocolError(f"{line!r} is not a header: expected a name and a value") from None
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise ProtocolError(f"the header {name!r}: {value!r} is not in bytes")
        lines.append((name, value))
    return lines


def checked_status(status: Any) -> int:
    """Return a message's status.

    Raises:
        ProtocolError: it is not a final HTTP status.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ProtocolError(f"{status!r} is not the status of an answer")
    return status
