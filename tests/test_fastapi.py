from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security, WebSocket
from fastapi.responses import JSONResponse
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from llm_authmw import ConfigurationError, Decision, KeyAuthMiddleware, Principal, RequestContext, Stack, StaticKey, StaticKeys
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.fastapi import CurrentPrincipal, current_caller
from llm_authmw.testing import request, stream, websocket

pytestmark = pytest.mark.anyio

READER = "sk-reader-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
PLAIN = "sk-plain-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"
KEYS = StaticKeys({"reader": StaticKey(READER, user="ada", scopes=["llm:read"]), "plain": PLAIN})

Reader = Annotated[Principal, Security(current_caller, scopes=["llm:read"])]
Writer = Annotated[Principal, Security(current_caller, scopes=["llm:read", "llm:write"])]


def key(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {text}".encode())]


def routes(reached: list[str]) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/me")
    async def me(caller: CurrentPrincipal) -> dict[str, str]:
        reached.append("me")
        return {"subject": caller.subject}

    @app.get("/v1/read")
    async def read(caller: Reader) -> dict[str, str]:
        reached.append("read")
        return {"subject": caller.subject}

    @app.post("/v1/chat/completions")
    async def write(caller: Writer) -> dict[str, str]:
        reached.append("write")
        return {"subject": caller.subject}

    @app.post("/v1/messages")
    async def messages(caller: Writer) -> dict[str, str]:
        reached.append("messages")
        return {"subject": caller.subject}

    @app.get("/v1/open")
    async def open_to_all() -> dict[str, str]:
        reached.append("open")
        return {}

    @app.get("/v1/required")
    @requires("llm:read")
    async def required(request: Request) -> dict[str, str]:
        reached.append("required")
        return {"subject": request.user.subject, "state": request.state.principal.subject}

    @app.websocket("/v1/socket")
    async def socket(websocket: WebSocket, caller: Reader) -> None:
        reached.append("socket")
        await websocket.accept()
        await websocket.send_text(caller.subject)
        await websocket.close()

    return app


@pytest.fixture
def reached() -> list[str]:
    return []


@pytest.fixture(params=["wrapped", "listed", "GZip in between", "BaseHTTPMiddleware in between"])
def app(request: pytest.FixtureRequest, reached: list[str]) -> Any:
    """The routes behind a layer that lets anonymous callers through, so that it is the route that asks for somebody."""
    api = routes(reached)
    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS, required=False))
    if request.param == "wrapped":
        return stack(api)
    if request.param == "GZip in between":
        api.add_middleware(GZipMiddleware, minimum_size=1)
    if request.param == "BaseHTTPMiddleware in between":

        @api.middleware("http")
        async def pass_on(request: Any, call_next: Any) -> Any:
            return await call_next(request)

    api.add_middleware(stack)
    return api


async def test_an_anonymous_caller_is_401_where_somebody_is_asked_for(app: Any, reached: list[str]) -> None:
    for target in ("GET /v1/me", "GET /v1/read", "POST /v1/chat/completions"):
        response = await request(app, target)
        assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
        assert ["Bearer"] == response.header_lines("www-authenticate")
        assert "no-store" == response.header("cache-control")
        assert "missing_credential" == response.json()["error"]["code"]
    assert [] == reached


@pytest.mark.parametrize(("text", "need"), [(READER, "llm:write"), (PLAIN, "llm:read llm:write")])
async def test_a_caller_who_lacks_a_scope_is_403_and_told_which(app: Any, reached: list[str], text: str, need: str) -> None:
    response = await request(app, "POST /v1/chat/completions", headers=key(text))
    assert (403, "insufficient_scope") == (response.status, response.header("x-authmw-reason"))
    assert [f'Bearer error="insufficient_scope", scope="{need}"'] == response.header_lines("www-authenticate")
    error = response.json()["error"]
    assert ("permission_error", "insufficient_scope") == (error["type"], error["code"])
    assert error["message"].endswith(f"Needed: {need}.")
    assert [] == reached


async def test_the_denial_is_in_the_dialect_of_the_client(app: Any, reached: list[str]) -> None:
    response = await request(app, "POST /v1/messages", headers=key(READER))
    assert "error" == response.json()["type"]
    assert "permission_error" == response.json()["error"]["type"]
    response = await request(app, "POST /v1/messages", headers=[*key(READER), (b"accept", b"application/problem+json")])
    assert "urn:llm-authmw:reason:insufficient_scope" == response.json()["type"]
    assert [] == reached


async def test_a_denial_is_sent_once_and_recorded_once(app: Any, reached: list[str]) -> None:
    async with stream(app, "GET /v1/me") as exchange:
        async for _ in exchange:
            pass
    kinds = [message["type"] for message in exchange.response.activity.sent]
    assert ["http.response.start", "http.response.body"] == kinds
    assert 1 == len(exchange.response.header_lines("content-length"))
    assert len(exchange.response.body) == int(exchange.response.header("content-length") or "")


