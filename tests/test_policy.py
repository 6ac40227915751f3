import copy
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import pytest
from fastapi import FastAPI, Security
from litestar import Litestar, get
from litestar.connection import Request as LitestarRequest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from llm_authmw import (
    ConfigurationError,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Principal,
    RequestContext,
    Stack,
    StaticKeys,
    Store,
    TrustedProxies,
    UpstreamCredentialMiddleware,
    current_principal,
    open_store,
)
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.proof import SharedSecret
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.context import CONTEXT_KEY, Decision
from llm_authmw.fastapi import current_caller
from llm_authmw.identity import IdentitySource, ReadsIdentity
from llm_authmw.testing import lifespan, request, websocket
from llm_authmw.testing.asgi import http_scope
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
KEYS: Final = StaticKeys({"ci": KEY})
GOOD_KEY = (b"x-api-key", KEY.encode())
GOOD_TICKET = (b"x-ticket", b"good-ada")
PROXIES: Final = TrustedProxies(["10.0.0.0/8"])


class Reader(ReadsIdentity):
    """A layer that decides by who is calling: somebody may, nobody may not."""

    def __init__(self, app: Any, *, told: list[Any] | None = None) -> None:
        self.app, self._told = app, told

    def check_identity(self, sources: Any, *, whole: bool) -> None:
        if self._told is not None:
            self._told.append(([source.method for source in sources], whole))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            assert scope[CONTEXT_KEY].principal.is_authenticated
        await self.app(scope, receive, send)


def keys(**options: Any) -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=KEYS, **options)


def trusting(*names: str, proof: str = "x-proxy-proof") -> Middleware:
    headers = HeaderMap(user=names[0])
    return Middleware(HeaderTrustMiddleware, realm="corp", headers=headers, proof=SharedSecret(header=proof, secret=SECRET))


BY_KEY: Final = Stack(keys())
BY_TICKET: Final = Stack(Middleware(TicketLayer))
READING: Final = Stack(Middleware(Reader))


def policies() -> list[Policy]:
    return [
        Policy("/v1/**", BY_KEY),
        Policy("GET /health", public=True),
        Policy(["/admin", "/admin/**"], BY_TICKET, name="staff"),
        Policy("/v1/tickets/**", Stack(keys(required=False), Middleware(TicketLayer, required=False))),
    ]


