"""`Stack`: layers, composed once, checked when composed, put around any ASGI app."""

from collections.abc import Iterable
from typing import Final

from starlette.middleware import Middleware

from llm_authmw.asgi import ASGIApp, Composed, Receive, Scope, Send, layers_inside, no_app, unwrap
from llm_authmw.audit.gate import AuditGate
from llm_authmw.audit.middleware import AuditMiddleware
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import Deciding, Recording
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lifespan import run_lifespan
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.network import TrustedProxies
from llm_authmw.resource import Resource


class Stack:
    """Layers in the order in which a request meets them, around any ASGI app.

    A stack is called with an app and returns the guarded app. So it wraps (`Stack(…)(app)`), and it is itself an entry of a
    middleware list (`Middleware(stack)`) or of another stack. It is built once over an empty app when it is made, so that every
    wrong option fails at import and not as a 500 later.

    Args:
        layers: `starlette.middleware.Middleware` objects, ours or anybody's, the outermost first; or stacks.
        trusted_proxies: Whose word about the client's address is taken: the one setting for all layers.

    Raises:
        ConfigurationError: there is no layer, an entry is not one, or a layer refuses its options or its place.
    """

    def __init__(self, *layers: "Middleware | Stack", trusted_proxies: TrustedProxies | None = None) -> None:
        if not layers:
            raise ConfigurationError("layers", "names none, so nothing would be guarded")
        if trusted_proxies is not None and not isinstance(trusted_proxies, TrustedProxies):
            raise ConfigurationError("trusted_proxies", "takes TrustedProxies([…])")
        for layer in layers:
            if not isinstance(layer, Middleware | Stack):
                raise ConfigurationError(
                    "layers", f"takes Middleware(…) entries, not {type(layer).__name__}: write Middleware(Layer, option=…)"
                )
        self._layers: Final = layers
        self._proxies: Final = trusted_proxies
        self._over_nothing: Final = self(no_app)

    def __call__(self, app: ASGIApp) -> "GuardedApp":
        """Return `app` behind the layers.

        Raises:
            ConfigurationError: a layer refuses its options or its place.
        """
        built: list[ASGIApp] = []
        guarded = app
        if self.needs_gate and not any(isinstance(inner, Deciding | Recording | AuditGate) for inner in layers_inside(app)):
            guarded = AuditGate(app)
            built.append(guarded)
        for layer in reversed(self._layers):
            guarded = layer(guarded) if isinstance(layer, Stack) else _build(layer, guarded)
            built.append(guarded)
        return GuardedApp(guarded, stack=self, inside=app, layers=tuple(reversed(built)), trusted_proxies=self._proxies)

    @property
    def needs_gate(self) -> bool:
        """Whether a request is let in only once that is recorded, so that an `AuditGate` stands in front of the app."""
        return any(map(_requires_records, self._layers))

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self._over_nothing.layers))})"

    def __str__(self) -> str:
        lines = [f"{place:>3}  {layer!r}" for place, layer in enumerate(self._over_nothing.layers, start=1)]
        return "\n".join(["Stack, the outermost first:", *lines, "     the app"])


class Layered:
    """An app of ours with layers of its own, whose resources and trusted proxies are those of these layers.

    Attributes:
        trusted_proxies: Whose word about the client's address is taken; None where no layer says so.
    """

    trusted_proxies: TrustedProxies | None

    @property
    def all_layers(self) -> tuple[ASGIApp, ...]:
        """Every layer that a request may meet, those of stacks further in included."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the event on to them."""
        raise NotImplementedError


def resources_of(layers: Iterable[ASGIApp]) -> tuple[Resource, ...]:
    """Return what these layers share, each resource once."""
    resources: list[Resource] = []
    # What starts first closes last: a sink takes the last records of everything else.
    for layer in sorted(layers, key=lambda one: not isinstance(one, AuditMiddleware)):
        ledger = getattr(layer, "ledger", None)
        if isinstance(layer, AuthenticationLayer | BudgetMiddleware | AuditMiddleware):
            shared = layer.resources
        else:
            shared = (ledger.resource,) if isinstance(ledger, LedgerService) and ledger.resource is not None else ()
        resources += [resource for resource in shared if resource not in resources]
    return tuple(resources)


