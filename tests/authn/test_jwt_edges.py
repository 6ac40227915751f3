"""Signed assertions of an edge in front: Google's, Amazon's, Cloudflare's, Pomerium's."""

import base64
from typing import Any, NamedTuple

import msgspec
import pytest
from joserfc.jwa import JWS_ALGORITHMS
from starlette.middleware import Middleware

from llm_authmw import Decision, Issuer, JWTMiddleware, KeyAuthMiddleware, Principal, RequestContext, Stack, StaticKeys
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, Response, SigningKey, TestIssuer, WebSocketClosed, make_signing_key, stream, websocket
from llm_authmw.testing.scripted import Reply, ScriptedClient
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LAYER = "JWTMiddleware"
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
ARN = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/llm/50dc6c495c0c9188"
OTHERS_ARN = ARN.replace("123456789012", "210987654321")
POOL = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
KID = "12345678-1234-1234-1234-123456789012"
ES256 = next(model for model in JWS_ALGORITHMS if model.name == "ES256")
KEYS_URL = f"https://public-keys.auth.elb.eu-central-1.amazonaws.com/{KID}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Edge(NamedTuple):
    """An edge: what it signs with, how we trust it, and what it writes."""

    issuer: TestIssuer
    trusted: Issuer
    header: bytes
    claims: dict[str, Any]
    user: str

    def assertion(self, **changes: Any) -> bytes:
        return self.issuer.token(header={"typ": "JWT"}, **(self.claims | changes)).encode()


def edge(name: str, clock: ManualClock) -> Edge:
    algorithm = "RS256" if name == "cloudflare-access" else "ES256"
    names = {
        "google-iap": "https://cloud.google.com/iap",
        "cloudflare-access": "https://corp.cloudflareaccess.com",
        "pomerium": "llm.corp.example",
    }
    claims: dict[str, dict[str, Any]] = {
        "google-iap": {"sub": "accounts.google.com:117", "email": "ada@corp.example", "hd": "corp.example", "aud": "/projects/1/apps/x"},
        "cloudflare-access": {"email": "ada@corp.example", "type": "app", "aud": ["tag"]},
        "pomerium": {"sub": "ada", "email": "ada@corp.example", "groups": ["staff"], "aud": "llm.corp.example"},
    }
    options: dict[str, dict[str, Any]] = {
        "google-iap": {"audience": "/projects/1/apps/x"},
        "cloudflare-access": {"team": "corp", "audience": "tag"},
        "pomerium": {"host": "llm.corp.example", "audience": "llm.corp.example"},
    }
    issuer = TestIssuer(names[name], algorithm=algorithm, clock=clock)
    trusted = Issuer.preset(name, jwks={"keys": [issuer.keys[0].public()]}, clock=clock, **options[name])
    user = {"google-iap": "accounts.google.com:117", "cloudflare-access": "ada@corp.example", "pomerium": "ada"}[name]
    assert trusted.header is not None
    return Edge(issuer, trusted, trusted.header, claims[name], user)


EDGES = ["google-iap", "cloudflare-access", "pomerium"]


async def ask(guarded: Any, *lines: tuple[bytes, bytes]) -> tuple[Response, RequestContext]:
    async with stream(guarded, "GET /v1/models", headers=lines) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


async def refused(guarded: Any, app: Witness, status: int, reason: str, *lines: tuple[bytes, bytes]) -> None:
    calls = len(app.scopes)
    response, context = await ask(guarded, *lines)
    assert (status, "denied", reason) == (response.status, context.decisions[-1].outcome, context.decisions[-1].reason)
    assert calls == len(app.scopes)


@pytest.mark.parametrize("name", EDGES)
async def test_a_good_assertion_says_who_is_calling(clock: ManualClock, name: str) -> None:
    one = edge(name, clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[one.trusted])
    for header in (one.header, one.header.title()):
        response, context = await ask(guarded, (header, one.assertion(jti="a-1")))
        assert (200, one.user, "ada@corp.example") == (response.status, context.principal.user, context.principal.email)
        assert [Decision(LAYER, "allowed", None, "a-1")] == context.decisions


