"""Which labels a figure gets: as many combinations as are stated, whatever comes in."""

from typing import Final, TypeAlias, cast

from llm_authmw.errors import ConfigurationError
from llm_authmw.metrics.instruments import NONE, OTHER, Instrument, Label

MAX_VALUE: Final = 200
"""Characters of a label's value; a longer one is not told apart."""

Values: TypeAlias = tuple[str, ...]
"""The values of an instrument's labels, in their order."""


class Series:
    """The combinations of one instrument's labels, the first so many of which are told apart.

    Of a combination beyond those, the labels that are not of a closed set are `other`, so that outcomes and reasons stay told apart. There
    are at most as many of these again.

    Args:
        instrument: The instrument.
        most: Combinations that are told apart.

    Raises:
        ConfigurationError: `most` is no number above zero.
    """

    __slots__ = ("_beyond", "_known", "_labels", "_most")

    def __init__(self, instrument: Instrument, most: int) -> None:
        if type(most) is not int or most < 1:
            raise ConfigurationError("max_series", "is a number above zero")
        self._labels: Final[tuple[Label, ...]] = instrument.labels
        self._most: Final = most
        self._known: Final[set[Values]] = set()
        self._beyond: Final[set[Values]] = set()

    def __len__(self) -> int:
        return len(self._known | self._beyond)

    def of(self, *given: str | None) -> Values:
        """Return the values that the labels get."""
        if given in self._known:
            return cast("Values", given)
        values = tuple(_clean(label, value) for label, value in zip(self._labels, given, strict=True))
        if values not in self._known:
            if len(self._known) >= self._most:
                return self._further(values)
            self._known.add(values)
        return values

    def _further(self, values: Values) -> Values:
        values = tuple(value if label.values else OTHER for label, value in zip(self._labels, values, strict=True))
        if values not in self._known and values not in self._beyond:
            if len(self._beyond) >= self._most - 1:
                values = (OTHER,) * len(values)
            self._beyond.add(values)
        return values


def _clean(label: Label, value: str | None) -> str:
    if value is None:
        return NONE
    if label.values is not None:
        return value if value in label.values or value == NONE else OTHER
    # What cannot be printed may be no text that can be encoded, either.
    return value if 0 < len(value) <= MAX_VALUE and value.isprintable() else OTHER
