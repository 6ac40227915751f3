"""Authentication layers side by side decide together; see also tests/test_placements.py."""

from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route, Router

from llm_authmw import (
    ConfigurationError,
    Decision,
    Denial,
    KeyAuthMiddleware,
    Principal,
    RequestContext,
    Stack,
    StaticKeys,
    TrustedProxies,
)
from llm_authmw.authn.run import Run
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import Response, stream, websocket
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
HEADER = (b"x-api-key", KEY.encode())


async def ask(app: Any, *headers: tuple[bytes, bytes], target: str = "GET /v1/models") -> tuple[Response, list[Decision]]:
    async with stream(app, target, headers=headers) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY].decisions


@pytest.mark.parametrize("keys_first", [True, False])
async def test_the_last_layer_denies_with_the_challenges_of_all(keys_first: bool) -> None:
    app = Witness()
    guarded: Any = KeyAuthMiddleware(TicketLayer(app), keys=KEYS) if keys_first else TicketLayer(KeyAuthMiddleware(app, keys=KEYS))
    response, decisions = await ask(guarded)
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    expected = ["Bearer", "Ticket"] if keys_first else ["Ticket", "Bearer"]
    assert expected == response.header_lines("www-authenticate")
    assert ["passed", "passed", "denied"] == [decision.outcome for decision in decisions]
    assert [] == app.scopes


@pytest.mark.parametrize("keys_first", [True, False])
async def test_a_layer_that_finds_its_own_credential_bad_denies_with_its_own_challenge_too(keys_first: bool) -> None:
    app = Witness()
    guarded: Any = KeyAuthMiddleware(TicketLayer(app), keys=KEYS) if keys_first else TicketLayer(KeyAuthMiddleware(app, keys=KEYS))
    response, decisions = await ask(guarded, (b"x-ticket", b"forged"))
    assert 401 == response.status
    assert "Ticket" in response.header_lines("www-authenticate")
    assert "TicketLayer" == decisions[-1].layer
    response, decisions = await ask(guarded, (b"x-api-key", b"sk-garbage"))
    assert 401 == response.status
    assert 'Bearer error="invalid_token"' in response.header_lines("www-authenticate")
    assert "KeyAuthMiddleware" == decisions[-1].layer
    assert [] == app.scopes


@pytest.mark.parametrize("keys_first", [True, False])
async def test_either_credential_satisfies_a_run_of_two_required_layers(keys_first: bool) -> None:
    app = Witness()
    guarded: Any = KeyAuthMiddleware(TicketLayer(app), keys=KEYS) if keys_first else TicketLayer(KeyAuthMiddleware(app, keys=KEYS))
    assert 200 == (await ask(guarded, HEADER))[0].status
    _, decisions = await ask(guarded, (b"x-ticket", b"good-ada"))
    assert ["key:ci", "ada"] == app.subjects
    assert {"allowed", "passed"} == {decision.outcome for decision in decisions}
    for both in ([HEADER, (b"x-ticket", b"good-ada")], [(b"x-ticket", b"forged"), HEADER]):
        assert 400 == (await ask(guarded, *both))[0].status
    assert 2 == len(app.scopes)


@pytest.mark.parametrize(("first", "second", "status"), [(True, True, 401), (True, False, 401), (False, True, 401), (False, False, 200)])
async def test_anonymous_callers_get_through_only_where_no_layer_of_the_run_requires_anybody(
    first: bool, second: bool, status: int
) -> None:
    app = Witness()
    guarded = KeyAuthMiddleware(TicketLayer(app, required=second), keys=KEYS, required=first)
    assert status == (await ask(guarded))[0].status
    async with websocket(guarded, "/v1/realtime") as socket:
        assert (status == 200) == socket.accepted
    assert (["anonymous"] * 2 if status == 200 else []) == app.subjects


@pytest.mark.parametrize("sent", [(b"authorization", b"Basic YTpi"), (b"authorization", b"Bearer garbage"), (b"x-ticket", b"forged")])
async def test_a_bad_credential_is_not_anonymous_where_nobody_is_required(sent: tuple[bytes, bytes]) -> None:
    app = Witness()
    guarded = KeyAuthMiddleware(TicketLayer(app, required=False), keys=KEYS, required=False)
    assert 401 == (await ask(guarded, sent))[0].status
    assert [] == app.scopes


async def test_the_query_parameter_of_one_layer_carries_no_credential_of_another() -> None:
    app = Witness()
    guarded = KeyAuthMiddleware(TicketLayer(app, query_parameter="ticket"), keys=KEYS)
    response, decisions = await ask(guarded, target=f"GET /v1/models?ticket={KEY}")
    assert (401, "invalid_token") == (response.status, response.header("x-authmw-reason"))
    assert ("TicketLayer", "denied") == (decisions[-1].layer, decisions[-1].outcome)
    assert [] == app.scopes
    assert 200 == (await ask(guarded, target="GET /v1/models?ticket=good-ada"))[0].status
    assert ["ada"] == app.subjects


