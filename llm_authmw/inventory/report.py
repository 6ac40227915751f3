"""`route_inventory`: every route of an app, what guards it, and what is wrong with that."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.errors import ConfigurationError
from llm_authmw.inventory.earlier import Earlier
from llm_authmw.inventory.entries import Entry
from llm_authmw.inventory.problems import Case, problems_of
from llm_authmw.inventory.reach import ReachTable
from llm_authmw.inventory.records import LEVELS, Guarding, Inventory, ListedRoute, Problem, listed_methods
from llm_authmw.inventory.walk import entries_of
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.llm.operation import Operation
from llm_authmw.llm.operations import Operations


def route_inventory(app: Any, *, operations: Sequence[Operation] = ()) -> Inventory:
    """List every route of an app, what guards it, and what is wrong with that.

    It looks through stacks, layers, `PolicyRouter`, and the apps, routers, mounts and hosts of Starlette, FastAPI and Litestar. No
    request is made, and nothing of the app is run.

    Args:
        app: The app, as the server is given it.
        operations: Operations of your own beside the built-in ones. Those of the layers' lenses are known.

    Raises:
        ConfigurationError: `app` is no app, or two operations have one ending.
    """
    if not callable(app):
        raise ConfigurationError("app", f"is {type(app).__name__}, which is no ASGI app")
    entries = entries_of(app)
    table = ReachTable(Operations(*dict.fromkeys([*operations, *_lens_operations(entries)])))
    routes: list[ListedRoute] = []
    problems: list[Problem] = []
    earlier = Earlier()
    metered = any(isinstance(layer, BudgetMiddleware) for layer in _layers(entries))
    for entry in entries:
        if entry.kind != "nothing":
            route = _listed(entry, table)
            routes.append(route)
            problems += problems_of(Case(entry, table, earlier, metered), str(route))
        earlier.add(entry)
    return Inventory(tuple(routes), tuple(sorted(problems, key=lambda problem: LEVELS.index(problem.level))))


def _lens_operations(entries: Sequence[Entry]) -> Iterator[Operation]:
    """Yield the operations that users have added to the lenses of the layers."""
    built_in = set(Operations())
    for layer in _layers(entries):
        if isinstance(layer, RBACMiddleware | RateLimitMiddleware | BudgetMiddleware):
            yield from (operation for operation in layer.lens.operations if operation not in built_in)


def _layers(entries: Sequence[Entry]) -> Iterable[Any]:
    """Return every layer that a request may meet, each once."""
    return {id(layer): layer for entry in entries for way in entry.ways for layer in way.layers}.values()


def _listed(entry: Entry, table: ReachTable) -> ListedRoute:
    return ListedRoute(
        methods=listed_methods(entry.methods),
        path=entry.text,
        host=entry.host,
        kind=entry.kind,
        handler=entry.name,
        operations=tuple(dict.fromkeys(operation.name for operation in table.of(entry))),
        guarding=tuple(Guarding(way.policies, way.public, tuple(type(layer).__name__ for layer in way.layers)) for way in entry.ways),
    )
