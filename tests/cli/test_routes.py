import json
from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]
Module = Callable[..., str]

APP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from llm_authmw import KeyAuthMiddleware, Policy, PolicyRouter, RBACMiddleware, Role, Stack, StaticKeys

print("imported")

async def answer(request): ...

keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
rules = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"])})
health, chat = Route("/health", answer), Route("/v1/chat/completions", answer, methods=["POST"])

good = PolicyRouter(
    Starlette(routes=[health, chat, Route("/other", answer)]),
    policies=[Policy("GET /health", public=True), Policy("/v1/**", Stack(keys, rules))],
)
bad = Stack(keys)(Starlette(routes=[chat]))
open_ = Starlette(routes=[health])
empty = Stack(keys)(Starlette())
"""


@pytest.fixture(autouse=True)
def app(module: Module) -> None:
    module(APP)


def test_each_route_is_a_line_with_its_policy_its_layers_and_what_it_reaches(run: Run) -> None:
    result = run("routes", "myapp:good")

    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["METHODS", "PATH", "POLICY", "LAYERS", "REACHES"] == lines[0]
    assert ["GET", "/health", "GET", "/health", "(public)", "-", "-"] == lines[1]
    assert ["POST", "/v1/chat/completions", "/v1/**", "KeyAuthMiddleware", ">", "RBACMiddleware", "chat"] == lines[2]
    assert ["GET", "/other", "denied", "-", "-"] == lines[3]
    assert ["LEVEL", "ROUTE", "PROBLEM"] == lines[5]
    assert ["note", "GET", "/other", "is", "covered", "by", "no", "policy,"] == lines[6][:8]
    assert ["imported", "3 routes, 1 note."] == result.stderr.splitlines()


def test_an_error_ends_with_1(run: Run) -> None:
    result = run("routes", "myapp:bad", exit_code=1)

    assert "error  POST /v1/chat/completions  reaches a model (chat), and no layer looks at which" in result.stdout
    assert "1 routes, 1 error." in result.stderr


@pytest.mark.parametrize(
    ("name", "level", "exit_code"),
    [
        ("good", "error", 0),
        ("good", "warning", 0),
        ("good", "note", 1),
        ("open_", "error", 0),
        ("open_", "warning", 1),
        ("bad", "error", 1),
    ],
)
def test_the_level_says_for_which_problems_it_ends_with_1(run: Run, name: str, level: str, exit_code: int) -> None:
    run("routes", f"myapp:{name}", "--level", level, exit_code=exit_code)


def test_json_is_the_inventory_alone_on_stdout(run: Run) -> None:
    inventory = json.loads(run("routes", "myapp:bad", "--json", exit_code=1).stdout)

    assert {"routes", "problems"} == set(inventory)
    (route,) = inventory["routes"]
    assert (["POST"], "/v1/chat/completions", ["chat"]) == (route["methods"], route["path"], route["operations"])
    assert [{"policies": [], "public": False, "layers": ["KeyAuthMiddleware"]}] == route["guarding"]
    (problem,) = inventory["problems"]
    assert ("error", "model_unguarded", "POST /v1/chat/completions") == (problem["level"], problem["code"], problem["route"])


def test_an_app_without_routes_is_said_to_have_none(run: Run) -> None:
    result = run("routes", "myapp:empty")

    assert "" == result.stdout
    assert "myapp:empty has no routes." in result.stderr
