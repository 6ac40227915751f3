"""Counters and reservations as rows, many in one statement.

At each row and each statement a thread lets go of the interpreter, and beside a busy event loop it waits for milliseconds
until it has it again. So what is read comes as one row of JSON, and what is written goes as one statement of many rows.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Self

import msgspec

from llm_authmw.ledger import booking
from llm_authmw.ledger.booking import Entry, Key
from llm_authmw.ledger.buckets import SECOND, Bucket
from llm_authmw.ledger.contract import REMEMBERED, Balance, Reservation, Settlement
from llm_authmw.stores.sqlite.lots import decoded, flat, insert_rows, lots, wanted

DROPPED_AT_ONCE: Final = 128
"""Counters, and reservations, that one transaction drops at most: many windows end in the same moment."""
_ENDED_AT_ONCE: Final = 1_000
"""Reservations whose leases one transaction ends at most. Where a process with more was killed, some slots are free a little later."""
_MINUTE: Final = 60 * SECOND
"""When it is seen, at the earliest, whether a counter can be dropped: one that is used now and then need not come and go."""
_HOUR: Final = 60 * _MINUTE

_KEY: Final = "tenant, name, kind, starts_at, ends_at"
_COUNTERS: Final = f"SELECT json_group_array(json_array({_KEY}, level, part, held)) FROM wanted CROSS JOIN counters USING ({_KEY})"  # noqa: S608 - names are our own
_PUT_COUNTERS: Final = f"ON CONFLICT ({_KEY}) DO UPDATE SET level = excluded.level, part = excluded.part, held = excluded.held"
_DUE: Final = f"({_KEY}) IN (SELECT {_KEY} FROM counters WHERE look_at <= :now ORDER BY look_at LIMIT :most)"  # noqa: S608 - names are our own
_EMPTY: Final = "CASE kind WHEN 'rolling' THEN level < :now WHEN 'window' THEN held = 0 ELSE level = 0 END"
# What a lifetime counter holds stays there, but for a rare truth of nothing at all: nobody looks again.
_KEEP_COUNTERS: Final = f"""
    UPDATE counters SET look_at = CASE kind WHEN 'lifetime' THEN NULL WHEN 'rolling' THEN level + :minute ELSE :now + :hour END
    WHERE {_DUE} AND NOT {_EMPTY}
"""  # noqa: S608 - names are our own
_DROP_COUNTERS: Final = f"DELETE FROM counters WHERE {_DUE} AND {_EMPTY}"  # noqa: S608 - names are our own

_FIELDS: Final = "id, at, expires_at, settled_at, leased, claims, answer, settlement"
_ROW: Final = f"SELECT json_group_array(json_array({_FIELDS}))"
# One statement for both: whose leases have ended must be known whoever is asked for.
_RESERVATIONS: Final = f"""
    SELECT
        ({_ROW} FROM wanted CROSS JOIN reservations USING (id)),
        ({_ROW} FROM (SELECT * FROM reservations WHERE leased = 1 AND expires_at <= ? ORDER BY expires_at LIMIT ?))
"""  # noqa: S608 - names are our own
_OLDEST: Final = f"{_ROW} FROM (SELECT * FROM reservations ORDER BY number LIMIT ?)"  # noqa: S608 - names are our own
_PUT_RESERVATIONS: Final = """
    ON CONFLICT (id) DO UPDATE
    SET settled_at = excluded.settled_at, leased = excluded.leased, claims = excluded.claims, settlement = excluded.settlement
"""
_DROP_RESERVATIONS: Final = "DELETE FROM reservations WHERE id IN (SELECT value FROM json_each(?))"
_HELD: Final = "id IN (SELECT value FROM json_each(:ids)) AND settled_at IS NULL AND expires_at > :now"
_SELECT_HELD: Final = f"SELECT json_group_array(id) FROM reservations WHERE {_HELD}"  # noqa: S608 - names are our own
_EXTEND: Final = f"UPDATE reservations SET expires_at = :until WHERE {_HELD} AND expires_at < :until"  # noqa: S608 - names are our own


class Counter(booking.Counter, gc=False):
    """A bucket's counter, and of a window the reservations that may still be settled into it."""

    held: int = 0


class ClaimedBucket(Bucket, frozen=True, kw_only=True, gc=False, array_like=True):
    """A bucket as it is stored with a claim: of its windows, the one that is booked in."""

    def __post_init__(self) -> None:
        """It was checked before it was claimed."""


class ReservationRow(msgspec.Struct, array_like=True, gc=False):
    """A reservation that was granted; what it claims, until it is settled."""

    id: str
    at: int
    expires_at: int
    settled_at: int | None
    leased: bool
    claims: str
    answer: str
    settlement: str | None = None

    @classmethod
    def made_void(cls, reservation_id: str, now: int) -> Self:
        """Return what is kept of one that was settled before it was made."""
        return cls(id=reservation_id, at=now, expires_at=now, settled_at=now, leased=False, claims="[]", answer="[]")

    @property
    def void(self) -> bool:
        """Whether it was settled before it was made."""
        return self.settled_at is not None and self.settlement is None

    def reservation(self) -> Reservation:
        """Return what was answered when it was made."""
        return Reservation(self.at, read_balances(self.answer))

    def settlement_of(self) -> Settlement | None:
        """Return what was answered when it was settled; None where it is not."""
        if self.settled_at is None or self.settlement is None:
            return None
        return Settlement(self.settled_at, self.settled_at >= self.expires_at, read_balances(self.settlement))

    def forgotten(self, now: int) -> bool:
        """Say whether it needs to be remembered no more."""
        return (self.expires_at if self.settled_at is None else self.settled_at) + REMEMBERED <= now


