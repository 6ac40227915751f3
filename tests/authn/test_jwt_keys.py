"""The keys of issuers as requests see them: fetched once, rotated, withdrawn, out of reach."""

from typing import Any

import anyio
import pytest

from llm_authmw import Decision, Issuer, JWTMiddleware
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, Response, TestIssuer, WebSocketClosed, make_signing_key, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

DAY = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> TestIssuer:
    return TestIssuer(algorithm="ES256", clock=clock)


def layer(*issuers: Issuer, app: Any = None) -> JWTMiddleware:
    return JWTMiddleware(app or Witness(), issuers=list(issuers))


async def ask(guarded: Any, token: str) -> tuple[Response, list[Decision]]:
    async with stream(guarded, "GET /v1/models", headers=[(b"authorization", f"Bearer {token}".encode())]) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY].decisions


async def verdict(guarded: Any, token: str) -> tuple[int, str | None]:
    response, decisions = await ask(guarded, token)
    return response.status, decisions[-1].reason


async def settle(issuer: TestIssuer, hits: int) -> None:
    """Wait until the issuer was asked that often, and what it answered has been taken."""
    with anyio.fail_after(5):
        while issuer.hits["/jwks"] < hits:
            await anyio.lowlevel.checkpoint()
        for _ in range(20):
            await anyio.lowlevel.checkpoint()


def long(issuer: TestIssuer, **claims: Any) -> str:
    """Return a token that is good for a month."""
    return issuer.token(exp=int(issuer.clock.now()) + 30 * DAY, **claims)


async def test_nothing_is_fetched_before_a_token_needs_it_and_then_once(issuer: TestIssuer) -> None:
    guarded = layer(issuer.trusted())
    assert (401, "invalid_token") == await verdict(guarded, "opaque")
    assert {} == issuer.hits
    for _ in range(3):
        assert (200, None) == await verdict(guarded, issuer.token())
    assert {"/.well-known/openid-configuration": 1, "/jwks": 1} == issuer.hits


async def test_two_hundred_cold_requests_are_one_question(issuer: TestIssuer) -> None:
    guarded, statuses = layer(issuer.trusted()), list[int]()

    async def one(number: int) -> None:
        statuses.append((await ask(guarded, issuer.token(sub=f"user-{number}")))[0].status)

    issuer.hold()
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(one, number)
        with anyio.fail_after(5):
            while not issuer.hits:
                await anyio.lowlevel.checkpoint()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert [] == statuses
        issuer.release()
    assert [200] * 200 == statuses
    assert {"/.well-known/openid-configuration": 1, "/jwks": 1} == issuer.hits


async def test_layers_that_share_an_issuer_share_its_keys_and_what_it_has_verified(issuer: TestIssuer) -> None:
    trusted, token = issuer.trusted(), issuer.token()
    one, two = layer(trusted), layer(trusted)
    assert (200, None) == await verdict(one, token)
    issuer.go_down("refused")
    assert (200, None) == await verdict(two, token)
    assert 1 == issuer.hits["/jwks"]


async def test_a_new_key_is_accepted_without_a_restart_and_the_old_one_as_long_as_it_is_published(
    issuer: TestIssuer, clock: ManualClock
) -> None:
    guarded = layer(issuer.trusted())
    old = long(issuer)
    assert (200, None) == await verdict(guarded, old)
    issuer.rotate()
    clock.advance(30)
    assert (200, None) == await verdict(guarded, issuer.token())
    assert (200, None) == await verdict(guarded, old)
    assert 2 == issuer.hits["/jwks"]


async def test_a_key_that_was_withdrawn_ends_the_tokens_that_are_remembered(issuer: TestIssuer, clock: ManualClock) -> None:
    guarded = layer(issuer.trusted())
    old = long(issuer)
    assert (200, None) == await verdict(guarded, old)
    issuer.rotate(keep=False)
    clock.advance(30)
    assert (200, None) == await verdict(guarded, issuer.token())
    for _ in range(2):
        assert (401, "token_key_unknown") == await verdict(guarded, old)


