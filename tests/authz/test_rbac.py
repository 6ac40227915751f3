import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from llm_authmw import (
    Assurance,
    ClaimMap,
    Decision,
    JWTMiddleware,
    KeyAuthMiddleware,
    Principal,
    ProtectedResource,
    Stack,
    StaticKeys,
    open_store,
)
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.keys.static import StaticKey
from llm_authmw.lens import RequestLens
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.testing import ManualClock, Response, TestIssuer, lifespan, request, stream, websocket
from llm_authmw.testing.recorder import Recorder
from llm_authmw.testing.tickets import TicketLayer

pytestmark = pytest.mark.anyio

MEMBER = "sk-member-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1"
NO_ROLE = "sk-norole-1sJ6cFm3DpY5tRn8BvX4wLz9QkG2h7"
OTHER = "sk-other-4wLz9QkG2h7sJ6cFm3DpY5tRn8BvX1aa"
MASTER = "sk-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0xR"
CHAT = "POST /v1/chat/completions"
SMALL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": []}
BIG: dict[str, Any] = {"model": "o3", "messages": []}
ROLES: Mapping[str, Role] = {
    "member": Role(routes=[CHAT, "GET /v1/models", "WS /v1/realtime"], models=["gpt-4o-mini"]),
    "operator": Role(routes=["*"], models=["*"], tools=["*"]),
}


class Site(NamedTuple):
    guard: Any
    app: Recorder


def site(
    roles: Mapping[str, Role] | None = ROLES, *, keys: Mapping[str, StaticKey] | None = None, outside: Any = None, **options: Any
) -> Site:
    """Return a recorder behind keys and the layer."""
    known = keys or {"member": StaticKey(MEMBER, roles=["member"]), "nobody": StaticKey(NO_ROLE)}
    app = Recorder()
    layers = [outside or Middleware(KeyAuthMiddleware, keys=StaticKeys(known), master_key=MASTER)]
    return Site(Stack(*layers, Middleware(RBACMiddleware, roles=roles, **options))(app), app)


