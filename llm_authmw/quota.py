"""`Limit` and `Budget`: how much, per what time. One text grammar, for code, configuration, the CLI and stored rows.

Limit::

    60 requests/minute
    100000 tokens/minute            also: input tokens, output tokens
    60 requests/minute, burst 10    at most so many at once; left out: a tenth of the limit, at least 1
    1000 requests/day, calendar     the clock's own day instead of a rolling one
    4 concurrent

Budget::

    500 usd/month, soft 80%         soft thresholds warn and do not stop; several: soft 50% 80%
    20 usd/day, timezone Europe/Berlin
    50 usd/month, starts 15         the month begins on its 15th day
    100 usd                         for ever
    50 usd/month, plus 20 usd until 2026-12-01                  an increase for a time: until that day begins in the time zone
    50 usd/month, plus 20 usd until 2026-11-21T18:00:00Z        until that moment

Windows: second, minute, hour, day, week, month, quarter, year. Numbers may hold `_` between digits. `str()` of either
gives the canonical text, and parsing that gives the same value back.
"""

import re
import zoneinfo
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import msgspec

from llm_authmw.dates import moment_text, parse_moment
from llm_authmw.errors import InvalidValueError

Unit: TypeAlias = Literal["requests", "tokens", "input tokens", "output tokens", "concurrent"]
Window: TypeAlias = Literal["second", "minute", "hour", "day", "week", "month", "quarter", "year"]

UNITS: Final[tuple[str, ...]] = get_args(Unit)
WINDOWS: Final[tuple[str, ...]] = get_args(Window)
ROLLING_WINDOWS: Final = frozenset({"second", "minute", "hour", "day", "week"})
"""Windows of a fixed length; the longer ones exist by the calendar only."""

NANO_USD: Final = 1_000_000_000
MAX_AMOUNT: Final = 2**53
"""Amounts above are refused: a store that counts in doubles (Lua) would no longer count exactly."""

