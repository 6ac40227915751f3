"""`IntrospectionMiddleware`, through real requests."""

import hashlib
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import (
    ANONYMOUS,
    ConfigurationError,
    Decision,
    Denial,
    KeyAuthMiddleware,
    Principal,
    Stack,
    StaticKey,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.credentials import Credential
from llm_authmw.authn.introspection import IntrospectionMiddleware
from llm_authmw.authn.jwt import JWTMiddleware
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.protected_resource import ProtectedResource
from llm_authmw.testing import ManualClock, Response, TestIssuer, WebSocketClosed, lifespan, request, stream, websocket
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens.base64url import encode
from llm_authmw.tokens.introspection import Introspector

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/introspect"
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
CERTIFICATE = hashlib.sha256(b"certificate").digest()
NAMED = "sha256:" + hashlib.sha256(b"t0ken").hexdigest()[:16]


class CertificateLayer(AuthenticationLayer):
    """An edge layer that has seen a certificate, which nobody is known by."""

    challenge = "Bearer"
    edge = True

    def __init__(self, app: ASGIApp, *, certificate: bytes | None) -> None:
        super().__init__(app, required=False)
        self.certificate = certificate

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        run.certificate = self.certificate
        return None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider(clock: ManualClock) -> TokenProvider:
    return TokenProvider(t0ken={"active": True, "sub": "ada", "token_type": "Bearer", "exp": clock.now() + 300})


@pytest.fixture
def options(provider: TokenProvider, clock: ManualClock) -> dict[str, Any]:
    return {"endpoint": ENDPOINT, "client_id": "llm-proxy", "client_secret": "s3cret", "realm": "corp", "http": provider, "clock": clock}


@pytest.fixture
def app() -> Witness:
    return Witness()


@pytest.fixture
def layer(app: Witness, options: dict[str, Any]) -> IntrospectionMiddleware:
    return IntrospectionMiddleware(app, **options)


def bearer(token: str = "t0ken") -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + token.encode())]


async def ask(layer: ASGIApp, headers: list[tuple[bytes, bytes]]) -> tuple[Response, list[Decision]]:
    context = RequestContext()
    return await request(layer, "GET /v1/models", headers=headers, scope={CONTEXT_KEY: context}), context.decisions


async def refused(layer: ASGIApp, app: Witness, headers: list[tuple[bytes, bytes]]) -> tuple[int, str | None, str | None, list[Decision]]:
    response, decisions = await ask(layer, headers)
    assert [] == app.scopes
    return response.status, response.header("x-authmw-reason"), response.header("www-authenticate"), decisions


async def test_no_token_is_401_without_an_error(layer: IntrospectionMiddleware, app: Witness, provider: TokenProvider) -> None:
    decisions = [Decision("IntrospectionMiddleware", "passed"), Decision("IntrospectionMiddleware", "denied", "missing_credential")]
    assert (401, "missing_credential", "Bearer", decisions) == await refused(layer, app, [])
    assert [] == provider.asked


@pytest.mark.parametrize(
    "headers", [[(b"authorization", b"Basic YWRhOmJ5cm9u")], [(b"authorization", b"DPoP t0ken")], [(b"x-api-key", b"t0ken")]]
)
async def test_another_credential_is_not_asked_about(
    layer: IntrospectionMiddleware, app: Witness, provider: TokenProvider, headers: list[tuple[bytes, bytes]]
) -> None:
    status, reason, _, _ = await refused(layer, app, headers)
    assert (401, "credential_not_accepted") == (status, reason)
    assert [] == provider.asked


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("said", "reason", "told"),
    [
        ({"active": False}, "token_inactive", "invalid_token"),
        ({"active": True, "sub": "ada", "exp": 1_700_000_000}, "token_expired", "token_expired"),
        ({"active": True, "sub": "ada", "nbf": 1_900_000_000}, "token_not_yet_valid", "token_not_yet_valid"),
        ({"active": True, "sub": "ada", "token_type": "DPoP"}, "token_type_mismatch", "token_type_mismatch"),
        ({"active": True, "sub": "ada", "cnf": {"jkt": "x"}}, "token_binding_mismatch", "token_binding_mismatch"),
        ({"active": True, "sub": 7}, "token_claim_invalid", "token_claim_invalid"),
        ({"active": True}, "token_claim_missing", "token_claim_missing"),
    ],
)
async def test_a_token_that_is_no_good_is_401_also_where_anonymous_callers_get_through(
    options: dict[str, Any], app: Witness, provider: TokenProvider, said: dict[str, Any], reason: str, told: str, required: bool
) -> None:
    provider.answers["t0ken"] = said
    layer = IntrospectionMiddleware(app, **options, required=required)
    decisions = [Decision("IntrospectionMiddleware", "denied", reason, NAMED)]
    assert (401, told, 'Bearer error="invalid_token"', decisions) == await refused(layer, app, bearer())


