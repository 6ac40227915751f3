"""The fields that people give to keys and accounts: one check each, whichever record they end up in.

Every check takes the field's name, for the error, and the value as it was given. Each raises `InvalidValueError` for a value
outside its grammar, and `ConfigurationError` for a list that is a bare string.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from llm_authmw.errors import InvalidValueError
from llm_authmw.names import name_problem, names
from llm_authmw.network import parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern
from llm_authmw.principal import RESERVED_SUBJECTS
from llm_authmw.quota import Budget, Limit

MAX_METADATA: Final = 16
MAX_METADATA_VALUE: Final = 512

Check = Callable[[str, Any], Any]


def text(field: str, value: Any) -> str:
    """Return a usable name."""
    problem = name_problem(value) if isinstance(value, str) else "is not a text"
    if problem is not None:
        raise InvalidValueError(f"{field} {problem}")
    return str(value)


def text_or_none(field: str, value: Any) -> str | None:
    """Return a usable name, or None."""
    return None if value is None else text(field, value)


def user(field: str, value: Any) -> str | None:
    """Return a user name that cannot be taken for a client or a key, or None."""
    found = text_or_none(field, value)
    if found is not None and found.startswith(RESERVED_SUBJECTS):
        raise InvalidValueError("a user name must not begin with 'client:' or 'key:'")
    return found


def models(field: str, value: Any) -> tuple[str, ...] | None:
    """Return model patterns, or None for no restriction."""
    if value is None:
        return None
    found = names(field, value)
    for pattern in found:
        ModelPattern.parse(pattern)
    return found


def routes(field: str, value: Any) -> tuple[str, ...] | None:
    """Return route patterns, or None for no restriction."""
    if value is None:
        return None
    found = names(field, value)
    for pattern in found:
        RoutePattern.parse(pattern)
    return found


def networks(field: str, value: Any) -> tuple[str, ...] | None:
    """Return networks in their canonical form, or None for no restriction."""
    return None if value is None else tuple(dict.fromkeys(str(parse_network(network)) for network in names(field, value)))


def limits(field: str, value: Any) -> tuple[Limit, ...]:
    """Return rate limits from `Limit` objects or text."""
    return _quotas(field, value, Limit, Limit.parse)


def budgets(field: str, value: Any) -> tuple[Budget, ...]:
    """Return budgets from `Budget` objects or text."""
    return _quotas(field, value, Budget, Budget.parse)


def _quotas(field: str, value: Any, kind: type, parse: Callable[[str], Any]) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidValueError(f"{field} takes a list, such as ['60 requests/minute']")
    entries = cast("Sequence[Any]", value)
    return tuple(dict.fromkeys(entry if isinstance(entry, kind) else parse(text(field, entry)) for entry in entries))


def metadata(field: str, value: Any) -> dict[str, str]:
    """Return at most 16 names, each with a text."""
    is_mapping = isinstance(value, Mapping)
    given: Mapping[Any, Any] = value
    if not is_mapping or len(given) > MAX_METADATA:
        raise InvalidValueError(f"{field} takes at most {MAX_METADATA} names, each with a text")
    for entry in given.values():
        if not isinstance(entry, str) or len(entry) > MAX_METADATA_VALUE:
            raise InvalidValueError(f"each value of {field} is a text of at most {MAX_METADATA_VALUE} characters")
        if not entry.isprintable():
            raise InvalidValueError(f"a value of {field} holds a character that does not print")
    return {text(field, name): entry for name, entry in given.items()}


def moment(field: str, value: Any) -> float | None:
    """Return seconds since 1970, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise InvalidValueError(f"{field} is a number of seconds since 1970")
    return float(value)


def checked(what: str, checks: Mapping[str, Check], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Check every field and return them as a record keeps them.

    Raises:
        InvalidValueError: a value is outside its grammar.
        ConfigurationError: a list is a bare string, or an entry of it is no usable name.
        TypeError: a field does not exist.
    """
    for field in fields:
        if field not in checks:
            raise TypeError(f"{what} has no field {field!r}; its fields are {', '.join(checks)}")
    return {field: checks[field](field, value) for field, value in fields.items()}
