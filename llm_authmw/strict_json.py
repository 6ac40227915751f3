"""JSON as a check reads it: one way to read a text, or none.

Parsers differ on duplicate members, on other encodings and on numbers that no double holds, and what two parsers read in two
ways is how a check is passed by (RFC 8725 §2.4, RFC 8259 §4). msgspec refuses all of it but duplicate members.
"""

import json
from typing import Any, Final, TypeGuard

import msgspec

MAX_DEPTH: Final = 64

_decode: Final = msgspec.json.Decoder().decode


def parse(text: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Read one JSON text (RFC 8259) in UTF-8 without a byte order mark.

    Args:
        text: The text.
        max_depth: How deeply arrays and objects may be nested.

    Raises:
        ValueError: it is not JSON, holds a member twice, a number that is out of range, or a lone surrogate, or is nested too
            deeply.
    """
    try:
        value = _decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    members = _members(value, max_depth)
    # A member is a string, then a colon. Where there are as many of those as members were kept, none was there twice; a string that
    # holds `":` makes it look like more, and only then is it read again, ten times slower.
    if text.count(b'":') != members or b" :" in text or b"\n:" in text or b"\t:" in text or b"\r:" in text:
        json.loads(text, object_pairs_hook=_distinct)
    return value


def parse_object(text: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: as `parse`, or it is no object.
    """
    value = parse(text, max_depth=max_depth)
    if not is_object(value):
        raise ValueError("not an object")
    return value


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Say whether what was read is an object."""
    return type(value) is dict


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Say whether what was read is an array."""
    return type(value) is list


def _members(value: Any, depth: int) -> int:
    """Return how many members there are in the value, and in all that it holds."""
    if is_object(value):
        inner: Any = value.values()
        count = len(value)
    elif is_array(value):
        inner, count = value, 0
    else:
        return 0
    if depth == 0:
        raise ValueError("nested too deeply")
    for entry in inner:
        if type(entry) is dict or type(entry) is list:
            count += _members(entry, depth - 1)
    return count


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member is there twice")
