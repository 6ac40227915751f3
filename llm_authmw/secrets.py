"""Secrets by reference, and secrets that do not print.

Wherever an option takes a secret, a string of the form `env:NAME` or `file:PATH` names the place to read it from, and
a prefix that the user registered with `register_resolver` asks the user's own function (a vault, a cloud's store).
Any other string is the secret itself.
"""

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llm_authmw.errors import ConfigurationError

Resolver = Callable[[str], str]

_BUILT_IN: Final = frozenset({"env", "file"})
_resolvers: Final[dict[str, Resolver]] = {}


class Secret:
    """A secret that prints as stars. Read it with `reveal`, at the one place that needs it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[object, ...]:
        # A pickle, or a deep copy that ends in a debugger's dump, would write the secret out in clear.
        raise TypeError("a Secret is not serialised")


def register_resolver(prefix: str, resolver: Resolver) -> None:
    """Let `prefix:REST` in any secret option be resolved by `resolver(REST)`.

    Raises:
        ConfigurationError: `prefix` is no lower-case word, or is taken.
    """
    if not (prefix.isascii() and prefix.isalpha() and prefix.islower()):
        raise ConfigurationError("prefix", "takes a lower-case ASCII word")
    if prefix in _BUILT_IN or prefix in _resolvers:
        raise ConfigurationError("prefix", f"{prefix!r} is taken")
    _resolvers[prefix] = resolver


def resolve_secret(option: str, value: str | Secret) -> Secret:
    """Read the secret that `value` names, or is.

    One line break at the end of a file is dropped, since editors and `kubectl` add one.

    Raises:
        ConfigurationError: the place does not exist, cannot be read, is empty, or does not hold text. The message names the
            place, never what it holds.
    """
    if isinstance(value, Secret):
        return value
    given: Any = value
    found: Any
    if not isinstance(given, str):
        raise ConfigurationError(option, f"takes a text, or a reference such as 'env:NAME', not {type(given).__name__}")
    prefix, colon, rest = given.partition(":")
    if colon and prefix == "env":
        found = os.environ.get(rest, "")
        problem = f"the environment variable {rest} is not set, or is empty"
    elif colon and prefix == "file":
        problem = f"the file {rest} is empty"
        try:
            found = Path(rest).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that holds a NUL
            raise ConfigurationError(option, f"the file {rest} cannot be read ({type(error).__name__})") from None
    elif colon and prefix in _resolvers:
        problem = f"the resolver {prefix!r} returned nothing"
        try:
            found = _resolvers[prefix](rest)
        except Exception as error:  # noqa: BLE001 - a user's function: whatever it raises may quote what it was reading
            raise ConfigurationError(option, f"the resolver {prefix!r} failed ({type(error).__name__})") from None
    else:
        found, problem = given, "is empty"
    if not found:
        raise ConfigurationError(option, problem)
    if not isinstance(found, str):
        raise ConfigurationError(option, f"the resolver {prefix!r} returned {type(found).__name__} instead of text")
    if any("\ud800" <= character <= "\udfff" for character in found):
        # How Python shows bytes of the environment that are not UTF-8; encoding them later would fail, and quote the secret.
        raise ConfigurationError(option, "is not UTF-8")
    return Secret(found)
