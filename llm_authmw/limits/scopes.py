"""By what a limit is counted: one word, or several joined by `+`, each of them with one value where only that is meant.

    team                    every team by itself
    team+model              every model of every team
    team:blue               one team
    model:gpt-4o*           all models that begin so, together in one bucket
    model_group:cheap       all models of a group
    route:POST /v1/**       all requests that the pattern covers
    global                  everybody, whatever the tenant

A value ends at the next `+`; one that holds a `+` or a `%` has `%2B` or `%25` in its place.
"""

from itertools import product
from typing import Final

from llm_authmw.errors import InvalidValueError
from llm_authmw.limits.asked import Asked
from llm_authmw.limits.dimensions import DIMENSIONS, OF_THE_CALL, Reader, Subjects, reader_of
from llm_authmw.limits.model_groups import ModelGroups
from llm_authmw.names import name_problem

_WITHOUT_CALLER: Final = OF_THE_CALL | {"global", "route", "address"}


class Scope:
    """One scope, parsed.

    Attributes:
        text: Its canonical text.
        dimensions: The words of it, each once.
        words: What a client is told that it is counted by: no name of anybody's.
        values: How many of them have a value.
        tenantless: Whether all tenants share its buckets.
    """

    __slots__ = ("_readers", "dimensions", "tenantless", "text", "values", "words")

    def __init__(self, parts: list[tuple[str, str | None]], groups: ModelGroups) -> None:
        order = list(DIMENSIONS)
        parts = sorted(parts, key=lambda part: order.index(part[0]))
        self.dimensions: Final[tuple[str, ...]] = tuple(dimension for dimension, _ in parts)
        self.text: Final[str] = "+".join(
            dimension if value is None else f"{dimension}:{value.replace('%', '%25').replace('+', '%2B')}" for dimension, value in parts
        )
        self.words: Final[str] = " and ".join(DIMENSIONS[dimension] for dimension in self.dimensions)
        self.values: Final[int] = sum(value is not None for _, value in parts)
        self.tenantless: Final[bool] = "global" in self.dimensions
        self._readers: Final[tuple[Reader, ...]] = tuple(reader_of(dimension, value, groups) for dimension, value in parts)

    @classmethod
    def parse(cls, text: str, groups: ModelGroups | None = None) -> "Scope":
        """Read a scope such as `team+model`.

        Raises:
            InvalidValueError: `text` is none; says what was expected.
        """
        parts: list[tuple[str, str | None]] = []
        for part in text.split("+"):
            dimension, colon, value = part.partition(":")
            if dimension not in DIMENSIONS:
                raise InvalidValueError(f"{text!r}: {dimension!r} is nothing that is counted by; expected some of {', '.join(DIMENSIONS)}")
            if any(dimension == other for other, _ in parts):
                raise InvalidValueError(f"{text!r} names {dimension!r} twice")
            parts.append((dimension, _unescaped(text, value) if colon else None))
        return cls(parts, ModelGroups({}) if groups is None else groups)

    @property
    def needs_call(self) -> bool:
        """Whether only what the request asks for can tell the subjects."""
        return not OF_THE_CALL.isdisjoint(self.dimensions)

    @property
    def needs_address(self) -> bool:
        """Whether the client's address is one of its dimensions."""
        return "address" in self.dimensions

    @property
    def moves(self) -> bool:
        """Whether two requests of one caller may have other subjects."""
        return self.needs_call or self.needs_address or "route" in self.dimensions

    @property
    def needs_caller(self) -> bool:
        """Whether somebody has to be logged in for it."""
        return not _WITHOUT_CALLER.issuperset(self.dimensions)

    def subjects(self, asked: Asked) -> Subjects | None:
        """Return whose buckets the request is counted in: several where it names several models, none where the scope is not about it.

        No two subjects of a tenant give one text: `%`, `+`, `/` and `:` in names are escaped.

        Returns:
            None where the scope is about the request, and something that it is counted by is missing.
        """
        if len(self._readers) == 1:
            return self._readers[0](asked)
        found = [reader(asked) for reader in self._readers]
        if () in found:
            return ()
        known = [subjects for subjects in found if subjects is not None]
        return tuple(map("+".join, product(*known))) if len(known) == len(found) else None

    def __repr__(self) -> str:
        return f"Scope({self.text!r})"


def _unescaped(text: str, value: str) -> str:
    if any(part[:2] not in {"2B", "25"} for part in value.split("%")[1:]):
        raise InvalidValueError(f"{text!r}: a value has '%2B' in place of '+' and '%25' in place of '%'")
    plain = value.replace("%2B", "+").replace("%25", "%")
    problem = name_problem(plain)
    if problem is not None:
        raise InvalidValueError(f"{text!r}: the value {problem}")
    return plain
