"""The part of the ledger that one transaction is about: read at its beginning, changed in Python, written at its end."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from llm_authmw.errors import StoreError
from llm_authmw.ledger import booking, gcra
from llm_authmw.ledger.booking import Entry, Key, Mark
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.contract import REMEMBERED, Balance, Reservation, Settlement, void
from llm_authmw.stores.sqlite import ledger_rows
from llm_authmw.stores.sqlite.ledger_rows import DROPPED_AT_ONCE, Counter, ReservationRow


class Books:
    """The counters and the reservations of one transaction.

    Args:
        connection: The file.
        now: The store's time.
    """

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection: Final = connection
        self._now: Final = now
        self._counters: Final[dict[Key, Counter]] = {}
        self._reservations: Final[dict[str, ReservationRow]] = {}
        self._entries: Final[dict[str, list[Entry]]] = {}
        """What each of them claims until it is settled, and where that is booked."""
        self._written: Final[set[Key]] = set()
        self._put: Final[set[str]] = set()
        self._dropped: Final[set[str]] = set()

    def open(self, ids: Collection[str], buckets: Iterable[Bucket]) -> None:
        """Read these reservations, and the counters of these buckets, and let leases end that are over.

        Args:
            ids: Reservations.
            buckets: Buckets; one that is in none of its windows now is let be.
        """
        found, ended = ledger_rows.read_reservations(self._connection, ids, self._now)
        self._add([*found, *ended], [_key_at(bucket, self._now) for bucket in buckets])
        for row in ended:
            self._end_leases(self._reservations[row.id])
        self._forget([self._reservations[row.id] for row in found])

    def sweep(self) -> bool:
        """Forget the oldest reservations, as many as is done at once.

        Returns:
            Whether there may be more to forget.
        """
        oldest = ledger_rows.read_oldest(self._connection)
        self._add(oldest)
        self._forget(oldest)
        for row in oldest:
            # One that has been held for days lets those pass that wait behind it.
            if row.id not in self._dropped and row.at + REMEMBERED <= self._now:
                self._dropped.add(row.id)
                self._put.add(row.id)
        return 2 * len(self._dropped - self._put) >= DROPPED_AT_ONCE

    def close(self) -> None:
        """Write what has changed."""
        if self._dropped:
            ledger_rows.drop_reservations(self._connection, self._dropped)
        ledger_rows.put_counters(self._connection, [(key, self._counters[key]) for key in self._written], self._now)
        ledger_rows.put_reservations(self._connection, [self._reservations[reservation_id] for reservation_id in self._put])

    def balances(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """Return what buckets stand at.

        Raises:
            StoreError: this moment is in none of a bucket's windows.
        """
        entries = [self._entry(bucket, 0) for bucket in buckets]
        return tuple([booking.balance_of(entry, self._now) for entry in entries])

    def reserve(self, reservation_id: str, claims: Sequence[Claim], ttl: int) -> Reservation:
        """Book all claims or none.

        Raises:
            StoreError: this moment is in none of a bucket's windows, or it is void. Nothing was booked.
        """
        row = self._reservations.get(reservation_id)
        if row is not None:
            if row.void:
                raise void("the ledger")
            return row.reservation()
        entries = [self._entry(claim.bucket, claim.amount) for claim in claims]
        reservation, marks = booking.reserved(entries, self._now)
        if reservation.granted:
            self._write(entries, marks, holds=1)
            self._entries[reservation_id] = entries
            self._put.add(reservation_id)
            self._reservations[reservation_id] = ReservationRow(
                id=reservation_id,
                at=self._now,
                expires_at=self._now + ttl,
                settled_at=None,
                leased=any(key[2] == "lease" for _, _, key, _ in entries),
                claims=ledger_rows.write_entries(entries),
                answer=ledger_rows.write_balances(reservation.balances),
            )
        return reservation

    def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """Replace the estimate by the truth; None where no such reservation is remembered.

        Raises:
            InvalidValueError: a bucket would hold more than can be counted. Nothing was booked.
        """
        row, now = self._reservations.get(reservation_id), self._now
        if row is None:
            self._add([ReservationRow.made_void(reservation_id, now)])
            self._put.add(reservation_id)
            return None
        if row.settled_at is not None:
            return row.settlement_of()
        entries = self._entries[reservation_id]
        balances, marks = booking.settled(entries, actual, reserved_at=row.at, leased=row.leased, now=now)
        self._write(entries, marks, holds=-1)
        self._put.add(reservation_id)
        row.settled_at, row.leased, row.claims = now, False, "[]"
        row.settlement = ledger_rows.write_balances(balances)
        return Settlement(now, row.expires_at <= now, balances)

    def _add(self, found: Sequence[ReservationRow], keys: Collection[Key | None] = ()) -> None:
        """Take in what was read, and read the counters of these keys and of what is claimed."""
        claimed: dict[str, list[tuple[Bucket, int, Key]]] = {}
        for row in found:
            if row.id not in self._reservations:
                self._reservations[row.id] = row
                claimed[row.id] = [(bucket, amount, _key_of(bucket)) for bucket, amount in ledger_rows.read_claims(row.claims)]
        wanted = {key for key in keys if key is not None}
        wanted.update(key for those in claimed.values() for _, _, key in those)
        self._counters.update(ledger_rows.read_counters(self._connection, wanted))
        for reservation_id, those in claimed.items():
            self._entries[reservation_id] = [(bucket, amount, key, self._counter(key)) for bucket, amount, key in those]

    def _counter(self, key: Key) -> Counter:
        return self._counters.get(key) or self._counters.setdefault(key, Counter())

    def _entry(self, bucket: Bucket, amount: int) -> Entry:
        key = booking.key_at(bucket, self._now)
        return bucket, amount, key, self._counter(key)

    def _write(self, entries: Sequence[Entry], marks: Sequence[Mark], *, holds: int = 0) -> None:
        for (_, _, key, _), mark in zip(entries, marks, strict=True):
            counter = self._counters[key]
            counter.used, counter.full_at = mark
            counter.held += holds
            self._written.add(key)

    def _end_leases(self, row: ReservationRow) -> None:
        leases = [entry for entry in self._entries[row.id] if entry[0].kind == "lease"]
        self._write(leases, [(counter.used - amount, gcra.ALWAYS) for _, amount, _, counter in leases])
        row.leased = False
        self._put.add(row.id)

    def _forget(self, found: Sequence[ReservationRow]) -> None:
        """Forget those of these that need to be remembered no more."""
        for row in found:
            if row.forgotten(self._now):
                if row.leased:
                    self._end_leases(row)
                entries = self._entries[row.id]
                self._write(entries, [(counter.used, counter.full_at) for _, _, _, counter in entries], holds=-1)
                self._put.discard(row.id)
                self._dropped.add(row.id)
                del self._reservations[row.id]


def _key_at(bucket: Bucket, now: int) -> Key | None:
    try:
        return booking.key_at(bucket, now)
    except StoreError:  # it will be told who asked
        return None


def _key_of(bucket: Bucket) -> Key:
    """Return where a bucket is booked that is stored with a claim: of its windows, there is one."""
    start, end = bucket.spans[0] if bucket.spans else (0, 0)
    return bucket.tenant, bucket.name, bucket.kind, start, end
