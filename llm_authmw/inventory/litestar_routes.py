"""The routes of a Litestar app. Nothing of Litestar is imported: an app of its own is known by its class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from llm_authmw.inventory.entries import Entry, Look, mounted, name_of
from llm_authmw.inventory.layers import layers_listed
from llm_authmw.inventory.paths import ANY, REST, One, Paths, Token
from llm_authmw.inventory.policies import behind
from llm_authmw.patterns import METHODS

_SAMPLES: Final[Mapping[str, str]] = {
    "int": "1",
    "float": "1",
    "Decimal": "1",
    "UUID": "00000000-0000-4000-8000-000000000000",
    "date": "2030-01-31",
    "datetime": "2030-01-31T00:00:00",
    "time": "00:00:00",
    "timedelta": "1",
}


def is_litestar(app: Any) -> bool:
    """Say whether it is a Litestar app."""
    return any((kind.__module__, kind.__name__) == ("litestar.app", "Litestar") for kind in type(app).__mro__)


def litestar_entries(app: Any, look: Look) -> list[Entry]:
    """Return what a Litestar app has, in the order in which it looks: plain paths, mounts, then what is literal before parameters."""
    plain: list[Entry] = []
    mounts: list[Entry] = []
    others: list[Entry] = []
    for route in app.routes:
        handlers = getattr(route, "route_handler_map", None)
        if handlers is not None:
            found = _http(route, {method: handler for method, (handler, _) in handlers.items()})
        elif getattr(route.route_handler, "is_mount", False):
            mounts += _mount(route, look)
            continue
        else:
            methods = frozenset({"WS"}) if route.scope_type == "websocket" else METHODS
            found = [_entry(route, methods, [route.route_handler])]
        (others if route.path_parameters else plain).extend(found)
    return [*plain, *mounts, *sorted(others, key=_precedence)]


def _http(route: Any, handlers: Mapping[str, Any]) -> list[Entry]:
    """Return one entry for all methods that stand behind the same layers: the answer to OPTIONS, which Litestar adds, may not."""
    groups: dict[str, list[str]] = {}
    for method in sorted(handlers):
        groups.setdefault(repr(_layers(handlers[method])), []).append(method)
    return [_entry(route, frozenset(methods), [handlers[method] for method in methods]) for methods in groups.values()]


def _entry(route: Any, methods: frozenset[str], handlers: Sequence[Any]) -> Entry:
    names = dict.fromkeys(name_of(handler.fn) for handler in handlers if handler.handler_name != "options_handler")
    entry = Entry(methods=methods, paths=_spellings(_paths(route)), text=route.path, name=", ".join(names) or None, target=route)
    return behind(_layers(handlers[0]), [entry])[0]


def _mount(route: Any, look: Look) -> list[Entry]:
    handler = route.route_handler
    entries = mounted(_paths(route), route.path.rstrip("/"), behind(_layers(handler), look(handler.fn)))
    return [
        msgspec.structs.replace(entry, paths=tuple(spelling for paths in entry.paths for spelling in _spellings(paths)))
        for entry in entries
    ]


def _layers(handler: Any) -> tuple[Any, ...]:
    # The innermost comes first there.
    return layers_listed(reversed(handler.resolve_middleware()))


def _paths(route: Any) -> Paths:
    return tuple(token for component in route.path_components for token in _tokens(component))


def _tokens(component: Any) -> tuple[Token, ...]:
    if isinstance(component, str):
        return (component,)
    if component.type is Path:
        return (One(), REST)
    return (One(sample=_SAMPLES.get(component.type.__name__, "x")),)


def _spellings(paths: Paths) -> tuple[Paths, ...]:
    """Return the paths with and without a slash at the end: Litestar serves both as one, and a policy may name one of them."""
    if paths[-1:] == (REST,):
        # The slash at the end of a mount's own path, too.
        return ((*paths[:-2], REST) if paths[-2:-1] == (ANY,) else paths,)
    bare = paths[:-1] if paths[-1:] == ("",) else paths
    return (bare, (*bare, "")) if bare else (("",),)


def _precedence(entry: Entry) -> tuple[int, ...]:
    return tuple(0 if isinstance(token, str) else 1 if isinstance(token, One) else 2 for token in entry.paths[0])
