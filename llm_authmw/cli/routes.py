"""`llm-authmw routes`: every route of an app, and what stands in front of it."""

from typing import Final, get_args

import click
import msgspec

from llm_authmw.cli.apps import app_problem, factory_option, load
from llm_authmw.cli.options import json_option
from llm_authmw.cli.output import Column, emit, note, print_table, say
from llm_authmw.cli.target import META
from llm_authmw.errors import InvalidValueError
from llm_authmw.inventory import Inventory, route_inventory
from llm_authmw.inventory.records import LEVELS, Level

_COLUMNS: Final = (Column("METHODS"), Column("PATH", "wrap"), Column("POLICY", "wrap"), Column("LAYERS", "wrap"), Column("REACHES", "wrap"))


@click.command(
    epilog="""\b
Examples:
  llm-authmw routes myapp:app
  llm-authmw routes myapp:make_app --factory --level warning
  llm-authmw routes myapp:app --json | jq -r '.problems[].message'

APP is MODULE:NAME, as a server is given it: the app with everything around it. The module is imported, from the working directory
too; no request is made, and the app is not started. What a PolicyRouter finds when it starts is the same.

\b
error    somebody gets in who should not, or a route is never reached
warning  something here cannot be seen, or guards nothing yet
note     a route that is denied, as no policy covers it"""
)
@click.argument("app")
@factory_option
@click.option(
    "--level",
    type=click.Choice(get_args(Level)),
    default="error",
    show_default=True,
    help="The mildest problem for which the command ends with 1.",
)
@json_option
@click.pass_context
def routes(context: click.Context, /, *, app: str, factory: bool, level: Level) -> None:
    """List every route of an app and what stands in front of it.

    That is policies and layers. What is wrong with them is said too.
    """
    loaded = load(app, factory=factory)
    problem = app_problem(loaded)
    if problem is not None:
        raise InvalidValueError(f"{app} {problem}")
    inventory = route_inventory(loaded)
    if context.meta.get(f"{META}json"):
        emit(msgspec.to_builtins(inventory))
    else:
        _print(inventory, app)
    if inventory.grave(level):
        context.exit(1)


def _print(inventory: Inventory, app: str) -> None:
    if not inventory.routes:
        note(f"{app} has no routes.")
        return
    print_table(_COLUMNS, [[None if cell == "-" else cell for cell in row] for row in inventory.rows()])
    if inventory.problems:
        say("")
        rows = [[problem.level, problem.route, problem.message] for problem in inventory.problems]
        print_table([Column("LEVEL", colored=True), Column("ROUTE", "wrap"), Column("PROBLEM", "wrap")], rows)
    counted = [f"{number} {level}{'' if number == 1 else 's'}" for level in LEVELS if (number := _count(inventory, level))]
    note(f"{len(inventory.routes)} routes, {', '.join(counted) or 'no problems'}.")


def _count(inventory: Inventory, level: Level) -> int:
    return sum(problem.level == level for problem in inventory.problems)