def bearer(text: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + text.encode()


class Asked(NamedTuple):
    response: Response
    context: RequestContext

    @property
    def told(self) -> tuple[int, str | None]:
        return self.response.status, self.response.header("x-authmw-reason")

    @property
    def decision(self) -> Decision:
        return self.context.decisions[-1]


async def ask(guard: Any, target: str = CHAT, key: str | None = MEMBER, *headers: tuple[bytes, bytes], **given: Any) -> Asked:
    lines = [*headers] if key is None else [bearer(key), *headers]
    async with stream(guard, target, headers=lines, **given) as exchange:
        async for _ in exchange:
            pass
    return Asked(exchange.response, exchange.scope[CONTEXT_KEY])


def denied(reason: str, rule: str | None = None, *, by: str | None = "member") -> Decision:
    return Decision("RBACMiddleware", "denied", reason, by, None, rule)


# Who does not get through, in the order in which it is found out.


async def test_an_ambiguous_path_is_refused_before_anything_else() -> None:
    guard, app = site()
    for key in (MEMBER, NO_ROLE):
        asked = await ask(guard, "POST /v1//chat/completions", key, json=SMALL)
        assert (400, "ambiguous_path") == asked.told
        assert "ambiguous_path" == asked.decision.reason
    assert [] == app.scopes


@pytest.mark.parametrize(
    "target",
    [
        *(CHAT, "GET /v1/models", "HEAD /v1/models", "OPTIONS /v1/models", "GET /elsewhere"),
        # Whoever has a role is told that this names no model.
        "POST /openai/deployments/a,b/chat/completions",
    ],
)
async def test_nobody_is_let_through_without_a_credential_whatever_the_default_role(target: str) -> None:
    outside = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": MEMBER}), required=False)
    guard, app = site(outside=outside, default_role="operator")
    asked = await ask(guard, target, None)
    assert (401, "missing_credential") == asked.told
    assert "Bearer" == asked.response.header("www-authenticate")
    assert denied("missing_credential", by=None) == asked.decision
    assert (b"" == asked.response.body) == target.startswith("HEAD")
    async with websocket(guard, "/v1/realtime") as socket:
        assert (401, "missing_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_nobody_is_told_every_way_to_become_somebody() -> None:
    issuer = TestIssuer()
    resource = ProtectedResource("https://llm.example", authorization_servers=["https://issuer.example"])
    app = Recorder()
    guard = Stack(
        Middleware(JWTMiddleware, issuers=[issuer.trusted()], resource=resource, required=False),
        Middleware(TicketLayer, required=False),
        Middleware(RBACMiddleware, roles=ROLES),
    )(app)
    asked = await ask(guard, CHAT, None)
    assert [resource.challenge, "Ticket"] == asked.response.header_lines("www-authenticate")
    assert [] == app.scopes


async def test_without_an_authentication_layer_outside_everybody_is_denied_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Recorder()
    layer = RBACMiddleware(app, roles=ROLES, default_role="operator")
    with caplog.at_level(logging.ERROR, "llm_authmw"):
        for _ in range(3):
            response = await request(layer, CHAT, headers=[bearer(MEMBER)], json=SMALL)
            assert (401, "missing_credential", "Bearer") == (
                response.status,
                response.header("x-authmw-reason"),
                response.header("www-authenticate"),
            )
    assert ["no authentication layer stands outside of RBACMiddleware, so it denies everybody"] == caplog.messages
    assert [] == app.scopes


async def test_a_caller_without_a_role_is_refused_unless_there_is_a_default_role() -> None:
    guard, app = site()
    asked = await ask(guard, CHAT, NO_ROLE, json=SMALL)
    assert (403, "role_missing") == asked.told
    assert denied("role_missing", by="nobody") == asked.decision
    assert [] == app.scopes
    asked = await ask(site(default_role="member").guard, CHAT, NO_ROLE, json=SMALL)
    assert 200 == asked.response.status
    assert Decision("RBACMiddleware", "allowed", None, "nobody", None, "member") == asked.decision


async def test_a_role_of_our_own_records_that_is_not_defined_is_refused() -> None:
    guard, app = site(keys={"stale": StaticKey(MEMBER, roles=["member", "retired"])}, default_role="operator")
    asked = await ask(guard, CHAT, MEMBER, json=SMALL)
    assert (403, "role_unknown") == asked.told
    assert [] == app.scopes


async def test_the_master_key_bypasses_nothing() -> None:
    guard, app = site()
    assert (403, "role_unknown") == (await ask(guard, CHAT, MASTER, json=SMALL)).told
    assert [] == app.scopes
    guard, app = site({"proxy_admin": Role(routes=["GET /v1/models"])})
    assert (403, "route_not_allowed") == (await ask(guard, CHAT, MASTER, json=SMALL)).told
    assert 200 == (await ask(guard, "GET /v1/models", MASTER)).response.status
    assert 1 == len(app.scopes)


async def test_routes_and_networks_of_a_principal_hold_where_no_layer_has_enforced_them() -> None:
    app = Recorder()
    inner = RBACMiddleware(app, roles=ROLES)
    ada = Principal(user="ada", method="test", roles=("operator",), routes=("GET /v1/models",), networks=("10.0.0.0/8",))

    async def knows(scope: Any, receive: Any, send: Any) -> None:
        RequestContext.of(scope).principal = ada
        await inner(scope, receive, send)

    at_home = {"client": ("10.1.2.3", 1)}
    assert (403, "network_not_allowed") == (await ask(knows, "GET /v1/models")).told
    assert (403, "route_not_allowed") == (await ask(knows, CHAT, scope=at_home)).told
    assert [] == app.scopes
    assert 200 == (await ask(knows, "GET /v1/models", scope=at_home)).response.status


@pytest.mark.parametrize("target", ["POST /v1/embeddings", "GET /v1/chat/completions", "DELETE /v1/models", "OPTIONS /v1/models", "PUT /x"])
async def test_a_route_that_no_role_allows_is_refused_before_the_body_is_read(target: str) -> None:
    guard, app = site()
    async with stream(guard, target, headers=[bearer(MEMBER)], more_body=True) as exchange:
        async for _ in exchange:
            pass
    assert (403, "route_not_allowed") == (exchange.response.status, exchange.response.header("x-authmw-reason"))
    assert denied("route_not_allowed", "member") == exchange.scope[CONTEXT_KEY].decisions[-1]
    assert 0 == exchange.activity.receive_calls
    assert [] == app.scopes


async def test_head_counts_as_get_and_options_only_as_itself() -> None:
    guard, app = site()
    assert 200 == (await ask(guard, "HEAD /v1/models")).response.status
    assert (403, "route_not_allowed") == (await ask(guard, "OPTIONS /v1/models")).told
    assert 1 == len(app.scopes)


async def test_a_kind_of_request_that_the_role_leaves_out_is_refused() -> None:
    guard, app = site({"member": Role(routes=["*"], models=["*"], operations=["embeddings"])})
    asked = await ask(guard, json=SMALL)
    assert (403, "operation_not_allowed") == asked.told
    assert denied("operation_not_allowed", "member") == asked.decision
    assert [] == app.scopes


async def test_a_model_that_the_role_does_not_name_is_refused() -> None:
    guard, app = site()
    asked = await ask(guard, json=BIG)
    assert (403, "model_not_allowed") == asked.told
    assert denied("model_not_allowed", "member") == asked.decision
    assert "o3" in msgspec.json.decode(asked.response.body)["error"]["message"]
    assert [] == app.scopes


async def test_a_request_that_leaves_the_model_to_somebody_else_is_refused() -> None:
    guard, app = site()
    assert (400, "model_missing") == (await ask(guard, json={"messages": []})).told
    assert [] == app.scopes


async def test_one_roles_route_and_another_ones_model_allow_nothing_together() -> None:
    roles = {"chat": Role(routes=[CHAT], models=["gpt-4o-mini"]), "embed": Role(routes=["POST /v1/embeddings"], models=["o3"])}
    guard, app = site(roles, keys={"both": StaticKey(MEMBER, roles=["chat", "embed"])})
    assert (403, "model_not_allowed") == (await ask(guard, json=BIG)).told
    assert [] == app.scopes


async def test_the_models_of_the_key_narrow_those_of_the_role() -> None:
    guard, app = site(keys={"narrow": StaticKey(MEMBER, roles=["operator"], models=["gpt-4o-mini"])})
    assert (403, "model_not_allowed") == (await ask(guard, json=BIG)).told
    assert [] == app.scopes
    assert 200 == (await ask(guard, json=SMALL)).response.status


async def test_a_tool_of_the_providers_that_the_role_does_not_name_is_refused() -> None:
    guard, app = site()
    function = {"type": "function", "function": {"name": "f"}}
    asked = await ask(guard, json=SMALL | {"tools": [{"type": "web_search"}]})
    assert (403, "tool_not_allowed") == asked.told
    assert [] == app.scopes
    assert 200 == (await ask(guard, json=SMALL | {"tools": [function]})).response.status


async def test_a_scope_that_the_role_asks_for_is_named_in_the_challenge() -> None:
    guard, app = site({"member": Role(routes=["*"], models=["*"], scopes=["llm:chat"])})
    asked = await ask(guard, json=SMALL)
    assert (403, "insufficient_scope") == asked.told
    assert 'Bearer error="insufficient_scope", scope="llm:chat"' == asked.response.header("www-authenticate")
    assert [] == app.scopes


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        (Role(routes=["*"], models=["*"], assurance=Assurance.SIGNED), "assurance_too_low"),
        (Role(routes=["*"], models=["*"], networks=["10.0.0.0/8"]), "network_not_allowed"),
    ],
)
async def test_what_a_role_asks_for_beside_is_asked_for(role: Role, reason: str) -> None:
    guard, app = site({"member": role})
    asked = await ask(guard, json=SMALL)
    assert (403, reason) == asked.told
    assert denied(reason, "member") == asked.decision
    assert [] == app.scopes