async def test_the_denial_of_a_route_is_in_the_record(reached: list[str]) -> None:
    app = KeyAuthMiddleware(routes(reached), keys=KEYS, required=False)
    async with stream(app, "POST /v1/messages", headers=key(READER)) as exchange:
        async for _ in exchange:
            pass
    context: RequestContext = exchange.scope[CONTEXT_KEY]
    expected = [
        Decision("KeyAuthMiddleware", "allowed", None, "reader"),
        Decision("CurrentPrincipal", "denied", "insufficient_scope", "reader"),
    ]
    assert expected == context.decisions


async def test_a_known_caller_reaches_the_route(app: Any, reached: list[str]) -> None:
    assert {"subject": "ada"} == (await request(app, "GET /v1/me", headers=key(READER))).json()
    assert {"subject": "ada"} == (await request(app, "GET /v1/read", headers=key(READER))).json()
    assert {"subject": "key:plain"} == (await request(app, "GET /v1/me", headers=key(PLAIN))).json()
    assert ["me", "read", "me"] == reached


async def test_a_bad_key_is_refused_on_every_route(app: Any, reached: list[str]) -> None:
    for target in ("GET /v1/me", "GET /v1/open", "GET /openapi.json", "GET /none"):
        assert 401 == (await request(app, target, headers=key("sk-bad"))).status
    assert [] == reached


async def test_a_route_that_asks_for_nobody_is_open_where_the_layer_lets_anonymous_callers_through(app: Any, reached: list[str]) -> None:
    assert 200 == (await request(app, "GET /v1/open")).status
    assert ["open"] == reached


async def test_a_route_with_starlettes_requires_works_too(app: Any, reached: list[str]) -> None:
    assert 403 == (await request(app, "GET /v1/required")).status
    assert 403 == (await request(app, "GET /v1/required", headers=key(PLAIN))).status
    response = await request(app, "GET /v1/required", headers=key(READER))
    assert {"subject": "ada", "state": "ada"} == response.json()
    assert ["required"] == reached


async def test_a_socket_route_knows_its_caller(app: Any, reached: list[str]) -> None:
    async with websocket(app, "/v1/socket", headers=key(READER)) as socket:
        assert "ada" == await socket.receive()
    assert ["socket"] == reached


@pytest.mark.parametrize(("headers", "status", "reason"), [([], 401, "missing_credential"), (key(PLAIN), 403, "insufficient_scope")])
async def test_a_socket_route_denies_in_a_whole_answer(app: Any, reached: list[str], headers: Any, status: int, reason: str) -> None:
    async with websocket(app, "/v1/socket", headers=headers) as socket:
        assert (status, reason) == (socket.response.status, socket.response.header("x-authmw-reason"))
        assert reason == socket.response.json()["error"]["code"]
    async with websocket(app, "/v1/socket", headers=headers, denial_response=False) as socket:
        assert not socket.accepted
        assert [{"type": "websocket.close", "code": 1008}] == socket.response.activity.sent
    assert [] == reached


async def test_without_a_layer_in_front_the_mistake_is_named(reached: list[str]) -> None:
    for headers in ([], key(READER)):
        with pytest.raises(ConfigurationError, match="CurrentPrincipal: needs an authentication layer") as caught:
            await request(routes(reached), "GET /v1/me", headers=headers)
        assert "CurrentPrincipal" == caught.value.option
        with pytest.raises(ConfigurationError, match="needs an authentication layer"):
            async with websocket(routes(reached), "/v1/socket", headers=headers):
                pass
    assert [] == reached


async def test_a_context_without_an_authentication_layer_is_not_enough(reached: list[str]) -> None:
    async def opens_a_context(scope: Any, receive: Any, send: Any) -> None:
        RequestContext.of(scope)
        await routes(reached)(scope, receive, send)

    with pytest.raises(ConfigurationError, match="needs an authentication layer"):
        await request(opens_a_context, "GET /v1/me")
    assert [] == reached


async def test_an_exception_handler_of_the_app_does_not_change_what_the_caller_is_told(reached: list[str]) -> None:
    api = routes(reached)

    async def hides(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"ok": True}, 200, headers={"set-cookie": "a=1"})

    api.add_exception_handler(HTTPException, hides)
    response = await request(KeyAuthMiddleware(api, keys=KEYS, required=False), "GET /v1/me")
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert response.header("set-cookie") is None


