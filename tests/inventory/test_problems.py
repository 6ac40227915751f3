"""Each problem that an inventory finds: an app that has it, and one that does not."""

from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar, post
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Policy, PolicyRouter, Stack, StaticKeys, open_store
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.inventory import route_inventory
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.llm.prices import Price
from llm_authmw.testing.witness import Witness

KEYS = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
ROLES: dict[str, Any] = {"roles": {"member": Role(routes=["*"], models=["*"])}, "default_role": "member"}
RULES = Middleware(RBACMiddleware, **ROLES)
TRIAL = Middleware(RBACMiddleware, shadow=True, **ROLES)
CHAT = "/v1/chat/completions"


async def answer(_: Request) -> Response:
    return PlainTextResponse("here")


async def another(_: Request) -> Response:
    return PlainTextResponse("there")


async def live(socket: WebSocket) -> None:
    await socket.accept()


def posting(path: str) -> Route:
    return Route(path, answer, methods=["POST"])


def problems(app: Any) -> list[tuple[str, str, str]]:
    return [(problem.level, problem.code, problem.route) for problem in route_inventory(app).problems]


def guarded(app: Any, *layers: Middleware) -> Any:
    return Stack(*layers)(app)


# A model, and nothing that looks at which.


@pytest.mark.parametrize(
    "route",
    [
        posting(CHAT),
        posting("/chat/completions"),
        posting("/any/prefix/v1/messages"),
        posting("/openai/deployments/{model}/chat/completions"),
        posting("/openai/deployments/{model:path}/chat/completions"),
        posting("/v1beta/models/{model}:generateContent"),
        posting("/v1beta/models/{model:path}:streamGenerateContent"),
        posting("/model/{model}/invoke"),
        WebSocketRoute("/v1/realtime", live),
        Route("/proxy/{rest:path}", answer, methods=["GET", "POST"]),
    ],
    ids=lambda route: route.path,
)
def test_a_route_that_reaches_a_model_needs_a_layer_that_looks_at_models(route: Any) -> None:
    method = "WS" if isinstance(route, WebSocketRoute) else ",".join(sorted(route.methods - {"HEAD"}))
    app = Starlette(routes=[route])

    assert [("error", "model_unguarded", f"{method} {route.path}")] == problems(guarded(app, KEYS))
    assert [] == problems(guarded(app, KEYS, RULES))


@pytest.mark.parametrize(
    "route",
    [
        posting("/threads/{number}"),
        posting("/users/{name}/{action}"),
        Route(CHAT, answer),
        Route("/v1/models", answer),
        Route("/{rest:path}", answer),
        WebSocketRoute("/notifications", live),
        Mount("/chat", StaticFiles(directory=".", check_dir=False)),
    ],
    ids=lambda route: route.path,
)
def test_a_route_that_runs_no_model_needs_none(route: Any) -> None:
    assert [] == problems(guarded(Starlette(routes=[route]), KEYS))


def test_the_sentence_names_the_model_operations_the_policy_and_what_to_do() -> None:
    app = PolicyRouter(Router([posting(CHAT)]), policies=[Policy("/v1/**", Stack(KEYS), name="the api")])

    (problem,) = route_inventory(app).problems

    expected = "reaches a model (chat) through 'the api', and no layer looks at which: put an RBACMiddleware in front of it"
    assert expected == problem.message
    assert f"error: POST {CHAT}: {expected} (model_unguarded)" == str(problem)


# A model whose use nobody counts, beside others whose use is.


def metered() -> Middleware:
    return Middleware(BudgetMiddleware, ledger=open_store("memory://").ledger, prices={"*": Price(input="1", output="2")})


def test_a_route_to_a_model_that_is_not_metered_beside_one_that_is_is_an_error() -> None:
    routes = [posting(CHAT), posting("/v1/embeddings"), posting("/v1/notes")]
    policies = [
        Policy(f"POST {CHAT}", Stack(KEYS, RULES, metered())),
        Policy("POST /v1/embeddings", Stack(KEYS, RULES), name="embedding"),
        Policy("POST /v1/notes", Stack(KEYS, RULES)),
    ]

    (problem,) = route_inventory(PolicyRouter(Router(routes), policies=policies)).problems

    assert ("error", "not_metered", "POST /v1/embeddings") == (problem.level, problem.code, problem.route)
    assert "through 'embedding', and is not metered as others are: put a BudgetMiddleware in front of it" in problem.message


def test_an_app_that_counts_no_money_anywhere_and_one_that_counts_it_everywhere_are_fine() -> None:
    app = Starlette(routes=[posting(CHAT), posting("/v1/embeddings")])

    assert [] == problems(guarded(app, KEYS, RULES))
    assert [] == problems(guarded(app, KEYS, RULES, metered()))


