"""Reading lines back: into their parts, into records, and which of them a query asks for."""

import itertools
import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from llm_authmw.dates import parse_moment
from llm_authmw.errors import InvalidValueError
from llm_authmw.trail.entry import CLOSING, Format
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.record import Record, users_of

BEGINNINGS: Final = (b'{"time":"', b'{"metadata":{')
"""What every line begins with: one of ours, and one of OCSF."""

_BEGINNING: Final = re.compile(b"|".join(map(re.escape, BEGINNINGS)))
_MAX_TRIES: Final = 16

_PRINTABLE: Final = re.compile(rb"[ -~]*")
_CHAIN: Final = b',"chain":{"writer":"'
_PLACE: Final = re.compile(
    rb',"chain":\{"writer":"([0-9a-f]{16})","sequence":(0|[1-9][0-9]{0,17}),"hash":"([0-9a-f]{64})"\}'
    rb'(?:,"person":(\{"salt":"[0-9a-f]{32}"[ -~]*\})| {53,}|)(\}|\}\})'
)
"""What stands after the sealed part. Blanks in the place of a person are what forgetting one leaves: see `erasure`."""

_COMMITMENT: Final = re.compile(rb',"commitment":"([0-9a-f]{64})"\}')
_COMMITMENT_LENGTH: Final = 81
_SIGNATURE: Final = re.compile(rb',"signature":"([0-9a-f]{128})"\}{2,3}')
_SIGNATURE_LENGTH: Final = 146
_UNMAPPED: Final = re.compile(rb'"unmapped":\{"kind":"[a-z]+","time":([0-9]{1,17})')
_MOMENT: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")

_decode: Final = msgspec.json.Decoder(Record).decode


class Line(NamedTuple):
    """The parts of a line.

    Attributes:
        sealed: What the hash is of.
        writer: Whose chain it is in.
        sequence: Its place there.
        hash: The hash that it states, 64 hexadecimal digits.
        person: The person's part; None where there is none, or it is forgotten.
        commitment: What the sealed part says the SHA-256 of the person's part is; None where it speaks of no person.
        format: How it is written.
    """

    sealed: bytes
    writer: str
    sequence: int
    hash: str
    person: bytes | None
    commitment: str | None
    format: Format


def parse(line: bytes) -> Line | None:
    """Return the parts of a line without its line break; None where it is no entry as `Entry.line` writes one, to the byte.

    Every byte of the line is in one of the parts, so that whoever checks them all has checked the line.
    """
    format_: Format = "json" if line.startswith(BEGINNINGS[0]) else "ocsf"
    # No text holds a quotation mark without a backslash before it. Objects with names of others' choosing stand after it in our own format,
    # as part of the person, and before it in OCSF's.
    at = line.find(_CHAIN) if format_ == "json" else line.rfind(_CHAIN)
    place = _PLACE.fullmatch(line, at) if at > 0 and line.startswith(BEGINNINGS) else None
    if place is None:
        return None
    closing = CLOSING[format_]
    # With a person, the pattern has taken as few brackets for the end as there can be, and the person's own is the one before.
    if (len(place[5]) != closing) or (format_ == "ocsf" and place[4] is not None):
        return None
    sealed = line[:at] + b"}" * closing
    if _BEGINNING.search(line, 1) is not None and _problem(line) is not None:
        return None  # it stands behind one that was torn: see `behind_torn`
    committed = _COMMITMENT.fullmatch(sealed, max(len(sealed) - _COMMITMENT_LENGTH, 0)) if format_ == "json" else None
    commitment = None if committed is None else committed[1].decode()
    return Line(sealed, place[1].decode(), int(place[2]), place[3].decode(), place[4], commitment, format_)


def _problem(text: bytes) -> str | None:
    """Return what is wrong with a text as JSON."""
    try:
        msgspec.json.decode(text)
    except ValueError as error:
        return str(error)
    return None


def is_torn(line: bytes) -> bool:
    """Say whether a line is the beginning of an entry whose end is missing, or is zeros; these also stand where an end has been."""
    line = line.rstrip(b"\0")
    if not any(line.startswith(beginning) or beginning.startswith(line) for beginning in BEGINNINGS) or not _PRINTABLE.fullmatch(line):
        return False
    problem = _problem(line)
    if problem is not None and "invalid number" in problem:
        problem = _problem(line + b"0")  # it may end within the number, behind its sign or its point
    return problem is not None and "truncated" in problem


