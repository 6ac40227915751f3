from typing import Any

import anyio
import pytest

from llm_authmw.errors import InvalidValueError, StoreError
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import MAX_CLAIMS, MAX_TTL, REMEMBERED, Balance, Ledger, Refusal
from llm_authmw.quota import MAX_AMOUNT
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000 * SECOND
MINUTE = 60 * SECOND
FIRST = Span(NOW - MINUTE, NOW + MINUTE)
SECOND_WINDOW = Span(NOW + MINUTE, NOW + 3 * MINUTE)


def budget(name: str = "money", limit: int = 100, **fields: Any) -> Bucket:
    values: dict[str, Any] = {"tenant": "t", "measure": "nano_usd", "spans": (FIRST, SECOND_WINDOW), **fields}
    return Bucket(name=name, kind="window", limit=limit, **values)


def rate(name: str = "rate", limit: int = 60, burst: int = 6, **fields: Any) -> Bucket:
    values: dict[str, Any] = {"tenant": "t", "measure": "requests", "period": MINUTE, **fields}
    return Bucket(name=name, kind="rolling", limit=limit, burst=burst, **values)


def lifetime(name: str = "ever", limit: int = 100, tenant: str = "t") -> Bucket:
    return Bucket(tenant=tenant, name=name, kind="lifetime", measure="tokens", limit=limit)


def lease(name: str = "slots", limit: int = 2) -> Bucket:
    return Bucket(tenant="t", name=name, kind="lease", measure="concurrent", limit=limit)


async def used(ledger: Ledger, *buckets: Bucket) -> list[int]:
    return [balance.used for balance in await ledger.balance(buckets)]


async def granted(ledger: Ledger, reservation_id: str, *claims: Claim, ttl: int = MINUTE) -> bool:
    return (await ledger.reserve(reservation_id, claims, ttl=ttl)).granted


async def test_one_refused_claim_leaves_every_other_bucket_as_it_was(ledger: Ledger) -> None:
    buckets = [budget(limit=9), rate(), lifetime(), lease()]
    for refused in buckets:
        claims = [Claim(bucket, bucket.capacity + 1 if bucket is refused else 1) for bucket in buckets]
        assert not await granted(ledger, "r", *claims)
        assert [0, 0, 0, 0] == await used(ledger, *buckets)


async def test_what_was_refused_can_be_reserved_and_settled_by_nobody(ledger: Ledger) -> None:
    assert not await granted(ledger, "r", Claim(budget(), 101))
    assert frozenset() == await ledger.extend(["r"], ttl=MINUTE)
    assert await granted(ledger, "r", Claim(budget(), 100))
    assert not await granted(ledger, "s", Claim(budget(), 1))
    assert await ledger.settle("s", {"nano_usd": 5}) is None
    assert [100] == await used(ledger, budget())


async def test_what_was_settled_before_it_was_made_is_void_and_books_nothing_however_late_it_comes(
    ledger: Ledger, clock: ManualClock
) -> None:
    claims = [Claim(bucket, 1) for bucket in (lifetime(), rate(), lease())]
    assert await ledger.settle("r", {"tokens": 0}) is None
    clock.advance(REMEMBERED / SECOND - 1)
    for _ in range(2):
        with pytest.raises(StoreError):
            await ledger.reserve("r", claims, ttl=MINUTE)
        assert await ledger.settle("r", {"tokens": 7}) is None
        assert frozenset() == await ledger.extend(["r"], ttl=MINUTE)
    assert [0, 0, 0] == await used(ledger, lifetime(), rate(), lease())
    clock.advance(1)
    assert await granted(ledger, "r", *claims)


@pytest.mark.parametrize("reservation_id", ["", "x" * 129, "x\ny", "x\0", "\ud800"])
async def test_what_can_be_no_id_is_nobodys(ledger: Ledger, reservation_id: str) -> None:
    assert await ledger.settle(reservation_id, {}) is None
    assert frozenset() == await ledger.extend([reservation_id], ttl=MINUTE)
    with pytest.raises(InvalidValueError):
        await ledger.reserve(reservation_id, [Claim(lifetime(), 1)], ttl=MINUTE)


