"""Opaque tokens of a real identity provider, which is asked about them in each way that it knows; and while it is down."""

import gc
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from starlette.middleware import Middleware

from llm_authmw import Assurance, ClaimMap, IntrospectionMiddleware, Introspector, Issuer, JWTMiddleware, Principal
from llm_authmw.testing import ManualClock
from llm_authmw.testing.guarded import Guarded, Outcome, guarded
from tests.peers.issuers import DISCOVERY, OidcProvider, Trouble

pytestmark = pytest.mark.anyio

CLAIMS = ClaimMap(user="sub", email="email", client="client_id", groups="groups", keep=["department"])
CACHE_TTL = 30.0
DEADLINE = 0.5
SLACK = 2.0
TROUBLES: list[Trouble] = ["503", "hang", "reset"]

Options = Callable[[OidcProvider], dict[str, Any]]


def basic(provider: OidcProvider) -> dict[str, Any]:
    return {"client_id": "asks:basic", "client_secret": provider.secrets["asks:basic"], "client_auth": "client_secret_basic"}


def post(provider: OidcProvider) -> dict[str, Any]:
    return {"client_id": "asks-post", "client_secret": provider.secrets["asks-post"], "client_auth": "client_secret_post"}


def es256(provider: OidcProvider) -> dict[str, Any]:
    return {"client_id": "asks-jwt", "client_key": json.dumps(provider.assertion_keys[0])}


def rs256(provider: OidcProvider) -> dict[str, Any]:
    return {"client_id": "asks-jwt", "client_key": json.dumps(provider.assertion_keys[1])}


def signed(provider: OidcProvider) -> dict[str, Any]:
    trusted = Issuer(provider.url, audience="nothing: it only signs answers here")
    return {"client_id": "asks-signed", "client_secret": provider.secrets["asks-signed"], "signed_by": trusted}


CLIENTS: list[Options] = [basic, post, es256, rs256, signed]
each_client = pytest.mark.parametrize("client", CLIENTS)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@asynccontextmanager
async def asking(provider: OidcProvider, client: Options = basic, **options: Any) -> AsyncGenerator[Guarded]:
    usual: dict[str, Any] = {"issuer": provider.url, "audience": OidcProvider.OPAQUE, "claims": CLAIMS}
    credentials = client(provider)
    introspector = Introspector(**(usual | credentials | options))
    try:
        async with guarded(Middleware(IntrospectionMiddleware, introspector=introspector)) as app:
            yield app
    finally:
        if "signed_by" in credentials:
            await credentials["signed_by"].aclose()


def verdict(outcome: Outcome) -> tuple[int, str | None, bool]:
    return outcome.status, outcome.reason, outcome.caller is not None


# What is refused


@each_client
@pytest.mark.parametrize("token", ["never-issued", "a.b.c"])
async def test_a_token_that_the_provider_does_not_know_is_refused(oidc_provider: OidcProvider, client: Options, token: str) -> None:
    async with asking(oidc_provider, client) as app:
        outcome = await app.ask(token)
    assert (401, "token_inactive", False) == verdict(outcome)
    assert 'error="invalid_token"' in (outcome.response.header("www-authenticate") or "")


@each_client
async def test_a_jwt_which_the_provider_does_not_introspect_is_refused_and_no_outage(oidc_provider: OidcProvider, client: Options) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.JWT)
    asked = oidc_provider.hits(OidcProvider.INTROSPECTION)
    async with asking(oidc_provider, client) as app:
        # More often than what would open the breaker, if it were a failure.
        for _ in range(10):
            assert (401, "token_inactive", False) == verdict(await app.ask(token))
        assert asked + 1 == oidc_provider.hits(OidcProvider.INTROSPECTION)
        assert 200 == (await app.ask(oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE))).status


