"""What a request may cost at most, and what it did cost: a price book, and what is done with models that it does not have."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from llm_authmw.call import Charge, LLMCall, Usage
from llm_authmw.context import logger
from llm_authmw.errors import ConfigurationError, Denial, InvalidValueError
from llm_authmw.limits.outcome import NOTHING
from llm_authmw.llm.extent import WITHOUT_OUTPUT, Extent, most
from llm_authmw.llm.price_book import PriceBook, StaticPriceBook
from llm_authmw.llm.prices import Price
from llm_authmw.names import Names, names
from llm_authmw.patterns import ModelPattern

_FREE: Final = "free"
_FLAT: Final = "flat"
_EVERY_MODEL: Final = "*"

MAX_MODELS: Final = 64
"""Models of one request: each is looked up in the price book and priced, while nobody else is served."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a request can use, and what that costs.

    Attributes:
        models: The models that it names.
        most: The highest possible usage, with the dearest of them.
        charge: What that costs.
        ceiling: Tokens that one answer can have.
        capped: Whether an answer cannot have more; else `ceiling` is a guess.
        flat: Whether it costs the same whatever it uses.
    """

    models: tuple[str, ...]
    most: Usage
    charge: Charge
    ceiling: int = 0
    capped: bool = True
    flat: bool = False


class Pricing:
    """Prices requests.

    Args:
        prices: A price book, or prices by model from which one is made.
        unpriced: The price of every model that has none.
        free: Patterns of models that cost nothing, whatever the book says.
        flat: What a request of an operation costs, whatever it uses.
        default_output: Tokens that are taken for the ceiling of an answer where nothing says what it is.
        overhead: Tokens of input that the app adds.

    Raises:
        ConfigurationError: an option is outside its grammar, or would be ignored.
    """

    def __init__(
        self,
        prices: Mapping[str, Price] | PriceBook,
        *,
        unpriced: Price | None,
        free: Names,
        flat: Mapping[str, Price] | None,
        default_output: int,
        overhead: int,
    ) -> None:
        for option, value, least in (("default_output", default_output, 1), ("overhead", overhead, 0)):
            if type(value) is not int or not least <= value <= 2**31:
                raise ConfigurationError(option, f"is a whole number of tokens, {least} or more")
        if unpriced is not None and not isinstance(unpriced, Price):
            raise ConfigurationError("unpriced", "takes a Price(…)")
        self._book: Final = _book(prices)
        self._unpriced: Final = None if unpriced is None else StaticPriceBook({_EVERY_MODEL: unpriced})
        self._free: Final = tuple(map(_free_pattern, names("free", free)))
        self._default: Final = default_output
        self._overhead: Final = overhead
        self._flat: Final[dict[str, Charge]] = dict(_flat_charges({} if flat is None else flat))

    @property
    def flat_operations(self) -> frozenset[str]:
        """The operations that cost the same whatever they use."""
        return frozenset(self._flat)

    def flat(self, operation: str, models: tuple[str, ...] = ()) -> Estimate | None:
        """Return what a request of an operation costs whatever it uses; None where that is no such operation."""
        charge = self._flat.get(operation)
        if charge is None:
            return None
        return Estimate(models=models, most=Usage(), charge=charge, flat=True)

    def estimate(self, call: LLMCall, extent: Extent, *, ceiling: int | None = None) -> Estimate:
        """Return the most that a request can cost.

        Args:
            call: What it asks for.
            extent: How much it can use.
            ceiling: Tokens that one answer can have, where more is certain not to come; None to find that out.

        Raises:
            Denial: more models are named than are priced for one request (`limits_too_many`), one has no price (`model_unpriced`), none is
                named that is run (`model_missing`), or it is more than can be counted (`request_exceeds_budget`).
        """
        if not call.models or call.leaves_choice:
            raise Denial("model_missing")
        if len(call.models) > MAX_MODELS:
            raise Denial("limits_too_many", need=f"{MAX_MODELS} different models at most")
        best: Estimate | None = None
        for model in call.models:
            limit, known = self._ceiling(call, model) if ceiling is None else (ceiling, True)
            window = self._book.context_window(model) if extent.elsewhere else None
            usage = most(extent, call, ceiling=limit, context_window=window, overhead=self._overhead)
            try:
                charge = self._priced(model, usage, bound=True)
            except InvalidValueError as error:
                raise Denial("request_exceeds_budget") from error
            if charge is None:
                raise Denial("model_unpriced")
            capped = known and (best is None or best.capped)
            if best is None or charge.amount > best.charge.amount:
                best = Estimate(models=call.models, most=usage, charge=charge, ceiling=limit, capped=capped)
            elif best.capped != capped:
                best = msgspec.structs.replace(best, capped=capped)
        return cast("Estimate", best)

    def charge(self, estimate: Estimate, usage: Usage | None) -> Charge | None:
        """Return what a request costs that was let in with an estimate.

        Where the answer names a model that the request does not, the dearer one counts: a name of that model, an alias or a fallback
        are not told apart.

        Args:
            estimate: What it could cost.
            usage: What it is charged for (`outcome.final`).

        Returns:
            None where nobody knows, so that the estimate stands.
        """
        if usage is NOTHING:
            return msgspec.structs.replace(estimate.charge, amount=0)
        if estimate.flat:
            return estimate.charge
        if usage is None:
            return None
        models: Sequence[str] = estimate.models
        if usage.model is not None:
            models = (usage.model,) if usage.model in models else (*models, usage.model)
        charges: list[Charge] = []
        for model in models:
            try:
                charge = self._priced(model, usage, bound=not usage.complete)
            except InvalidValueError:
                logger.warning("an answer of %r says that it used more than can be counted, so its estimate stands", model)
                return None
            if charge is not None:
                charges.append(charge)
        return max(charges, key=_amount, default=None)

    def _ceiling(self, call: LLMCall, model: str) -> tuple[int, bool]:
        """Return how many tokens one answer can have, and whether that is certain."""
        if call.operation in WITHOUT_OUTPUT:
            return 0, True
        largest = self._book.max_output(model)
        if call.max_output_tokens is not None:
            return (call.max_output_tokens if largest is None else min(call.max_output_tokens, largest)), True
        return (self._default, False) if largest is None else (largest, True)

    def _priced(self, model: str, usage: Usage, *, bound: bool) -> Charge | None:
        for pattern in self._free:
            if pattern.matches(model):
                rule = f"{pattern.name}*" if pattern.prefix else pattern.name
                return Charge(amount=0, model=model, rule=rule, version=_FREE)
        charge = self._book.bound(model, usage) if bound else self._book.charge(model, usage)
        if charge is None and self._unpriced is not None:
            return self._unpriced.bound(model, usage) if bound else self._unpriced.charge(model, usage)
        return charge


def _amount(charge: Charge) -> int:
    return charge.amount


def _book(prices: Any) -> PriceBook:
    if isinstance(prices, Mapping):
        return StaticPriceBook(cast("Mapping[str, Price]", prices))
    for method in ("charge", "bound", "max_output", "context_window"):
        if not callable(getattr(prices, method, None)):
            raise ConfigurationError(
                "prices", "takes {'gpt-4o*': Price(…)} or a price book, which has charge, bound, max_output and context_window"
            )
    return cast("PriceBook", prices)


def _free_pattern(text: str) -> ModelPattern:
    try:
        pattern = ModelPattern.parse(text)
    except InvalidValueError as error:
        raise ConfigurationError("free", str(error)) from error
    if pattern.excludes or not pattern.name:
        raise ConfigurationError("free", f"{text!r} names no model: what is free is named")
    return pattern


def _flat_charges(flat: object) -> list[tuple[str, Charge]]:
    if not isinstance(flat, Mapping):
        raise ConfigurationError("flat", "is a mapping of operations to prices, such as {'batches': Price(request='0.50')}")
    charges: list[tuple[str, Charge]] = []
    for operation, price in cast("Mapping[object, object]", flat).items():
        if not isinstance(operation, str):
            raise ConfigurationError("flat", f"{operation!r} is no operation's name")
        if not isinstance(price, Price) or set(price.rates) != {"request"}:
            raise ConfigurationError(
                "flat", f"{operation!r} takes a price for each request and nothing else, such as Price(request='0.50')"
            )
        amount = price.charge(Usage())
        if amount is not None:
            charges.append((operation, Charge(amount=amount, model=operation, rule=operation, version=_FLAT)))
    return charges
