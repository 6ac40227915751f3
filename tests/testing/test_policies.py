from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llm_authmw import (
    ANONYMOUS,
    ConfigurationError,
    CustomAuthMiddleware,
    HeaderMap,
    HeaderTrustMiddleware,
    JWTMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Principal,
    RBACMiddleware,
    Role,
    SharedSecret,
    Stack,
    StaticKey,
    StaticKeys,
    TrustedProxies,
    open_store,
)
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.context import current_principal
from llm_authmw.testing import Answer, TestIssuer, call, fake_principal, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
PROOF = "pR0of-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
CHAT = "POST /v1/chat/completions"
ADA = fake_principal(user="ada", roles=["member"])
MEMBER = Role(routes=["*"], models=["gpt-4o*", "!gpt-4o-audio*"])

keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY, user="eve", roles=["member"], routes=["/v1/**"])}))
members = Middleware(RBACMiddleware, roles={"member": MEMBER})
GUARD = Stack(keys, members)


class Seen:
    """A foreign layer that keeps what the layers further in were sent."""

    def __init__(self, app: ASGIApp, *, scopes: list[Any], bodies: list[bytes]) -> None:
        self.app = app
        self.scopes = scopes
        self.bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def keep() -> Any:
            message = await receive()
            self.bodies.append(message.get("body", b"") or (message.get("text") or "").encode())
            return message

        self.scopes.append(scope)
        await self.app(scope, keep, send)


async def seen(target: str, **asked: Any) -> tuple[Any, bytes]:
    scopes, bodies = list[Any](), list[bytes]()
    answer = await call([Middleware(Seen, scopes=scopes, bodies=bodies), keys], target, as_=ADA, **asked)
    assert answer.allowed, answer
    return scopes[0], b"".join(bodies)


async def test_a_caller_who_shows_nothing_is_denied() -> None:
    answer = await call(GUARD, CHAT, model="gpt-4o-mini")
    assert (False, 401, "missing_credential", "KeyAuthMiddleware") == (answer.allowed, answer.status, answer.reason, answer.layer)
    assert ANONYMOUS == answer.principal
    assert ["passed", "denied"] == [decision.outcome for decision in answer.decisions]
    assert "missing_credential" == answer.response.header("x-authmw-reason")


async def test_a_key_is_judged_as_one_that_a_client_sends() -> None:
    allowed = await call(GUARD, CHAT, bearer=KEY, model="gpt-4o-mini")
    assert (True, 200, None, "eve") == (allowed.allowed, allowed.status, allowed.reason, allowed.principal.user), allowed
    assert ("member",) == allowed.roles
    unknown = await call(GUARD, CHAT, bearer=KEY + "x", model="gpt-4o-mini")
    assert (False, 401, "key_unknown") == (unknown.allowed, unknown.status, unknown.reason), unknown


async def test_the_exact_reason_is_told_where_the_client_hears_less() -> None:
    store = open_store("memory://")
    created = await store.keys.create(user="ada")
    await store.keys.revoke(created.id)
    denied = await call([Middleware(KeyAuthMiddleware, keys=store.keys)], CHAT, bearer=created.key, model="o3")
    assert (401, "key_revoked") == (denied.status, denied.reason), denied
    assert "invalid_api_key" == denied.response.header("x-authmw-reason")


async def test_tokens_of_a_test_issuer_are_judged_without_a_lifespan() -> None:
    issuer = TestIssuer(audience="api://llm")
    guard = Stack(Middleware(JWTMiddleware, issuers=[issuer.trusted()]))
    allowed = await call(guard, "GET /v1/models", bearer=issuer.token(sub="ada"))
    assert (True, "ada", "jwt") == (allowed.allowed, allowed.principal.user, allowed.principal.method), allowed
    bad: dict[str, dict[str, Any]] = {"audience_mismatch": {"aud": "api://other"}, "token_expired": {"exp": issuer.clock.now() - 3600}}
    for reason, claims in bad.items():
        denied = await call(guard, "GET /v1/models", bearer=issuer.token(sub="ada", **claims))
        assert (False, 401, reason) == (denied.allowed, denied.status, denied.reason), denied


