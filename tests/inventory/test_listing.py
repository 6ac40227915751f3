"""Every route of an app is listed, wherever its framework keeps it, with what stands in front of it."""

import functools
from typing import Any

import msgspec
import pytest
from fastapi import APIRouter, Depends, FastAPI
from litestar import Controller, Litestar, asgi, get, post, websocket
from litestar import Router as LitestarRouter
from litestar import WebSocket as LitestarSocket
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from llm_authmw import (
    ConfigurationError,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    ProtectedResource,
    ProtectedResourceMiddleware,
    Stack,
    StaticKeys,
    UpstreamCredentialMiddleware,
)
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.inventory import Inventory, route_inventory
from llm_authmw.lens import RequestLens
from llm_authmw.llm.operation import Operation
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}))
RULES = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"])}, default_role="member")
BOTH = "KeyAuthMiddleware > RBACMiddleware"


async def answer(_: Request) -> Response:
    return PlainTextResponse("here")


async def live(socket: WebSocket) -> None:
    await socket.accept()


class Resource(HTTPEndpoint):
    async def get(self, _: Request) -> Response:
        return PlainTextResponse("here")

    async def delete(self, _: Request) -> Response:
        return PlainTextResponse("gone")


class Foreign:
    """Somebody else's middleware, that shows what it is around."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def listed(app: Any) -> list[tuple[str, str, str]]:
    """Return for each way to a route the route, the policy and the layers."""
    return [(f"{methods} {path}", policy, layers) for methods, path, policy, layers, _ in route_inventory(app).rows()]


def routes_of(app: Any) -> list[str]:
    return [str(route) for route in route_inventory(app).routes]


def test_what_is_no_app_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is str, which is no ASGI app") as caught:
        route_inventory("myapp:app")
    assert "app" == caught.value.option


def test_starlettes_routes_sockets_mounts_and_hosts_are_listed() -> None:
    app = Starlette(
        routes=[
            Route("/one", answer),
            Route("/two/{number:int}", answer, methods=["POST", "PUT"]),
            Route("/object", Resource),
            Route("/raw", Witness()),
            WebSocketRoute("/live", live),
            Mount("/files", StaticFiles(directory=".", check_dir=False)),
            Mount("/fixed", PlainTextResponse("always")),
            Mount("/sub/{tenant}", routes=[Route("/", answer), Mount("/deep", routes=[Route("/three", answer)])]),
            Host("api.example.com", Router([Route("/four", answer)])),
            Mount("/other", Witness()),
        ]
    )
    expected = [
        "GET /one",
        "POST,PUT /two/{number:int}",
        "DELETE,GET /object",
        "DELETE,GET,OPTIONS,PATCH,POST,PUT /raw",
        "WS /live",
        "GET /files/**",
        "* /fixed/**",
        "GET /sub/{tenant}/",
        "GET /sub/{tenant}/deep/three",
        "GET api.example.com/four",
        "* /other/**",
    ]
    assert expected == routes_of(app)


def test_fastapis_included_routers_are_listed_with_every_prefix() -> None:
    inner, outer, app = APIRouter(), APIRouter(prefix="/outer"), FastAPI(openapi_url=None)

    @inner.get("/one/{number}")
    async def one(number: int) -> int:
        return number

    @inner.websocket("/live")
    async def socket(socket: WebSocket) -> None: ...

    @outer.post("/two")
    async def two() -> None: ...

    inner.mount("/files", StaticFiles(directory=".", check_dir=False))
    outer.include_router(inner, prefix="/inner")
    app.include_router(outer, prefix="/v1")
    app.include_router(inner, dependencies=[Depends(two)])
    app.mount("/mounted", FastAPI(openapi_url=None, routes=[Route("/three", answer)]))

    expected = [
        "POST /v1/outer/two",
        "GET /v1/outer/inner/one/{number}",
        "WS /v1/outer/inner/live",
        "GET /v1/outer/inner/files/**",
        "GET /one/{number}",
        "WS /live",
        "GET /files/**",
        "GET /mounted/three",
    ]
    assert sorted(expected) == sorted(routes_of(app))


def test_fastapis_frontend_is_listed_after_every_route(tmp_path: Any) -> None:
    app, sub = FastAPI(openapi_url=None), APIRouter()
    if not hasattr(app, "frontend"):
        pytest.skip("this FastAPI has none")
    app.frontend("/", directory=tmp_path)
    sub.frontend("/ui", directory=tmp_path)
    app.include_router(sub, prefix="/sub")

    @app.get("/one")
    async def one() -> None: ...

    assert ["GET /one", "GET /sub/ui/**", "GET /**"] == routes_of(app)
    assert [] == [problem for problem in route_inventory(app).problems if problem.code == "shadowed"]


def test_litestars_handlers_controllers_sockets_and_mounts_are_listed() -> None:
    class Things(Controller):
        path = "/things"

        @get("/{number:int}")
        async def one(self, number: FromPath[int]) -> int:
            return number

        @post("/")
        async def two(self) -> None: ...

    @get("/files/{rest:path}")
    async def files(rest: FromPath[str]) -> str:
        return rest

    @websocket("/live")
    async def socket(socket: LitestarSocket[Any, Any, Any]) -> None: ...

    mounted = asgi("/sub", is_mount=True, copy_scope=True)(Starlette(routes=[Route("/three", answer)]))
    exact = asgi("/exact", copy_scope=True)(Witness())
    app = Litestar([LitestarRouter("/v1", route_handlers=[Things, socket]), files, mounted, exact], openapi_config=None)

    expected = [
        "GET,OPTIONS /files/{rest:path}",
        "GET,OPTIONS /v1/things/{number:int}",
        "OPTIONS,POST /v1/things",
        "WS /v1/live",
        "GET /sub/three",
        "* /exact",
    ]
    assert sorted(expected) == sorted(routes_of(app))


def test_a_route_of_a_class_of_ones_own_is_said_to_be_unknown_and_keeps_nothing() -> None:
    class Own(BaseRoute):
        pass

    inventory = route_inventory(Starlette(routes=[Own(), Route("/one", answer)]))

    assert ["* /**", "GET /one"] == list(map(str, inventory.routes))
    assert "unknown" == inventory.routes[0].kind
    assert "shadowed" not in {problem.code for problem in inventory.problems}


def test_a_routers_default_is_what_is_left() -> None:
    assert ["GET /one", "* /**"] == routes_of(Router([Route("/one", answer)], default=Witness()))
    assert ["GET /one"] == routes_of(Router([Route("/one", answer)]))


GUARD = Stack(KEYS, RULES)
ONE = Route("/one", answer)
LISTED: list[Any] = [Middleware(GUARD)]


@pytest.mark.parametrize(
    "app",
    [
        GUARD(Starlette(routes=[ONE])),
        Starlette(routes=[ONE], middleware=LISTED),
        Starlette(routes=[ONE], middleware=[Middleware(GZipMiddleware), KEYS, RULES]),
        Starlette(routes=[ONE], middleware=[Middleware(functools.partial(GUARD))]),
        Router([ONE], middleware=LISTED),
        Router([Route("/one", answer, middleware=LISTED)]),
        Router([Mount("", routes=[ONE], middleware=[KEYS, RULES])]),
        Router([Route("/one", GUARD(Witness()), methods=["GET"])]),
        Stack(KEYS, Middleware(Stack(RULES)))(Router([ONE])),
        Foreign(GUARD(Foreign(Router([ONE])))),
    ],
)
def test_layers_are_found_in_each_place_where_people_put_them(app: Any) -> None:
    assert [("GET /one", "-", BOTH)] == listed(app)


def test_layers_are_found_in_fastapis_and_litestars_lists() -> None:
    app = FastAPI(openapi_url=None, routes=[Route("/one", answer)])
    app.add_middleware(RBACMiddleware, roles={"member": Role(routes=["*"])}, default_role="member")
    app.add_middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}))
    app.add_middleware(CORSMiddleware, allow_origins=["*"])

    @get("/one", middleware=[DefineMiddleware(RBACMiddleware, roles={"member": Role(routes=["*"])})])
    async def one() -> None: ...

    @get("/two")
    async def two() -> None: ...

    guarded = LitestarRouter("/v1", route_handlers=[one], middleware=[DefineMiddleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}))])
    litestar = Litestar([guarded, two], openapi_config=None)

    assert [("GET /one", "-", BOTH)] == listed(app)
    # What answers OPTIONS there is not the handler, and stands behind the lists around it only.
    assert {("GET /v1/one", "-", BOTH), ("OPTIONS /v1/one", "-", "KeyAuthMiddleware"), ("GET,OPTIONS /two", "-", "-")} == set(
        listed(litestar)
    )
    assert {("GET,OPTIONS /two", "-", BOTH)} == set(listed(Litestar([two], middleware=[Stack(KEYS, RULES)], openapi_config=None)))


def test_a_mounted_guarded_app_adds_to_the_layers_outside() -> None:
    inner = Stack(RULES)(Starlette(routes=[Route("/two", answer)]))
    app = Stack(KEYS)(Starlette(routes=[Route("/one", answer), Mount("/sub", inner)]))

    assert [("GET /one", "-", "KeyAuthMiddleware"), ("GET /sub/two", "-", BOTH)] == listed(app)


def test_metadata_of_a_protected_resource_are_listed_outside_of_the_layers() -> None:
    resource = ProtectedResource("https://llm.example.com/", authorization_servers=["https://id.example.com"])
    app = Stack(Middleware(ProtectedResourceMiddleware, resource=resource), KEYS)(Starlette(routes=[Route("/one", answer)]))

    metadata, one = route_inventory(app).routes

    assert ("GET,OPTIONS /.well-known/oauth-protected-resource", "metadata") == (str(metadata), metadata.kind)
    assert ("-",) == tuple(layers for _, _, _, layers, _ in route_inventory(app).rows())[:1]
    assert ("ProtectedResourceMiddleware", "KeyAuthMiddleware") == one.guarding[0].layers
    assert [] == [problem for problem in route_inventory(app).problems if ".well-known" in problem.route]


def test_the_credential_of_the_app_behind_is_a_layer_too() -> None:
    app = Stack(KEYS, Middleware(UpstreamCredentialMiddleware, bearer="sk-upstream"))(Router([Route("/one", answer)]))

    assert [("GET /one", "-", "KeyAuthMiddleware > UpstreamCredentialMiddleware")] == listed(app)


POLICIES = [
    Policy("GET /health", public=True),
    Policy("/v1/**", Stack(KEYS, RULES)),
    Policy("/v1/models/gpt-4o", Stack(KEYS), name="one model"),
    Policy("POST /v1/chat/completions", Stack(RULES)),
]


def test_each_route_has_the_policies_that_cover_a_part_of_it() -> None:
    app = Starlette(
        routes=[
            Route("/health", answer),
            Route("/v1/models/{model}", answer),
            Route("/v1/models/{number:int}", answer),
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v2", answer),
        ]
    )
    expected = [
        ("GET /health", "GET /health (public)", "-"),
        ("GET /v1/models/{model}", "/v1/**", BOTH),
        ("GET /v1/models/{model}", "one model", "KeyAuthMiddleware"),
        ("GET /v1/models/{number:int}", "/v1/**", BOTH),
        ("POST /v1/chat/completions", "POST /v1/chat/completions", "RBACMiddleware"),
        ("GET /v2", "denied", "-"),
    ]
    assert sorted(expected) == sorted(listed(PolicyRouter(app, policies=POLICIES)))


def test_a_policy_that_a_more_specific_one_leaves_nothing_of_a_route_is_not_named() -> None:
    app = Starlette(routes=[Route("/v1/models/{model}", answer)])
    policies = [Policy("/v1/**", Stack(KEYS)), Policy("/v1/models/*", Stack(KEYS, RULES))]

    assert [("GET /v1/models/{model}", "/v1/models/*", BOTH)] == listed(PolicyRouter(app, policies=policies))


def test_policies_of_a_mounted_router_are_held_against_what_is_below_the_mount() -> None:
    inner = PolicyRouter(Starlette(routes=[Route("/one", answer)]), policies=[Policy("/one", Stack(RULES))])
    outer = PolicyRouter(Starlette(routes=[Mount("/sub", inner)]), policies=[Policy("/sub/**", Stack(RULES))])

    assert [("GET /sub/one", "/sub/** > /one", "RBACMiddleware > RBACMiddleware")] == listed(outer)


def test_a_router_of_policies_in_a_list_of_middlewares_is_found() -> None:
    app = Starlette(routes=[Route("/v1/one", answer), Route("/two", answer)], middleware=[Middleware(PolicyRouter, policies=POLICIES)])

    assert [("GET /v1/one", "/v1/**", BOTH), ("GET /two", "denied", "-")] == listed(app)


def test_litestar_serves_a_path_with_a_slash_at_its_end_as_the_same_route_so_that_both_are_held_against_policies() -> None:
    @get("/one")
    async def one() -> None: ...

    policies = [Policy("/one/", Stack(KEYS)), Policy("/**", Stack(KEYS, RULES))]
    found = listed(PolicyRouter(Litestar([one], openapi_config=None), policies=policies))

    assert {("GET,OPTIONS /one", "/one/", "KeyAuthMiddleware"), ("GET,OPTIONS /one", "/**", BOTH)} == set(found)


def test_operations_of_ones_own_are_known_from_the_lens_and_from_the_call() -> None:
    ask, draw = (Operation(name=name, routes=(name,)) for name in ("ask", "draw"))
    rules = Middleware(RBACMiddleware, lens=RequestLens(operations=[ask]), roles={"member": Role(routes=["*"], models=["*"])})
    app = Stack(KEYS, rules)(Router([Route("/ask", answer, methods=["POST"]), Route("/draw", answer, methods=["POST"])]))

    assert [("ask",), ()] == [route.operations for route in route_inventory(app).routes]
    assert [("ask",), ("draw",)] == [route.operations for route in route_inventory(app, operations=[draw]).routes]


def test_an_inventory_is_json_and_a_table() -> None:
    inventory = route_inventory(PolicyRouter(Starlette(routes=[Route("/health", answer), Route("/two", answer)]), policies=POLICIES))

    assert inventory == msgspec.json.decode(msgspec.json.encode(inventory), type=Inventory)
    heading, *rest = str(inventory).splitlines()
    assert ["METHODS", "PATH", "POLICY", "LAYERS", "REACHES"] == heading.split()
    assert ["GET", "/health", "GET", "/health", "(public)", "-", "-"] == rest[0].split()
    assert rest[-1].startswith("note: GET /two: ")


def test_an_app_that_leads_to_itself_is_given_up_at_some_depth() -> None:
    loop = Foreign(None)
    loop.app = loop

    assert ["* /**"] == routes_of(loop)