class TestPolicies:
    @pytest.mark.parametrize(
        "route", ["health", "", "GET", "get /health", "GET  /health", "/a*", "/a/**/b", "/v1//x", "/a?b", [], [""], 7, None]
    )
    def test_a_route_that_is_none_is_refused(self, route: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Policy(route, BY_KEY)
        assert "route" == caught.value.option

    @pytest.mark.parametrize("route", ["/health", "GET /health/*", "GET /health/**", "*", "GET /**", "/**", ["GET /health", "GET /*"]])
    def test_what_is_public_names_its_methods_and_has_no_wildcard(self, route: Any) -> None:
        with pytest.raises(ConfigurationError, match="such as 'GET /health'") as caught:
            Policy(route, public=True)
        assert "public" == caught.value.option

    @pytest.mark.parametrize(
        ("options", "word"), [({}, "neither"), ({"stack": BY_KEY, "public": True}, "both"), ({"public": False}, "neither")]
    )
    def test_a_policy_has_a_stack_or_is_public(self, options: dict[str, Any], word: str) -> None:
        with pytest.raises(ConfigurationError, match=word) as caught:
            Policy("GET /health", **options)
        assert "public" == caught.value.option

    @pytest.mark.parametrize(
        ("options", "option"),
        [
            ({"stack": [keys()]}, "stack"),
            ({"stack": KeyAuthMiddleware}, "stack"),
            ({"stack": BY_KEY(Witness())}, "stack"),
            ({"public": "yes"}, "public"),
            ({"public": 1}, "public"),
            ({"stack": BY_KEY, "name": ""}, "name"),
            ({"stack": BY_KEY, "name": "a\nb"}, "name"),
            ({"stack": BY_KEY, "name": 7}, "name"),
        ],
    )
    def test_a_wrong_option_is_refused(self, options: dict[str, Any], option: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Policy("GET /health", **options)
        assert option == caught.value.option

    def test_a_policy_is_called_by_its_routes_unless_it_has_a_name(self) -> None:
        assert "GET /a, GET /b" == Policy(["GET /a", "GET /b"], public=True).name
        assert "health" == Policy("GET /a", public=True, name="health").name

    def test_a_policy_prints_as_it_was_written(self) -> None:
        assert "Policy('GET /a', public=True)" == repr(Policy("GET /a", public=True))
        assert f"Policy(['/a', '/b'], {BY_KEY!r}, name='both')" == repr(Policy(["/a", "/b"], BY_KEY, name="both"))


class TestConstruction:
    @pytest.mark.parametrize("given", [[], (), None, Policy("/v1/**", BY_KEY), "GET /health", [("/v1/**", BY_KEY)], {"/v1/**": BY_KEY}])
    def test_what_is_no_list_of_policies_is_refused(self, given: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            PolicyRouter(Witness(), policies=given)
        assert "policies" == caught.value.option

    @pytest.mark.parametrize(
        ("one", "other", "example"),
        [
            ("GET /a/*", "/a/b", "GET /a/b"),
            ("/a/*/c", "/a/b/*", "GET /a/b/c"),
            ("POST,PUT /a", "POST,GET /a", "POST /a"),
            ("/**", "*", "GET /"),
            ("GET /v1/**", "/v1/chat/**", "GET /v1/chat"),
            ("/a/**", "/*/b", "GET /a/b"),
            ("WS /rt", "GET,WS /rt", None),
            ("/a", "/a/", None),
            ("GET /a/b", "/a/*", None),
        ],
    )
    def test_two_policies_that_overlap_and_neither_of_which_is_more_specific_are_refused(
        self, one: str, other: str, example: str | None
    ) -> None:
        for first, second in ((one, other), (other, one)):
            given = [Policy(first, BY_KEY, name="first"), Policy(second, BY_TICKET, name="second")]
            if example is None:
                PolicyRouter(Witness(), policies=given)
                continue
            with pytest.raises(ConfigurationError) as caught:
                PolicyRouter(Witness(), policies=given)
            assert "policies" == caught.value.option
            assert f"'first' and 'second' both cover {example}, and neither" in str(caught.value)

    def test_a_third_policy_for_what_two_others_share_does_not_settle_which_of_them_decides(self) -> None:
        given = [Policy("GET /a/*", BY_KEY), Policy("/a/b", BY_TICKET), Policy("GET /a/b", READING)]
        with pytest.raises(ConfigurationError, match="both cover GET /a/b"):
            PolicyRouter(Witness(), policies=given)

    def test_routes_of_one_policy_may_overlap(self) -> None:
        router = PolicyRouter(Witness(), policies=[Policy(["GET /a/*", "/a/b"], BY_KEY, name="a"), Policy("/**", BY_TICKET)])
        assert ["a", "a", "/**"] == [policy.name for path in ("/a/b", "/a/c", "/c") if (policy := router.find("GET", path))]

    @pytest.mark.parametrize(
        ("covered", "others"),
        [
            ("GET,POST /a", ["GET /a", "POST /a"]),
            ("GET /a/**", ["GET /a", "GET /a/", "GET /a/*", "GET /a/*/", "GET /a/*/*/**"]),
            ("GET /a/**", ["GET /a", "GET /a/", "GET /a/*/**"]),
        ],
    )
    def test_a_policy_that_can_never_decide_is_refused(self, covered: str, others: list[str]) -> None:
        rest = [Policy(route, BY_TICKET, name=f"{number}") for number, route in enumerate(others)]
        with pytest.raises(ConfigurationError) as caught:
            PolicyRouter(Witness(), policies=[Policy(covered, BY_KEY), *rest])
        assert f"no request comes to {covered} of {covered!r}" in str(caught.value)

    def test_two_policies_that_only_a_slash_behind_a_wildcard_tells_apart_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="no request comes to"):
            PolicyRouter(Witness(), policies=[Policy("/a/*", BY_KEY), Policy("/a/*/", BY_TICKET)])

    def test_what_leaves_a_policy_any_request_is_not_refused(self) -> None:
        for others in (["GET /a"], ["GET /a", "GET /a/*"], ["GET /a/*/**"], ["GET /a", "GET /a/", "GET /a/*/*/**"]):
            PolicyRouter(Witness(), policies=[Policy("GET /a/**", BY_KEY), *(Policy(route, BY_TICKET) for route in others)])

    def test_two_policies_of_one_name_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="two that are called 'x'"):
            PolicyRouter(Witness(), policies=[Policy("/a", BY_KEY, name="x"), Policy("/b", BY_KEY, name="x")])

    @pytest.mark.parametrize("layers", [[Middleware(GZipMiddleware)], [Middleware(CORSMiddleware)], [Stack(Middleware(GZipMiddleware))]])
    def test_a_stack_in_which_nobody_asks_who_is_calling_is_not_a_way_to_be_public(self, layers: list[Any]) -> None:
        with pytest.raises(ConfigurationError, match="lets everybody in") as caught:
            PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(*layers))])
        assert "stack" == caught.value.option

    def test_policies_that_trust_other_proxies_are_refused(self) -> None:
        same = [Policy(f"/{name}", Stack(keys(), trusted_proxies=PROXIES)) for name in "ab"]
        assert PROXIES is PolicyRouter(Witness(), policies=[*same, Policy("/c", BY_KEY)]).trusted_proxies
        other = Policy("/c", Stack(keys(), trusted_proxies=TrustedProxies(["192.0.2.0/24"])))
        with pytest.raises(ConfigurationError, match="give one to a Stack around") as caught:
            PolicyRouter(Witness(), policies=[*same, other])
        assert "trusted_proxies" == caught.value.option
        with pytest.raises(ConfigurationError, match="give it to the Stack"):
            Stack(Middleware(PolicyRouter, policies=same), trusted_proxies=PROXIES)

    def test_policies_that_trust_two_spellings_of_one_header_are_refused(self) -> None:
        given = [Policy("/a", Stack(trusting("x-user"))), Policy("/b", Stack(trusting("x_user")))]
        with pytest.raises(ConfigurationError, match="spellings of one name"):
            PolicyRouter(Witness(), policies=given)

    def test_each_stack_is_composed_once_around_the_one_app(self) -> None:
        built: list[Any] = []

        class Counted(Reader):
            def __init__(self, app: Any) -> None:
                super().__init__(app)
                built.append(app)

        stack = Stack(Middleware(Counted))
        app = Witness()
        PolicyRouter(app, policies=[Policy("/a", stack), Policy("/b", stack)])
        assert [app, app] == built[1:]


