"""A ledger that notes what it is told before it does it, and what it answered: the books that its own are compared with."""

from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.overshoot.notes import Notes
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.contract import Balance, Ledger, Reservation, Settlement

ASK: Final = ContextVar("ask", default="-")
"""What the request in hand was sent for."""
MONEY: Final = "money.bucket"
"""The file that says which bucket the money is counted in."""


class NotedLedger:
    """A ledger around another one.

    Args:
        ledger: The one that counts.
        folder: Where it notes.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self._ledger: Final = ledger
        self._notes: Final = Notes(folder, "ledger")
        self._money: Final = folder / MONEY

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        nano = sum(claim.amount for claim in claims if claim.bucket.measure == "nano_usd")
        if nano and not self._money.exists():
            self._money.write_bytes(msgspec.msgpack.encode(next(claim.bucket for claim in claims if claim.bucket.measure == "nano_usd")))
        self._notes.write("reserve", reservation_id, nano, ASK.get())
        answer = await self._ledger.reserve(reservation_id, claims, ttl=ttl)
        self._notes.write("granted" if answer.granted else "refused", reservation_id, nano)
        return answer

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        nano = actual.get("nano_usd", "estimate")
        self._notes.write("settle", reservation_id, nano)
        answer = await self._ledger.settle(reservation_id, actual)
        self._notes.write("unknown" if answer is None else "settled", reservation_id, nano)
        return answer

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        return await self._ledger.extend(reservation_ids, ttl=ttl)

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        return await self._ledger.balance(buckets)


def money_bucket(folder: Path) -> Bucket:
    """Return the bucket that the money was counted in."""
    return msgspec.msgpack.decode((folder / MONEY).read_bytes(), type=Bucket)
