"""Tokens of callers: what they must say, who they then are, and what a client is told when they do not."""

import logging
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import (
    ANONYMOUS,
    Assurance,
    ClaimMap,
    ConfigurationError,
    Constant,
    Decision,
    EmailDomain,
    Issuer,
    JWTMiddleware,
    KeyAuthMiddleware,
    Principal,
    ProtectedResource,
    RequestContext,
    Stack,
    StaticKeys,
    open_store,
)
from llm_authmw.asgi import Scope
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.errors import Denial
from llm_authmw.quota import Budget, Limit
from llm_authmw.testing import ManualClock, Response, TestIssuer, make_signing_key, stream, websocket
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens.base64url import encode

pytestmark = pytest.mark.anyio

LAYER = "JWTMiddleware"
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
CERTIFICATE = bytes(range(32))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> TestIssuer:
    return TestIssuer(algorithm="ES256", clock=clock)


class CertificateLayer(AuthenticationLayer):
    """An edge layer that has proven a client's certificate, and names nobody."""

    challenge = "ClientCertificate"
    edge = True

    def __init__(self, app: Any, *, certificate: bytes | None = CERTIFICATE) -> None:
        super().__init__(app, required=False)
        self.certificate = certificate

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        run.certificate = self.certificate
        return None


def bearer(token: str) -> tuple[bytes, bytes]:
    return (b"authorization", f"Bearer {token}".encode())


async def ask(layer: Any, *lines: tuple[bytes, bytes]) -> tuple[Response, RequestContext]:
    async with stream(layer, "GET /v1/models", headers=lines) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


async def refusal(trusted: Issuer, token: str) -> str | None:
    """Return the reason why a token is refused, twice: cold and warm; None where it is accepted."""
    reasons: list[str | None] = []
    for _ in range(2):
        app = Witness()
        response, context = await ask(JWTMiddleware(app, issuers=[trusted]), bearer(token))
        last = context.decisions[-1]
        assert (response.status, bool(app.scopes)) == ((200, True) if last.outcome == "allowed" else (401, False))
        reasons.append(last.reason)
    assert reasons[0] == reasons[1]
    return reasons[0]


async def principal_of(trusted: Issuer, token: str) -> Principal:
    response, context = await ask(JWTMiddleware(Witness(), issuers=[trusted]), bearer(token))
    assert 200 == response.status
    return context.principal


async def test_without_a_token_the_challenge_names_no_error(issuer: TestIssuer) -> None:
    """RFC 6750 §3.1: a request without any credential learns how to get in, and no error code."""
    app = Witness()
    response, context = await ask(JWTMiddleware(app, issuers=[issuer.trusted()]))
    assert (401, "Bearer", "missing_credential") == (
        response.status,
        response.header("www-authenticate"),
        response.header("x-authmw-reason"),
    )
    assert [Decision(LAYER, "passed"), Decision(LAYER, "denied", "missing_credential")] == context.decisions
    assert ([], ANONYMOUS) == (app.scopes, context.principal)


async def test_a_bad_token_is_told_as_invalid_and_recorded_exactly(issuer: TestIssuer) -> None:
    app = Witness()
    forged = issuer.token(key=make_signing_key("ES256", kid=issuer.keys[0].kid))
    response, context = await ask(JWTMiddleware(app, issuers=[issuer.trusted()]), bearer(forged))
    assert (401, 'Bearer error="invalid_token"') == (response.status, response.header("www-authenticate"))
    assert "invalid_token" == response.header("x-authmw-reason")
    (decision,) = context.decisions
    assert (LAYER, "denied", "token_signature_invalid") == (decision.layer, decision.outcome, decision.reason)
    assert str(decision.credential_id).startswith("sha256:")
    assert 23 == len(str(decision.credential_id))
    assert ([], ANONYMOUS) == (app.scopes, context.principal)


async def test_whoever_holds_a_signed_token_is_told_what_is_wrong_with_it(issuer: TestIssuer) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "token_expired": {"exp": 1},
        "audience_mismatch": {"aud": "x"},
        "token_claim_missing": {"sub": None},
    }
    for reason, claims in wrong.items():
        response, _ = await ask(JWTMiddleware(Witness(), issuers=[issuer.trusted()]), bearer(issuer.token(**claims)))
        assert (401, reason) == (response.status, response.header("x-authmw-reason"))


