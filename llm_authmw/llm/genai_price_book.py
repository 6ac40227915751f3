"""`GenaiPriceBook`: the prices that the package genai-prices has collected, in our own exact counts."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from llm_authmw.call import MAX_COUNT, Charge, Usage
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.llm.prices import Price
from llm_authmw.strict_json import is_array

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

MAX_MODELS: Final = 4096
"""Names of models whose prices are remembered."""

_DAY: Final = timedelta(days=1)
_NEVER: Final = float("inf")

# Their names, and how many of ours one of theirs is: prices of ours are for a million tokens, a search, a minute.
_SAME: Final[Mapping[str, tuple[str, Fraction]]] = {
    "input_mtok": ("input", Fraction(1)),
    # We do not tell film from text, nor citations from what else is said: the dearer price counts for both.
    "input_video_mtok": ("input", Fraction(1)),
    "input_text_mtok": ("input", Fraction(1)),
    "cache_read_mtok": ("cached_input", Fraction(1)),
    "cache_write_mtok": ("cache_write", Fraction(1)),
    "cache_write_5m_mtok": ("cache_write", Fraction(1)),
    "cache_write_1h_mtok": ("cache_write_1h", Fraction(1)),
    "input_audio_mtok": ("audio_input", Fraction(1)),
    "input_image_mtok": ("image_input", Fraction(1)),
    "output_mtok": ("output", Fraction(1)),
    "output_text_mtok": ("output", Fraction(1)),
    "output_video_mtok": ("output", Fraction(1)),
    "output_citation_mtok": ("output", Fraction(1)),
    "output_reasoning_mtok": ("reasoning", Fraction(1)),
    "output_audio_mtok": ("audio_output", Fraction(1)),
    "output_image_mtok": ("image_output", Fraction(1)),
    "requests_kcount": ("request", Fraction(1, 1000)),
    "web_searches_kcount": ("search", Fraction(1, 1000)),
    "rerank_searches_kcount": ("search", Fraction(1, 1000)),
    "audio_hours": ("minute", Fraction(1, 60)),
    "input_audio_hours": ("minute", Fraction(1, 60)),
    "input_mchars": ("characters", Fraction(1)),
}
# Parts that we count as their whole, which costs no less, and tools whose use no answer of ours counts.
_PASSED_OVER: Final = frozenset(
    {
        "cache_audio_read_mtok",
        "cache_image_read_mtok",
        "code_executions_kcount",
        "social_searches_kcount",
        "storage_searches_kcount",
    }
)
_LEAST_SECONDS: Final = {("groq", "whisper-large-v3"): 10, ("groq", "whisper-large-v3-turbo"): 10}


class _Entry(NamedTuple):
    """The price of one model, until it may change."""

    rule: str
    until: float
    now: Price
    soon: tuple[Price, ...]
    least_seconds: int


class GenaiPriceBook:
    """The prices of genai-prices (the extra `prices`), as that package brings them along. It asks nobody.

    Its data are collected by hand and may be late or wrong: `PriceBooks` puts your own before them. Where the price of a model changes
    by the hour or on a day to come, a bound is by the dearest of the day ahead, and a charge by the price of the moment.

    Args:
        provider: Whose prices count: "openai", "azure", "aws". Left out: whose the model is, by its name.
        variants: What the provider is asked for, where that has a price of its own: `{"service_tier": "priority"}`.
        clock: Says which prices count now.

    Attributes:
        version: Which release of the package, and which data.

    Raises:
        MissingExtraError: The package is not installed.
        ConfigurationError: There is no such provider.
    """

    __slots__ = ("_clock", "_entries", "_provider", "_providers", "_variants", "version")

    def __init__(self, *, provider: str | None = None, variants: Mapping[str, str] | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        try:
            import genai_prices  # noqa: PLC0415 - an optional dependency, which is slow to load
            from genai_prices.data_snapshot import find_provider_by_id, get_snapshot  # noqa: PLC0415 - likewise
        except ImportError as error:
            raise MissingExtraError("prices", "prices") from error
        self._providers: Final[list[Provider]] = list(get_snapshot().providers)
        self._provider: Final[Provider | None] = None if provider is None else find_provider_by_id(self._providers, provider)
        if provider is not None and self._provider is None:
            raise ConfigurationError("provider", f"genai-prices has none that is called {provider!r}")
        self._variants: Final = dict(variants or {})
        self._clock: Final = clock
        self._entries: Final[OrderedDict[str, _Entry | None]] = OrderedDict()
        said = hashlib.sha256(repr((self._providers, provider, sorted(self._variants.items()))).encode()).hexdigest()[:12]
        self.version: Final = f"genai-prices {genai_prices.__version__} {said}"

    def charge(self, model: str, usage: Usage) -> Charge | None:
        """Return what `usage` of `model` costs, or None where the model, or something that it used, has no price.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        entry = self._entry(model)
        if entry is None:
            return None
        amount = entry.now.charge(_at_least(usage, entry.least_seconds))
        return None if amount is None else Charge(amount=amount, model=model, rule=entry.rule, version=self.version)

    def bound(self, model: str, most: Usage) -> Charge | None:
        """Return the most that a usage of `model` can cost of which no count is above that of `most`, or None as `charge`.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        entry = self._entry(model)
        if entry is None:
            return None
        most = _at_least(most, entry.least_seconds)
        amounts = [amount for price in entry.soon if (amount := price.bound(most)) is not None]
        if len(amounts) < len(entry.soon):
            return None
        return Charge(amount=max(amounts), model=model, rule=entry.rule, version=self.version)

    def max_output(self, model: str) -> int | None:
        """Return None: genai-prices does not say."""
        del model
        return None

    def context_window(self, model: str) -> int | None:
        """Return the most tokens that `model` can be shown, or None where that is not known."""
        entry = self._entry(model)
        return None if entry is None else entry.now.context_window

    def _entry(self, model: str) -> _Entry | None:
        now = self._clock.now()
        known = model in self._entries
        entry = self._entries.get(model)
        if not known or (entry is not None and now >= entry.until):
            # Names come from requests, so no more of them are kept than fit.
            self._entries[model] = entry = self._looked_up(model, now)
            if len(self._entries) > MAX_MODELS:
                self._entries.popitem(last=False)
        return entry

    def _looked_up(self, model: str, now: float) -> _Entry | None:
        # Not by the package's own function, which remembers every name that it did not find.
        reference = model.lower()
        provider = self._provider
        if provider is None:
            provider = next((one for one in self._providers if one.model_match is not None and one.model_match.is_match(reference)), None)
        found = None if provider is None else provider.find_model(reference, all_providers=self._providers)
        if provider is None or found is None:
            return None
        moment = datetime.fromtimestamp(now, tz=UTC)
        changes = sorted(_changes(found, moment))
        # Variants are those of the provider that they were written down for.
        variants = self._variants if any(found is one for one in provider.models) else None
        prices = [_price(found.get_prices(at, variants), found.context_window) for at in (moment, *changes)]
        soon = tuple(dict.fromkeys(price for price in prices if price is not None))
        if prices[0] is None or len(soon) < len(set(prices)):
            return None
        until = changes[0].timestamp() if changes else _NEVER
        least = _LEAST_SECONDS.get((provider.id, found.id), 0)
        return _Entry(f"{provider.id}/{found.id}", until, prices[0], soon, least)

    def __repr__(self) -> str:
        whose = "" if self._provider is None else f"provider={self._provider.id!r}, "
        return f"GenaiPriceBook({whose}version={self.version!r})"


def _changes(model: "ModelInfo", now: datetime) -> Iterator[datetime]:
    """Yield the moments of the day ahead at which the price of a model may change."""
    prices: Any = model.prices
    conditional: list[Any] = prices if is_array(prices) else []
    times: set[time] = set()
    for priced in (*conditional, *(model.price_variants or ())):
        constraint: Any = priced.constraint
        if hasattr(constraint, "start_date"):
            times.add(time())
        elif constraint is not None:
            times |= {constraint.start_time, constraint.end_time}
    for at in times:
        begin = datetime.combine(now.date(), at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
        yield next(moment for days in range(-1, 3) if (moment := begin + days * _DAY) > now)


def _price(theirs: "ModelPrice", context_window: int | None) -> Price | None:
    """Return a price of theirs as one of ours; None where it is for something that we do not count."""
    rates = {name: rate for name, rate in vars(theirs).items() if rate is not None and name not in _PASSED_OVER}
    if not rates or not rates.keys() <= _SAME.keys():
        return None
    starts = sorted({tier.start for rate in rates.values() if not isinstance(rate, Decimal) for tier in rate.tiers})
    window = context_window if context_window is not None and 1 <= context_window <= MAX_COUNT else None
    return Price(
        **_rates(rates, 0), context_window=window, above={start: Price(**_rates(rates, start + 1)) for start in starts if start >= 1}
    )


def _rates(theirs: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Return what they have as the arguments of a `Price`, for so many tokens of input."""
    ours: dict[str, Any] = {}
    for name, rate in theirs.items():
        kind, share = _SAME[name]
        decimal = rate
        if not isinstance(rate, Decimal):
            decimal = next((tier.price for tier in reversed(rate.tiers) if tokens > tier.start), rate.base)
        ours[kind] = max(ours.get(kind, Fraction(0)), Fraction(decimal) * share)
    return ours


def _at_least(usage: Usage, seconds: int) -> Usage:
    return replace(usage, seconds=seconds) if 0 < usage.seconds < seconds else usage
