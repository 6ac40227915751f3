"""Numbers of any size, counted by doubles, and by Python's integers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_authmw.errors import InvalidValueError
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Bucket, Claim, Measure, Span
from llm_authmw.ledger.contract import Ledger
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.redis import RedisLedger, scripts
from llm_authmw.testing import ManualClock
from tests.peers.valkey import ValkeyPeer

MOST = 2**53
NOW = 1_800_000_000 * SECOND
COMMON = (scripts._FOLDER / "common.lua").read_text(encoding="utf-8")

amounts = st.integers(0, MOST) | st.integers(0, 10**6) | st.integers(MOST - 5, MOST) | st.integers(0, 53).map(lambda power: 2**power)
above_zero = amounts.map(lambda amount: max(1, amount))


@pytest.fixture(scope="module")
def server(valkey_server: ValkeyPeer) -> Iterator[Any]:
    with redis.Redis(port=valkey_server.port) as client:
        yield client


def evaluate(server: Any, expression: str, *numbers: int) -> list[int]:
    """Return what an expression over a, b, c, d and m gives, with the scripts' own functions."""
    text = f"{COMMON}\nlocal a, b, c, d, m = unpack(asked.numbers)\nlocal x, y = {expression}\nreturn cmsgpack.pack({{x, y}})"
    values: list[int] = msgspec.msgpack.decode(server.eval(text, 1, "k", msgspec.msgpack.encode({"numbers": numbers, "now": NOW})))
    assert all(isinstance(value, int) for value in values)
    return values


@given(a=amounts, b=amounts, m=above_zero)
@settings(max_examples=300)
def test_a_ratio_is_exact_wherever_it_can_be_counted(server: Any, a: int, b: int, m: int) -> None:
    whole, part = divmod(a * b, m)
    if whole <= MOST:
        assert [whole, part] == evaluate(server, "ratio(a, b, m)", a, b, 0, 0, m)
    else:
        assert evaluate(server, "ratio(a, b, m) >= MOST and 1 or 0, 0", a, b, 0, 0, m)[0]


@given(m=above_zero, data=st.data())
@settings(max_examples=100)
def test_sums_and_differences_are_exact(server: Any, m: int, data: st.DataObject) -> None:
    part, other = (data.draw(st.integers(0, m - 1)) for _ in range(2))
    whole = data.draw(st.integers(0, MOST // 2 - 1))
    less = data.draw(st.integers(0, MOST // 2 - 1))
    assert list(divmod((whole + less) * m + part + other, m)) == evaluate(server, "plus(a, b, c, d, m)", whole, part, less, other, m)
    assert list(divmod((whole - less) * m + part - other, m)) == evaluate(server, "minus(a, b, c, d, m)", whole, part, less, other, m)


# A bucket of a period beyond some centuries would be full again when no double can say so.
periods = st.integers(1, 2**52) | st.integers(1, 86_400 * SECOND) | st.sampled_from([SECOND, 60 * SECOND, 86_400 * SECOND])


@st.composite
def buckets(draw: st.DrawFn) -> Bucket:
    limit = draw(above_zero)
    if draw(st.booleans()):
        return Bucket(
            tenant="t", name="b", kind="rolling", measure="tokens", limit=limit, burst=draw(st.integers(1, limit)), period=draw(periods)
        )
    if draw(st.booleans()):
        return Bucket(tenant="t", name="b", kind="lifetime", measure="tokens", limit=limit)
    return Bucket(tenant="t", name="b", kind="window", measure="tokens", limit=limit, spans=(Span(0, NOW), Span(NOW, MAX_MOMENT)))


steps = st.lists(st.tuples(amounts, st.none() | amounts, st.integers(0, 86_400 * SECOND) | st.integers(0, 1000)), min_size=1, max_size=6)


@given(bucket=buckets(), lower=st.integers(1, MOST), steps=steps)
@settings(max_examples=250)
def test_the_greatest_and_the_least_are_counted_as_in_memory(
    valkey_server: ValkeyPeer, bucket: Bucket, lower: int, steps: list[tuple[int, int | None, int]]
) -> None:
    valkey_server.ask("FLUSHALL")
    clock = ManualClock(NOW / SECOND)
    other = msgspec.structs.replace(bucket, limit=lower, burst=min(bucket.burst, lower))

    async def both(*ledgers: Ledger) -> None:
        for number, (amount, truth, later) in enumerate(steps):
            name, fitting = f"r{number}", amount % (bucket.capacity + 1) if number % 2 else amount
            first, second = [await ledger.reserve(name, [Claim(bucket, fitting)], ttl=60 * SECOND) for ledger in ledgers]
            assert first == second
            if truth is not None:
                actual: dict[Measure, int] = {"tokens": truth}
                results = [await settled(ledger, name, actual) for ledger in ledgers]
                assert results[0] == results[1]
            for asked in (bucket, other):
                standing, same = [await ledger.balance([asked]) for ledger in ledgers]
                assert standing == same
            clock.advance(later / SECOND)

    async def settled(ledger: Ledger, name: str, actual: dict[Measure, int]) -> object:
        try:
            return await ledger.settle(name, actual)
        except InvalidValueError as error:
            return type(error)

    async def run() -> None:
        ledger = RedisLedger(valkey_server.url, deadline=20.0, clock=clock)
        try:
            await both(MemoryLedger(clock=clock), ledger)
        finally:
            await ledger.aclose()

    asyncio.run(run())