async def test_a_text_that_is_no_token_is_401(layer: IntrospectionMiddleware, app: Witness, provider: TokenProvider) -> None:
    status, told, _, decisions = await refused(layer, app, bearer("not;a;token"))
    assert (401, "invalid_token", "token_malformed") == (status, told, decisions[0].reason)
    assert [] == provider.asked


@pytest.mark.parametrize("required", [True, False])
async def test_a_provider_that_is_down_is_503_with_a_time_to_wait(
    options: dict[str, Any], app: Witness, provider: TokenProvider, required: bool
) -> None:
    layer = IntrospectionMiddleware(app, **options, required=required)
    provider.outage = Reply(503)
    for _ in range(7):
        response, decisions = await ask(layer, bearer())
        assert (503, "issuer_unavailable", "1", None) == (
            response.status,
            response.header("x-authmw-reason"),
            response.header("retry-after"),
            response.header("www-authenticate"),
        )
        assert [Decision("IntrospectionMiddleware", "denied", "issuer_unavailable", NAMED)] == decisions
    assert [] == app.scopes
    async with websocket(layer, "/v1/realtime", headers=bearer()) as socket:
        assert 503 == socket.response.status


async def test_while_the_provider_is_down_those_who_are_known_get_in(
    layer: IntrospectionMiddleware, app: Witness, provider: TokenProvider
) -> None:
    assert 200 == (await ask(layer, bearer()))[0].status
    provider.outage = ConnectionRefusedError()
    assert 503 == (await ask(layer, bearer("unknown")))[0].status
    assert 200 == (await ask(layer, bearer()))[0].status
    assert ["ada", "ada"] == app.subjects


async def test_a_good_token_is_let_in(layer: IntrospectionMiddleware, app: Witness) -> None:
    response, decisions = await ask(layer, bearer())
    assert (200, [Decision("IntrospectionMiddleware", "allowed", None, NAMED)]) == (response.status, decisions)
    (scope,) = app.scopes
    assert ("corp", "ada", "introspection") == (scope["user"].realm, scope["user"].user, scope["user"].method)


async def test_a_good_token_opens_a_socket(layer: IntrospectionMiddleware, app: Witness) -> None:
    async with websocket(layer, "/v1/realtime", headers=bearer()) as socket:
        await socket.send_text("who am I?")
        assert "ada" == await socket.receive()
    assert ["ada"] == app.subjects


async def test_nobody_gets_through_without_a_token_only_where_that_is_said(options: dict[str, Any], app: Witness) -> None:
    assert 200 == (await ask(IntrospectionMiddleware(app, **options, required=False), []))[0].status
    assert [ANONYMOUS] == [scope["user"] for scope in app.scopes]


@pytest.mark.parametrize("proven", [None, hashlib.sha256(b"another").digest()], ids=["none", "another"])
async def test_a_stolen_token_is_worth_nothing_without_its_certificate(
    options: dict[str, Any], app: Witness, provider: TokenProvider, proven: bytes | None
) -> None:
    provider.answers["t0ken"]["cnf"] = {"x5t#S256": encode(CERTIFICATE).decode()}
    layer = CertificateLayer(IntrospectionMiddleware(app, **options), certificate=proven)
    status, told, _, decisions = await refused(layer, app, bearer())
    assert (401, "token_binding_mismatch", NAMED) == (status, told, decisions[-1].credential_id)


async def test_a_token_is_good_with_its_certificate_and_the_refusal_of_others_is_not_remembered(
    options: dict[str, Any], app: Witness, provider: TokenProvider
) -> None:
    provider.answers["t0ken"]["cnf"] = {"x5t#S256": encode(CERTIFICATE).decode()}
    introspection = IntrospectionMiddleware(app, **options)
    assert 401 == (await ask(introspection, bearer()))[0].status
    assert 200 == (await ask(CertificateLayer(introspection, certificate=CERTIFICATE), bearer()))[0].status
    assert 401 == (await ask(introspection, bearer()))[0].status
    assert (("x5t#S256", encode(CERTIFICATE).decode()),) == app.scopes[0]["user"].confirmation


