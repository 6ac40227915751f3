"""What a client is told of its limits, in the headers of the IETF's draft, of OpenAI and of Anthropic.

The draft is draft-ietf-httpapi-ratelimit-headers-10, with `RateLimit` and `RateLimit-Policy`. No name of anybody's is in them, and
nothing of a limit that tenants share: what is left of it says what the others use.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, get_args

from llm_authmw.dates import rfc3339
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.ledger.contract import Balance
from llm_authmw.limits.counted import Counted
from llm_authmw.quota import Limit

Style: TypeAlias = Literal["ratelimit", "openai", "anthropic"]
Headers: TypeAlias = list[tuple[bytes, bytes]]

STYLES: Final[tuple[str, ...]] = get_args(Style)

MAX_SHOWN: Final = 8
"""Limits that one answer tells of, the ones with the smallest part left."""

_WINDOWS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_678_400, "quarter": 7_948_800}
_YEAR: Final = 31_622_400
_UNITS: Final = {"requests": "", "concurrent": ';qu="concurrent-requests"'}
_OPENAI: Final = "x-ratelimit-{what}-{unit}"
_ANTHROPIC: Final = "anthropic-ratelimit-{unit}-{what}"
_OF_OPENAI: Final = {"requests": "requests", "tokens": "tokens"}
_OF_ANTHROPIC: Final = {"requests": "requests", "tokens": "tokens", "input tokens": "input-tokens", "output tokens": "output-tokens"}


class LimitHeaders:
    """The headers for one set of buckets; what does not change from one request to the next is rendered once.

    Args:
        counted: The buckets, in the order of the claims.
    """

    __slots__ = ("_anthropic", "_full", "_openai", "_policies", "_policy", "_shown")

    def __init__(self, counted: Sequence[Counted]) -> None:
        told = [(place, one) for place, one in enumerate(counted) if not one.scope.tenantless]
        # What a full bucket holds: of a rolling one that is less than its limit.
        self._full: Final = [one.bucket.capacity for one in counted]
        # A name of ours, printable ASCII without quotation marks or backslashes: a string of RFC 8941 §3.3.3 as it is.
        self._shown: Final = [(place, f'"{one.name}"') for place, one in told]
        self._policies: Final = {place: f'"{one.name}"{_policy(one)}' for place, one in told}
        few = len({name for _, name in self._shown}) == len(told) <= MAX_SHOWN
        self._policy: Final = ", ".join(self._policies.values()).encode() if few else None
        places: dict[str, list[int]] = {}
        for place, one in told:
            places.setdefault(one.bucket.measure, []).append(place)
        self._openai: Final = [(_named(_OPENAI, _OF_OPENAI[unit]), of) for unit, of in places.items() if unit in _OF_OPENAI]
        self._anthropic: Final = [(_named(_ANTHROPIC, _OF_ANTHROPIC[unit]), of) for unit, of in places.items() if unit in _OF_ANTHROPIC]

    def lines(self, style: Style, balances: Sequence[Balance], at: int, wait: float | None = None) -> Headers:
        """Return the headers.

        Args:
            style: Whose headers.
            balances: What each of the buckets stands at.
            at: The store's time, in microseconds.
            wait: Of a denial, the seconds after which trying again can help: nothing is said to be back later than that.
        """
        if not self._shown:
            return []
        if style == "ratelimit":
            return self._ratelimit(balances, at, wait)
        headers: Headers = []
        for (limit, remaining, reset), places in self._openai if style == "openai" else self._anthropic:
            balance = balances[places[0] if len(places) == 1 else min(places, key=self._parts_left(balances).__getitem__)]
            ends_at = max(at, balance.ends_at or at)
            back = duration(ends_at - at) if style == "openai" else moment(ends_at)
            headers += ((limit, b"%d" % balance.limit), (remaining, b"%d" % balance.left), (reset, back.encode()))
        return headers

    def _ratelimit(self, balances: Sequence[Balance], at: int, wait: float | None) -> Headers:
        shown, policy = self._shown, self._policy
        if policy is None:
            # Of several under one name (several models), the first is the one that there is least of.
            least: dict[str, int] = {}
            left = self._parts_left(balances)
            for place, name in sorted(shown, key=lambda one: left[one[0]]):
                if len(least) < MAX_SHOWN:
                    least.setdefault(name, place)
            shown = [(place, name) for name, place in least.items()]
            policy = ", ".join([self._policies[place] for place, _ in shown]).encode()
        longest = math.inf if wait is None else math.ceil(wait)
        items: list[str] = []
        for place, name in shown:
            balance = balances[place]
            if balance.ends_at is None:
                items.append(f"{name};r={balance.left}")
                continue
            # Rounded up, as the seconds of `Retry-After` are, which must not be earlier.
            seconds = -((at - balance.ends_at) // SECOND)
            items.append(f"{name};r={balance.left};t={min(max(seconds, 0), longest)}")
        return [(b"ratelimit-policy", policy), (b"ratelimit", ", ".join(items).encode())]

    def _parts_left(self, balances: Sequence[Balance]) -> list[float]:
        return [balance.left / full for balance, full in zip(balances, self._full, strict=True)]


def duration(microseconds: int) -> str:
    """Return a duration as OpenAI writes it: `6m0s`, `1.5s`, `20ms`; never shorter than it is."""
    milliseconds = -(-microseconds // 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{seconds}.{rest:03d}".rstrip("0").rstrip(".") + "s"
    for number, unit, larger in ((minutes, "m", hours or days), (hours, "h", days), (days, "d", 0)):
        if number or larger:
            text = f"{number}{unit}{text}"
    return text


def moment(microseconds: int) -> str:
    """Return a moment as Anthropic writes it (RFC 3339 §5.6), never earlier than it is."""
    return rfc3339(-(-microseconds // SECOND))


def _policy(one: Counted) -> str:
    quota, bucket = one.quota, one.bucket
    unit = _UNITS.get(bucket.measure, f';qu="{bucket.measure.replace(" ", "-")}"')
    window = quota.window if isinstance(quota, Limit) else None
    return f";q={bucket.limit}{unit}" + ("" if window is None else f";w={_WINDOWS.get(window, _YEAR)}")


def _named(pattern: str, unit: str) -> tuple[bytes, ...]:
    return tuple(pattern.format(what=what, unit=unit).encode() for what in ("limit", "remaining", "reset"))
