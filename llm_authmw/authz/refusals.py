"""Why a request is refused: which check, for which role, and what would have been needed, in words that the client may see."""

from collections.abc import Iterator
from typing import Final

from llm_authmw.authz.access import AccessRequest, StepUp, Verdict
from llm_authmw.authz.holders import Holder
from llm_authmw.authz.tables import RoleTables, needs_its_name, passes_unread
from llm_authmw.call import UNLISTED
from llm_authmw.errors import Denial
from llm_authmw.network import in_networks

MAX_NEED: Final = 200
"""Characters of what is told: a path may be long, and an answer is remembered with its text."""


def own_refusal(holder: Holder, request: AccessRequest) -> Verdict | None:
    """Return what refuses the caller before any role is looked at, or None. It is enforced whatever is on trial.

    Args:
        holder: The caller.
        request: What he asks for.
    """
    if holder.refusal is not None:
        need = {"role_missing": "a role", "role_unknown": "a role that is defined here"}.get(holder.refusal)
        return Verdict(Denial(holder.refusal, need=need))
    if holder.networks is not None and (request.address is None or not in_networks(request.address, holder.networks)):
        return Verdict(Denial("network_not_allowed"))
    if holder.routes is not None and not holder.routes.mask(request.method, request.path):
        return Verdict(Denial("route_not_allowed", need=_short(f"a credential for {request.method} {request.path}")))
    return None


def own_models_refusal(tables: RoleTables, holder: Holder, request: AccessRequest) -> Verdict | None:
    """Return what the models of the credential's own refuse, or None. It is enforced whatever is on trial.

    Args:
        tables: The roles.
        holder: The caller.
        request: What he asks for.
    """
    own, call = holder.models, request.call
    if own is None or own.unrestricted or call is None or passes_unread(request):
        return None
    for model in call.models:
        if not own.mask(model):
            return Verdict(Denial("model_not_allowed", need=_short(f"the model {model}")))
    if request.found is not None:
        return Verdict(Denial("model_missing", need="a model")) if call.leaves_choice else None
    # What an unknown route does with the request nobody knows, so that only a role which names it can vouch for it.
    if needs_its_name(request) and not holder.mask & tables.routes.literal(request.method, request.path):
        return Verdict(Denial("operation_unknown", need=_short(f"a role that names {request.method} {request.path} without a wildcard")))
    return None


def refusal(tables: RoleTables, holder: Holder, request: AccessRequest) -> Verdict:
    """Return the verdict on a request that no role of the caller allows: that of the role which came nearest.

    Args:
        tables: The roles.
        holder: The caller, who has a role.
        request: What he asks for.
    """
    if holder.on_trial:
        verdict = own_models_refusal(tables, holder, request)
        if verdict is not None:
            return verdict
    # A role on trial says why only where all of the caller's are.
    check, nearest = _failing(tables, holder, request, holder.mask & tables.enforced or holder.mask)
    number = tables.first(nearest)
    name, role = tables.names[number], tables.roles[number]
    reason, need = _said(check, tables, number, request)
    step_up = StepUp(role.max_age, tuple(role.acr)) if check in ("age", "acr") else None
    return Verdict(Denial(reason, rule=name, need=need if check == "scopes" else _short(need)), name, None, holder.on_trial, step_up)


def _failing(tables: RoleTables, holder: Holder, request: AccessRequest, left: int) -> tuple[str, int]:
    """Return the check that the last of these roles fail, and those roles."""
    for check, passing in _checks(tables, holder, request):
        if not left & passing:
            return check, left
        left &= passing
    raise AssertionError("a request that is refused fails some check of each role")


def _checks(tables: RoleTables, holder: Holder, request: AccessRequest) -> Iterator[tuple[str, int]]:
    """Yield each check in the order in which they are told, and the roles that pass it."""
    yield "route", tables.routes.mask(request.method, request.path)
    yield "operation", tables.operation(request, holder.models)
    yield "models", tables.named_models(request)
    yield "tools", tables.named_tools(request)
    yield "scopes", holder.scopes
    yield "assurance", holder.assurance
    yield "networks", tables.address(request.address)
    yield "age", tables.age(holder.principal.authenticated_at, request.now)
    yield "acr", holder.acr


def _said(check: str, tables: RoleTables, number: int, request: AccessRequest) -> tuple[str, str | None]:
    """Return the reason code, and what would have been needed, when the role does not pass the check."""
    role, route = tables.roles[number], f"{request.method} {request.path}"
    match check:
        case "route":
            return "route_not_allowed", f"a role that allows {route}"
        case "operation":
            name = UNLISTED if request.found is None else request.found.operation.name
            if role.operations is not None and name not in role.operations:
                return "operation_not_allowed", f"a role that allows requests of the kind {name!r}"
            return "operation_unknown", f"a role that names {route} without a wildcard, or may use every model"
        case "models":
            models = () if request.call is None else request.call.models
            model = next((model for model in models if not tables.models.mask(model) >> number & 1), None)
            return ("model_missing", "a model") if model is None else ("model_not_allowed", f"the model {model}")
        case "tools":
            return "tool_not_allowed", f"the tool {_first_tool_outside(tables, number, request)}"
        case "scopes":
            return "insufficient_scope", " ".join(role.scopes)
        case "assurance":
            return "assurance_too_low", f"an assurance of at least {'' if role.assurance is None else role.assurance.name.lower()}"
        case "networks":
            return "network_not_allowed", None
        case "age":
            return "authentication_too_old", f"a login of the last {role.max_age:g} seconds"
        case _:
            return "authentication_class_not_accepted", f"a login of the class {' or '.join(role.acr)}"


def _first_tool_outside(tables: RoleTables, number: int, request: AccessRequest) -> str | None:
    tools = () if request.call is None else request.call.tools
    return next((tool for tool in tools if not tables.tool(tool) >> number & 1), None)


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_NEED else text[: MAX_NEED - 1] + "…"
