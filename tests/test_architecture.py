"""The rules of the house that a tool can check."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack, get_origin

import pytest

import llm_authmw
import llm_authmw.fastapi
import llm_authmw.testing
from llm_authmw.authn.layer import AuthenticationLayer

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llm_authmw"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400
PUBLIC: list[ModuleType] = [llm_authmw, llm_authmw.testing]


def _each_module(*, but_not: tuple[str, ...] = ()) -> list[Any]:
    names = {path: path.relative_to(PACKAGE).as_posix() for path in MODULES}
    return [pytest.param(path, id=name) for path, name in names.items() if not name.startswith(but_not)]


def _names_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case _:
                pass
    yield from _names_imported(tree)


def _names_imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=imported):
                yield from (alias.name for alias in imported)
            case ast.ImportFrom(module=module, names=imported):
                yield from (module or "", *(alias.name for alias in imported))
            case _:
                pass


def _tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_room_imports_only_from_the_floors_below_it() -> None:
    completed = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_the_floors_name_every_room() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\nlayers = [")[2].partition("]")[0]
    named = {room.strip(' "') for line in layers.strip().splitlines() for room in line.strip(" ,").split("|")}
    assert rooms == named


@pytest.mark.parametrize("path", _each_module())
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", _each_module())
def test_nothing_depends_on_assertions_which_an_optimised_interpreter_drops(path: Path) -> None:
    assert [] == [node.lineno for node in ast.walk(_tree(path)) if isinstance(node, ast.Assert)]


@pytest.mark.parametrize("path", _each_module())
def test_no_layer_stands_on_base_http_middleware_which_holds_chunks_back(path: Path) -> None:
    assert not {"BaseHTTPMiddleware", "starlette.middleware.base"} & set(_names_used(_tree(path)))


# A request's id, which context.py makes, is no secret, and testing/simulation.py draws what is to be the same again.
@pytest.mark.parametrize("path", _each_module(but_not=("context.py", "testing/simulation.py")))
def test_nothing_is_random_but_by_the_secrets_module(path: Path) -> None:
    assert not {"random", "randint", "SystemRandom", "uuid1", "uuid4"} & set(_names_used(_tree(path)))


# stores/sqlite/file.py waits for another process's lock on a file, in a thread: that time no clock of ours can let pass.
# dates.py reads and writes moments that it is given, and ledger/windows.py reads the calendar of a moment that it is given.
# testing/certificates.py writes dates that it is given, in the form that certificates have them.
# llm/genai_price_book.py says which price counts at a moment that it is given.
_WITH_TIME = (
    "clock.py",
    "cli/",
    "dates.py",
    "ledger/windows.py",
    "llm/genai_price_book.py",
    "stores/sqlite/file.py",
    "testing/servers.py",
    "testing/certificates.py",
)


@pytest.mark.parametrize("path", _each_module(but_not=_WITH_TIME))
def test_time_is_asked_of_an_injected_clock_only(path: Path) -> None:
    tree = _tree(path)
    # What is not imported cannot be asked, and a record has a time of its own.
    assert not {"time", "datetime"} & set(_names_imported(tree))
    assert not {"perf_counter", "current_time"} & set(_names_used(tree))


# sinks/http_client.py makes requests of its own, with httpx.
@pytest.mark.parametrize("path", _each_module(but_not=("testing/", "cli/", "sinks/http_client.py")))
def test_nothing_reads_a_request_body_through_a_framework(path: Path) -> None:
    assert not {"Request", "starlette.testclient", "HTTPEndpoint"} & set(_names_used(_tree(path)))


@pytest.mark.parametrize("module", [pytest.param(module, id=module.__name__) for module in PUBLIC])
def test_the_public_names_are_sorted_and_there(module: ModuleType) -> None:
    assert sorted(set(module.__all__)) == module.__all__
    assert [] == [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("module", [pytest.param(module, id=module.__name__) for module in PUBLIC])
def test_nothing_public_is_left_out_of_the_public_names(module: ModuleType) -> None:
    found = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert found - set(module.__all__) == set()


def _public_members() -> Iterator[tuple[str, Any]]:
    for module in (*PUBLIC, llm_authmw.fastapi):
        names: list[str] = getattr(module, "__all__", ["current_caller"])
        for name in names:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            yield name, value
            if inspect.isclass(value):
                own = {key: member for key, member in vars(value).items() if not key.startswith("_")}
                methods = {key: member for key, member in own.items() if isinstance(member, property) or inspect.isroutine(member)}
                yield from ((f"{name}.{key}", member) for key, member in methods.items())


@pytest.mark.parametrize("member", [pytest.param(member, id=name) for name, member in _public_members()])
def test_every_public_name_says_what_it_is(member: Any) -> None:
    text = inspect.getdoc(member) or ""
    assert text.partition("\n")[0].endswith((".", ":")), text


def test_a_layer_takes_the_app_first_and_every_option_by_name() -> None:
    layers = [value for value in vars(llm_authmw).values() if inspect.isclass(value) and issubclass(value, AuthenticationLayer)]
    assert layers
    for layer in layers:
        app, *options = inspect.signature(layer).parameters.values()
        assert (app.name, app.kind) == ("app", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for option in options:
            # Options that a handle has as well are typed once, for both.
            unpacked = option.kind is inspect.Parameter.VAR_KEYWORD and get_origin(option.annotation) is Unpack
            assert unpacked or option.kind is inspect.Parameter.KEYWORD_ONLY, f"{layer.__name__}: {option}"


def test_every_option_of_a_layer_is_documented() -> None:
    documented = inspect.getdoc(llm_authmw.KeyAuthMiddleware) or ""
    for option in inspect.signature(llm_authmw.KeyAuthMiddleware).parameters:
        assert f"\n    {option}: " in documented, option
