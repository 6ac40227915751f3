from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.ledger.breaker import Breaker
from llm_authmw.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(failures=3, interval=1.0, max_interval=4.0, clock=clock)


def trip(breaker: Breaker) -> None:
    for _ in range(3):
        breaker.failed(breaker.enter())


def lets_through(breaker: Breaker) -> bool:
    try:
        breaker.enter()
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"failures": 0}, "failures"),
        ({"interval": 0.0}, "interval"),
        ({"interval": 9.0, "max_interval": 5.0}, "interval"),
        ({"max_interval": float("inf")}, "interval"),
        ({"interval": float("nan")}, "interval"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Breaker(**options)
    assert option == caught.value.option


def test_as_many_failures_in_a_row_as_stated_open_it_and_one_fewer_do_not(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed(breaker.enter())
    assert lets_through(breaker)
    breaker.failed(breaker.enter())
    assert breaker.open
    assert not lets_through(breaker)


def test_an_answer_between_failures_begins_the_row_anew(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed(breaker.enter())
        breaker.failed(breaker.enter())
        breaker.succeeded(breaker.enter())
    assert not breaker.open


def test_one_probe_goes_out_per_interval(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(0.999)
    assert not lets_through(breaker)
    clock.advance(0.001)
    assert [True, False, False] == [lets_through(breaker) for _ in range(3)]


def test_a_probe_that_nothing_came_of_is_followed_by_another_one(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(1.0)
    assert [True, False] == [lets_through(breaker), lets_through(breaker)]
    clock.advance(1.0)
    assert lets_through(breaker)


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(1.0)
    breaker.succeeded(breaker.enter())
    assert not breaker.open
    assert [True, True] == [lets_through(breaker), lets_through(breaker)]


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    for wait in (1.0, 2.0, 4.0, 4.0):
        clock.advance(wait - 0.001)
        assert not lets_through(breaker)
        clock.advance(0.001)
        breaker.failed(breaker.enter())


def test_the_wait_is_short_again_once_it_was_closed(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(1.0)
    breaker.failed(breaker.enter())
    clock.advance(2.0)
    breaker.succeeded(breaker.enter())
    trip(breaker)
    clock.advance(1.0)
    assert lets_through(breaker)


def test_what_came_of_a_call_from_before_it_opened_says_nothing(breaker: Breaker, clock: ManualClock) -> None:
    early = breaker.enter()
    trip(breaker)
    breaker.succeeded(early)
    assert breaker.open
    breaker.failed(early)
    clock.advance(1.0)
    assert lets_through(breaker)


def test_a_failure_of_a_call_from_before_it_closed_does_not_count(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    clock.advance(1.0)
    late = breaker.enter()
    clock.advance(1.0)
    breaker.succeeded(breaker.enter())
    for _ in range(3):
        breaker.failed(late)
    assert not breaker.open


def test_a_probe_can_be_allowed_before_its_time(breaker: Breaker) -> None:
    trip(breaker)
    breaker.allow_probe()
    assert [True, False] == [lets_through(breaker), lets_through(breaker)]
