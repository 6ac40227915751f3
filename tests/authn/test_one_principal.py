"""One principal, whatever the credential: the same facts about the same person, in every way in which they can be shown."""

from collections.abc import Awaitable, Callable
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import msgspec
import pytest
from starlette.requests import HTTPConnection

from llm_authmw import (
    Assurance,
    Budget,
    CertRule,
    ClaimMap,
    ClientCertMiddleware,
    CustomAuthMiddleware,
    HeaderMap,
    HeaderTrustMiddleware,
    IntrospectionMiddleware,
    Issuer,
    JWTMiddleware,
    KeyAuthMiddleware,
    Limit,
    Principal,
    RequestContext,
    SharedSecret,
    StaticKey,
    StaticKeys,
    open_store,
)
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, TestIssuer, stream
from llm_authmw.testing.certificates import CertificateAuthority
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

TEXT = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
PROOF = "pR0of-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"

FACTS: dict[str, Any] = {
    "tenant": "acme",
    "user": "ada",
    "team": "blue",
    "org": "acme-inc",
    "roles": ["reader", "writer"],
    "scopes": ["llm:read", "llm:write"],
    "tags": ["laptop"],
    "tier": "gold",
    "models": ["gpt-4o*", "!gpt-4o-audio*"],
    "limits": ["60 requests/minute", "10000 tokens/minute"],
    "budgets": ["50 usd/month"],
}
"""What is known of ada, wherever she shows up."""
MORE: dict[str, Any] = {"email": "ada@corp.example", "groups": ["ml", "staff"]}
"""What a key has no field for."""
_NAMES: dict[str, Any] = {name: name for name in FACTS | MORE if name != "user"}
CLAIMS = ClaimMap(**_NAMES)


class Shown(NamedTuple):
    """A layer, and a request that it lets in."""

    layer: Any
    headers: list[tuple[bytes, bytes]]
    scope: dict[str, Any] | None = None


Way: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[Shown]]


