"""Ways around a layer by way of where it stands. The whole table is in tests/test_placements.py; these are the holes that
weaker rules had, each with a name.
"""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, Router, WebSocketRoute

from llm_authmw import Assurance, ConfigurationError, Denial, KeyAuthMiddleware, Principal, RequestContext, Stack, StaticKeys
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import CONTEXT_KEY, publish
from llm_authmw.testing import fake_principal, request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
STAFF = "sk-staff-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"
KEYS = StaticKeys({"ci": KEY})
STAFF_KEYS = StaticKeys({"boss": STAFF})


def key(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {text}".encode())]


class Foreign:
    """A foreign layer with the attribute that a rule which looks further in would follow."""

    def __init__(self, app: Any, *, reached: list[str] | None = None, second: Any = None) -> None:
        self.app = app
        self.reached = [] if reached is None else reached
        self.second = second

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        await (self.second if self.second is not None and scope["path"] == "/second" else self.app)(scope, receive, send)


class Looking(AuthenticationLayer):
    """A layer that is never satisfied."""

    challenge = "Never"

    async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
        return None


async def test_an_optional_layer_further_in_does_not_answer_for_a_required_one_outside() -> None:
    """Looking inwards for "some authentication layer" let anonymous callers through here."""
    app = Witness()
    inner = Router([Mount("/", KeyAuthMiddleware(app, keys=KEYS, required=False))])
    outer = KeyAuthMiddleware(Foreign(inner), keys=KEYS)
    assert 401 == (await request(outer, "GET /x")).status
    assert [] == app.scopes


def test_a_dispatcher_with_an_app_attribute_and_a_second_app_is_no_neighbour() -> None:
    """The second app was reached without a credential, since the first one has a layer of its own."""
    with pytest.raises(ConfigurationError, match="something foreign stands between"):
        KeyAuthMiddleware(Foreign(KeyAuthMiddleware(Witness(), keys=KEYS), second=Witness()), keys=STAFF_KEYS)


async def test_a_dispatcher_that_hides_its_apps_is_reached_by_nobody_without_a_credential() -> None:
    first, second, reached = Witness(), Witness(), list[str]()
    dispatcher = Foreign(Router([Mount("/", KeyAuthMiddleware(first, keys=KEYS, required=False))]), reached=reached, second=second)
    outer = KeyAuthMiddleware(dispatcher, keys=KEYS)
    for path in ("/second", "/x"):
        assert 401 == (await request(outer, f"GET {path}")).status
        async with websocket(outer, path) as socket:
            assert not socket.accepted
    assert ([], [], []) == (first.scopes, second.scopes, reached)


async def test_a_cache_in_between_answers_nobody_whom_the_layer_in_front_has_not_let_in() -> None:
    app, reached = Witness(), list[str]()
    cache = Foreign(Router([Mount("/", KeyAuthMiddleware(app, keys=KEYS))]), reached=reached)
    assert 401 == (await request(KeyAuthMiddleware(cache, keys=STAFF_KEYS), "GET /x", headers=key(KEY))).status
    assert 401 == (await request(KeyAuthMiddleware(cache, keys=STAFF_KEYS), "GET /x")).status
    assert ([], []) == (app.scopes, reached)


async def test_a_key_that_got_through_outside_is_no_way_into_a_mount_that_wants_another() -> None:
    app, staff = Witness(), Witness()
    routes = [Mount("/staff", staff, middleware=[Middleware(KeyAuthMiddleware, keys=STAFF_KEYS)]), Mount("/", app)]
    site = Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(Starlette(routes=routes))
    assert 200 == (await request(site, "GET /x", headers=key(KEY))).status
    for path in ("/staff/x", "/staff/"):
        assert 401 == (await request(site, f"GET {path}", headers=key(KEY))).status
        async with websocket(site, path, headers=key(KEY)) as socket:
            assert not socket.accepted
    assert [] == staff.scopes


async def test_what_an_outer_run_left_in_the_scope_is_not_taken_over_by_an_inner_one() -> None:
    """Not even where somebody in between has published a caller, or opened the context, himself."""

    class Planting(Foreign):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            boss = fake_principal(user="boss", roles=["proxy_admin"])
            scope[CONTEXT_KEY] = RequestContext(principal=boss)
            publish(scope, boss)
            await self.app(scope, receive, send)

    app = Witness()
    for required in (True, False):
        inner = KeyAuthMiddleware(app, keys=KEYS, required=required)
        response = await request(Planting(inner), "GET /x")
        assert (401 if required else 200) == response.status
    assert ["anonymous"] == app.subjects


async def test_a_layer_that_is_never_satisfied_lets_nobody_in_wherever_it_stands() -> None:
    app = Witness()
    for guarded in (Looking(app), Looking(KeyAuthMiddleware(app, keys=KEYS)), KeyAuthMiddleware(Looking(app), keys=KEYS)):
        assert 401 == (await request(guarded, "GET /x")).status
    assert [] == app.scopes


async def test_a_route_beside_a_guarded_one_is_guarded_only_by_what_stands_in_front_of_both() -> None:
    """vLLM 58144, 42591 and their kin: a prefix guard that misses a new route. A stack around the app misses none."""
    app = Witness()
    routes = [Route("/v1/models", app), Route("/invocations", app), Route("/v2/embed", app), WebSocketRoute("/v1/realtime", app)]
    site = Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(Starlette(routes=routes))
    for path in ("/v1/models", "/invocations", "/v2/embed", "/no/such/route"):
        assert 401 == (await request(site, f"GET {path}")).status
        assert 401 == (await request(site, f"POST {path}")).status
    async with websocket(site, "/v1/realtime") as socket:
        assert not socket.accepted
    assert [] == app.scopes


async def test_a_layer_in_front_of_one_app_does_not_remember_a_caller_for_another() -> None:
    apps = [Witness(), Witness()]
    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS))
    first, second = (stack(app) for app in apps)
    assert 200 == (await request(first, "GET /x", headers=key(KEY))).status
    assert 401 == (await request(second, "GET /x")).status
    assert 401 == (await request(first, "GET /x")).status
    assert [1, 0] == [len(app.scopes) for app in apps]


async def test_a_subclass_of_a_layer_cannot_let_somebody_in_by_returning_what_is_no_principal() -> None:
    app = Witness()

    class Anybody(AuthenticationLayer):
        challenge = "Anybody"

        async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Any:
            return outcomes[0]

    outcomes: list[Any] = [True, "root", {"user": "root"}, object(), Principal]
    while outcomes:
        response = await request(Anybody(app), "GET /x")
        assert (503, "store_unavailable") == (response.status, response.header("x-authmw-reason"))
        outcomes.pop(0)
    assert [] == app.scopes


async def test_a_principal_that_is_nobody_does_not_satisfy_a_required_layer() -> None:
    app = Witness()

    class Nobody(AuthenticationLayer):
        challenge = "Nobody"

        async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
            return Principal(tenant="blue", roles=("admin",), assurance=Assurance.BOUND)

    for guarded in (Nobody(app), Nobody(app, required=False), Nobody(KeyAuthMiddleware(app, keys=KEYS, required=False))):
        response = await request(guarded, "GET /x")
        assert (503, "store_unavailable") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