async def test_a_challenge_leads_to_the_metadata_of_the_resource(issuer: TestIssuer) -> None:
    """RFC 9728 §5.1."""
    resource = ProtectedResource("https://llm.example/v1", authorization_servers=[issuer.issuer], required_scopes=["llm:read"])
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted()], resource=resource)
    told = 'Bearer resource_metadata="https://llm.example/.well-known/oauth-protected-resource/v1", scope="llm:read"'
    assert told == (await ask(layer))[0].header("www-authenticate")
    assert f'{told}, error="invalid_token"' == (await ask(layer, bearer(issuer.token(exp=1))))[0].header("www-authenticate")


async def test_a_good_token_is_let_in_and_recorded_by_its_id(issuer: TestIssuer) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()])
    for _ in range(2):
        response, context = await ask(layer, bearer(issuer.token(jti="t-1")))
        assert (200, [Decision(LAYER, "allowed", None, "t-1")]) == (response.status, context.decisions)
        assert context.principal is app.scopes[-1]["user"]
    assert ["ada", "ada"] == app.subjects


@pytest.mark.parametrize("jti", [None, "x\n", "", " x", "j" * 513])
async def test_a_token_without_a_usable_id_is_known_by_a_digest(issuer: TestIssuer, jti: str | None) -> None:
    principal = await principal_of(issuer.trusted(), issuer.token(jti=jti))
    assert str(principal.credential_id).startswith("sha256:")


async def test_nobody_is_required_where_the_layer_says_so_and_a_bad_token_is_refused_there_too(issuer: TestIssuer) -> None:
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted()], required=False)
    assert 200 == (await ask(layer))[0].status
    for token in (issuer.token(exp=1), "opaque"):
        assert 401 == (await ask(layer, bearer(token)))[0].status


NOW = 1_800_000_000
TIMES: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"exp": NOW}, {"leeway": 0}, "token_expired"),
    ({"exp": NOW + 1}, {"leeway": 0}, None),
    ({"exp": NOW + 0.001}, {"leeway": 0}, None),
    ({"exp": NOW - 5}, {"leeway": 5}, "token_expired"),
    ({"exp": NOW - 4}, {"leeway": 5}, None),
    ({"exp": NOW - 59}, {"leeway": 60}, None),
    ({"exp": 0}, {}, "token_expired"),
    ({"exp": -1}, {}, "token_expired"),
    ({"nbf": NOW}, {"leeway": 0}, None),
    ({"nbf": NOW + 1}, {"leeway": 0}, "token_not_yet_valid"),
    ({"nbf": NOW + 5}, {"leeway": 5}, None),
    ({"nbf": NOW + 6}, {"leeway": 5}, "token_not_yet_valid"),
    ({"iat": NOW + 5}, {"leeway": 5}, None),
    ({"iat": NOW + 6}, {"leeway": 5}, "token_not_yet_valid"),
    ({"iat": NOW + 1}, {"leeway": 0}, "token_not_yet_valid"),
    ({"iat": None}, {}, None),
    ({"iat": None}, {"max_age": 60}, "token_claim_missing"),
    ({"iat": NOW - 60}, {"max_age": 60, "leeway": 0}, "token_too_old"),
    ({"iat": NOW - 59}, {"max_age": 60, "leeway": 0}, None),
    ({"iat": NOW - 65}, {"max_age": 60, "leeway": 5}, "token_too_old"),
    ({"iat": NOW - 64}, {"max_age": 60, "leeway": 5}, None),
]


@pytest.mark.parametrize(("claims", "options", "reason"), TIMES, ids=str)
async def test_the_times_of_a_token_are_kept_to_the_second(
    issuer: TestIssuer, claims: dict[str, Any], options: dict[str, Any], reason: str | None
) -> None:
    assert reason == await refusal(issuer.trusted(**options), issuer.token(**claims))


async def test_what_is_remembered_ends_when_the_token_does(issuer: TestIssuer, clock: ManualClock) -> None:
    trusted = issuer.trusted(leeway=0)
    token, aging = issuer.token(exp=NOW + 10), issuer.token(exp=NOW + 1000)
    aged = issuer.trusted(max_age=100, leeway=0)
    assert (None, None) == (await refusal(trusted, token), await refusal(aged, aging))
    clock.advance(9.999)
    assert await refusal(trusted, token) is None
    clock.advance(0.001)
    assert "token_expired" == await refusal(trusted, token)
    clock.advance(90)
    assert "token_too_old" == await refusal(issuer.trusted(max_age=100, leeway=0), aging)
    assert "token_expired" == await refusal(aged, aging)


