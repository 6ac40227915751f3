"""The routes of Starlette's apps and routers, and of FastAPI's, which are made of the same."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor, PathConvertor
from starlette.responses import Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from llm_authmw.inventory.entries import EVERY_METHOD, Entry, Look, for_host, mounted, name_of
from llm_authmw.inventory.layers import layers_around, layers_listed
from llm_authmw.inventory.paths import ANY, EVERY_PATH, REST, One, Paths, Token
from llm_authmw.inventory.policies import behind
from llm_authmw.patterns import METHODS

_PARAMETER: Final = re.compile(r"{([a-zA-Z_][a-zA-Z0-9_]*)}")
_SAMPLES: Final = {"int": "1", "float": "1", "uuid": "00000000-0000-4000-8000-000000000000"}
_SAMPLE_OF: Final = {CONVERTOR_TYPES[name].regex: text for name, text in _SAMPLES.items()}


def starlette_entries(app: Any, look: Look) -> list[Entry] | None:
    """Return what an app of Starlette's or FastAPI's has, or None where it is no such app."""
    if isinstance(app, Starlette):
        return behind(layers_listed(app.user_middleware), look(app.router))
    if isinstance(app, Router):
        return behind(layers_around(app.middleware_stack), _router(app, look))
    if isinstance(app, StaticFiles | Response):
        methods = frozenset({"GET", "HEAD"}) if isinstance(app, StaticFiles) else METHODS
        return [Entry(methods=methods, paths=(EVERY_PATH,), text="/**", kind="files", name=name_of(type(app)), target=app)]
    return None


def _router(router: Router, look: Look) -> list[Entry]:
    found = [entry for route in _flat(router.routes) for entry in _route(route, look)]
    fronts = [entry for front in getattr(router, "_low_priority_routes", ()) for entry in _frontend(front, "")]
    for route in router.routes:
        for context in _low_priority(route):
            fronts += _frontend(context.original_route, context.frontend_prefix)
    # Of these the longest path goes first.
    found += sorted(fronts, key=lambda entry: -len(entry.text))
    if router.default != router.not_found:
        found += look(router.default)
    return found


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes, those of FastAPI's included routers in the place of these, as they are there: with their prefix."""
    for route in routes:
        candidates = getattr(route, "effective_candidates", None)
        if candidates is not None:
            yield from _flat(candidates())
        elif hasattr(route, "original_route"):
            yield route.starlette_route or route
        else:
            yield route


def _low_priority(route: Any) -> Iterable[Any]:
    found: Callable[[], Iterable[Any]] = getattr(route, "effective_low_priority_routes", tuple)
    return found()


def _frontend(group: Any, prefix: str) -> list[Entry]:
    """Return the files that FastAPI serves where no route matches."""
    entries: list[Entry] = []
    for front in getattr(group, "routes", ()):
        text = (prefix + front.path).rstrip("/")
        prefix_paths: Paths = tuple(text.split("/")[1:])
        paths: tuple[Paths, ...] = ((*prefix_paths, REST),) if text else (EVERY_PATH,)
        entries.append(Entry(methods=frozenset(front.methods), paths=paths, text=f"{text}/**", kind="files", name="frontend", target=front))
    return entries


def _route(route: Any, look: Look) -> list[Entry]:
    if isinstance(route, Mount):
        text = route.path_format.removesuffix("/{path}")
        return mounted(_paths(text, route.param_convertors), route.path, look(route.app))
    if isinstance(route, Host):
        return for_host(route.host, look(route.app))
    if isinstance(route, WebSocketRoute):
        methods = frozenset({"WS"})
    elif isinstance(route, Route) or hasattr(route, "path_format"):
        methods = _methods(route)
    else:
        # A class of the user's own: what it matches, only its code says.
        name = name_of(type(route))
        return [Entry(methods=METHODS, paths=(EVERY_PATH,), text="/**", kind="unknown", name=name, target=route, keeps=False)]
    endpoint = route.endpoint
    paths = _paths(route.path_format, route.param_convertors)
    entry = Entry(methods=methods, paths=(paths,), text=route.path, name=name_of(endpoint), target=endpoint)
    return behind(layers_around(getattr(route, "app", None)), [entry])


def _methods(route: Any) -> frozenset[str]:
    if route.methods:
        return frozenset(route.methods)
    endpoint = route.endpoint
    # Starlette's classes of endpoints, and their like, have a method for each of HTTP's.
    if isinstance(endpoint, type) and hasattr(endpoint, "method_not_allowed"):
        own = {method for method in EVERY_METHOD if getattr(endpoint, method.lower(), None) is not None}
        return frozenset(own | ({"HEAD"} if "GET" in own else set()))
    return EVERY_METHOD


def _paths(text: str, convertors: Mapping[str, Convertor[Any]]) -> Paths:
    """Return the paths that a path with parameters stands for."""
    tokens: list[Token] = []
    for segment in text.split("/")[1:]:
        tokens += _tokens(segment, convertors)
    return tuple(tokens)


def _tokens(segment: str, convertors: Mapping[str, Convertor[Any]]) -> tuple[Token, ...]:
    parts = _PARAMETER.split(segment)
    if len(parts) == 1:
        return (segment,)
    kinds = [convertors[name] for name in parts[1::2]]
    if any(isinstance(kind, PathConvertor) for kind in kinds):
        if len(parts) == 3:
            before, _, after = parts
            if not before and not after:
                return (ANY, REST)
            if not before:
                return (REST, One(f".*{re.escape(after)}", f"x{after}"))
        return (ANY, REST)
    if parts == ["", parts[1], ""] and kinds[0].regex == CONVERTOR_TYPES["str"].regex:
        return (One(),)
    regex = "".join(re.escape(part) if place % 2 == 0 else f"(?:{kinds[place // 2].regex})" for place, part in enumerate(parts))
    sample = "".join(part if place % 2 == 0 else _SAMPLE_OF.get(kinds[place // 2].regex, "x") for place, part in enumerate(parts))
    return (One(regex, sample),)