_LAST_MOMENT: Final = 2**53 // 1_000_000
_LIMIT: Final = re.compile(r"(?P<amount>[0-9][0-9_]*) (?P<unit>[a-z]+(?: tokens?)?)(?:/(?P<window>[a-z]+))?(?:, (?P<options>.+))?")
_USD: Final = r"([0-9][0-9_]*)(?:\.([0-9]{1,9}))? usd"
_BUDGET: Final = re.compile(rf"{_USD}(?:/(?P<window>[a-z]+))?(?:, (?P<options>.+))?")
_PLUS: Final = re.compile(rf"plus {_USD} until (\S+)")
_SOFT: Final = re.compile(r"soft ([0-9]{1,2}%(?: [0-9]{1,2}%)*)")
_INTEGER: Final = re.compile(r"[0-9]+(?:_[0-9]+)*")
_NOT_ZONES: Final = ("localtime", "posix", "right/")
"""What else lies where time zones do: this machine's own zone, copies of the others, and zones that count leap seconds."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests or tokens in a window, or how many requests at once.

    Attributes:
        amount: The most that is let through, in `unit`; at least 1, at most 2^53.
        unit: What is counted.
        window: The window, for every unit but `concurrent`.
        burst: How much of `amount` may come at once in a rolling window; None is the default, see `burst_amount`.
        calendar: Count by the clock's own minute, hour or day instead of rolling.

    Raises:
        InvalidValueError: The parts contradict each other, or an amount is out of range.
    """

    amount: int
    unit: Unit
    window: Window | None = None
    burst: int | None = None
    calendar: bool = False

    def __post_init__(self) -> None:
        _check_amount(self.amount, "limit")
        if self.unit not in UNITS:
            raise InvalidValueError(f"{self.unit!r} cannot be limited: expected one of {', '.join(UNITS)}")
        _check_window(self.window)
        if self.unit == "concurrent":
            if self.window is not None or self.burst is not None or self.calendar:
                raise InvalidValueError("a limit on concurrent requests has no window, burst or calendar")
            return
        if self.window is None:
            raise InvalidValueError(f"a limit on {self.unit} needs a window, as in '60 {self.unit}/minute'")
        if self.window not in ROLLING_WINDOWS and not self.calendar:
            raise InvalidValueError(f"a {self.window} has no fixed length: write '…/{self.window}, calendar'")
        if self.burst is not None:
            if self.calendar:
                raise InvalidValueError("a calendar window has no burst: the whole amount may come at once")
            if not (_is_whole(self.burst) and 1 <= self.burst <= self.amount):
                raise InvalidValueError("a burst is at least 1 and at most the limit's amount")

    @property
    def burst_amount(self) -> int:
        """What may come at once: the burst, else a tenth of the amount and at least 1; the whole amount by the calendar."""
        if self.calendar or self.unit == "concurrent":
            return self.amount
        return self.burst if self.burst is not None else max(1, self.amount // 10)

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Read a limit such as `60 requests/minute`.

        Raises:
            InvalidValueError: `text` is not a limit; says what was expected.
        """
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise InvalidValueError(f"{text!r} is not a limit such as '60 requests/minute' or '4 concurrent'")
        unit = match["unit"]
        if unit in ("request", "token", "input token", "output token"):
            unit += "s"
        burst: int | None = None
        calendar = False
        for option in _options(match["options"]):
            if option == "calendar":
                calendar = True
            elif option.startswith("burst "):
                burst = _integer(option.removeprefix("burst "))
            else:
                raise InvalidValueError(f"{option!r} is not an option of a limit: expected 'burst N' or 'calendar', once")
        return cls(
            amount=_integer(match["amount"]),
            unit=cast("Unit", unit),
            window=cast("Window | None", match["window"]),
            burst=burst,
            calendar=calendar,
        )

    def __str__(self) -> str:
        text = f"{self.amount} {self.unit}"
        if self.window is not None:
            text += f"/{self.window}"
        if self.burst is not None:
            text += f", burst {self.burst}"
        return text + (", calendar" if self.calendar else "")


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much money in a window.

    Attributes:
        amount: Nano-dollars; at least 1, at most 2^53 (about nine million dollars).
        window: A calendar window; None is for ever.
        soft: Thresholds in percent that warn and do not stop, ascending, each from 1 to 99.
        starts: The day of the month, 1 to 28, on which a month, quarter or year begins.
        timezone: The IANA time zone in which windows begin.
        plus: Nano-dollars that there are more for a time; 0 for no increase.
        until: When the increase is over, seconds since 1970.

    Raises:
        InvalidValueError: The parts contradict each other, or an amount is out of range.
    """

    amount: int
    window: Window | None = None
    soft: tuple[int, ...] = ()
    starts: int = 1
    timezone: str = "UTC"
    plus: int = 0
    until: int | None = None

    def __post_init__(self) -> None:
        _check_amount(self.amount, "budget")
        _check_window(self.window)
        if not _are_thresholds(self.soft):
            raise InvalidValueError("soft thresholds are whole percentages from 1% to 99%, ascending, each once")
        if not (_is_whole(self.starts) and 1 <= self.starts <= 28):
            raise InvalidValueError("a budget's window starts on a day from 1 to 28, which every month has")
        if self.starts != 1 and self.window not in ("month", "quarter", "year"):
            raise InvalidValueError("'starts' is for months, quarters and years")
        if self.timezone != "UTC":
            if self.window is None:
                raise InvalidValueError("a budget for ever has no time zone")
            _check_timezone(self.timezone)
        if bool(self.plus) != (self.until is not None):
            raise InvalidValueError("an increase of a budget has an amount and an end, as in 'plus 20 usd until 2026-12-01'")
        if self.until is not None:
            _check_amount(self.plus, "budget's increase")
            _check_amount(self.amount + self.plus, "budget with its increase")
            if not (_is_whole(self.until) and 0 <= self.until <= _LAST_MOMENT):
                raise InvalidValueError("an increase of a budget ends between 1970 and 2255")

    def amount_at(self, moment: float) -> int:
        """Return the nano-dollars that there are at a moment, with the increase as long as it lasts.

        Args:
            moment: Seconds since 1970.
        """
        return self.amount if self.until is None or moment >= self.until else self.amount + self.plus

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a budget such as `50 usd/month, soft 80%`.

        Raises:
            InvalidValueError: `text` is not a budget; says what was expected.
        """
        match = _BUDGET.fullmatch(text)
        if match is None:
            raise InvalidValueError(f"{text!r} is not a budget such as '50 usd/month' or '20 usd/day, soft 80%'")
        amount = _nano_usd(match)
        soft: tuple[int, ...] = ()
        starts, timezone, plus, until = 1, "UTC", 0, ""
        for option in _options(match["options"]):
            if option.startswith("soft "):
                percents = _SOFT.fullmatch(option)
                if percents is None:
                    raise InvalidValueError(f"{option!r} is not a soft threshold such as 'soft 80%'")
                soft = tuple(int(percent.removesuffix("%")) for percent in percents[1].split(" "))
            elif option.startswith("starts "):
                starts = _integer(option.removeprefix("starts "))
            elif option.startswith("timezone "):
                timezone = option.removeprefix("timezone ")
            elif option.startswith("plus "):
                increase = _PLUS.fullmatch(option)
                if increase is None:
                    raise InvalidValueError(f"{option!r} is not an increase such as 'plus 20 usd until 2026-12-01'")
                plus, until = _nano_usd(increase), increase[3]
            else:
                raise InvalidValueError(
                    f"{option!r} is not an option of a budget: expected 'soft N%', 'starts DAY', 'timezone NAME' or "
                    "'plus N usd until DATE', once"
                )
        return cls(
            amount=amount,
            window=cast("Window | None", match["window"]),
            soft=soft,
            starts=starts,
            timezone=timezone,
            plus=plus,
            until=_moment(until, timezone) if until else None,
        )

    def __str__(self) -> str:
        text = usd_text(self.amount)
        if self.window is not None:
            text += f"/{self.window}"
        if self.soft:
            text += ", soft " + " ".join(f"{percent}%" for percent in self.soft)
        if self.starts != 1:
            text += f", starts {self.starts}"
        if self.timezone != "UTC":
            text += f", timezone {self.timezone}"
        return text if self.until is None else f"{text}, plus {usd_text(self.plus)} until {moment_text(self.until, self.timezone)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_thresholds(soft: tuple[Any, ...]) -> bool:
    return type(soft) is tuple and all(_is_whole(percent) and 1 <= percent <= 99 for percent in soft) and list(soft) == sorted(set(soft))


def _check_amount(amount: Any, what: str) -> None:
    if not (_is_whole(amount) and 1 <= amount <= MAX_AMOUNT):
        raise InvalidValueError(f"a {what} is more than nothing and at most 2^53 of its smallest unit")


def _check_window(window: str | None) -> None:
    if window is not None and window not in WINDOWS:
        raise InvalidValueError(f"{window!r} is not a window: expected one of {', '.join(WINDOWS)}")


def _check_timezone(name: str) -> None:
    try:
        zoneinfo.ZoneInfo(name)
        known = not name.startswith(_NOT_ZONES)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a name that is a directory, such as 'Europe'
        known = False
    if not known:
        raise InvalidValueError(f"{name!r} is not an IANA time zone such as 'Europe/Berlin'")


def usd_text(amount: int) -> str:
    """Return nano-dollars as dollars, exactly: `12.5 usd`."""
    whole, nanos = divmod(amount, NANO_USD)
    return f"{whole}.{nanos:09d}".rstrip("0").rstrip(".") + " usd"


def _nano_usd(match: re.Match[str]) -> int:
    return _integer(match[1]) * NANO_USD + int((match[2] or "0").ljust(9, "0"))


def _moment(text: str, timezone: str) -> int:
    _check_timezone(timezone)
    try:
        return parse_moment(text, timezone)
    except ValueError as error:
        raise InvalidValueError(f"{text!r} is neither a date such as 2026-12-01 nor a time such as 2026-12-01T18:00:00Z") from error


def _options(text: str | None) -> list[str]:
    options = [] if text is None else text.split(", ")
    if len({option.partition(" ")[0] for option in options}) < len(options):
        raise InvalidValueError(f"{text!r} names an option twice")
    return options


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None or len(text.replace("_", "")) > 17:
        raise InvalidValueError(f"{text!r} is not a whole number of at most 17 digits")
    return int(text)
