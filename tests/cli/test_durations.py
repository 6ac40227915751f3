import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.cli.durations import MAX_DURATION, exact, is_relative, parse_duration, parse_expiry, parse_moment, parse_past, relative
from llm_authmw.errors import InvalidValueError

NOW = 1_800_000_000.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@pytest.mark.parametrize(
    "text",
    ["", "30", "d", "-1d", "1.5h", "1 d", " 1d", "1d ", "1D", "1y", "1h30m", "\u0661d", "1d\n", "00", "99999999999s", "never", "now"],
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "5219w", "9999999999s"])
def test_a_duration_longer_than_a_century_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="longer than a hundred years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0, "0s"), (90, "90s"), (2700, "45m"), (43_200, "12h"), (2_592_000, "30d"), (1_209_600, "2w"), (MAX_DURATION, "36525d")],
)
def test_a_duration_is_a_number_and_a_unit(seconds: float, text: str) -> None:
    assert seconds == parse_duration(text)


@given(st.integers(0, 5000), st.sampled_from(sorted(UNITS)))
def test_every_number_and_unit_is_so_many_seconds(number: int, unit: str) -> None:
    assert number * UNITS[unit] == parse_duration(f"{number}{unit}")
    assert NOW + number * UNITS[unit] == parse_moment(f"{number}{unit}", now=NOW)


@pytest.mark.parametrize("parse", [parse_duration, partial(parse_moment, now=NOW), partial(parse_expiry, now=NOW)])
@given(text=st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*"))
def test_any_text_is_either_read_or_refused_in_words_that_quote_it(parse: Callable[[str], float | None], text: str) -> None:
    try:
        found = parse(text)
    except InvalidValueError as error:
        refusal = str(error)
        assert refusal.startswith(repr(text))
    else:
        assert found is None or found >= 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "never",
        "tomorrow",
        "2030",
        "20300131",
        "2030-W05-4",
        "2030-1-31",
        "2030-02-30",
        "2030-13-01",
        "2030-01-31T",
        "2030-01-31T25:00",
        "2030-01-31T18",
        "2030-01-31T18:00+2",
        "2030-01-31T18:00z",
        "2030-01-31 18:00 UTC",
        "1800000000",
        "+30d",
        "NOW",
    ],
)
def test_what_is_not_a_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a moment such as"):
        parse_moment(text, now=NOW)


@pytest.mark.parametrize("text", ["1969-12-31", "0001-01-01T00:00+14:00", "1970-01-01T00:00+00:01"])
def test_a_moment_before_1970_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="before 1970"):
        parse_moment(text, now=NOW)


def test_a_moment_is_counted_from_now() -> None:
    assert NOW == parse_moment("now", now=NOW)
    assert NOW + 2_592_000 == parse_moment("30d", now=NOW)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2030, 1, 31, tzinfo=UTC), "2030-01-31"),
        (datetime(2030, 1, 31, 18, tzinfo=UTC), "2030-01-31T18:00"),
        (datetime(2030, 1, 31, 18, 0, 5, tzinfo=UTC), "2030-01-31 18:00:05Z"),
        (datetime(2030, 1, 31, 16, tzinfo=UTC), "2030-01-31T18:00+02:00"),
        (datetime(2030, 1, 31, 18, 0, 5, 250_000, tzinfo=UTC), "2030-01-31T18:00:05.250+00:00"),
    ],
)
def test_a_date_without_a_zone_is_utc_wherever_the_machine_stands(moment: datetime, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        found = parse_moment(text, now=NOW)
    time.tzset()

    assert moment.timestamp() == found


@given(st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001 - hypothesis takes them bare
def test_every_date_that_python_writes_is_read_as_the_same_moment(naive: datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert moment.timestamp() == parse_moment(moment.isoformat(), now=NOW)


def test_an_expiry_may_be_never() -> None:
    assert parse_expiry("never", now=NOW) is None
    assert NOW + 60 == parse_expiry("1m", now=NOW)


@pytest.mark.parametrize(("moment", "text"), [(NOW - 86_400, "24h"), (NOW, "now"), (1_900_000_000.0, "2030-03-17T17:46:40Z")])
def test_a_moment_that_is_over_is_a_duration_before_now(moment: float, text: str) -> None:
    assert moment == parse_past(text, now=NOW)


def test_no_moment_that_is_over_is_before_1970() -> None:
    assert 0.0 == parse_past("50w", now=1_000.0)


@pytest.mark.parametrize(("answer", "text"), [(True, "30d"), (True, "now"), (True, "0"), (False, "2030-01-31"), (False, "never")])
def test_a_moment_that_depends_on_when_it_is_read_is_told_apart(answer: bool, text: str) -> None:
    assert answer == is_relative(text)


@pytest.mark.parametrize(
    ("text", "distance"),
    [
        ("now", 0),
        ("now", -0.9),
        ("in 59s", 59),
        ("1m ago", -60),
        ("in 30d", 30 * 86_400 - 0.2),
        ("in 3h", 3 * 3600),
        ("400d ago", -400 * 86_400),
    ],
)
def test_a_moment_is_shown_as_far_away_in_its_largest_unit(text: str, distance: float) -> None:
    assert text == relative(NOW + distance, NOW)


def test_a_moment_is_shown_to_the_second_in_utc() -> None:
    assert "2027-01-15 08:00:00 UTC" == exact(NOW)


@pytest.mark.parametrize("moment", [253_402_300_800.0, 1e12])
def test_a_moment_beyond_the_calendar_is_shown_as_that(moment: float) -> None:
    assert "after the year 9999" == exact(moment)
