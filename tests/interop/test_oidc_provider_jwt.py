"""JWTs of a real identity provider: found by discovery, while it rotates its keys, and while it is down."""

import functools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.middleware import Middleware

from llm_authmw import Assurance, ClaimMap, Issuer, IssuerUnavailableError, JWTMiddleware, TokenInvalid
from llm_authmw.testing import ManualClock
from llm_authmw.testing.guarded import Guarded, Outcome, guarded
from llm_authmw.tokens import issuer as issuer_room
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.issuer import MAX_LEEWAY
from llm_authmw.tokens.jwks import INTERVAL, TTL
from llm_authmw.tokens.userinfo import Userinfo
from tests.peers.issuers import DISCOVERY, OidcProvider, Trouble

pytestmark = pytest.mark.anyio

AUDIENCE = [OidcProvider.JWT, OidcProvider.JWT_ES256]
CLAIMS = ClaimMap(user="sub", email="email", client="client_id", groups="groups", keep=["department"])
DEADLINE = 0.5
"""Seconds that the provider has here, so that a test of one that hangs is short."""
SLACK = 2.0
LIMIT = 10.0
TROUBLES: list[Trouble] = ["503", "hang", "reset"]

T = TypeVar("T")


@pytest.fixture
def clock() -> ManualClock:
    # The provider dates its tokens by the real time.
    return ManualClock(time.time())


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_room, "Fetcher", functools.partial(Fetcher, deadline=DEADLINE))


@asynccontextmanager
async def trusting(provider: OidcProvider, **options: Any) -> AsyncGenerator[Guarded]:
    # Our clock stands still and the provider's goes on, so that what it mints late is of the future, the more so the slower the machine.
    usual: dict[str, Any] = {"audience": AUDIENCE, "claims": CLAIMS, "leeway": MAX_LEEWAY}
    issuer = Issuer(provider.url, **(usual | options))
    async with guarded(Middleware(JWTMiddleware, issuers=[issuer])) as app:
        yield app


async def aside(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Have the tests' hold on the provider do something, while requests go on."""
    return await anyio.to_thread.run_sync(functools.partial(work, *arguments, **options))


async def fetches(provider: OidcProvider) -> tuple[int, int]:
    """Return how often the provider's metadata and its keys were asked for."""
    return await aside(provider.hits, DISCOVERY), await aside(provider.hits, provider.JWKS)


def verdict(outcome: Outcome) -> tuple[int, str | None, bool]:
    return outcome.status, outcome.reason, outcome.caller is not None


# What is refused


async def test_a_token_for_another_service_is_refused(oidc_provider: OidcProvider) -> None:
    async with trusting(oidc_provider, audience=OidcProvider.JWT_ES256) as app:
        outcome = await app.ask(oidc_provider.service_token(OidcProvider.JWT))
    assert (401, "audience_mismatch", False) == verdict(outcome)
    assert 'error="invalid_token"' in (outcome.response.header("www-authenticate") or "")


async def test_a_token_is_refused_whose_algorithm_the_issuer_is_not_to_use(oidc_provider: OidcProvider) -> None:
    async with trusting(oidc_provider, algorithms=["ES256"]) as app:
        assert (401, "token_algorithm_not_allowed", False) == verdict(await app.ask(oidc_provider.service_token(OidcProvider.JWT)))
        assert 200 == (await app.ask(oidc_provider.service_token(OidcProvider.JWT_ES256))).status


async def test_a_token_of_another_client_is_refused(oidc_provider: OidcProvider) -> None:
    async with trusting(oidc_provider, clients=["webapp"]) as app:
        assert (401, "token_claim_invalid", False) == verdict(await app.ask(oidc_provider.service_token(OidcProvider.JWT)))
        assert 200 == (await app.ask(oidc_provider.user_token("ada", resource=OidcProvider.JWT))).status


@pytest.mark.parametrize("revoked", [False, True])
async def test_an_opaque_token_is_none_of_its_business_and_the_provider_is_not_asked(oidc_provider: OidcProvider, revoked: bool) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    if revoked:
        oidc_provider.revoke(token)
    before = await fetches(oidc_provider)
    async with trusting(oidc_provider) as app:
        assert (401, "invalid_token", False) == verdict(await app.ask(token))
    assert before == await fetches(oidc_provider)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["header", "payload", "signature"])