async def test_a_login_that_will_not_do_is_answered_with_the_challenge_of_rfc_9470() -> None:
    clock = ManualClock()
    issuer = TestIssuer(clock=clock)
    resource = ProtectedResource("https://llm.example", authorization_servers=["https://issuer.example"])
    app = Recorder()
    guard = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": MEMBER})),
        Middleware(JWTMiddleware, issuers=[issuer.trusted()], resource=resource),
        Middleware(
            RBACMiddleware,
            roles={"member": Role(routes=["*"], models=["*"], max_age=300, acr=["phr", "phrh"])},
            default_role="member",
            clock=clock,
        ),
    )(app)
    now = int(clock.now())
    wanted = 'Bearer resource_metadata="https://llm.example/.well-known/oauth-protected-resource", max_age="300", acr_values="phr phrh", '
    too_old = (
        'error="insufficient_user_authentication", error_description="The caller logged in too long ago for this request. Log in again."'
    )
    asked = await ask(guard, CHAT, issuer.token(auth_time=now - 301, acr="phr"), json=SMALL)
    assert (401, "authentication_too_old") == asked.told
    assert [wanted + too_old] == asked.response.header_lines("www-authenticate")
    asked = await ask(guard, CHAT, issuer.token(auth_time=now, acr="pwd"), json=SMALL)
    assert (401, "authentication_class_not_accepted") == asked.told
    assert 'error="insufficient_user_authentication"' in (asked.response.header("www-authenticate") or "")
    # A key says nothing of a login, and its caller is told where to get a token.
    asked = await ask(guard, CHAT, MEMBER, json=SMALL)
    assert [wanted + too_old] == asked.response.header_lines("www-authenticate")
    assert [] == app.scopes
    token = issuer.token(auth_time=now - 299, acr="phrh")
    assert 200 == (await ask(guard, CHAT, token, json=SMALL)).response.status
    clock.advance(2)
    assert (401, "authentication_too_old") == (await ask(guard, CHAT, token, json=SMALL)).told


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"gpt-4o-mini"', b'{"model":7}', b"\xff"])
async def test_a_body_that_cannot_be_read_is_400(body: bytes) -> None:
    guard, app = site()
    asked = await ask(guard, CHAT, MEMBER, (b"content-type", b"application/json"), body=body)
    assert 400 == asked.response.status
    assert "denied" == asked.decision.outcome
    assert [] == app.scopes