async def test_the_header_of_one_layer_carries_no_credential_of_another() -> None:
    app = Witness()
    for guarded in (KeyAuthMiddleware(TicketLayer(app), keys=KEYS), TicketLayer(KeyAuthMiddleware(app, keys=KEYS))):
        assert 401 == (await ask(guarded, (b"x-ticket", KEY.encode())))[0].status
        assert 401 == (await ask(guarded, (b"x-api-key", b"good-ada")))[0].status
    assert [] == app.scopes


async def test_copies_of_one_request_that_go_on_at_once_do_not_share_a_run() -> None:
    """Somebody outside sends two copies of a scope on at the same time, with one context of ours in both."""
    app = Witness()
    waiting, go_on = anyio.Event(), anyio.Event()

    class Slow(TicketLayer):
        async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
            if scope["path"] == "/slow":
                waiting.set()
                await go_on.wait()
            return await super().authenticate(scope, context, run)

    guarded = Slow(KeyAuthMiddleware(app, keys=KEYS, required=False))
    statuses: dict[str, int] = {}
    no_headers: list[Any] = []

    async def fan_out(scope: Any, receive: Any, send: Any) -> None:
        RequestContext.of(scope)

        async def one(path: str, headers: list[Any]) -> None:
            async def keep(message: Any) -> None:
                statuses.setdefault(path, message.get("status", 0))

            await guarded({**scope, "path": path, "headers": headers}, receive, keep)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "/slow", no_headers)
            await waiting.wait()
            await one("/fast", [HEADER])
            go_on.set()
        await Witness()(scope, receive, send)

    await ask(fan_out)
    assert {"/fast": 200, "/slow": 401} == statuses
    assert ["/fast"] == [scope["path"] for scope in app.scopes]


async def test_a_scope_that_is_sent_in_twice_is_judged_twice() -> None:
    app = Witness()
    guarded = KeyAuthMiddleware(TicketLayer(app), keys=KEYS)

    async def again(scope: Any, receive: Any, send: Any) -> None:
        async def ignore(message: Any) -> None: ...

        await guarded(scope, receive, ignore)
        scope["headers"] = []
        await guarded(scope, receive, send)

    assert 401 == (await ask(again, HEADER))[0].status
    assert 1 == len(app.scopes)


async def test_an_app_cannot_go_back_into_the_middle_of_a_run() -> None:
    """What the outer layer has decided is used up: the inner one, called once more from inside, decides anew."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def keep(message: Any) -> None:
            statuses.append(message.get("status", 0))

        if not statuses:
            statuses.append(0)
            await inner({**scope, "headers": []}, receive, keep)
        await Witness()(scope, receive, send)

    inner = TicketLayer(app)
    assert 200 == (await ask(KeyAuthMiddleware(inner, keys=KEYS), HEADER))[0].status
    assert 401 == statuses[1]


def test_something_foreign_between_two_layers_is_refused() -> None:
    inner = TicketLayer(Witness())
    for foreign in (
        GZipMiddleware(inner),
        GZipMiddleware(GZipMiddleware(inner)),
        GZipMiddleware(Stack(Middleware(TicketLayer))(Witness())),
    ):
        with pytest.raises(ConfigurationError, match="something foreign stands between it and TicketLayer"):
            KeyAuthMiddleware(foreign, keys=KEYS)


def test_two_layers_of_one_kind_side_by_side_are_refused() -> None:
    inner = KeyAuthMiddleware(Witness(), keys=KEYS)
    for app in (inner, TicketLayer(inner), Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(Witness())):
        with pytest.raises(ConfigurationError, match="two KeyAuthMiddleware stand side by side"):
            KeyAuthMiddleware(app, keys=KEYS)


def test_cors_inside_authentication_is_refused() -> None:
    for app in (CORSMiddleware(Witness()), GZipMiddleware(CORSMiddleware(Witness()))):
        with pytest.raises(ConfigurationError, match="CORSMiddleware stands inside"):
            KeyAuthMiddleware(app, keys=KEYS)


def test_two_settings_of_trusted_proxies_in_a_run_are_refused() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    with pytest.raises(ConfigurationError, match="trusted_proxies: is given to KeyAuthMiddleware and to TicketLayer"):
        KeyAuthMiddleware(TicketLayer(Witness(), trusted_proxies=proxies), keys=KEYS, trusted_proxies=proxies)


def test_a_mount_or_a_router_begins_an_app_of_its_own() -> None:
    inner = KeyAuthMiddleware(Witness(), keys=KEYS)
    for app in (Mount("/staff", inner), Router([Mount("/staff", inner)]), GZipMiddleware(Router([Route("/x", inner)]))):
        assert KeyAuthMiddleware(app, keys=KEYS).neighbour is None


def test_a_chain_of_apps_that_never_ends_is_looked_into_only_so_far() -> None:
    class Endless:
        @property
        def app(self) -> "Endless":
            return self

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    assert KeyAuthMiddleware(Endless(), keys=KEYS).neighbour is None