async def test_a_token_with_one_letter_changed_is_refused(oidc_provider: OidcProvider, part: int) -> None:
    parts = oidc_provider.service_token(OidcProvider.JWT).split(".")
    middle = len(parts[part]) // 2
    parts[part] = parts[part][:middle] + ("A" if parts[part][middle] != "A" else "B") + parts[part][middle + 1 :]
    async with trusting(oidc_provider) as app:
        outcome = await app.ask(".".join(parts))
    assert (401, None) == (outcome.status, outcome.caller)


async def test_a_token_ends_when_the_provider_says_so(oidc_provider: OidcProvider, clock: ManualClock) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.JWT, ttl=300)
    # Minting it has taken some time, and without any leeway a token from the future is refused.
    clock.set(time.time())
    async with trusting(oidc_provider, clock=clock, leeway=0.0) as app:
        assert 200 == (await app.ask(token)).status
        clock.advance(300)
        assert (401, "token_expired", False) == verdict(await app.ask(token))


# What is accepted


@pytest.mark.parametrize("resource", AUDIENCE)
@pytest.mark.parametrize("typ", [None, "at+jwt"])
async def test_a_service_is_known_by_its_token(oidc_provider: OidcProvider, resource: str, typ: str | None) -> None:
    async with trusting(oidc_provider, typ=typ) as app:
        caller = (await app.ask(oidc_provider.service_token(resource, scope="llm:chat llm:admin"))).caller
    assert caller is not None
    assert ("jwt", oidc_provider.url, Assurance.SIGNED) == (caller.method, caller.issuer, caller.assurance)
    assert ("service", ("llm:admin", "llm:chat"), oidc_provider.url) == (caller.client, caller.scopes, caller.realm)


async def test_a_person_is_known_by_her_token_and_by_what_the_map_takes_from_it(oidc_provider: OidcProvider) -> None:
    async with trusting(oidc_provider, realm="corp") as app:
        ada = (await app.ask(oidc_provider.user_token("ada", resource=OidcProvider.JWT))).caller
        bob = (await app.ask(oidc_provider.user_token("bob", resource=OidcProvider.JWT))).caller
    assert ada is not None
    assert bob is not None
    assert ("default/corp/ada", "ada@example.com", "webapp") == (ada.identity, ada.email, ada.client)
    assert (("ml-platform", "research"), (("department", "research"),)) == (ada.groups, ada.claims)
    # His address is not verified, so nobody vouches for it.
    assert ("bob", None, ()) == (bob.user, bob.email, bob.groups)


async def test_a_provider_is_found_that_is_an_authorization_server_only(oidc_provider: OidcProvider) -> None:
    oidc_provider.answer(DISCOVERY, "{}", status=404)
    async with trusting(oidc_provider) as app:
        assert 200 == (await app.ask(oidc_provider.service_token(OidcProvider.JWT))).status


async def test_a_hundred_cold_requests_at_once_are_one_fetch(oidc_provider: OidcProvider) -> None:
    tokens = [oidc_provider.service_token(resource) for resource in AUDIENCE for _ in range(5)]
    discovered, fetched = await fetches(oidc_provider)
    statuses: list[int] = []
    async with trusting(oidc_provider) as app, anyio.create_task_group() as tasks:

        async def ask(token: str) -> None:
            statuses.append((await app.ask(token)).status)

        for token in tokens * 10:
            tasks.start_soon(ask, token)
    assert [200] * 100 == statuses
    assert (discovered + 1, fetched + 1) == await fetches(oidc_provider)


# Keys that change