@pytest.mark.parametrize("name", EDGES)
async def test_without_an_assertion_or_with_a_false_one_nobody_gets_in(clock: ManualClock, name: str) -> None:
    one = edge(name, clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[one.trusted])
    await refused(guarded, app, 401, "missing_credential")
    forged = one.issuer.token(key=make_signing_key(one.issuer.keys[0].algorithm, kid=one.issuer.keys[0].kid), **one.claims).encode()
    unsigned = one.assertion().rpartition(b".")[0] + b"."
    wrong: list[tuple[str, bytes]] = [
        ("token_signature_invalid", forged),
        ("token_signature_invalid", unsigned),
        ("token_malformed", b""),
        ("token_malformed", b"ada"),
        ("token_malformed", b"\xff\xfe"),
        ("token_malformed", one.assertion() + b"," + one.assertion()),
        ("token_malformed", b"Bearer " + one.assertion()),
        ("issuer_mismatch", one.assertion(iss="https://elsewhere.example")),
        ("audience_mismatch", one.assertion(aud="/projects/2/apps/y")),
        ("token_expired", one.assertion(exp=NOW - 31)),
        ("token_type_mismatch", one.issuer.token(header={"typ": "logout+jwt"}, **one.claims).encode()),
    ]
    for reason, value in wrong:
        await refused(guarded, app, 401, reason, (one.header, value))


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("letter", [b"_", b".", b"~"])
async def test_another_spelling_of_the_header_is_refused(clock: ManualClock, name: str, letter: bytes) -> None:
    """CVE-2025-64484, CVE-2026-33433: who removes one spelling has removed nothing."""
    one = edge(name, clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[one.trusted])
    for alias in (one.header.replace(b"-", letter), one.header.replace(b"-", letter, 1), one.header.upper().replace(b"-", letter)):
        await refused(guarded, app, 400, "identity_header_alias", (alias, one.assertion()))
        await refused(guarded, app, 400, "identity_header_alias", (one.header, one.assertion()), (alias, one.assertion()))


async def test_a_header_that_comes_twice_is_refused(clock: ManualClock) -> None:
    one = edge("google-iap", clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[one.trusted])
    good = one.assertion()
    for second in (good, one.assertion(sub="bob"), b""):
        await refused(guarded, app, 400, "identity_header_repeated", (one.header, good), (one.header.upper(), second))
        await refused(guarded, app, 400, "identity_header_repeated", (one.header, second), (one.header, good))


async def test_iap_assertions_live_ten_minutes(clock: ManualClock) -> None:
    one = edge("google-iap", clock)
    guarded, app = JWTMiddleware(Witness(), issuers=[one.trusted]), Witness()
    value = one.assertion(exp=NOW + 86_400)
    assert 200 == (await ask(guarded, (one.header, value)))[0].status
    clock.advance(630)
    await refused(guarded, app, 401, "token_expired", (one.header, value))
    await refused(guarded, app, 401, "token_too_old", (one.header, one.assertion(iat=NOW, exp=NOW + 86_400)))
    await refused(guarded, app, 401, "token_claim_missing", (one.header, one.assertion(iat=None)))


async def test_a_service_token_of_cloudflare_is_a_client(clock: ManualClock) -> None:
    one = edge("cloudflare-access", clock)
    guarded = JWTMiddleware(Witness(), issuers=[one.trusted])
    _, context = await ask(guarded, (one.header, one.assertion(sub="", email=None, common_name="ci.access")))
    assert "client:ci.access" == context.principal.subject


@pytest.mark.parametrize(
    "claims", [{"type": "org"}, {"type": None}, {"email": None}, {"email": "ada@corp.example", "email_verified": False}]
)
async def test_what_cloudflare_signs_for_something_else_is_refused(clock: ManualClock, claims: dict[str, Any]) -> None:
    one = edge("cloudflare-access", clock)
    app = Witness()
    response, _ = await ask(JWTMiddleware(app, issuers=[one.trusted]), (one.header, one.assertion(**claims)))
    assert (401, []) == (response.status, app.scopes)


