"""Which of our layers stand around an app, wherever its framework keeps them."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from starlette.middleware import Middleware

from llm_authmw.asgi import Branching, no_app, unwrap
from llm_authmw.audit.gate import AuditGate
from llm_authmw.audit.middleware import AuditMiddleware
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.brute_force.layer import BruteForceMiddleware
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.protected_resource import ProtectedResourceMiddleware
from llm_authmw.stack import Stack
from llm_authmw.upstream import UpstreamCredentialMiddleware

LAYERS: Final = (
    AuditMiddleware,
    AuditGate,
    AuthenticationLayer,
    RBACMiddleware,
    BruteForceMiddleware,
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
    return layers_around(stack(no_app), no_app)


def layers_listed(entries: Iterable[Any]) -> tuple[Any, ...]:
    """Return the layers of ours in a list of middlewares, Starlette's or Litestar's, the outermost first.

    They are built around nothing: a layer keeps no state, and its options are those that the list gives it.
    """
    return tuple(layer for entry in entries for layer in _built(entry))


def _built(entry: Any) -> tuple[Any, ...]:
    starlettes = isinstance(entry, Middleware)
    given: Any = entry
    # Litestar's `DefineMiddleware`, or what it calls with nothing but the app.
    build: Any = given.cls if starlettes else getattr(given, "middleware", given)
    made: Any = build
    while isinstance(made, functools.partial):
        made = cast("Any", made).func
    if not isinstance(made, Stack) and not (isinstance(made, type) and issubclass(made, LAYERS)):
        return ()
    # A layer that records may require a gate further in, which is an entry of its own.
    records = isinstance(made, type) and issubclass(made, AuditMiddleware)
    nothing: Any = AuditGate(no_app) if records else no_app
    args, kwargs = getattr(given, "args", ()), getattr(given, "kwargs", {})
    return layers_around(build(nothing, *args, **kwargs) if starlettes else build(*args, app=nothing, **kwargs), nothing)
