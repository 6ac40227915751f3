"""Lists of strings: one type and one check, so that a bare string is never read letter by letter."""

from collections.abc import Collection
from typing import TypeAlias, cast

from llm_authmw.errors import ConfigurationError

Names: TypeAlias = list[str] | tuple[str, ...] | set[str] | frozenset[str]
"""What every option that takes several strings accepts. `str` is left out on purpose: `models="gpt-4o*"` is an error."""

MAX_NAME_LENGTH = 512
"""Characters in one name; longer ones are refused, so that no stored or logged value grows without bound."""


def name_problem(value: str) -> str | None:
    """Say what is wrong with one name, or None.

    Refused: nothing, more than 512 characters, control characters and line separators, lone surrogates, blanks at
    either end. Each of these makes two names look like one, or one log line look like two.
    """
    if not value:
        return "is empty"
    if len(value) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if not value.isprintable():
        return "holds a character that does not print"
    if value[0] == " " or value[-1] == " ":
        return "begins or ends with a blank"
    return None


def names(option: str, value: object) -> tuple[str, ...]:
    """Return `value` as a tuple, in its order and without repetitions (a set is sorted, so that equal sets give equal tuples).

    Raises:
        ConfigurationError: `value` is a bare string, is no collection, or has an entry that is not a usable name.
    """
    if isinstance(value, str):
        raise ConfigurationError(option, f"takes a list of strings, and {value!r} is a single one: write [{value!r}]")
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigurationError(option, f"takes a list of strings, not {type(value).__name__}")
    entries: list[str] = []
    for entry in cast("Collection[object]", value):
        if not isinstance(entry, str):
            raise ConfigurationError(option, f"takes strings only, not {type(entry).__name__}")
        problem = name_problem(entry)
        if problem is not None:
            raise ConfigurationError(option, f"has an entry that {problem}")
        entries.append(entry)
    if isinstance(value, set | frozenset):
        entries.sort()
    return tuple(dict.fromkeys(entries))


def name_set(option: str, value: object) -> tuple[str, ...]:
    """Return `value` sorted and without repetitions: for lists whose order means nothing (roles, scopes, groups, tags).

    Raises:
        ConfigurationError: as `names`.
    """
    return tuple(sorted(names(option, value)))