class TestLayersAround:
    @pytest.mark.parametrize("policy", [Policy("/v1/**", BY_KEY), Policy("GET /health", public=True), Policy("/v1/**", Stack(BY_TICKET))])
    def test_an_authentication_layer_outside_of_policies_that_authenticate_or_are_public_is_refused(self, policy: Policy) -> None:
        router = Middleware(PolicyRouter, policies=[policy, Policy("/x", READING)])
        for between in ([], [Middleware(GZipMiddleware)]):
            with pytest.raises(ConfigurationError):
                Stack(keys(), *between, router)
            with pytest.raises(ConfigurationError):
                Stack(Stack(keys()), *between, Stack(router))

    @pytest.mark.parametrize("policy", [Policy("/v1/**", BY_KEY), Policy("GET /health", public=True)])
    def test_who_puts_it_there_is_told_to_put_it_into_the_policies(self, policy: Policy) -> None:
        with pytest.raises(ConfigurationError, match="put the layer into the policies' stacks") as caught:
            KeyAuthMiddleware(PolicyRouter(Witness(), policies=[policy]), keys=KEYS)
        assert "PolicyRouter" == caught.value.option

    def test_layers_of_the_policies_are_told_who_says_who_is_calling_outside(self) -> None:
        told: list[Any] = []
        router = Middleware(PolicyRouter, policies=[Policy("/a", Stack(Middleware(Reader, told=told))), Policy("/b", READING)])
        told.clear()
        Stack(keys(), router)
        assert (["key"], True) == told[-1]

    def test_layers_of_the_policies_are_told_who_says_so_beside_them(self) -> None:
        told: list[Any] = []
        Stack(Middleware(PolicyRouter, policies=[Policy("/a", Stack(keys(), Middleware(Reader, told=told)))]))
        assert (["key"], True) == told[-1]

    def test_what_may_not_stand_inside_of_authentication_may_not_stand_in_a_policy_inside_of_it(self) -> None:
        cors = Policy("/a", Stack(Middleware(CORSMiddleware, allow_origins=["*"]), Middleware(Reader)))
        with pytest.raises(ConfigurationError, match="CORSMiddleware stands inside"):
            Stack(keys(), Middleware(PolicyRouter, policies=[cors]))

    def test_nobody_may_take_the_credential_away_before_the_policies_look_for_it(self) -> None:
        with pytest.raises(ConfigurationError, match="where the caller's credential is gone"):
            Stack(Middleware(UpstreamCredentialMiddleware, bearer="sk-upstream"), Middleware(PolicyRouter, policies=[Policy("/a", BY_KEY)]))


