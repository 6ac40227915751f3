"""Which requests to a model get to what an app has at some paths."""

from collections.abc import Iterator
from typing import Final

from llm_authmw.errors import Denial
from llm_authmw.inventory.entries import Entry, Way
from llm_authmw.inventory.paths import REST, One, Paths, Token, overlap, sample
from llm_authmw.llm.endings import Ending
from llm_authmw.llm.operation import Operation
from llm_authmw.llm.operations import Operations

_ALL: Final = Way()


class ReachTable:
    """The operations, ready to be held against many entries.

    Args:
        operations: The table of operations.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations: Final = operations
        self._endings: Final = [
            (operation, ending.methods, _paths(ending)) for operation in operations for ending in map(Ending.parse, operation.routes)
        ]

    def of(self, entry: Entry, way: Way = _ALL) -> tuple[Operation, ...]:
        """Return the operations that are asked for at an entry, or may be where it has a wildcard, each once.

        Args:
            entry: The entry.
            way: The way by which requests get there.
        """
        if entry.kind in ("files", "metadata", "nothing"):
            return ()
        return tuple(dict.fromkeys((*self._named(entry, way), *self._below_wildcards(entry, way))))

    def _named(self, entry: Entry, way: Way) -> Iterator[Operation]:
        for method in sorted(entry.methods):
            if all(any(method in one.methods for one in only) for only in way.only):
                for paths in entry.paths:
                    found = None if REST in paths else self._find(method, sample(paths))
                    if found is not None:
                        yield found

    def _below_wildcards(self, entry: Entry, way: Way) -> Iterator[Operation]:
        wild = [paths for paths in entry.paths if REST in paths]
        for operation, methods, ending in self._endings if wild else ():
            left = methods & entry.methods
            if (
                left
                and any(overlap(paths, ending) for paths in wild)
                and all(any(left & one.methods and overlap(one.paths, ending) for one in only) for only in way.only)
            ):
                yield operation

    def _find(self, method: str, path: str) -> Operation | None:
        try:
            found = self._operations.find(method, path)
        except Denial:
            return None
        return None if found is None else found.operation


def _paths(ending: Ending) -> Paths:
    """Return the paths that end so."""
    tokens: list[Token] = [REST]
    for place, segment in enumerate(ending.segments):
        if segment is not None:
            tokens.append(segment)
        elif place == ending.model and ending.action:
            tokens += [*([REST] if ending.several else []), One(f".+:{ending.action}", f"x:{ending.action}")]
        else:
            tokens += [One(), *([REST] if place == ending.model and ending.several else [])]
    return tuple(tokens)
