"""Where from and for what a credential may be used: the networks and the routes that it carries itself.

They are enforced where the credential is judged, whatever stands further in.
"""

from collections.abc import Sequence
from functools import lru_cache

from llm_authmw.asgi import Scope
from llm_authmw.context import RequestContext
from llm_authmw.names import names
from llm_authmw.network import Network, in_networks, parse_network
from llm_authmw.patterns import RoutePattern, canonical_route, route_allowed
from llm_authmw.principal import Principal


def restriction(
    networks: Sequence[Network] | None, routes: Sequence[RoutePattern] | None, scope: Scope, context: RequestContext
) -> str | None:
    """Return the reason code that keeps a credential from this use, or None.

    Args:
        networks: Where it may come from; None is no restriction, and an empty one allows nothing.
        routes: What it may be used for; likewise.
        scope: The connection.
        context: The request's, which knows the client's address.
    """
    if networks is not None:
        address = context.client_address(scope)
        if address is None or not in_networks(address, networks):
            return "network_not_allowed"
    if routes is not None:
        route = canonical_route(scope)
        if route is None:
            return "ambiguous_path"
        if not route_allowed(routes, *route):
            return "route_not_allowed"
    return None


def restriction_of(principal: Principal, scope: Scope, context: RequestContext) -> str | None:
    """Return the reason code that keeps this principal's credential from this use, or None.

    Raises:
        AuthmwError: a network or a route of the principal's cannot be read, so nothing can be decided.
    """
    if principal.networks is None and principal.routes is None:
        return None
    networks = None if principal.networks is None else _networks(principal.networks)
    routes = None if principal.routes is None else _routes(principal.routes)
    return restriction(networks, routes, scope, context)


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in names("networks", texts))


@lru_cache(maxsize=1024)
def _routes(texts: tuple[str, ...]) -> tuple[RoutePattern, ...]:
    return tuple(RoutePattern.parse(text) for text in names("routes", texts))