async def test_no_good_token_is_refused_while_the_provider_rotates_its_keys(oidc_provider: OidcProvider, clock: ManualClock) -> None:
    def mint() -> list[str]:
        return [oidc_provider.service_token(resource) for resource in AUDIENCE for _ in range(3)]

    good = mint()
    answered = 0
    failures: list[Outcome] = []
    first = good
    _, fetched = await fetches(oidc_provider)

    async with trusting(oidc_provider, clock=clock) as app, anyio.create_task_group() as tasks:

        async def go_on() -> None:
            nonlocal answered
            while True:
                for token in good:
                    await anyio.lowlevel.checkpoint()
                    outcome = await app.ask(token)
                    answered += 1
                    if outcome.status != 200 and token in good:
                        failures.append(outcome)

        async def all_pass(tokens: list[str]) -> None:
            assert [200] * len(tokens) == [(await app.ask(token)).status for token in tokens]

        for _ in range(2):
            tasks.start_soon(go_on)
        await all_pass(first)
        assert fetched + 1 == (await fetches(oidc_provider))[1]

        # The old keys stay published, and new ones sign.
        before = answered
        await aside(oidc_provider.rotate, keep=True)
        assert answered > before, "requests went on meanwhile"
        second = await aside(mint)
        good = first + second
        await all_pass(second)
        await all_pass(first)
        assert fetched + 2 == (await fetches(oidc_provider))[1]

        # They are dropped, so that nothing is good but what the newest ones sign.
        clock.advance(INTERVAL)
        good = second
        before = answered
        await aside(oidc_provider.rotate, keep=False)
        assert answered > before
        third = await aside(mint)
        good = third
        await all_pass(third)
        assert fetched + 3 == (await fetches(oidc_provider))[1]
        for token in first + second:
            assert (401, "token_key_unknown", False) == verdict(await app.ask(token))
        assert fetched + 3 == (await fetches(oidc_provider))[1], "within the interval, a key that is gone costs no fetch"
        tasks.cancel_scope.cancel()
    assert [] == failures


async def test_a_key_that_was_dropped_ends_its_tokens_by_the_next_refresh_though_nobody_shows_a_new_one(
    oidc_provider: OidcProvider, clock: ManualClock
) -> None:
    token = oidc_provider.service_token(OidcProvider.JWT)
    async with trusting(oidc_provider, clock=clock) as app:
        assert 200 == (await app.ask(token)).status
        _, fetched = await fetches(oidc_provider)
        oidc_provider.rotate(keep=False)
        assert 200 == (await app.ask(token)).status
        clock.advance(TTL)
        with anyio.fail_after(LIMIT):
            # The request that finds the keys due does not wait for the new ones, nor do those beside it.
            while (await app.ask(token)).status == 200:
                pass
        for _ in range(3):
            assert (401, "token_key_unknown", False) == verdict(await app.ask(token))
        # The refresh, and one question after a key that is not among those at hand.
        assert fetched + 2 == (await fetches(oidc_provider))[1]


# Outages


@pytest.mark.parametrize("mode", TROUBLES)
@pytest.mark.usefixtures("short_deadline")
async def test_known_keys_go_on_while_the_provider_is_down_and_an_unknown_one_is_a_503(
    oidc_provider: OidcProvider, clock: ManualClock, mode: Trouble
) -> None:
    known, cold = (oidc_provider.service_token(OidcProvider.JWT) for _ in range(2))
    async with trusting(oidc_provider, clock=clock) as app:
        assert 200 == (await app.ask(known)).status
        oidc_provider.rotate(keep=True)
        unknown = oidc_provider.service_token(OidcProvider.JWT)
        discovered, _ = await fetches(oidc_provider)
        oidc_provider.trouble(mode)

        assert 200 == (await app.ask(known)).status
        assert 200 == (await app.ask(cold)).status
        began = anyio.current_time()
        outcome = await app.ask(unknown)
        assert anyio.current_time() - began < DEADLINE + SLACK
        assert (503, "issuer_unavailable", False) == verdict(outcome)
        assert int(outcome.response.header("retry-after") or 0) >= 1
        assert outcome.response.header("www-authenticate") is None

        # Nobody waits, or asks, again before the back-off is over.
        for _ in range(5):
            assert (503, "issuer_unavailable", False) == verdict(await app.ask(unknown))
        assert discovered + 1 == (await fetches(oidc_provider))[0]
        assert 200 == (await app.ask(known)).status

        oidc_provider.well()
        clock.advance(60)
        assert 200 == (await app.ask(unknown)).status


