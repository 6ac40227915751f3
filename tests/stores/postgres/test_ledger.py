"""The ledger in PostgreSQL, where many use it at once: limits hold exactly, nobody waits for ever, and nothing is booked twice."""

import random
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from llm_authmw.errors import StoreError
from llm_authmw.ledger.buckets import MAX_BUCKET_NAME, SECOND, Bucket, Claim
from llm_authmw.ledger.contract import MAX_CLAIMS, Balance, Reservation, Settlement
from llm_authmw.stores.postgres.ledger import PostgresLedger
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.testing import ManualClock
from tests.stores.postgres.ledgers import MINUTE, as_json, budget, claims_on, lease, lifetime, one_of_each, rate, reserve_all, used

pytestmark = pytest.mark.anyio

Sql = Callable[..., list[str]]

CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's."""


@pytest.mark.parametrize("make", [lifetime, budget, lease])
async def test_of_500_at_once_exactly_as_many_are_granted_as_fit(ledgers: list[PostgresLedger], make: Callable[..., Bucket]) -> None:
    bucket = make(limit=137)
    granted = await reserve_all(ledgers, [claims_on(bucket, lifetime("beside")) for _ in range(500)])
    assert 137 == len(granted)
    assert [137, 137] == await used(ledgers[0], bucket, lifetime("beside"))


@pytest.mark.usefixtures("no_second_try")
async def test_claims_in_whatever_order_on_buckets_old_and_new_never_lock_each_other_out(ledgers: list[PostgresLedger], sql: Sql) -> None:
    shuffle = random.Random(7)
    buckets = [bucket for number in range(6) for bucket in one_of_each(f"{number}")]
    wanted = [claims_on(*shuffle.sample(buckets, 8)) for _ in range(120)]
    assert 120 == len(await reserve_all(ledgers, wanted))

    async def settle_and_extend(number: int) -> None:
        of = ledgers[number % 3]
        ids = [f"r{shuffle.randrange(120)}" for _ in range(20)]
        await of.extend(ids, ttl=MINUTE)
        assert await of.settle(f"r{number}", {"tokens": 2, "nano_usd": 0}) is not None

    async with anyio.create_task_group() as group:
        for number in range(120):
            group.start_soon(settle_and_extend, number)
    times = [sum(bucket == claim.bucket for claims in wanted for claim in claims) for bucket in buckets]
    expected = [2 * count if bucket.kind == "lifetime" else 0 for bucket, count in zip(buckets, times, strict=True)]
    seen = await used(ledgers[0], *buckets)
    assert expected == [0 if bucket.kind == "rolling" else balance for bucket, balance in zip(buckets, seen, strict=True)]
    assert ["0"] == sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_call_repeated_while_the_first_is_at_work_waits_for_it_and_books_once(
    ledgers: list[PostgresLedger], other: Connection, waiting_for_locks: Callable[[int], Any], end: str
) -> None:
    bucket = lifetime(limit=10)
    assert (await ledgers[0].reserve("before", [Claim(bucket, 1)], ttl=MINUTE)).granted
    await other.execute("BEGIN")
    first = await other.fetchval("SELECT authmw_ledger_reserve('r', $1, $2)", as_json(Claim(bucket, 9)), MINUTE)
    answers: list[Reservation] = []

    async def repeat() -> None:
        answers.append(await ledgers[0].reserve("r", [Claim(bucket, 9)], ttl=MINUTE))

    async with anyio.create_task_group() as group:
        group.start_soon(repeat)
        await waiting_for_locks(1)
        assert [] == answers
        await other.execute(end)
    (answer,) = answers
    assert answer.granted
    assert (end == "COMMIT") == (answer == msgspec.json.decode(first, type=Reservation))
    assert [10] == await used(ledgers[0], bucket)


async def test_of_many_settlements_at_once_one_counts_and_all_return_it(ledgers: list[PostgresLedger]) -> None:
    buckets = one_of_each("ada")
    assert (await ledgers[0].reserve("r", claims_on(*buckets), ttl=MINUTE)).granted
    answers: list[Any] = []

    async def settle(number: int) -> None:
        answers.append(await ledgers[number % 3].settle("r", {"tokens": number, "nano_usd": 1000 * number}))

    async with anyio.create_task_group() as group:
        for number in range(1, 31):
            group.start_soon(settle, number)
    assert [answers[0]] * 30 == answers
    tokens, money, *_ = await used(ledgers[0], *buckets)
    assert tokens in range(1, 31)
    assert 1000 * tokens == money


async def test_a_lease_that_was_freed_while_its_extension_waited_is_not_extended(
    ledgers: list[PostgresLedger], other: Connection, waiting_for_locks: Callable[[int], Any]
) -> None:
    first = await ledgers[0].reserve("r", claims_on(lease()), ttl=SECOND)
    end = first.at + SECOND
    await other.execute("BEGIN")
    await other.fetchval("SELECT authmw_ledger_reserve('s', $1, $2, $3)", as_json(*claims_on(lease())), MINUTE, end)
    extended: list[frozenset[str]] = []

    async def extend() -> None:
        extended.append(await ledgers[0].extend(["r"], ttl=MINUTE))

    async with anyio.create_task_group() as group:
        group.start_soon(extend)
        await waiting_for_locks(1)
        while await other.fetchval(CLOCK) < end:
            pass
        await other.execute("COMMIT")
    assert [frozenset[str]()] == extended
    assert [1] == await used(ledgers[0], lease())