def as_tuples(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts as a principal holds them."""
    parsed: dict[str, Any] = {
        "limits": [Limit.parse(limit) for limit in facts["limits"]],
        "budgets": [Budget.parse(one) for one in facts["budgets"]],
    }
    return {name: value if isinstance(value, str) else tuple(value) for name, value in (facts | parsed).items()}


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


async def static_key(realm: str, facts: dict[str, Any]) -> Shown:
    keys = StaticKeys({"k-1": StaticKey(TEXT, realm=realm, **facts)})
    return Shown(KeyAuthMiddleware(Witness(), keys=keys), bearer(TEXT))


async def stored_key(realm: str, facts: dict[str, Any]) -> Shown:
    store = open_store("memory://", clock=ManualClock())
    created = await store.keys.create(realm=realm, **facts)
    return Shown(KeyAuthMiddleware(Witness(), keys=store.keys), [(b"x-api-key", str(created.key).encode())])


async def signed_token(realm: str, facts: dict[str, Any]) -> Shown:
    issuer = TestIssuer(algorithm="ES256", clock=ManualClock())
    trusted = issuer.trusted(realm=realm, claims=CLAIMS)
    return Shown(JWTMiddleware(Witness(), issuers=[trusted]), bearer(issuer.token(sub="ada", **facts)))


async def token_with_words(realm: str, facts: dict[str, Any]) -> Shown:
    """Lists may also be words between blanks, in any order and more than once."""
    issuer = TestIssuer("https://other.example", algorithm="EdDSA", clock=ManualClock())
    words: dict[str, Any] = {
        name: " ".join([*facts[name][::-1], facts[name][0]]) for name in ("roles", "scopes", "groups", "tags") if name in facts
    }
    token = issuer.token(sub="ada", **(facts | words))
    return Shown(JWTMiddleware(Witness(), issuers=[issuer.trusted(realm=realm, claims=CLAIMS)]), bearer(token))


async def token_with_userinfo(realm: str, facts: dict[str, Any]) -> Shown:
    issuer = TestIssuer("https://third.example", algorithm="ES256", clock=ManualClock())
    issuer.know("ada", **{name: value for name, value in facts.items() if name != "scopes"})
    trusted = issuer.trusted(realm=realm, claims=CLAIMS, userinfo=True)
    return Shown(JWTMiddleware(Witness(), issuers=[trusted]), bearer(issuer.token(sub="ada", scopes=facts["scopes"])))


async def edge_assertion(realm: str, facts: dict[str, Any]) -> Shown:
    issuer = TestIssuer("llm.corp.example", algorithm="ES256", clock=ManualClock())
    trusted = Issuer.preset(
        "pomerium",
        host="llm.corp.example",
        audience="api://llm",
        realm=realm,
        claims=CLAIMS,
        jwks={"keys": [issuer.keys[0].public()]},
        clock=issuer.clock,
    )
    header = {"typ": "JWT"}
    token = issuer.token(header=header, sub="ada", **facts)
    return Shown(JWTMiddleware(Witness(), issuers=[trusted]), [(b"x-pomerium-jwt-assertion", token.encode())])


async def introspected_token(realm: str, facts: dict[str, Any]) -> Shown:
    issuer = TestIssuer(algorithm="ES256", clock=ManualClock())
    layer = IntrospectionMiddleware(
        Witness(),
        issuer=issuer.issuer,
        client_id="gateway",
        client_secret="secret",
        realm=realm,
        claims=CLAIMS,
        http=issuer.http,
        clock=issuer.clock,
    )
    return Shown(layer, bearer(issuer.opaque(sub="ada", **facts)))


async def trusted_header(realm: str, facts: dict[str, Any]) -> Shown:
    names: dict[str, Any] = {name: f"x-identity-{name}" for name in facts}
    separators = {"limits": ";", "budgets": ";", "scopes": " "}
    texts = {name: value if isinstance(value, str) else separators.get(name, ",").join(value) for name, value in facts.items()}
    lines = [(names[name].encode(), text.encode()) for name, text in texts.items()]
    layer = HeaderTrustMiddleware(Witness(), realm=realm, headers=HeaderMap(**names), proof=SharedSecret(header="x-proof", secret=PROOF))
    return Shown(layer, [*lines, (b"x-proof", PROOF.encode())])


async def certificate(realm: str, facts: dict[str, Any]) -> Shown:
    issued = CertificateAuthority().issue(email=["ada@corp.example"])
    rule = CertRule(fingerprint=issued.parsed.fingerprint.hex(), realm=realm, **facts)
    layer = ClientCertMiddleware(Witness(), rules=[rule], clock=ManualClock())
    return Shown(layer, [], {"extensions": {"tls": {"client_cert_chain": [issued.pem], "client_cert_error": None}}})


async def own_function(realm: str, facts: dict[str, Any]) -> Shown:
    def authenticate(connection: HTTPConnection) -> Principal | None:
        return Principal(method="desk", **as_tuples(facts)) if connection.headers.get("x-desk") == "ada" else None

    layer = CustomAuthMiddleware(Witness(), authenticate=authenticate, realm=realm, headers=["x-desk"])
    return Shown(layer, [(b"x-desk", b"ada")])


WAYS: dict[str, Way] = {
    way.__name__.replace("_", " "): way
    for way in (
        static_key,
        stored_key,
        signed_token,
        token_with_words,
        token_with_userinfo,
        edge_assertion,
        introspected_token,
        trusted_header,
        certificate,
        own_function,
    )
}


PAIRS = list(combinations(WAYS, 2))


async def through(way: str, realm: str = "staff", facts: dict[str, Any] = FACTS) -> Principal:
    shown = await WAYS[way](realm, facts)
    async with stream(shown.layer, "GET /v1/models", headers=shown.headers, scope=shown.scope) as exchange:
        async for _ in exchange:
            pass
    context: RequestContext = exchange.scope[CONTEXT_KEY]
    assert 200 == exchange.response.status, context.decisions
    return context.principal


def without_the_credential(principal: Principal) -> Principal:
    """Return the principal without what differs by how it was shown."""
    same: dict[str, Any] = {"method": "test", "issuer": None, "credential_id": "x", "assurance": Assurance.ASSERTED}
    return msgspec.structs.replace(principal, expires_at=None, authenticated_at=None, confirmation=(), **same)


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_the_same_person_is_the_same_principal_in_every_two_ways(one: str, other: str) -> None:
    first, second = await through(one), await through(other)
    assert without_the_credential(first) == without_the_credential(second)
    assert "acme/staff/ada" == first.identity == second.identity
    assert (first.confirmation == ()) == (one != "certificate")


@pytest.mark.parametrize(("one", "other"), [pair for pair in PAIRS if not any(way.endswith("key") for way in pair)])
async def test_so_it_is_with_what_a_key_has_no_field_for(one: str, other: str) -> None:
    first, second = await through(one, facts=FACTS | MORE), await through(other, facts=FACTS | MORE)
    assert ("ada@corp.example", ("ml", "staff")) == (first.email, first.groups)
    assert without_the_credential(first) == without_the_credential(second)


@pytest.mark.parametrize("way", WAYS)
async def test_every_fact_arrives(way: str) -> None:
    """Equal principals could also be equally empty."""
    principal = await through(way)
    assert as_tuples(FACTS) == {name: getattr(principal, name) for name in FACTS}
    assert principal.credential_id or way in {"trusted header", "own function"}


async def test_each_way_says_how_the_person_was_proven() -> None:
    shown = {way: (await through(way)).assurance for way in WAYS}
    assert {
        "static key": Assurance.SHARED_SECRET,
        "stored key": Assurance.SHARED_SECRET,
        "signed token": Assurance.SIGNED,
        "token with words": Assurance.SIGNED,
        "token with userinfo": Assurance.SIGNED,
        "edge assertion": Assurance.SIGNED,
        "introspected token": Assurance.INTROSPECTED,
        "trusted header": Assurance.PEER_TRUSTED,
        "certificate": Assurance.BOUND,
        "own function": Assurance.ASSERTED,
    } == shown


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_the_same_name_in_two_realms_is_two_people(one: str, other: str) -> None:
    identities = {(await through(one, "staff")).identity, (await through(other, "guests")).identity}
    assert {"acme/staff/ada", "acme/guests/ada"} == identities