def beside_a_key(one: Edge, app: Witness, *, outside: bool) -> Any:
    edge_layer = Middleware(JWTMiddleware, issuers=[one.trusted], required=False)
    keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}), required=False)
    return Stack(*([edge_layer, keys] if outside else [keys, edge_layer]))(app)


@pytest.mark.parametrize("outside", [True, False])
async def test_beside_an_api_key_the_key_says_who_is_calling(clock: ManualClock, outside: bool) -> None:
    one, app = edge("google-iap", clock), Witness()
    guarded = beside_a_key(one, app, outside=outside)
    _, context = await ask(guarded, (one.header, one.assertion()), (b"x-api-key", KEY.encode()))
    assert "key:ci" == context.principal.subject
    assert ["allowed", "allowed"] == [decision.outcome for decision in context.decisions]
    _, context = await ask(guarded, (one.header, one.assertion()))
    assert one.user == context.principal.user
    _, context = await ask(guarded, (b"x-api-key", KEY.encode()))
    assert "key:ci" == context.principal.subject
    response, context = await ask(guarded)
    assert (200, False) == (response.status, context.principal.is_authenticated)


@pytest.mark.parametrize("outside", [True, False])
async def test_neither_a_key_nor_an_assertion_makes_the_other_one_good(clock: ManualClock, outside: bool) -> None:
    one, app = edge("google-iap", clock), Witness()
    guarded = beside_a_key(one, app, outside=outside)
    await refused(guarded, app, 401, "token_expired", (one.header, one.assertion(exp=1)), (b"x-api-key", KEY.encode()))
    await refused(guarded, app, 401, "key_unknown", (one.header, one.assertion()), (b"x-api-key", b"wrong"))
    await refused(guarded, app, 401, "invalid_token", (one.header, one.assertion()), (b"authorization", b"Bearer opaque"))


async def test_a_callers_token_beside_an_assertion_is_the_caller(clock: ManualClock) -> None:
    one, own = edge("pomerium", clock), TestIssuer(algorithm="ES256", clock=clock)
    app = Witness()
    stack = Stack(Middleware(JWTMiddleware, issuers=[one.trusted]), Middleware(JWTMiddleware, issuers=[own.trusted()]))
    guarded = stack(app)
    _, context = await ask(guarded, (one.header, one.assertion()), (b"authorization", f"Bearer {own.token(sub='bob')}".encode()))
    assert ("bob", own.issuer) == (context.principal.user, context.principal.issuer)
    # An assertion is none of a caller's own tokens, and the other way round.
    await refused(guarded, app, 401, "invalid_token", (b"authorization", b"Bearer " + one.assertion()))
    await refused(guarded, app, 401, "issuer_mismatch", (one.header, own.token().encode()))


async def test_of_two_edges_each_is_believed_in_its_own_header_only(clock: ManualClock) -> None:
    google, pomerium, app = edge("google-iap", clock), edge("pomerium", clock), Witness()
    guarded = JWTMiddleware(app, issuers=[google.trusted, pomerium.trusted])
    for one in (google, pomerium):
        assert one.user == (await ask(guarded, (one.header, one.assertion())))[1].principal.user
    await refused(guarded, app, 401, "issuer_mismatch", (google.header, pomerium.assertion()))
    lines = [(google.header, google.assertion()), (pomerium.header, pomerium.assertion())]
    assert google.user == (await ask(guarded, *lines))[1].principal.user
    for bad in ([lines[0], (pomerium.header, b"x")], [(google.header, b"x"), lines[1]]):
        await refused(guarded, app, 401, "token_malformed", *bad)


async def test_a_socket_of_an_assertion_is_opened_and_ends_with_it(clock: ManualClock) -> None:
    one, app = edge("pomerium", clock), Witness()
    guarded = JWTMiddleware(app, issuers=[one.trusted])
    async with websocket(guarded, "/v1/realtime", headers=[(one.header, one.assertion(exp=1))]) as socket:
        assert (False, 401) == (socket.accepted, socket.response.status)
    async with websocket(guarded, "/v1/realtime", headers=[(one.header, one.assertion())]) as socket:
        await socket.send_text("who")
        assert "ada" == await socket.receive()
        clock.advance(3_600)
        await socket.send_text("who")
        with pytest.raises(WebSocketClosed, match=r"closed with 1008 token_expired"):
            await socket.receive()


