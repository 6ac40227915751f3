"""What the tests of the ledger ask for: buckets of each kind, and many reservations at once."""

from collections.abc import Sequence

import anyio
import msgspec

from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import Ledger

MINUTE = 60 * SECOND
FOR_EVER = (Span(0, 2**53),)


def lifetime(name: str = "ever", limit: int = 1_000_000, tenant: str = "t") -> Bucket:
    return Bucket(tenant=tenant, name=name, kind="lifetime", measure="tokens", limit=limit)


def budget(name: str = "money", limit: int = 1_000_000) -> Bucket:
    return Bucket(tenant="t", name=name, kind="window", measure="nano_usd", limit=limit, spans=FOR_EVER)


def rate(name: str = "rate", limit: int = 1_000_000) -> Bucket:
    return Bucket(tenant="t", name=name, kind="rolling", measure="requests", limit=limit, burst=limit, period=MINUTE)


def lease(name: str = "slots", limit: int = 1_000_000) -> Bucket:
    return Bucket(tenant="t", name=name, kind="lease", measure="concurrent", limit=limit)


def one_of_each(name: str, limit: int = 1_000_000) -> list[Bucket]:
    return [make(f"{name}, {make.__name__}", limit) for make in (lifetime, budget, rate, lease)]


def claims_on(*buckets: Bucket) -> list[Claim]:
    return [Claim(bucket, 1) for bucket in buckets]


def as_json(*claims: Claim) -> str:
    return msgspec.json.encode(claims).decode()


async def used(of: Ledger, *buckets: Bucket) -> list[int]:
    return [balance.used for balance in await of.balance(buckets)]


async def reserve_all(ledgers: Sequence[Ledger], wanted: Sequence[Sequence[Claim]]) -> list[int]:
    """Reserve all at once, spread over the ledgers, and return the numbers of those that were granted."""
    granted: list[int] = []

    async def ask(number: int) -> None:
        reservation = await ledgers[number % len(ledgers)].reserve(f"r{number}", wanted[number], ttl=MINUTE)
        if reservation.granted:
            granted.append(number)

    async with anyio.create_task_group() as group:
        for number in range(len(wanted)):
            group.start_soon(ask, number)
    return granted
