"""Secrets by reference, and secrets that do not print.

Wherever an option takes a secret, a string of the form `env:NAME` or `file:PATH` names the place to read it from, and
a prefix that the user registered with `register_resolver` asks the user's own function (a vault, a cloud's store).
Any other string is the secret itself.
"""

import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

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
        ConfigurationError: the place does not exist, cannot be read, or is empty. The text names the place, never what
            it holds.
    """
    if isinstance(value, Secret):
        return value
    prefix, colon, rest = value.partition(":")
    if colon and prefix == "env":
        found = os.environ.get(rest, "")
        problem = f"the environment variable {rest} is not set, or is empty"
    elif colon and prefix == "file":
        problem = f"the file {rest} is empty"
        try:
            found = Path(rest).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(option, f"the file {rest} cannot be read ({type(error).__name__})") from None
    elif colon and prefix in _resolvers:
        problem = f"the resolver {prefix!r} returned nothing"
        try:
            found = _resolvers[prefix](rest)
        except Exception as error:  # noqa: BLE001 - a user's function: whatever it raises may quote what it was reading
            raise ConfigurationError(option, f"the resolver {prefix!r} failed ({type(error).__name__})") from None
    else:
        found, problem = value, "is empty"
    if not found:
        raise ConfigurationError(option, problem)
    return Secret(found)
