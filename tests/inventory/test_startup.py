"""A router of policies takes the inventory when its app has started, or at the first request where no lifespan arrives."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Policy, PolicyRouter, Stack, StaticKeys
from llm_authmw.inventory import route_inventory
from llm_authmw.testing import LifespanFailed, lifespan, request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
HEADERS = [(b"x-api-key", KEY.encode())]
POLICIES = [Policy("/v1/**", Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))), Policy("GET /health", public=True)]


async def answer(_: Request) -> Response:
    return PlainTextResponse("here")


def chat() -> Route:
    return Route("/v1/chat/completions", answer, methods=["POST"])


class Lifecycle:
    """What an app's lifespan did, and what it adds to the app."""

    def __init__(self, *added: Route) -> None:
        self.log: list[str] = []
        self._added = added

    @asynccontextmanager
    async def __call__(self, app: Starlette) -> AsyncGenerator[None]:
        self.log.append("started")
        app.router.routes.extend(self._added)
        yield
        self.log.append("stopped")


@pytest.mark.parametrize("mode", ["ERROR", "errors", "", None, True])
def test_a_mode_that_there_is_none_of_is_refused(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match="'error', 'warn' or 'off'") as caught:
        PolicyRouter(Witness(), policies=POLICIES, inventory=mode)
    assert "inventory" == caught.value.option


async def test_an_app_with_an_error_does_not_start_and_the_server_is_told_why() -> None:
    life = Lifecycle(chat())
    guarded = PolicyRouter(Starlette(lifespan=life), policies=POLICIES)

    with pytest.raises(LifespanFailed, match=r"POST /v1/chat/completions: reaches a model .*\(model_unguarded\)"):
        async with lifespan(guarded):
            pass

    assert ["started", "stopped"] == life.log


async def test_routes_that_the_app_adds_as_it_starts_are_in_the_inventory_and_those_before_are_fine() -> None:
    life = Lifecycle(Route("/v1/one", answer))

    async with lifespan(PolicyRouter(Starlette(lifespan=life), policies=POLICIES)):
        assert ["started"] == life.log
    assert ["started", "stopped"] == life.log


async def test_an_app_without_a_lifespan_is_looked_into_all_the_same() -> None:
    class Bare:
        """Starlette's routes, and no lifespan."""

        def __init__(self, *routes: Route) -> None:
            self.app = Starlette(routes=routes)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                raise NotImplementedError
            await self.app(scope, receive, send)

    async with lifespan(PolicyRouter(Bare(), policies=POLICIES)):
        pass
    with pytest.raises(LifespanFailed, match="model_unguarded"):
        async with lifespan(PolicyRouter(Bare(chat()), policies=POLICIES)):
            pass


async def test_without_a_lifespan_the_first_request_finds_out_and_every_one_is_denied() -> None:
    ran: list[str] = []

    async def handler(_: Request) -> Response:
        ran.append("ran")
        return PlainTextResponse("here")

    mounted = Starlette(routes=[chat(), Route("/v1/one", handler), Route("/health", handler)])
    app = Starlette(routes=[Mount("/sub", PolicyRouter(mounted, policies=POLICIES))])

    for target, headers in (("GET /sub/v1/one", HEADERS), ("GET /sub/health", []), ("GET /sub/v1/one", HEADERS)):
        denied = await request(app, target, headers=headers)
        assert (503, "authorization_unavailable") == (denied.status, denied.header("x-authmw-reason"))
    async with websocket(app, "/sub/v1/one", headers=HEADERS) as socket:
        assert 503 == socket.response.status
    assert [] == ran


async def test_the_inventory_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def counted(app: Any) -> Any:
        taken.append(app)
        return real(app)

    real = route_inventory
    monkeypatch.setattr("llm_authmw.inventory.startup.route_inventory", counted)
    guarded = PolicyRouter(Starlette(routes=[Route("/v1/one", answer)]), policies=POLICIES)

    for _ in range(3):
        assert 200 == (await request(guarded, "GET /v1/one", headers=HEADERS)).status
    assert [guarded] == taken


async def test_where_errors_are_only_logged_the_app_runs(caplog: pytest.LogCaptureFixture) -> None:
    guarded = PolicyRouter(Starlette(routes=[chat()]), policies=POLICIES, inventory="warn")

    with caplog.at_level(logging.WARNING, "llm_authmw"):
        async with lifespan(guarded):
            assert 200 == (await request(guarded, "POST /v1/chat/completions", headers=HEADERS)).status

    (record,) = caplog.records
    assert "WARNING" == record.levelname
    assert record.getMessage().startswith("error: POST /v1/chat/completions: reaches a model")


async def test_warnings_are_logged_and_notes_are_not(caplog: pytest.LogCaptureFixture) -> None:
    guarded = PolicyRouter(Starlette(routes=[Mount("/v1/other", Witness()), Route("/two", answer)]), policies=POLICIES)

    with caplog.at_level(logging.INFO, "llm_authmw"):
        async with lifespan(guarded):
            pass

    assert ["* /v1/other/**"] == [record.getMessage().split(": ")[1] for record in caplog.records]


async def test_where_it_is_off_nothing_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    guarded = PolicyRouter(Starlette(routes=[chat()]), policies=POLICIES, inventory="off")

    with caplog.at_level(logging.INFO, "llm_authmw"):
        async with lifespan(guarded):
            assert 200 == (await request(guarded, "POST /v1/chat/completions", headers=HEADERS)).status

    assert [] == caplog.records


async def test_a_router_in_a_stack_stops_what_the_stack_has_started() -> None:
    life = Lifecycle(chat())
    stack = Stack(Middleware(PolicyRouter, policies=POLICIES))

    with pytest.raises(LifespanFailed, match="model_unguarded"):
        async with lifespan(stack(Starlette(lifespan=life))):
            pass
    assert ["started", "stopped"] == life.log


async def test_an_app_that_fails_to_stop_is_refused_for_its_routes_all_the_same() -> None:
    @asynccontextmanager
    async def broken(_: Starlette) -> AsyncGenerator[None]:
        yield
        raise RuntimeError("no way out")

    with pytest.raises(LifespanFailed, match="model_unguarded"):
        async with lifespan(PolicyRouter(Starlette(routes=[chat()], lifespan=broken), policies=POLICIES)):
            pass


async def test_an_app_that_does_not_start_says_so_itself() -> None:
    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncGenerator[None]:
        if app.routes:
            raise RuntimeError("no way in")
        yield

    with pytest.raises(LifespanFailed, match="no way in"):
        async with lifespan(PolicyRouter(Starlette(routes=[chat()], lifespan=broken), policies=POLICIES)):
            pass
