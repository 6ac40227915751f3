"""Tokens that end before their time: revoked ones, and streams and sockets of tokens that end."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import ClaimMap, Decision, JWTMiddleware, Stack, Store, StoreUnavailableError, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, TestIssuer, WebSocketClosed, lifespan, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LAYER = "JWTMiddleware"
EVENTS = (b"content-type", b"text/event-stream")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> TestIssuer:
    return TestIssuer(algorithm="ES256", clock=clock)


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return open_store("memory://", clock=clock)


def headers(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


async def verdict(layer: Any, token: str) -> tuple[int, str | None]:
    async with stream(layer, "GET /v1/models", headers=headers(token)) as exchange:
        async for _ in exchange:
            pass
    decisions: list[Decision] = exchange.scope[CONTEXT_KEY].decisions
    return exchange.response.status, decisions[-1].reason


Revoke = Callable[[Store, TestIssuer], Awaitable[Any]]
REVOCATIONS: dict[str, Revoke] = {
    "by its id": lambda store, issuer: store.revocations.revoke_token(issuer.issuer, "t-1"),
    "by its subject": lambda store, issuer: store.revocations.revoke_subject(issuer.issuer, "ada"),
    "by a moment": lambda store, issuer: store.revocations.revoke_subject(issuer.issuer, "ada", issued_before=NOW),
    "by its key": lambda store, issuer: store.revocations.revoke_key(issuer.issuer, issuer.keys[0].kid),
}


@pytest.mark.parametrize("how", REVOCATIONS)
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
async def test_a_revoked_token_is_refused_at_once(issuer: TestIssuer, store: Store, how: str, warm: bool) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)
    token = issuer.token(jti="t-1")
    if warm:
        assert (200, None) == await verdict(layer, token)
    calls = len(app.scopes)
    await REVOCATIONS[how](store, issuer)
    for _ in range(2):
        assert (401, "token_revoked") == await verdict(layer, token)
    assert calls == len(app.scopes)


async def test_a_revocation_is_about_nothing_else(issuer: TestIssuer, store: Store, clock: ManualClock) -> None:
    other = TestIssuer("https://other.example", algorithm="ES256", clock=clock)
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted(), other.trusted()], revocations=store.revocations)
    await store.revocations.revoke_token(issuer.issuer, "t-1")
    await store.revocations.revoke_subject(issuer.issuer, "bob")
    await store.revocations.revoke_token(issuer.issuer, "t-2", tenant="elsewhere")
    for token in (issuer.token(jti="t-2"), issuer.token(jti=None), other.token(jti="t-1"), other.token(sub="bob")):
        assert (200, None) == await verdict(layer, token)
    clock.advance(1)
    assert (200, None) == await verdict(layer, issuer.token(sub="bob"))


async def test_a_lifted_revocation_lets_the_token_in_again(issuer: TestIssuer, store: Store) -> None:
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted()], revocations=store.revocations)
    token = issuer.token(jti="t-1")
    revocation = await store.revocations.revoke_token(issuer.issuer, "t-1")
    assert (401, "token_revoked") == await verdict(layer, token)
    await store.revocations.lift(revocation.id)
    assert (200, None) == await verdict(layer, token)


@pytest.mark.parametrize("tenant", ["acme", "default"])
async def test_a_token_whose_tenant_is_a_claim_is_revoked_for_that_tenant_and_for_the_issuer_s(
    issuer: TestIssuer, store: Store, tenant: str
) -> None:
    trusted = issuer.trusted(claims=ClaimMap(tenant="tid"))
    layer = JWTMiddleware(Witness(), issuers=[trusted], revocations=store.revocations)
    token = issuer.token(jti="t-1", tid="acme")
    assert (200, None) == await verdict(layer, token)
    await store.revocations.revoke_token(issuer.issuer, "t-1", tenant=tenant)
    assert (401, "token_revoked") == await verdict(layer, token)
    assert (200, None) == await verdict(layer, issuer.token(jti="t-2", tid="acme"))


async def test_without_revocations_nothing_is_looked_up(issuer: TestIssuer, store: Store) -> None:
    await store.revocations.revoke_token(issuer.issuer, "t-1")
    assert (200, None) == await verdict(JWTMiddleware(Witness(), issuers=[issuer.trusted()]), issuer.token(jti="t-1"))


async def test_revocations_that_cannot_be_read_are_a_failed_check(
    issuer: TestIssuer, store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)
    token = issuer.token()

    async def down(*_: Any) -> Any:
        raise StoreUnavailableError("down")

    monkeypatch.setattr(store.revocations, "refresh", down)
    assert (503, "store_unavailable") == await verdict(layer, token)
    monkeypatch.undo()
    assert (200, None) == await verdict(layer, token)
    monkeypatch.setattr(store.revocations, "refresh", down)
    assert (200, None) == await verdict(layer, token)
    clock.advance(store.revocations.bound)
    for one in (token, issuer.token()):
        assert (503, "store_unavailable") == await verdict(layer, one)
    assert 2 == len(app.scopes)
    # A token that is bad anyway is told as such where that needs nobody else's word.
    assert (401, "token_expired") == await verdict(layer, issuer.token(exp=1))


async def test_a_revocation_elsewhere_takes_effect_within_the_bound(issuer: TestIssuer, clock: ManualClock, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=clock, deadline=5) as here, open_store(url, clock=clock, deadline=5) as there:
        layer = JWTMiddleware(Witness(), issuers=[issuer.trusted()], revocations=here.revocations)
        token = issuer.token(jti="t-1")
        assert (200, None) == await verdict(layer, token)
        await there.revocations.revoke_token(issuer.issuer, "t-1")
        clock.advance(here.revocations.bound)
        assert (401, "token_revoked") == await verdict(layer, token)


async def test_the_lifespan_owns_issuers_and_store(issuer: TestIssuer, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'authmw.db'}", deadline=5)
    trusted = issuer.trusted()
    layer = JWTMiddleware(Witness(), issuers=[trusted], revocations=store.revocations)
    assert (trusted, store) == layer.resources
    guarded = Stack(Middleware(JWTMiddleware, issuers=[trusted], revocations=store.revocations))(Witness())
    async with lifespan(guarded):
        assert (200, None) == await verdict(guarded, issuer.token())


class Streaming:
    """An app that sends one event, and another one when it is told to."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"data: two\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