_COUNTER_ROWS: Final = msgspec.json.Decoder(list[tuple[str, str, str, int, int, int, int, int]])
_RESERVATION_ROWS: Final = msgspec.json.Decoder(list[ReservationRow], strict=False)  # SQLite has no booleans
_IDS: Final = msgspec.json.Decoder(frozenset[str])
_CLAIMS: Final = msgspec.json.Decoder(list[tuple[ClaimedBucket, int]])
_FIGURES: Final = msgspec.json.Decoder(list[tuple[int, int, int, int | None]])


def write_entries(entries: Sequence[Entry]) -> str:
    """Return the text that claims are stored as."""
    claims = [
        ((it.tenant, it.name, it.kind, it.measure, it.limit, it.burst, it.period, (key[3:],) if it.spans else ()), amount)
        for it, amount, key, _ in entries
    ]
    return msgspec.json.encode(claims).decode()


def read_claims(text: str) -> list[tuple[ClaimedBucket, int]]:
    """Return the buckets that were claimed, and how much of each.

    Raises:
        sqlite3.DataError: the text is not what was written.
    """
    return decoded(_CLAIMS, text)


def write_balances(balances: Sequence[Balance]) -> str:
    """Return the text that balances are stored as."""
    return msgspec.json.encode([(balance.used, balance.limit, balance.left, balance.ends_at) for balance in balances]).decode()


def read_balances(text: str) -> tuple[Balance, ...]:
    """Return the balances.

    Raises:
        sqlite3.DataError: the text is not what was written.
    """
    return tuple([Balance(*figures) for figures in decoded(_FIGURES, text)])


def read_counters(connection: sqlite3.Connection, keys: Collection[Key]) -> Iterator[tuple[Key, Counter]]:
    """Return those of these counters that there are."""
    for lot in lots(keys):
        (text,) = connection.execute(wanted(_KEY, 5, len(lot), _COUNTERS), flat(lot)).fetchone()
        for tenant, name, kind, start, end, level, part, held in decoded(_COUNTER_ROWS, text):
            counter = Counter(0, (level, part)) if kind == "rolling" else Counter(level, held=held)
            yield (tenant, name, kind, start, end), counter


def put_counters(connection: sqlite3.Connection, counters: Collection[tuple[Key, Counter]], now: int) -> None:
    """Write these counters."""
    rows = [(*key, *_columns(key, counter, now)) for key, counter in counters]
    for lot in lots(rows):
        connection.execute(insert_rows(f"counters ({_KEY}, level, part, held, look_at)", 9, len(lot), _PUT_COUNTERS), flat(lot))


def drop_counters(connection: sqlite3.Connection, now: int) -> bool:
    """Drop counters that say no more than their absence does, as many as is done at once.

    Returns:
        Whether there may be more of them.
    """
    values = {"now": now, "most": DROPPED_AT_ONCE, "minute": _MINUTE, "hour": _HOUR}
    kept = connection.execute(_KEEP_COUNTERS, values).rowcount
    dropped = connection.execute(_DROP_COUNTERS, values).rowcount
    return kept + dropped >= DROPPED_AT_ONCE


def read_reservations(connection: sqlite3.Connection, ids: Collection[str], now: int) -> tuple[list[ReservationRow], list[ReservationRow]]:
    """Return those of these reservations that there are, and those that have expired and whose leases are still counted.

    Of the latter, as many as are ended at once.
    """
    found: list[ReservationRow] = []
    ended: list[ReservationRow] = []
    for lot in lots([(reservation_id,) for reservation_id in ids] or [("",)]):
        statement = wanted("id", 1, len(lot), _RESERVATIONS)
        texts = connection.execute(statement, (*flat(lot), now, _ENDED_AT_ONCE)).fetchone()
        those, ended = [decoded(_RESERVATION_ROWS, text) for text in texts]
        found += those
    return found, ended


def read_oldest(connection: sqlite3.Connection) -> list[ReservationRow]:
    """Return the oldest reservations, as many as are forgotten at once."""
    (text,) = connection.execute(_OLDEST, (DROPPED_AT_ONCE,)).fetchone()
    return decoded(_RESERVATION_ROWS, text)


def put_reservations(connection: sqlite3.Connection, rows: Collection[ReservationRow]) -> None:
    """Write these reservations."""
    for lot in lots([msgspec.structs.astuple(row) for row in rows]):
        connection.execute(insert_rows(f"reservations ({_FIELDS})", 8, len(lot), _PUT_RESERVATIONS), flat(lot))


def drop_reservations(connection: sqlite3.Connection, ids: Collection[str]) -> None:
    """Delete these reservations."""
    connection.execute(_DROP_RESERVATIONS, (msgspec.json.encode(ids).decode(),))


def extend_reservations(connection: sqlite3.Connection, ids: Collection[str], now: int, until: int) -> frozenset[str]:
    """Let those that are held expire no sooner than then, and return their ids."""
    values = {"ids": msgspec.json.encode(ids).decode(), "now": now, "until": until}
    (held,) = connection.execute(_SELECT_HELD, values).fetchone()
    connection.execute(_EXTEND, values)
    return decoded(_IDS, held)


def _columns(key: Key, counter: Counter, now: int) -> tuple[int, int, int, int]:
    _, _, kind, start, end = key
    if kind == "rolling":
        moment, part = counter.full_at
        return moment, part, 0, max(moment, now) + _MINUTE
    if kind == "window":
        # A whole window later, so that a clock that is set back a little finds it again.
        return counter.used, 0, counter.held, 2 * end - start
    return counter.used, 0, 0, now + _MINUTE
