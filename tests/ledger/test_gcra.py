from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.ledger import gcra
from llm_authmw.ledger.buckets import Bucket

NOW = 1_800_000_000_000_000
limits = st.integers(1, 2**53)
periods = st.integers(1, 7 * 86_400 * 1_000_000)


def rate(limit: int, burst: int, period: int) -> Bucket:
    return Bucket(tenant="t", name="b", kind="rolling", measure="tokens", limit=limit, burst=burst, period=period)


def test_a_bucket_that_nothing_was_taken_from_is_full() -> None:
    assert 0 == gcra.taken(gcra.ALWAYS, NOW, 7)
    assert 0 == gcra.wait(0, 5, rate(7, 5, 1_000_000))


@given(missing=st.integers(0, 2**100), limit=limits)
def test_what_is_missing_is_kept_without_rounding(missing: int, limit: int) -> None:
    assert missing == gcra.taken(gcra.refilled(missing, NOW, limit), NOW, limit)


@given(missing=st.integers(0, 2**80), limit=limits, later=st.integers(0, 2**40))
def test_each_microsecond_brings_back_the_limit(missing: int, limit: int, later: int) -> None:
    full_at = gcra.refilled(missing, NOW, limit)
    assert max(0, missing - later * limit) == gcra.taken(full_at, NOW + later, limit)


@given(limit=limits, period=periods, data=st.data())
def test_a_wait_is_the_shortest_after_which_there_is_enough(limit: int, period: int, data: st.DataObject) -> None:
    burst = data.draw(st.integers(1, limit))
    amount = data.draw(st.integers(0, burst))
    missing = data.draw(st.integers(0, 3 * burst * period))
    bucket = rate(limit, burst, period)
    exact = (Fraction(missing) - (burst - amount) * period) / limit
    wait = gcra.wait(missing, amount, bucket)
    assert max(0, ceil(exact)) == wait
    full_at = gcra.refilled(missing, NOW, limit)
    assert 0 == gcra.wait(gcra.taken(full_at, NOW + wait, limit), amount, bucket)
    if wait:
        assert 1 == gcra.wait(gcra.taken(full_at, NOW + wait - 1, limit), amount, bucket)


@given(limit=limits, lower=limits, missing=st.integers(0, 2**80))
def test_another_limit_leaves_the_moment_at_which_a_bucket_is_full(limit: int, lower: int, missing: int) -> None:
    moment, part = gcra.refilled(missing, NOW, limit)
    assert 0 <= part < limit
    assert 0 <= gcra.taken((moment, part), moment, lower) < lower
    assert 0 == gcra.taken((moment, part), moment + 1, lower)
