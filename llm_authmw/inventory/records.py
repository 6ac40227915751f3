"""What an inventory says: routes, how they are guarded, and what is wrong with that."""

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from llm_authmw.errors import ConfigurationError
from llm_authmw.patterns import METHODS

Level: TypeAlias = Literal["error", "warning", "note"]
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
"""The gravest first."""

MOST_SHOWN: Final = 3

ProblemCode: TypeAlias = Literal[
    "model_unguarded",
    "model_guard_on_trial",
    "not_metered",
    "public_by_wildcard",
    "shadowed",
    "unguarded",
    "not_looked_into",
    "no_policy",
]


class Problem(msgspec.Struct, frozen=True):
    """Something about a route that may not be what is meant.

    Attributes:
        level: "error" for what lets somebody in, or is never reached; "warning" for what nobody can see here; "note" for what is denied.
        code: A stable word for what is wrong.
        route: The route's methods and path.
        message: What is wrong, and what to do.
    """

    level: Level
    code: ProblemCode
    route: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.route}: {self.message} ({self.code})"


class Guarding(msgspec.Struct, frozen=True):
    """One way in which requests get to a route.

    Attributes:
        policies: The policies that send them this way, the outermost first; none where there is no `PolicyRouter`.
        public: Whether one of these is public.
        layers: The layers of ours that they pass, the outermost first.
    """

    policies: tuple[str, ...]
    public: bool
    layers: tuple[str, ...]


class ListedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the app.

    Attributes:
        methods: Its methods, sorted; "WS" for a WebSocket. None at all means every one.
        path: Its path as the app writes it, below the mounts that lead there; `/**` at its end is the rest.
        host: The host that it is for, where it is for one only.
        kind: "route", "files" for files and fixed answers, "metadata" for those of a `ProtectedResource`, "unknown" for an app that cannot
            be looked into.
        handler: The name of its handler, or of its app.
        operations: The operations of LLM APIs that are, or may be, asked for there.
        guarding: The ways in which requests get there; none where they are denied, since no policy covers the route.
    """

    methods: tuple[str, ...]
    path: str
    host: str | None
    kind: str
    handler: str | None
    operations: tuple[str, ...]
    guarding: tuple[Guarding, ...]

    def __str__(self) -> str:
        host = "" if self.host is None else f"{self.host}"
        return f"{shown_methods(self.methods)} {host}{self.path}"


class Inventory(msgspec.Struct, frozen=True):
    """The routes of an app, how each is guarded, and what is wrong with that. `msgspec.json.encode` makes JSON of it.

    Attributes:
        routes: The routes, in the order in which the app looks through them.
        problems: What is wrong, the gravest first.
    """

    routes: tuple[ListedRoute, ...]
    problems: tuple[Problem, ...]

    def grave(self, level: Level) -> tuple[Problem, ...]:
        """Return the problems of a level, and those above it."""
        counted = LEVELS[: LEVELS.index(level) + 1]
        return tuple(problem for problem in self.problems if problem.level in counted)

    def check(self, level: Level = "error") -> None:
        """Refuse the app for what is wrong.

        Args:
            level: The mildest level of a problem that counts.

        Raises:
            ConfigurationError: there is such a problem; its text names all of them.
        """
        if level not in LEVELS:
            raise ConfigurationError("level", "is 'error', 'warning' or 'note'")
        found = self.grave(level)
        if found:
            raise ConfigurationError("routes", "\n".join([f"{len(found)} of the app's are not as they should be:", *map(str, found)]))

    def __str__(self) -> str:
        rows = [("METHODS", "PATH", "POLICY", "LAYERS", "REACHES"), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *map(str, self.problems)])

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield what a table shows: for each way to a route its methods, path, policies, layers, and the operations that it reaches."""
        for route in self.routes:
            methods, path = str(route).split(" ", 1)
            reaches = shown_names(route.operations) or "-"
            if not route.guarding:
                yield methods, path, "denied", "-", reaches
            for way in route.guarding:
                policy = " > ".join(way.policies) or "-"
                yield methods, path, f"{policy} (public)" if way.public else policy, " > ".join(way.layers) or "-", reaches


def shown_methods(methods: tuple[str, ...]) -> str:
    """Return methods as they are written; HEAD goes with GET."""
    if "GET" in methods:
        methods = tuple(method for method in methods if method != "HEAD")
    return ",".join(methods) or "*"


def shown_names(names: tuple[str, ...]) -> str:
    """Return names, and of many no more than the first few."""
    return ", ".join(names) if len(names) <= MOST_SHOWN else f"{', '.join(names[:MOST_SHOWN])} and {len(names) - MOST_SHOWN} more"


def listed_methods(methods: frozenset[str]) -> tuple[str, ...]:
    """Return methods sorted, or none where they are all that there are."""
    return () if methods >= METHODS else tuple(sorted(methods))