async def test_a_body_that_is_too_large_is_413() -> None:
    guard, app = site(lens=RequestLens(max_body=100))
    asked = await ask(guard, json=SMALL | {"messages": ["x" * 100]})
    assert (413, "body_too_large") == asked.told
    assert [] == app.scopes


async def test_what_fails_to_be_decided_is_503_and_the_log_quotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RequestLens):
        def find(self, method: str, path: str) -> Any:
            raise RuntimeError(MEMBER)

    guard, app = site(lens=Broken())
    with caplog.at_level(logging.DEBUG, "llm_authmw"):
        asked = await ask(guard, json=SMALL)
        async with websocket(guard, "/v1/realtime", headers=[bearer(MEMBER)]) as socket:
            assert 503 == socket.response.status
    assert (503, "authorization_unavailable") == asked.told
    assert "1" == asked.response.header("retry-after")
    assert "RuntimeError" in caplog.text
    assert MEMBER not in caplog.text + str(asked.response.body) + str(asked.response.headers)
    assert [] == app.scopes


# Who gets through, and with what.


async def test_what_a_role_allows_reaches_the_app_byte_for_byte() -> None:
    guard, app = site()
    chunks = [b'{ "model" :\n"gpt-4o-', b'mini","messages":[{"content":"\xc3', b'\xa9 \\u00e9"}] }', b""]
    lines = [bearer(MEMBER), (b"Content-Type", b"application/json; charset=utf-8"), (b"X-Other", b"1")]
    async with stream(guard, CHAT, headers=lines, body=chunks) as exchange:
        async for _ in exchange:
            pass
    context = exchange.scope[CONTEXT_KEY]
    assert [b"".join(chunks)] == app.bodies
    assert lines == app.scopes[0]["headers"]
    assert Decision("RBACMiddleware", "allowed", None, "member", None, "member") == context.decisions[-1]
    assert (("member",), None) == (context.roles, context.tier)
    assert ("chat", ("gpt-4o-mini",)) == (context.call.operation, context.call.models)


async def test_a_body_that_no_rule_looks_at_is_not_read() -> None:
    guard, app = site(keys={"root": StaticKey(MEMBER, roles=["operator"])})
    body = b"\xff not JSON at all"
    asked = await ask(guard, body=body)
    assert 200 == asked.response.status
    assert [body] == app.bodies
    assert asked.context.call is None


async def test_after_the_body_was_read_the_client_can_still_leave() -> None:
    left = anyio.Event()
    read = anyio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        assert msgspec.json.encode(SMALL) == (await receive())["body"]
        read.set()
        assert "http.disconnect" == (await receive())["type"]
        left.set()

    app = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": MEMBER})), Middleware(RBACMiddleware, roles=ROLES, default_role="member")
    )
    async with stream(app(waiting), CHAT, headers=[bearer(MEMBER)], json=SMALL) as exchange:
        with anyio.fail_after(5):
            await read.wait()
        await exchange.disconnect()
    assert left.is_set()


