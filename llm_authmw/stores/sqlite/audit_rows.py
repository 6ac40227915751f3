"""Entries of the audit trail as rows of SQLite, many in one statement."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from llm_authmw.errors import ConflictError
from llm_authmw.stores.sqlite.lots import decoded, flat, insert_rows, lots
from llm_authmw.stores.trail.terms import TAKEN, end_user_term, personal_terms_of, storable, stored_entry, terms_of, user_term, wanted_terms
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery, StoredEntry

AT_ONCE: Final = 500
"""Entries that one transaction removes, or forgets the persons of, at most: others wait for its end."""

_COLUMNS: Final = "position, writer, sequence, time, kind, tenant, realm, outcome, hash, sealed, person, terms"
_PRESENT: Final = "SELECT json_group_object(sequence, hash) FROM entries WHERE writer = ? AND sequence BETWEEN ? AND ?"
_LAST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries'"
_AGAIN: Final = "ON CONFLICT DO NOTHING"  # the last row of a lot may be in it more than once
# Here and below, names are our own and values are parameters.
_FOUND: Final = "SELECT json_group_array(json_array(position, writer, sequence, hash, sealed, person)) FROM ({})"
_HAS_TERM: Final = "EXISTS (SELECT 1 FROM terms WHERE term = :term{} AND position = e.position)"
_OF_PERSON: Final = """
    SELECT json_group_array(DISTINCT position) FROM (
        SELECT e.position FROM terms AS t CROSS JOIN entries AS e USING (position)
        WHERE e.tenant = :tenant AND (t.term = :user AND (:realm IS NULL OR e.realm = :realm) OR t.term = :end_user)
            AND t.term IN (:user, :end_user)
        LIMIT :most
    )
"""
_DROP_PERSONAL_TERMS: Final = """
    DELETE FROM terms WHERE (term, position) IN (
        SELECT t.value, e.position FROM json_each(?) AS p CROSS JOIN entries AS e ON e.position = p.value CROSS JOIN json_each(e.terms) AS t
        WHERE t.value LIKE 'user:%' OR t.value LIKE 'end@_user:%' ESCAPE '@'
    )
"""
_DROP_PERSONS: Final = """
    UPDATE entries SET person = NULL, terms = (
        SELECT json_group_array(value) FROM json_each(terms) WHERE NOT (value LIKE 'user:%' OR value LIKE 'end@_user:%' ESCAPE '@')
    ) WHERE position IN (SELECT value FROM json_each(?))
"""
_WRITERS: Final = "SELECT json_group_array(DISTINCT writer) FROM entries WHERE time < ?"
_KEPT_FROM: Final = "SELECT sequence FROM entries WHERE writer = ? AND time >= ? ORDER BY sequence LIMIT 1"
_CHECKPOINT: Final = "SELECT max(sequence) FROM entries WHERE writer = ? AND kind = 'checkpoint' AND sequence < ?"
_END: Final = "SELECT max(sequence) + 1 FROM entries WHERE writer = ?"
_OLDEST: Final = """
    SELECT json_group_array(position) FROM (SELECT position FROM entries WHERE writer = ? AND sequence < ? ORDER BY sequence LIMIT ?)
"""
_DROP_TERMS: Final = """
    DELETE FROM terms WHERE (term, position) IN (
        SELECT t.value, e.position FROM json_each(?) AS p CROSS JOIN entries AS e ON e.position = p.value CROSS JOIN json_each(e.terms) AS t
    )
"""
_DROP: Final = "DELETE FROM entries WHERE position IN (SELECT value FROM json_each(?))"

_numbers: Final = msgspec.json.Decoder(list[int])
_hashes: Final = msgspec.json.Decoder(dict[int, str])
_names: Final = msgspec.json.Decoder(list[str])
_entries: Final = msgspec.json.Decoder(list[tuple[int, str, int, str, str, str | None]])


def add(connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Write those entries that are not there yet, and return them.

    Raises:
        ConflictError: another one stands in the place of one of them.
    """
    new = _without_present(connection, entries)
    if not new:
        return new
    (position,) = connection.execute(_LAST).fetchone()
    rows: list[tuple[Any, ...]] = []
    term_rows: list[tuple[str, int]] = []
    for entry in new:
        position += 1
        terms = [*terms_of(entry.record), *personal_terms_of(entry.record)]
        rows.append(_row(position, entry, terms))
        term_rows += [(term, position) for term in terms]
    for lot in lots(rows):
        connection.execute(insert_rows(f"entries ({_COLUMNS})", 12, len(lot), _AGAIN), flat(lot))
    for lot in lots(term_rows):
        connection.execute(insert_rows("terms (term, position)", 2, len(lot), _AGAIN), flat(lot))
    return new