def load_balancer_token(key: SigningKey, *, header: dict[str, Any] | None = None, padded: bool = True, **claims: Any) -> bytes:
    """Return an assertion as an Application Load Balancer writes it: padded, with issuer, client and end in the header."""
    members = {"typ": "JWT", "kid": KID, "alg": "ES256", "iss": POOL, "client": "client-1", "signer": ARN, "exp": NOW + 120}
    members = {name: value for name, value in (members | (header or {})).items() if value is not None}
    body = {"sub": "ada", "email": "ada@corp.example", "email_verified": "true", "username": "ada", "exp": NOW + 120, "iss": POOL} | claims
    message = b".".join(base64.urlsafe_b64encode(msgspec.json.encode(part)) for part in (members, body))
    signing = message if padded else message.replace(b"=", b"")
    return signing + b"." + base64.urlsafe_b64encode(ES256.sign(signing, key.private))


@pytest.fixture
def balancer() -> SigningKey:
    return make_signing_key("ES256", kid=KID)


def load_balancer(balancer: SigningKey, clock: ManualClock, **replies: Any) -> tuple[Issuer, ScriptedClient]:
    pem: bytes = balancer.private.as_pem(private=False)
    client = ScriptedClient({KEYS_URL: Reply(body=pem)} | replies)
    return Issuer.preset("aws-alb", issuer=POOL, audience="client-1", load_balancer=ARN, http=client, clock=clock), client


ALB = b"x-amzn-oidc-data"


async def test_the_assertion_of_a_load_balancer_says_who_is_calling(balancer: SigningKey, clock: ManualClock) -> None:
    trusted, client = load_balancer(balancer, clock)
    guarded = JWTMiddleware(Witness(), issuers=[trusted])
    tokens = [load_balancer_token(balancer), load_balancer_token(balancer, padded=False), load_balancer_token(balancer, sub="a")]
    assert b"=" in b"".join(tokens)
    for token, user in zip(tokens, ["ada", "ada", "a"], strict=True):
        response, context = await ask(guarded, (ALB, token))
        assert (200, user, "ada@corp.example") == (response.status, context.principal.user, context.principal.email)
    assert [KEYS_URL] == client.asked


WRONG: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("issuer_mismatch", {"signer": OTHERS_ARN}, {}),
    ("issuer_mismatch", {"signer": None}, {"signer": ARN}),
    ("issuer_mismatch", {"signer": [ARN]}, {}),
    ("issuer_mismatch", {"iss": "https://attacker.example"}, {}),
    ("issuer_mismatch", {"iss": None}, {}),
    ("audience_mismatch", {"client": "client-2"}, {"aud": "client-1"}),
    ("audience_mismatch", {"client": None}, {"aud": "client-1", "client": "client-1"}),
    ("token_expired", {"exp": 1}, {}),
    ("token_claim_missing", {"exp": None}, {}),
    ("token_claim_invalid", {"exp": "never"}, {}),
    ("token_algorithm_not_allowed", {"alg": "none"}, {}),
    ("token_algorithm_not_allowed", {"alg": "HS256"}, {}),
    ("token_malformed", {"alg": None}, {}),
    ("token_malformed", {"kid": None}, {}),
    ("token_malformed", {"crit": ["exp"]}, {}),
    ("token_key_unknown", {"kid": "../../../etc/passwd"}, {}),
    ("token_key_unknown", {"kid": "12345678-1234-1234-1234-12345678901g"}, {}),
    ("token_key_unknown", {"kid": "12345678-1234-1234-1234-123456789012?x="}, {}),
    ("token_key_unknown", {"kid": "00000000-0000-0000-0000-000000000000"}, {}),
    ("token_claim_invalid", {}, {"sub": ["ada"]}),
]