async def test_a_refusal_says_which_claims_why_and_for_how_long(ledger: Ledger) -> None:
    buckets = (budget(), rate(), lifetime(), lease())
    first = await ledger.reserve("r1", [Claim(bucket, bucket.capacity) for bucket in buckets], ttl=MINUTE)
    assert first.granted
    assert 0 == first.wait
    second = await ledger.reserve("r2", [Claim(bucket, 1) for bucket in buckets], ttl=MINUTE)
    assert second.refusals == (
        Refusal(0, never=False, wait=MINUTE),
        Refusal(1, never=False, wait=SECOND),
        Refusal(2, never=False, wait=None),
        Refusal(3, never=False, wait=None),
    )
    assert second.wait is None
    assert first.balances == second.balances
    third = await ledger.reserve("r3", [Claim(budget(), 101), Claim(rate(), 7), Claim(lifetime(), 101), Claim(lease(), 3)], ttl=MINUTE)
    assert third.refusals == tuple(Refusal(claim, never=True, wait=None) for claim in range(4))
    assert MINUTE == (await ledger.reserve("r4", [Claim(budget(), 1), Claim(rate(), 1)], ttl=MINUTE)).wait


async def test_a_reply_carries_what_each_bucket_stands_at(ledger: Ledger) -> None:
    claims = [Claim(budget(), 30), Claim(rate(), 4), Claim(lifetime(), 7), Claim(lease(), 1)]
    expected = (
        Balance(used=30, limit=100, left=70, ends_at=FIRST.end),
        Balance(used=4, limit=60, left=2, ends_at=NOW + 4 * SECOND),
        Balance(used=7, limit=100, left=93, ends_at=None),
        Balance(used=1, limit=2, left=1, ends_at=None),
    )
    reservation = await ledger.reserve("r", claims, ttl=MINUTE)
    assert (NOW, expected) == (reservation.at, reservation.balances)
    assert expected == await ledger.balance([claim.bucket for claim in claims])
    settlement = await ledger.settle("r", {"nano_usd": 10, "tokens": 8})
    assert settlement is not None
    assert [10, 4, 8, 0] == [balance.used for balance in settlement.balances]
    assert (NOW, False) == (settlement.at, settlement.late)


async def test_nothing_is_missing_from_a_bucket_that_nobody_used(ledger: Ledger) -> None:
    empty = [Balance(0, 100, 100, FIRST.end), Balance(0, 60, 6, None), Balance(0, 100, 100, None), Balance(0, 2, 2, None)]
    assert empty == list(await ledger.balance([budget(), rate(), lifetime(), lease()]))
    assert () == await ledger.balance([])


async def test_a_settlement_corrects_down_and_up_and_what_is_over_the_limit_is_debt(ledger: Ledger) -> None:
    buckets = (budget(), lifetime())
    await granted(ledger, "down", *(Claim(bucket, 40) for bucket in buckets))
    await granted(ledger, "up", *(Claim(bucket, 40) for bucket in buckets))
    await ledger.settle("down", {"nano_usd": 1, "tokens": 2})
    assert [41, 42] == await used(ledger, *buckets)
    await ledger.settle("up", {"nano_usd": 140, "tokens": 150})
    assert [141, 152] == await used(ledger, *buckets)
    assert [0, 0] == [balance.left for balance in await ledger.balance(buckets)]
    for bucket in buckets:
        assert not await granted(ledger, "next", Claim(bucket, 0))


async def test_a_request_that_is_released_stays_counted(ledger: Ledger) -> None:
    requests = budget("requests", measure="requests")
    await granted(ledger, "r", Claim(requests, 1), Claim(budget(), 40), Claim(lifetime(), 40), Claim(lease(), 1))
    await ledger.settle("r", {"nano_usd": 0, "tokens": 0})
    assert [1, 0, 0, 0] == await used(ledger, requests, budget(), lifetime(), lease())


