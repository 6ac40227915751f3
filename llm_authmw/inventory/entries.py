"""What an app has at its paths, in the order in which it looks through them, and the ways that lead there."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from llm_authmw.inventory.paths import EVERY_PATH, Paths
from llm_authmw.patterns import METHODS

Kind: TypeAlias = Literal["route", "files", "metadata", "unknown", "nothing"]
"""What is there: a handler; files or a fixed answer; metadata of ours, which everybody may read; an app that cannot be looked into;
or nothing, since a mount keeps the rest of its paths from what comes later."""

EVERY_METHOD: Final = METHODS - {"WS"}


class Requests(msgspec.Struct, frozen=True):
    """Requests with one of these methods, to one of these paths."""

    methods: frozenset[str]
    paths: Paths


class Way(msgspec.Struct, frozen=True):
    """One way in which a request gets to an entry.

    Attributes:
        layers: Our layers that it passes, the outermost first.
        policies: The policies that it takes, the outermost first.
        public: Whether one of these lets everybody through.
        only: The requests that they send this way, of each policy one alternative or more; without a policy, all.
    """

    layers: tuple[Any, ...] = ()
    policies: tuple[str, ...] = ()
    public: bool = False
    only: tuple[tuple[Requests, ...], ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What an app has at some paths.

    Attributes:
        methods: For these methods; "WS" for a WebSocket.
        paths: At these paths: more than one set where the framework serves several spellings of one path.
        text: The path as the app writes it.
        kind: What is there.
        name: The handler's, or the app's.
        host: For this host only.
        target: What is called: equal for two entries that are one handler.
        ways: The ways that lead there; none where no policy does.
        keeps: Whether every request that it matches goes no further.
    """

    methods: frozenset[str]
    paths: tuple[Paths, ...]
    text: str
    kind: Kind = "route"
    name: str | None = None
    host: str | None = None
    target: Any = None
    ways: tuple[Way, ...] = (Way(),)
    keeps: bool = True


Look: TypeAlias = Callable[[Any], list[Entry]]
"""What looks into an app that a route leads to."""


def name_of(target: Any) -> str:
    """Return the name of a function, a class, or of an object's class, with that of its module."""
    has_name = hasattr(target, "__qualname__")
    named: Any = target if has_name else target.__class__
    return f"{named.__module__}.{named.__qualname__}"


def mounted(prefix: Paths, text: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they are below a prefix, and the nothing that the rest of its paths lead to.

    Args:
        prefix: The segments in front.
        text: These as the app writes them.
        entries: What is mounted.
    """
    inside = [
        msgspec.structs.replace(
            entry,
            paths=tuple(prefix + paths for paths in entry.paths),
            text=text + entry.text,
            ways=tuple(msgspec.structs.replace(way, only=tuple(_below(prefix, each) for each in way.only)) for way in entry.ways),
        )
        for entry in entries
    ]
    # Whoever comes here does not come back out, also where nothing is found.
    end = Entry(methods=METHODS, paths=(prefix + EVERY_PATH,), text=f"{text}/**", kind="nothing")
    return [*inside, end]


def _below(prefix: Paths, requests: Iterable[Requests]) -> tuple[Requests, ...]:
    return tuple(Requests(one.methods, prefix + one.paths) for one in requests)


def for_host(host: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries as they are for one host, and the nothing that its other paths lead to."""
    inside = [msgspec.structs.replace(entry, host=host if entry.host is None else f"{entry.host}, {host}") for entry in entries]
    return [*inside, Entry(methods=METHODS, paths=(EVERY_PATH,), text="/**", kind="nothing", host=host)]
