"""Ledgers against one plain model: it keeps every booking, counts them anew each time, and rates in fractions."""

import asyncio
import itertools
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Measure, Span
from llm_authmw.ledger.contract import REMEMBERED, Balance, Ledger, Refusal, Reservation, Settlement
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.testing import ManualClock

if TYPE_CHECKING:
    from tests.peers.valkey import ValkeyPeer

T = TypeVar("T")

START = 1_000_000
WINDOWS = tuple(Span(start, start + 10 * SECOND) for start in range(0, 60 * SECOND, 10 * SECOND))
LATER = Span(60 * SECOND, MAX_MOMENT)

BUCKETS = [
    Bucket(tenant="t", name="money", kind="window", measure="nano_usd", limit=50, spans=(*WINDOWS, LATER)),
    Bucket(tenant="u", name="money", kind="window", measure="nano_usd", limit=20, spans=(*WINDOWS, LATER)),
    Bucket(tenant="t", name="ever", kind="lifetime", measure="tokens", limit=60),
    Bucket(tenant="t", name="requests", kind="rolling", measure="requests", limit=7, burst=3, period=2 * SECOND),
    Bucket(tenant="t", name="tokens", kind="rolling", measure="tokens", limit=60, burst=40, period=9 * SECOND),
    Bucket(tenant="t", name="slots", kind="lease", measure="concurrent", limit=3),
]

# What is asked of a window is asked about the one that it is in at that time: those that are over are left out, as a layer does.
claims = st.dictionaries(st.sampled_from(range(len(BUCKETS))), st.integers(0, 25), min_size=1, max_size=4)
actuals = st.dictionaries(st.sampled_from(["nano_usd", "tokens", "requests"]), st.integers(0, 40))
steps = st.sampled_from([1, 100_000, 285_714, SECOND, 3 * SECOND, 9 * SECOND, 11 * SECOND]) | st.integers(1, 20 * SECOND)
days = st.sampled_from([REMEMBERED - SECOND, REMEMBERED])
ttls = st.sampled_from([SECOND, 5 * SECOND, 30 * SECOND])


def at_time(bucket: Bucket, now: int) -> Bucket:
    if bucket.kind != "window":
        return bucket
    spans = tuple(span for span in bucket.spans if span.end > now)[:3]
    return Bucket(tenant=bucket.tenant, name=bucket.name, kind="window", measure=bucket.measure, limit=bucket.limit, spans=spans)


@dataclass
class Booking:
    """One reservation as the model knows it."""

    at: int
    amounts: list[tuple[Bucket, int]]
    answer: Reservation
    expires_at: int
    settled: Settlement | None = None
    debt: int = 0
    """How much more it came to than it was estimated."""

    def expired(self, now: int) -> bool:
        return self.expires_at <= now

    def forgotten(self, now: int) -> bool:
        return (self.expires_at if self.settled is None else self.settled.at) + REMEMBERED <= now