async def test_a_key_that_was_withdrawn_is_noticed_by_remembered_tokens_alone(issuer: TestIssuer, clock: ManualClock) -> None:
    """A stolen token may be all the traffic that there is."""
    guarded = layer(issuer.trusted())
    stolen = long(issuer)
    assert (200, None) == await verdict(guarded, stolen)
    issuer.rotate(keep=False)
    clock.advance(599)
    assert (200, None) == await verdict(guarded, stolen)
    assert 1 == issuer.hits["/jwks"]
    clock.advance(1)
    await ask(guarded, stolen)
    await settle(issuer, 2)
    assert (401, "token_key_unknown") == await verdict(guarded, stolen)


async def test_a_key_that_was_withdrawn_ends_sockets(issuer: TestIssuer, clock: ManualClock) -> None:
    app = Witness()
    guarded = layer(issuer.trusted(), app=app)
    async with websocket(guarded, "/v1/realtime", headers=[(b"authorization", f"Bearer {long(issuer)}".encode())]) as socket:
        await socket.send_text("who")
        assert "ada" == await socket.receive()
        issuer.rotate(keep=False)
        clock.advance(600)
        await socket.send_text("who")
        await settle(issuer, 2)
        await socket.send_text("who")
        assert "ada" == await socket.receive()
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
    assert (1008, "invalid_token") == (closed.value.code, closed.value.reason)


async def test_a_key_that_was_missing_once_is_good_again_when_it_is_back(issuer: TestIssuer, clock: ManualClock) -> None:
    """Behind a load balancer, one server may still publish the set of yesterday."""
    guarded = layer(issuer.trusted())
    token, keys = long(issuer), issuer.keys
    assert (200, None) == await verdict(guarded, token)
    issuer.rotate(keep=False)
    clock.advance(30)
    assert (200, None) == await verdict(guarded, issuer.token())
    assert (401, "token_key_unknown") == await verdict(guarded, token)
    issuer.keys = [*issuer.keys, *keys]
    clock.advance(30)
    assert (200, None) == await verdict(guarded, token)


@pytest.mark.parametrize("how", ["refused", "unavailable", "html", "empty", "garbage"])
async def test_an_issuer_that_is_down_is_no_reason_to_call_a_token_bad(issuer: TestIssuer, clock: ManualClock, how: Any) -> None:
    guarded = layer(issuer.trusted())
    known, cold = long(issuer), long(issuer, sub="bob")
    assert (200, None) == await verdict(guarded, known)
    issuer.rotate()
    issuer.go_down(how)
    clock.advance(700)
    # What is known goes on, and a new token of a known key is good.
    assert [(200, None)] * 2 == [await verdict(guarded, token) for token in (known, cold)]
    for _ in range(3):
        app = Witness()
        response, decisions = await ask(layer(*guarded._issuers, app=app), issuer.token())
        assert (503, "issuer_unavailable", []) == (response.status, decisions[-1].reason, app.scopes)
        assert "issuer_unavailable" == response.header("x-authmw-reason")
        assert int(response.header("retry-after") or 0) >= 1
        assert response.header("www-authenticate") is None
    issuer.come_back()
    clock.advance(60)
    assert (200, None) == await verdict(guarded, issuer.token())


async def test_an_outage_costs_one_question_per_back_off(issuer: TestIssuer, clock: ManualClock) -> None:
    guarded = layer(issuer.trusted())
    issuer.go_down("unavailable")
    for _ in range(50):
        assert (503, "issuer_unavailable") == await verdict(guarded, issuer.token())
    assert 1 == sum(issuer.hits.values())
    clock.advance(1)
    assert (503, "issuer_unavailable") == await verdict(guarded, issuer.token())
    assert 2 == sum(issuer.hits.values())