def _refuse_tiers_without_limits(layers: Iterable[ASGIApp]) -> None:
    """Refuse roles with a tier that nobody would look at.

    Raises:
        ConfigurationError: no layer inside of the roles' limits rates, or none of those that do defines the tier.
    """
    for layer in map(unwrap, layers):
        if not isinstance(layer, RBACMiddleware) or not layer.rules.tiers:
            continue
        limiting = [inner for inner in layers_inside(layer.app) if isinstance(inner, RateLimitMiddleware)]
        defined = frozenset[str]().union(*(inner.plan.tiers or () for inner in limiting))
        for role, tier in layer.rules.tiers.items():
            if tier not in defined:
                lacking = f"has no {tier!r}" if limiting else "does not stand inside of the roles"
                raise ConfigurationError("tier", f"of the role {role!r} would be ignored: RateLimitMiddleware {lacking}")


class GuardedApp(Layered, Composed):
    """An app behind the layers of a `Stack`. It owns the lifespan of what these share.

    Attributes:
        entry: The outermost layer.
        stack: The stack that put them around the app.
        inside: The app.
        layers: All of them, the outermost first.
    """

    def __init__(
        self, entry: ASGIApp, *, stack: Stack, inside: ASGIApp, layers: tuple[ASGIApp, ...], trusted_proxies: TrustedProxies | None
    ) -> None:
        self.entry = entry
        self.stack: Final = stack
        self.inside: Final = inside
        self.layers: Final = layers
        settings: list[TrustedProxies] = [] if trusted_proxies is None else [trusted_proxies]
        ours = [layer for layer in layers if isinstance(layer, AuthenticationLayer | AuditMiddleware | Layered)]
        settings += [layer.trusted_proxies for layer in ours if layer.trusted_proxies is not None]
        outermost = next((layer for layer in map(unwrap, layers) if isinstance(layer, AuthenticationLayer)), None)
        if outermost is not None:
            outermost.tell_sources(whole=True)
            # Without one it is a part of another stack, in which the rest may follow.
            _refuse_tiers_without_limits(layers)
        if len(settings) > 1:
            raise ConfigurationError("trusted_proxies", "is given to the Stack and to a layer in it, or to two: give it to the Stack")
        self.trusted_proxies: TrustedProxies | None = settings[0] if settings else None
        self._resources: Final = resources_of(self.layers)

    @property
    def all_layers(self) -> tuple[ASGIApp, ...]:
        """The layers, and in place of a stack among them, its layers."""
        return tuple(one for layer in self.layers for one in (layer.all_layers if isinstance(layer, Layered) else (layer,)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the event to the outermost layer; a lifespan also starts and closes what the layers share."""
        if scope["type"] == "lifespan":
            await run_lifespan(self.entry, self._resources, scope, receive, send)
            return
        if self.trusted_proxies is not None:
            RequestContext.of(scope, self.trusted_proxies)
        await self.entry(scope, receive, send)

    def __repr__(self) -> str:
        return f"GuardedApp({', '.join(map(repr, self.layers))})"


def _requires_records(layer: Middleware | Stack) -> bool:
    if isinstance(layer, Stack):
        return layer.needs_gate
    kind: object = layer.cls
    return isinstance(kind, type) and issubclass(kind, AuditMiddleware) and layer.kwargs.get("mode") == "required"


def _build(layer: Middleware, app: ASGIApp) -> ASGIApp:
    try:
        return layer.cls(app, *layer.args, **layer.kwargs)
    except TypeError as error:
        raise ConfigurationError(getattr(layer.cls, "__name__", repr(layer.cls)), str(error)) from error