def search(connection: sqlite3.Connection, query: RecordQuery) -> list[StoredEntry]:
    """Return the entries that a query wants."""
    statement, values = _statement(query)
    (text,) = connection.execute(_FOUND.format(statement), values).fetchone()
    return [
        stored_entry(position, writer, sequence, digest, sealed.encode(), None if person is None else person.encode())
        for position, writer, sequence, digest, sealed, person in decoded(_entries, text)
    ]


def forget(connection: sqlite3.Connection, tenant: str, user: str, realm: str | None) -> int:
    """Forget the person in some of the entries that are a person's, and return in how many: none where there are no more."""
    # What is taken out is written over, and not only forgotten where it was.
    connection.execute("PRAGMA secure_delete = ON")
    values: dict[str, Any] = {"tenant": storable(tenant), "user": user_term(user), "end_user": end_user_term(user), "most": AT_ONCE}
    values["realm"] = None if realm is None else storable(realm)
    (positions,) = connection.execute(_OF_PERSON, values).fetchone()
    connection.execute(_DROP_PERSONAL_TERMS, (positions,))
    connection.execute(_DROP_PERSONS, (positions,))
    return len(decoded(_numbers, positions))


def removable(connection: sqlite3.Connection, before: int) -> list[tuple[str, int]]:
    """Return whose entries can be removed, and up to which one of each: see `trail.retention.removable`."""
    (writers,) = connection.execute(_WRITERS, (before,)).fetchone()
    return [(writer, _end(connection, writer, before)) for writer in decoded(_names, writers)]


def remove(connection: sqlite3.Connection, writer: str, end: int) -> int:
    """Remove some of a writer's oldest entries, and return how many: none where there are no more before `end`."""
    connection.execute("PRAGMA secure_delete = ON")
    (positions,) = connection.execute(_OLDEST, (writer, end, AT_ONCE)).fetchone()
    connection.execute(_DROP_TERMS, (positions,))
    return connection.execute(_DROP, (positions,)).rowcount


def _end(connection: sqlite3.Connection, writer: str, before: int) -> int:
    kept = connection.execute(_KEPT_FROM, (writer, before)).fetchone()
    (end,) = connection.execute(*((_END, (writer,)) if kept is None else (_CHECKPOINT, (writer, kept[0])))).fetchone()
    return 0 if end is None else int(end)


def _without_present(connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[Entry]:
    by_writer: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        by_writer.setdefault(entry.writer, {})[entry.sequence] = entry
    found: list[Entry] = []
    for writer, own in by_writer.items():
        (text,) = connection.execute(_PRESENT, (writer, min(own), max(own))).fetchone()
        present = decoded(_hashes, text)
        if any(present.get(sequence, entry.hash) != entry.hash for sequence, entry in own.items()):
            raise ConflictError(TAKEN)
        found += [entry for sequence, entry in own.items() if sequence not in present]
    return found


def _row(position: int, entry: Entry, terms: Collection[str]) -> tuple[Any, ...]:
    record, who = entry.record, entry.record.who
    return (
        position,
        entry.writer,
        entry.sequence,
        record.time,
        record.kind,
        None if who is None else storable(who.tenant),
        None if who is None else storable(who.realm),
        record.outcome,
        entry.hash,
        entry.sealed.decode(),
        None if entry.person is None else entry.person.decode(),
        msgspec.json.encode(terms).decode(),
    )


def _statement(query: RecordQuery) -> tuple[str, dict[str, Any]]:
    terms = wanted_terms(query)
    values: dict[str, Any] = {f"term{number}": term for number, term in enumerate(terms)}
    values |= {"since": query.since, "until": query.until, "outcome": query.outcome}
    values["tenant"] = None if query.tenant is None else storable(query.tenant)
    values |= {"after": query.after, "before": query.before, "limit": query.limit}
    conditions = [_HAS_TERM.format(number) for number in range(1, len(terms))]
    # Whoever reads on from a position goes on in the order of positions; `+` keeps SQLite from sorting all that is left again.
    time = "+e.time" if terms or query.after is not None or query.before is not None else "e.time"
    for name, condition in (
        ("since", f"{time} >= :since"),
        ("until", f"{time} < :until"),
        ("tenant", "e.tenant = :tenant"),
        ("outcome", "e.outcome = :outcome"),
        ("after", "{position} > :after"),
        ("before", "{position} < :before"),
    ):
        if values[name] is not None:
            conditions.append(condition)
    if query.kinds:
        values["kinds"] = msgspec.json.encode(query.kinds).decode()
        conditions.append("e.kind IN (SELECT value FROM json_each(:kinds))")
    source, position = ("entries AS e", "e.position")
    if terms:
        source, position = "terms AS t CROSS JOIN entries AS e ON e.position = t.position", "t.position"
        conditions.append("t.term = :term0")
    order = f"{position} DESC" if query.newest_first else position
    where = " AND ".join(conditions).format(position=position) or "1"
    return f"SELECT e.* FROM {source} WHERE {where} ORDER BY {order} LIMIT :limit", values  # noqa: S608 - see above
