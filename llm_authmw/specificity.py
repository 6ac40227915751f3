"""Which of several route patterns is the most specific one that covers a request, whatever the order they were written in.

One pattern is more specific than another if all that it covers, method and path, is covered by the other one, and not the other
way round. Of two that overlap in any other way neither is.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from llm_authmw.authz.routes import RouteTable
from llm_authmw.patterns import RoutePattern

_INVENTED: Final = "INVENTED"
"""A method that no pattern can name: HTTP lets a client send one."""


def conflict(one: RoutePattern, other: RoutePattern) -> RoutePattern | None:
    """Return what both patterns cover, where neither is the more specific one; None where one is, or where they do not overlap."""
    both = one.meet(other)
    return both if both is not None and (both == one) == (both == other) else None


def is_exact(pattern: RoutePattern) -> bool:
    """Say whether the pattern names one path, without a wildcard."""
    return not pattern.rest and "*" not in pattern.segments


def is_within_but_for_slashes(one: RoutePattern, other: RoutePattern) -> bool:
    """Say whether one pattern would be more specific than another one, if a slash at the end of a path made no difference."""
    inner, outer = _without_slash(one), _without_slash(other)
    return inner != outer and inner.meet(outer) == inner


def example(pattern: RoutePattern) -> tuple[str, str]:
    """Return a method and a path that the pattern covers."""
    method = "GET" if not pattern.methods or "GET" in pattern.methods else min(pattern.methods)
    return method, _path(["x" if segment == "*" else segment for segment in pattern.segments])


class Specificity:
    """Patterns, and for a request the most specific of those that cover it.

    What an answer costs does not grow with the number of patterns.

    Args:
        patterns: The patterns. Where two of them conflict, and a request is covered by both, either may be the answer.

    Attributes:
        order: The numbers of the patterns, each one before all that are less specific.
    """

    __slots__ = ("_longest", "_table", "_unused", "order")

    def __init__(self, patterns: Sequence[RoutePattern]) -> None:
        # Of a pattern and one that it is within, the first of these figures that differs is the smaller one for the inner pattern.
        self.order: Final = tuple(sorted(range(len(patterns)), key=lambda number: _width(patterns[number])))
        self._table: Final = RouteTable([[patterns[number]] for number in self.order])
        self._longest: Final = max((len(pattern.segments) for pattern in patterns), default=0)
        self._unused: Final = "x" * (1 + max((len(segment) for pattern in patterns for segment in pattern.segments), default=0))

    def find(self, method: str, path: str) -> int | None:
        """Return the number of the pattern that decides about a method (`WS` for a WebSocket) and a canonical path, or None."""
        covering = self._table.mask(method, path)
        # The lowest bit is the first in the order: no other pattern of these is more specific.
        return self.order[(covering & -covering).bit_length() - 1] if covering else None

    def requests_of(self, pattern: RoutePattern) -> Iterator[tuple[str, str]]:
        """Yield methods and paths of the pattern: one of each shape, those that as few as possible of the others cover too.

        If the pattern decides about any request, it decides about one of these.
        """
        given = [self._unused if segment == "*" else segment for segment in pattern.segments]
        paths = [_path(given)]
        if pattern.rest:
            # Beyond the longest of all patterns, one path is like another.
            for more in range(self._longest - len(given) + 2):
                paths += [_path([*given, *[self._unused] * more, *end]) for end in ([], [""])]
        for method in sorted(pattern.methods) or [_INVENTED]:
            for path in paths:
                yield method, path


def _without_slash(pattern: RoutePattern) -> RoutePattern:
    if pattern.rest or pattern.segments[-1]:
        return pattern
    return RoutePattern(pattern.methods, pattern.segments[:-1], rest=False)


def _width(pattern: RoutePattern) -> tuple[int, bool, int, bool, int]:
    return (-len(pattern.segments), pattern.rest, pattern.segments.count("*"), not pattern.methods, len(pattern.methods))


def _path(segments: Sequence[str]) -> str:
    return "/" + "/".join(segments)