async def test_what_is_remembered_does_not_begin_early_when_the_date_is_set_back(issuer: TestIssuer, clock: ManualClock) -> None:
    trusted = issuer.trusted(leeway=0)
    token = issuer.token(nbf=NOW)
    assert await refusal(trusted, token) is None
    clock.set(NOW - 1)
    assert "token_not_yet_valid" == await refusal(trusted, token)


TYPES: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"typ": "at+jwt"}, None, None),
    ({"typ": "JWT"}, None, None),
    ({"typ": None}, None, None),
    ({"typ": "application/at+jwt"}, None, None),
    ({"typ": "rfc9068"}, None, None),
    ({"typ": "at+jwt"}, "at+jwt", None),
    ({"typ": "AT+JWT"}, "application/at+JWT", None),
    ({"typ": "JWT"}, "at+jwt", "token_type_mismatch"),
    ({"typ": None}, "at+jwt", "token_type_mismatch"),
    ({"typ": "at+jwt+x"}, "at+jwt", "token_type_mismatch"),
    ({"typ": "okta-internal-at+jwt"}, None, "token_type_mismatch"),
    ({"typ": "okta-internal-at+jwt"}, "okta-internal-at+jwt", None),
    ({"typ": "at+jwt"}, "okta-internal-at+jwt", "token_type_mismatch"),
]


@pytest.mark.parametrize(("header", "typ", "reason"), TYPES, ids=str)
async def test_the_type_of_a_token_is_looked_at(issuer: TestIssuer, header: dict[str, Any], typ: str | None, reason: str | None) -> None:
    """RFC 8725 §3.11, RFC 9068 §4."""
    assert reason == await refusal(issuer.trusted(typ=typ), issuer.token(header=header, client_id="web"))


@pytest.mark.parametrize("claim", ["sub", "client_id", "iat", "jti"])
async def test_an_access_token_has_the_claims_that_it_must_have(issuer: TestIssuer, claim: str) -> None:
    """RFC 9068 §2.2."""
    whole: dict[str, Any] = {"client_id": "web", "sub": "ada"}
    trusted = issuer.trusted(typ="at+jwt", claims=ClaimMap(client="client_id"))
    assert "token_claim_missing" == await refusal(trusted, issuer.token(**(whole | {claim: None})))
    assert await refusal(trusted, issuer.token(**whole)) is None


async def test_id_tokens_are_accepted_where_the_operator_says_so(issuer: TestIssuer) -> None:
    trusted = issuer.trusted(id_tokens=True)
    signs: list[dict[str, Any]] = [{"nonce": "n"}, {"at_hash": "x"}, {"typ": "ID"}, {"token_use": "id"}]
    for claims in signs:
        assert await refusal(trusted, issuer.token(header={"typ": "JWT"}, **claims)) is None
    assert "token_type_mismatch" == await refusal(trusted, issuer.token(typ="Refresh"))
    assert "token_type_mismatch" == await refusal(trusted, issuer.token(header={"typ": "logout+jwt"}))


CLIENTS: list[tuple[dict[str, Any], str | None]] = [
    ({"azp": "web"}, None),
    ({"client_id": "cli"}, None),
    ({"azp": "web", "client_id": "cli"}, None),
    ({}, "token_claim_missing"),
    ({"azp": "other"}, "token_claim_invalid"),
    ({"azp": "web", "client_id": "other"}, "token_claim_invalid"),
    ({"azp": "other", "client_id": "cli"}, "token_claim_invalid"),
    ({"azp": "WEB"}, "token_claim_invalid"),
    ({"azp": ["web"]}, "token_claim_invalid"),
    ({"azp": ""}, "token_claim_invalid"),
]


@pytest.mark.parametrize(("claims", "reason"), CLIENTS, ids=str)
async def test_tokens_of_other_clients_are_refused(issuer: TestIssuer, claims: dict[str, Any], reason: str | None) -> None:
    assert reason == await refusal(issuer.trusted(clients=["web", "cli"]), issuer.token(**claims))


