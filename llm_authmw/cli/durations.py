"""Durations and moments, as people write and read them.

A duration is a whole number and one of `s`, `m`, `h`, `d`, `w`; nothing at all is also `0`. A moment is a duration from now,
`now`, or an ISO 8601 date with or without a time; without a zone it is UTC, and a date alone is its midnight.
"""

import re
from datetime import UTC, datetime
from typing import Final

from llm_authmw.errors import InvalidValueError

MAX_DURATION: Final = 36_525 * 86_400.0
"""A hundred years in seconds: a longer time is a slip of the finger, and would leave the calendar."""

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"([0-9]{1,10})([smhdw])|0")
_DATE: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


def parse_duration(text: str) -> float:
    """Return the seconds that a duration such as `30d` means.

    Raises:
        InvalidValueError: `text` is not a duration, or is longer than a hundred years.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidValueError(f"{text!r} is not a duration such as 90s, 45m, 12h, 30d or 2w")
    if text == "0":
        return 0.0
    seconds = float(int(match[1]) * _SECONDS[match[2]])
    if seconds > MAX_DURATION:
        raise InvalidValueError(f"{text!r} is longer than a hundred years")
    return seconds


def parse_moment(text: str, *, now: float) -> float:
    """Return the moment that a duration from now, `now` or a date means.

    Args:
        text: What a person wrote.
        now: Seconds since 1970.

    Raises:
        InvalidValueError: `text` is none of these, or is before 1970.
    """
    if text == "now":
        return now
    if _DURATION.fullmatch(text) is not None:
        return now + parse_duration(text)
    try:
        found = datetime.fromisoformat(text) if _DATE.fullmatch(text) is not None else None
    except ValueError:
        found = None
    if found is None:
        raise InvalidValueError(f"{text!r} is not a moment such as now, 30d, 2030-01-31 or 2030-01-31T18:00Z")
    moment = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if moment < 0:
        raise InvalidValueError(f"{text!r} is before 1970")
    return moment


def parse_expiry(text: str, *, now: float) -> float | None:
    """Return a moment as `parse_moment` does, or None for `never`.

    Raises:
        InvalidValueError: `text` is neither.
    """
    return None if text == "never" else parse_moment(text, now=now)


def parse_past(text: str, *, now: float) -> float:
    """Return the moment that a duration before now, `now` or a date means.

    Args:
        text: What a person wrote.
        now: Seconds since 1970.

    Raises:
        InvalidValueError: `text` is none of these, or is before 1970.
    """
    if _DURATION.fullmatch(text) is not None:
        return max(now - parse_duration(text), 0.0)
    return parse_moment(text, now=now)


def is_relative(text: str) -> bool:
    """Say whether a moment depends on when it is read."""
    return text == "now" or _DURATION.fullmatch(text) is not None


def relative(moment: float, now: float) -> str:
    """Return how far away a moment is, in its largest unit: `in 29d`, `3h ago`, `now`."""
    distance = abs(moment - now)
    if distance < 1:
        return "now"
    unit = next(unit for unit in "dhms" if distance >= _SECONDS[unit])
    amount = f"{round(distance / _SECONDS[unit])}{unit}"
    return f"in {amount}" if moment > now else f"{amount} ago"


def exact(moment: float) -> str:
    """Return a moment as date and time in UTC."""
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # the records hold moments up to the year 33658, the calendar does not
        return "after the year 9999"


def milliseconds(length: float) -> str:
    """Return a length of time for a person; it is given in milliseconds."""
    if length >= 1000:
        return f"{length / 1000:.1f} s"
    return f"{length:.0f} ms" if length >= 10 else f"{length:.1f} ms"