async def test_behind_two_runs_of_layers_the_denial_is_rendered_once(reached: list[str]) -> None:
    inner = FastAPI(middleware=[Middleware(KeyAuthMiddleware, keys=KEYS, required=False)])
    inner.mount("/in", routes(reached))
    app = Stack(Middleware(KeyAuthMiddleware, keys=KEYS, required=False))(inner)
    response = await request(app, "GET /in/v1/me")
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert 2 == len(response.activity.sent)
    assert {"subject": "ada"} == (await request(app, "GET /in/v1/me", headers=key(READER))).json()


async def test_an_error_of_the_apps_own_is_the_apps_own(reached: list[str]) -> None:
    api = routes(reached)

    @api.get("/v1/teapot")
    async def teapot(caller: CurrentPrincipal) -> None:
        raise HTTPException(418, "no coffee", headers={"x-own": "1"})

    response = await request(KeyAuthMiddleware(api, keys=KEYS), "GET /v1/teapot", headers=key(READER))
    assert (418, "1", {"detail": "no coffee"}) == (response.status, response.header("x-own"), response.json())


async def test_a_router_may_ask_for_a_caller_once_for_all_its_routes() -> None:
    router = APIRouter(dependencies=[Depends(current_caller)])

    @router.get("/v1/x")
    async def x() -> str:
        return "x"

    api = FastAPI()
    api.include_router(router)
    app = KeyAuthMiddleware(api, keys=KEYS, required=False)
    assert [401, 200] == [(await request(app, "GET /v1/x", headers=headers)).status for headers in ([], key(PLAIN))]


async def test_a_dependency_that_cleans_up_does_so_when_its_caller_is_denied() -> None:
    steps: list[str] = []

    async def resource() -> AsyncIterator[None]:
        steps.append("open")
        try:
            yield
        finally:
            steps.append("close")

    api = FastAPI()

    @api.get("/v1/x", dependencies=[Depends(resource)])
    async def x(caller: CurrentPrincipal) -> str:
        return "x"

    assert 401 == (await request(KeyAuthMiddleware(api, keys=KEYS, required=False), "GET /v1/x")).status
    assert ["open", "close"] == steps


async def test_copies_of_one_request_that_go_on_at_once_each_have_their_own_caller() -> None:
    api = FastAPI()
    waiting, go_on = anyio.Event(), anyio.Event()

    @api.get("/slow")
    async def slow(caller: CurrentPrincipal) -> str:
        return caller.subject

    @api.middleware("http")
    async def hold(request: Request, call_next: Any) -> Any:
        if request.url.path == "/slow":
            waiting.set()
            await go_on.wait()
        return await call_next(request)

    @api.get("/fast")
    async def fast(caller: CurrentPrincipal) -> str:
        return caller.subject

    guarded = KeyAuthMiddleware(api, keys=KEYS)
    answers: dict[str, bytes] = {}

    async def fan_out(scope: Any, receive: Any, send: Any) -> None:
        RequestContext.of(scope)

        async def one(path: str, headers: list[tuple[bytes, bytes]]) -> None:
            async def keep(message: Any) -> None:
                answers[path] = answers.get(path, b"") + message.get("body", b"")

            await guarded({**scope, "path": path, "raw_path": path.encode(), "headers": headers}, receive, keep)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "/slow", key(PLAIN))
            await waiting.wait()
            await one("/fast", key(READER))
            go_on.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    await request(fan_out, "GET /")
    assert {"/fast": b'"ada"', "/slow": b'"key:plain"'} == answers


def test_the_openapi_document_has_the_schemes_and_says_which_route_needs_them(reached: list[str]) -> None:
    document = routes(reached).openapi()
    schemes = document["components"]["securitySchemes"]
    assert {"BearerAuth", "ApiKeyAuth"} == set(schemes)
    assert ("http", "bearer") == (schemes["BearerAuth"]["type"], schemes["BearerAuth"]["scheme"])
    assert ("apiKey", "header", "x-api-key") == tuple(schemes["ApiKeyAuth"][field] for field in ("type", "in", "name"))
    security = {path: next(iter(operations.values())).get("security") for path, operations in document["paths"].items()}
    assert security["/v1/open"] is None
    assert {"BearerAuth", "ApiKeyAuth"} == {name for one in security["/v1/me"] for name in one}
    assert {"BearerAuth": ["llm:read"]} in security["/v1/read"]
    assert {"BearerAuth": ["llm:read", "llm:write"]} in security["/v1/messages"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "parameters" not in operation


async def test_somebody_elses_user_in_the_scope_is_not_taken_for_the_caller(reached: list[str]) -> None:
    async def puts_its_own_user(scope: Any, receive: Any, send: Any) -> None:
        await api({**scope, "user": "root"}, receive, send)

    api = routes(reached)
    guarded = KeyAuthMiddleware(puts_its_own_user, keys=KEYS, required=False)
    assert 401 == (await request(guarded, "GET /v1/me")).status
    assert {"subject": "ada"} == (await request(guarded, "GET /v1/me", headers=key(READER))).json()
