"""Named groups of route and model patterns, which roles refer to as `group:NAME`."""

from collections.abc import Mapping
from typing import Any

from llm_authmw.authz.models import check_reach
from llm_authmw.authz.roles import GROUP, Role, check_name, parse_model, read
from llm_authmw.errors import ConfigurationError
from llm_authmw.names import names
from llm_authmw.patterns import RoutePattern


def checked_groups(option: str, groups: Any, roles: Mapping[str, Role]) -> dict[str, tuple[str, ...]]:
    """Return the groups, each with its patterns.

    Args:
        option: "route_groups" or "model_groups".
        groups: What was given; None for none.
        roles: The roles, which refer to them.

    Raises:
        ConfigurationError: a group is outside its grammar, is used and not defined, or is defined and not used.
    """
    field = option.removesuffix("_groups") + "s"
    given: Mapping[Any, Any] = {} if groups is None else groups
    if not isinstance(groups, Mapping | None):
        raise ConfigurationError(option, f"takes names and lists of patterns, such as {{'small': […]}}, not {type(groups).__name__}")
    found: dict[str, tuple[str, ...]] = {}
    for name, patterns in given.items():
        check_name(option, name, of="has a name that")
        found[name] = _checked_patterns(option, name, patterns)
    used = {
        text.removeprefix(GROUP): role
        for role, given_role in roles.items()
        for text in getattr(given_role, field)
        if text.startswith(GROUP)
    }
    for name, role in used.items():
        if name not in found:
            raise ConfigurationError(field, f"of the role {role!r} name the group {name!r}, which is not in {option}")
    for name in found:
        if name not in used:
            raise ConfigurationError(option, f"has {name!r}, which no role uses")
    return found


def _checked_patterns(option: str, name: str, patterns: Any) -> tuple[str, ...]:
    texts = names(f"{option}[{name!r}]", patterns)
    if not texts:
        raise ConfigurationError(option, f"has {name!r}, which holds no pattern")
    for text in texts:
        if text.startswith(GROUP):
            raise ConfigurationError(option, f"has {text!r} in {name!r}: a group holds patterns, and no other group")
    if option == "route_groups":
        for text in texts:
            read(option, RoutePattern.parse, text)
    else:
        check_reach(option, [read(option, parse_model, text) for text in texts])
    return texts