async def test_a_client_that_leaves_in_the_middle_of_its_body_reaches_nobody() -> None:
    guard, app = site()
    lines = [bearer(MEMBER), (b"content-type", b"application/json")]
    async with stream(guard, CHAT, headers=lines, body=b'{"model":', more_body=True) as exchange:
        await exchange.disconnect()
    assert [] == exchange.activity.sent
    assert [] == app.scopes


async def test_a_streamed_answer_is_not_held_back() -> None:
    may_go_on = anyio.Event()

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await may_go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})

    app = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": MEMBER})), Middleware(RBACMiddleware, roles=ROLES, default_role="member")
    )
    async with stream(app(streaming), CHAT, headers=[bearer(MEMBER)], json=SMALL) as exchange:
        assert b"data: 1\n\n" == await exchange.next_chunk()
        may_go_on.set()
        assert b"data: 2\n\n" == await exchange.next_chunk()


@pytest.mark.parametrize(
    "name", [b"x-http-method-override", b"X-HTTP-Method", b"x-method-override", b"X-Original-URL", b"x_rewrite_url", b"x-original-uri"]
)
async def test_headers_that_rewrite_the_method_or_the_path_do_not_reach_the_app(name: bytes) -> None:
    guard, app = site()
    lines = [bearer(MEMBER), (name, b"DELETE"), (b"x-kept", b"1")]
    await request(guard, "GET /v1/models", headers=lines)
    assert [bearer(MEMBER), (b"x-kept", b"1")] == app.scopes[0]["headers"]


async def test_below_a_mount_the_route_is_what_comes_behind_it() -> None:
    guard, app = site()
    mounted = Starlette(routes=[Mount("/proxy", guard)])
    assert 200 == (await ask(mounted, "POST /proxy/v1/chat/completions", json=SMALL)).response.status
    assert (403, "model_not_allowed") == (await ask(mounted, "POST /proxy/v1/chat/completions", json=BIG)).told
    assert (403, "route_not_allowed") == (await ask(mounted, "POST /proxy/proxy/v1/chat/completions", json=SMALL)).told
    at_root = {"root_path": "/proxy", "path": "/proxy/v1/chat/completions"}
    assert 200 == (await ask(guard, CHAT, json=SMALL, scope=at_root)).response.status
    assert 2 == len(app.scopes)


async def test_roles_come_from_a_store_and_go_with_the_key() -> None:
    store = open_store("memory://")
    created = await store.keys.create(name="ci", user="ada", roles=["member"])
    guard, app = site(outside=Middleware(KeyAuthMiddleware, keys=store.keys))
    key = created.key or ""
    asked = await ask(guard, CHAT, key, json=SMALL)
    assert (200, ("member",)) == (asked.response.status, asked.context.roles)
    await store.keys.update(created.record.id, roles=[])
    assert (403, "role_missing") == (await ask(guard, CHAT, key, json=SMALL)).told
    assert 1 == len(app.scopes)


async def test_a_token_has_a_role_through_a_grant_and_not_by_naming_it() -> None:
    issuer = TestIssuer()
    claims = ClaimMap(roles="roles", groups="groups", keep=["department"])
    grants = [
        Grant(role="operator", token_role="llm-operator"),
        Grant(role="member", scope="llm:use"),
        Grant(role="member", claims={"department": "research"}),
    ]
    guard, app = site(outside=Middleware(JWTMiddleware, issuers=[issuer.trusted(claims=claims)]), grants=grants)
    refused: list[dict[str, Any]] = [{}, {"roles": ["operator", "member"]}, {"scope": "llm:use2"}, {"department": ["sales"]}]
    for facts in refused:
        assert (403, "role_missing") == (await ask(guard, CHAT, issuer.token(**facts), json=SMALL)).told
    assert [] == app.scopes
    allowed: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"scope": "other llm:use"}, ("member",)),
        ({"department": ["sales", "research"]}, ("member",)),
        ({"roles": ["llm-operator"], "scope": "llm:use"}, ("member", "operator")),
    ]
    for facts, roles in allowed:
        asked = await ask(guard, CHAT, issuer.token(**facts), json=SMALL)
        assert (200, roles) == (asked.response.status, asked.context.roles)


