"""An app that a verb looks at is named as a server names it; whatever is wrong with that is one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]
Module = Callable[..., str]
VERBS = (("routes",), ("explain", "GET /x"))

APP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from llm_authmw import RBACMiddleware, Role, Stack

class Holder:
    guard = Stack(Middleware(RBACMiddleware, roles={"member": Role(routes=["*"])}))(Starlette())

guard, bare, text = Holder.guard, Starlette(), "text"
holder = Holder()
print("on stdout")

def make():
    print("made")
    return guard

def broken():
    raise LookupError("no configuration")
"""


def words(verb: tuple[str, ...], app: str) -> tuple[str, ...]:
    return (verb[0], app, *verb[1:])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    ("app", "code", "problem"),
    [
        ("myapp", "invalid_value", "'myapp' is not MODULE:NAME, such as myapp:app"),
        ("myapp:", "invalid_value", "'myapp:' is not MODULE:NAME"),
        ("my-app:app", "invalid_value", "'my-app:app' is not MODULE:NAME"),
        ("./myapp.py:app", "invalid_value", "is not MODULE:NAME"),
        ("nowhere:app", "not_found", "there is no module nowhere in "),
        ("nowhere.deep:app", "not_found", "there is no module nowhere in "),
        ("myapp.deep:app", "not_found", "there is no module myapp.deep in "),
        ("myapp:other", "not_found", "myapp has no other"),
        ("myapp:guard.other", "not_found", "myapp has no guard.other"),
    ],
)
def test_a_name_that_names_nothing_is_one_line(run: Run, module: Module, verb: tuple[str, ...], app: str, code: str, problem: str) -> None:
    module(APP)

    assert problem in run(*words(verb, app), exit_code=1).stderr
    error = json.loads(run(*words(verb, app), "--json", exit_code=1).stderr.splitlines()[-1])["error"]
    assert code == error["code"]
    assert problem in error["message"]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 / 0\n", "myapp cannot be imported: ZeroDivisionError: division by zero, at {directory}/myapp.py:1"),
        (
            "import not_installed\n",
            "myapp cannot be imported: ModuleNotFoundError: No module named 'not_installed', at {directory}/myapp.py:1",
        ),
        ("def f(:\n", "myapp cannot be imported: SyntaxError"),
        ("raise SystemExit(3)\n", "myapp cannot be imported: SystemExit: 3"),
        ("from llm_authmw import Stack\n\nStack()\n", "names none, so nothing would be guarded, at {directory}/myapp.py:3"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why_and_where(
    run: Run, module: Module, directory: Path, verb: tuple[str, ...], text: str, problem: str
) -> None:
    module(text)

    result = run(*words(verb, "myapp:app"), exit_code=1)

    assert "" == result.stdout
    assert problem.format(directory=directory) in result.stderr
    assert 1 == len(result.stderr.splitlines())


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_factory_is_called_where_it_is_said_to_be_one(run: Run, module: Module, verb: tuple[str, ...]) -> None:
    module(APP)

    made = run(*words(verb, "myapp:make"), "--factory", exit_code=1 if verb[0] == "explain" else 0)
    broken = run(*words(verb, "myapp:broken"), "--factory", exit_code=1)

    assert "made" in made.stderr
    assert "made" not in made.stdout
    assert "Error: myapp:broken raises: LookupError: no configuration, at" in broken.stderr


def test_a_name_may_lead_through_attributes(run: Run, module: Module) -> None:
    module(APP)

    run("routes", "myapp:holder.guard")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("text", "myapp:text is str, and no ASGI app"),
        ("Holder", "myapp:Holder is a class, and no ASGI app"),
        ("make", "myapp:make takes something else than scope, receive and send: is it a factory? Then add --factory"),
    ],
)
def test_routes_of_what_is_no_app_are_refused(run: Run, module: Module, name: str, problem: str) -> None:
    module(APP)

    assert problem in run("routes", f"myapp:{name}", exit_code=1).stderr


def test_routes_of_a_stack_around_nothing_are_refused(run: Run, module: Module) -> None:
    module(APP + "\nstack = Stack(Middleware(RBACMiddleware, roles={'member': Role(routes=['*'])}))\n")

    problem = "myapp:stack is a Stack, which is around no app yet: name what Stack(…)(app) returns"
    assert problem in run("routes", "myapp:stack", exit_code=1).stderr


def test_what_guards_nothing_has_nothing_to_explain(run: Run, module: Module) -> None:
    module(APP)

    assert "with none of our layers around it" in run("explain", "myapp:bare", "GET /x", exit_code=1).stderr


def test_the_program_finds_an_app_in_the_directory_that_it_runs_in(module: Module, directory: Path) -> None:
    module(APP)
    program = Path(sys.executable).parent / "llm-authmw"

    completed = subprocess.run([program, "routes", "myapp:guard", "--json"], cwd=directory, capture_output=True, text=True, check=False)

    assert (0, {"routes": [], "problems": []}) == (completed.returncode, json.loads(completed.stdout)), completed.stderr
    assert "on stdout\n" == completed.stderr