async def ask(router: Any, target: str, *lines: tuple[bytes, bytes], **members: Any) -> tuple[int, str | None, RequestContext]:
    context = RequestContext()
    response = await request(router, target, headers=lines, scope={CONTEXT_KEY: context, **members})
    return response.status, response.header("x-authmw-reason"), context


@pytest.mark.anyio
class TestRequests:
    @pytest.mark.parametrize(
        "target",
        [
            "GET /",
            "GET /v2/models",
            "POST /health",
            "OPTIONS /health",
            "GET /health/",
            "GET /health/x",
            "GET /Health",
            "GET /v1x",
            "GET /administrator",
        ],
    )
    async def test_a_route_that_no_policy_names_is_denied_whoever_calls(self, target: str) -> None:
        app = Witness()
        for lines in ((), (GOOD_KEY,), (GOOD_TICKET,)):
            status, reason, context = await ask(PolicyRouter(app, policies=policies()), target, *lines)
            assert (403, "policy_missing") == (status, reason)
            assert [Decision("PolicyRouter", "denied", "policy_missing")] == context.decisions
        assert [] == app.scopes

    @pytest.mark.parametrize("path", ["/", "/health", "/v2/realtime"])
    async def test_a_socket_on_a_route_that_no_policy_names_is_denied(self, path: str) -> None:
        app = Witness()
        async with websocket(PolicyRouter(app, policies=policies()), path, headers=[GOOD_KEY]) as socket:
            assert (403, "policy_missing") == (socket.response.status, socket.response.header("x-authmw-reason"))
        assert [] == app.scopes

    @pytest.mark.parametrize(
        "path", ["//health", "/health/.", "/x/../health", "/health%2f", "/health;", "/v1//chat", "/v1/%2e%2e/health", "*", "v1/x"]
    )
    async def test_a_path_that_can_be_read_in_two_ways_is_denied(self, path: str) -> None:
        app = Witness()
        status, reason, context = await ask(PolicyRouter(app, policies=policies()), f"GET {path}", GOOD_KEY)
        assert (400, "ambiguous_path") == (status, reason)
        assert [Decision("PolicyRouter", "denied", "ambiguous_path")] == context.decisions
        async with websocket(PolicyRouter(app, policies=policies()), path, headers=[GOOD_KEY]) as socket:
            assert 400 == socket.response.status
        assert [] == app.scopes

    async def test_what_lets_one_in_by_one_policy_does_not_by_another(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=policies())
        for target, line, status in [
            ("POST /v1/chat/completions", GOOD_KEY, 200),
            ("POST /v1/chat/completions", GOOD_TICKET, 401),
            ("GET /admin/keys", GOOD_KEY, 401),
            ("GET /admin/keys", GOOD_TICKET, 200),
            ("GET /admin", GOOD_KEY, 401),
            ("GET /v1/tickets/7", GOOD_TICKET, 200),
        ]:
            assert status == (await ask(router, target, line))[0], target
        assert ["key:ci", "ada", "ada"] == app.subjects

    async def test_the_record_says_which_policy_covers_a_request(self) -> None:
        router = PolicyRouter(Witness(), policies=policies())
        *_, context = await ask(router, "GET /admin/keys", GOOD_TICKET)
        assert [Decision("PolicyRouter", "passed", rule="staff"), Decision("TicketLayer", "allowed")] == context.decisions
        *_, context = await ask(router, "GET /v1/models")
        assert Decision("PolicyRouter", "passed", rule="/v1/**") == context.decisions[0]

    async def test_head_is_get_and_a_socket_is_neither(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=[Policy("GET /a", BY_KEY), Policy("WS /b", BY_KEY), Policy("OPTIONS /c", public=True)])
        assert [200, 200, 403] == [(await ask(router, f"{method} /a", GOOD_KEY))[0] for method in ("GET", "HEAD", "OPTIONS")]
        assert [403, 403, 403] == [(await ask(router, f"{method} /b", GOOD_KEY))[0] for method in ("GET", "WS", "ws")]
        assert [200, 403] == [(await ask(router, f"{method} /c"))[0] for method in ("OPTIONS", "GET")]
        async with websocket(router, "/b", headers=[GOOD_KEY]) as socket:
            await socket.send_text("who")
            assert "key:ci" == await socket.receive()
        async with websocket(router, "/b") as socket:
            assert 401 == socket.response.status

    @pytest.mark.parametrize(
        "name", [b"x-http-method-override", b"X-HTTP-Method", b"x_method_override", b"X-Original-URL", b"x-rewrite-url"]
    )
    async def test_the_app_never_sees_a_header_that_rewrites_the_request(self, name: bytes) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=policies())
        for target in ("GET /health", "GET /v1/models"):
            assert 200 == (await ask(router, target, GOOD_KEY, (name, b"/admin"), (b"accept", b"*/*")))[0]
            assert [GOOD_KEY, (b"accept", b"*/*")] == app.scopes[-1]["headers"]

    async def test_a_slash_behind_a_path_does_not_choose_another_policy(self) -> None:
        """Litestar serves both as one route, and Starlette redirects from one to the other."""
        app = Witness()
        router = PolicyRouter(app, policies=[Policy("/**", BY_KEY), Policy("/admin", BY_TICKET), Policy("/staff/", BY_TICKET)])
        for path in ("/admin/", "/staff"):
            status, reason, _ = await ask(router, f"GET {path}", GOOD_KEY)
            assert (400, "ambiguous_path") == (status, reason)
            assert router.find("GET", path) is None
            async with websocket(router, path, headers=[GOOD_KEY]) as socket:
                assert 400 == socket.response.status
        assert [] == app.scopes
        for path in ("/admin", "/staff/"):
            assert [401, 200] == [(await ask(router, f"GET {path}", line))[0] for line in (GOOD_KEY, GOOD_TICKET)]
        for path in ("/", "/other", "/other/", "/admin/x", "/admin/x/"):
            assert [200, 401] == [(await ask(router, f"GET {path}", line))[0] for line in (GOOD_KEY, GOOD_TICKET)], path

    async def test_what_is_no_request_is_passed_on(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(copy.copy(scope))

        async def receive() -> Any: ...
        async def send(message: Any) -> None: ...

        await PolicyRouter(app, policies=policies())({"type": "something.else"}, receive, send)
        assert [{"type": "something.else"}] == seen

    async def test_the_trusted_proxies_of_a_policy_are_those_of_every_route(self) -> None:
        given = [Policy("/v1/**", Stack(keys(), trusted_proxies=PROXIES)), Policy("/x", BY_KEY), Policy("GET /health", public=True)]
        inner = PolicyRouter(Witness(), policies=given)
        outer = Stack(Middleware(PolicyRouter, policies=policies()), trusted_proxies=PROXIES)(Witness())
        for router in (inner, outer, Stack(Middleware(PolicyRouter, policies=given))(Witness())):
            for target in ("GET /v1/x", "GET /health", "GET /nowhere"):
                members = {"client": ("10.0.0.1", 4711)}
                *_, context = await ask(router, target, GOOD_KEY, (b"x-forwarded-for", b"198.51.100.7"), **members)
                scope = {"type": "http", "headers": [(b"x-forwarded-for", b"198.51.100.7")], **members}
                assert "198.51.100.7" == str(context.client_address(scope))


@pytest.mark.anyio
class TestPublicRoutes:
    async def test_anybody_may_and_is_nobody_there(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=policies())
        for lines in ((), (GOOD_KEY,), ((b"x-api-key", b"sk-wrong"),), ((b"authorization", b"garbage"),)):
            status, _, context = await ask(router, "GET /health", *lines)
            assert 200 == status
            assert not context.principal.is_authenticated
            assert [Decision("PolicyRouter", "allowed", rule="public")] == context.decisions
            # Nothing of ours looks at a credential there, so it is the app's.
            assert list(lines) == app.scopes[-1]["headers"]
        assert {"anonymous"} == set(app.subjects)

    async def test_a_public_socket_is_nobodys_too(self) -> None:
        async with websocket(PolicyRouter(Witness(), policies=[Policy("WS /v1/echo", public=True)]), "/v1/echo") as socket:
            await socket.send_text("who")
            assert "anonymous" == await socket.receive()

    async def test_somebody_who_is_known_outside_is_nobody_on_a_public_route(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=policies())
        outer = Stack(keys())(Starlette(routes=[Mount("/in", router)]))
        context = RequestContext(roles=("admin",), tier="gold")
        assert 200 == (await request(outer, "GET /in/health", headers=[GOOD_KEY], scope={CONTEXT_KEY: context})).status
        assert ["anonymous"] == app.subjects
        assert ("anonymous", (), None) == (context.principal.subject, context.roles, context.tier)
        # Whoever hands the request on to somebody else still knows what the layers outside have looked into.
        assert b"x-api-key" in context.authentication.outer.entrance.read_headers

    async def test_the_app_finds_nobody_wherever_it_looks_and_only_during_the_request(self) -> None:
        async def who(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{request.user.display_name} {request.auth.scopes} {current_principal().is_authenticated}")

        router = PolicyRouter(Starlette(routes=[Route("/health", who)]), policies=policies())
        response = await request(router, "GET /health")
        assert "anonymous [] False" == response.text

        sent: list[Any] = []

        async def receive() -> Any: ...
        async def send(message: Any) -> None:
            sent.append(message)

        # In this very task, as a server that handles one request after another in one would.
        await router(http_scope("GET /health"), receive, send)
        assert 200 == sent[0]["status"]
        with pytest.raises(LookupError):
            current_principal()

    async def test_the_principal_is_there_in_litestar(self) -> None:
        @get("/health")
        async def health(request: LitestarRequest[Any, Any, Any]) -> str:
            return str(request.user.subject)

        router = PolicyRouter(Litestar([health], openapi_config=None), policies=policies())
        assert "anonymous" == (await request(router, "GET /health")).text

    async def test_a_dependency_that_wants_somebody_is_answered_as_everywhere(self) -> None:
        app = FastAPI()

        @app.get("/health")
        def health(caller: Annotated[Principal, Security(current_caller)]) -> str:
            return caller.subject

        response = await request(PolicyRouter(app, policies=policies()), "GET /health")
        assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))