REQUIRED: list[tuple[Any, dict[str, Any], str | None]] = [
    (["team"], {}, "token_claim_missing"),
    (["team"], {"team": "blue"}, None),
    (["team"], {"team": False}, None),
    ({"team": "blue"}, {"team": "blue"}, None),
    ({"team": "blue"}, {}, "token_claim_missing"),
    ({"team": "blue"}, {"team": "red"}, "token_claim_invalid"),
    ({"team": "blue"}, {"team": ["blue"]}, "token_claim_invalid"),
    ({"team": ["blue", "red"]}, {"team": "red"}, None),
    ({"team": ["blue", "red"], "hd": None}, {"team": "red"}, "token_claim_missing"),
    ({"team": ["blue", "red"], "hd": None}, {"team": "red", "hd": 5}, None),
    ({"org.team": "blue"}, {"org": {"team": "blue"}}, None),
    ({"org.team": "blue"}, {"org.team": "blue"}, None),
    ({"org.team": "blue"}, {"org.team": "red", "org": {"team": "blue"}}, "token_claim_invalid"),
    ({"org.team": "blue"}, {"org": "team"}, "token_claim_missing"),
]


@pytest.mark.parametrize(("required", "claims", "reason"), REQUIRED, ids=str)
async def test_required_claims_are_required(issuer: TestIssuer, required: Any, claims: dict[str, Any], reason: str | None) -> None:
    assert reason == await refusal(issuer.trusted(required_claims=required), issuer.token(**claims))


async def test_an_issuer_may_name_the_audience_in_another_claim(issuer: TestIssuer) -> None:
    trusted = issuer.trusted(audience="web", audience_claim="client_id")
    assert await refusal(trusted, issuer.token(aud=None, client_id="web")) is None
    assert "audience_mismatch" == await refusal(trusted, issuer.token(aud="web", client_id="other"))
    assert "audience_mismatch" == await refusal(trusted, issuer.token(aud="web"))


async def test_the_claims_that_are_mapped_become_the_principal(issuer: TestIssuer, clock: ManualClock) -> None:
    mapping = ClaimMap(
        user="uid",
        email="email",
        client="azp",
        team=("squad", "team"),
        org=EmailDomain("email"),
        tenant="tid",
        roles="realm_access.roles",
        groups="groups",
        tags=Constant(["token", "staff"]),
        tier="tier",
        models="models",
        limits="limits",
        budgets="budgets",
        keep=["department", "levels", "absent"],
    )
    token = issuer.token(
        uid="u-1",
        email="Ada@Corp.Example",
        email_verified=True,
        azp="web",
        team="blue",
        tid="acme",
        realm_access={"roles": ["writer", "reader", "writer"]},
        groups=["b", "a"],
        scope="llm:write llm:read",
        tier="gold",
        models=["gpt-4o*"],
        limits=["60 requests/minute"],
        budgets="50 usd/month",
        department="research",
        levels=[1, True, "x"],
        jti="t-1",
        auth_time=NOW - 60,
        acr="urn:mfa",
        amr=["pwd", "otp"],
        act={"sub": "agent", "act": {"sub": "tool"}},
        role="proxy_admin",
    )
    expected = Principal(
        tenant="acme",
        realm="staff",
        user="u-1",
        email="Ada@corp.example",
        client="web",
        team="blue",
        org="corp.example",
        roles=("reader", "writer"),
        scopes=("llm:read", "llm:write"),
        groups=("a", "b"),
        tags=("staff", "token"),
        tier="gold",
        models=("gpt-4o*",),
        limits=(Limit.parse("60 requests/minute"),),
        budgets=(Budget.parse("50 usd/month"),),
        claims=(("department", "research"), ("levels", (1, True, "x"))),
        method="jwt",
        issuer=issuer.issuer,
        credential_id="t-1",
        authenticated_at=float(NOW - 60),
        acr="urn:mfa",
        amr=("pwd", "otp"),
        actors=("agent", "tool"),
        expires_at=float(NOW + 600),
        assurance=Assurance.SIGNED,
    )
    trusted = issuer.trusted(realm="staff", claims=mapping)
    assert expected == await principal_of(trusted, token)
    assert expected == await principal_of(trusted, token)