def behind_torn(line: bytes) -> int | None:
    """Return where in a line that is no entry one begins, behind another whose end is missing, or zeros; None where none does."""
    zeros = len(line) - len(line.lstrip(b"\0"))
    if zeros and parse(line[zeros:]) is not None:
        return zeros
    if not line.startswith(BEGINNINGS):
        return None
    # An entry holds such a beginning only within a person's changes, and then is one itself.
    tries = [found.start() for found in itertools.islice(_BEGINNING.finditer(line, 1), _MAX_TRIES)]
    return next((at for at in tries if parse(line[at:]) is not None), None)


def unsigned(sealed: bytes) -> tuple[bytes, bytes] | None:
    """Return what a checkpoint's signature is over, and the signature; None where it has none."""
    signature = _SIGNATURE.search(sealed, max(len(sealed) - _SIGNATURE_LENGTH, 0))
    if signature is None or signature.end() != len(sealed):
        return None
    return sealed[: signature.start()] + sealed[signature.end(1) + 1 :], bytes.fromhex(signature[1].decode())


def read_line(line: bytes) -> Record:
    """Return the record that a line holds, with its person where that is not forgotten.

    Raises:
        InvalidValueError: it is not a line of this release's, or one of OCSF, which cannot be read back.
    """
    moment = line[9:36]
    if not line.startswith(BEGINNINGS[0]) or _MOMENT.fullmatch(moment) is None:
        raise InvalidValueError("not a record")
    try:
        return _decode(b'{"time":%d%b' % (_seconds(moment[:19]) * 1_000_000 + int(moment[20:26]), line[37:]))
    except ValueError:  # neither the text of the error nor the line goes on: they hold what the record holds
        raise InvalidValueError("not a record") from None


def is_checkpoint(sealed: bytes) -> bool:
    """Say whether a sealed part, of either format, is a checkpoint's."""
    if sealed.startswith(BEGINNINGS[0]):
        return sealed.startswith(b',"kind":"checkpoint",', 37)
    return b'"unmapped":{"kind":"checkpoint","time":' in sealed


def read_checkpoint(sealed: bytes) -> Record | None:
    """Return the record of a sealed part that is a checkpoint's, of either format; None where it is none.

    Raises:
        InvalidValueError: it is one, and cannot be read.
    """
    if not is_checkpoint(sealed):
        return None
    if sealed.startswith(BEGINNINGS[0]):
        return read_line(sealed)
    try:
        event: Any = msgspec.json.decode(sealed)
        return msgspec.convert(event["unmapped"], Record)
    except (ValueError, LookupError, TypeError):
        raise InvalidValueError("not a checkpoint") from None


def time_of(sealed: bytes) -> int | None:
    """Return when a sealed part is dated, in microseconds since 1970; None where that cannot be read."""
    if not sealed.startswith(BEGINNINGS[0]):
        found = _UNMAPPED.search(sealed)
        return None if found is None else int(found[1])
    moment = sealed[9:36]
    try:
        return None if _MOMENT.fullmatch(moment) is None else _seconds(moment[:19]) * 1_000_000 + int(moment[20:26])
    except ValueError:  # no such day
        return None


@lru_cache(maxsize=256)
def _seconds(moment: bytes) -> int:
    return parse_moment(f"{moment.decode()}Z", "UTC")


def matches(record: Record, query: RecordQuery) -> bool:
    """Say whether a record is one that a query asks for. Where it stands (`after`, `before`) and how many are wanted is the caller's."""
    if (query.since is not None and record.time < query.since) or (query.until is not None and record.time >= query.until):
        return False
    if (query.kinds and record.kind not in query.kinds) or (query.outcome is not None and record.outcome != query.outcome):
        return False
    if query.id is not None and record.id != query.id:
        return False
    if query.reason is not None and query.reason not in {record.reason, *(decision.reason for decision in record.decisions)}:
        return False
    if query.model is not None and query.model not in {record.served, *record.models}:
        return False
    who = record.who
    if query.tenant is not None and (who is None or who.tenant != query.tenant):
        return False
    if query.team is not None and (who is None or who.team != query.team):
        return False
    return query.principal is None or _is_of(record, query.principal)


def _is_of(record: Record, principal: str) -> bool:
    kind, _, name = principal.partition(":")
    who = record.who
    if kind in {"client", "key"}:
        return who is not None and name == (who.client if kind == "client" else who.credential_id)
    return record.person is not None and principal in users_of(record.person)