async def test_a_measure_that_nobody_claimed_is_not_booked_anywhere(ledger: Ledger) -> None:
    await granted(ledger, "r", Claim(budget(), 40))
    await ledger.settle("r", {"tokens": 7})
    assert [40, 0] == await used(ledger, budget(), lifetime())


async def test_a_repeated_settlement_returns_the_first_and_books_nothing(ledger: Ledger, clock: ManualClock) -> None:
    await granted(ledger, "r", Claim(budget(), 40), Claim(rate(), 3), Claim(lease(), 1))
    await granted(ledger, "other", Claim(lease(), 1))
    first = await ledger.settle("r", {"nano_usd": 50, "requests": 1})
    clock.advance(1)
    assert first == await ledger.settle("r", {"nano_usd": 5, "requests": 9})
    assert [50, 0, 1] == await used(ledger, budget(), rate(), lease())


async def test_a_repeated_reservation_returns_the_first_and_books_nothing(ledger: Ledger, clock: ManualClock) -> None:
    claims = (Claim(budget(), 40), Claim(lease(), 1))
    first = await ledger.reserve("r", claims, ttl=MINUTE)
    clock.advance(1)
    assert first == await ledger.reserve("r", claims, ttl=MINUTE)
    assert [40, 1] == await used(ledger, budget(), lease())
    await ledger.settle("r", {"nano_usd": 0})
    assert first == await ledger.reserve("r", claims, ttl=MINUTE)
    assert [0, 0] == await used(ledger, budget(), lease())


async def test_an_expired_reservation_frees_its_slot_and_stays_booked(ledger: Ledger, clock: ManualClock) -> None:
    await granted(ledger, "r", Claim(lifetime(), 40), Claim(lease(limit=1), 1), ttl=30 * SECOND)
    clock.advance(29.999999)
    assert not await granted(ledger, "early", Claim(lease(limit=1), 1))
    clock.advance(0.000001)
    assert [40, 0] == await used(ledger, lifetime(), lease())
    assert await granted(ledger, "next", Claim(lease(limit=1), 1))
    assert frozenset() == await ledger.extend(["r"], ttl=MINUTE)
    assert (await ledger.reserve("r", [Claim(lifetime(), 40)], ttl=MINUTE)).granted
    assert [40] == await used(ledger, lifetime())


@pytest.mark.parametrize("truth", [0, 3, 90])
async def test_a_settlement_after_the_end_books_the_difference_once(ledger: Ledger, clock: ManualClock, truth: int) -> None:
    await granted(ledger, "r", Claim(lifetime(), 40), Claim(lease(), 1), ttl=SECOND)
    clock.advance(1)
    await granted(ledger, "next", Claim(lease(), 1))
    late = await ledger.settle("r", {"tokens": truth})
    assert late is not None
    assert late.late
    assert late == await ledger.settle("r", {"tokens": 50})
    assert [truth, 1] == await used(ledger, lifetime(), lease())


async def test_what_is_extended_lives_on_and_never_shorter_than_before(ledger: Ledger, clock: ManualClock) -> None:
    await granted(ledger, "long", Claim(lease(), 1), ttl=90 * SECOND)
    await granted(ledger, "short", Claim(lease(), 1), ttl=30 * SECOND)
    clock.advance(29)
    assert frozenset({"long", "short"}) == await ledger.extend(["long", "short", "unknown"], ttl=30 * SECOND)
    clock.advance(29.5)
    assert [2] == await used(ledger, lease())
    clock.advance(0.5)
    assert [1] == await used(ledger, lease())
    clock.advance(30.999999)
    assert [1] == await used(ledger, lease())
    clock.advance(0.000001)
    assert [0] == await used(ledger, lease())


