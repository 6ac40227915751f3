"""The fields of a form, read as the members of the JSON object that would say the same."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from llm_authmw.errors import Denial
from llm_authmw.llm import body_fields as fields
from llm_authmw.llm.batch_lines import read_lines
from llm_authmw.llm.json_body import refuse_other_spelling
from llm_authmw.llm.multipart import Part
from llm_authmw.llm.reading import READERS, SPELLINGS, Reading

_TEXTS: Final = fields.MODEL | fields.ROUTING | {fields.PRESET, *fields.END_USER}
"""Fields that are taken as they are; every other one that means something holds JSON, or a text."""
_PURPOSE: Final = "purpose"
_SPELLINGS: Final = SPELLINGS | {_PURPOSE}
_LISTS: Final = re.compile(r"\[[0-9]*\]")
_SWITCHES: Final = {"true": b"true", "false": b"false"}

_encode: Final = msgspec.json.Encoder().encode
_raw: Final = msgspec.json.Decoder(Raw).decode


def read_form(reading: Reading, parts: Sequence[Part]) -> None:
    """Read what a form asks for.

    Raises:
        ValueError: it can be read in more than one way.
        Denial: a field of it is not accepted.
    """
    own = reading.operation.model_fields
    members: dict[str, list[bytes]] = {}
    files: list[bytes] = []
    purpose: list[bytes] = []
    for part in parts:
        if part.name == _PURPOSE:
            purpose.append(part.content)
        if part.filename is not None and part.name not in SPELLINGS:
            files.append(part.content)
        # `models[]`, and `metadata[user_id]`: how SDKs write a list and an object.
        name, bracket, _ = part.name.partition("[")
        if name in own or name in READERS:
            if name == "metadata" and bracket:
                continue
            if part.filename is not None or (bracket and not _LISTS.fullmatch(part.name[len(name) :])):
                raise Denial("request_field_invalid", need=f"{name} as a text")
            members.setdefault(name, []).append(_value(name, str(part.content, "utf-8"), own=name in own))
        else:
            refuse_other_spelling(name, SPELLINGS if name == _PURPOSE else _SPELLINGS)
    for name, values in members.items():
        if len(values) > 1 and name not in fields.MODELS:
            raise ValueError("a field is there twice")
        for value in values:
            reading.body(b"{%b:%b}" % (_encode(name), value))
    if len(purpose) > 1:
        raise ValueError("a field is there twice")
    if purpose == [b"batch"]:
        for content in files:
            read_lines(reading, content)


def _value(name: str, text: str, *, own: bool) -> bytes:
    if own or name in _TEXTS:
        return _encode(text)
    if name == "stream":
        return _SWITCHES.get(text.lower(), b"0")
    try:
        return bytes(_raw(text))
    except msgspec.DecodeError:
        return _encode(text)
