"""One principal, one answer: the same facts get the same rights, in every way in which they can be shown."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import pytest
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from llm_authmw import (
    CertRule,
    ClaimMap,
    ClientCertMiddleware,
    CustomAuthMiddleware,
    Grant,
    HeaderMap,
    HeaderTrustMiddleware,
    IntrospectionMiddleware,
    JWTMiddleware,
    KeyAuthMiddleware,
    Principal,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    SharedSecret,
    Stack,
    StaticKey,
    StaticKeys,
    open_store,
)
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.principal import NAMED_BY_OTHERS
from llm_authmw.testing import Answer, ManualClock, TestIssuer, call, fake_principal
from llm_authmw.testing.certificates import CertificateAuthority

pytestmark = pytest.mark.anyio

TEXT = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
PROOF = "pR0of-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"

FACTS: dict[str, Any] = {
    "user": "ada",
    "team": "blue",
    "org": "acme-inc",
    "roles": ["member"],
    "scopes": ["llm:read", "llm:write"],
    "tags": ["laptop"],
    "models": ["gpt-4o*", "o3", "!gpt-4o-audio*"],
}
_NAMES: dict[str, Any] = {name: name for name in FACTS if name != "user"}
CLAIMS = ClaimMap(**_NAMES)

MEMBER = Role(routes=["POST /v1/**", "GET /v1/models", "WS /v1/realtime"], models=["gpt-4o*"], tools=["search"], tier="gold")
READER = Role(routes=["GET /v1/models", "POST /v1/embeddings"], models=["*"])
ROLES = {"reader": READER, "member": MEMBER}
RATES = Middleware(RateLimitMiddleware, ledger=open_store("memory://").ledger, tiers={"gold": ["1000 concurrent"]})
"""What the tier is for; no test comes near it."""

QUESTIONS: list[dict[str, Any]] = [
    {"target": "POST /v1/chat/completions", "model": "gpt-4o-mini"},
    {"target": "POST /v1/chat/completions", "model": "gpt-4o-audio"},
    {"target": "POST /v1/chat/completions", "model": "o3"},
    {"target": "POST /v1/chat/completions", "model": "gpt-4o", "json": {"fallbacks": ["o3"]}},
    {"target": "POST /v1/chat/completions"},
    {"target": "POST /v1/embeddings", "model": "o3"},
    {"target": "POST /v1/embeddings", "model": "text-embedding-3"},
    {"target": "GET /v1/models"},
    {"target": "DELETE /v1/files/f-1"},
    {"target": "WS /v1/realtime", "model": "gpt-4o-realtime"},
    {"target": "WS /v1/realtime", "model": "o3"},
    {"target": "GET /v1//models"},
]


class Way(NamedTuple):
    """Layers, and what a client shows that they let in."""

    layers: list[Middleware]
    headers: list[tuple[bytes, bytes]]


MakeWay: TypeAlias = Callable[[dict[str, Any]], Awaitable[Way]]


class Tls:
    """A server that has asked for the client's certificate."""

    def __init__(self, app: ASGIApp, *, pem: str) -> None:
        self.app = app
        self.tls = {"client_cert_chain": [pem], "client_cert_error": None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["tls"] = self.tls
        await self.app(scope, receive, send)


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


async def static_key(facts: dict[str, Any]) -> Way:
    keys = StaticKeys({"k-1": StaticKey(TEXT, realm="staff", **facts)})
    return Way([Middleware(KeyAuthMiddleware, keys=keys)], bearer(TEXT))


async def stored_key(facts: dict[str, Any]) -> Way:
    store = open_store("memory://", clock=ManualClock())
    created = await store.keys.create(realm="staff", **facts)
    return Way([Middleware(KeyAuthMiddleware, keys=store.keys)], [(b"x-api-key", str(created.key).encode())])


async def signed_token(facts: dict[str, Any]) -> Way:
    issuer = TestIssuer(algorithm="ES256", clock=ManualClock())
    claims = {name: value for name, value in facts.items() if name != "user"}
    layer = Middleware(JWTMiddleware, issuers=[issuer.trusted(realm="staff", claims=CLAIMS)])
    return Way([layer], bearer(issuer.token(sub=facts["user"], **claims)))


async def introspected_token(facts: dict[str, Any]) -> Way:
    issuer = TestIssuer(algorithm="ES256", clock=ManualClock())
    asked: dict[str, Any] = {"client_id": "gateway", "client_secret": "secret", "http": issuer.http, "clock": issuer.clock}
    layer = Middleware(IntrospectionMiddleware, issuer=issuer.issuer, realm="staff", claims=CLAIMS, **asked)
    claims = {name: value for name, value in facts.items() if name != "user"}
    return Way([layer], bearer(issuer.opaque(sub=facts["user"], **claims)))


async def trusted_header(facts: dict[str, Any]) -> Way:
    names: dict[str, Any] = {name: f"x-identity-{name}" for name in facts}
    separators = {"scopes": " "}
    texts = {name: value if isinstance(value, str) else separators.get(name, ",").join(value) for name, value in facts.items()}
    proof = SharedSecret(header="x-proof", secret=PROOF)
    lines = [(names[name].encode(), text.encode()) for name, text in texts.items()]
    return Way(
        [Middleware(HeaderTrustMiddleware, realm="staff", headers=HeaderMap(**names), proof=proof)], [*lines, (b"x-proof", PROOF.encode())]
    )


async def certificate(facts: dict[str, Any]) -> Way:
    issued = CertificateAuthority().issue(email=["ada@corp.example"])
    rule = CertRule(fingerprint=issued.parsed.fingerprint.hex(), realm="staff", **facts)
    return Way([Middleware(Tls, pem=issued.pem), Middleware(ClientCertMiddleware, rules=[rule], clock=ManualClock())], [])


async def own_function(facts: dict[str, Any]) -> Way:
    def authenticate(connection: HTTPConnection) -> Principal | None:
        given: dict[str, Any] = {name: value if isinstance(value, str) else tuple(value) for name, value in facts.items()}
        return Principal(method="desk", **given) if connection.headers.get("x-desk") == "ada" else None

    return Way([Middleware(CustomAuthMiddleware, authenticate=authenticate, realm="staff", headers=["x-desk"])], [(b"x-desk", b"ada")])


WAYS: dict[str, MakeWay] = {
    way.__name__.replace("_", " "): way
    for way in (static_key, stored_key, signed_token, introspected_token, trusted_header, certificate, own_function)
}
OWN_RECORDS = {"static key", "stored key", "own function"}
"""Ways whose roles are our own records', or a function's of the user's own."""

GIVEN: dict[str, dict[str, Any]] = {
    "a scope": {"grants": [Grant(role="member", scope="llm:write")]},
    "a team": {"grants": [Grant(role="member", team="blue")]},
    "an organisation": {"grants": [Grant(role="member", org="acme-inc")]},
    "a tag": {"grants": [Grant(role="member", tag="laptop")]},
    "two facts": {"grants": [Grant(role="member", team="blue", scope="llm:read")]},
    "a realm": {"grants": [Grant(role="member", realm="staff")]},
    "two grants": {"grants": [Grant(role="member", team="blue"), Grant(role="reader", scope="llm:read")]},
    "the default": {"default_role": "member"},
    "another's fact": {"grants": [Grant(role="member", team="green")], "default_role": "reader"},
}
"""Ways in which a caller has a role, whose own roles mean nothing."""


async def asked(guard: Stack, **who: Any) -> list[Answer]:
    return [await call(guard, **question, **who) for question in QUESTIONS]


def told(answers: list[Answer]) -> list[tuple[Any, ...]]:
    return [(answer.allowed, answer.status, answer.reason, answer.rule, answer.need, answer.roles, answer.tier) for answer in answers]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("way", WAYS)
async def test_the_same_facts_have_the_same_rights_in_every_way(way: str, given: str) -> None:
    facts: dict[str, Any] = {**FACTS, "roles": []}
    rules = Middleware(RBACMiddleware, roles=ROLES, **GIVEN[given])
    layers, headers = await WAYS[way](facts)
    answers = await asked(Stack(*layers, rules, RATES), headers=headers)
    assert "ada" == answers[0].principal.user, answers[0]
    reference = await asked(Stack(rules, RATES), as_=fake_principal(realm="staff", **facts))
    assert told(reference) == told(answers)
    assert {True, False} == {answer.allowed for answer in answers}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_role_does_not_allow_is_denied_in_every_way_for_the_same_reason(way: str) -> None:
    layers, headers = await WAYS[way](FACTS | {"roles": []})
    answers = await asked(Stack(*layers, Middleware(RBACMiddleware, roles=ROLES, default_role="member"), RATES), headers=headers)
    assert [
        *[None, "model_not_allowed", "model_not_allowed", "model_not_allowed", "model_missing"],
        *["model_not_allowed", "model_not_allowed", None, "route_not_allowed", None, "model_not_allowed", "ambiguous_path"],
    ] == [answer.reason for answer in answers]


@pytest.mark.parametrize("way", WAYS)
async def test_a_role_of_our_own_records_counts_and_one_that_others_name_does_not(way: str) -> None:
    layers, headers = await WAYS[way](FACTS)
    answers = await asked(Stack(*layers, Middleware(RBACMiddleware, roles=ROLES), RATES), headers=headers)
    assert ("member",) == answers[0].principal.roles
    assert (way in OWN_RECORDS) == (answers[0].principal.method not in NAMED_BY_OTHERS)
    if way in OWN_RECORDS:
        assert answers[0].allowed, answers[0]
        assert ("member", "gold") == (*answers[0].roles, answers[0].tier)
    else:
        assert {"role_missing", "ambiguous_path"} == {answer.reason for answer in answers}, answers


@pytest.mark.parametrize("way", sorted(WAYS.keys() - OWN_RECORDS))
async def test_a_grant_makes_a_role_that_others_name_as_good_as_our_own(way: str) -> None:
    layers, headers = await WAYS[way](FACTS)
    rules = Middleware(RBACMiddleware, roles=ROLES, grants=[Grant(role="member", token_role="member")])
    own = await WAYS["stored key"](FACTS)
    reference = await asked(Stack(*own.layers, Middleware(RBACMiddleware, roles=ROLES), RATES), headers=own.headers)
    assert told(reference) == told(await asked(Stack(*layers, rules, RATES), headers=headers))


@pytest.mark.parametrize("way", WAYS)
async def test_a_principal_is_answered_as_the_credential_that_it_was_made_of(way: str) -> None:
    layers, headers = await WAYS[way](FACTS)
    guard = Stack(*layers, Middleware(RBACMiddleware, roles=ROLES, grants=[Grant(role="reader", team="blue")]), RATES)
    shown = await asked(guard, headers=headers)
    stood = await asked(guard, as_=shown[0].principal)
    assert told(shown) == told(stood)
    assert [answer.principal for answer in shown] == [answer.principal for answer in stood]