@pytest.mark.anyio
class TestIdentityHeaders:
    USER = (b"x-user", b"ada")
    PROOF = (b"x-proxy-proof", SECRET.encode())

    def router(self, app: Any) -> PolicyRouter:
        given = [Policy("/v1/**", BY_KEY), Policy("/admin/**", Stack(trusting("x-user"))), Policy("GET /health", public=True)]
        return PolicyRouter(app, policies=given)

    @pytest.mark.parametrize("target", ["GET /health", "GET /v1/models"])
    async def test_what_one_policy_trusts_never_comes_to_the_app_by_another_one(self, target: str) -> None:
        app = Witness()
        for lines in ([self.USER], [self.USER, self.PROOF], [(b"X-User", b"ada"), (b"X-User", b"bob")]):
            assert 200 == (await ask(self.router(app), target, *lines, GOOD_KEY))[0]
            assert [GOOD_KEY] == app.scopes[-1]["headers"]
        async with websocket(self.router(app), "/v1/realtime", headers=[self.USER, GOOD_KEY]) as socket:
            assert socket.accepted
        assert [GOOD_KEY] == app.scopes[-1]["headers"]

    @pytest.mark.parametrize("target", ["GET /health", "GET /v1/models"])
    @pytest.mark.parametrize("name", [b"x_user", b"X.User", b"x-user ", b"x_proxy_proof"])
    async def test_another_spelling_of_it_is_denied(self, target: str, name: bytes) -> None:
        app = Witness()
        status, reason, context = await ask(self.router(app), target, (name, b"ada"), GOOD_KEY)
        assert (400, "identity_header_alias") == (status, reason)
        rule = "GET /health" if target == "GET /health" else "/v1/**"
        assert [Decision("PolicyRouter", "denied", "identity_header_alias", rule=rule)] == context.decisions
        assert [] == app.scopes

    async def test_the_policy_that_trusts_it_reads_it(self) -> None:
        app = Witness()
        assert [200, 401] == [
            (await ask(self.router(app), "GET /admin/keys", *lines))[0] for lines in ((self.USER, self.PROOF), (self.USER,))
        ]
        assert ["ada"] == app.subjects

    async def test_the_list_of_headers_of_the_server_is_not_touched(self) -> None:
        held = [self.USER, GOOD_KEY]
        assert 200 == (await request(self.router(Witness()), "GET /v1/models", scope={"headers": held})).status
        assert [self.USER, GOOD_KEY] == held


