"""What an entry can be found by. A store keeps a row for each term, so that a search reads what it finds and nothing else."""

import hashlib
from typing import Final

from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery, StoredEntry
from llm_authmw.trail.record import Record, users_of

MAX_TERM: Final = 200
"""Characters of a name that are kept; longer ones are cut, and end in a digest, so that two of one beginning stay two."""
_TOLD_APART: Final = 16
"""Hexadecimal digits of that digest."""

TAKEN: Final = "another entry stands in the place of one of these: somebody else has put it there"
"""What `append` says where an entry cannot be kept, of which nobody but its writer can have known the place and the hash."""

_UNREAD: Final = Record(time=0, kind="request")


def storable(text: str) -> str:
    """Return a name as every store can keep and compare it: cut, and without what is no text in UTF-8 or in PostgreSQL."""
    if len(text) <= MAX_TERM:
        if text.isprintable():
            return text
    else:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_TOLD_APART]
        text = f"{text[: MAX_TERM - _TOLD_APART - 1]}\N{HORIZONTAL ELLIPSIS}{digest}"
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def terms_of(record: Record) -> list[str]:
    """Return what a record is found by, but for the person."""
    terms: set[str] = set()
    if record.id is not None:
        terms.add(f"id:{record.id}")
    who = record.who
    if who is not None:
        if who.client is not None:
            terms.add(f"client:{who.client}")
        if who.credential_id is not None:
            terms.add(f"key:{who.credential_id}")
        if who.team is not None:
            terms.add(f"team:{who.team}")
    terms.update([f"model:{model}" for model in record.models])
    if record.served is not None:
        terms.add(f"model:{record.served}")
    if record.reason is not None:
        terms.add(f"reason:{record.reason}")
    terms.update([f"reason:{decision.reason}" for decision in record.decisions if decision.reason is not None])
    return [storable(term) for term in terms]


def personal_terms_of(record: Record) -> list[str]:
    """Return what a record is found by that names a person, and goes when the person is forgotten."""
    person = record.person
    if person is None:
        return []
    terms = list(map(user_term, users_of(person)))
    if person.end_user is not None:
        terms.append(end_user_term(person.end_user))
    return terms


def user_term(user: str) -> str:
    """Return the term of a record's user."""
    return storable(f"user:{user}")


def end_user_term(end_user: str) -> str:
    """Return the term of whom a caller says that his request is for."""
    return storable(f"end_user:{end_user}")


def wanted_terms(query: RecordQuery) -> list[str]:
    """Return the terms that all must be there, the rarest kind first."""
    terms: list[str] = []
    if query.id is not None:
        terms.append(f"id:{query.id}")
    if query.principal is not None:
        named = query.principal.startswith(("client:", "key:"))
        terms.append(query.principal if named else f"user:{query.principal}")
    for kind, name in (("reason", query.reason), ("model", query.model), ("team", query.team)):
        if name is not None:
            terms.append(f"{kind}:{name}")
    return [storable(term) for term in terms]


def stored_entry(position: int, writer: str, sequence: int, digest: str, sealed: bytes, person: bytes | None) -> StoredEntry:
    """Return an entry as a store gives it back."""
    entry = Entry(writer=writer, sequence=sequence, hash=digest, sealed=sealed, person=person, record=_UNREAD)
    return StoredEntry(position=position, line=entry.line)