async def test_a_store_that_nobody_has_started_answers(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/authmw.db") as store:
        key = (await store.keys.create(user="ada")).key
    async with open_store(f"sqlite:///{tmp_path}/authmw.db") as store:
        guard = Stack(Middleware(KeyAuthMiddleware, keys=store.keys))
        assert (await call(guard, "GET /v1/models", bearer=key)).allowed
        assert not (await call(guard, "GET /v1/models")).allowed


async def test_a_principal_stands_as_if_a_layer_had_let_it_in() -> None:
    met: list[Principal] = []

    def noted(request: Any) -> bool:
        met.append(current_principal())
        return bool(request.principal == ADA)

    issuer = TestIssuer()
    guard = Stack(keys, Middleware(JWTMiddleware, issuers=[issuer.trusted()]), Middleware(RBACMiddleware, authorizer=noted))
    answer = await call(guard, CHAT, as_=ADA, model="o3")
    assert (True, ADA) == (answer.allowed, answer.principal), answer
    assert [ADA] == met


async def test_roles_decide_about_a_principal() -> None:
    allowed = await call(GUARD, CHAT, as_=ADA, model="gpt-4o-mini")
    assert (True, 200, None, None) == (allowed.allowed, allowed.status, allowed.denial, allowed.need), allowed
    assert allowed.call is not None
    assert ("gpt-4o-mini",) == allowed.call.models
    denied = await call(GUARD, CHAT, as_=ADA, model="o3")
    assert (False, 403, "model_not_allowed", "member") == (denied.allowed, denied.status, denied.reason, denied.rule), denied
    assert "RBACMiddleware" == denied.layer
    nobody = await call(GUARD, CHAT, as_=fake_principal(user="bob"), model="gpt-4o-mini")
    assert (403, "role_missing") == (nobody.status, nobody.reason), nobody


async def test_a_layer_that_only_asks_what_callers_may_is_told_who_calls() -> None:
    met: list[Principal] = []

    async def noted(request: Any) -> bool:
        met.append(current_principal())
        return True

    scopes = list[Any]()
    layers = [Middleware(Seen, scopes=scopes, bodies=list[bytes]()), members, Middleware(RBACMiddleware, authorizer=noted)]
    answer = await call(layers, CHAT, as_=ADA, model="gpt-4o-mini")
    assert (True, ADA) == (answer.allowed, answer.principal), answer
    assert [ADA, ADA, ADA] == [*met, scopes[0]["user"], scopes[0]["state"]["principal"]]
    assert not (await call([members], CHAT, model="gpt-4o-mini")).allowed
    with pytest.raises(LookupError):
        current_principal()


@pytest.mark.parametrize(
    ("guard", "layer"),
    [
        pytest.param(Stack(keys), "KeyAuthMiddleware", id="authentication alone"),
        pytest.param(GUARD, "KeyAuthMiddleware", id="both"),
        pytest.param(Stack(members), "RBACMiddleware", id="roles alone"),
        pytest.param(
            Stack(keys, Middleware(RBACMiddleware, roles={"member": MEMBER}, shadow=True)), "KeyAuthMiddleware", id="roles on trial"
        ),
    ],
)
async def test_what_a_principal_is_restricted_to_holds_wherever_it_is_looked_at(guard: Stack, layer: str) -> None:
    inside = fake_principal(roles=["member"], routes=["POST /v1/**"], networks=["203.0.113.0/24"])
    assert (await call(guard, CHAT, as_=inside, model="gpt-4o", address="203.0.113.7")).allowed
    elsewhere = await call(guard, CHAT, as_=inside, model="gpt-4o", address="198.51.100.7")
    assert (False, 403, "network_not_allowed", layer) == (elsewhere.allowed, elsewhere.status, elsewhere.reason, elsewhere.layer)
    another = await call(guard, "GET /v1/models", as_=inside, address="203.0.113.7")
    assert (False, 403, "route_not_allowed", layer) == (another.allowed, another.status, another.reason, another.layer)


async def test_a_principal_is_told_how_to_log_in_anew_as_its_credential_would_be() -> None:
    desk = Middleware(CustomAuthMiddleware, authenticate=lambda _: None, challenge='Bearer realm="desk"')
    guard = [keys, desk, Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], max_age=60)})]
    shown, stood = await call(guard, "GET /v1/models", bearer=KEY), await call(guard, "GET /v1/models", as_=ADA)
    assert (401, "authentication_too_old") == (stood.status, stood.reason) == (shown.status, shown.reason)
    told = stood.response.header_lines("www-authenticate")
    assert shown.response.header_lines("www-authenticate") == told
    assert 'realm="desk"' in told[0]
    assert "insufficient_user_authentication" in told[0]