async def test_nothing_is_granted_that_no_mapping_names(issuer: TestIssuer) -> None:
    """LiteLLM gave `proxy_admin` to whoever had it in an answer."""
    token = issuer.token(roles=["proxy_admin"], role="proxy_admin", groups=["admins"], tier="gold", team="root", email="a@b.example")
    principal = await principal_of(issuer.trusted(), token)
    assert ((), (), None, None, None) == (principal.roles, principal.groups, principal.tier, principal.team, principal.email)


async def test_equal_numbers_and_booleans_of_two_tokens_are_not_mixed_up(issuer: TestIssuer) -> None:
    trusted = issuer.trusted(claims=ClaimMap(keep=["level"]))
    kept = [(await principal_of(trusted, issuer.token(level=level))).claims[0][1] for level in (1, True, 1.0)]
    assert [int, bool, float] == [type(value) for value in kept]


@pytest.mark.parametrize("proven", [None, bytes(32), CERTIFICATE])
async def test_a_token_that_is_bound_to_a_certificate_comes_with_it(issuer: TestIssuer, proven: bytes | None) -> None:
    """RFC 8705 §3.1."""
    trusted = issuer.trusted()
    token = issuer.token(cnf={"x5t#S256": encode(CERTIFICATE).decode()})
    for _ in range(2):
        app = Witness()
        guarded = CertificateLayer(JWTMiddleware(app, issuers=[trusted]), certificate=proven)
        response, context = await ask(guarded, bearer(token))
        if proven == CERTIFICATE:
            assert (200, Assurance.BOUND) == (response.status, context.principal.assurance)
            assert (("x5t#S256", encode(CERTIFICATE).decode()),) == context.principal.confirmation
        else:
            assert (401, "token_binding_mismatch", []) == (response.status, context.decisions[-1].reason, app.scopes)
    unbound = await ask(CertificateLayer(JWTMiddleware(Witness(), issuers=[trusted])), bearer(issuer.token()))
    assert (200, Assurance.SIGNED) == (unbound[0].status, unbound[1].principal.assurance)


async def test_a_token_of_another_issuer_is_left_to_the_layer_beside(issuer: TestIssuer, clock: ManualClock) -> None:
    other = TestIssuer("https://other.example", algorithm="ES256", clock=clock)
    app = Witness()
    keys = StaticKeys({"ci": KEY})
    stack = Stack(Middleware(JWTMiddleware, issuers=[issuer.trusted()]), Middleware(KeyAuthMiddleware, keys=keys), Middleware(TicketLayer))
    guarded = stack(app)
    for lines, subject in (([bearer(issuer.token())], "ada"), ([bearer(KEY)], "key:ci"), ([(b"x-ticket", b"good-bob")], "bob")):
        response, context = await ask(guarded, *lines)
        assert (200, subject) == (response.status, context.principal.subject)
    response, context = await ask(guarded, bearer(other.token()))
    assert (401, "invalid_token") == (response.status, context.decisions[-1].reason)
    assert ["passed", "passed", "passed", "denied"] == [decision.outcome for decision in context.decisions]
    assert {} == other.hits
    # A bad token of a known issuer is nobody else's: it ends here.
    response, context = await ask(guarded, bearer(issuer.token(exp=1)))
    assert (401, ["denied"]) == (response.status, [decision.outcome for decision in context.decisions])
    response, context = await ask(guarded, bearer(issuer.token()), (b"x-api-key", KEY.encode()))
    assert (400, "ambiguous_credential") == (response.status, context.decisions[-1].reason)
    assert 3 == len(app.scopes)


@pytest.mark.parametrize("scheme", ["bearer", "Bearer", "BEARER", "Bearer  "])
async def test_the_scheme_is_read_in_any_case(issuer: TestIssuer, scheme: str) -> None:
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted()])
    assert 200 == (await ask(layer, (b"Authorization", f"{scheme} {issuer.token()}".encode())))[0].status


@pytest.mark.parametrize("line", ["x-api-key", "cookie", "proxy-authorization", "x-forwarded-authorization"])
async def test_a_token_elsewhere_is_none(issuer: TestIssuer, line: str) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()])
    assert 401 == (await ask(layer, (line.encode(), issuer.token().encode())))[0].status
    async with stream(layer, f"GET /v1/models?access_token={issuer.token()}") as exchange:
        assert 401 == (await exchange.started()).status
        await exchange.next_chunk()
    assert [] == app.scopes


