"""What an app looks at before it comes to an entry, and which may keep requests from that one: found without a look at all the others."""

from collections.abc import Iterator
from typing import Final

from llm_authmw.inventory.entries import Entry
from llm_authmw.inventory.paths import Paths, Rest


class Earlier:
    """The entries so far, by the segments of their paths.

    A set of paths has a part in covering another one only if it agrees with each of its literal segments, as far as both say.
    """

    def __init__(self) -> None:
        self._root: Final = _Node()
        self._count = 0

    def add(self, entry: Entry) -> None:
        """Take in the next entry."""
        if entry.keeps:
            for paths in entry.paths:
                self._root.add(paths, (self._count, entry))
        self._count += 1

    def that_may_cover(self, paths: Paths) -> list[Entry]:
        """Return the entries that may have a part in covering the paths, each once, in their order."""
        found = dict(self._root.find(paths))
        return [found[number] for number in sorted(found)]


class _Node:
    __slots__ = ("_ends", "_literal", "_other", "_rests")

    def __init__(self) -> None:
        self._literal: Final[dict[str, _Node]] = {}
        self._other: _Node | None = None
        self._ends: Final[list[tuple[int, Entry]]] = []
        self._rests: Final[list[tuple[int, Entry]]] = []

    def add(self, paths: Paths, numbered: tuple[int, Entry]) -> None:
        if not paths:
            self._ends.append(numbered)
        elif isinstance(paths[0], Rest):
            # What comes behind as many segments as there may be is left to the longer look.
            self._rests.append(numbered)
        elif isinstance(paths[0], str):
            self._literal.setdefault(paths[0], _Node()).add(paths[1:], numbered)
        else:
            self._other = self._other or _Node()
            self._other.add(paths[1:], numbered)

    def find(self, paths: Paths) -> Iterator[tuple[int, Entry]]:
        yield from self._rests
        if not paths:
            yield from self._ends
            return
        head, rest = paths[0], paths[1:]
        if isinstance(head, Rest):
            yield from self._ends
            for node in self._all():
                yield from node.find(paths)
            return
        if isinstance(head, str) and head in self._literal:
            yield from self._literal[head].find(rest)
        if self._other is not None:
            yield from self._other.find(rest)

    def _all(self) -> Iterator["_Node"]:
        yield from self._literal.values()
        if self._other is not None:
            yield self._other