async def test_it_takes_what_the_layers_outside_of_it_leave(
    options: dict[str, Any], app: Witness, provider: TokenProvider, clock: ManualClock
) -> None:
    issuer = TestIssuer(clock=clock)
    provider.answers[foreign := TestIssuer(issuer="https://other.example", clock=clock).token()] = {"active": True, "sub": "eve"}
    guarded = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY, user="key-user")})),
        Middleware(JWTMiddleware, issuers=[issuer.trusted()]),
        Middleware(IntrospectionMiddleware, **options),
    )(app)
    for token in (KEY, issuer.token(sub="bob"), "t0ken", foreign):
        assert 200 == (await ask(guarded, bearer(token)))[0].status
    assert ["key-user", "bob", "ada", "eve"] == app.subjects
    assert ["t0ken", foreign] == provider.tokens
    assert 401 == (await ask(guarded, bearer(issuer.token(exp=1))))[0].status
    assert 2 == len(provider.asked), "a token of a known issuer gets no second chance"


INSIDE: dict[str, Callable[[ASGIApp], AuthenticationLayer]] = {
    "KeyAuthMiddleware": lambda app: KeyAuthMiddleware(app, keys=StaticKeys({"ci": StaticKey(KEY, user="ada")})),
    "JWTMiddleware": lambda app: JWTMiddleware(app, issuers=[TestIssuer().trusted()]),
    "IntrospectionMiddleware": lambda app: IntrospectionMiddleware(app, endpoint=ENDPOINT, client_id="y", client_secret="s"),
}


@pytest.mark.parametrize("inner", INSIDE)
@pytest.mark.parametrize("between", [False, True])
def test_a_layer_for_bearer_tokens_inside_of_it_is_refused(options: dict[str, Any], inner: str, between: bool) -> None:
    inside = INSIDE[inner](Witness())
    with pytest.raises(ConfigurationError) as caught:
        IntrospectionMiddleware(CertificateLayer(inside, certificate=None) if between else inside, **options)
    assert ("IntrospectionMiddleware", True) == (caught.value.option, inner in caught.value.problem)


