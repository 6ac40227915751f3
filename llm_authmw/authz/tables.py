"""All roles compiled: bit n of every answer is the n-th role, in the order in which they were declared."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from llm_authmw.authz.access import AccessRequest
from llm_authmw.authz.models import NameTable, ambiguous_resource, check_exclusions, parse_tool
from llm_authmw.authz.roles import GROUP, Role
from llm_authmw.authz.routes import RouteTable
from llm_authmw.call import UNLISTED
from llm_authmw.errors import ConfigurationError
from llm_authmw.llm.resemblance import resembles_an_api, resembles_tools
from llm_authmw.network import Address, Network, in_networks, parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern
from llm_authmw.principal import Assurance

BODYLESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
"""Methods whose requests carry nothing that names a model, unless a table of operations knows better."""
MAX_ADDRESSES: Final = 4096
"""Addresses whose roles are remembered."""
CLOCK_DIFFERENCE: Final = 60.0
"""Seconds by which a login may lie in the future, as clocks differ."""


class RoleTables:
    """What every role allows and asks for, each question answered for all of them at once.

    Args:
        roles: The roles by name, checked among each other.
        route_groups: The patterns of each group of routes.
        model_groups: The patterns of each group of models.

    Attributes:
        names: The roles' names in their order.
        roles: The roles in their order.
        route_texts: The route patterns of each role, those of its groups among them.
        model_texts: Its model patterns, likewise.
        routes: Which roles allow a route.
        models: Which allow a model.
        tools: Which allow a tool.
        enforced: The roles that are not on trial.
        everybody: All roles.
        by_network: The roles that ask where the caller is.
        by_age: The roles that ask how long ago the caller logged in.

    Raises:
        ConfigurationError: a role excludes what it does not include.
    """

    def __init__(
        self, roles: Mapping[str, Role], *, route_groups: Mapping[str, tuple[str, ...]], model_groups: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.names: Final = tuple(roles)
        self.roles: Final = tuple(roles.values())
        self.route_texts: Final = [tuple(grouped(role.routes, route_groups)) for role in self.roles]
        self.model_texts: Final = [tuple(grouped(role.models, model_groups)) for role in self.roles]
        models = [[ModelPattern.parse(text) for text in texts] for texts in self.model_texts]
        tools = [[parse_tool(text) for text in role.tools] for role in self.roles]
        for number, name in enumerate(self.names):
            check_exclusions("models", name, models[number])
            check_exclusions("tools", name, tools[number])
        self.routes: Final = RouteTable([[RoutePattern.parse(text) for text in texts] for texts in self.route_texts])
        self.models: Final = NameTable(models)
        self.tools: Final = NameTable(tools)
        self._open: Final = self.models.unrestricted & self.tools.unrestricted
        self.everybody: Final = (1 << len(self.roles)) - 1
        self.enforced: Final = self._where(not role.shadow for role in self.roles)
        self._every_operation: Final = self._where(role.operations is None for role in self.roles)
        named = {name for role in self.roles for name in role.operations or ()}
        self._operations: Final = {
            name: self._where(role.operations is None or name in role.operations for role in self.roles) for name in named
        }
        self._scopes: Final = [(1 << number, frozenset(role.scopes)) for number, role in enumerate(self.roles) if role.scopes]
        self._acr: Final = [(1 << number, frozenset(role.acr)) for number, role in enumerate(self.roles) if role.acr]
        self._by_assurance: Final = {
            level: self._where(role.assurance is None or role.assurance <= level for role in self.roles) for level in Assurance
        }
        networks: dict[tuple[str, ...], int] = {}
        for number, role in enumerate(self.roles):
            if role.networks is not None:
                asked = tuple(role.networks)
                networks[asked] = networks.get(asked, 0) | 1 << number
        self._networks: Final[list[tuple[tuple[Network, ...], int]]] = [
            (tuple(parse_network(text) for text in texts), mask) for texts, mask in networks.items()
        ]
        self.by_network: Final = _union(networks.values())
        self._addresses: Final[dict[Address, int]] = {}
        self._ages: Final = sorted({role.max_age for role in self.roles if role.max_age is not None})
        self._younger: Final = [
            *(self._where(role.max_age is not None and role.max_age >= age for role in self.roles) for age in self._ages),
            0,
        ]
        self.by_age: Final = self._younger[0]

    def operation(self, request: AccessRequest, own: NameTable | None) -> int:
        """Return the roles that allow the kind of request.

        A route that no table of operations has and that looks like an LLM API's could reach any model. With a body, it is for roles that
        allow every model, or that name this very route.

        Args:
            request: The request.
            own: The models of the credential's own.
        """
        if request.found is not None:
            return self._operations.get(request.found.operation.name, self._every_operation)
        allowed = self._operations.get(UNLISTED, self._every_operation)
        if not needs_its_name(request):
            return allowed
        vouching = self.routes.literal(request.method, request.path)
        if own is None or own.unrestricted:
            vouching |= self._open if resembles_tools(request.path) else self.models.unrestricted
        return allowed & vouching

    def named_models(self, request: AccessRequest) -> int:
        """Return the roles that allow every model that the request names."""
        call, passing = request.call, self.everybody
        if call is None or passes_unread(request):
            return passing
        if call.leaves_choice and request.found is not None:
            return self.models.unrestricted
        for model in call.models:
            passing &= self.models.mask(model)
        return passing

    def tool(self, tool: str) -> int:
        """Return the roles that allow the tool."""
        return self.tools.literal(tool) if ambiguous_resource(tool) else self.tools.mask(tool)

    def named_tools(self, request: AccessRequest) -> int:
        """Return the roles that allow every tool that the request uses."""
        call, passing = request.call, self.everybody
        if call is None or not call.tools or passes_unread(request):
            return passing
        for tool in call.tools:
            passing &= self.tool(tool)
        # Where no table has the route, roles that allow every model pass unread, so that nothing which is read counts for them.
        return passing if request.found is not None else passing | self.models.unrestricted

    def indifferent(self, request: AccessRequest) -> int:
        """Return the roles to which it does not matter what the request names, so that it need not be read for them."""
        return self._open if request.found is not None else self.models.unrestricted

    def scopes(self, held: Iterable[str]) -> int:
        """Return the roles all of whose scopes are held."""
        have = frozenset(held)
        return self._without(bit for bit, wanted in self._scopes if not wanted <= have)

    def assurance(self, level: Assurance) -> int:
        """Return the roles that the level is enough for."""
        return self._by_assurance[level]

    def acr(self, held: str | None) -> int:
        """Return the roles that accept the class of the login."""
        return self._without(bit for bit, wanted in self._acr if held not in wanted)

    def address(self, address: Address | None) -> int:
        """Return the roles that may be used from the address; None where it is not known."""
        if address is None:
            return self.everybody & ~self.by_network
        known = self._addresses.get(address)
        if known is None:
            known = self._without(mask for networks, mask in self._networks if not in_networks(address, networks))
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            self._addresses[address] = known
        return known

    def age(self, authenticated_at: float | None, now: float) -> int:
        """Return the roles that the login is recent enough for; None where nobody says when it was."""
        others = self.everybody & ~self.by_age
        # Written so that NaN is no time at all.
        if authenticated_at is None or not authenticated_at - now <= CLOCK_DIFFERENCE:
            return others
        return others | self._younger[bisect_left(self._ages, now - authenticated_at)]

    def first(self, mask: int) -> int:
        """Return the number of the role that was declared first."""
        return (mask & -mask).bit_length() - 1

    def names_in(self, mask: int) -> tuple[str, ...]:
        """Return the names of the roles in their order."""
        return tuple(name for number, name in enumerate(self.names) if mask >> number & 1)

    def _where(self, met: Iterable[bool]) -> int:
        return sum(1 << number for number, holds in enumerate(met) if holds)

    def _without(self, masks: Iterator[int]) -> int:
        return self.everybody & ~_union(masks)


def _union(masks: Iterable[int]) -> int:
    united = 0
    for mask in masks:
        united |= mask
    return united


def passes_unread(request: AccessRequest) -> bool:
    """Say whether nothing that the request names counts: no table of operations has its route, and its method has no body."""
    return request.found is None and request.method in BODYLESS and not request.with_body


def needs_its_name(request: AccessRequest) -> bool:
    """Say whether it takes a role that names the route, since no table of operations has it and it could reach any model."""
    return request.found is None and not passes_unread(request) and resembles_an_api(request.path)


def grouped(texts: Iterable[str], groups: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the patterns, those of a group in the place of its name."""
    for text in texts:
        if text.startswith(GROUP):
            yield from groups[text.removeprefix(GROUP)]
        else:
            yield text


def checked_roles(roles: Mapping[str, Role]) -> dict[str, int]:
    """Return the roles that whoever has a role has, as bits: itself and what it inherits.

    Raises:
        ConfigurationError: a role inherits one that is not defined, or itself.
    """
    numbers = {name: number for number, name in enumerate(roles)}
    found: dict[str, int] = {}

    def reach(name: str, way: tuple[str, ...]) -> int:
        if name in way:
            raise ConfigurationError("inherits", f"goes in a circle: {' → '.join((*way[way.index(name) :], name))}")
        if name not in found:
            mask = 1 << numbers[name]
            for other in roles[name].inherits:
                if other not in roles:
                    raise ConfigurationError("inherits", f"of the role {name!r} names {other!r}, which is not defined")
                mask |= reach(other, (*way, name))
            found[name] = mask
        return found[name]

    for name in roles:
        reach(name, ())
    return found
