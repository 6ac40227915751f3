"""A check that fails to run has failed: 503, never a 500, never an anonymous caller."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from llm_authmw import (
    Decision,
    Denial,
    KeyAuthMiddleware,
    Principal,
    StaticKeys,
    Store,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
    open_store,
)
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, request, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return open_store("memory://", clock=clock, deadline=0.05)


def failing(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def fail(*args: Any) -> Any:
        raise error

    return fail


async def hanging(*args: Any) -> Any:
    await anyio.sleep_forever()


def break_store(store: Store, monkeypatch: pytest.MonkeyPatch, part: str, fault: Callable[..., Awaitable[Any]]) -> None:
    facet, _, method = part.partition(".")
    monkeypatch.setattr(getattr(store._backend, facet), method, fault)


FAULTS = {
    "down": failing(StoreUnavailableError("locked")),
    "broken": failing(StoreError("no")),
    "corrupt": failing(StoreCorruptError("no")),
    "hanging": hanging,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["keys.find", "feed.changes", "accounts.query"])
@pytest.mark.parametrize("required", [True, False])
async def test_a_store_that_is_down_is_503_with_a_time_to_wait_and_nobody_gets_in(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: str, part: str, required: bool
) -> None:
    key = str((await store.keys.create()).key)
    break_store(store, monkeypatch, part, FAULTS[fault])
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys, required=required)
    headers = [(b"x-api-key", key.encode())]
    async with stream(layer, "GET /v1/models", headers=headers) as exchange:
        async for _ in exchange:
            pass
    response = exchange.response
    assert (503, "store_unavailable", "1") == (response.status, response.header("x-authmw-reason"), response.header("retry-after"))
    assert response.header("www-authenticate") is None
    assert [Decision("KeyAuthMiddleware", "denied", "store_unavailable")] == exchange.scope[CONTEXT_KEY].decisions
    async with websocket(layer, "/v1/realtime", headers=headers) as socket:
        assert 503 == socket.response.status
    assert [] == app.scopes


async def test_a_key_that_was_let_in_before_is_let_in_no_longer_once_the_store_cannot_be_asked_for_changes(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = [(b"x-api-key", str((await store.keys.create()).key).encode())]
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    assert 200 == (await request(layer, "GET /v1/models", headers=headers)).status
    break_store(store, monkeypatch, "feed.changes", FAULTS["down"])
    clock.advance(0.99)
    assert 200 == (await request(layer, "GET /v1/models", headers=headers)).status
    clock.advance(0.01)
    assert 503 == (await request(layer, "GET /v1/models", headers=headers)).status
    monkeypatch.undo()
    assert 200 == (await request(layer, "GET /v1/models", headers=headers)).status
    assert 3 == len(app.scopes)


async def test_a_store_that_is_down_says_nothing_about_who_has_a_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    good, unknown = str((await store.keys.create()).key), mint_key().text
    break_store(store, monkeypatch, "keys.find", FAULTS["down"])
    layer = KeyAuthMiddleware(Witness(), keys=store.keys, disclosure="exact")
    statuses = [(await request(layer, "GET /v1/models", headers=[(b"x-api-key", key.encode())])).status for key in (good, unknown)]
    assert [503, 503] == statuses


async def test_what_needs_no_store_is_decided_while_it_is_down(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("keys.find", "feed.changes", "accounts.query"):
        break_store(store, monkeypatch, part, FAULTS["down"])
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys, master_key=MASTER)
    sent = {None: 401, "sk-garbage": 401, "": 400, MASTER: 200}
    for value, status in sent.items():
        headers = [] if value is None else [(b"x-api-key", value.encode())]
        assert status == (await request(layer, "GET /v1/models", headers=headers)).status
    assert ["key:master"] == app.subjects


async def test_a_store_that_cannot_be_written_still_verifies(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    key = str((await store.keys.create()).key)
    break_store(store, monkeypatch, "keys.touch", FAULTS["down"])
    app = Witness()
    for _ in range(3):
        response = await request(KeyAuthMiddleware(app, keys=store.keys), "GET /v1/models", headers=[(b"x-api-key", key.encode())])
        assert 200 == response.status
        clock.advance(120)
    assert 3 == len(app.scopes)


async def test_a_key_whose_pepper_is_not_at_hand_is_503_and_not_wrong() -> None:
    clock = ManualClock()
    old, new = "o" * 16 + "0123456789abcdef", "n" * 16 + "0123456789abcdef"
    store = open_store("memory://", clock=clock, pepper=old)
    key = str((await store.keys.create()).key)
    other = Store(
        store._backend,
        url="memory://",
        peppers=open_store("memory://", pepper={2: new}).keys._peppers,
        bound=1.0,
        deadline=1.0,
        clock=clock,
    )
    app = Witness()
    response = await request(KeyAuthMiddleware(app, keys=other.keys), "GET /v1/models", headers=[(b"x-api-key", key.encode())])
    assert (503, "store_unavailable") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


class Raising(AuthenticationLayer):
    """A layer of a user's own, with a mistake in it."""

    challenge = "Test"

    def __init__(self, app: Any, *, error: Exception, required: bool = True) -> None:
        super().__init__(app, required=required)
        self.error = error

    async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
        if run.credential is None:
            return None
        await anyio.lowlevel.checkpoint()
        raise self.error


ERRORS = [
    RuntimeError("bug"),
    KeyError(KEY),
    ValueError(f"cannot read {KEY}"),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, KEY),
    RecursionError(),
    TimeoutError(),
    OSError(KEY),
    ExceptionGroup(KEY, [ValueError(KEY)]),
    AssertionError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("required", [True, False])
async def test_a_check_that_raises_is_503_and_neither_a_500_nor_anonymous(
    error: Exception, required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    app = Witness()
    layer = Raising(app, error=error, required=required)
    headers = [(b"authorization", f"Bearer {KEY}".encode())]
    async with stream(layer, "GET /v1/models", headers=headers) as exchange:
        async for _ in exchange:
            pass
    response = exchange.response
    assert (503, "store_unavailable") == (response.status, response.header("x-authmw-reason"))
    assert [Decision("Raising", "denied", "check_failed")] == exchange.scope[CONTEXT_KEY].decisions
    async with websocket(layer, "/v1/realtime", headers=headers) as socket:
        assert 503 == socket.response.status
    assert [] == app.scopes
    assert "could not judge a credential" in caplog.text
    assert "test_failed_checks.py" in caplog.text
    assert KEY not in caplog.text + response.text


async def test_a_check_that_raises_lets_no_other_layer_of_the_run_decide() -> None:
    app = Witness()
    layer = Raising(KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY})), error=RuntimeError("bug"))
    response = await request(layer, "GET /v1/models", headers=[(b"x-api-key", KEY.encode())])
    assert 503 == response.status
    assert [] == app.scopes


async def test_a_denial_that_is_raised_is_the_same_as_one_that_is_returned() -> None:
    app = Witness()
    layer = Raising(app, error=Denial("insufficient_scope", need="llm:read", challenges=["Test"]))
    response = await request(layer, "GET /v1/models", headers=[(b"x-api-key", b"x")])
    assert (403, "insufficient_scope") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


class Cancelled(BaseException):
    pass


async def test_what_ends_the_program_is_not_taken_for_a_failed_check() -> None:
    layer: Any = Raising(Witness(), error=RuntimeError())
    layer.error = Cancelled()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(Cancelled):
        await layer({"type": "http", "method": "GET", "path": "/", "headers": [(b"x-api-key", b"x")], "query_string": b""}, None, send)
    assert [] == sent
