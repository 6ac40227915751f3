"""Why: the whole evaluation of one request. It is written from the patterns themselves, not from the tables that decide."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from llm_authmw.authz.access import AccessRequest, Verdict
from llm_authmw.authz.grants import Condition
from llm_authmw.authz.holders import Holder, Holders
from llm_authmw.authz.models import ambiguous_resource, parse_tool
from llm_authmw.authz.tables import CLOCK_DIFFERENCE, RoleTables, needs_its_name, passes_unread
from llm_authmw.call import UNLISTED
from llm_authmw.llm.resemblance import resembles_tools
from llm_authmw.network import in_networks, parse_network
from llm_authmw.patterns import RoutePattern

Shown: TypeAlias = str | float | tuple[str, ...] | None
"""What a check wanted or found, as it is shown."""

_UNLISTED: Final = "a pattern without a wildcard, or every model"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of one role, or of the credential's own restrictions.

    Attributes:
        name: Which: "route", "operation", "model", "tool", "scopes", "assurance", "networks", "max_age", "acr".
        wanted: What is allowed, or asked for.
        found: What the request or the caller has.
        met: Whether the request passes.
        by: The pattern that included it, or the one that excluded it; None where none matched, or patterns have no part in it.
    """

    name: str
    wanted: Shown
    found: Shown
    met: bool
    by: str | None = None


class GrantExplained(msgspec.Struct, frozen=True):
    """One grant: the role that it gives, each of its conditions, and whether all of them hold."""

    role: str
    conditions: tuple[Condition, ...]
    met: bool