async def test_a_principal_of_a_credential_that_no_layer_takes_is_not_let_in() -> None:
    issuer = TestIssuer(audience="api://llm")
    staff = Stack(Middleware(JWTMiddleware, issuers=[issuer.trusted()]))
    denied = [
        await call(staff, CHAT, as_=fake_principal(method="key")),
        await call(staff, CHAT, as_=fake_principal(method="jwt", issuer="https://other.example")),
        await call(Stack(keys), CHAT, as_=fake_principal(method="jwt", issuer=issuer.issuer)),
        await call(Stack(keys), CHAT, as_=fake_principal(method="master_key")),
    ]
    assert [(False, 401, "credential_not_accepted")] * 4 == [(answer.allowed, answer.status, answer.reason) for answer in denied]
    assert ["JWTMiddleware", "JWTMiddleware", "KeyAuthMiddleware", "KeyAuthMiddleware"] == [answer.layer for answer in denied]
    either = [keys, Middleware(JWTMiddleware, issuers=[issuer.trusted()])]
    for principal in (fake_principal(method="key"), fake_principal(method="jwt", issuer=issuer.issuer), fake_principal(method="jwt"), ADA):
        assert (await call(either, CHAT, as_=principal)).allowed
    anybody = [keys, Middleware(CustomAuthMiddleware, authenticate=lambda _: None)]
    assert (await call(anybody, CHAT, as_=fake_principal(method="header"))).allowed


async def test_the_address_is_the_one_that_a_trusted_proxy_tells() -> None:
    guard = Stack(keys, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    inside = fake_principal(networks=["203.0.113.0/24"])
    forwarded = [(b"x-forwarded-for", b"203.0.113.7")]
    assert (await call(guard, CHAT, as_=inside, headers=forwarded, address="10.0.0.1")).allowed
    denied = await call(guard, CHAT, as_=inside, headers=forwarded, address="198.51.100.7")
    assert "network_not_allowed" == denied.reason, denied


async def test_whether_a_credential_has_ended_is_asked_of_a_credential_only() -> None:
    """A principal is what a layer has made of a credential; it may have an end that nobody asks it for."""
    assert (await call(GUARD, CHAT, as_=fake_principal(roles=["member"], expires_at=1.0), model="gpt-4o")).allowed


async def test_what_was_asked_before_lets_nobody_in_afterwards() -> None:
    app = Witness()
    guarded = GUARD(app)
    assert (await call(guarded, CHAT, as_=ADA, model="gpt-4o")).allowed
    assert not (await call(guarded, CHAT, model="gpt-4o")).allowed
    assert 401 == (await request(guarded, CHAT, json={"model": "gpt-4o"})).status
    assert [] == app.scopes


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param(GUARD, id="a stack"),
        pytest.param([keys, members], id="a list"),
        pytest.param((Stack(keys), Stack(members)), id="stacks"),
        pytest.param(Stack(Stack(keys), members), id="a stack in a stack"),
        pytest.param(GUARD(Witness()), id="a guarded app"),
        pytest.param(Stack(keys)(Stack(members)(Witness())), id="a guarded app behind a stack"),
        pytest.param(Stack(Middleware(GZipMiddleware))(GUARD(Witness())), id="a guarded app behind something foreign"),
        pytest.param(PolicyRouter(Witness(), policies=[Policy("/v1/**", GUARD)]), id="a router"),
        pytest.param(Stack(keys)(PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(members))])), id="a router behind a stack"),
        pytest.param([keys, Middleware(PolicyRouter, policies=[Policy("/v1/**", Stack(members))])], id="a router in a list"),
    ],
)
async def test_every_kind_of_guard_is_asked_alike(guard: Any) -> None:
    assert (await call(guard, CHAT, as_=ADA, model="gpt-4o")).allowed
    assert (await call(guard, CHAT, bearer=KEY, model="gpt-4o")).allowed
    assert "model_not_allowed" == (await call(guard, CHAT, as_=ADA, model="o3")).reason
    assert "model_not_allowed" == (await call(guard, CHAT, bearer=KEY, model="o3")).reason
    assert "missing_credential" == (await call(guard, CHAT, model="gpt-4o")).reason
    assert "route_not_allowed" == (await call(guard, "GET /v1/models", as_=fake_principal(roles=["member"], routes=[]))).reason