@pytest.mark.parametrize(("reason", "header", "claims"), WRONG, ids=str)
async def test_what_another_load_balancer_or_nobody_has_signed_is_refused(
    balancer: SigningKey, clock: ManualClock, reason: str, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    """AWS signs for every customer with the same keys: only one's own load balancer is believed."""
    trusted, client = load_balancer(balancer, clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[trusted])
    await refused(guarded, app, 401, reason, (ALB, load_balancer_token(balancer, header=header, **claims)))
    assert not [url for url in client.asked if not url.startswith("https://public-keys.auth.elb.eu-central-1.amazonaws.com/")]
    assert not [url for url in client.asked if "passwd" in url or "?" in url]


async def test_a_forged_assertion_of_a_load_balancer_is_refused(balancer: SigningKey, clock: ManualClock) -> None:
    trusted, _ = load_balancer(balancer, clock)
    app = Witness()
    guarded = JWTMiddleware(app, issuers=[trusted])
    token = load_balancer_token(balancer)
    head, payload, signature = token.split(b".")
    forged = [
        load_balancer_token(make_signing_key("ES256")),
        b".".join([head.rstrip(b"="), payload.rstrip(b"="), signature]) if b"=" in head + payload else token[:-4] + b"AAA=",
        token + b"=",
        b".".join([head, payload + b"====", signature]),
        b".".join([head, payload, b""]),
    ]
    for one in forged:
        response, _ = await ask(guarded, (ALB, one))
        assert (401, []) == (response.status, app.scopes)
    assert 200 == (await ask(guarded, (ALB, token)))[0].status


async def test_a_key_of_the_load_balancer_that_cannot_be_had_is_a_failed_check(balancer: SigningKey, clock: ManualClock) -> None:
    for reply in (Reply(500), Reply(200, b"no key"), Reply(200, b"\xff"), ConnectionError("down"), Reply(302)):
        trusted, _ = load_balancer(balancer, clock, **{KEYS_URL: reply})
        app = Witness()
        await refused(JWTMiddleware(app, issuers=[trusted]), app, 503, "issuer_unavailable", (ALB, load_balancer_token(balancer)))


async def test_a_flood_of_made_up_keys_of_a_load_balancer_is_bounded(balancer: SigningKey, clock: ManualClock) -> None:
    trusted, client = load_balancer(balancer, clock)
    guarded = JWTMiddleware(Witness(), issuers=[trusted])
    assert 200 == (await ask(guarded, (ALB, load_balancer_token(balancer))))[0].status
    statuses: list[int] = []
    for number in range(100):
        token = load_balancer_token(balancer, header={"kid": f"00000000-0000-0000-0000-{number:012x}"})
        statuses.append((await ask(guarded, (ALB, token)))[0].status)
    assert {401, 503} == set(statuses)
    assert 16 == len(client.asked)
    assert 200 == (await ask(guarded, (ALB, load_balancer_token(balancer, sub="bob"))))[0].status


async def test_keys_of_a_load_balancer_may_be_given(balancer: SigningKey, clock: ManualClock) -> None:
    pem = balancer.private.as_pem(private=False).decode()
    trusted = Issuer.preset("aws-alb", issuer=POOL, audience="client-1", load_balancer=ARN, pem=pem, clock=clock)
    guarded = JWTMiddleware(Witness(), issuers=[trusted])
    assert 200 == (await ask(guarded, (ALB, load_balancer_token(balancer))))[0].status
    assert 401 == (await ask(guarded, (ALB, load_balancer_token(make_signing_key("ES256")))))[0].status


async def test_the_same_person_behind_an_edge_and_with_a_token_is_one(clock: ManualClock) -> None:
    one, own = edge("pomerium", clock), TestIssuer(algorithm="ES256", clock=clock)
    assert isinstance(one.trusted, Issuer)
    shared = Issuer.preset(
        "pomerium",
        host="llm.corp.example",
        audience="llm.corp.example",
        realm="staff",
        jwks={"keys": [one.issuer.keys[0].public()]},
        clock=clock,
    )
    principals: list[Principal] = []
    for trusted, lines in (
        (shared, (one.header, one.assertion())),
        (own.trusted(realm="staff"), (b"authorization", f"Bearer {own.token()}".encode())),
    ):
        principals.append((await ask(JWTMiddleware(Witness(), issuers=[trusted]), lines))[1].principal)
    assert ["default/staff/ada"] * 2 == [principal.identity for principal in principals]