def test_only_the_policies_whose_requests_reach_the_model_need_the_layer() -> None:
    routes = [Route(CHAT, answer, methods=["GET", "POST"]), Route("/{rest:path}", answer, methods=["GET", "POST"])]
    policies = [
        Policy("POST /v1/**", Stack(KEYS, RULES)),
        Policy("GET /v1/**", Stack(KEYS)),
        Policy("GET /ui/**", Stack(KEYS)),
        Policy("POST /ui/*", Stack(KEYS)),
        Policy("POST /upload", Stack(KEYS)),
    ]
    assert [] == problems(PolicyRouter(Router([routes[0]]), policies=policies))
    found = route_inventory(PolicyRouter(Router([routes[1]]), policies=policies)).problems
    # `/ui/embeddings` ends as an operation does.
    assert [("model_unguarded", True)] == [(problem.code, "through 'POST /ui/*'," in problem.message) for problem in found]


def test_a_public_policy_for_a_model_is_an_error() -> None:
    app = Router([posting(CHAT), posting("/health")])
    policies = [Policy(f"POST {CHAT}", public=True), Policy("POST /health", public=True)]

    assert [("error", "model_unguarded", f"POST {CHAT}")] == problems(PolicyRouter(app, policies=policies))


def test_a_layer_on_trial_guards_no_model() -> None:
    app = Starlette(routes=[posting(CHAT)])

    assert [("warning", "model_guard_on_trial", f"POST {CHAT}")] == problems(guarded(app, KEYS, TRIAL))
    assert [] == problems(guarded(app, KEYS, TRIAL, RULES))


def test_fastapi_and_litestar_are_looked_at_alike() -> None:
    fast = FastAPI(openapi_url=None)

    @fast.post(CHAT)
    async def chat() -> None: ...

    @post(CHAT)
    async def chat_too() -> None: ...

    lite = Litestar([chat_too], openapi_config=None)

    for app, methods in ((fast, "POST"), (lite, "OPTIONS,POST")):
        assert [("error", "model_unguarded", f"{methods} {CHAT}")] == problems(guarded(app, KEYS))
        assert [] == problems(guarded(app, KEYS, RULES))


# Never reached.


@pytest.mark.parametrize(
    "routes",
    [
        [Route("/one", answer), Route("/one", another)],
        [Route("/{name}", answer), Route("/one", another)],
        [Route("/{rest:path}", answer), Route("/one", another)],
        [Route("/{name}", answer), Route("/{number:int}", another)],
        [Route("/{rest:path}", answer), Route("/{rest:path}/more", another)],
        [Mount("/one", routes=[Route("/two", answer)]), Route("/one/three", another)],
        [Mount("", routes=[]), Route("/one", another)],
        [Mount("/one", routes=[Route("/", answer), Route("/", another)])],
        [Route("/one", answer, methods=["GET", "POST"]), Route("/one", another, methods=["POST"])],
        [Route("/one", answer), Route("/one", answer, methods=["POST"]), Route("/one", another, methods=["GET", "POST"])],
        [Route("/one", answer), Host("api.example.com", Router([Route("/one", another)]))],
        [Host("api.example.com", Router([])), Host("api.example.com", Router([Route("/one", another)]))],
    ],
)
def test_a_route_that_an_earlier_one_keeps_every_request_from_is_shadowed(routes: list[Any]) -> None:
    found = [problem for problem in problems(guarded(Starlette(routes=routes), KEYS)) if problem[1] == "shadowed"]

    assert 1 == len(found)
    assert "error" == found[0][0]


@pytest.mark.parametrize(
    "routes",
    [
        [Route("/one", answer), Route("/{name}", another)],
        [Route("/{number:int}", answer), Route("/{name}", another)],
        [Route("/one", answer), Route("/one", another, methods=["POST"])],
        [Route("/one", answer), WebSocketRoute("/one", live)],
        [Route("/one/{name}", answer), Route("/one", another), Route("/one/", another)],
        [Mount("/one", routes=[Route("/two", answer)]), Route("/one", another)],
        [Host("api.example.com", Router([Route("/one", answer)])), Route("/one", another)],
        [Host("a.example.com", Router([])), Host("b.example.com", Router([Route("/one", another)]))],
        [Route("/one", answer), Route("/one", answer)],
    ],
)
def test_a_route_that_some_request_gets_to_is_not_shadowed(routes: list[Any]) -> None:
    assert [] == problems(guarded(Starlette(routes=routes), KEYS))


# Public by a wildcard.


