"""When a limit or a budget begins anew: calendar windows in a time zone, and the period of a rolling one.

A day begins at the first moment at which clocks in its zone read midnight or later. So a day on which clocks change has 23 or 25
hours, one whose midnight is left out begins where clocks go on, and one that a zone skipped has no window. Weeks begin on
Monday; months, quarters and years on the first of the month, or on the day that the budget says.

An hour is 60 minutes wherever clocks change by whole hours: one that is read twice is two windows. A window that clocks change
in the middle of ends there.
"""

import datetime as dt
import math
import zoneinfo
from fractions import Fraction
from typing import Final

import msgspec

from llm_authmw.errors import InvalidValueError
from llm_authmw.ledger.buckets import MAX_MOMENT, SECOND, Kind, Span
from llm_authmw.quota import Budget, Limit, Window

_SECONDS: Final[dict[Window, int]] = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_MONTHS: Final[dict[Window, int]] = {"month": 1, "quarter": 3, "year": 12}
_CLOCKS_OWN: Final = frozenset({"second", "minute", "hour"})
_ONE_DAY: Final = dt.timedelta(days=1)

_NEIGHBOURS: Final[dict[Window, int]] = {"second": 3, "minute": 3}
"""Windows before and after the present one that the store may pick: its clock may differ by some seconds, and one window is no more."""


class Rolling(msgspec.Struct, frozen=True):
    """What a rolling bucket is made of (GCRA, the generic cell rate algorithm).

    Attributes:
        limit: What comes back in one period.
        burst: What may be had at once.
        period: Microseconds.
    """

    limit: int
    burst: int
    period: int

    @property
    def emission_interval(self) -> Fraction:
        """The microseconds in which one unit comes back, exactly: rounding it first would make a large limit another one."""
        return Fraction(self.period, self.limit)


def kind_of(quota: Limit | Budget) -> Kind:
    """Return how use comes back: which kind of bucket counts it."""
    if isinstance(quota, Budget):
        return "lifetime" if quota.window is None else "window"
    if quota.window is None:
        return "lease"
    return "window" if quota.calendar else "rolling"


def rolling_of(limit: Limit) -> Rolling:
    """Return what the limit's bucket is made of. Without a burst of its own that is a tenth of the limit, and at least 1.

    Raises:
        InvalidValueError: The limit is not a rolling one.
    """
    if limit.window is None or limit.calendar:
        raise InvalidValueError(f"'{limit}' is not a rolling limit")
    return Rolling(limit.amount, limit.burst_amount, _SECONDS[limit.window] * SECOND)


def window_at(quota: Limit | Budget, moment: float) -> tuple[int, int]:
    """Return the window that a moment is in: its first second and the first one after it.

    Args:
        quota: What begins anew by the calendar. A limit does so in UTC.
        moment: Seconds since 1970.

    Raises:
        InvalidValueError: The quota has no calendar window.
    """
    window = quota.window
    if window is None or kind_of(quota) != "window":
        raise InvalidValueError(f"'{quota}' has no calendar window")
    timezone, starts = (quota.timezone, quota.starts) if isinstance(quota, Budget) else ("UTC", 1)
    zone = dt.UTC if timezone == "UTC" else zoneinfo.ZoneInfo(timezone)
    now = math.floor(moment)
    if window in _CLOCKS_OWN:
        return _short_window(zone, _SECONDS[window], now)
    first = _first_day(window, dt.datetime.fromtimestamp(now, zone).date(), starts)
    start = _midnight(zone, first)
    # The first turn is nearly always the last: but clocks that went back over midnight read a day whose window is over.
    while True:
        first = _next_first_day(window, first)
        end = _midnight(zone, first)
        if end > now:
            return start, end
        start = end


def spans_at(quota: Limit | Budget, moment: float) -> tuple[Span, ...]:
    """Return the windows that a bucket carries, in microseconds: the one that a moment is in, and those before and after it.

    The store picks the one that its own clock is in. The answer is the same for as long as the moment is in the same window.

    Args:
        quota: What begins anew by the calendar.
        moment: Seconds since 1970, by the clock of this process.

    Raises:
        InvalidValueError: The quota has no calendar window.
    """
    present = window_at(quota, moment)
    windows = [present]
    for _ in range(1 if quota.window is None else _NEIGHBOURS.get(quota.window, 1)):
        windows.insert(0, window_at(quota, windows[0][0] - 1))
        windows.append(window_at(quota, windows[-1][1]))
    spans = [Span(start * SECOND, end * SECOND) for start, end in windows]
    return tuple(span for span in spans if span.start >= 0 and span.end <= MAX_MOMENT)


def _first_day(window: Window, day: dt.date, starts: int) -> dt.date:
    if window == "day":
        return day
    if window == "week":
        return day - day.weekday() * _ONE_DAY
    month = day.year * 12 + day.month - 1 - (day.day < starts)
    return _day_of(month - month % _MONTHS[window], starts)


def _next_first_day(window: Window, first: dt.date) -> dt.date:
    if window in _MONTHS:
        return _day_of(first.year * 12 + first.month - 1 + _MONTHS[window], first.day)
    return first + (_ONE_DAY if window == "day" else 7 * _ONE_DAY)


def _day_of(month: int, day: int) -> dt.date:
    return dt.date(month // 12, month % 12 + 1, day)


def _midnight(zone: dt.tzinfo, day: dt.date) -> int:
    """Return the first second at which clocks in the zone read midnight of the day, or later."""
    local = dt.datetime(day.year, day.month, day.day, tzinfo=zone)
    moment = int(local.timestamp())
    if dt.datetime.fromtimestamp(moment, zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return moment
    # Clocks leave midnight out. Read with the offset from after the change it lies before the change, and the other way round (PEP 495).
    return _change(zone, int(local.replace(fold=1).timestamp()), moment)


def _short_window(zone: dt.tzinfo, length: int, now: int) -> tuple[int, int]:
    offset = _offset(zone, now)
    start = now - (now + offset) % length
    end = start + length
    if _offset(zone, start) != offset:
        start = _change(zone, start, now)
    if _offset(zone, end - 1) != offset:
        end = _change(zone, now, end - 1)
    return start, end


def _change(zone: dt.tzinfo, before: int, after: int) -> int:
    """Return the first second at which clocks read by another offset than at `before`; they do at `after`, and change once."""
    offset = _offset(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(zone: dt.tzinfo, moment: int) -> int:
    offset = dt.datetime.fromtimestamp(moment, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())
