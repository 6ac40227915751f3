"""A record as one line of ASCII JSON that no text in it can break out of, and that is never too long.

Every character that is not printable ASCII is written as an escape: a line break, a terminal's escape sequence or a change of the writing
direction is text like any other. Where something is too long its beginning is written, the text says how long it was, and `cut` names the
field; the line stays valid JSON, and the record can be read back.
"""

import json
import math
import os
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from llm_authmw.call import MAX_COUNT
from llm_authmw.dates import rfc3339
from llm_authmw.trail.record import Record

MAX_LINE: Final = 65_536
"""No line is longer, in bytes."""

MAX_TEXT: Final = 4_096
"""No text in a record is longer, in bytes as it is written; in a record that would be too long otherwise all are shorter still."""

_MAX_SEALED: Final = 40_000
_MAX_PERSON: Final = 25_000
# Bytes; beside them a line has its place in the chain, of less than 200.

_EMPTY: Final = len("{}")
_BESIDE_PERSON: Final = len(',"person":}')

_LAST_SECOND: Final = 253_402_300_799
# Of the year 9999: RFC 3339 knows no later one.

_encode: Final = msgspec.json.Encoder().encode
_UNPRINTABLE: Final = re.compile("[^ -~]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Bounds(NamedTuple):
    """How much of a record is written.

    Attributes:
        text: Bytes of each text, as it is written.
        items: Items of each list, and entries of each object.
        depth: Lists and objects within each other.
        values: Values in all.
    """

    text: int
    items: int
    depth: int
    values: int


_TIGHTER_AND_TIGHTER: Final = (
    Bounds(MAX_TEXT, 1_000, 8, 10_000),
    Bounds(1_024, 200, 6, 2_000),
    Bounds(256, 50, 5, 500),
    Bounds(192, 12, 4, 200),
    # With at most 40 bytes more for what says how long a text was: within both limits in any case. Our own ids are shorter.
    Bounds(128, 4, 3, 100),
)


class Salts:
    """Salts for commitments: 128 random bits each, as 32 hexadecimal digits. Many are drawn at once: asking the system takes longest."""

    def __init__(self) -> None:
        self._block: bytes = b""
        self._next: int = 0

    def draw(self) -> bytes:
        """Return one that was never given before."""
        start = self._next
        if start == len(self._block):
            self._block, start = os.urandom(16 * 256).hex().encode(), 0
        self._next = start + 32
        return self._block[start : start + 32]


def encode(record: Record, salt: bytes) -> tuple[bytes, bytes | None]:
    """Return what a record says but for the person, and the person's part.

    The first holds a commitment to the second: `"commitment"` is the SHA-256 of its bytes as they stand in the line, which begin with
    the salt. Without them nobody can tell from the commitment who it was, whatever list of names they try.

    Args:
        record: The record.
        salt: For its person, of `Salts.draw`.
    """
    fields, person = _as_it_is(record) or _cut(record)
    if person is None:
        return b'{"time":"%b"%b}' % (timestamp(record.time), fields), None
    person = b'{"salt":"%b",%b' % (salt, person[1:]) if len(person) > _EMPTY else b'{"salt":"%b"}' % salt
    commitment = sha256(person).hexdigest().encode()
    return b'{"time":"%b"%b,"commitment":"%b"}' % (timestamp(record.time), fields, commitment), person


def _as_it_is(record: Record) -> tuple[bytes, bytes | None] | None:
    """Return both parts of a record in which nothing needs care, which is nearly every one; None for another one.

    Of the first part these are the fields behind the time, each with the comma before it.
    """
    person = record.person
    if (record.extra and not _is_plain(record.extra)) or (
        person is not None and (person.changes or (person.extra and not _is_plain(person.extra)))
    ):
        return None
    try:
        whole = _encode(record)
        part = None if person is None else _encode(person)
    except (ValueError, TypeError, OverflowError):  # half a character, an object that is no value, a number of more than 64 bits
        return None
    # "time" is the first field, and "person" the last one: both are written another way.
    end = -1 if part is None else -len(part) - _BESIDE_PERSON
    fields = whole[whole.index(b",") : end]
    if not whole.isascii() or b"\x7f" in whole:
        fields, part = ascii_only(fields), None if part is None else ascii_only(part)
    if len(fields) >= MAX_TEXT or (part is not None and len(part) > MAX_TEXT):  # else no text can be too long, and nothing else
        return None
    return fields, part


def _is_plain(extra: Mapping[Any, Any]) -> bool:
    for name, value in extra.items():
        if type(name) is not str:
            return False
        if type(value) is int:
            if not -MAX_COUNT <= value <= MAX_COUNT:
                return False
        elif type(value) is float:
            if not math.isfinite(value):
                return False
        elif not (type(value) is str or type(value) is bool or value is None):
            return False
    return True


def ascii_only(text: bytes) -> bytes:
    """Return JSON (UTF-8) with an escape for every character that is not printable ASCII."""
    # Quotation marks and backslashes are printable, so that what is matched lies within one text.
    return _UNPRINTABLE.sub(lambda match: json.dumps(match[0])[1:-1], text.decode()).encode()


def timestamp(moment: int) -> bytes:
    """Return a moment, in microseconds since 1970, as RFC 3339 §5.6 writes it."""
    return b"%b.%06dZ" % (_second(moment // 1_000_000), moment % 1_000_000)


@lru_cache(maxsize=256)
def _second(moment: int) -> bytes:
    return rfc3339(min(max(moment, 0), _LAST_SECOND))[:-1].encode()


def _cut(record: Record) -> tuple[bytes, bytes | None]:
    sealed = b"," + _within(_told(record, but={"time", "person", "cut"}), _MAX_SEALED)[1:-1]
    return sealed, None if record.person is None else _within(_told(record.person, but={"cut"}), _MAX_PERSON)


def _within(fields: Mapping[str, Any], limit: int) -> bytes:
    for bounds in _TIGHTER_AND_TIGHTER[:-1]:
        if len(written := _written(fields, bounds)) <= limit:
            return written
    return _written(fields, _TIGHTER_AND_TIGHTER[-1])


def _written(fields: Mapping[str, Any], bounds: Bounds) -> bytes:
    cutter = Cutter(bounds)
    written: dict[str, Any] = {}
    cut: list[str] = []
    for name, value in fields.items():
        cutter.has_cut = False
        written[name] = cutter.value(value, bounds.depth, anything=name in {"extra", "changes"})
        if cutter.has_cut:
            cut.append(name)
    if cut:
        written["cut"] = cut
    return json.dumps(written, separators=(",", ":"), allow_nan=False).encode()


def _told(struct: msgspec.Struct, *, but: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a struct that its encoding has: a struct with `omit_defaults` leaves out what is as it would be anyway."""
    defaults = _defaults(type(struct))
    return {
        name: value
        for name in struct.__struct_fields__
        if name not in but and not _is_same(value := getattr(struct, name), defaults.get(name, msgspec.NODEFAULT))
    }


@lru_cache(maxsize=256)
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # Not `msgspec.structs.fields`: that reads annotations, which for a type of somebody else's may name what is not there.
    given = kind.__struct_defaults__
    if given and kind.__struct_config__.omit_defaults:
        for name, default in zip(kind.__struct_fields__[-len(given) :], given, strict=True):
            factory = getattr(default, "factory", None)
            if factory is None:
                found[name] = default
            elif factory in (dict, list, set):  # as msgspec has it: of what is made anew each time, only what is empty
                found[name] = factory()
    return found


def _is_same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default


class Cutter:
    """Makes plain values of whatever is in a record, no more of them than the bounds allow.

    Attributes:
        has_cut: Whether something was left out, or written another way, since it was last set.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._values: int = bounds.values
        self.has_cut: bool = False

    @property
    def is_spent(self) -> bool:
        """Whether there have been as many values as the bounds allow, so that lists and objects are no longer whole."""
        return self._values <= 0

    def value(self, value: Any, depth: int, *, anything: bool) -> Any:
        """Return a value as JSON has it.

        Args:
            value: The value.
            depth: How many lists and objects may be within each other here.
            anything: Whether any type can stand here, so that a number that JSON's readers would round becomes a text.
        """
        self._values -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return self._number(int(value), anything=anything)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else json.dumps(float(value))
        if isinstance(value, msgspec.Struct):
            return {name: self.value(field, depth - 1, anything=anything) for name, field in _told(value).items()}
        if not isinstance(value, (dict, list, tuple)):
            self.has_cut = True
            return f"({type(value).__name__})"  # not what it prints as, which may be anything
        return self._items(value, depth, anything=anything)  # pyright: ignore[reportUnknownArgumentType] - of whatever it is

    def _items(self, items: Any, depth: int, *, anything: bool) -> Any:
        given: Any = items
        named: dict[str, Any] = {}
        listed: list[Any] = []
        if depth > 0:
            for item in items:
                if self._values <= 0 or len(named) + len(listed) == self._bounds.items:
                    break
                if isinstance(items, dict):
                    self._values -= 1
                    name = self._text(item) if isinstance(item, str) else f"({type(item).__name__})"
                    named[name] = self.value(items[item], depth - 1, anything=anything)
                else:
                    listed.append(self.value(item, depth - 1, anything=anything))
        if len(named) + len(listed) < len(given):
            self.has_cut = True
        return named if isinstance(items, dict) else listed

    def _text(self, text: str) -> str:
        end = _fitting(text, self._bounds.text)
        if end < len(text):
            self.has_cut = True
            text = f"{text[:end]}… ({len(text)} characters)"
        # Half a character has no place in JSON, and most readers refuse the whole line.
        return _SURROGATE.sub("\ufffd", text)

    def _number(self, number: int, *, anything: bool) -> int | str:
        if -MAX_COUNT <= number <= MAX_COUNT:
            return number
        if not anything:
            self.has_cut = True
            return MAX_COUNT if number > 0 else -MAX_COUNT
        # In decimal where that is short: the time that it takes grows with the square of the digits.
        return self._text(str(number) if number.bit_length() <= 1_024 else f"{number:#x}" if number.bit_length() <= 65_536 else "(int)")


def _fitting(text: str, limit: int) -> int:
    """Return how many characters of a text are at most so many bytes as JSON writes them in ASCII."""
    if len(text) <= limit // 12:
        return len(text)
    beginning = text[:limit]
    # Nearly always all of it fits, and then nobody has to go through it character by character.
    if len(json.dumps(beginning)) - len('""') <= limit:
        return len(beginning)
    length = 0
    for count, character in enumerate(beginning):
        # An escape takes six bytes or fewer, and twelve beyond the first 65,536 characters.
        length += 1 if " " <= character <= "~" and character not in {'"', "\\"} else 6 if character <= "\uffff" else 12
        if length > limit:
            return count
    return len(beginning)