async def test_what_is_settled_cannot_be_extended(ledger: Ledger) -> None:
    await granted(ledger, "r", Claim(lease(), 1))
    await ledger.settle("r", {})
    assert frozenset() == await ledger.extend(["r"], ttl=MINUTE)


async def test_a_reservation_is_remembered_for_a_day_after_its_end(ledger: Ledger, clock: ManualClock) -> None:
    await granted(ledger, "settled", Claim(lifetime(), 10))
    await granted(ledger, "expired", Claim(lifetime(), 20), ttl=MINUTE)
    settlement = await ledger.settle("settled", {})
    clock.advance(REMEMBERED / SECOND - 1)
    assert settlement == await ledger.settle("settled", {})
    assert await granted(ledger, "expired", Claim(lifetime(), 20))
    clock.advance(1)
    assert await ledger.settle("settled", {}) is None
    clock.advance(60)
    assert await ledger.settle("expired", {"tokens": 0}) is None
    assert [30] == await used(ledger, lifetime())


async def test_the_clock_of_the_store_picks_the_window(ledger: Ledger, clock: ManualClock) -> None:
    bucket = budget()
    assert await granted(ledger, "r1", Claim(bucket, 100))
    clock.advance(59.999999)
    assert (Refusal(0, never=False, wait=1),) == (await ledger.reserve("r2", [Claim(bucket, 1)], ttl=MINUTE)).refusals
    clock.advance(0.000001)
    assert Balance(0, 100, 100, SECOND_WINDOW.end) == (await ledger.balance([bucket]))[0]
    assert await granted(ledger, "r2", Claim(bucket, 100))


async def test_a_settlement_goes_to_the_window_that_was_reserved(ledger: Ledger, clock: ManualClock) -> None:
    await granted(ledger, "r", Claim(budget(), 60), ttl=10 * MINUTE)
    clock.advance(60)
    await granted(ledger, "new", Claim(budget(), 5))
    settlement = await ledger.settle("r", {"nano_usd": 150})
    assert settlement is not None
    assert (Balance(150, 100, 0, FIRST.end),) == settlement.balances
    assert [5] == await used(ledger, budget())


async def test_a_clock_that_is_in_none_of_the_windows_is_an_error_and_books_nothing(ledger: Ledger, clock: ManualClock) -> None:
    clock.advance(180)
    with pytest.raises(StoreError):
        await ledger.reserve("r", [Claim(lifetime(), 1), Claim(budget(), 1)], ttl=MINUTE)
    with pytest.raises(StoreError):
        await ledger.balance([budget()])
    assert [0] == await used(ledger, lifetime())


async def test_buckets_of_two_tenants_or_names_or_windows_are_counted_apart(ledger: Ledger) -> None:
    await granted(ledger, "r", Claim(lifetime("a"), 1), Claim(lifetime("b"), 2))
    await granted(ledger, "s", Claim(lifetime("a", tenant="u"), 4))
    assert [1, 2, 4, 0] == await used(ledger, lifetime("a"), lifetime("b"), lifetime("a", tenant="u"), lifetime("b", tenant="u"))
    await granted(ledger, "day", Claim(budget(), 1))
    longer = budget(spans=(Span(FIRST.start, FIRST.end + 1),))
    assert [1, 0] == await used(ledger, budget(), longer)


async def test_another_limit_keeps_what_was_used(ledger: Ledger) -> None:
    await granted(ledger, "r", Claim(budget(limit=50), 50))
    assert (Balance(50, 80, 30, FIRST.end), Balance(50, 20, 0, FIRST.end)) == await ledger.balance([budget(limit=80), budget(limit=20)])
    assert await granted(ledger, "s", Claim(budget(limit=80), 30))