async def test_whoever_settles_while_the_reservation_is_being_made_waits_for_it(
    ledgers: list[PostgresLedger], other: Connection, waiting_for_locks: Callable[[int], Any]
) -> None:
    assert [0] == await used(ledgers[0], lifetime())
    await other.execute("BEGIN")
    await other.fetchval("SELECT authmw_ledger_reserve('r', $1, $2)", as_json(*claims_on(lifetime())), MINUTE)
    settled: list[Settlement | None] = []

    async def settle() -> None:
        settled.append(await ledgers[0].settle("r", {"tokens": 0}))

    async with anyio.create_task_group() as group:
        group.start_soon(settle)
        await waiting_for_locks(1)
        await other.execute("COMMIT")
    assert [0] == [balance.used for settlement in settled if settlement is not None for balance in settlement.balances]
    assert [0] == await used(ledgers[0], lifetime())


async def test_a_reservation_that_is_settled_while_it_waits_for_a_bucket_is_void(
    ledgers: list[PostgresLedger], other: Connection, waiting_for_locks: Callable[[int], Any]
) -> None:
    await ledgers[0].reserve("first", claims_on(lifetime()), ttl=MINUTE)
    await other.execute("BEGIN; SELECT FROM authmw_ledger_counters FOR UPDATE")

    async def reserve() -> None:
        with pytest.raises(StoreError, match="booked nothing"):
            await ledgers[0].reserve("r", claims_on(lifetime()), ttl=MINUTE)

    async with anyio.create_task_group() as group:
        group.start_soon(reserve)
        await waiting_for_locks(1)
        assert await ledgers[1].settle("r", {"tokens": 0}) is None
        await other.execute("COMMIT")
    assert [1] == await used(ledgers[0], lifetime())


async def test_nobody_waits_for_a_lease_that_is_over_and_that_another_one_holds(
    manual: PostgresLedger, clock: ManualClock, other: Connection
) -> None:
    assert (await manual.reserve("r", claims_on(lease(limit=2)), ttl=MINUTE)).granted
    clock.advance(60)
    await other.execute("BEGIN; SELECT FROM authmw_ledger_leases FOR UPDATE")
    with anyio.fail_after(10):
        assert (await manual.reserve("s", claims_on(lease(limit=2)), ttl=MINUTE)).granted
    await other.execute("COMMIT")
    assert [1] == await used(manual, lease(limit=2))
    assert (await manual.reserve("t", claims_on(lease(limit=2)), ttl=MINUTE)).granted


async def test_the_server_says_what_time_it_is(ledgers: list[PostgresLedger], other: Connection) -> None:
    before = await other.fetchval(CLOCK)
    reservation = await ledgers[0].reserve("r", claims_on(lifetime()), ttl=MINUTE)
    settlement = await ledgers[0].settle("r", {})
    assert settlement is not None
    assert before <= reservation.at <= settlement.at <= await other.fetchval(CLOCK)


async def test_names_of_any_length_and_tenants_that_run_into_them_are_counted_apart(ledgers: list[PostgresLedger]) -> None:
    shuffle = random.Random(1)
    longest = ["".join(chr(shuffle.randrange(0x20000, 0x2A000)) for _ in range(MAX_BUCKET_NAME)) for _ in range(2)]
    buckets = [lifetime(longest[0], tenant=longest[1]), lifetime(longest[1], tenant=longest[0])]
    buckets += [lifetime("bc", tenant="a"), lifetime("c", tenant="ab"), lifetime("%", tenant="'"), lifetime("é ", tenant='"\\n')]
    claims = [Claim(bucket, amount) for amount, bucket in enumerate(buckets, start=1)]
    assert (await ledgers[0].reserve("r", claims, ttl=MINUTE)).granted
    assert [1, 2, 3, 4, 5, 6] == await used(ledgers[1], *buckets)


async def test_a_part_of_a_microsecond_is_less_than_one_under_a_lower_limit_too(manual: PostgresLedger, clock: ManualClock) -> None:
    assert (await manual.reserve("r", claims_on(rate(limit=999_983)), ttl=MINUTE)).granted
    now = round(clock.now() * SECOND)
    assert (Balance(1, 999_983, 999_982, now + 61), Balance(1, 7, 6, now + 61)) == await manual.balance(
        [rate(limit=999_983), rate(limit=7)]
    )


async def test_as_many_claims_as_one_reservation_may_have_are_booked_and_settled(ledgers: list[PostgresLedger]) -> None:
    buckets = [bucket for number in range(MAX_CLAIMS // 4) for bucket in one_of_each(f"{number}")]
    assert (await ledgers[0].reserve("r", claims_on(*buckets), ttl=MINUTE)).granted
    settlement = await ledgers[1].settle("r", {"tokens": 7, "nano_usd": 9})
    assert settlement is not None
    assert [balance.used for balance in settlement.balances] == await used(ledgers[2], *buckets)
    assert [7, 9] * (MAX_CLAIMS // 4) == [balance.used for place, balance in enumerate(settlement.balances) if place % 4 < 2]