async def test_a_socket_is_opened_with_a_good_token_and_refused_with_a_bad_one(issuer: TestIssuer) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()])
    async with websocket(layer, "/v1/realtime", headers=[bearer(issuer.token(exp=1))]) as socket:
        assert (False, 401, "token_expired") == (socket.accepted, socket.response.status, socket.response.header("x-authmw-reason"))
    async with websocket(layer, "/v1/realtime", headers=[bearer(issuer.token(exp=1))], denial_response=False) as socket:
        assert (False, 403) == (socket.accepted, socket.response.status)
    assert [] == app.scopes
    async with websocket(layer, "/v1/realtime", headers=[bearer(issuer.token())]) as socket:
        await socket.send_text("who")
        assert "ada" == await socket.receive()


async def test_nothing_of_a_token_is_in_logs_answers_or_what_prints(issuer: TestIssuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    trusted = issuer.trusted()
    layer = JWTMiddleware(Witness(), issuers=[trusted], revocations=open_store("memory://").revocations)
    good, bad, opaque = issuer.token(), issuer.token(exp=1), "opaque-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
    shown: list[Any] = [layer, trusted, issuer, trusted.read(good.encode()), await trusted.verify(good.encode())]
    for token in (good, bad, opaque):
        response, context = await ask(layer, bearer(token))
        shown += [response.headers, response.text, context, context.decisions, context.authentication]
    printed = caplog.text + "\n".join(f"{one}\n{one!r}" for one in shown)
    for token in (good, bad, opaque):
        assert token not in printed
        assert not [part for part in token.split(".") if part in printed]


async def test_the_secret_of_an_issuer_does_not_print(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    issuer = TestIssuer(algorithm="HS256", clock=clock)
    trusted = issuer.trusted()
    assert await refusal(trusted, issuer.token()) is None
    verified = await trusted.verify(issuer.token().encode())
    for shown in (trusted, trusted._source, verified, verified.key, caplog.text):
        assert issuer.secret not in f"{shown}{shown!r}"


ISSUER_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("issuer", {"issuer": ""}),
    ("issuer", {"issuer": 5}),
    ("issuer", {"issuer": "not a url"}),
    ("issuer", {"issuer": "http://issuer.example"}),
    ("issuer", {"issuer": "https://issuer.example?x=1"}),
    ("audience", {"audience": []}),
    ("audience", {"audience": ""}),
    ("audience", {"audience": None}),
    ("audience", {"audience": ["a", 5]}),
    ("realm", {"realm": ""}),
    ("realm", {"realm": " x"}),
    ("tenant", {"tenant": ""}),
    ("tenant", {"tenant": None}),
    ("claims", {"claims": {"user": "sub"}}),
    ("algorithms", {"algorithms": []}),
    ("algorithms", {"algorithms": "RS256"}),
    ("algorithms", {"algorithms": ["none"]}),
    ("algorithms", {"algorithms": ["RS999"]}),
    ("algorithms", {"algorithms": ["HS256"]}),
    ("algorithms", {"algorithms": ["ES256"], "secret": "s" * 64}),
    ("jwks_url", {"jwks_url": "http://keys.example/jwks"}),
    ("jwks_url", {"jwks_url": ""}),
    ("jwks", {"jwks": {}}),
    ("jwks", {"jwks": {"keys": []}}),
    ("jwks", {"jwks": "keys"}),
    ("jwks", {"jwks": [{}]}),
    ("jwks", {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}}),
    ("jwks", {"jwks": {"keys": []}, "jwks_url": "https://keys.example/jwks"}),
    ("pem", {"pem": ""}),
    ("pem", {"pem": "no key"}),
    ("pem", {"pem": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}),
    ("pem", {"pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}),
    ("pem", {"pem": "file:/nowhere/key.pem"}),
    ("secret", {"secret": ""}),
    ("secret", {"secret": "short"}),
    ("secret", {"secret": "env:NOWHERE_TO_BE_FOUND"}),
    ("secret", {"secret": "s" * 64, "pem": "x"}),
    ("leeway", {"leeway": -1}),
    ("leeway", {"leeway": 61}),
    ("leeway", {"leeway": True}),
    ("leeway", {"leeway": float("nan")}),
    ("leeway", {"leeway": "5"}),
    ("max_age", {"max_age": 0}),
    ("max_age", {"max_age": float("inf")}),
    ("max_age", {"max_age": float("nan")}),
    ("max_age", {"max_age": "60"}),
    ("typ", {"typ": ""}),
    ("typ", {"typ": 5}),
    ("required_claims", {"required_claims": "sub"}),
    ("required_claims", {"required_claims": [""]}),
    ("required_claims", {"required_claims": {"hd": []}}),
    ("required_claims", {"required_claims": {"hd": 5}}),
    ("required_claims", {"required_claims": {5: "hd"}}),
    ("clients", {"clients": []}),
    ("clients", {"clients": "web"}),
    ("id_tokens", {"id_tokens": "yes"}),
    ("id_tokens", {"id_tokens": True, "typ": "at+jwt"}),
    ("audience_claim", {"audience_claim": ""}),
    ("header", {"header": "X-Assertion"}),
    ("header", {"header": "x_assertion"}),
    ("header", {"header": ""}),
    ("userinfo", {"userinfo": 5}),
    ("userinfo", {"userinfo": None}),
    ("userinfo", {"userinfo": "http://issuer.example/userinfo"}),
    ("userinfo", {"userinfo": True, "header": "x-assertion"}),
    ("http", {"http": "a client", "secret": "s" * 64}),
]


@pytest.mark.parametrize(("option", "given"), ISSUER_OPTIONS, ids=str)
def test_an_option_that_is_wrong_ignored_or_contradictory_is_named_at_once(option: str, given: dict[str, Any]) -> None:
    options: dict[str, Any] = {"issuer": "https://issuer.example", "audience": "api://llm"} | given
    with pytest.raises(ConfigurationError) as caught:
        Issuer(options.pop("issuer"), **options)
    assert (option, False) == (caught.value.option, "s" * 64 in str(caught.value))


def edge(name: str = "https://edge.example", header: str = "x-assertion") -> Issuer:
    return Issuer(name, audience="a", header=header)


LAYER_OPTIONS: list[tuple[str, Any]] = [
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=["https://issuer.example"])),  # type: ignore[list-item]
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=edge())),  # type: ignore[arg-type]
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[Issuer("https://a.example", audience=a) for a in ("x", "y")])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[Issuer("https://a.example", audience="x"), edge()])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[edge(), edge("https://other.example")])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[edge(header="authorization")])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[edge(header="x-api-key")])),
    ("issuers", lambda: JWTMiddleware(Witness(), issuers=[edge(header="cookie")])),
    ("issuers", lambda: JWTMiddleware(TicketLayer(Witness()), issuers=[edge(header="x-ticket")])),
    ("required", lambda: JWTMiddleware(Witness(), issuers=[edge()], required="yes")),  # type: ignore[arg-type]
    ("revocations", lambda: JWTMiddleware(Witness(), issuers=[edge()], revocations=open_store("memory://"))),  # type: ignore[arg-type]
    ("resource", lambda: JWTMiddleware(Witness(), issuers=[edge()], resource="https://llm.example")),  # type: ignore[arg-type]
    (
        "resource",
        lambda: JWTMiddleware(
            Witness(),
            issuers=[edge()],
            resource=ProtectedResource("https://llm.example", authorization_servers=["https://edge.example"]),
        ),
    ),
    (
        LAYER,
        lambda: JWTMiddleware(
            JWTMiddleware(Witness(), issuers=[Issuer("https://a.example", audience="x")]),
            issuers=[Issuer("https://b.example", audience="x")],
        ),
    ),
]


@pytest.mark.parametrize(("option", "build"), LAYER_OPTIONS)
def test_a_layer_that_would_not_do_what_it_says_is_not_made(option: str, build: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert option == caught.value.option


def test_a_layer_shows_what_it_trusts() -> None:
    layer = JWTMiddleware(Witness(), issuers=[Issuer("https://a.example", audience="x")], required=False)
    assert "JWTMiddleware(issuers=[Issuer('https://a.example')], required=False)" == repr(layer)


async def test_an_issuer_starts_and_closes_and_begins_anew(issuer: TestIssuer) -> None:
    trusted = issuer.trusted()
    layer = JWTMiddleware(Witness(), issuers=[trusted])
    assert (trusted,) == layer.resources
    await trusted.start()
    for _ in range(2):
        assert await refusal(trusted, issuer.token()) is None
        with anyio.fail_after(5):
            await trusted.aclose()
