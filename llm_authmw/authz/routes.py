"""Which roles allow a route: every role's patterns compiled into one tree of segments, an integer of roles for an answer."""

from collections.abc import Sequence
from typing import Final

from llm_authmw.patterns import RoutePattern

MAX_REMEMBERED: Final = 4096
"""Answers that a table remembers: clients choose the paths."""
MAX_REMEMBERED_LENGTH: Final = 256


class _Masks:
    """The roles that allow a path: with some method only, or with every one."""

    __slots__ = ("by_method", "every")

    def __init__(self) -> None:
        self.by_method: Final[dict[str, int]] = {}
        self.every = 0

    def add(self, methods: frozenset[str], bit: int) -> None:
        for method in methods:
            self.by_method[method] = self.by_method.get(method, 0) | bit
        if not methods:
            self.every |= bit

    def of(self, method: str) -> int:
        return self.by_method.get(method, 0) | self.every


class _Node:
    """A place in the tree: what may follow, and who may end here, or go on from here as he likes."""

    __slots__ = ("end", "literal", "rest", "wildcard")

    def __init__(self) -> None:
        self.literal: Final[dict[str, _Node]] = {}
        self.wildcard: _Node | None = None
        self.end: Final = _Masks()
        self.rest: Final = _Masks()


class RouteTable:
    """The route patterns of every role, by role: bit n of an answer is the n-th role.

    It is what `patterns.route_allowed` says of each role. What an answer costs is bounded by how deep and how wild the patterns are, and
    does not grow with the number of roles.

    Args:
        roles: The patterns of each role, in the order of the roles.
        remember: Answers that are remembered.
    """

    __slots__ = ("_literal", "_most", "_remembered", "_root")

    def __init__(self, roles: Sequence[Sequence[RoutePattern]], *, remember: int = MAX_REMEMBERED) -> None:
        self._root: Final = _Node()
        self._literal: Final[dict[str, _Masks]] = {}
        self._most: Final = remember
        self._remembered: Final[dict[tuple[str, str], int]] = {}
        for number, patterns in enumerate(roles):
            for pattern in patterns:
                self._add(pattern, 1 << number)

    def mask(self, method: str, path: str) -> int:
        """Return the roles that allow the method (`WS` for a WebSocket) and the canonical path."""
        known = self._remembered.get((method, path))
        if known is not None:
            return known
        allowed = self._find(method, path)
        # Methods are the client's to invent as well.
        if len(path) + len(method) <= MAX_REMEMBERED_LENGTH:
            if len(self._remembered) >= self._most:
                self._remembered.clear()
            self._remembered[method, path] = allowed
        return allowed

    def literal(self, method: str, path: str) -> int:
        """Return the roles that name this very route, without a wildcard."""
        masks = self._literal.get(path)
        return 0 if masks is None else masks.of(method)

    def _add(self, pattern: RoutePattern, bit: int) -> None:
        node = self._root
        for segment in pattern.segments:
            if segment == "*":
                if node.wildcard is None:
                    node.wildcard = _Node()
                node = node.wildcard
            else:
                node = node.literal.setdefault(segment, _Node())
        (node.rest if pattern.rest else node.end).add(pattern.methods, bit)
        if not pattern.rest and "*" not in pattern.segments:
            self._literal.setdefault("/" + "/".join(pattern.segments), _Masks()).add(pattern.methods, bit)

    def _find(self, method: str, path: str) -> int:
        nodes = [self._root]
        allowed = self._root.rest.of(method)
        for segment in path.split("/")[1:]:
            following: list[_Node] = []
            for node in nodes:
                literal = node.literal.get(segment)
                if literal is not None:
                    following.append(literal)
                if node.wildcard is not None and segment:
                    following.append(node.wildcard)
            if not following:
                return allowed
            for node in following:
                allowed |= node.rest.of(method)
            nodes = following
        for node in nodes:
            allowed |= node.end.of(method)
        return allowed
