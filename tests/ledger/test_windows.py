import datetime as dt
import functools
import itertools
import zoneinfo
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_authmw.errors import InvalidValueError
from llm_authmw.ledger.buckets import MAX_MOMENT, MAX_SPANS, SECOND, Bucket
from llm_authmw.ledger.windows import Rolling, kind_of, rolling_of, spans_at, window_at
from llm_authmw.quota import Budget, Limit

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # changed clocks one minute after midnight
    "America/Santiago",  # leaves midnight out
    "America/Havana",  # has midnight twice
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # changes clocks by half an hour
    "Pacific/Apia",  # skipped a day
    "Africa/Casablanca",
    "Africa/Monrovia",  # kept an offset of odd seconds until 1972
)
LATEST = 2_145_916_800  # 2038
DAYS = ("day", "week", "month", "quarter", "year")
LENGTHS = {"second": 1, "minute": 60, "hour": 3600}


def offset(zone: str, moment: int) -> int:
    shift = dt.datetime.fromtimestamp(moment, zoneinfo.ZoneInfo(zone)).utcoffset()
    assert shift is not None
    return int(shift.total_seconds())


def wall(zone: str, moment: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1) + dt.timedelta(seconds=moment + offset(zone, moment))  # noqa: DTZ001 - what a clock on the wall reads


