"""Budgets that are raised for a time, or reset."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import InvalidValueError
from llm_authmw.increases import FOR_GOOD, chosen, with_increase, with_reset, without_increase
from llm_authmw.quota import NANO_USD, Budget

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
END = 1_801_440_000  # 2027-02-01


def budgets(*texts: str) -> tuple[Budget, ...]:
    return tuple(map(Budget.parse, texts))


@pytest.mark.parametrize(
    ("problem", "own", "given"),
    [
        ("no budget of its own", (), {}),
        ("say which by its window", ("50 usd/month", "5 usd/day"), {}),
        ("no budget for a day", ("50 usd/month",), {"which": "day"}),
        ("no budget for ever", ("50 usd/month",), {"which": "ever"}),
        ("two budgets for one window", ("50 usd/month", "40 usd/month, starts 15"), {"which": "month"}),
        ("two budgets for one window", ("50 usd/month", "40 usd/month, starts 15"), {}),
        ("not an increase", ("50 usd/month",), {"by": "much"}),
        ("not an amount", ("50 usd/month",), {"by": "20 usd until 2027-02-01, soft 80%"}),
        ("has an amount and an end", ("50 usd/month",), {"by": "0 usd"}),
        ("at most 2\\^53", ("50 usd/month",), {"by": "9007199 usd"}),
        ("neither a date", ("50 usd/month",), {"until": "tomorrow"}),
        ("over already", ("50 usd/month",), {"until": "2027-01-15T08:00:00Z"}),
        ("has an increase already", ("50 usd/month, plus 5 usd until 2027-02-01",), {"until": "2027-02-02"}),
    ],
)
def test_an_increase_that_cannot_be_is_refused(problem: str, own: tuple[str, ...], given: dict[str, Any]) -> None:
    by, until = given.pop("by", "20 usd"), given.pop("until", "2027-02-01")

    with pytest.raises(InvalidValueError, match=problem):
        with_increase(budgets(*own), by, until=until, now=NOW, **given)


def test_an_increase_changes_one_budget_and_leaves_the_others() -> None:
    own = budgets("50 usd/month, soft 80%, starts 15", "5 usd/day", "100 usd")

    raised = with_increase(own, "2.5 usd", until="2027-02-01", now=NOW, which="day")

    assert ("50 usd/month, soft 80%, starts 15", "5 usd/day, plus 2.5 usd until 2027-02-01", "100 usd") == tuple(map(str, raised))
    assert own == without_increase(raised, which="day")


def test_a_date_is_one_of_the_budgets_own_time_zone() -> None:
    (raised,) = with_increase(budgets("50 usd/month, timezone Asia/Tokyo"), "1 usd", until="2027-02-01", now=NOW)

    assert END - 9 * 3600 == raised.until


def test_increases_until_the_same_moment_add_up() -> None:
    once = with_increase(budgets("50 usd/month"), "20 usd", until="2027-02-01", now=NOW)

    assert budgets("50 usd/month, plus 25 usd until 2027-02-01") == with_increase(once, "5 usd", until="2027-02-01T00:00:00Z", now=NOW)


def test_an_increase_that_is_over_makes_room_for_another() -> None:
    own = budgets("50 usd/month, plus 20 usd until 2027-01-15")

    assert budgets("50 usd/month, plus 5 usd until 2027-02-01") == with_increase(own, "5 usd", until="2027-02-01", now=NOW)


def test_a_reset_leaves_the_whole_amount_until_the_window_ends() -> None:
    (reset,) = with_reset(budgets("50 usd/month"), 60 * NANO_USD, until=END, now=NOW)

    assert "50 usd/month, plus 60 usd until 2027-02-01" == str(reset)
    assert (50 * NANO_USD, -10 * NANO_USD) == (reset.amount_at(END - 1) - 60 * NANO_USD, reset.amount_at(END) - 60 * NANO_USD)


def test_a_reset_of_what_was_not_used_changes_nothing() -> None:
    assert budgets("50 usd/month") == with_reset(budgets("50 usd/month"), 0, until=END, now=NOW)


@given(first=st.integers(1, 10**12), more=st.integers(0, 10**12))
def test_a_second_reset_leaves_the_whole_amount_too_and_not_twice_of_it(first: int, more: int) -> None:
    once = with_reset(budgets("50 usd/month"), first, until=END, now=NOW)

    assert once == with_reset(once, first, until=END, now=NOW)
    (again,) = with_reset(once, first + more, until=END, now=NOW)
    assert 50 * NANO_USD == again.amount_at(NOW) - (first + more)


def test_a_reset_takes_nothing_of_an_increase_that_leaves_more() -> None:
    own = budgets("50 usd/month, plus 20 usd until 2027-02-15")

    assert own == with_reset(own, 20 * NANO_USD, until=END, now=NOW)


def test_a_reset_does_not_silently_end_an_increase_that_goes_on_in_the_next_window() -> None:
    own = budgets("50 usd/month, plus 20 usd until 2027-02-15")

    with pytest.raises(InvalidValueError, match="would be lost"):
        with_reset(own, 60 * NANO_USD, until=END, now=NOW)
    assert budgets("50 usd/month, plus 60 usd until 2027-02-01") == with_reset(without_increase(own), 60 * NANO_USD, until=END, now=NOW)


def test_a_budget_for_ever_is_reset_without_an_end() -> None:
    (reset,) = with_reset(budgets("100 usd"), 3, until=None, now=NOW)

    assert "100 usd, plus 0.000000003 usd until 2255-01-01" == str(reset)
    assert dt.datetime(2255, 1, 1, tzinfo=dt.UTC).timestamp() == FOR_GOOD
    assert Budget.parse(str(reset)) == reset


def test_more_than_can_be_counted_is_not_added() -> None:
    with pytest.raises(InvalidValueError, match="at most 2\\^53"):
        with_reset(budgets("50 usd/month"), 2**53, until=END, now=NOW)


def test_the_only_budget_needs_no_window() -> None:
    assert Budget.parse("100 usd") == chosen(budgets("100 usd"))
