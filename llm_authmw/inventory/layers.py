"""Which of our layers stand around an app, wherever its framework keeps them."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from starlette.middleware import Middleware

from llm_authmw.asgi import Branching, unwrap
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.protected_resource import ProtectedResourceMiddleware
from llm_authmw.stack import Stack
from llm_authmw.upstream import UpstreamCredentialMiddleware

LAYERS: Final = (
    AuthenticationLayer,
    RBACMiddleware,
    RateLimitMiddleware,
    BudgetMiddleware,
    Branching,
    ProtectedResourceMiddleware,
    UpstreamCredentialMiddleware,
)

_MAX_DEPTH: Final = 64
"""How many apps, one in the other, are looked at."""


def layers_around(app: Any, until: Any = None) -> tuple[Any, ...]:
    """Return our layers, and routers of policies, from an app inwards as far as each shows its `app`, the outermost first."""
    return tuple(one for one in _inwards(app, until) if isinstance(one, LAYERS))


def innermost(app: Any) -> Any:
    """Return what an app is in the end, below all that shows its `app`."""
    return [app, *_inwards(app)][-1]


def _inwards(app: Any, until: Any = None) -> Iterator[Any]:
    inner = unwrap(app)
    for _ in range(_MAX_DEPTH):
        if inner is None or inner is until:
            return
        yield inner
        inner = unwrap(getattr(inner, "app", None))


def layers_of(stack: Stack) -> tuple[Any, ...]:
    """Return the layers of ours in a stack, the outermost first."""
    return layers_around(stack(_nothing), _nothing)


def layers_listed(entries: Iterable[Any]) -> tuple[Any, ...]:
    """Return the layers of ours in a list of middlewares, Starlette's or Litestar's, the outermost first.

    They are built around nothing: a layer keeps no state, and its options are those that the list gives it.
    """
    return tuple(layer for entry in entries for layer in _built(entry))


def _built(entry: Any) -> tuple[Any, ...]:
    factory: Any
    if isinstance(entry, Middleware):
        listed: Any = entry
        factory, build = listed.cls, functools.partial(listed.cls, _nothing, *listed.args, **listed.kwargs)
    else:
        # Litestar's `DefineMiddleware`, or what it calls with nothing but the app.
        factory = getattr(entry, "middleware", entry)
        build = functools.partial(factory, *getattr(entry, "args", ()), app=_nothing, **getattr(entry, "kwargs", {}))
    while isinstance(factory, functools.partial):
        factory = factory.func
    ours = isinstance(factory, Stack) or (isinstance(factory, type) and issubclass(factory, LAYERS))
    return layers_around(build(), _nothing) if ours else ()


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for the app."""