class RoleExplained(msgspec.Struct, frozen=True):
    """One role.

    Attributes:
        name: The role.
        obtained: How the caller has it: "own", "grant 0", "inherited from admin", "default"; empty where he does not.
        shadow: Whether it is on trial.
        checks: What it says of the request, in the order in which denials are told.
        allows: Whether it would allow the request, had the caller the role.
    """

    name: str
    obtained: tuple[str, ...]
    shadow: bool
    checks: tuple[Check, ...]
    allows: bool


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is decided. It holds no secret, and is JSON for `msgspec.json.encode`.

    Attributes:
        allowed: Whether the request goes on.
        status: The HTTP status of the denial, one in shadow too; 200 where there is none.
        reason: Its exact reason code.
        rule: The role that allowed the request, or the one that came nearest.
        need: What would have been needed.
        shadowed: Whether the denial is not enforced.
        tier: The tier of the role that allowed it.
        subject: Who is calling.
        route: The method and the path.
        operation: The kind of request; "unlisted" where no table has the route.
        models: The models that it names.
        tools: The tools that it uses.
        own: What the credential's own restrictions say.
        grants: Every grant.
        roles: Every role.
    """

    allowed: bool
    status: int
    reason: str | None
    rule: str | None
    need: str | None
    shadowed: bool
    tier: str | None
    subject: str
    route: str
    operation: str
    models: tuple[str, ...]
    tools: tuple[str, ...]
    own: tuple[Check, ...]
    grants: tuple[GrantExplained, ...]
    roles: tuple[RoleExplained, ...]


def explained(tables: RoleTables, holders: Holders, holder: Holder, request: AccessRequest, verdict: Verdict) -> Explanation:
    """Return the whole evaluation of a request that was decided.

    Args:
        tables: The roles.
        holders: Who has them.
        holder: The caller.
        request: What he asks for.
        verdict: What was decided.
    """
    denial, call = verdict.denial, request.call
    obtained = _obtained(tables, holders, holder)
    return Explanation(
        allowed=verdict.allowed,
        status=200 if denial is None else denial.status,
        reason=None if denial is None else denial.reason,
        rule=verdict.rule,
        need=None if denial is None else denial.need,
        shadowed=verdict.shadowed,
        tier=verdict.tier,
        subject=holder.principal.subject,
        route=f"{request.method} {request.path}",
        operation=_operation(request),
        models=() if call is None else call.models,
        tools=() if call is None else call.tools,
        own=tuple(_own_checks(tables, holders, holder, request)),
        grants=tuple(
            GrantExplained(
                grant.role, tuple(grant.conditions(holder.principal)), holder.principal.is_authenticated and grant.holds(holder.principal)
            )
            for grant in holders.grants
        ),
        roles=tuple(_role(tables, number, obtained.get(name, ()), holder, request) for number, name in enumerate(tables.names)),
    )


def _obtained(tables: RoleTables, holders: Holders, holder: Holder) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for way in holders.obtained(holder.principal):
        found.setdefault(way.role, []).append(way.how if way.grant is None else f"{way.how} {way.grant}")
    for name in holder.roles:
        for inherited in tables.roles[tables.names.index(name)].inherits:
            found.setdefault(inherited, []).append(f"inherited from {name}")
    return found


def _own_checks(tables: RoleTables, holders: Holders, holder: Holder, request: AccessRequest) -> Iterator[Check]:
    """Yield what stands before every role: somebody who has roles, and what his credential itself is restricted to."""
    principal = holder.principal
    if not principal.is_authenticated:
        yield Check(name="credential", wanted="a credential", found=None, met=False)
        return
    names = tuple(dict.fromkeys(way.role for way in holders.obtained(principal)))
    yield Check(name="roles", wanted="roles that are defined here", found=names, met=bool(names) and set(names) <= set(tables.names))
    if principal.networks is not None:
        yield _network_check(principal.networks, request)
    if principal.routes is not None:
        yield _route_check(principal.routes, request)
    if principal.models is not None:
        yield from _name_checks("model", principal.models, request)
        if needs_its_name(request) and not _unrestricted(principal.models):
            # Every model is what the credential may not use, so a role of the caller has to name the route.
            texts = [text for number, name in enumerate(tables.names) if name in holder.roles for text in tables.route_texts[number]]
            yield _literal_check(texts, request)


def _role(tables: RoleTables, number: int, obtained: Sequence[str], holder: Holder, request: AccessRequest) -> RoleExplained:
    checks = tuple(_checks(tables, number, holder, request))
    role = tables.roles[number]
    return RoleExplained(tables.names[number], tuple(obtained), role.shadow, checks, all(check.met for check in checks))


def _checks(tables: RoleTables, number: int, holder: Holder, request: AccessRequest) -> Iterator[Check]:
    role, principal = tables.roles[number], holder.principal
    routes, models = tables.route_texts[number], tables.model_texts[number]
    operation = _operation(request)
    yield _route_check(routes, request)
    if role.operations is not None:
        yield Check(name="operation", wanted=tuple(role.operations), found=operation, met=operation in role.operations)
    if needs_its_name(request):
        every = _unrestricted(models) and (not resembles_tools(request.path) or _unrestricted(tuple(role.tools)))
        every = every and (principal.models is None or _unrestricted(principal.models))
        yield _literal_check(routes, request, every=every)
    yield from _name_checks("model", models, request)
    if request.found is not None or not _unrestricted(models):
        yield from _name_checks("tool", tuple(role.tools), request)
    if role.scopes:
        yield Check(name="scopes", wanted=tuple(role.scopes), found=principal.scopes, met=set(role.scopes) <= set(principal.scopes))
    if role.assurance is not None:
        wanted, found = role.assurance.name.lower(), principal.assurance.name.lower()
        yield Check(name="assurance", wanted=wanted, found=found, met=principal.assurance >= role.assurance)
    if role.networks is not None:
        yield _network_check(tuple(role.networks), request)
    if role.max_age is not None:
        age = None if principal.authenticated_at is None else request.now - principal.authenticated_at
        yield Check(name="max_age", wanted=role.max_age, found=age, met=age is not None and -CLOCK_DIFFERENCE <= age <= role.max_age)
    if role.acr:
        yield Check(name="acr", wanted=tuple(role.acr), found=principal.acr, met=principal.acr in role.acr)


def _route_check(texts: tuple[str, ...], request: AccessRequest) -> Check:
    hit = _hit(texts, request)
    return Check(name="route", wanted=texts, found=f"{request.method} {request.path}", met=hit is not None, by=hit)


def _literal_check(texts: Iterable[str], request: AccessRequest, *, every: bool = False) -> Check:
    """Hold a route that no table of operations has against the patterns that name it; what has `every` model needs none."""
    hit = _hit((text for text in texts if "*" not in text), request)
    return Check(name="unlisted", wanted=_UNLISTED, found=f"{request.method} {request.path}", met=every or hit is not None, by=hit)


def _hit(texts: Iterable[str], request: AccessRequest) -> str | None:
    return next((text for text in texts if RoutePattern.parse(text).matches(request.method, request.path)), None)


def _name_checks(name: str, texts: tuple[str, ...], request: AccessRequest) -> Iterator[Check]:
    call = request.call
    if call is None or passes_unread(request):
        return
    names = call.models if name == "model" else call.tools
    if name == "model" and call.leaves_choice and request.found is not None:
        yield Check(name=name, wanted=texts, found=None, met=_unrestricted(texts))
    patterns = [(text, parse_tool(text)) for text in texts]
    for given in names:
        matching = [(text, pattern) for text, pattern in patterns if pattern.matches(given)]
        # Whatever excludes goes before whatever includes.
        excluding = next((text for text, pattern in matching if pattern.excludes), None)
        by = excluding or next((text for text, _ in matching), None)
        met = excluding is None and by is not None
        if name == "tool" and ambiguous_resource(given):
            met = met and (given in texts or _unrestricted(texts))
        yield Check(name=name, wanted=texts, found=given, met=met, by=by)


def _network_check(texts: tuple[str, ...], request: AccessRequest) -> Check:
    address = request.address
    met = address is not None and in_networks(address, [parse_network(text) for text in texts])
    return Check(name="networks", wanted=texts, found=None if address is None else str(address), met=met)


def _unrestricted(texts: tuple[str, ...]) -> bool:
    return "*" in texts and not any(text.startswith("!") for text in texts)


def _operation(request: AccessRequest) -> str:
    return UNLISTED if request.found is None else request.found.operation.name
