"""The table of operations, compiled: which operation a request is, and which models its path names.

A route is found by how its path ends, so with and without `/v1`, under any mount and behind any prefix of a gateway. Where more
than one ending fits, one that finds a model in the path goes before one that does not; then the longer one; then the one that is
literal further to the right.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Final, TypeAlias

from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.endings import Ending
from llm_authmw.llm.model_names import model_name
from llm_authmw.llm.operation import Found, Operation

__all__ = ["Found", "Operation", "Operations"]

_REMEMBERED: Final = 256
"""Characters up to which a path and what was found for it are remembered."""
_WITHOUT_BODY: Final = frozenset({"GET", "DELETE"})


class _End:
    """An ending of an operation, where the tree has been read to its first segment."""

    __slots__ = ("action", "after", "before", "found", "names_model", "operation")

    def __init__(self, operation: Operation, ending: Ending) -> None:
        self.operation: Final = operation
        self.names_model: Final = ending.model is not None
        self.before: Final = ending.model or 0
        self.after: Final = len(ending.segments) - 1 - self.before
        self.action: Final = ending.action and f":{ending.action}"
        self.found: Final = Found(operation, ())


# What stands behind one of these in a path is a model, whatever the operation.
_BEFORE_MODELS: Final = frozenset({"deployments", "engines"})

_Match: TypeAlias = tuple[_End, int]
"""An ending that fits, and the index of the path's segment where it begins."""


class _Node:
    """A place in the tree of endings, which is read from a path's last segment to its first."""

    __slots__ = ("end", "literal", "one", "several")

    def __init__(self) -> None:
        self.literal: Final[dict[str, _Node]] = {}
        self.one: _Node | None = None
        self.several: _Node | None = None
        self.end: _End | None = None


class _Tree:
    """The endings for one method: those without an action, and those with each action."""

    __slots__ = ("actions", "plain")

    def __init__(self) -> None:
        self.plain: Final = _Node()
        self.actions: Final[dict[str, _Node]] = {}

    def add(self, ending: Ending) -> _Node:
        """Return the place of an ending, which is made where there is none."""
        node = self.actions.setdefault(ending.action, _Node()) if ending.action else self.plain
        for place in range(len(ending.segments) - 1, -1, -1):
            segment = ending.segments[place]
            if segment is not None:
                node = node.literal.setdefault(segment, _Node())
            elif ending.several and place == ending.model:
                node.several = node.several or _Node()
                node = node.several
            else:
                node.one = node.one or _Node()
                node = node.one
        return node


class Operations:
    """The built-in operations and one's own, found by method and path. How long that takes does not depend on how many there are.

    Args:
        own: Operations beside the built-in ones. Where both have the same ending, these count.

    Raises:
        ConfigurationError: two of `own` have the same ending, or one is no `Operation`.
    """

    __slots__ = ("_all", "_remembered", "_trees")

    def __init__(self, *own: Operation) -> None:
        self._all: Final = (*own, *BUILT_IN)
        self._trees: Final[dict[str, _Tree]] = {}
        for operation in own:
            if type(operation) is not Operation:
                raise ConfigurationError("operations", f"takes objects of the type Operation, not {type(operation).__name__}")
            self._add(operation, own=True)
        for operation in BUILT_IN:
            self._add(operation, own=False)
        self._remembered: Final = functools.lru_cache(maxsize=1024)(self._find)

    def __iter__(self) -> Iterator[Operation]:
        """Yield one's own operations, then the built-in ones."""
        return iter(self._all)

    def find(self, method: str, path: str) -> Found | None:
        """Return the operation of a request and the models that its path names, or None where no ending of the table is the path's.

        Args:
            method: In upper case; "WS" for a WebSocket.
            path: A canonical path (`llm_authmw.patterns.canonical_route`). One slash at its end means nothing, as routers redirect it.

        Raises:
            Denial: the path names a model by something that is no model's name (`model_malformed`), or can be split into ending and
                model in more than one way (`ambiguous_path`).
        """
        return self._remembered(method, path) if len(path) <= _REMEMBERED else self._find(method, path)

    def _find(self, method: str, path: str) -> Found | None:
        if method == "HEAD":
            method = "GET"
        tree = self._trees.get(method)
        if tree is None:
            return None
        segments = path.split("/")
        last = len(segments) - 1
        if not segments[last]:
            last -= 1
        if last < 1:
            return None
        match = None
        if ":" in segments[last]:
            match = _match_action(tree, segments, last)
            # An action decides what is done with a model. One that is not known counts as part of a name only where a request brings
            # nothing that could be run.
            if match is None and method not in _WITHOUT_BODY:
                return None
        match = match or _match(tree.plain, segments, last)
        if match is None:
            return None
        end, first = match
        if not end.names_model:
            return _deployed(end, segments)
        named = "/".join(segments[first + end.before : last + 1 - end.after])
        return Found(end.operation, (model_name(named.removesuffix(end.action)),))

    def _add(self, operation: Operation, *, own: bool) -> None:
        for route in operation.routes:
            ending = Ending.parse(route)
            for method in ending.methods:
                node = self._trees.setdefault(method, _Tree()).add(ending)
                if node.end is None:
                    node.end = _End(operation, ending)
                elif own:
                    raise ConfigurationError(
                        "operations", f"{node.end.operation.name!r} and {operation.name!r} both have the ending {route!r}, for {method}"
                    )


