"""What may be wrong with a route: each check looks at one thing, and says what to do."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.inventory.earlier import Earlier
from llm_authmw.inventory.entries import Entry, Way
from llm_authmw.inventory.paths import covers, is_literal, shown
from llm_authmw.inventory.reach import ReachTable
from llm_authmw.inventory.records import Level, Problem, ProblemCode, shown_methods, shown_names
from llm_authmw.limits.budget import BudgetMiddleware

Finding: TypeAlias = tuple[Level, ProblemCode, str]


class Case(msgspec.Struct, frozen=True):
    """What a check looks at.

    Attributes:
        entry: What the app has.
        table: Tells which requests to a model get there.
        earlier: What the app looks at before, and which may keep a request from it.
        metered: Whether any route of the app stands behind a budget, so that the others are meant to as well.
    """

    entry: Entry
    table: ReachTable
    earlier: Earlier
    metered: bool = False


def _model_unguarded(case: Case) -> Iterator[Finding]:
    """A request gets to a model, and nothing has looked at which."""
    if case.entry.kind == "unknown":
        # That it cannot be looked into is said anyhow; it may have nothing to do with models.
        return
    bare: dict[Way, list[str]] = {}
    on_trial: dict[Way, list[str]] = {}
    for way in case.entry.ways:
        guards = [layer for layer in way.layers if isinstance(layer, RBACMiddleware)]
        models = list(dict.fromkeys(operation.name for operation in case.table.of(case.entry, way) if operation.needs_model))
        if models and all(guard.shadow for guard in guards):
            (on_trial if guards else bare)[way] = models
    if bare:
        yield (
            "error",
            "model_unguarded",
            f"reaches a model ({_several(bare)}){_through(bare)}, and no layer looks at which: put an RBACMiddleware in front of it",
        )
    if on_trial:
        yield (
            "warning",
            "model_guard_on_trial",
            f"reaches a model ({_several(on_trial)}){_through(on_trial)}, and the RBACMiddleware in front is on trial: it denies nothing",
        )


def _not_metered(case: Case) -> Iterator[Finding]:
    """A request gets to a model, and costs money that no budget counts."""
    if not case.metered or case.entry.kind == "unknown":
        return
    bare: dict[Way, list[str]] = {}
    for way in case.entry.ways:
        models = list(dict.fromkeys(operation.name for operation in case.table.of(case.entry, way) if operation.needs_model))
        if models and not any(isinstance(layer, BudgetMiddleware) for layer in way.layers):
            bare[way] = models
    if bare:
        yield (
            "error",
            "not_metered",
            f"reaches a model ({_several(bare)}){_through(bare)}, and is not metered as others are: put a BudgetMiddleware in front of it",
        )


def _public_by_wildcard(case: Case) -> Iterator[Finding]:
    """A public policy is exact, and yet it lets everybody to a route that serves other paths as well."""
    if case.entry.kind != "route" or all(map(is_literal, case.entry.paths)):
        return
    exact = [one for way in case.entry.ways if way.public for only in way.only for one in only if is_literal(one.paths)]
    if exact:
        requests = " and ".join(dict.fromkeys(f"{shown_methods(tuple(sorted(one.methods)))} {shown(one.paths)}" for one in exact))
        yield (
            "error",
            "public_by_wildcard",
            f"is public at {requests}, for which the app has no route of its own: give it one, or take the public policy away",
        )


def _shadowed(case: Case) -> Iterator[Finding]:
    """Whoever reads the app takes the handler for one that runs."""
    entry, paths = case.entry, case.entry.paths[0]
    before = [other for other in case.earlier.that_may_cover(paths) if other.host in (None, entry.host)]
    first: dict[str, Entry] = {}
    for method in entry.methods:
        those = [other for other in before if method in other.methods]
        if not those or not covers([theirs for other in those for theirs in other.paths], paths):
            return
        first.setdefault(those[0].text, those[0])
    if any(other.target is None or other.target != entry.target for other in first.values()):
        yield "error", "shadowed", f"is never reached, as {' and '.join(sorted(first))} comes first: move it in front, or take one away"


def _unguarded(case: Case) -> Iterator[Finding]:
    """Nobody asks who is calling."""
    if case.entry.kind == "metadata":
        return
    for way in case.entry.ways:
        if not way.public and not any(isinstance(layer, AuthenticationLayer | RBACMiddleware) for layer in way.layers):
            yield (
                "warning",
                "unguarded",
                "stands behind no layer that asks who is calling or whether they may: wrap the app in a Stack or a PolicyRouter",
            )
            return


def _not_looked_into(case: Case) -> Iterator[Finding]:
    """An app of another kind may have any route."""
    entry = case.entry
    if entry.kind != "unknown" or not entry.ways:
        return
    guarded = all(any(isinstance(layer, RBACMiddleware) for layer in way.layers) for way in entry.ways)
    beside = "an RBACMiddleware in front of it allows" if guarded else "the layers in front of it let through, models too"
    yield (
        "note" if guarded else "warning",
        "not_looked_into",
        f"leads to {entry.name}, which cannot be looked into: everything under it is reached that {beside}",
    )


def _no_policy(case: Case) -> Iterator[Finding]:
    """Denied by default, which may be a surprise."""
    if not case.entry.ways:
        yield "note", "no_policy", "is covered by no policy, so that every request to it is denied"


CHECKS: Final[tuple[Callable[[Case], Iterable[Finding]], ...]] = (
    _shadowed,
    _model_unguarded,
    _not_metered,
    _public_by_wildcard,
    _unguarded,
    _not_looked_into,
    _no_policy,
)
"""In this order: what is never reached needs no further look."""


def problems_of(case: Case, route: str) -> Iterator[Problem]:
    """Yield what is wrong with a route.

    Args:
        case: The route.
        route: What it is called.
    """
    for check in CHECKS:
        for level, code, message in check(case):
            yield Problem(level, code, route, message)
            if code == "shadowed":
                return


def _several(models: Mapping[Way, list[str]]) -> str:
    return shown_names(tuple(dict.fromkeys(name for names in models.values() for name in names)))


def _through(ways: Iterable[Way]) -> str:
    """Say by which policies, where there are any."""
    names = [repr(" > ".join(way.policies)) for way in ways if way.policies]
    return f" through {' and '.join(names)}" if names else ""
