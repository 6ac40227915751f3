"""One JSON object, as a check reads it: which members it has, each once, and none of their values read that nobody asked for.

A body of 200 KB is nearly all messages, which no rule looks at. So members are kept as the bytes that they are, and only what names
something is read further. What two parsers could read in two ways is refused all the same: a member that is there twice, text that is
no UTF-8, anything after the object, nesting without end.
"""

import re
from collections.abc import Collection
from typing import Any, Final

import msgspec
from msgspec import Raw

from llm_authmw.strict_json import MAX_DEPTH

OBJECT: Final = ord("{")
ARRAY: Final = ord("[")
NULL: Final = Raw(b"null")

_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_elements: Final = msgspec.json.Decoder(list[Raw]).decode

# What stands before the value of a member. Nothing is gone back over, or each letter of a name would take a hundred bytes to remember.
_NAME: Final = re.compile(rb'[ \t\r\n]*+[{,][ \t\r\n]*+"(?:[^"\\]++|\\.)*+"[ \t\r\n]*+:[ \t\r\n]*+').match
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_BUT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_BUT_OPENERS: Final = bytes(byte for byte in range(256) if byte not in b"[{")
_SMALL: Final = 4096
"""Bytes up to which counting the brackets of a text costs less than decoding it."""
_COPIED: Final = 65_536
"""Bytes up to which writing an object again costs less than walking through it: larger copies are given pages of their own."""
_BLANKS: Final = b" \t\r\n"
_USUAL_DEPTH: Final = 8


def _nested(depth: int) -> Any:
    """Return the type of JSON values that are nested up to a depth. Its size doubles with each level."""
    scalar = bool | int | float | str | None
    value: Any = scalar
    for _ in range(depth):
        value = scalar | list[value] | dict[str, value]
    return value


_usually_nested: Final = msgspec.json.Decoder(_nested(_USUAL_DEPTH)).decode


def check_text(text: bytes) -> None:
    """Refuse a text that is not in UTF-8, or is nested deeper than `MAX_DEPTH`. It comes before all other functions here, once.

    The decoder passes over values without a look at either, and the app's own parser may not be able to bear it.

    Raises:
        ValueError: it is such a text, or no JSON at all.
    """
    if not text.isascii():
        str(text, "utf-8")
    try:
        _check_depth(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def members_of(text: bytes) -> dict[str, Raw]:
    """Return the members of one JSON object, in their order, with their values as the bytes that they are.

    A value is well-formed JSON, but for numbers that no double holds and lone surrogates, which are found by whoever reads it.

    Args:
        text: The object and nothing else; all of it, or a value in it, was checked by `check_text`.

    Raises:
        ValueError: it is no such object, or holds a member twice.
    """
    members = _members(text)
    # Braces, and for each member two quotation marks, a colon and a comma: no text can be shorter, and this long it can only be
    # where no member was dropped for a later one of its name.
    shortest = 1 + len("".join(members)) + sum(map(len, members.values())) + 4 * len(members)
    if shortest != len(text) and members:
        _check_distinct(text, members)
    return members


def elements_of(value: Raw) -> list[Raw]:
    """Return the elements of an array that is a member's value, or an element.

    Raises:
        ValueError: it is no array.
    """
    return _elements(value)


def begins(value: Raw) -> int:
    """Return the first byte of a member's value, or of an element: `{`, `[`, a quotation mark, or what else a value begins with."""
    return memoryview(value)[0]


def refuse_other_spelling(name: str, spellings: Collection[str]) -> None:
    """Refuse a member that some parsers take for one that means something: Go's takes `Model` for `model`, and a long s for an s.

    Args:
        name: A member that means nothing as it is spelled.
        spellings: The names that mean something, in lower case.

    Raises:
        ValueError: it is such a member.
    """
    if name.casefold() in spellings:
        raise ValueError("a member is spelled in another way than it is read")


def _check_depth(text: bytes) -> None:
    """Refuse what is nested deeper than `MAX_DEPTH`.

    As many brackets as that cannot nest deeper. Closing ones are no help in counting, as those in strings close nothing.
    """
    if len(text) <= _SMALL and len(text.translate(None, _BUT_OPENERS)) <= MAX_DEPTH:
        return
    try:
        _usually_nested(text)
    except msgspec.ValidationError:
        # Not decoded, which would make objects of many times its size. Of the text only brackets are left, and quotation marks, as those
        # in strings are none; then each round takes away what holds nothing, one level of all.
        unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        quoted = unescaped.translate(_ALIKE, _BUT_BRACKETS).replace(b'""', b"")
        brackets = b"".join(quoted.split(b'"')[::2])
        for _ in range(MAX_DEPTH):
            brackets = brackets.replace(b"[]", b"")
            if not brackets:
                return
        raise ValueError("nested too deeply") from None


def _check_distinct(text: bytes, members: dict[str, Raw]) -> None:
    """Refuse an object that has a member twice, by walking through its text along the values that were kept.

    A member that is there twice was kept once. So after as many members as were kept the text is not at its end, unless a value on the
    way was another one than was kept. No JSON value begins with another one, but for numbers, and those do not end there.
    """
    if len(text) <= _COPIED:
        # As Python writes it.
        written = b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in members.items()])
        if text == b"{%b}" % written:
            return
    at = 0
    for value in members.values():
        named = _NAME(text, at)
        if named is None or not text.startswith(bytes(value), named.end()):
            raise ValueError("a member is there twice")
        at = named.end() + len(value)
    if text[at:].strip(_BLANKS) != b"}":
        raise ValueError("a member is there twice")
