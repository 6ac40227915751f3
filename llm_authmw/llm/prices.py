"""`Price`: what a model costs. Exact rationals in, whole nano-dollars out, rounded up once."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from llm_authmw.call import MAX_COUNT, Usage
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.quota import MAX_AMOUNT, NANO_USD

Dollars: TypeAlias = str | int | float | Decimal | Fraction
"""An amount as a person writes it. A float is the decimal number that it prints as: 0.15 is fifteen cents, exactly."""

MAX_DOLLARS: Final = 1_000_000
"""Prices above are refused: a dollar a token is a price per thousand that was taken for one per million, or worse."""

_FINEST: Final = 10**18
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,18})?")

_INPUT: Final = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
_OUTPUT: Final = ("output", "reasoning", "audio_output", "image_output")
_WRITTEN: Final = frozenset({"cache_write", "cache_write_1h"})
_INSTEAD: Final = frozenset({"images", "seconds", "characters"})
_UNITS: Final = ("requests", "searches", "images", "seconds", "characters")
_units_of: Final[Callable[[Usage], tuple[int, ...]]] = attrgetter(*_UNITS)

_SAME_AS: Final = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
}


class Price:
    """What one model costs.

    Of tokens and characters it is dollars per million. A kind of token that has no price of its own costs what its whole costs,
    `cache_write_1h` what `cache_write` does. Anything else that is left out has no price, which is not the same as costing nothing.
    Pictures, sound and speech are paid for by the piece or in tokens, and may be counted in both: then the one that has a price decides.

    Args:
        input: A million tokens of the request.
        output: A million tokens of the answer.
        cached_input: A million tokens of the request that were read from a cache.
        cache_write: A million tokens of the request that were written to a cache.
        cache_write_1h: The same, where they are kept for an hour.
        audio_input: A million tokens of the request that are sound.
        image_input: A million tokens of the request that are pictures.
        reasoning: A million tokens of the answer that were thought and not said.
        audio_output: A million tokens of the answer that are sound.
        image_output: A million tokens of the answer that are pictures.
        request: Dollars for each request, beside all else.
        search: Dollars for each search that the provider runs.
        image: Dollars for each picture that is made.
        minute: Dollars for each minute of sound, counted in seconds.
        characters: A million characters to be spoken.
        max_output: The most tokens that one answer of the model can have; None where that is not known.
        context_window: The most tokens that the model can be shown; None where that is not known.
        above: What all of a request costs whose input has more tokens than a number: `{200_000: Price(input="6", output="22.50")}`.

    Attributes:
        rates: The dollars that were given, exactly, by the names of the arguments.

    Raises:
        ConfigurationError: An amount is negative, not a number, finer than 10^-18 or above a million dollars, or none is given.
    """

    __slots__ = (
        "_dearest_input",
        "_dearest_output",
        "_denominator",
        "_numerators",
        "_steps",
        "above",
        "context_window",
        "max_output",
        "rates",
    )

    def __init__(
        self,
        *,
        input: Dollars | None = None,  # noqa: A002 - the word of every price list
        output: Dollars | None = None,
        cached_input: Dollars | None = None,
        cache_write: Dollars | None = None,
        cache_write_1h: Dollars | None = None,
        audio_input: Dollars | None = None,
        image_input: Dollars | None = None,
        reasoning: Dollars | None = None,
        audio_output: Dollars | None = None,
        image_output: Dollars | None = None,
        request: Dollars = 0,
        search: Dollars | None = None,
        image: Dollars | None = None,
        minute: Dollars | None = None,
        characters: Dollars | None = None,
        max_output: int | None = None,
        context_window: int | None = None,
        above: "Mapping[int, Price] | None" = None,
    ) -> None:
        given = {
            "input": input,
            "output": output,
            "cached_input": cached_input,
            "cache_write": cache_write,
            "cache_write_1h": cache_write_1h,
            "audio_input": audio_input,
            "image_input": image_input,
            "reasoning": reasoning,
            "audio_output": audio_output,
            "image_output": image_output,
            "request": request,
            "search": search,
            "image": image,
            "minute": minute,
            "characters": characters,
        }
        rates = {name: _dollars(name, value) for name, value in given.items() if value is not None}
        if rates == {"request": 0}:
            raise ConfigurationError("input", "a price says what something costs: what is free has input=0, output=0")
        for kind, whole in _SAME_AS.items():
            if kind in rates and whole not in rates:
                raise ConfigurationError(kind, f"is the price of a part of {whole}, which has none")
        for name, tokens in (("max_output", max_output), ("context_window", context_window)):
            if tokens is not None and not (type(tokens) is int and 1 <= tokens <= MAX_COUNT):
                raise ConfigurationError(name, "is a whole number of tokens, at least 1")
        self.rates: Final[Mapping[str, Fraction]] = MappingProxyType(rates)
        self.max_output: Final = max_output
        self.context_window: Final = context_window
        self.above: Final[Mapping[int, Price]] = MappingProxyType(_checked_steps(above or {}))
        self._steps: Final = sorted(self.above.items(), reverse=True)
        nano = dict(_nano_dollars(rates))
        # Over one denominator all that is left to do for a request is whole-number arithmetic.
        self._denominator: Final = math.lcm(*(rate.denominator for rate in nano.values()))
        self._numerators: Final = {kind: rate.numerator * (self._denominator // rate.denominator) for kind, rate in nano.items()}
        self._dearest_input: Final = sorted(_INPUT, key=self._dearness)
        self._dearest_output: Final = sorted(_OUTPUT, key=self._dearness)

    def charge(self, usage: Usage) -> int | None:
        """Return what `usage` costs in nano-dollars, or None where something was used that has no price.

        What was read from a cache or written to it counts as text: where pictures and sound cost more than text, no other reading
        of counts that overlap comes to more.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        for start, price in self._steps:
            if _all_input(usage) > start:
                return price.charge(usage)
        written = max(usage.cache_write, usage.cache_write_1h)
        text = _all_input(usage) - usage.audio_input - usage.image_input
        for_an_hour = min(usage.cache_write_1h, text)
        shortly = min(written - usage.cache_write_1h, text - for_an_hour)
        cached = min(usage.cached_input, text - for_an_hour - shortly)
        return self._amount(
            usage,
            {
                "input": text - for_an_hour - shortly - cached,
                "cached_input": cached,
                "cache_write": shortly,
                "cache_write_1h": for_an_hour,
                "audio_input": usage.audio_input,
                "image_input": usage.image_input,
                "output": _all_output(usage) - usage.reasoning - usage.audio_output - usage.image_output,
                "reasoning": usage.reasoning,
                "audio_output": usage.audio_output,
                "image_output": usage.image_output,
            },
        )

    def bound(self, most: Usage) -> int | None:
        """Return the most that a usage can cost of which no count is above that of `most`, in nano-dollars.

        None where something may be used that has no price. Each part of `most` may be as large as its whole: any token may be of any
        kind, and is only one of them. A provider whose parts come to more than their whole may charge more.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        amount = self._bound(most)
        for start, price in self._steps:
            if amount is not None and _largest(most, _INPUT) > start:
                # A usage that is smaller may cost more, so all the steps up to it count.
                dearer = price.bound(most)
                amount = None if dearer is None else max(amount, dearer)
        return amount

    def _bound(self, most: Usage) -> int | None:
        written = max(most.cache_write, most.cache_write_1h)
        taken: dict[str, int] = {}
        for left, dearest_first in ((_largest(most, _INPUT), self._dearest_input), (_largest(most, _OUTPUT), self._dearest_output)):
            for kind in dearest_first:
                count = min(written, left) if kind == "cache_write" else min(getattr(most, kind), left)
                if kind in _WRITTEN:
                    # One group: what is written for an hour is also counted among all that is written.
                    count = min(count, written)
                    written -= count
                taken[kind] = count
                left -= count  # noqa: PLW2901 - what is left of the whole is what the loop is about
        return self._amount(most, taken)

    def _amount(self, usage: Usage, tokens: dict[str, int]) -> int | None:
        total = 0
        for kind, count in (*tokens.items(), *zip(_UNITS, _units_of(usage), strict=True)):
            if count:
                numerator = self._numerators.get(kind)
                if numerator is not None:
                    total += numerator * count
                elif not self._paid_otherwise(kind, usage):
                    return None
        amount = -(-total // self._denominator)
        if amount > MAX_AMOUNT:
            raise InvalidValueError("this costs more than 2^53 nano-dollars, about nine million dollars")
        return amount

    def _paid_otherwise(self, kind: str, usage: Usage) -> bool:
        """Say whether what has no price here was also counted in something that has."""
        if kind in _INSTEAD:
            return "input" in self._numerators and (_all_input(usage) > 0 or _all_output(usage) > 0)
        by_the_piece = any(name in self._numerators and getattr(usage, name) for name in (*_INSTEAD, "searches"))
        return by_the_piece and kind not in _UNITS and "input" not in self._numerators and "output" not in self._numerators

    def _dearness(self, kind: str) -> int:
        return -self._numerators.get(kind, 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Price) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash((tuple(self.rates.items()), self.max_output))

    def _facts(self) -> tuple[object, ...]:
        return self.rates, self.max_output, self.context_window, self._steps

    def __repr__(self) -> str:
        shown = [f"{name}='{rate}'" for name, rate in self.rates.items() if rate or name != "request"]
        shown += [f"{name}={tokens}" for name in ("max_output", "context_window") if (tokens := getattr(self, name)) is not None]
        if self.above:
            shown.append(f"above={dict(self.above)!r}")
        return f"Price({', '.join(shown)})"


def _nano_dollars(rates: Mapping[str, Fraction]) -> Iterator[tuple[str, Fraction]]:
    """Yield what one of each count of `Usage` costs, in nano-dollars."""
    for kind in (*_INPUT, *_OUTPUT):
        source = kind
        while source not in rates and source in _SAME_AS:
            source = _SAME_AS[source]
        if source in rates:
            yield kind, rates[source] * NANO_USD / 1_000_000
    if "characters" in rates:
        yield "characters", rates["characters"] * NANO_USD / 1_000_000
    for unit, name, per in (("requests", "request", 1), ("searches", "search", 1), ("images", "image", 1), ("seconds", "minute", 60)):
        if name in rates:
            yield unit, rates[name] * NANO_USD / per


def _all_input(usage: Usage) -> int:
    # A provider's parts may come to more than its whole: then they are the truth, as they are what it will send a bill for.
    written = max(usage.cache_write, usage.cache_write_1h)
    return max(usage.input, usage.audio_input + usage.image_input, usage.cached_input + written)


def _all_output(usage: Usage) -> int:
    return max(usage.output, usage.reasoning + usage.audio_output + usage.image_output)


def _largest(usage: Usage, kinds: tuple[str, ...]) -> int:
    largest: int = max(getattr(usage, kind) for kind in kinds)
    return largest


def _checked_steps(above: Mapping[int, Price]) -> dict[int, Price]:
    for start, price in above.items():
        if type(start) is not int or not 1 <= start <= MAX_COUNT or not isinstance(price, Price):
            raise ConfigurationError("above", "is a mapping of whole numbers of tokens, at least 1, to prices")
        if price.above or price.max_output is not None or price.context_window is not None:
            raise ConfigurationError("above", f"the price above {start} has rates only")
    return dict(above)


def _dollars(option: str, value: Any) -> Fraction:
    amount: Fraction | None = None
    if isinstance(value, str):
        amount = Fraction(value) if _DECIMAL.fullmatch(value) else None
    elif isinstance(value, float) and math.isfinite(value):
        amount = Fraction(repr(float(value)))
    elif (isinstance(value, Decimal) and value.is_finite()) or (isinstance(value, int | Fraction) and not isinstance(value, bool)):
        amount = Fraction(value)
    if amount is None or amount < 0:
        raise ConfigurationError(option, f"{value!r} is not an amount of dollars such as '0.50'")
    if amount > MAX_DOLLARS or amount.denominator > _FINEST:
        raise ConfigurationError(option, f"{value!r} is above a million dollars, or finer than 10^-18 of one")
    return amount