async def test_two_layers_both_have_to_allow() -> None:
    app = Recorder()
    guard = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": StaticKey(MEMBER, roles=["member"])})),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-*"])}),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o-mini", "o3"])}),
    )(app)
    for model in ("gpt-4o", "o3"):
        assert (403, "model_not_allowed") == (await ask(guard, json={"model": model, "messages": []})).told
    assert [] == app.scopes
    body = b'{"model": "gpt-4o-mini", "messages": []}'
    asked = await ask(guard, CHAT, MEMBER, (b"content-type", b"application/json"), body=[body[:5], body[5:]])
    assert 200 == asked.response.status
    assert [body] == app.bodies


async def test_a_tier_of_a_layer_further_out_stays_where_the_inner_one_names_none() -> None:
    app = Recorder()
    rates = Middleware(
        RateLimitMiddleware, ledger=open_store("memory://").ledger, tiers={"small": ["4 concurrent"], "tiny": ["2 concurrent"]}
    )
    for inner, tier in ((Role(routes=["*"], models=["*"]), "small"), (Role(routes=["*"], tier="tiny"), "tiny")):
        guard = Stack(
            Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": StaticKey(MEMBER, roles=["member"])})),
            Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"], tier="small")}),
            Middleware(RBACMiddleware, roles={"member": inner}),
            rates,
        )(app)
        assert tier == (await ask(guard, "GET /v1/models")).context.tier


async def test_other_events_pass() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    layer = RBACMiddleware(app, roles=ROLES)
    async with lifespan(layer):
        pass

    async def nothing(*_: Any) -> None:
        return

    await layer({"type": "webtransport"}, nothing, nothing)
    assert ["lifespan", "webtransport"] == seen


# WebSockets.


async def test_a_socket_whose_handshake_names_a_model_that_is_not_allowed_is_refused() -> None:
    guard, app = site()
    for path, reason in (("/v1/realtime?model=o3", "model_not_allowed"), ("/v1/other", "route_not_allowed")):
        async with websocket(guard, path, headers=[bearer(MEMBER)]) as socket:
            assert (403, reason) == (socket.response.status, socket.response.header("x-authmw-reason"))
        async with websocket(guard, path, headers=[bearer(MEMBER)], denial_response=False) as socket:
            assert (403, False) == (socket.response.status, socket.accepted)
    assert [] == app.scopes


async def test_a_message_that_names_a_model_which_is_not_allowed_ends_the_socket() -> None:
    guard, app = site()
    async with websocket(guard, "/v1/realtime?model=gpt-4o-mini", headers=[bearer(MEMBER)]) as socket:
        allowed = '{"type": "session.update", "session": {"model": "gpt-4o-mini"}}'
        await socket.send_text(allowed)
        assert "heard" == await socket.receive()
        await socket.send_json({"type": "session.update", "session": {"model": "o3"}})
        with pytest.raises(Exception, match="closed with 1008 model_not_allowed"):
            await socket.receive()
    assert [allowed] == app.frames
    assert [1008] == app.ends
    assert denied("model_not_allowed", "member") == socket.scope[CONTEXT_KEY].decisions[-1]


async def test_an_app_that_goes_on_sending_on_a_socket_that_was_ended_is_told_that_the_client_has_gone() -> None:
    raised: list[Exception] = []

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        try:
            await send({"type": "websocket.send", "text": "more"})
        except OSError as error:
            raised.append(error)
            raise

    stack = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": MEMBER})), Middleware(RBACMiddleware, roles=ROLES, default_role="member")
    )
    async with websocket(stack(stubborn), "/v1/realtime?model=gpt-4o-mini", headers=[bearer(MEMBER)]) as socket:
        await socket.send_json({"type": "session.update", "session": {"model": "o3"}})
        with pytest.raises(Exception, match="closed with 1008"):
            await socket.receive()
    assert 1 == len(raised)


async def test_a_socket_whose_messages_no_rule_looks_at_is_left_alone() -> None:
    guard, app = site(keys={"root": StaticKey(MEMBER, roles=["operator"])})
    async with websocket(guard, "/v1/realtime?model=o3", headers=[bearer(MEMBER)]) as socket:
        await socket.send_text("{ not JSON")
        assert "heard" == await socket.receive()
        await socket.send_bytes(b"\x00\xff")
        assert "heard" == await socket.receive()
    assert ["{ not JSON", b"\x00\xff"] == app.frames
