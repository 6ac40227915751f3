"""Which roles allow a name, a model's or a tool's: every role's patterns compiled into one table, an integer of roles for an answer."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import name_problem
from llm_authmw.patterns import ModelPattern

MAX_REMEMBERED: Final = 4096
"""Answers that a table remembers: clients choose the names."""
MAX_REMEMBERED_LENGTH: Final = 512

# A dot segment (RFC 3986 §5.2.4), also one with parameters, a backslash, and whatever becomes one of them or a slash when it is decoded.
_LEADS_ELSEWHERE: Final = re.compile(r"[:/]\.{1,2}(?:[/?#;]|\Z)|\\|%(?:2e|2f|5c|25)", re.IGNORECASE)


class NameTable:
    """The patterns of every role, by role: bit n of an answer is the n-th role.

    An answer costs one look into a dictionary and one bisection, whatever the number of roles and patterns. It is what
    `patterns.model_allowed` says of each role.

    Args:
        roles: The patterns of each role, in the order of the roles.
        remember: Answers that are remembered.

    Attributes:
        unrestricted: The roles that allow every name.
    """

    __slots__ = ("_excluding", "_including", "_literals", "_most", "_parents", "_prefixes", "_remembered", "unrestricted")

    def __init__(self, roles: Sequence[Sequence[ModelPattern]], *, remember: int = MAX_REMEMBERED) -> None:
        literals: dict[str, list[int]] = {}
        prefixes: dict[str, list[int]] = {}
        self.unrestricted: int = 0
        for number, patterns in enumerate(roles):
            bit = 1 << number
            for pattern in patterns:
                masks = (prefixes if pattern.prefix else literals).setdefault(pattern.name, [0, 0])
                masks[pattern.excludes] |= bit
            if any(pattern.prefix and not pattern.name for pattern in patterns) and not any(pattern.excludes for pattern in patterns):
                self.unrestricted |= bit
        self._literals: Final = {name: (including, excluding) for name, (including, excluding) in literals.items()}
        self._prefixes: Final = sorted(prefixes)
        self._parents: Final[list[int]] = []
        self._including: Final[list[int]] = []
        self._excluding: Final[list[int]] = []
        for prefix in self._prefixes:
            parent = self._longest(prefix, len(self._parents) - 1)
            including, excluding = prefixes[prefix]
            # What a shorter prefix says holds for the longer one too, so only the longest has to be found.
            self._including.append(including | (self._including[parent] if parent >= 0 else 0))
            self._excluding.append(excluding | (self._excluding[parent] if parent >= 0 else 0))
            self._parents.append(parent)
        self._most: Final = remember
        self._remembered: Final[dict[str, int]] = {}

    def mask(self, name: str) -> int:
        """Return the roles that allow the name."""
        known = self._remembered.get(name)
        if known is not None:
            return known
        including, excluding = self._literals.get(name, (0, 0))
        prefix = self._longest(name, bisect_right(self._prefixes, name) - 1)
        if prefix >= 0:
            including |= self._including[prefix]
            excluding |= self._excluding[prefix]
        allowed = including & ~excluding
        if len(name) <= MAX_REMEMBERED_LENGTH:
            if len(self._remembered) >= self._most:
                # All of them at once: nobody who sends names of his own making may choose which answers others lose.
                self._remembered.clear()
            self._remembered[name] = allowed
        return allowed

    def literal(self, name: str) -> int:
        """Return the roles that allow the name by itself or every name: those for which no prefix of it had to be believed."""
        return self.mask(name) & (self._literals.get(name, (0, 0))[0] | self.unrestricted)

    def _longest(self, name: str, last: int) -> int:
        """Return the place of the longest prefix of `name`, looking at none after the `last`, or -1.

        Between that prefix and the name, in their order, stand only texts that begin with the prefix: it is the last one itself, or a
        prefix of it.
        """
        while last >= 0 and not name.startswith(self._prefixes[last]):
            last = self._parents[last]
        return last


def ambiguous_resource(tool: str) -> bool:
    """Say whether a tool is an MCP resource whose address leads elsewhere than it begins, for some server that reads it.

    `file:///docs/../etc/passwd` begins as everything in `file:///docs/` does.
    """
    return tool.startswith("resource:") and _LEADS_ELSEWHERE.search(tool) is not None


def parse_tool(text: str) -> ModelPattern:
    """Read a pattern of tools: a name, a name with one trailing `*`, or either with a leading `!` that excludes.

    Raises:
        InvalidValueError: it is none.
    """
    name = text.removeprefix("!")
    prefix = name.endswith("*")
    name = name.removesuffix("*")
    if "*" in name or "!" in name:
        raise InvalidValueError(f"{text!r}: a pattern of tools has one '*' at its end at most, and one '!' at its start")
    if name_problem(name) is not None and not (prefix and name == ""):
        raise InvalidValueError(f"{text!r}: a pattern of tools names one, such as 'web_search', 'prompt:*' or 'resource:file:///docs/*'")
    return ModelPattern(name, prefix, text.startswith("!"))


def check_reach(option: str, patterns: Sequence[ModelPattern]) -> None:
    """Refuse a pattern all of which another one excludes: one of the two is a mistake.

    Raises:
        ConfigurationError: there is one.
    """
    excluding = [pattern for pattern in patterns if pattern.excludes]
    for pattern in patterns:
        for other in excluding:
            if not pattern.excludes and _covers(other, pattern):
                raise ConfigurationError(option, f"has {_text(pattern)!r}, which {_text(other)!r} excludes altogether")


def check_exclusions(option: str, role: str, patterns: Sequence[ModelPattern]) -> None:
    """Refuse a pattern that excludes what none includes: it, or the one that was meant, is misspelt.

    Raises:
        ConfigurationError: there is one.
    """
    including = [pattern for pattern in patterns if not pattern.excludes]
    for pattern in patterns:
        if pattern.excludes and not any(_covers(pattern, other) or _covers(other, pattern) for other in including):
            raise ConfigurationError(option, f"of the role {role!r} have {_text(pattern)!r}, which excludes what no other pattern includes")


def _covers(pattern: ModelPattern, other: ModelPattern) -> bool:
    """Say whether every name that the other matches is one that the pattern matches."""
    return pattern.matches(other.name) and (pattern.prefix or not other.prefix)


def _text(pattern: ModelPattern) -> str:
    return f"{'!' if pattern.excludes else ''}{pattern.name}{'*' if pattern.prefix else ''}"