async def test_a_rate_lets_its_burst_through_and_then_exactly_as_much_as_comes_back(ledger: Ledger, clock: ManualClock) -> None:
    bucket = rate(limit=7, burst=7, period=SECOND)
    for number in range(7):
        assert await granted(ledger, f"burst-{number}", Claim(bucket, 1))
    refused = await ledger.reserve("next", [Claim(bucket, 1)], ttl=MINUTE)
    assert (Refusal(0, never=False, wait=142_858),) == refused.refusals
    clock.advance(0.142857)
    assert not await granted(ledger, "next", Claim(bucket, 1))
    clock.advance(0.000001)
    assert await granted(ledger, "next", Claim(bucket, 1))
    clock.advance(1)
    assert [Balance(0, 7, 7, None)] == list(await ledger.balance([bucket]))


async def test_a_rate_gives_back_what_was_not_used_but_never_more_than_its_burst(ledger: Ledger, clock: ManualClock) -> None:
    bucket = rate("tokens", limit=6000, burst=1000, measure="tokens")
    assert await granted(ledger, "r", Claim(bucket, 1000))
    await ledger.settle("r", {"tokens": 400})
    assert (400, 600) == ((balance := (await ledger.balance([bucket]))[0]).used, balance.left)
    assert await granted(ledger, "s", Claim(bucket, 600))
    clock.advance(9)
    await ledger.settle("s", {"tokens": 0})
    assert Balance(0, 6000, 1000, None) == (await ledger.balance([bucket]))[0]
    assert not await granted(ledger, "t", Claim(bucket, 1001))


async def test_a_rate_in_debt_pays_it_back_in_time(ledger: Ledger, clock: ManualClock) -> None:
    bucket = rate("tokens", limit=6000, burst=1000, measure="tokens")
    await granted(ledger, "r", Claim(bucket, 500))
    await ledger.settle("r", {"tokens": 3000})
    assert Balance(3000, 6000, 0, NOW + 30 * SECOND) == (await ledger.balance([bucket]))[0]
    assert 20 * SECOND + 10_000 == (await ledger.reserve("s", [Claim(bucket, 1)], ttl=MINUTE)).wait
    clock.advance(20.01)
    assert await granted(ledger, "s", Claim(bucket, 1))


async def test_a_reservation_that_left_the_period_gives_nothing_back_but_its_debt_is_booked(ledger: Ledger, clock: ManualClock) -> None:
    bucket = rate("tokens", limit=6000, burst=1000, measure="tokens")
    for reservation_id in ("in time", "down", "up"):
        await granted(ledger, reservation_id, Claim(bucket, 200), ttl=10 * MINUTE)
    clock.advance(59.999999)
    await granted(ledger, "present", Claim(bucket, 1000), ttl=10 * MINUTE)
    await ledger.settle("in time", {"tokens": 0})
    assert [800] == await used(ledger, bucket)
    clock.advance(0.000001)
    await ledger.settle("down", {"tokens": 0})
    assert [800] == await used(ledger, bucket)
    await ledger.settle("up", {"tokens": 300})
    assert [900] == await used(ledger, bucket)


async def test_a_late_debt_is_booked_into_a_rate_that_was_full_again(ledger: Ledger, clock: ManualClock) -> None:
    bucket = rate("tokens", limit=6000, burst=1000, measure="tokens")
    await granted(ledger, "r", Claim(bucket, 100))
    clock.advance(3600)
    assert await granted(ledger, "elsewhere", Claim(rate("other"), 1))
    await ledger.settle("r", {"tokens": 1100})
    assert [1000] == await used(ledger, bucket)


async def test_places_of_one_reservation_are_no_other_ones_whatever_their_ids(ledger: Ledger) -> None:
    assert await granted(ledger, "r", Claim(lease(limit=9), 3))
    assert await granted(ledger, "r 2", Claim(lease(limit=9), 1))
    assert [4] == await used(ledger, lease(limit=9))
    await ledger.settle("r", {})
    assert [1] == await used(ledger, lease(limit=9))