async def test_a_router_answers_for_the_policy_of_the_route() -> None:
    issuer = TestIssuer(audience="api://llm")
    staff = Middleware(JWTMiddleware, issuers=[issuer.trusted()])
    admins = Middleware(RBACMiddleware, roles={"admin": Role(routes=["*"])})
    app = Witness()
    router = PolicyRouter(
        app, policies=[Policy("GET /health", public=True), Policy("/v1/**", GUARD), Policy("/admin/**", Stack(staff, admins))]
    )
    health = await call(router, "GET /health", as_=ADA)
    assert (True, ANONYMOUS) == (health.allowed, health.principal), health
    assert (await call(router, "GET /admin/users", as_=fake_principal(roles=["admin"]))).allowed
    assert "role_unknown" == (await call(router, "GET /admin/users", as_=ADA)).reason
    key = await call(router, "GET /admin/users", bearer=KEY)
    assert (401, "JWTMiddleware") == (key.status, key.layer), key
    unnamed = await call(router, "GET /metrics", as_=ADA)
    assert (403, "policy_missing", "PolicyRouter") == (unnamed.status, unnamed.reason, unnamed.layer), unnamed
    ambiguous = await call(router, "GET /v1//models", as_=ADA)
    assert (400, "ambiguous_path") == (ambiguous.status, ambiguous.reason), ambiguous
    assert [] == app.scopes


async def test_a_socket_is_asked_for_its_handshake() -> None:
    allowed = await call(GUARD, "WS /v1/realtime", as_=ADA, model="gpt-4o-realtime")
    assert (True, 101) == (allowed.allowed, allowed.status), allowed
    assert allowed.call is not None
    assert ("gpt-4o-realtime",) == allowed.call.models
    denied = await call(GUARD, "WS /v1/realtime", as_=ADA, model="o3")
    assert (False, 403, "model_not_allowed") == (denied.allowed, denied.status, denied.reason), denied
    nobody = await call(GUARD, "WS /v1/realtime", model="gpt-4o-realtime")
    assert (False, 401, "missing_credential") == (nobody.allowed, nobody.status, nobody.reason), nobody


async def test_a_socket_is_asked_for_its_first_message() -> None:
    def update(model: str) -> dict[str, Any]:
        return {"type": "session.update", "session": {"model": model}}

    assert (await call(GUARD, "WS /v1/realtime", as_=ADA, model="gpt-4o", json=update("gpt-4o-mini"))).allowed
    denied = await call(GUARD, "WS /v1/realtime", as_=ADA, model="gpt-4o", json=update("o3"))
    assert (False, 403, "model_not_allowed") == (denied.allowed, denied.status, denied.reason), denied


async def test_what_is_on_trial_is_told_and_does_not_deny() -> None:
    answer = await call([keys, Middleware(RBACMiddleware, roles={"member": MEMBER}, shadow=True)], CHAT, as_=ADA, model="o3")
    assert (True, None) == (answer.allowed, answer.reason), answer
    assert [("model_not_allowed", "member")] == [(denial.reason, denial.rule) for denial in answer.shadowed]
    assert "✓ (on trial: model_not_allowed)" == answer.verdict


async def test_a_foreign_layer_that_answers_by_itself_has_not_let_the_request_through() -> None:
    answer = await call([Middleware(TrustedHostMiddleware, allowed_hosts=["llm.example"]), keys], CHAT, as_=ADA)
    assert (False, 400, None, None) == (answer.allowed, answer.status, answer.reason, answer.layer), answer
    assert "400 (foreign)" == answer.verdict
    assert (
        await call(
            [Middleware(TrustedHostMiddleware, allowed_hosts=["llm.example"]), keys], CHAT, as_=ADA, headers=[(b"host", b"llm.example")]
        )
    ).allowed