def test_a_public_path_that_the_app_serves_by_a_wildcard_is_an_error() -> None:
    policies = [Policy("GET /health", public=True)]

    for path in ("/{rest:path}", "/{name}"):
        assert [("error", "public_by_wildcard", f"GET {path}")] == problems(PolicyRouter(Router([Route(path, answer)]), policies=policies))
    (problem,) = route_inventory(PolicyRouter(Router([Route("/{name}", answer)]), policies=policies)).problems
    assert problem.message.startswith("is public at GET /health, for which the app has no route of its own: give it one")


def test_a_public_path_below_a_mount_is_named_as_clients_know_it() -> None:
    router = PolicyRouter(Router([Route("/{name}", answer)]), policies=[Policy("GET /health", public=True)])

    (problem,) = route_inventory(Starlette(routes=[Mount("/sub", router)])).problems

    assert ("public_by_wildcard", "GET /sub/{name}") == (problem.code, problem.route)
    assert problem.message.startswith("is public at GET /sub/health, for which")


@pytest.mark.parametrize(
    "routes",
    [
        [Route("/health", answer), Route("/{rest:path}", answer)],
        [Mount("/", routes=[Route("/health", answer), Route("/{rest:path}", answer)])],
        [Route("/{number:int}", answer)],
        [posting("/{name}")],
    ],
)
def test_a_public_path_with_a_route_of_its_own_is_none(routes: list[Any]) -> None:
    codes = [code for _, code, _ in problems(PolicyRouter(Router(routes), policies=[Policy("GET /health", public=True)]))]

    assert "public_by_wildcard" not in codes


def test_a_public_path_that_is_behind_the_wildcard_in_the_app_is_still_public_by_it() -> None:
    app = Router([Route("/{rest:path}", answer), Route("/health", another)])

    found = problems(PolicyRouter(app, policies=[Policy("GET /health", public=True)]))

    assert [("error", "public_by_wildcard", "GET /{rest:path}"), ("error", "shadowed", "GET /health")] == found


# Nobody asks who is calling.


def test_a_route_outside_of_every_layer_is_a_warning() -> None:
    inner = guarded(Router([Route("/one", answer)]), KEYS)

    assert [("warning", "unguarded", "GET /two")] == problems(Starlette(routes=[Mount("/sub", inner), Route("/two", answer)]))
    assert [] == problems(guarded(Starlette(routes=[Mount("/sub", Router([])), Route("/two", answer)]), KEYS))


def test_what_is_public_on_purpose_is_not_unguarded() -> None:
    assert [] == problems(PolicyRouter(Router([Route("/health", answer)]), policies=[Policy("GET /health", public=True)]))


# An app that cannot be looked into.


def test_an_app_that_cannot_be_looked_into_is_a_warning_unless_rules_stand_in_front_of_it() -> None:
    app = Starlette(routes=[Mount("/metrics", Witness()), Route("/one", answer)])

    assert [("warning", "not_looked_into", "* /metrics/**")] == problems(guarded(app, KEYS))
    assert [("note", "not_looked_into", "* /metrics/**")] == problems(guarded(app, KEYS, RULES))
    assert [] == problems(guarded(Starlette(routes=[Mount("/metrics", Router([])), Route("/one", answer)]), KEYS))


# Denied.


def test_a_route_that_no_policy_covers_is_a_note() -> None:
    app = Router([Route("/one", answer), Route("/two", answer)])
    policies = [Policy("/one", Stack(KEYS))]

    assert [("note", "no_policy", "GET /two")] == problems(PolicyRouter(app, policies=policies))
    assert [] == problems(PolicyRouter(app, policies=[*policies, Policy("/two", Stack(RULES))]))


# Checked.


@pytest.mark.parametrize(("level", "counted"), [("error", 1), ("warning", 2), ("note", 3)])
def test_an_app_is_refused_for_problems_of_a_level_and_those_above(level: Any, counted: int) -> None:
    app = Router([posting(CHAT), Route("/two", answer), Mount("/sub", Witness())])
    policies = [Policy("/v1/**", Stack(KEYS)), Policy("/sub/**", Stack(KEYS))]
    inventory = route_inventory(PolicyRouter(app, policies=policies))

    with pytest.raises(ConfigurationError) as caught:
        inventory.check(level)

    assert "routes" == caught.value.option
    assert [f"{counted} of the app's are not as they should be:", *map(str, inventory.problems[:counted])] == caught.value.problem.split(
        "\n"
    )
    assert ["error", "warning", "note"] == [problem.level for problem in inventory.problems]


def test_an_app_without_problems_is_not_refused() -> None:
    route_inventory(guarded(Router([posting(CHAT)]), KEYS, RULES)).check("note")


def test_a_level_that_there_is_none_of_is_refused() -> None:
    level: Any = "fatal"
    with pytest.raises(ConfigurationError, match="'error', 'warning' or 'note'"):
        route_inventory(Router([])).check(level)
