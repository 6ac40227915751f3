import pytest

from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.stores.memory import ledger as module
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

MINUTE = 60 * SECOND
START = 1_800_000_000 * SECOND


def buckets(name: str) -> list[Bucket]:
    span = Span(START, START + MINUTE)
    return [
        Bucket(
            tenant="t", name=f"{name} window", kind="window", measure="tokens", limit=9, spans=(span, Span(span.end, span.end + 9 * MINUTE))
        ),
        Bucket(tenant="t", name=f"{name} rolling", kind="rolling", measure="tokens", limit=60, burst=6, period=MINUTE),
        Bucket(tenant="t", name=f"{name} lifetime", kind="lifetime", measure="tokens", limit=9),
        Bucket(tenant="t", name=f"{name} lease", kind="lease", measure="concurrent", limit=1),
    ]


async def test_what_is_refused_leaves_no_counter_behind() -> None:
    ledger = MemoryLedger(clock=ManualClock())
    for number in range(100):
        claims = [Claim(bucket, bucket.capacity + 1) for bucket in buckets(str(number))]
        await ledger.reserve(str(number), claims, ttl=MINUTE)
        await ledger.balance(buckets(str(number)))
    assert (0, 0) == (len(ledger._counters), len(ledger._held))


async def test_counters_whose_time_is_over_are_dropped() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock=clock)
    for number in range(100):
        await ledger.reserve(str(number), [Claim(bucket, 1) for bucket in buckets(str(number))], ttl=MINUTE)
        await ledger.settle(str(number), {"tokens": 1 if number < 50 else 0})
    assert 100 + 100 + 50 == len(ledger._counters)
    clock.advance(120)
    for _ in range(2):
        await ledger.balance([])
    assert 50 == len(ledger._counters)
    assert [] == ledger._drops
    assert [1, 0] == [balance.used for balance in await ledger.balance([buckets("0")[2], buckets("99")[2]])]


async def test_a_rate_that_is_used_again_is_dropped_a_second_after_it_is_full_and_no_earlier() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock=clock)
    _, rolling, _, _ = buckets("b")
    await ledger.reserve("r", [Claim(rolling, 2)], ttl=MINUTE)
    clock.advance(1.5)
    await ledger.reserve("s", [Claim(rolling, 2)], ttl=MINUTE)
    clock.advance(3.499999)
    await ledger.balance([])
    assert 1 == len(ledger._counters)
    clock.advance(0.000001)
    await ledger.balance([])
    assert 0 == len(ledger._counters)


async def test_a_rate_that_is_used_all_the_time_keeps_its_counter_although_it_is_full_in_between() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock=clock)
    quick = Bucket(tenant="t", name="quick", kind="rolling", measure="requests", limit=60_000, burst=6, period=MINUTE)
    await ledger.reserve("first", [Claim(quick, 1)], ttl=MINUTE)
    (counter,) = ledger._counters.values()
    for number in range(100):
        clock.advance(0.5)
        await ledger.reserve(str(number), [Claim(quick, 1)], ttl=MINUTE)
        assert counter is next(iter(ledger._counters.values()))


async def test_no_more_than_the_newest_settled_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SETTLED", 10)
    ledger = MemoryLedger(clock=ManualClock())
    _, _, lifetime, _ = buckets("b")
    for number in range(30):
        await ledger.reserve(str(number), [Claim(lifetime, 0)], ttl=MINUTE)
        await ledger.settle(str(number), {})
    assert await ledger.settle("20", {}) is not None
    assert await ledger.settle("19", {}) is None  # and that is remembered now, instead of "20"
    assert await ledger.settle("20", {}) is None
    assert 10 == len(ledger._settled)


async def test_the_ends_of_what_is_settled_are_not_kept_until_they_come() -> None:
    ledger = MemoryLedger(clock=ManualClock())
    _, _, lifetime, lease = buckets("b")
    await ledger.reserve("held", [Claim(lease, 1)], ttl=MINUTE)
    for number in range(5_000):
        await ledger.reserve(str(number), [Claim(lifetime, 0)], ttl=MINUTE)
        await ledger.settle(str(number), {})
    assert len(ledger._ends) < 1_100
    assert ("held",) == tuple(name for _, name in ledger._ends if name in ledger._held)


async def test_a_clock_that_is_set_back_into_a_window_that_was_over_finds_what_was_used_in_it() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock=clock)
    window, _, _, _ = buckets("b")
    await ledger.reserve("r", [Claim(window, 7)], ttl=MINUTE)
    clock.advance(119)
    assert [0] == [balance.used for balance in await ledger.balance([window])]
    clock.set(START / SECOND + 59)
    assert [7] == [balance.used for balance in await ledger.balance([window])]


async def test_a_late_truth_leaves_alone_what_was_used_since_in_a_window_that_came_back() -> None:
    clock = ManualClock()
    ledger = MemoryLedger(clock=clock)
    window, _, _, _ = buckets("b")
    await ledger.reserve("r1", [Claim(window, 7)], ttl=SECOND)
    clock.advance(121)
    await ledger.balance([window])
    clock.set(START / SECOND + 59)
    await ledger.reserve("r2", [Claim(window, 2)], ttl=MINUTE)
    await ledger.settle("r1", {"tokens": 9})
    assert [2] == [balance.used for balance in await ledger.balance([window])]