async def test_a_token_for_another_service_is_refused(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    for audience in (OidcProvider.JWT, [OidcProvider.JWT, OidcProvider.OPAQUE + "/"]):
        async with asking(oidc_provider, audience=audience) as app:
            assert (401, "audience_mismatch", False) == verdict(await app.ask(token))
    # This one is for the provider's own userinfo, and for no service at all.
    async with asking(oidc_provider) as app:
        assert (401, "audience_mismatch", False) == verdict(await app.ask(oidc_provider.user_token("ada")))


async def test_a_service_of_which_no_mapping_says_who_it_is_is_refused(oidc_provider: OidcProvider) -> None:
    async with asking(oidc_provider, claims=ClaimMap(user="sub")) as app:
        assert (401, "token_claim_missing", False) == verdict(await app.ask(oidc_provider.service_token(OidcProvider.OPAQUE)))


@pytest.mark.parametrize("changes", [{"client_secret": "wrong"}, {"client_id": "nobody"}])
async def test_a_client_that_the_provider_does_not_accept_makes_no_token_bad(oidc_provider: OidcProvider, changes: dict[str, Any]) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    async with asking(oidc_provider, **changes) as app:
        outcome = await app.ask(token)
    assert (503, "issuer_unavailable", False) == verdict(outcome)
    assert int(outcome.response.header("retry-after") or 0) >= 1


async def test_an_answer_that_is_not_signed_though_it_should_be_is_no_answer(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    body = json.dumps({"active": True, "sub": "ada", "aud": OidcProvider.OPAQUE})
    oidc_provider.answer(OidcProvider.INTROSPECTION, body)
    async with asking(oidc_provider, signed) as app:
        assert (503, "issuer_unavailable", False) == verdict(await app.ask(token))


async def test_an_answer_that_was_signed_for_another_client_is_no_answer(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    credentials = ("asks-signed", oidc_provider.secrets["asks-signed"])
    media_type = "application/token-introspection+jwt"
    genuine = oidc_provider.client.post(OidcProvider.INTROSPECTION, data={"token": token}, auth=credentials, headers={"accept": media_type})
    oidc_provider.answer(OidcProvider.INTROSPECTION, genuine.text, content_type=media_type)
    async with asking(oidc_provider, signed, client_id="somebody-else") as app:
        assert (503, "issuer_unavailable", False) == verdict(await app.ask(token))
    async with asking(oidc_provider, signed) as app:
        assert 200 == (await app.ask(token)).status


# What is accepted


@each_client
async def test_people_and_services_are_known_however_the_provider_is_asked(oidc_provider: OidcProvider, client: Options) -> None:
    async with asking(oidc_provider, client, realm="corp") as app:
        ada = (await app.ask(oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE))).caller
        service = (await app.ask(oidc_provider.service_token(OidcProvider.OPAQUE, scope="llm:chat llm:admin"))).caller
    assert ada is not None
    assert service is not None
    assert ("introspection", Assurance.INTROSPECTED, oidc_provider.url) == (ada.method, ada.assurance, ada.issuer)
    assert ("default/corp/ada", "ada@example.com", "webapp") == (ada.identity, ada.email, ada.client)
    assert (("ml-platform", "research"), ("llm:chat",), (("department", "research"),)) == (ada.groups, ada.scopes, ada.claims)
    assert (None, "client:service", ("llm:admin", "llm:chat")) == (service.user, service.subject, service.scopes)


async def test_the_endpoint_may_be_named_and_then_nobody_looks_for_it(oidc_provider: OidcProvider) -> None:
    discovered = oidc_provider.hits(DISCOVERY)
    async with asking(oidc_provider, endpoint=oidc_provider.url + OidcProvider.INTROSPECTION) as app:
        assert 200 == (await app.ask(oidc_provider.service_token(OidcProvider.OPAQUE))).status
    assert discovered == oidc_provider.hits(DISCOVERY)


async def test_one_user_is_one_principal_by_jwt_and_by_introspection(oidc_provider: OidcProvider) -> None:
    issuer = Issuer(oidc_provider.url, audience=OidcProvider.JWT, realm="corp", claims=CLAIMS)
    options: dict[str, Any] = {"issuer": oidc_provider.url, "audience": OidcProvider.OPAQUE, "realm": "corp", "claims": CLAIMS}
    introspection = Middleware(IntrospectionMiddleware, **(options | basic(oidc_provider)))
    tokens = [oidc_provider.user_token("ada", resource=resource) for resource in (OidcProvider.JWT, OidcProvider.OPAQUE)]
    async with guarded(Middleware(JWTMiddleware, issuers=[issuer]), introspection) as app:
        by_jwt, by_introspection = [(await app.ask(token)).caller for token in tokens]
    assert by_jwt is not None
    assert by_introspection is not None
    assert ["jwt", "introspection"] == [by_jwt.method, by_introspection.method]
    assert by_jwt.credential_id != by_introspection.credential_id
    assert who(by_jwt) == who(by_introspection)


def who(principal: Principal) -> Principal:
    """Return the principal without what depends on the way it came in."""
    return msgspec.structs.replace(
        principal, method="any", issuer=None, credential_id=None, assurance=Assurance.ASSERTED, expires_at=None, authenticated_at=None
    )


# What is remembered


@each_client
async def test_a_revoked_token_is_refused_once_what_is_remembered_has_aged(
    oidc_provider: OidcProvider, clock: ManualClock, client: Options
) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    asked = oidc_provider.hits(OidcProvider.INTROSPECTION)
    async with asking(oidc_provider, client, cache_ttl=CACHE_TTL, clock=clock) as app:
        assert 200 == (await app.ask(token)).status
        oidc_provider.revoke(token)
        clock.advance(CACHE_TTL - 1)
        assert 200 == (await app.ask(token)).status
        assert asked + 1 == oidc_provider.hits(OidcProvider.INTROSPECTION)
        clock.advance(1)
        assert (401, "token_inactive", False) == verdict(await app.ask(token))
        assert asked + 2 == oidc_provider.hits(OidcProvider.INTROSPECTION)


async def test_a_revoked_token_is_refused_at_once_where_nothing_is_remembered(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    async with asking(oidc_provider, cache_ttl=0) as app:
        assert 200 == (await app.ask(token)).status
        oidc_provider.revoke(token)
        assert (401, "token_inactive", False) == verdict(await app.ask(token))


async def test_an_answer_is_never_used_past_the_end_of_the_token(oidc_provider: OidcProvider, clock: ManualClock) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE, ttl=100)
    # Minting it has taken some time, and without any leeway a token from the future is refused.
    clock.set(time.time())
    async with asking(oidc_provider, cache_ttl=3600, leeway=0.0, clock=clock) as app:
        assert 200 == (await app.ask(token)).status
        clock.advance(100)
        # The provider's own clock stands where it stood, so it still says that the token is active.
        assert (401, "token_expired", False) == verdict(await app.ask(token))


async def test_fifty_requests_at_once_with_one_token_are_one_call(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    discovered, asked = (oidc_provider.hits(path) for path in (DISCOVERY, OidcProvider.INTROSPECTION))
    statuses: list[int] = []
    async with asking(oidc_provider) as app, anyio.create_task_group() as tasks:

        async def ask() -> None:
            statuses.append((await app.ask(token)).status)

        for _ in range(50):
            tasks.start_soon(ask)
    assert [200] * 50 == statuses
    assert [discovered + 1, asked + 1] == [oidc_provider.hits(path) for path in (DISCOVERY, OidcProvider.INTROSPECTION)]


# Outages


@pytest.fixture
def rubbish_is_collected() -> Iterator[None]:
    """What a test leaves to the garbage collector is collected within its own filters of warnings."""
    yield
    gc.collect()


@pytest.mark.parametrize("mode", TROUBLES)
@pytest.mark.usefixtures("rubbish_is_collected")
# Where a connection breaks while a form is sent, httpx leaves a generator of its own behind, and trio minds.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_while_the_provider_is_down_no_token_is_bad_and_those_that_are_remembered_are_good(
    oidc_provider: OidcProvider, clock: ManualClock, mode: Trouble
) -> None:
    known, cold = (oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE) for _ in range(2))
    async with asking(oidc_provider, cache_ttl=CACHE_TTL, deadline=DEADLINE, clock=clock) as app:
        assert 200 == (await app.ask(known)).status
        oidc_provider.trouble(mode)
        began = anyio.current_time()
        outcome = await app.ask(cold)
        assert anyio.current_time() - began < DEADLINE + SLACK
        assert (503, "issuer_unavailable", False) == verdict(outcome)
        assert int(outcome.response.header("retry-after") or 0) >= 1
        assert outcome.response.header("www-authenticate") is None
        assert 200 == (await app.ask(known)).status

        # Nor does what is remembered outlive its time because nobody can be asked.
        clock.advance(CACHE_TTL)
        assert (503, "issuer_unavailable", False) == verdict(await app.ask(known))
        oidc_provider.well()
        assert [200, 200] == [(await app.ask(token)).status for token in (known, cold)]


async def test_a_provider_that_is_down_is_left_alone_after_some_failures_and_asked_again_later(
    oidc_provider: OidcProvider, clock: ManualClock
) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    async with asking(oidc_provider, clock=clock) as app:
        assert 200 == (await app.ask(oidc_provider.service_token(OidcProvider.OPAQUE))).status
        asked = oidc_provider.hits(OidcProvider.INTROSPECTION)
        oidc_provider.trouble("503", path=OidcProvider.INTROSPECTION)
        for _ in range(20):
            assert (503, "issuer_unavailable", False) == verdict(await app.ask(token))
        assert asked + 5 == oidc_provider.hits(OidcProvider.INTROSPECTION)
        oidc_provider.well()
        assert (503, "issuer_unavailable", False) == verdict(await app.ask(token))
        clock.advance(1)
        assert 200 == (await app.ask(token)).status