async def test_what_a_layer_raises_reaches_the_test() -> None:
    class Broken:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"):
        await call([Middleware(Broken)], CHAT)


async def test_an_edge_is_not_asked_about_a_principal() -> None:
    edge = Middleware(
        HeaderTrustMiddleware, realm="corp", headers=HeaderMap(user="x-user"), proof=SharedSecret(header="x-proof", secret=PROOF)
    )
    assert (await call([edge, keys], CHAT, as_=ADA)).allowed
    told = await call([edge, keys], CHAT, headers=[(b"x-user", b"bob"), (b"x-proof", PROOF.encode())])
    assert (True, "bob") == (told.allowed, told.principal.user), told


MODEL = "gpt-4o"
IN_THE_BODY = {
    "chat": CHAT,
    "without /v1, behind a mount": "POST /proxy/openai/chat/completions",
    "embeddings": "POST /v1/embeddings",
    "messages": "POST /v1/messages",
    "rerank": "POST /v2/rerank",
    "a route that is in no table": "POST /v1/anything/else",
}
IN_THE_PATH = {
    "gemini": "POST /v1beta/models/{model}:generateContent",
    "bedrock": "POST /model/{model}/invoke",
    "azure": "POST /openai/deployments/{model}/chat/completions",
    "a model's own page": "GET /v1/models/{model}",
}


@pytest.mark.parametrize("target", IN_THE_BODY.values(), ids=IN_THE_BODY)
async def test_a_model_is_named_in_the_body_where_the_api_does(target: str) -> None:
    scope, body = await seen(target, model=MODEL, json={"stream": True})
    assert {"model": MODEL, "stream": True} == msgspec.json.decode(body)
    assert [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))] == scope["headers"]


@pytest.mark.parametrize("target", IN_THE_PATH.values(), ids=IN_THE_PATH)
async def test_a_model_is_named_in_the_path_where_the_api_does(target: str) -> None:
    scope, body = await seen(target, model=MODEL)
    assert target.partition(" ")[2].format(model=MODEL) == scope["path"]
    assert (b"" if target.startswith("GET") else b"{}") == body


async def test_a_model_may_take_several_segments_and_other_signs() -> None:
    scope, _ = await seen("POST /model/{model}/invoke", model="arn:aws:bedrock:eu/a%b é")
    assert ("/model/arn:aws:bedrock:eu/a%b é/invoke", b"/model/arn:aws:bedrock:eu/a%25b%20%C3%A9/invoke") == (
        scope["path"],
        scope["raw_path"],
    )


async def test_a_model_is_a_field_of_a_form_where_the_api_takes_one() -> None:
    scope, body = await seen("POST /v1/audio/transcriptions", model="whisper-1", json={"language": "de", "temperature": 0})
    assert (b"content-type", b"multipart/form-data; boundary=policy-test") == scope["headers"][0]
    for name, value in ((b"model", b"whisper-1"), (b"language", b"de"), (b"temperature", b"0")):
        assert b'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value) in body
    assert body.startswith(b"--policy-test\r\n")
    assert body.endswith(b"--policy-test--\r\n")


async def test_a_socket_names_its_model_in_the_query() -> None:
    scope, _ = await seen("WS /v1/realtime", model="gpt-4o realtime", query="intent=transcription")
    assert b"intent=transcription&model=gpt-4o+realtime" == scope["query_string"]


@pytest.mark.parametrize("target", [*IN_THE_BODY.values(), *IN_THE_PATH.values(), "POST /v1/audio/transcriptions", "WS /v1/realtime"])
async def test_the_model_that_is_asked_for_is_the_one_that_is_decided_on(target: str) -> None:
    own_route = Role(routes=["*", "POST /v1/anything/else"], models=[MODEL])
    guard = [keys, Middleware(RBACMiddleware, roles={"member": own_route})]
    allowed, denied = [await call(guard, target, as_=ADA, model=model) for model in (MODEL, "o3")]
    assert allowed.allowed, allowed
    assert allowed.call is not None
    assert (MODEL,) == allowed.call.models
    assert (403, "model_not_allowed") == (denied.status, denied.reason), denied


