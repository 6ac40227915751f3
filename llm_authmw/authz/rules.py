"""`AccessRules`: may this caller make this request? Roles, grants and groups compiled once; what decides is integers and dictionaries.

A bit stands for a role. What a request asks for (its route, its kind, each model, each tool) is answered by the roles that allow it,
as one integer, and a request is allowed where some bit of the caller's own is left of all of them. So what a decision costs grows
neither with the number of roles nor with that of patterns.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llm_authmw.authz.access import AccessRequest, Verdict
from llm_authmw.authz.explanation import Explanation, explained
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.groups import checked_groups
from llm_authmw.authz.holders import Holder, Holders
from llm_authmw.authz.refusals import own_models_refusal, own_refusal, refusal
from llm_authmw.authz.roles import Role, check_name
from llm_authmw.authz.tables import RoleTables, checked_roles, passes_unread
from llm_authmw.errors import ConfigurationError
from llm_authmw.names import Names
from llm_authmw.principal import Principal


class AccessRules:
    """Roles, who has them, and what they allow.

    Args:
        roles: Each role under its name.
        grants: Which facts of a caller give which role.
        default_role: The role of an authenticated caller who has no other.
        route_groups: Route patterns under a name, for `group:NAME` in a role's `routes`.
        model_groups: Model patterns under a name, likewise.

    Attributes:
        grants: The grants, in their order.
        operations: The kinds of requests that roles name. The layer checks that its table of operations has each of them.
        kept_claims: The claims that grants look at. The layer checks that every source of identities keeps them.

    Raises:
        ConfigurationError: a role, group or grant names what is not defined, nothing uses a group, or roles inherit in a circle.
    """

    def __init__(
        self,
        *,
        roles: Mapping[str, Role],
        grants: Sequence[Grant] = (),
        default_role: str | None = None,
        route_groups: Mapping[str, Names] | None = None,
        model_groups: Mapping[str, Names] | None = None,
    ) -> None:
        _check_roles(roles)
        self.grants: Final = _checked_grants(grants, roles)
        if default_role is not None and default_role not in roles:
            raise ConfigurationError("default_role", f"is {default_role!r}, which is not defined")
        reach = checked_roles(roles)
        self.tables: Final = RoleTables(
            roles,
            route_groups=checked_groups("route_groups", route_groups, roles),
            model_groups=checked_groups("model_groups", model_groups, roles),
        )
        self.holders: Final = Holders(self.tables, reach, self.grants, default_role)
        self.operations: Final = frozenset(name for role in roles.values() for name in role.operations or ())
        self.kept_claims: Final = frozenset(name for grant in self.grants for name in grant.claims or ())
        self.tiers: Final = {name: role.tier for name, role in roles.items() if role.tier is not None}
        self._allowing: Final = tuple(Verdict(None, name, role.tier) for name, role in roles.items())

    @property
    def needs_issuer(self) -> tuple[Grant, ...]:
        """The grants that rest on what any issuer may say: errors where several sources of tokens stand in front."""
        return tuple(grant for grant in self.grants if grant.believes_any_source)

    def holder(self, principal: Principal) -> Holder:
        """Return the caller's roles; remembered for the callers of late.

        Raises:
            AuthmwError: a restriction of the credential's own cannot be read, so that nothing can be decided.
        """
        return self.holders.find(principal)

    def needs_call(self, holder: Holder, request: AccessRequest) -> bool:
        """Say whether only what the request asks for can tell, so that its body has to be read."""
        return self.decide_route(holder, request) is None

    def decide_route(self, holder: Holder, request: AccessRequest) -> Verdict | None:
        """Decide; return None where `call` is missing from the request, and only that can tell.

        Of the roles that allow a request the first one counts, though those go before all others to which it does not matter what the
        request names: so the verdict is the same whether or not that is known.
        """
        if holder.refusal is not None or holder.routes is not None or holder.networks is not None:
            verdict = own_refusal(holder, request)
            if verdict is not None:
                return verdict
        tables = self.tables
        left = holder.mask & tables.routes.mask(request.method, request.path) & tables.operation(request, holder.models)
        if request.call is None:
            unread = passes_unread(request)
            if holder.models is not None and (left or holder.on_trial) and not (unread or holder.models.unrestricted):
                return None
            indifferent = left if unread else left & tables.indifferent(request)
            able = self._able(holder, request, indifferent)
            if not able and left != indifferent:
                return None
        else:
            if left and holder.models is not None:
                verdict = own_models_refusal(tables, holder, request)
                if verdict is not None:
                    return verdict
            able = self._able(holder, request, left & tables.named_models(request) & tables.named_tools(request))
        if able:
            return self._allowing[tables.first(able & tables.indifferent(request) or able)]
        return refusal(tables, holder, request)

    def decide(self, holder: Holder, request: AccessRequest) -> Verdict:
        """Decide.

        Raises:
            ValueError: `call` is missing from the request, and only that can tell.
        """
        verdict = self.decide_route(holder, request)
        if verdict is None:
            raise ValueError("what the request asks for has to be known: see needs_call")
        return verdict

    def explain(self, request: AccessRequest) -> Explanation:
        """Say how the request is decided, and on what: each grant, each role, each check of it.

        Raises:
            ValueError: as `decide`.
            AuthmwError: as `holder`.
        """
        holder = self.holder(request.principal)
        return explained(self.tables, self.holders, holder, request, self.decide(holder, request))

    def allowed_models(self, holder: Holder, names: Iterable[str]) -> list[str]:
        """Return those of the models that some role of the caller allows, and its credential too."""
        if holder.refusal is not None:
            return []
        mask, own = self.tables.models.mask, holder.models
        return [name for name in names if holder.mask & mask(name) and (own is None or own.mask(name))]

    def _able(self, holder: Holder, request: AccessRequest, left: int) -> int:
        """Return those of the roles whose requirements are met."""
        left &= holder.able
        if left & self.tables.by_network:
            left &= self.tables.address(request.address)
        if left & self.tables.by_age:
            left &= self.tables.age(holder.principal.authenticated_at, request.now)
        return left


def _check_roles(roles: Any) -> None:
    given: Mapping[Any, Any] = roles
    if not isinstance(roles, Mapping) or not given:
        raise ConfigurationError("roles", "takes names and their Role(…), at least one: nobody could ever get in")
    for name, role in given.items():
        check_name("roles", name, of="has a name that")
        if not isinstance(role, Role):
            raise ConfigurationError("roles", f"takes Role(…) for {name!r}, not {type(role).__name__}")


def _checked_grants(grants: Any, roles: Mapping[str, Role]) -> tuple[Grant, ...]:
    given: Sequence[Any] = grants
    if not isinstance(grants, list | tuple):
        raise ConfigurationError("grants", "takes a list of Grant(…)")
    for grant in given:
        if not isinstance(grant, Grant):
            raise ConfigurationError("grants", f"takes Grant(…), not {type(grant).__name__}")
        if grant.role not in roles:
            raise ConfigurationError("grants", f"give the role {grant.role!r}, which is not defined")
    return tuple(given)
