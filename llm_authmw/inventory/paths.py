"""Sets of paths: what a route with parameters, a mount or a pattern stands for, and how two of them lie to each other.

A path is the list of its segments, as the route patterns read it: `/v1/` is "v1" and an empty one. A set of paths is written as
tokens: a text is that very segment, a `One` is any segment of a kind, `ANY` is any at all, `REST` is as many as there may be.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec

from llm_authmw.patterns import RoutePattern


class One(msgspec.Struct, frozen=True):
    """One segment that is not empty.

    Attributes:
        regex: What the whole of it looks like; None where anything does.
        sample: One that does.
    """

    regex: str | None = None
    sample: str = "x"


class Rest(msgspec.Struct, frozen=True):
    """As many segments as there may be, none too."""


class Anything(msgspec.Struct, frozen=True):
    """One segment, whatever is in it, and if nothing is."""


Single: TypeAlias = str | One | Anything
Token: TypeAlias = Single | Rest
Paths: TypeAlias = tuple[Token, ...]

ANY: Final = Anything()
REST: Final = Rest()
EVERY_PATH: Final[Paths] = (ANY, REST)
"""Every path: it has one segment at the least, which is empty in `/`."""


def literal(path: str) -> Paths:
    """Return the set that is this one path."""
    return tuple(path.split("/")[1:])


def of_pattern(pattern: RoutePattern) -> Paths:
    """Return the paths that a route pattern covers."""
    return (*(One() if segment == "*" else segment for segment in pattern.segments), *((REST,) if pattern.rest else ()))


def is_literal(paths: Paths) -> bool:
    """Say whether it is one path only."""
    return all(isinstance(token, str) for token in paths)


def shown(paths: Paths) -> str:
    """Return the paths in the language of route patterns, as far as it can say them."""
    return "".join("/" + (token if isinstance(token, str) else "**" if isinstance(token, Rest) else "*") for token in paths)


def sample(paths: Paths) -> str:
    """Return one of the paths, with no more in it than has to be."""
    return "/" + "/".join(token.sample if isinstance(token, One) else token for token in paths if isinstance(token, One | str))


def overlap(first: Paths, second: Paths) -> bool:
    """Say whether some path may be in both. Of two kinds of segments it is not looked into whether they have one in common."""
    seen: set[tuple[int, int]] = set()
    todo = [(0, 0)]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        at, by = here
        one, other = first[at : at + 1], second[by : by + 1]
        if not one and not other:
            return True
        if REST in one:
            todo.append((at + 1, by))
        if REST in other:
            todo.append((at, by + 1))
        if one and other and _meet(one[0], other[0]):
            todo.append((at + (one[0] is not REST), by + (other[0] is not REST)))
    return False


def covers(sets: Iterable[Paths], paths: Paths) -> bool:
    """Say whether every one of these paths is in one of the sets."""
    ready = tuple(sets)
    start = frozenset(state for number in range(len(ready)) for state in _resting(ready, number, 0))
    return _covered(ready, start, paths)


def _covered(sets: Sequence[Paths], states: frozenset[tuple[int, int]], paths: Paths) -> bool:
    """Say whether what is left of the paths is in what is left of the sets, of each as far as a state says."""
    for place, token in enumerate(paths):
        if isinstance(token, Rest):
            seen: set[frozenset[tuple[int, int]]] = set()
            # After so many segments each set stands where it stood after some fewer: then all of them have been looked at.
            while states not in seen:
                seen.add(states)
                if not _covered(sets, states, paths[place + 1 :]):
                    return False
                states = _after(sets, states, ANY)
            return True
        states = _after(sets, states, token)
        if not states:
            return False
    return any(place == len(sets[number]) for number, place in states)


def _after(sets: Sequence[Paths], states: frozenset[tuple[int, int]], segment: Single) -> frozenset[tuple[int, int]]:
    after: set[tuple[int, int]] = set()
    for number, place in states:
        if place == len(sets[number]):
            continue
        token = sets[number][place]
        if isinstance(token, Rest):
            after.update(_resting(sets, number, place))
        elif _holds(token, segment):
            after.update(_resting(sets, number, place + 1))
    return frozenset(after)


def _resting(sets: Sequence[Paths], number: int, place: int) -> list[tuple[int, int]]:
    """Return a state, and those that are reached from it without a segment."""
    states = [(number, place)]
    while place < len(sets[number]) and isinstance(sets[number][place], Rest):
        place += 1
        states.append((number, place))
    return states


def _holds(token: Single, segment: Single) -> bool:
    """Say whether every segment that the second one stands for is one that the first stands for."""
    if isinstance(token, Anything):
        return True
    if isinstance(token, str) or isinstance(segment, Anything):
        return token == segment
    if token.regex is None:
        return segment != ""
    return token == segment if isinstance(segment, One) else _compiled(token.regex).fullmatch(segment) is not None


def _meet(one: Token, other: Token) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    if isinstance(other, str):
        one, other = other, one
    if isinstance(one, str) and isinstance(other, One):
        return _holds(other, one)
    return True


@lru_cache(maxsize=256)
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex)
