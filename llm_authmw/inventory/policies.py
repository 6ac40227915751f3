"""What stands in front of what an app has: layers, and routers that choose them by policy."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

import msgspec

from llm_authmw.asgi import Branching
from llm_authmw.inventory.entries import Entry, Requests, Way
from llm_authmw.inventory.layers import layers_of
from llm_authmw.inventory.paths import Paths, covers, is_literal, of_pattern, overlap
from llm_authmw.patterns import RoutePattern
from llm_authmw.stack import Stack


class _Policy(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def patterns(self) -> tuple[RoutePattern, ...]: ...
    @property
    def stack(self) -> Stack | None: ...


class _PolicyRouter(Protocol):
    @property
    def policies(self) -> Sequence[_Policy]: ...


def behind(layers: Iterable[Any], entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they are behind some layers, and routers of policies among these, the outermost first."""
    found = list(entries)
    for layer in reversed(tuple(layers)):
        if isinstance(layer, Branching):
            found = _by_policy(cast("_PolicyRouter", layer).policies, found)
        else:
            found = [
                msgspec.structs.replace(entry, ways=tuple(msgspec.structs.replace(way, layers=(layer, *way.layers)) for way in entry.ways))
                for entry in found
            ]
    return found


class _Rule(msgspec.Struct):
    """One pattern of a policy, while the entries are gone through in their order.

    Attributes:
        policy: Whose it is.
        layers: The layers of the policy's stack.
        pattern: The pattern.
        paths: Its paths.
        narrower: The paths of the patterns that go before this one, by method where they name any.
        taken: The methods for which an entry has come that serves its path, where that is one only: nothing later ever does.
    """

    policy: _Policy
    layers: tuple[Any, ...]
    pattern: RoutePattern
    paths: Paths
    narrower: list[tuple[frozenset[str], Paths]] = []
    taken: set[str] = set()

    def decides(self, entry: Entry) -> frozenset[str]:
        """Return the methods for which it decides about some request that gets to an entry."""
        methods = entry.methods if not self.pattern.methods else entry.methods & self.pattern.methods
        return frozenset(method for method in methods - self.taken if self._reaches(method, entry))

    def take(self, entry: Entry) -> None:
        if is_literal(self.paths) and entry.keeps and entry.host is None and covers(entry.paths, self.paths):
            self.taken |= entry.methods

    def _reaches(self, method: str, entry: Entry) -> bool:
        narrower = [paths for methods, paths in self.narrower if not methods or method in methods]
        return any(overlap(self.paths, paths) and not covers(narrower, paths) for paths in entry.paths)


def _by_policy(policies: Sequence[_Policy], entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with the ways that policies send requests to them."""
    rules = [
        _Rule(policy, layers, pattern, of_pattern(pattern))
        for policy, layers in [(policy, () if policy.stack is None else layers_of(policy.stack)) for policy in policies]
        for pattern in policy.patterns
    ]
    for rule in rules:
        others = [other for other in rules if other.pattern != rule.pattern and rule.pattern.meet(other.pattern) == other.pattern]
        rule.narrower = [(other.pattern.methods, other.paths) for other in others]
    found: list[Entry] = []
    for entry in entries:
        chosen: dict[str, tuple[_Rule, list[Requests]]] = {}
        for rule in rules:
            methods = rule.decides(entry)
            if methods:
                chosen.setdefault(rule.policy.name, (rule, []))[1].append(Requests(methods, rule.paths))
            rule.take(entry)
        ways = tuple(
            Way(way.layers, (name, *way.policies), way.public or rule.policy.stack is None, (tuple(only), *way.only))
            for name, (rule, only) in chosen.items()
            for way in behind(rule.layers, [entry])[0].ways
        )
        found.append(msgspec.structs.replace(entry, ways=ways))
    return found
