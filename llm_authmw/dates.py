"""Dates and times as people and clients write them. None of them asks what time it is."""

import datetime as dt
import re
import zoneinfo
from typing import Final

_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?(?:Z|[+-][0-9]{2}:[0-9]{2}))?")

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_DAY: Final = dt.date(1970, 1, 1).toordinal()


def parse_moment(text: str, timezone: str) -> int:
    """Return the moment at which a date begins in a time zone, or which a time with an offset is, in seconds since 1970.

    Raises:
        ValueError: `text` is neither a date such as `2026-12-01` nor a time such as `2026-12-01T18:00:00Z`, or there is no such day.
    """
    if _MOMENT.fullmatch(text) is None:
        raise ValueError(f"{text!r} is neither a date such as 2026-12-01 nor a time such as 2026-12-01T18:00:00Z")
    moment = dt.datetime.fromisoformat(text)
    return int((moment.replace(tzinfo=zoneinfo.ZoneInfo(timezone)) if moment.tzinfo is None else moment).timestamp())


def moment_text(moment: int, timezone: str) -> str:
    """Return what `parse_moment` reads as this moment: the date where one begins then in the time zone, else the time."""
    local = dt.datetime.fromtimestamp(moment, zoneinfo.ZoneInfo(timezone))
    date = local.date().isoformat()
    # Midnight comes twice where clocks are set back over it, and the day begins with the first one.
    return date if local.time() == dt.time() and parse_moment(date, timezone) == moment else rfc3339(moment)


def rfc3339(moment: int) -> str:
    """Return a moment in UTC, as RFC 3339 §5.6 writes it."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_text(day: int) -> str:
    """Return a number of days since 1970 as a date."""
    return dt.date.fromordinal(_FIRST_DAY + day).isoformat()


def parse_day(text: str) -> int:
    """Return a date as a number of days since 1970.

    Raises:
        ValueError: `text` is no date such as `2026-12-01`, or there is no such day.
    """
    if _DAY.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no date such as 2026-12-01")
    return dt.date.fromisoformat(text).toordinal() - _FIRST_DAY