@pytest.mark.anyio
class TestPlaces:
    async def test_the_path_is_what_is_below_the_root(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=policies())
        for target in ("GET /api/health", "GET /health"):
            assert 200 == (await ask(router, target, root_path="/api"))[0]
        assert 403 == (await ask(router, "GET /api/health"))[0]
        assert 401 == (await ask(router, "GET /api/v1/models", root_path="/api"))[0]

    async def test_a_router_in_a_mount_sees_the_paths_below_it(self) -> None:
        app = Witness()
        outer = Starlette(routes=[Mount("/llm/{team}", PolicyRouter(app, policies=policies()))])
        assert [200, 403, 401, 200, 400] == [
            (await request(outer, f"GET {path}", headers=lines)).status
            for path, lines in [
                ("/llm/blue/health", []),
                ("/llm/blue/llm/blue/health", []),
                ("/llm/blue/v1/models", []),
                ("/llm/blue/v1/models", [GOOD_KEY]),
                ("/llm/%3f/health", []),
            ]
        ]

    async def test_a_mount_of_the_app_is_behind_the_policies_too(self) -> None:
        app = Witness()
        router = PolicyRouter(Starlette(routes=[Mount("/v1", app), Mount("/hidden", app)]), policies=policies())
        assert [401, 200, 403] == [
            (await request(router, f"GET {path}", headers=lines)).status
            for path, lines in [("/v1/x", []), ("/v1/x", [GOOD_KEY]), ("/hidden/x", [GOOD_KEY])]
        ]

    @pytest.mark.parametrize("place", ["stack", "starlette", "fastapi", "added", "litestar", "in a policy"])
    async def test_it_may_stand_wherever_a_layer_may(self, place: str) -> None:
        app = Witness()
        entry = Middleware(PolicyRouter, policies=policies())
        guarded: Any
        if place == "stack":
            guarded = Stack(Middleware(GZipMiddleware), entry)(app)
        elif place == "starlette":
            guarded = Starlette(routes=[Mount("/", app)], middleware=[entry])
        elif place == "fastapi":
            guarded = FastAPI(middleware=[entry])
            guarded.mount("/", app)
        elif place == "added":
            guarded = FastAPI()
            guarded.mount("/", app)
            guarded.add_middleware(PolicyRouter, policies=policies())
        elif place == "litestar":

            @get(["/health", "/v1/models", "/other"])
            async def page(request: LitestarRequest[Any, Any, Any]) -> str:
                app.scopes.append(request.scope)
                return "ok"

            guarded = PolicyRouter(Litestar([page], openapi_config=None), policies=policies())
        else:
            guarded = PolicyRouter(app, policies=[Policy("/**", Stack(entry))])
        for target, lines, status in [
            ("GET /health", [], 200),
            ("GET /v1/models", [], 401),
            ("GET /v1/models", [GOOD_KEY], 200),
            ("GET /other", [GOOD_KEY], 403),
        ]:
            assert status == (await request(guarded, target, headers=lines)).status, target
        assert ["anonymous", "key:ci"] == app.subjects

    async def test_cors_outside_of_it_answers_preflights_of_routes_that_no_policy_opens_for_them(self) -> None:
        app = Witness()
        cors = Middleware(CORSMiddleware, allow_origins=["https://chat.example.com"])
        guarded = Stack(cors, Middleware(PolicyRouter, policies=[Policy("GET /v1/models", BY_KEY)]))(app)
        origin = (b"origin", b"https://chat.example.com")
        preflight = await request(guarded, "OPTIONS /v1/models", headers=[origin, (b"access-control-request-method", b"GET")])
        assert (200, "https://chat.example.com") == (preflight.status, preflight.header("access-control-allow-origin"))
        denied = await request(guarded, "GET /v1/models", headers=[origin])
        assert (401, "https://chat.example.com") == (denied.status, denied.header("access-control-allow-origin"))
        assert 403 == (await request(guarded, "OPTIONS /v1/models", headers=[GOOD_KEY])).status
        assert [] == app.scopes

    async def test_who_got_in_outside_is_nobody_to_a_policy_that_authenticates(self) -> None:
        app = Witness()
        router = PolicyRouter(app, policies=[Policy("/v1/**", BY_TICKET)])
        outer = Stack(keys())(Starlette(routes=[Mount("/in", router)]))
        assert [401, 400] == [
            (await request(outer, "GET /in/v1/x", headers=lines)).status for lines in ([GOOD_KEY], [GOOD_KEY, GOOD_TICKET])
        ]
        assert [] == app.scopes

    async def test_policies_that_only_decide_take_the_caller_of_the_layer_outside(self) -> None:
        app = Witness()
        guarded = Stack(keys(), Middleware(PolicyRouter, policies=[Policy("/v1/**", READING)]))(app)
        assert [401, 200, 403] == [
            (await request(guarded, f"GET {path}", headers=lines)).status
            for path, lines in [("/v1/x", []), ("/v1/x", [GOOD_KEY]), ("/x", [GOOD_KEY])]
        ]
        assert ["key:ci"] == app.subjects


