"""Who is calling is published where the frameworks look, and for this request only."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from litestar import Litestar, Request, get
from litestar import websocket as litestar_websocket
from litestar.connection import WebSocket as LitestarWebSocket
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket

from llm_authmw import ANONYMOUS, KeyAuthMiddleware, Principal, StaticKey, StaticKeys, current_principal
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
OTHER = "sk-ci-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"
HEADERS = [(b"x-api-key", KEY.encode())]


def guarded(app: Any, **options: Any) -> KeyAuthMiddleware:
    keys = StaticKeys({"ci": StaticKey(KEY, user="ada", scopes=["llm:read"]), "other": OTHER})
    return KeyAuthMiddleware(app, keys=keys, **options)


def seeing(look: Callable[[Any], Any]) -> tuple[list[Any], Callable[..., Awaitable[None]]]:
    """Return an app that looks at each of its scopes, and what it saw."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(look(scope))
        await Witness()(scope, receive, send)

    return seen, app


async def test_user_auth_state_and_the_context_variable_all_say_who_calls() -> None:
    seen, app = seeing(lambda scope: (scope["user"], scope["state"]["principal"], current_principal(), scope["auth"].scopes))
    await request(guarded(app), "GET /v1/models", headers=HEADERS)
    async with websocket(guarded(app), "/v1/realtime", headers=HEADERS):
        pass
    for user, state, current, scopes in seen:
        assert isinstance(user, Principal)
        assert ("ada", True, "ada", "default/keys/ada") == (user.subject, user.is_authenticated, user.display_name, user.identity)
        assert (user, user, ["llm:read"]) == (state, current, scopes)
    assert 2 == len(seen)


async def test_a_handler_that_adds_to_its_scopes_grants_nothing_to_the_next_request() -> None:
    seen, app = seeing(lambda scope: (list(scope["auth"].scopes), scope["auth"].scopes.append("admin")))
    layer = guarded(app, required=False)
    for _ in range(2):
        await request(layer, "GET /v1/models", headers=HEADERS)
        await request(layer, "GET /v1/models")
    assert [["llm:read"], [], ["llm:read"], []] == [before for before, _ in seen]


async def test_the_state_that_the_server_shares_is_copied_and_not_written_into() -> None:
    pool = object()
    shared: dict[str, Any] = {"pool": pool}
    seen, app = seeing(lambda scope: scope["state"])
    layer = guarded(app, required=False)
    await request(layer, "GET /v1/models", headers=HEADERS, scope={"state": shared})
    await request(layer, "GET /v1/models", scope={"state": shared})
    assert {"pool": pool} == shared
    assert [pool, pool] == [state["pool"] for state in seen]
    assert ["ada", "anonymous"] == [state["principal"].subject for state in seen]


async def test_what_somebody_outside_has_put_there_is_replaced() -> None:
    seen, app = seeing(lambda scope: (scope["user"], scope["auth"].scopes, scope["state"]["principal"]))
    planted = {"user": "root", "auth": "everything", "state": {"principal": "root"}}
    await request(guarded(app, required=False), "GET /v1/models", scope=planted)
    assert [(ANONYMOUS, [], ANONYMOUS)] == seen


async def test_the_context_variable_is_reset_when_the_request_is_over_whatever_its_end() -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        assert "ada" == current_principal().subject
        raise RuntimeError("the app failed")

    def nobody() -> None:
        with pytest.raises(LookupError, match="outside a request"):
            current_principal()

    scope = {"type": "http", "method": "GET", "path": "/", "headers": HEADERS, "query_string": b""}

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    nobody()
    with pytest.raises(RuntimeError, match="the app failed"):
        await guarded(raising)(scope, receive, send)
    nobody()
    await guarded(Witness())({**scope}, receive, send)
    nobody()
    await guarded(Witness())({**scope, "headers": []}, receive, send)
    nobody()


async def test_an_inner_request_gives_the_outer_one_its_principal_back() -> None:
    subjects: list[str] = []

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        subjects.append(current_principal().subject)
        inner = await request(guarded(Witness()), "GET /inner", headers=[(b"x-api-key", OTHER.encode())])
        subjects.extend((inner.json()["subject"], current_principal().subject))
        await Witness()(scope, receive, send)

    await request(guarded(outer), "GET /outer", headers=HEADERS)
    assert ["ada", "key:other", "ada"] == subjects


async def test_requests_at_the_same_time_each_have_their_own_caller() -> None:
    arrived, seen = anyio.Event(), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            await arrived.wait()
        else:
            arrived.set()
        seen.append(f"{scope['path']} {scope['user'].subject} {current_principal().subject}")
        await Witness()(scope, receive, send)

    layer = guarded(app)
    async with anyio.create_task_group() as tasks:

        async def first() -> None:
            await request(layer, "GET /first", headers=HEADERS)

        tasks.start_soon(first)
        await request(layer, "GET /second", headers=[(b"x-api-key", OTHER.encode())])
    assert {"/first ada ada", "/second key:other key:other"} == set(seen)


@requires("llm:read")
async def scoped(request: StarletteRequest) -> JSONResponse:
    return JSONResponse({"user": request.user.display_name, "state": request.state.principal.subject, "scopes": request.auth.scopes})


@requires("llm:write")
async def more_scoped(request: StarletteRequest) -> JSONResponse:
    return JSONResponse({})


async def socket_endpoint(socket: StarletteWebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.user.display_name)
    await socket.close()


async def test_starlette_sees_the_caller_and_its_requires_works() -> None:
    app = guarded(
        Starlette(routes=[Route("/read", scoped), Route("/write", more_scoped), WebSocketRoute("/socket", socket_endpoint)]), required=False
    )
    response = await request(app, "GET /read", headers=HEADERS)
    assert {"user": "ada", "state": "ada", "scopes": ["llm:read"]} == response.json()
    assert 403 == (await request(app, "GET /write", headers=HEADERS)).status
    assert 403 == (await request(app, "GET /read")).status
    assert 403 == (await request(app, "GET /read", headers=[(b"x-api-key", OTHER.encode())])).status
    async with websocket(app, "/socket", headers=HEADERS) as socket:
        assert "ada" == await socket.receive()


@get("/me")
async def me(request: Request[Principal, Any, Any]) -> dict[str, Any]:
    return {"user": request.user.subject, "scopes": list(request.auth.scopes)}


@litestar_websocket("/socket")
async def me_by_socket(socket: LitestarWebSocket[Principal, Any, Any]) -> None:
    await socket.accept()
    await socket.send_text(socket.user.subject)
    await socket.close()


async def test_litestar_sees_the_caller() -> None:
    app = guarded(Litestar([me, me_by_socket], openapi_config=None))
    assert {"user": "ada", "scopes": ["llm:read"]} == (await request(app, "GET /me", headers=HEADERS)).json()
    async with websocket(app, "/socket", headers=HEADERS) as socket:
        assert "ada" == await socket.receive()