def test_an_edge_inside_of_it_is_fine(options: dict[str, Any], app: Witness) -> None:
    IntrospectionMiddleware(CertificateLayer(app, certificate=None), **options)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"introspector": "https://sso.example.com"}, "introspector"),
        ({"endpoint": None}, "endpoint"),
        ({"client_secret": None}, "client_secret"),
        ({"required": "yes"}, "required"),
        ({"resource": "https://llm.example.com"}, "resource"),
    ],
)
def test_an_option_that_is_wrong_is_refused(options: dict[str, Any], given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        IntrospectionMiddleware(Witness(), **{**options, **given})
    assert named == caught.value.option


def test_a_handle_and_options_of_one_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        IntrospectionMiddleware(Witness(), introspector=Introspector(**options), realm="corp")
    assert "realm" == caught.value.option


def test_an_option_that_does_not_exist_is_refused_by_a_stack(options: dict[str, Any]) -> None:
    misspelt: dict[str, Any] = {**options, "audiences": ["api://llm"]}
    with pytest.raises(ConfigurationError, match="audiences"):
        Stack(Middleware(IntrospectionMiddleware, **misspelt))


async def test_layers_of_one_entry_share_what_they_know(options: dict[str, Any], provider: TokenProvider) -> None:
    entry = Middleware(IntrospectionMiddleware, **options)
    layers: list[Any] = [entry.cls(Witness(), *entry.args, **entry.kwargs) for _ in range(120)]
    for layer in layers:
        assert 200 == (await ask(layer, bearer()))[0].status
    assert 1 == len(provider.asked)


async def test_layers_with_one_handle_share_what_it_knows(options: dict[str, Any], provider: TokenProvider) -> None:
    introspector = Introspector(**options)
    for required in (True, False):
        assert 200 == (await ask(IntrospectionMiddleware(Witness(), introspector=introspector, required=required), bearer()))[0].status
    assert 1 == len(provider.asked)


async def test_the_challenge_leads_to_the_metadata_of_the_resource(options: dict[str, Any], app: Witness) -> None:
    resource = ProtectedResource("https://llm.example.com", authorization_servers=["https://sso.example.com"])
    layer = IntrospectionMiddleware(app, **options, resource=resource)
    _, _, challenge, _ = await refused(layer, app, [])
    assert challenge is not None
    assert "resource_metadata=" in challenge


async def test_a_lifespan_starts_and_closes_it_and_the_next_request_works(options: dict[str, Any], app: Witness) -> None:
    guarded = Stack(Middleware(IntrospectionMiddleware, **options))(app)
    async with lifespan(guarded):
        assert 200 == (await ask(guarded, bearer()))[0].status
    assert 200 == (await ask(guarded, bearer()))[0].status


def test_it_prints_no_secret(layer: IntrospectionMiddleware) -> None:
    assert f"IntrospectionMiddleware(Introspector({ENDPOINT!r}, mode='rfc7662'), required=True)" == repr(layer)


class Streaming:
    """An app that sends a chunk whenever it is told to."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.go_on.wait()
        for chunk in (b"data: 2\n\n", b"data: 3\n\n"):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def streamed(layer: ASGIApp, app: Streaming, change: Callable[[], None]) -> tuple[str, list[Decision]]:
    """Return what a client got of a stream during which something changed."""
    context = RequestContext()
    async with stream(layer, "POST /v1/chat/completions", headers=bearer(), scope={CONTEXT_KEY: context}) as exchange:
        assert b"data: 1\n\n" == await exchange.next_chunk()
        change()
        app.go_on.set()
        async for _ in exchange:
            pass
    return exchange.response.text, context.decisions


@pytest.mark.parametrize(
    ("seconds", "said", "reason"),
    [
        (60.0, {"active": False}, "token_inactive"),
        (300.0, None, "token_inactive"),
        (60.0, Reply(503), "issuer_unavailable"),
        (60.0, {"active": True, "sub": "ada", "cnf": {"x5t#S256": encode(CERTIFICATE).decode()}}, "token_binding_mismatch"),
    ],
)
async def test_a_stream_ends_when_the_token_stands_no_longer(
    options: dict[str, Any], provider: TokenProvider, clock: ManualClock, seconds: float, said: Any, reason: str
) -> None:
    app = Streaming()

    def change() -> None:
        clock.advance(seconds)
        provider.answers["t0ken"] = said or {"active": False}

    text, decisions = await streamed(IntrospectionMiddleware(app, **options), app, change)
    assert "data: 2" not in text
    assert Decision("IntrospectionMiddleware", "denied", reason, NAMED) == decisions[-1]


async def test_a_stream_ends_when_the_check_fails_to_run(
    options: dict[str, Any], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Introspector, token: bytes) -> Any:
        raise ZeroDivisionError

    def change() -> None:
        clock.advance(60)
        monkeypatch.setattr(Introspector, "introspect", broken)

    app = Streaming()
    text, decisions = await streamed(IntrospectionMiddleware(app, **options), app, change)
    assert ("check_failed", False) == (decisions[-1].reason, "data: 2" in text)


async def test_what_stands_for_an_open_stream_does_not_print_its_token(layer: IntrospectionMiddleware) -> None:
    run = Run(Credential(b"authorization", b"bearer", b"t0ken"))
    await layer.authenticate({}, RequestContext(), run)
    assert run.standing is not None
    assert "t0ken" not in repr(run.standing)


@pytest.mark.parametrize(("seconds", "calls"), [(59.9, 1), (60.0, 2)])
async def test_a_stream_goes_on_while_the_token_stands_and_asks_when_the_answer_is_old(
    options: dict[str, Any], provider: TokenProvider, clock: ManualClock, seconds: float, calls: int
) -> None:
    app = Streaming()
    text, _ = await streamed(IntrospectionMiddleware(app, **options), app, lambda: clock.advance(seconds))
    assert "data: 1\n\ndata: 2\n\ndata: 3\n\n" == text
    assert calls == len(provider.asked)


@pytest.mark.parametrize(("seconds", "calls"), [(0.9, 1), (1.0, 2)])
async def test_a_stream_does_not_ask_at_each_chunk_where_nothing_is_remembered(
    options: dict[str, Any], provider: TokenProvider, clock: ManualClock, seconds: float, calls: int
) -> None:
    app = Streaming()
    await streamed(IntrospectionMiddleware(app, **options, cache_ttl=0), app, lambda: clock.advance(seconds))
    assert calls == len(provider.asked)


async def test_a_socket_is_closed_when_the_token_was_revoked(
    layer: IntrospectionMiddleware, provider: TokenProvider, clock: ManualClock
) -> None:
    async with websocket(layer, "/v1/realtime", headers=bearer()) as socket:
        await socket.send_text("one")
        assert "ada" == await socket.receive()
        provider.answers["t0ken"] = {"active": False}
        clock.advance(60)
        await socket.send_text("two")
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
    assert (1008, "invalid_token") == (closed.value.code, closed.value.reason)
