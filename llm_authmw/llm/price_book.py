"""`PriceBook`: which model costs what. The Protocol, and a book that is written down once and does not change."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, Protocol, cast

import msgspec

from llm_authmw.call import Charge, Usage
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.llm.prices import Price
from llm_authmw.patterns import ModelPattern


class PriceBook(Protocol):
    """Says what models cost. Its answers are exact, and rounded up once."""

    @property
    def version(self) -> str:
        """What tells this book from one of other prices."""
        ...

    def charge(self, model: str, usage: Usage) -> Charge | None:
        """Return what `usage` of `model` costs, or None where the model, or something that it used, has no price.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        ...

    def bound(self, model: str, most: Usage) -> Charge | None:
        """Return the most that a usage of `model` can cost of which no count is above that of `most`, or None as `charge`.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        ...

    def max_output(self, model: str) -> int | None:
        """Return the most tokens that one answer of `model` can have, or None where that is not known."""
        ...

    def context_window(self, model: str) -> int | None:
        """Return the most tokens that `model` can be shown, or None where that is not known."""
        ...


class StaticPriceBook:
    """Prices by the names of models. Nothing in it changes: other prices are another book, with another version.

    Args:
        prices: A price for each pattern: a model's name, or what its name begins with and one `*`. The most specific one decides
            alone, in whatever order they were written; a bare `*` is the price of every other model.

    Attributes:
        version: What the book says, as 32 hexadecimal digits of a SHA-256: books of equal prices have the same version.

    Raises:
        ConfigurationError: `prices` is empty, or has an entry that is no pattern, excludes, or is not a `Price`.
    """

    __slots__ = ("_lengths", "_literals", "_prefixes", "version")

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._literals: Final[dict[str, Price]] = {}
        self._prefixes: Final[dict[str, Price]] = {}
        for text, price in _entries(prices):
            pattern = _pattern(text)
            (self._prefixes if pattern.prefix else self._literals)[pattern.name] = price
        self._lengths: Final = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self.version: Final = _version(prices)

    def charge(self, model: str, usage: Usage) -> Charge | None:
        """Return what `usage` of `model` costs, or None where the model, or something that it used, has no price.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        found = self._find(model)
        return None if found is None else self._explained(model, found[0], found[1].charge(usage))

    def bound(self, model: str, most: Usage) -> Charge | None:
        """Return the most that a usage of `model` can cost of which no count is above that of `most`, or None as `charge`.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        found = self._find(model)
        return None if found is None else self._explained(model, found[0], found[1].bound(most))

    def max_output(self, model: str) -> int | None:
        """Return the most tokens that one answer of `model` can have, or None where that is not known."""
        found = self._find(model)
        return None if found is None else found[1].max_output

    def context_window(self, model: str) -> int | None:
        """Return the most tokens that `model` can be shown, or None where that is not known."""
        found = self._find(model)
        return None if found is None else found[1].context_window

    @property
    def prices(self) -> dict[str, Price]:
        """What the book says: a price for each pattern, by name, and the bare `*` behind all others."""
        found = {**self._literals, **{f"{prefix}*": price for prefix, price in self._prefixes.items()}}
        return {text: found[text] for text in sorted(found, key=lambda text: (text == "*", text))}

    def __contains__(self, model: object) -> bool:
        """Say whether the book has a price for a model."""
        return isinstance(model, str) and self._find(model) is not None

    def _find(self, model: str) -> tuple[str, Price] | None:
        literal = self._literals.get(model)
        if literal is not None:
            return model, literal
        # One look for each length that occurs, however many patterns there are.
        for length in self._lengths:
            start = model[:length]
            price = self._prefixes.get(start)
            if price is not None:
                return f"{start}*", price
        return None

    def _explained(self, model: str, rule: str, amount: int | None) -> Charge | None:
        return None if amount is None else Charge(amount=amount, model=model, rule=rule, version=self.version)

    def __repr__(self) -> str:
        return f"StaticPriceBook({len(self._literals) + len(self._prefixes)} prices, version={self.version!r})"


class PriceBooks:
    """Two books as one: prices of your own deployments, and a book of everybody's for all other models.

        PriceBooks({"blue-gpt-4o": Price(input="2.20", output="8.80")}, GenaiPriceBook())

    A model that the first book has is its alone, so that nothing is reserved by one price and charged by another.

    Args:
        first: Whose prices go first.
        then: Whose prices count for the models that the first has none for. It may be two books as well.

    Attributes:
        version: What both books say, as the versions of both.

    Raises:
        ConfigurationError: `first` is no book, or `prices` are none.
    """

    __slots__ = ("_first", "_then", "version")

    def __init__(self, first: Mapping[str, Price] | StaticPriceBook, then: PriceBook) -> None:
        self._first: Final = first if isinstance(first, StaticPriceBook) else StaticPriceBook(first)
        self._then: Final = then
        self.version: Final = f"{self._first.version}, {then.version}"

    def charge(self, model: str, usage: Usage) -> Charge | None:
        """Return what `usage` of `model` costs, or None where the model, or something that it used, has no price.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        return self._of(model).charge(model, usage)

    def bound(self, model: str, most: Usage) -> Charge | None:
        """Return the most that a usage of `model` can cost of which no count is above that of `most`, or None as `charge`.

        Raises:
            InvalidValueError: It is more than 2^53 nano-dollars.
        """
        return self._of(model).bound(model, most)

    def max_output(self, model: str) -> int | None:
        """Return the most tokens that one answer of `model` can have, or None where that is not known."""
        return self._of(model).max_output(model)

    def context_window(self, model: str) -> int | None:
        """Return the most tokens that `model` can be shown, or None where that is not known."""
        return self._of(model).context_window(model)

    def _of(self, model: str) -> PriceBook:
        return self._first if model in self._first else self._then

    def __repr__(self) -> str:
        return f"PriceBooks({self._first!r}, {self._then!r})"


def _entries(prices: object) -> list[tuple[object, Price]]:
    if not isinstance(prices, Mapping) or not prices:
        raise ConfigurationError("prices", "is a mapping of models to prices, such as {'gpt-4o*': Price(input='2.50', output='10')}")
    entries: list[tuple[object, Price]] = []
    for text, price in cast("Mapping[object, object]", prices).items():
        if not isinstance(price, Price):
            raise ConfigurationError("prices", f"{text!r} is given {type(price).__name__}, not a Price")
        entries.append((text, price))
    return entries


def _pattern(text: object) -> ModelPattern:
    if not isinstance(text, str):
        raise ConfigurationError("prices", f"{text!r} is not the name of a model or a pattern")
    try:
        pattern = ModelPattern.parse(text)
    except InvalidValueError as error:
        raise ConfigurationError("prices", str(error)) from error
    if pattern.excludes:
        raise ConfigurationError("prices", f"{text!r} excludes models, and a price is for those that it names")
    return pattern


def _version(prices: Mapping[str, Price]) -> str:
    return version_of((pattern, *_facts(price)) for pattern, price in sorted(prices.items()))


def _facts(price: Price) -> tuple[object, ...]:
    # What came later stands behind the rest, and only where it was given: prices that did not change keep their version.
    later: list[object] = []
    if price.context_window is not None or price.above:
        later = [price.context_window, [(start, _facts(step)) for start, step in sorted(price.above.items())]]
    return sorted((name, str(rate)) for name, rate in price.rates.items()), price.max_output, *later


def version_of(entries: Iterable[object]) -> str:
    """Return what tells entries of a price book from others, as 32 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(msgspec.json.encode(list(entries))).hexdigest()[:32]