async def test_an_mcp_request_lists_tools_or_is_the_one_that_is_given() -> None:
    guard = [keys, Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], tools=["search"])})]

    def use(tool: str) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}

    assert (await call(guard, "POST /mcp", as_=ADA)).allowed
    assert (await call(guard, "POST /mcp", as_=ADA, json=use("search"))).allowed
    denied = await call(guard, "POST /mcp", as_=ADA, json=use("delete"))
    assert (403, "tool_not_allowed") == (denied.status, denied.reason), denied


async def test_a_body_of_ones_own_is_sent_as_it_is() -> None:
    scope, body = await seen(CHAT, body=b'{"model":"a","model":"b"}', headers=[(b"content-type", b"application/json")])
    assert ([(b"content-type", b"application/json")], b'{"model":"a","model":"b"}') == (scope["headers"], body)
    twice = await call(GUARD, CHAT, as_=ADA, body=body, headers=scope["headers"])
    assert (400, "request_malformed") == (twice.status, twice.reason), twice


WRONG: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "no method": ("target", "/v1/models", {}),
    "a lower-case method": ("target", "get /v1/models", {}),
    "no path": ("target", "GET v1/models", {}),
    "a path that is not ASCII": ("target", "GET /modèles", {}),
    "a principal and a token": ("as_", CHAT, {"as_": ADA, "bearer": KEY}),
    "a principal and a key in a header": ("as_", CHAT, {"as_": ADA, "headers": [(b"X-Api-Key", KEY.encode())]}),
    "a principal who is nobody": ("as_", CHAT, {"as_": ANONYMOUS}),
    "a model where there is no place for one": ("model", "GET /v1/models", {"model": MODEL}),
    "a model for an MCP server": ("model", "POST /mcp", {"model": MODEL}),
    "no model for its place": ("model", "POST /model/{model}/invoke", {}),
    "another model than the path's": ("model", "POST /model/o3/invoke", {"model": MODEL}),
    "two models": ("model", CHAT, {"model": MODEL, "json": {"model": MODEL}}),
    "a model beside a body": ("model", CHAT, {"model": MODEL, "body": b"{}"}),
    "two bodies": ("body", CHAT, {"json": {}, "body": b"{}"}),
    "no address": ("address", CHAT, {"address": "localhost"}),
}


@pytest.mark.parametrize(("option", "target", "asked"), WRONG.values(), ids=WRONG)
async def test_a_question_that_contradicts_itself_is_refused(option: str, target: str, asked: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        await call(GUARD, target, **asked)
    assert option == refused.value.option


@pytest.mark.parametrize(
    "guard", [pytest.param(Witness(), id="an app"), pytest.param(KeyAuthMiddleware(Witness(), keys=StaticKeys({"ci": KEY})), id="a layer")]
)
async def test_what_cannot_be_put_around_another_app_is_refused(guard: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a Stack"):
        await call(guard, CHAT)


class Hiding:
    """A foreign layer that does not show what stands inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._inside = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inside(scope, receive, send)


async def test_a_principal_cannot_stand_for_two_credentials() -> None:
    guard = Stack(keys, Middleware(Hiding), Middleware(CustomAuthMiddleware, authenticate=lambda _: None))
    with pytest.raises(ConfigurationError, match="two runs"):
        await call(guard, CHAT, as_=ADA)


async def test_an_answer_says_everything_that_a_failing_test_needs() -> None:
    denied = await call(GUARD, CHAT, as_=ADA, model="o3", query="key=hidden")
    text = repr(denied)
    for part in ("denied 403 model_not_allowed", "rule 'member'", "layer 'RBACMiddleware'", f"{CHAT} for o3 as ada with roles member"):
        assert part in text
    assert "KeyAuthMiddleware passed, RBACMiddleware denied" in text
    assert "hidden" not in text
    # What pytest shows of an object before it cuts its middle out.
    assert len(text) <= 240
    assert text == str(denied)


async def test_an_answer_holds_no_credential() -> None:
    for answer in (await call(GUARD, CHAT, bearer=KEY, model="gpt-4o"), await call(GUARD, CHAT, bearer=KEY + "x")):
        assert isinstance(answer, Answer)
        assert KEY not in repr(answer)
        assert KEY not in repr(answer.response)
