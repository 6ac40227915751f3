"""Into an app: through layers, stacks, routers of policies and the frameworks, down to what answers."""

from typing import Any, Final

from llm_authmw.asgi import unwrap
from llm_authmw.inventory.entries import Entry, name_of
from llm_authmw.inventory.layers import LAYERS
from llm_authmw.inventory.litestar_routes import is_litestar, litestar_entries
from llm_authmw.inventory.paths import EVERY_PATH, literal
from llm_authmw.inventory.policies import behind
from llm_authmw.inventory.starlette_routes import starlette_entries
from llm_authmw.patterns import METHODS
from llm_authmw.protected_resource import ProtectedResource, ProtectedResourceMiddleware

_MAX_DEPTH: Final = 64
"""How many apps, one in the other, are looked into."""
_METADATA_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def entries_of(app: Any) -> list[Entry]:
    """Return what an app has, in the order in which a request is held against it."""
    return _Walk().into(app)


class _Walk:
    def __init__(self) -> None:
        self._depth = 0

    def into(self, app: Any) -> list[Entry]:
        self._depth += 1
        try:
            return [_unknown(app)] if self._depth > _MAX_DEPTH else self._into(unwrap(app))
        finally:
            self._depth -= 1

    def _into(self, app: Any) -> list[Entry]:
        layer: Any = app
        if isinstance(app, LAYERS):
            metadata = _metadata(app.resource) if isinstance(app, ProtectedResourceMiddleware) else []
            return [*metadata, *behind([app], self.into(layer.app))]
        if isinstance(app, ProtectedResource):
            return _metadata(app)
        if is_litestar(app):
            return litestar_entries(app, self.into)
        found = starlette_entries(app, self.into)
        if found is not None:
            return found
        inner = getattr(app, "app", None)
        # Somebody else's middleware: what it does by itself is not seen, but this is what it stands around.
        return self.into(inner) if callable(inner) else [_unknown(app)]


def _unknown(app: Any) -> Entry:
    return Entry(methods=METHODS, paths=(EVERY_PATH,), text="/**", kind="unknown", name=name_of(app), target=app)


def _metadata(resource: ProtectedResource) -> list[Entry]:
    name = name_of(type(resource))
    return [
        Entry(methods=_METADATA_METHODS, paths=(literal(path),), text=path, kind="metadata", name=name, target=resource)
        for path in sorted(resource.paths)
    ]
