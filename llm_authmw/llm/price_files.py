"""Prices in a file: YAML, TOML or JSON, with the same names as `Price` has for its arguments.

gpt-4o*:
  input: 2.50
  output: 10
  max_output: 16384
gemini-2.5-pro:
  {input: 1.25, output: 10, above: {200000: {input: 2.50, output: 15}}}
"""

import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast

from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.llm.price_book import StaticPriceBook
from llm_authmw.llm.prices import Price
from llm_authmw.strict_json import is_object, parse

_OPTIONS: Final = frozenset(inspect.signature(Price).parameters)
_STEPS: Final = "above"
_MAX_DIGITS: Final = 16


def load_prices(path: str | os.PathLike[str]) -> StaticPriceBook:
    """Read a price book from a file, by the ending of its name: `.yaml`, `.yml`, `.toml` or `.json`.

    Amounts may be numbers or texts, and are taken as the decimal numbers that they are written as.

    Raises:
        ConfigurationError: the file cannot be read, or an entry is no price. Says which file, entry and option.
        MissingExtraError: it is YAML, and no parser of that is installed.
    """
    file = Path(path)
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise _error(file, f"is none of {', '.join(sorted(_READERS))}")
    try:
        entries = read(file.read_text(encoding="utf-8"))
    except MissingExtraError:
        raise
    except OSError as error:
        raise _error(file, error.strerror or "cannot be read") from error
    except ValueError as error:
        # Texts of parsers name the line.
        raise _error(file, f"cannot be read: {error}") from error
    if not is_object(entries) or not entries:
        raise _error(file, "is a mapping of models to prices")
    try:
        return StaticPriceBook({name: _price(file, repr(name), options) for name, options in entries.items()})
    except ConfigurationError as error:
        if error.option == str(file):
            raise
        raise _error(file, str(error)) from error


def _price(file: Path, named: str, options: object, *, step: bool = False) -> Price:
    if not is_object(options):
        raise _error(file, f"{named} is a mapping of options, such as input and output")
    given: dict[str, Any] = {}
    for option, value in options.items():
        if option not in _OPTIONS or (step and option == _STEPS):
            raise _error(file, f"{named} has {option!r}, which is none of {', '.join(sorted(_OPTIONS))}")
        given[option] = _steps(file, named, value) if option == _STEPS else value
    try:
        return Price(**given)
    except ConfigurationError as error:
        raise _error(file, f"{named}: {error}") from error


def _steps(file: Path, named: str, steps: object) -> dict[int, Price]:
    if not is_object(steps):
        raise _error(file, f"{named}: {_STEPS} is a mapping of numbers of tokens to prices")
    prices: dict[int, Price] = {}
    for start, options in cast("Mapping[object, object]", steps).items():
        # The names of members are texts in TOML and JSON.
        digits = str(start).replace("_", "")
        if isinstance(start, bool) or not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS) or int(digits) in prices:
            raise _error(file, f"{named}: {_STEPS} has {start!r}, which is no number of tokens, or is there twice")
        prices[int(digits)] = _price(file, f"{named} above {digits}", options, step=True)
    return prices


def _error(file: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(str(file), problem)


def _read_yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingExtraError("prices", "yaml") from error

    class Loader(yaml.SafeLoader):
        """Refuses a member that is there twice, of which YAML's own loader takes the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - its signature
            loader: Any = self
            names = [loader.construct_object(key, deep=True) for key, _ in node.value]
            for name in names:
                if not isinstance(name, str | int) or names.count(name) > 1:
                    raise ValueError(f"{name!r} is there twice, or is no name, in line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a loader that makes plain values only
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _read_toml(text: str) -> Any:
    return tomllib.loads(text, parse_float=Decimal)


def _read_json(text: str) -> Any:
    return parse(text.encode())


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    ".json": _read_json,
    ".toml": _read_toml,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
