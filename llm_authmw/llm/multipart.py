"""`multipart/form-data` (RFC 7578), as a check reads it: one way to read a form, or none.

Parsers differ on text around the parts, on what ends a part, on parameters and their escapes, and on encodings of a part. Whatever
two of them could read in two ways is refused; what browsers, SDKs and HTTP clients send is not.
"""

import re
from typing import Final, NamedTuple

MAX_PARTS: Final = 256
"""Parts of one form."""
MAX_HEADERS: Final = 4096
"""Bytes of the header of one part."""

_TYPE: Final = re.compile(
    rb"multipart/form-data[ \t]*;[ \t]*boundary=(?:([0-9A-Za-z'+_.-]{1,70})|\"([0-9A-Za-z'()+_,./:=?-]{1,70})\")[ \t]*", re.IGNORECASE
)
_FIELD: Final = re.compile(rb"([A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_DISPOSITION: Final = re.compile(
    rb'form-data[ \t]*;[ \t]*name="([^"\\%]{1,512})"(?:[ \t]*;[ \t]*filename="([^"\\]{0,1024})")?', re.IGNORECASE
)
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_PART_TYPE: Final = re.compile(rb"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?", re.IGNORECASE)
_NO_PART_TYPE: Final = (b"multipart/", b"message/")


class Part(NamedTuple):
    """One part of a form.

    Attributes:
        name: What the field is called.
        filename: What the file is called; None where it is no file.
        content: What it holds.
    """

    name: str
    filename: str | None
    content: bytes


def boundary_of(content_type: bytes | None) -> bytes | None:
    """Return the boundary that a content type names, or None where it is no form's, or one that can be read in two ways."""
    named = None if content_type is None else _TYPE.fullmatch(content_type)
    return None if named is None else named[1] or named[2]


def parts_of(boundary: bytes, body: bytes) -> list[Part]:
    """Return the parts of a form, in their order.

    Args:
        boundary: What separates them, as `boundary_of` has returned it.
        body: The form and nothing else.

    Raises:
        ValueError: it is no such form, can be read in two ways, or has more parts than are read.
    """
    line = b"--" + boundary
    begin, *middle, end = (b"\r\n" + body).split(b"\r\n" + line)
    if begin or not middle or len(middle) > MAX_PARTS or end not in {b"--", b"--\r\n"}:
        raise ValueError("text around the parts, no part, too many, or no end")
    if body.count(line) != len(middle) + 1:
        # Some parsers take a boundary for one wherever it stands, or behind a bare line feed.
        raise ValueError("the boundary stands inside of a part")
    return [_part(text) for text in middle]


def _part(text: bytes) -> Part:
    head, blank, content = text.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n") or len(head) > MAX_HEADERS:
        raise ValueError("a part without a header, or with one that is too long")
    headers: dict[bytes, bytes] = {}
    for field in head[2:].split(b"\r\n"):
        read = _FIELD.fullmatch(field)
        if read is None or _CONTROL.search(field) or read[1].lower() in headers:
            raise ValueError("a header of a part is malformed, or there twice")
        headers[read[1].lower()] = read[2]
    disposition = _DISPOSITION.fullmatch(headers.pop(b"content-disposition", b""))
    kind = headers.pop(b"content-type", b"text/plain")
    if disposition is None or headers or _PART_TYPE.fullmatch(kind) is None or kind.lower().startswith(_NO_PART_TYPE):
        # An encoding of its own, a charset or parts within the part would make other bytes of it than are looked at here.
        raise ValueError("a part says of itself what not all parsers understand")
    filename = disposition[2]
    return Part(str(disposition[1], "utf-8"), None if filename is None else str(filename, "utf-8"), content)
