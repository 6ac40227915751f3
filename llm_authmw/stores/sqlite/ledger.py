"""Counters in SQLite, for several processes on one machine. What they want at the same time is written together."""

import itertools
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.errors import InvalidValueError, StoreError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import (
    Balance,
    Reservation,
    Settlement,
    check_actual,
    check_reservation,
    check_ttl,
    is_id,
)
from llm_authmw.stores.sqlite.books import Books
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.ledger_rows import drop_counters, extend_reservations
from llm_authmw.stores.sqlite.writer import Writer

_SWEPT_EVERY: Final = 60 * SECOND
"""Microseconds until a process that dropped all that was over looks for more."""


class _Reserve(msgspec.Struct, frozen=True):
    id: str
    claims: tuple[Claim, ...]
    ttl: int


class _Settle(msgspec.Struct, frozen=True):
    id: str
    actual: Mapping[Measure, int]


class _Extend(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]
    ttl: int


_Wish: TypeAlias = _Reserve | _Settle | _Extend
_Answer: TypeAlias = Reservation | Settlement | frozenset[str] | None


class SQLiteLedger:
    """See `Ledger`. A call waits for other processes, and for this one's changes, 0.2 seconds each at most.

    What is answered is in the file, and outlives the process. A power cut may take the last moments back.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock.now
        self._writer: Final[Writer[_Wish, _Answer]] = Writer(database, self._write)
        self._swept_at: int | None = None

    async def aclose(self) -> None:
        """Write what is waited for. A later call begins anew."""
        await self._writer.aclose()

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        check_reservation(reservation_id, claims, ttl)
        return cast("Reservation", await self._writer.ask(_Reserve(reservation_id, tuple(claims), ttl)))

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        check_actual(actual)
        if not is_id(reservation_id):
            return None
        return cast("Settlement | None", await self._writer.ask(_Settle(reservation_id, dict(actual))))

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        check_ttl(ttl)
        ids = tuple([reservation_id for reservation_id in reservation_ids if is_id(reservation_id)])
        return cast("frozenset[str]", await self._writer.ask(_Extend(ids, ttl))) if ids else frozenset()

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        return await self._database.read(lambda connection: self._balance(connection, buckets))

    def _now(self) -> int:
        return round(self._clock() * SECOND)

    def _balance(self, connection: sqlite3.Connection, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        books = Books(connection, self._now())
        books.open((), buckets)
        return books.balances(buckets)

    def _write(self, connection: sqlite3.Connection, wishes: Sequence[_Wish]) -> list[_Answer | Exception]:
        # Now that the file is this transaction's, no other one can get in between with a later time.
        now = self._now()
        books = Books(connection, now)
        booked = [wish for wish in wishes if not isinstance(wish, _Extend)]
        claims = itertools.chain.from_iterable(wish.claims for wish in booked if isinstance(wish, _Reserve))
        books.open({wish.id for wish in booked}, [claim.bucket for claim in claims])
        answers = [_extended(connection, wish, now) if isinstance(wish, _Extend) else _booked(books, wish) for wish in wishes]
        books.close()
        self._sweep(connection, now)
        return answers

    def _sweep(self, connection: sqlite3.Connection, now: int) -> None:
        """Forget and drop what is over: all of it little by little, and then nothing for a while."""
        if self._swept_at is not None and abs(now - self._swept_at) < _SWEPT_EVERY:
            return
        books = Books(connection, now)
        more = books.sweep()
        books.close()
        more |= drop_counters(connection, now)
        self._swept_at = None if more else now


def _booked(books: Books, wish: _Reserve | _Settle) -> Reservation | Settlement | Exception | None:
    try:
        return books.reserve(wish.id, wish.claims, wish.ttl) if isinstance(wish, _Reserve) else books.settle(wish.id, wish.actual)
    except (InvalidValueError, StoreError) as error:  # his alone: nothing was booked
        return error


def _extended(connection: sqlite3.Connection, wish: _Extend, now: int) -> frozenset[str]:
    return extend_reservations(connection, wish.ids, now, now + wish.ttl)