@functools.cache
def changes(zone: str) -> list[int]:
    # Days between which the offset differs; examples are then drawn from the two days around.
    days = range(86_400, LATEST, 86_400)
    return [day for day in days if offset(zone, day) != offset(zone, day + 86_400)] or [LATEST // 2]


@st.composite
def zones_and_moments(draw: st.DrawFn) -> tuple[str, int]:
    zone = draw(st.sampled_from(ZONES))
    near = st.tuples(st.sampled_from(changes(zone)), st.integers(-86_400, 2 * 86_400)).map(sum)
    return zone, draw(near | st.integers(2 * 86_400, LATEST))


def period_of(window: str, starts: int, when: dt.datetime) -> Any:
    if window == "week":
        return when.isocalendar()[:2]
    if window == "day":
        return when.date()
    if when.day < starts:
        when = when.replace(day=1) - dt.timedelta(days=1)
    return {"month": (when.year, when.month), "quarter": (when.year, (when.month + 2) // 3), "year": when.year}[window]


def budget(window: str, zone: str, starts: int = 1) -> Budget:
    return Budget.parse(f"1 usd/{window}" + (f", starts {starts}" if starts != 1 else "") + (f", timezone {zone}" if zone != "UTC" else ""))


@given(zones_and_moments(), st.sampled_from(DAYS), st.integers(1, 28))
def test_a_window_begins_when_the_clock_on_the_wall_first_reaches_it(at: tuple[str, int], window: str, day: int) -> None:
    zone, moment = at
    starts = day if window in {"month", "quarter", "year"} else 1
    start, end = window_at(budget(window, zone, starts), moment)
    period = functools.partial(period_of, window, starts)
    assert start <= moment < end
    assert period(wall(zone, start - 1)) < period(wall(zone, start))
    # Clocks that go back over midnight read the day before once more.
    assert period(wall(zone, moment)) <= period(wall(zone, start))
    assert period(wall(zone, end - 1)) <= period(wall(zone, start)) < period(wall(zone, end))


@given(zones_and_moments(), st.sampled_from(sorted(LENGTHS)))
def test_a_short_window_begins_at_a_round_time_or_where_clocks_change(at: tuple[str, int], window: str) -> None:
    zone, moment = at
    start, end = window_at(budget(window, zone), moment)
    length = LENGTHS[window]
    assert start <= moment < end <= start + length
    assert offset(zone, start) == offset(zone, moment) == offset(zone, end - 1)
    for edge in (start, end):
        assert (edge + offset(zone, edge)) % length == 0 or offset(zone, edge - 1) != offset(zone, edge)


@given(zones_and_moments(), st.sampled_from((*DAYS, *LENGTHS)))
def test_windows_leave_no_second_out_and_share_none(at: tuple[str, int], window: str) -> None:
    zone, moment = at
    quota = budget(window, zone)
    start, end = window_at(quota, moment)
    assert (start, end) == window_at(quota, start) == window_at(quota, end - 1) == window_at(quota, end - 0.001)
    assert start == window_at(quota, start - 1)[1]
    assert end == window_at(quota, end)[0]


@given(st.integers(2 * 86_400, LATEST), st.sampled_from(("second", "minute", "hour", "day", "week", "month")))
def test_a_limit_by_the_calendar_is_counted_in_utc(moment: int, window: str) -> None:
    assert window_at(budget(window, "UTC"), moment) == window_at(Limit.parse(f"9 requests/{window}, calendar"), moment)


def seconds(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("text", "moment", "start", "end"),
    [
        ("1 usd/day, timezone Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("1 usd/day, timezone Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("1 usd/day", "2024-02-29T23:59:59+00:00", "2024-02-29T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("1 usd/month", "2024-02-29T23:59:59+00:00", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("1 usd/month", "2026-02-28T23:59:59+00:00", "2026-02-01T00:00+00:00", "2026-03-01T00:00+00:00"),
        ("1 usd/month, starts 15", "2026-01-14T23:59:59+00:00", "2025-12-15T00:00+00:00", "2026-01-15T00:00+00:00"),
        ("1 usd/quarter, starts 15", "2026-01-14T00:00+00:00", "2025-10-15T00:00+00:00", "2026-01-15T00:00+00:00"),
        ("1 usd/quarter", "2026-06-30T00:00+00:00", "2026-04-01T00:00+00:00", "2026-07-01T00:00+00:00"),
        ("1 usd/year, starts 28", "2024-01-27T00:00+00:00", "2023-01-28T00:00+00:00", "2024-01-28T00:00+00:00"),
        ("1 usd/year, timezone Asia/Kathmandu", "2023-12-31T18:15+00:00", "2024-01-01T00:00+05:45", "2025-01-01T00:00+05:45"),
        ("1 usd/week", "2026-01-01T00:00+00:00", "2025-12-29T00:00+00:00", "2026-01-05T00:00+00:00"),
        ("1 usd/hour, timezone Asia/Kolkata", "2026-01-01T00:15+00:00", "2025-12-31T23:30+00:00", "2026-01-01T00:30+00:00"),
        # Midnight is left out: the day begins at one.
        ("1 usd/day, timezone America/Santiago", "2024-09-08T12:00-03:00", "2024-09-08T01:00-03:00", "2024-09-09T00:00-03:00"),
        # Midnight comes twice: the day begins at the first one.
        ("1 usd/day, timezone America/Havana", "2024-11-03T12:00-05:00", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00"),
        # One minute of the day, then clocks go back to the day before: its hour counts as the new day.
        ("1 usd/day, timezone America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
        # From half past eleven clocks went on to half past midnight.
        ("1 usd/day, timezone America/Toronto", "1919-03-31T12:00-04:00", "1919-03-31T00:30-04:00", "1919-04-01T00:00-04:00"),
        ("1 usd/day, timezone America/Toronto", "1919-03-30T12:00-05:00", "1919-03-30T00:00-05:00", "1919-03-31T00:30-04:00"),
        # The zone went from the 29th to the 31st.
        ("1 usd/day, timezone Pacific/Apia", "2011-12-31T12:00+14:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
        ("1 usd/day, timezone Pacific/Apia", "2011-12-29T12:00-10:00", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
        # From two to three o'clock comes twice: two windows.
        ("1 usd/hour, timezone Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T03:00+02:00"),
        ("1 usd/hour, timezone Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        # One minute after midnight clocks go back by an hour: that minute is a window, and what follows until midnight.
        ("1 usd/hour, timezone America/St_Johns", "2010-11-07T00:00:30-02:30", "2010-11-07T00:00-02:30", "2010-11-07T00:01-02:30"),
        ("1 usd/hour, timezone America/St_Johns", "2010-11-06T23:30-03:30", "2010-11-06T23:01-03:30", "2010-11-07T00:00-03:30"),
        # At two, clocks go back to half past one.
        ("1 usd/hour, timezone Australia/Lord_Howe", "2026-04-05T01:45+11:00", "2026-04-05T01:00+11:00", "2026-04-05T02:00+11:00"),
        ("1 usd/hour, timezone Australia/Lord_Howe", "2026-04-05T01:45+10:30", "2026-04-05T01:30+10:30", "2026-04-05T02:00+10:30"),
    ],
)
def test_windows_that_are_easily_got_wrong(text: str, moment: str, start: str, end: str) -> None:
    assert (seconds(start), seconds(end)) == window_at(Budget.parse(text), seconds(moment))


@pytest.mark.parametrize("text", ["2026-03-29", "2026-10-25"])
def test_a_day_on_which_clocks_change_has_23_or_25_hours(text: str) -> None:
    start, end = window_at(Budget.parse("1 usd/day, timezone Europe/Berlin"), seconds(f"{text}T12:00+00:00"))
    assert {"2026-03-29": 23, "2026-10-25": 25}[text] * 3600 == end - start


@given(zones_and_moments(), st.sampled_from((*DAYS, *LENGTHS)))
def test_a_bucket_takes_the_windows_and_finds_the_present_one_among_its_neighbours(at: tuple[str, int], window: str) -> None:
    zone, moment = at
    quota = budget(window, zone)
    assume(window_at(quota, moment)[0] > 366 * 86_400)
    spans = spans_at(quota, moment + 0.5)
    bucket = Bucket(tenant="default", name="b", kind="window", measure="nano_usd", limit=1, spans=spans)
    present = bucket.span_at(moment * SECOND + SECOND - 1)
    assert 3 <= len(spans) <= MAX_SPANS
    assert spans[len(spans) // 2] == present
    assert tuple(edge * SECOND for edge in window_at(quota, moment)) == present
    assert all(one.end == next_one.start for one, next_one in itertools.pairwise(spans))


@given(zones_and_moments(), st.sampled_from((*DAYS, *LENGTHS)))
def test_the_windows_that_a_bucket_carries_are_the_same_throughout_the_present_one(at: tuple[str, int], window: str) -> None:
    quota = budget(window, at[0])
    start, end = window_at(quota, at[1])
    assert spans_at(quota, start) == spans_at(quota, end - 1)


@pytest.mark.parametrize(("window", "apart"), [("second", 3), ("minute", 180), ("hour", 3600), ("day", 86_400)])
def test_a_store_whose_clock_differs_by_seconds_still_finds_its_window(window: str, apart: int) -> None:
    now = seconds("2026-11-21T17:00+00:00")
    bucket = Bucket(tenant="t", name="b", kind="window", measure="requests", limit=1, spans=spans_at(budget(window, "UTC"), now))
    for theirs in (now - apart, now + apart):
        span = bucket.span_at(theirs * SECOND)
        assert span is not None
        assert tuple(edge * SECOND for edge in window_at(budget(window, "UTC"), theirs)) == span
    assert bucket.span_at((now - 8 * apart) * SECOND) is None


@pytest.mark.parametrize("moment", [0, MAX_MOMENT // SECOND])
def test_windows_that_no_store_can_count_in_are_left_out(moment: int) -> None:
    spans = spans_at(budget("day", "UTC"), moment)
    assert all(0 <= span.start < span.end <= MAX_MOMENT for span in spans)
    assert len(spans) == (2 if moment == 0 else 1)


@pytest.mark.parametrize("quota", [Budget.parse("5 usd"), Limit.parse("5 requests/day"), Limit.parse("5 concurrent")])
def test_what_does_not_go_by_the_calendar_has_no_window(quota: Limit | Budget) -> None:
    with pytest.raises(InvalidValueError, match="has no calendar window"):
        window_at(quota, 0)
    with pytest.raises(InvalidValueError, match="has no calendar window"):
        spans_at(quota, 0)


@pytest.mark.parametrize("text", ["5 concurrent", "5 requests/day, calendar", "5 requests/month, calendar"])
def test_what_does_not_roll_has_no_period(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a rolling limit"):
        rolling_of(Limit.parse(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60 requests/minute", Rolling(limit=60, burst=6, period=60_000_000)),
        ("60 requests/minute, burst 10", Rolling(limit=60, burst=10, period=60_000_000)),
        ("9 requests/second", Rolling(limit=9, burst=1, period=1_000_000)),
        ("1000000 tokens/hour", Rolling(limit=1_000_000, burst=100_000, period=3_600_000_000)),
        ("7 output tokens/day", Rolling(limit=7, burst=1, period=86_400_000_000)),
        ("7 input tokens/week", Rolling(limit=7, burst=1, period=604_800_000_000)),
    ],
)
def test_a_rolling_limit_has_a_tenth_of_itself_as_its_burst_and_at_least_one(text: str, expected: Rolling) -> None:
    rolling = rolling_of(Limit.parse(text))
    assert expected == rolling
    assert Fraction(expected.period, expected.limit) == rolling.emission_interval


def test_an_emission_interval_is_not_rounded() -> None:
    assert Fraction(3, 5) == rolling_of(Limit.parse("100_000_000 tokens/minute")).emission_interval


@pytest.mark.parametrize(
    ("quota", "kind"),
    [
        (Limit.parse("4 concurrent"), "lease"),
        (Limit.parse("4 requests/minute"), "rolling"),
        (Limit.parse("4 requests/minute, calendar"), "window"),
        (Budget.parse("4 usd/minute"), "window"),
        (Budget.parse("4 usd"), "lifetime"),
    ],
)
def test_every_limit_and_budget_has_a_kind_of_bucket(quota: Limit | Budget, kind: str) -> None:
    assert kind == kind_of(quota)