def _match_action(tree: _Tree, segments: list[str], last: int) -> _Match | None:
    """Return the ending whose last segment is literally the path's, or else the one with its action."""
    literal = tree.plain.literal.get(segments[last])
    if literal is not None and (match := _match(literal, segments, last - 1)) is not None:
        return match
    name, _, action = segments[last].rpartition(":")
    node = tree.actions.get(action)
    return _match(node, segments, last) if name and node is not None else None


def _match(node: _Node, segments: list[str], at: int) -> _Match | None:
    """Return the ending below `node` that counts, and the index of its first segment.

    Args:
        node: How far the tree has been read.
        segments: Of the whole path; the first one is what stands before its first slash.
        at: The index of the segment to read next.

    Raises:
        Denial: more than one segment may be where the model's name begins.
    """
    best: _Match | None = None
    if at > 0:
        literal = node.literal.get(segments[at])
        if literal is not None:
            best = _match(literal, segments, at - 1)
        if node.one is not None and (other := _match(node.one, segments, at - 1)) is not None:
            best = other if best is None else _better(best, other)
        if node.several is not None and at > 1 and (other := _match_several(node.several, segments, at)) is not None:
            best = other if best is None else _better(best, other)
    if node.end is None:
        return best
    here = (node.end, at + 1)
    return here if best is None else _better(best, here)


def _better(one: _Match, other: _Match) -> _Match:
    """Return the match that finds a model, or else begins further to the left; where they are alike, the first.

    Raises:
        Denial: they find models that begin at different places.
    """
    (end, first), (other_end, other_first) = one, other
    if end.names_model is not other_end.names_model:
        return one if end.names_model else other
    if end.names_model and first + end.before != other_first + other_end.before:
        raise Denial("ambiguous_path")
    return one if first <= other_first else other


def _match_several(node: _Node, segments: list[str], at: int) -> _Match | None:
    found: _Match | None = None
    for start in range(at - 1, 0, -1):
        anchor = node.literal.get(segments[start])
        if anchor is not None and (match := _match(anchor, segments, start - 1)) is not None:
            if found is not None:
                raise Denial("ambiguous_path")
            found = match
    return found


def _deployed(end: _End, segments: list[str]) -> Found:
    """Return an operation whose ending names no model, with the deployment that the path begins with."""
    if _BEFORE_MODELS.isdisjoint(segments):
        return end.found
    named = [model_name(after) for before, after in itertools.pairwise(segments) if after and before in _BEFORE_MODELS]
    return Found(end.operation, tuple(named))