async def test_keys_that_are_too_old_are_used_no_longer_and_that_is_a_failed_check(issuer: TestIssuer, clock: ManualClock) -> None:
    guarded = layer(issuer.trusted())
    warm = long(issuer)
    assert (200, None) == await verdict(guarded, warm)
    issuer.go_down("refused")
    clock.advance(DAY - 1)
    assert [(200, None)] * 2 == [await verdict(guarded, token) for token in (warm, long(issuer))]
    clock.advance(120)
    assert [(503, "issuer_unavailable")] * 2 == [await verdict(guarded, token) for token in (warm, long(issuer))]
    issuer.come_back()
    clock.advance(60)
    assert (200, None) == await verdict(guarded, warm)


async def test_one_issuer_s_outage_is_nobody_else_s(clock: ManualClock) -> None:
    red, blue = (TestIssuer(f"https://{name}.example", algorithm="ES256", clock=clock) for name in ("red", "blue"))
    guarded = layer(red.trusted(), blue.trusted())
    red.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, guarded, red.token())
        with anyio.fail_after(5):
            while not red.hits:
                await anyio.lowlevel.checkpoint()
        assert (200, None) == await verdict(guarded, blue.token())
        red.go_down("refused")
        red.release()
    assert (503, "issuer_unavailable") == await verdict(guarded, red.token())
    assert (200, None) == await verdict(guarded, blue.token())


async def test_a_client_that_goes_away_takes_nobody_s_keys_with_it(issuer: TestIssuer) -> None:
    guarded = layer(issuer.trusted())
    issuer.hold()
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await ask(guarded, issuer.token()))[0].status)

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(one)
            with anyio.fail_after(5):
                while not issuer.hits:
                    await anyio.lowlevel.checkpoint()
            tasks.start_soon(one)
            await anyio.lowlevel.checkpoint()
            first.cancel_scope.cancel()
        issuer.release()
    assert [200] == statuses
    assert 1 == issuer.hits["/jwks"]


async def test_a_static_set_is_never_fetched(issuer: TestIssuer) -> None:
    other = make_signing_key("ES256")
    guarded = layer(issuer.trusted(jwks={"keys": [issuer.keys[0].public()]}))
    assert (200, None) == await verdict(guarded, issuer.token())
    assert (401, "token_key_unknown") == await verdict(guarded, issuer.token(key=other))
    assert (401, "token_signature_invalid") == await verdict(guarded, issuer.token(key=other, header={"kid": None}))
    assert {} == issuer.hits


@pytest.mark.parametrize("kid", ["x", None])
async def test_a_pem_key_is_good_whatever_the_token_calls_it(issuer: TestIssuer, kid: str | None) -> None:
    guarded = layer(issuer.trusted(pem=issuer.keys[0].private.as_pem(private=False).decode()))
    assert (200, None) == await verdict(guarded, issuer.token(header={"kid": kid}))
    assert (401, "token_signature_invalid") == await verdict(guarded, issuer.token(key=make_signing_key("ES256"), header={"kid": kid}))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "PS256", "ES384", "ES512", "EdDSA", "Ed25519"])
async def test_every_algorithm_works_from_end_to_end(clock: ManualClock, algorithm: str) -> None:
    issuer = TestIssuer(algorithm=algorithm, clock=clock)
    guarded = layer(issuer.trusted())
    for _ in range(2):
        assert (200, None) == await verdict(guarded, issuer.token())
    forged = issuer.token(key=make_signing_key(algorithm, kid=issuer.keys[0].kid))
    assert (401, "token_signature_invalid") == await verdict(guarded, forged)


async def test_a_token_without_a_key_id_is_tried_with_the_keys_that_fit(issuer: TestIssuer) -> None:
    for _ in range(3):
        issuer.rotate()
    guarded = layer(issuer.trusted())
    for key in issuer.keys:
        assert (200, None) == await verdict(guarded, issuer.token(key=key, header={"kid": None}))
    forged = issuer.token(key=make_signing_key("ES256"), header={"kid": None})
    assert (401, "token_signature_invalid") == await verdict(guarded, forged)