ENDINGS: dict[str, str] = {"expired": "token_expired", "by its id": "token_revoked", "by its key": "token_revoked"}


async def end(how: str, issuer: TestIssuer, store: Store, clock: ManualClock) -> None:
    if how == "expired":
        clock.advance(65)
    else:
        await REVOCATIONS[how](store, issuer)


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_stream_ends_when_its_token_does(issuer: TestIssuer, store: Store, clock: ManualClock, how: str) -> None:
    app = Streaming()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)
    token = issuer.token(jti="t-1", exp=NOW + 60)
    async with stream(layer, "POST /v1/chat/completions", headers=headers(token)) as exchange:
        assert b"data: one\n\n" == await exchange.next_chunk()
        await end(how, issuer, store, clock)
        app.go_on.set()
        async for _ in exchange:
            pass
    assert b"data: two" not in exchange.response.body
    assert ENDINGS[how].encode() in exchange.response.body
    decisions = exchange.scope[CONTEXT_KEY].decisions
    assert [Decision(LAYER, "allowed", None, "t-1"), Decision(LAYER, "denied", ENDINGS[how], "t-1")] == decisions


async def test_a_stream_of_a_good_token_goes_through_as_it_is(issuer: TestIssuer, store: Store, clock: ManualClock) -> None:
    app = Streaming()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)
    async with stream(layer, "POST /v1/chat/completions", headers=headers(issuer.token())) as exchange:
        assert b"data: one\n\n" == await exchange.next_chunk()
        clock.advance(30)
        app.go_on.set()
        async for _ in exchange:
            pass
    assert b"data: one\n\ndata: two\n\n" == exchange.response.body
    assert ["allowed"] == [decision.outcome for decision in exchange.scope[CONTEXT_KEY].decisions]


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_socket_ends_when_its_token_does(issuer: TestIssuer, store: Store, clock: ManualClock, how: str) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)
    token = issuer.token(jti="t-1", exp=NOW + 60)
    async with websocket(layer, "/v1/realtime", headers=headers(token)) as socket:
        await socket.send_text("who")
        assert "ada" == await socket.receive()
        await end(how, issuer, store, clock)
        await socket.send_text("who")
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
    assert (1008, ENDINGS[how]) == (closed.value.code, closed.value.reason)


async def test_a_socket_that_idles_ends_when_its_token_does(issuer: TestIssuer, clock: ManualClock) -> None:
    layer = JWTMiddleware(Witness(), issuers=[issuer.trusted(leeway=0)])
    # What is left of the token is all that is waited for.
    token = issuer.token(exp=NOW + 0.02)
    async with websocket(layer, "/v1/realtime", headers=headers(token)) as socket:
        clock.advance(1)
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
    assert (1008, "token_expired") == (closed.value.code, closed.value.reason)


async def test_a_check_that_fails_on_an_open_stream_ends_it(
    issuer: TestIssuer, store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Streaming()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()], revocations=store.revocations)

    async def broken() -> None:
        raise KeyError("bug")

    async with stream(layer, "POST /v1/chat/completions", headers=headers(issuer.token())) as exchange:
        await exchange.next_chunk()
        monkeypatch.setattr(store.revocations, "refresh", broken)
        clock.advance(60)
        app.go_on.set()
        async for _ in exchange:
            pass
    assert "check_failed" == exchange.scope[CONTEXT_KEY].decisions[-1].reason
    assert b"store_unavailable" in exchange.response.body