@pytest.mark.parametrize("mode", TROUBLES)
@pytest.mark.usefixtures("short_deadline")
async def test_a_provider_that_was_never_reached_makes_no_token_bad(oidc_provider: OidcProvider, mode: Trouble) -> None:
    token = oidc_provider.service_token(OidcProvider.JWT)
    oidc_provider.trouble(mode)
    async with trusting(oidc_provider) as app:
        began = anyio.current_time()
        outcome = await app.ask(token)
        assert anyio.current_time() - began < DEADLINE + SLACK
    assert (503, "issuer_unavailable", False) == verdict(outcome)


async def test_a_refresh_that_hangs_holds_nobody_up(oidc_provider: OidcProvider, clock: ManualClock) -> None:
    known, cold = (oidc_provider.service_token(OidcProvider.JWT) for _ in range(2))
    async with trusting(oidc_provider, clock=clock) as app:
        assert 200 == (await app.ask(known)).status
        _, fetched = await fetches(oidc_provider)
        oidc_provider.trouble("hang", path=OidcProvider.JWKS)
        clock.advance(TTL)
        assert 200 == (await app.ask(known)).status
        # It has arrived, and will not be answered: whoever waited for it, would still wait.
        await aside(oidc_provider.wait_for_hits, OidcProvider.JWKS, fetched + 1)
        assert [200, 200] == [(await app.ask(token)).status for token in (known, cold)]
        assert fetched + 1 == (await fetches(oidc_provider))[1]


# Userinfo


@pytest.fixture
async def userinfo(oidc_provider: OidcProvider) -> AsyncGenerator[Userinfo]:
    userinfo = Userinfo(issuer=oidc_provider.url)
    yield userinfo
    await userinfo.aclose()


async def test_userinfo_tells_what_a_thin_token_does_not_say(oidc_provider: OidcProvider, userinfo: Userinfo) -> None:
    token = oidc_provider.user_token("ada")
    asked = oidc_provider.hits(OidcProvider.USERINFO)
    thin = {"iss": oidc_provider.url, "sub": "ada", "scope": "openid email groups"}
    full, again = [await userinfo.complete(token.encode(), thin) for _ in range(2)]
    assert full == again
    assert thin.items() <= full.items()
    assert ("ada@example.com", True, ["ml-platform", "research"]) == (full["email"], full["email_verified"], full["groups"])
    assert asked + 1 == oidc_provider.hits(OidcProvider.USERINFO)


async def test_userinfo_completes_no_token_with_what_it_says_of_somebody_else(oidc_provider: OidcProvider, userinfo: Userinfo) -> None:
    with pytest.raises(TokenInvalid) as refused:
        await userinfo.complete(oidc_provider.user_token("bob").encode(), {"sub": "ada"})
    assert "token_claim_invalid" == refused.value.reason


async def test_userinfo_that_cannot_be_asked_is_no_bad_token(oidc_provider: OidcProvider, userinfo: Userinfo) -> None:
    token = oidc_provider.user_token("ada").encode()
    oidc_provider.trouble("503", path=OidcProvider.USERINFO)
    with pytest.raises(IssuerUnavailableError):
        await userinfo.complete(token, {"sub": "ada"})


async def test_a_token_that_userinfo_does_not_take_is_refused(oidc_provider: OidcProvider) -> None:
    # This provider's userinfo refuses every token that has an audience, and ours must have one.
    token = oidc_provider.user_token("ada", resource=OidcProvider.JWT)
    async with trusting(oidc_provider, userinfo=True) as app:
        assert (401, "token_inactive", False) == verdict(await app.ask(token))