async def test_of_many_at_once_no_more_are_let_through_than_fit(ledger: Ledger) -> None:
    answers: list[bool] = []

    async def ask(number: int) -> None:
        answers.append(await granted(ledger, f"r{number}", Claim(lifetime(), 30), Claim(lease(limit=50), 1), Claim(budget(), 1)))

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(ask, number)
    assert (3, 37) == (answers.count(True), answers.count(False))
    assert [90, 3, 3] == await used(ledger, lifetime(), lease(limit=50), budget())


async def test_arguments_out_of_range_are_refused_and_book_nothing(ledger: Ledger) -> None:
    claim = Claim(lifetime(), 1)
    many = [Claim(lifetime(f"b{number}"), 1) for number in range(MAX_CLAIMS + 1)]
    for reservation_id, claims, ttl in (
        ("r", [], MINUTE),
        ("r", many, MINUTE),
        ("r", [claim, Claim(lifetime(limit=7), 2)], MINUTE),
        ("r", [claim], 0),
        ("r", [claim], -1),
        ("r", [claim], MAX_TTL + 1),
        ("r", [claim], True),
    ):
        with pytest.raises(InvalidValueError):
            await ledger.reserve(reservation_id, claims, ttl=ttl)
    assert [0, 0] == await used(ledger, lifetime(), lifetime("b0"))
    for ttl in (0, MAX_TTL + 1):
        with pytest.raises(InvalidValueError):
            await ledger.extend(["r"], ttl=ttl)
    assert await granted(ledger, "x" * 128, *many[:MAX_CLAIMS], ttl=MAX_TTL)


async def test_a_settlement_out_of_range_is_refused_and_can_be_put_right(ledger: Ledger) -> None:
    claims = (Claim(lifetime(), 40), Claim(budget(), 40), Claim(lease(), 1))
    await granted(ledger, "r", *claims)
    refused: list[Any] = [{"tokens": -1}, {"tokens": MAX_AMOUNT + 1}, {"tokens": True}, {"tokens": 1.0}, {"concurrent": 0}, {"token": 1}]
    for actual in refused:
        with pytest.raises(InvalidValueError):
            await ledger.settle("r", {"nano_usd": 1, **actual})
    assert [40, 40, 1] == await used(ledger, *(claim.bucket for claim in claims))
    assert await ledger.settle("r", {"tokens": 1}) is not None
    assert [1, 40, 0] == await used(ledger, *(claim.bucket for claim in claims))


async def test_a_total_that_cannot_be_counted_is_refused_before_anything_is_booked(ledger: Ledger) -> None:
    slow = rate("slow", limit=1, burst=1, measure="tokens")
    await granted(ledger, "r", Claim(budget(), 40), Claim(lifetime(), 40))
    await granted(ledger, "s", Claim(lifetime(), 1))
    await granted(ledger, "t", Claim(lifetime("u"), 1), Claim(slow, 1))
    with pytest.raises(InvalidValueError):
        await ledger.settle("r", {"nano_usd": 1, "tokens": MAX_AMOUNT})
    with pytest.raises(InvalidValueError):
        await ledger.settle("t", {"tokens": MAX_MOMENT // MINUTE})
    assert [40, 41, 1] == await used(ledger, budget(), lifetime(), lifetime("u"))
    assert await ledger.settle("r", {"nano_usd": 1, "tokens": MAX_AMOUNT - 1}) is not None
    assert [1, MAX_AMOUNT] == await used(ledger, budget(), lifetime())


async def test_the_greatest_amounts_are_counted_to_the_last_one(ledger: Ledger) -> None:
    bucket = budget(limit=MAX_AMOUNT)
    assert await granted(ledger, "r", Claim(bucket, MAX_AMOUNT - 1))
    assert not await granted(ledger, "s", Claim(bucket, 2))
    assert await granted(ledger, "s", Claim(bucket, 1))
    assert [Balance(MAX_AMOUNT, MAX_AMOUNT, 0, FIRST.end)] == list(await ledger.balance([bucket]))
