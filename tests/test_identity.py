from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from llm_authmw import (
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
    SharedSecret,
    Stack,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.identity import IdentitySource, ReadsIdentity
from llm_authmw.testing import make_signing_key
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
SIGNING = make_signing_key("ES256")


class Reader(ReadsIdentity):
    """A layer that remembers what it was told."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.told: list[tuple[list[IdentitySource], bool]] = []

    def check_identity(self, sources: Sequence[IdentitySource], *, whole: bool) -> None:
        self.told.append((list(sources), whole))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Passing:
    """Somebody else's layer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def issuer(name: str, **options: Any) -> Issuer:
    return Issuer(name, audience="api://llm", jwks={"keys": [SIGNING.public()]}, **options)


def of(layer: type[AuthenticationLayer], **options: Any) -> list[IdentitySource]:
    reader = Reader(Witness())
    layer(reader, **options)
    (told,) = reader.told
    assert not told[1], "a layer cannot know whether another one will stand outside of it"
    return told[0]


# What each layer says of itself.


def test_keys_have_no_issuer_and_keep_no_claims() -> None:
    assert [IdentitySource(method="key")] == of(KeyAuthMiddleware, keys=KEYS)
    assert [IdentitySource(method="key"), IdentitySource(method="master_key")] == of(
        KeyAuthMiddleware, keys=KEYS, master_key="sk-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0xR"
    )


def test_each_issuer_is_a_source_with_the_claims_that_it_keeps() -> None:
    one, other = issuer("https://a.example"), issuer("https://b.example", claims=ClaimMap(keep=["department", "level"]))
    assert [
        IdentitySource(method="jwt", issuers=("https://a.example",)),
        IdentitySource(method="jwt", issuers=("https://b.example",), kept_claims=frozenset({"department", "level"})),
    ] == of(JWTMiddleware, issuers=[one, other])


@pytest.mark.parametrize(
    ("options", "source"),
    [({}, "https://sso.example.com/introspect"), ({"issuer": "https://sso.example.com"}, "https://sso.example.com")],
)
def test_an_introspected_token_names_its_issuer_or_where_it_was_asked_about(options: dict[str, str], source: str) -> None:
    given = {"client_id": "llm", "client_secret": "s3cr3t-of-the-proxy", "realm": "corp", "claims": ClaimMap(keep=["department"])}
    told = of(IntrospectionMiddleware, endpoint="https://sso.example.com/introspect", **given, **options)
    assert [IdentitySource(method="introspection", issuers=(source,), kept_claims=frozenset({"department"}))] == told


def test_a_proxy_has_no_issuer_and_keeps_no_claims() -> None:
    proof = SharedSecret(header="x-proxy-proof", secret="a-proof-that-only-the-proxy-knows-01")
    assert [IdentitySource(method="header")] == of(HeaderTrustMiddleware, realm="corp", headers=HeaderMap(user="x-user"), proof=proof)


def test_a_certificate_may_have_any_issuer_and_keeps_no_claims() -> None:
    rules = [CertRule(spiffe="spiffe://corp.example/**", client_from="spiffe")]
    assert [IdentitySource(method="client_cert", issuers=None)] == of(ClientCertMiddleware, rules=rules)


@pytest.mark.parametrize("layer", [CustomAuthMiddleware, TicketLayer])
def test_nobody_knows_what_code_of_the_users_own_says(layer: type[AuthenticationLayer]) -> None:
    async def nobody(connection: Any) -> None:
        return None

    (source,) = of(layer, **({"authenticate": nobody} if layer is CustomAuthMiddleware else {}))
    assert (None, None) == (source.issuers, source.kept_claims)


# Who is told what.


def test_each_layer_tells_what_is_known_so_far_and_the_stack_tells_when_that_is_all() -> None:
    readers: list[Reader] = []

    def reader(app: ASGIApp) -> Reader:
        readers.append(Reader(app))
        return readers[-1]

    Stack(
        Middleware(JWTMiddleware, issuers=[issuer("https://a.example")]),
        Middleware(KeyAuthMiddleware, keys=KEYS),
        Middleware(Passing),
        Middleware(reader),
    )(Witness())
    jwt, key = IdentitySource(method="jwt", issuers=("https://a.example",)), IdentitySource(method="key")
    # The stack is built once over nothing when it is made, and then around the app.
    expected = [([key], False), ([jwt, key], False), ([jwt, key], True)]
    assert [expected, expected] == [reader.told for reader in readers]


def test_every_layer_inside_is_told() -> None:
    inner = Reader(Witness())
    outer = Reader(inner)
    KeyAuthMiddleware(Passing(outer), keys=KEYS)
    assert [([IdentitySource(method="key")], False)] == outer.told == inner.told


def test_a_layer_behind_a_mount_is_told_nothing() -> None:
    reader = Reader(Witness())
    Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(Starlette(routes=[Mount("/v1", reader)]))
    assert [] == reader.told