class Model:
    """What a ledger is to do, in the plainest words."""

    def __init__(self) -> None:
        self.bookings: dict[str, Booking] = {}
        self.void: dict[str, int] = {}
        """When those were settled that had not been made."""
        self.full: dict[tuple[str, str], Fraction] = {}
        """When each rolling bucket is full again."""

    def is_void(self, reservation_id: str, now: int) -> bool:
        return now < self.void.get(reservation_id, -REMEMBERED) + REMEMBERED

    def span(self, bucket: Bucket, at: int) -> Span | None:
        return next((span for span in bucket.spans if span.start <= at < span.end), None)

    def missing(self, bucket: Bucket, now: int) -> Fraction:
        """What is missing from a rolling bucket, in its own amounts."""
        full = self.full.get((bucket.tenant, bucket.name), Fraction(0))
        return max(Fraction(0), full - now) * bucket.limit / bucket.period

    def put_missing(self, bucket: Bucket, missing: Fraction, now: int) -> None:
        self.full[bucket.tenant, bucket.name] = now + max(Fraction(0), missing) * bucket.period / bucket.limit

    def balance(self, bucket: Bucket, at: int, now: int) -> Balance:
        """What a bucket stands at now; of a window, the one that was at some time."""
        if bucket.kind == "rolling":
            missing = self.missing(bucket, now)
            ends_at = now + ceil(missing * bucket.period / bucket.limit) if missing else None
            return Balance(ceil(missing), bucket.limit, max(0, floor(bucket.burst - missing)), ends_at)
        used = 0
        for booking in self.bookings.values():
            for booked, amount in booking.amounts:
                same = (booked.tenant, booked.name) == (bucket.tenant, bucket.name)
                counts = booking.settled is None and not booking.expired(now) if bucket.kind == "lease" else True
                if same and counts and self.span(booked, booking.at) == self.span(bucket, at):
                    used += amount
        span = self.span(bucket, at)
        return Balance(used, bucket.limit, max(0, bucket.limit - used), None if span is None else span.end)

    def refusal(self, bucket: Bucket, amount: int, now: int) -> tuple[bool, int | None] | None:
        if bucket.kind == "rolling":
            excess = self.missing(bucket, now) + amount - bucket.burst
            if excess <= 0:
                return None
            return (True, None) if amount > bucket.burst else (False, ceil(excess * bucket.period / bucket.limit))
        balance = self.balance(bucket, now, now)
        if balance.used + amount <= bucket.limit:
            return None
        if amount > bucket.limit:
            return True, None
        return False, None if balance.ends_at is None else balance.ends_at - now

    def reserve(self, reservation_id: str, wanted: list[Claim], ttl: int, now: int) -> Reservation:
        known = self.bookings.get(reservation_id)
        if known is not None and not known.forgotten(now):
            return known.answer
        refused = [(place, self.refusal(claim.bucket, claim.amount, now)) for place, claim in enumerate(wanted)]
        refusals = tuple(Refusal(place, *why) for place, why in refused if why is not None)
        if refusals:
            return Reservation(now, tuple(self.balance(claim.bucket, now, now) for claim in wanted), refusals)
        booking = Booking(now, [(claim.bucket, claim.amount) for claim in wanted], Reservation(now, ()), now + ttl)
        self.bookings[reservation_id] = booking
        for claim in wanted:
            if claim.bucket.kind == "rolling":
                self.put_missing(claim.bucket, self.missing(claim.bucket, now) + claim.amount, now)
        booking.answer = Reservation(now, tuple(self.balance(claim.bucket, now, now) for claim in wanted))
        return booking.answer

    def settle(self, reservation_id: str, actual: Mapping[Measure, int], now: int) -> Settlement | None:
        booking = self.bookings.get(reservation_id)
        if booking is None:
            if not self.is_void(reservation_id, now):
                self.void[reservation_id] = now
            return None
        if booking.forgotten(now):
            return None
        if booking.settled is not None:
            return booking.settled
        late = booking.expired(now)
        for bucket, amount in booking.amounts:
            more = actual.get(bucket.measure, amount) - amount
            booking.debt += max(0, more)
            if bucket.kind == "rolling" and (more > 0 or now < booking.at + bucket.period):
                self.put_missing(bucket, self.missing(bucket, now) + more, now)
        booking.amounts = [(bucket, actual.get(bucket.measure, amount)) for bucket, amount in booking.amounts]
        booking.settled = Settlement(now, late, ())
        balances = tuple(self.balance(bucket, booking.at, now) for bucket, _ in booking.amounts)
        booking.settled = Settlement(now, late, balances)
        return booking.settled

    def extend(self, reservation_ids: list[str], ttl: int, now: int) -> frozenset[str]:
        living = [name for name in reservation_ids if (it := self.bookings.get(name)) and it.settled is None and not it.expired(now)]
        for name in living:
            self.bookings[name].expires_at = max(self.bookings[name].expires_at, now + ttl)
        return frozenset(living)