class Watched:
    """A store's lifespan, written down."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
        self.store: Store = open_store("memory://", pepper="p" * 16 + "q" * 16)
        start, close = self.store.start, self.store.aclose

        async def started() -> None:
            log.append(f"start {name}")
            await start()

        async def closed() -> None:
            log.append(f"close {name}")
            await close()

        monkeypatch.setattr(self.store, "start", started)
        monkeypatch.setattr(self.store, "aclose", closed)
        self.layer = Middleware(KeyAuthMiddleware, keys=self.store.keys)


@pytest.mark.anyio
class TestLifespan:
    @pytest.mark.parametrize("place", ["alone", "in a stack", "in a list", "in a policy", "around a stack of the same store"])
    async def test_each_resource_is_started_and_closed_once_around_the_one_lifespan_of_the_app(
        self, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log: list[str] = []
        one, other = Watched("one", monkeypatch, log), Watched("other", monkeypatch, log)

        @asynccontextmanager
        async def life(app: Any) -> AsyncGenerator[None]:
            log.append("app starts")
            yield
            log.append("app stops")

        given = [
            Policy("/a", Stack(one.layer)),
            Policy("/b", Stack(Stack(one.layer))),
            Policy("/c", Stack(other.layer)),
            Policy("GET /health", public=True),
        ]
        entry = Middleware(PolicyRouter, policies=given)
        places: dict[str, Callable[[], Any]] = {
            "alone": lambda: PolicyRouter(Starlette(lifespan=life), policies=given),
            "in a stack": lambda: Stack(Middleware(GZipMiddleware), entry)(Starlette(lifespan=life)),
            "in a list": lambda: Starlette(lifespan=life, middleware=[entry]),
            "in a policy": lambda: PolicyRouter(Starlette(lifespan=life), policies=[Policy("/**", Stack(entry))]),
            "around a stack of the same store": lambda: PolicyRouter(
                Starlette(lifespan=life, middleware=[Middleware(Stack(one.layer))]), policies=given
            ),
        }
        async with lifespan(places[place]()):
            assert ["start one", "start other", "app starts"] == log
        assert ["app stops", "close other", "close one"] == log[3:]

    async def test_an_app_without_a_lifespan_is_answered_for(self) -> None:
        async with lifespan(PolicyRouter(Witness(), policies=policies())) as life:
            assert life.supported


class TestTheTable:
    def test_the_policy_of_a_route_can_be_asked_for(self) -> None:
        router = PolicyRouter(Witness(), policies=policies())
        by_key, health, staff, tickets = router.policies
        for method, path, policy in [
            ("POST", "/v1/chat/completions", by_key),
            ("WS", "/v1/realtime", by_key),
            ("HEAD", "/health", health),
            ("GET", "/admin/x", staff),
            ("PURGE", "/v1/tickets/1", tickets),
            ("POST", "/health", None),
            ("GET", "/v1/../admin", None),
            ("GET", "v1/x", None),
        ]:
            assert policy is router.find(method, path)

    @pytest.mark.anyio
    async def test_the_same_policies_can_be_put_around_another_app(self) -> None:
        app, other = Witness(), Witness()
        router = PolicyRouter(app, policies=policies())
        assert 200 == (await request(router.around(other), "GET /v1/x", headers=[GOOD_KEY])).status
        assert 401 == (await request(router.around(other), "GET /v1/x")).status
        assert (0, 1) == (len(app.scopes), len(other.scopes))
        assert router.policies == router.around(other).policies

    def test_it_prints_its_table_in_the_order_of_deciding_and_without_secrets(self) -> None:
        router = PolicyRouter(Witness(), policies=policies())
        lines = str(router).splitlines()
        assert "PolicyRouter, the most specific first:" == lines[0]
        assert ["/v1/tickets/**", "GET /health", "/admin", "/v1/**", "/admin/**"] == [
            line.strip().partition("  ")[0] for line in lines[1:-1]
        ]
        assert "  GET /health     public" == lines[2]
        assert f"  /v1/**          {BY_KEY!r}" == lines[4]
        assert "  anything else is denied" == lines[-1]
        assert KEY not in str(router) + repr(router)
        assert repr(router).startswith("PolicyRouter(Policy('/v1/**', Stack(KeyAuthMiddleware(")


def test_identity_sources_are_not_asked_of_policies_alone() -> None:
    """What is told to a router of policies that only decide is no error."""
    PolicyRouter(Witness(), policies=[Policy("/a", READING)]).check_identity([IdentitySource(method="api_key")], whole=True)
