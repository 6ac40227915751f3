"""Counters in PostgreSQL. Functions in the database decide (`ledger.sql`): every call is one round trip."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import asyncpg
import msgspec

from llm_authmw.clock import Clock
from llm_authmw.errors import InvalidValueError, StoreError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import (
    MAX_CLAIMS,
    Balance,
    Reservation,
    Settlement,
    check_actual,
    check_reservation,
    check_ttl,
    is_id,
    void,
)
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.pool import Connection

# The functions' last argument is the time, where the server's own clock is not to be asked.
_RESERVE: Final = "SELECT authmw_ledger_reserve($1, $2, $3, $4)"
_SETTLE: Final = "SELECT authmw_ledger_settle($1, $2, $3)"
_EXTEND: Final = "SELECT authmw_ledger_extend($1, $2, $3)"
_BALANCES: Final = "SELECT authmw_ledger_balances($1, $2)"
_FORGET: Final = "SELECT authmw_ledger_forget($1, $2, $3)"

_Reserved: TypeAlias = Reservation | Literal["no window", "void"]
_Settled: TypeAlias = Settlement | Literal["too much"] | None
_Balances: TypeAlias = tuple[Balance, ...] | Literal["no window"]
_reserved: Final[msgspec.json.Decoder[_Reserved]] = msgspec.json.Decoder(_Reserved)
_settled: Final[msgspec.json.Decoder[_Settled]] = msgspec.json.Decoder(_Settled)
_balances: Final[msgspec.json.Decoder[_Balances]] = msgspec.json.Decoder(_Balances)

_TRIES: Final = 5
_COLLISIONS: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError)
"""Two did the same at the same time, and one of them was undone. It is done again."""

_SETTLEMENTS: Final = 16
"""Settlements after which what is due is forgotten: as much of it, at most, as they can have made."""


class PostgresLedger:
    """See `Ledger`. Every call can be repeated, and is where the connection was lost: which ids there are, the database knows.

    Args:
        database: The database.
        clock: Gives the time instead of the server's clock. For tests.
    """

    def __init__(self, database: Database, *, clock: Clock | None = None) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._unforgotten: int = 0
        """Settlements of this process since it last forgot something."""
        self._forgotten: int = 0
        """The moment up to which everything was forgotten that was due."""

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        check_reservation(reservation_id, claims, ttl)
        answer = _reserved.decode(await self._write(_RESERVE, reservation_id, _json(claims), ttl))
        if answer == "no window":
            raise _clocks_differ()
        if answer == "void":
            raise void(self._database.place)
        return answer

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        check_actual(actual)
        if not is_id(reservation_id):
            return None
        answer = _settled.decode(await self._write(_SETTLE, reservation_id, _json(actual)))
        if answer == "too much":
            raise InvalidValueError("a bucket would hold more than can be counted")
        self._unforgotten += 1
        if self._unforgotten >= _SETTLEMENTS:
            # Nobody waits for this. What is not forgotten now is forgotten later.
            with contextlib.suppress(StoreError):
                await self._forget()
        return answer

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        check_ttl(ttl)
        ids = [reservation_id for reservation_id in reservation_ids if is_id(reservation_id)]
        return frozenset(await self._write(_EXTEND, ids, ttl))

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        claims = _json([Claim(bucket, 1) for bucket in buckets])
        now = self._now()
        answer = _balances.decode(await self._database.read(lambda connection: connection.fetchval(_BALANCES, claims, now)))
        if answer == "no window":
            raise _clocks_differ()
        return answer

    async def _forget(self) -> None:
        self._unforgotten = 0
        self._forgotten = await self._write(_FORGET, self._forgotten, _SETTLEMENTS * MAX_CLAIMS)

    async def _write(self, statement: str, *arguments: Any) -> Any:
        """Return what a function answers.

        Raises:
            StoreError: it could not be called, or collided with others again and again.
        """
        arguments = (*arguments, self._now())

        async def call(connection: Connection) -> tuple[Any] | None:
            try:
                return (await connection.fetchval(statement, *arguments),)
            except _COLLISIONS:
                return None

        for _ in range(_TRIES):
            answer = await self._database.statement(call)
            if answer is not None:
                return answer[0]
        raise StoreUnavailableError(f"{self._database.place} is busy with others who want the same; try again")

    def _now(self) -> int | None:
        return None if self._clock is None else round(self._clock.now() * SECOND)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _clocks_differ() -> StoreError:
    return StoreError("the ledger's clock is in none of the windows that it was given: the clocks differ")