class LedgerMachine(RuleBasedStateMachine):
    """Does the same to a ledger and to the model, and compares every answer."""

    ids = Bundle[str]("ids")

    def make(self, clock: ManualClock) -> Ledger:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.closing = ExitStack()
        self.runner = self.closing.enter_context(asyncio.Runner())
        self.now = START
        self.clock = ManualClock(START / SECOND)
        self.ledger = self.make(self.clock)
        self.model = Model()
        self.numbers = itertools.count()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.closing.close()

    def ask(self, reservation_id: str, wanted: dict[int, int], ttl: int) -> None:
        asked = [
            Claim(bucket, max(1, amount // 10) if bucket.kind == "lease" or bucket.measure == "requests" else amount)
            for bucket, amount in ((at_time(BUCKETS[place], self.now), amount) for place, amount in wanted.items())
        ]
        if self.model.is_void(reservation_id, self.now):
            with pytest.raises(StoreError):
                self.run(self.ledger.reserve(reservation_id, asked, ttl=ttl))
            return
        expected = self.model.reserve(reservation_id, asked, ttl, self.now)
        assert expected == self.run(self.ledger.reserve(reservation_id, asked, ttl=ttl))

    @rule(target=ids, wanted=claims, ttl=ttls)
    def reserve(self, wanted: dict[int, int], ttl: int) -> str:
        reservation_id = f"r{next(self.numbers)}"
        self.ask(reservation_id, wanted, ttl)
        return reservation_id

    @rule(reservation_id=ids, wanted=claims, ttl=ttls)
    def reserve_again(self, reservation_id: str, wanted: dict[int, int], ttl: int) -> None:
        known = self.model.bookings.get(reservation_id)
        if known is None or not known.forgotten(self.now):
            self.ask(reservation_id, wanted, ttl)

    @rule(reservation_id=ids, actual=actuals)
    def settle(self, reservation_id: str, actual: dict[Measure, int]) -> None:
        expected = self.model.settle(reservation_id, actual, self.now)
        assert expected == self.run(self.ledger.settle(reservation_id, actual))

    @rule(reservation_ids=st.lists(ids, max_size=4), ttl=ttls)
    def extend(self, reservation_ids: list[str], ttl: int) -> None:
        expected = self.model.extend(reservation_ids, ttl, self.now)
        assert expected == self.run(self.ledger.extend(reservation_ids, ttl=ttl))

    @rule(step=steps)
    def pass_time(self, step: int) -> None:
        self.now += step
        self.clock.set(self.now / SECOND)

    @rule(step=days)
    def pass_a_day(self, step: int) -> None:
        self.pass_time(step)

    @invariant()
    def every_bucket_stands_where_the_model_says(self) -> None:
        buckets = [at_time(bucket, self.now) for bucket in BUCKETS]
        expected = tuple(self.model.balance(bucket, self.now, self.now) for bucket in buckets)
        assert expected == self.run(self.ledger.balance(buckets))

    @invariant()
    def nobody_is_over_a_limit_but_by_debt(self) -> None:
        debt = sum(booking.debt for booking in self.model.bookings.values())
        balances = self.run(self.ledger.balance([at_time(bucket, self.now) for bucket in BUCKETS]))
        for balance, bucket in zip(balances, BUCKETS, strict=True):
            assert balance.used <= bucket.capacity + debt


class MemoryMachine(LedgerMachine):
    """The memory ledger."""

    def make(self, clock: ManualClock) -> Ledger:
        return MemoryLedger(clock=clock)


class SQLiteMachine(LedgerMachine):
    """The ledger in a file."""

    def make(self, clock: ManualClock) -> Ledger:
        folder = self.closing.enter_context(TemporaryDirectory())
        backend = SQLiteBackend(str(Path(folder) / "ledger.db"), clock=clock)
        self.closing.callback(lambda: self.run(backend.aclose()))
        return backend.ledger


class PostgresMachine(LedgerMachine):
    """The ledger in a database, which is emptied and used again; it forgets at every settlement."""

    url: ClassVar[str]

    def make(self, clock: ManualClock) -> Ledger:
        import asyncpg  # noqa: PLC0415 - may be missing

        from llm_authmw.stores.postgres import ledger  # noqa: PLC0415 - imports it
        from llm_authmw.stores.postgres.database import Database  # noqa: PLC0415 - likewise

        async def empty() -> None:
            await database.start()
            connection = await asyncpg.connect(self.url)
            await connection.execute("TRUNCATE authmw_ledger_counters, authmw_ledger_reservations, authmw_ledger_leases")
            await connection.close()

        self.closing.enter_context(mock.patch.object(ledger, "_SETTLEMENTS", 1))
        database = Database(self.url)
        self.closing.callback(lambda: self.run(database.aclose()))
        self.run(empty())
        return ledger.PostgresLedger(database, clock=clock)


class RedisMachine(LedgerMachine):
    """The ledger in Valkey, which is emptied and used again."""

    server: ClassVar["ValkeyPeer"]

    def make(self, clock: ManualClock) -> Ledger:
        from llm_authmw.stores.redis import RedisLedger  # noqa: PLC0415 - imports redis-py

        self.server.ask("FLUSHALL")
        ledger = RedisLedger(self.server.url, deadline=10.0, clock=clock)
        self.closing.callback(lambda: self.run(ledger.aclose()))
        return ledger


@pytest.mark.parametrize(("machine", "examples"), [(MemoryMachine, 150), (SQLiteMachine, 50)])
def test_a_ledger_answers_as_the_model_does(machine: type[LedgerMachine], examples: int) -> None:
    run_state_machine_as_test(cast("Any", machine), settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))


def test_the_ledger_in_postgresql_answers_as_the_model_does(postgres_url: str) -> None:
    machine = type("Machine", (PostgresMachine,), {"url": postgres_url})
    run_state_machine_as_test(cast("Any", machine), settings=settings(max_examples=40, stateful_step_count=40, deadline=None))


def test_the_ledger_in_valkey_answers_as_the_model_does(valkey_server: "ValkeyPeer") -> None:
    machine = type("Machine", (RedisMachine,), {"server": valkey_server})
    run_state_machine_as_test(cast("Any", machine), settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
