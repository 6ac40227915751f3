"""WebSockets: they pass through as they are, and are closed when the key that opened them ends, also while they idle."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute

from llm_authmw import CreatedKey, Decision, KeyAuthMiddleware, StaticKey, StaticKeys, Store, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, WebSocketClosed, websocket

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
NEVER = 3_600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    """A store whose bound no test waits for: what ends a socket here is a message."""
    return open_store("memory://", clock=clock, bound=NEVER)


@pytest.fixture
def brisk(clock: ManualClock) -> Store:
    """A store with a bound that a test can wait for, since it waits for the close."""
    return open_store("memory://", clock=clock, bound=0.05)


def header(key: CreatedKey) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", str(key.key).encode())]


async def closed(socket: Any) -> tuple[int, str]:
    with pytest.raises(WebSocketClosed) as caught:
        await socket.receive()
    return caught.value.code, caught.value.reason


class Conversing:
    """An app that answers each message, and says what it got at the end."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.messages.append(await receive())
        await send({"type": "websocket.accept"})
        while self.messages[-1]["type"] != "websocket.disconnect":
            message = await receive()
            self.messages.append(message)
            if message["type"] == "websocket.receive":
                await send({"type": "websocket.send", **{kind: message[kind] for kind in ("text", "bytes") if kind in message}})


async def test_a_message_after_the_key_was_revoked_reaches_the_app_no_more(store: Store) -> None:
    key, app = await store.keys.create(), Conversing()
    async with websocket(KeyAuthMiddleware(app, keys=store.keys), "/v1/realtime", headers=header(key)) as socket:
        await socket.send_text("one")
        assert "one" == await socket.receive()
        await store.keys.revoke(key.id)
        await socket.send_text("two")
        assert (1008, "invalid_api_key") == await closed(socket)
    assert ["websocket.connect", "websocket.receive", "websocket.disconnect"] == [message["type"] for message in app.messages]
    assert 1008 == app.messages[-1]["code"]
    assert Decision("KeyAuthMiddleware", "denied", "key_revoked", key.id) == socket.scope[CONTEXT_KEY].decisions[-1]


async def test_the_app_sends_nothing_more_after_the_key_was_revoked(store: Store) -> None:
    go_on, errors = anyio.Event(), list[OSError]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "one"})
        await go_on.wait()
        for text in ("two", "three"):
            try:
                await send({"type": "websocket.send", "text": text})
            except OSError as error:
                errors.append(error)
        await send({"type": "websocket.close", "code": 1000})

    key = await store.keys.create()
    async with websocket(KeyAuthMiddleware(app, keys=store.keys), "/v1/realtime", headers=header(key)) as socket:
        assert "one" == await socket.receive()
        await store.keys.revoke(key.id)
        go_on.set()
        assert (1008, "invalid_api_key") == await closed(socket)
    assert 2 == len(errors)
    assert socket.response.activity.raised is None


async def test_a_socket_ends_within_the_bound_when_another_process_revokes_its_key(tmp_path: Path, clock: ManualClock) -> None:
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=clock, bound=0.05, deadline=5) as here, open_store(url, clock=clock, deadline=5) as there:
        key, app = await here.keys.create(), Conversing()
        async with websocket(KeyAuthMiddleware(app, keys=here.keys), "/v1/realtime", headers=header(key)) as socket:
            await socket.send_text("one")
            assert "one" == await socket.receive()
            await there.keys.revoke(key.id)
            clock.advance(0.05)
            assert (1008, "invalid_api_key") == await closed(socket)
    assert "websocket.disconnect" == app.messages[-1]["type"]


ENDINGS: list[Callable[[Store, CreatedKey], Awaitable[Any]]] = [
    lambda store, key: store.keys.revoke(key.id),
    lambda store, key: store.keys.block(key.id),
    lambda store, key: store.keys.expire(key.id),
    lambda store, key: store.keys.rotate(key.id, grace=0),
    lambda store, key: store.accounts.create("team", "blue", status="blocked"),
]


@pytest.mark.parametrize("end", ENDINGS)
async def test_a_socket_that_idles_is_closed_and_its_app_may_clean_up(
    brisk: Store, end: Callable[[Store, CreatedKey], Awaitable[Any]]
) -> None:
    key, app = await brisk.keys.create(team="blue"), Conversing()
    async with websocket(KeyAuthMiddleware(app, keys=brisk.keys), "/v1/realtime", headers=header(key)) as socket:
        await end(brisk, key)
        assert (1008, "invalid_api_key") == await closed(socket)
        await socket.wait_returned()
    assert ["websocket.connect", "websocket.disconnect"] == [message["type"] for message in app.messages]


async def test_starlette_hears_of_the_end(brisk: Store) -> None:
    codes: list[int] = []

    class Endpoint(WebSocketEndpoint):
        encoding = "text"

        async def on_disconnect(self, websocket: Any, close_code: int) -> None:
            await anyio.lowlevel.checkpoint()
            codes.append(close_code)

    key = await brisk.keys.create()
    app = KeyAuthMiddleware(Starlette(routes=[WebSocketRoute("/v1/realtime", Endpoint)]), keys=brisk.keys)
    async with websocket(app, "/v1/realtime", headers=header(key)) as socket:
        await brisk.keys.revoke(key.id)
        assert (1008, "invalid_api_key") == await closed(socket)
        await socket.wait_returned()
    assert [1008] == codes


async def test_an_app_that_does_not_listen_is_ended_as_well(brisk: Store) -> None:
    ended = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    key = await brisk.keys.create()
    async with websocket(KeyAuthMiddleware(app, keys=brisk.keys), "/v1/realtime", headers=header(key)) as socket:
        await brisk.keys.revoke(key.id)
        assert (1008, "invalid_api_key") == await closed(socket)
        await socket.wait_returned()
    assert ended.is_set()


@pytest.mark.parametrize("denial_response", [True, False])
async def test_a_socket_that_the_app_has_not_accepted_yet_is_refused(brisk: Store, denial_response: bool) -> None:
    errors: list[OSError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await brisk.keys.revoke(key.id)
        await receive()
        await receive()
        try:
            await send({"type": "websocket.accept"})
        except OSError as error:
            errors.append(error)

    key = await brisk.keys.create()
    guarded = KeyAuthMiddleware(app, keys=brisk.keys)
    async with websocket(guarded, "/v1/realtime", headers=header(key), denial_response=denial_response) as socket:
        assert not socket.accepted
        assert (401 if denial_response else 403) == socket.response.status
    assert 1 == len(errors)


async def test_a_socket_of_a_static_key_ends_when_the_key_expires(clock: ManualClock) -> None:
    keys, app = StaticKeys({"ci": StaticKey(KEY, expires_at=clock.now() + 60)}, clock=clock), Conversing()
    async with websocket(KeyAuthMiddleware(app, keys=keys), "/v1/realtime", headers=[(b"x-api-key", KEY.encode())]) as socket:
        await socket.send_text("one")
        assert "one" == await socket.receive()
        clock.advance(60)
        await socket.send_text("two")
        assert (1008, "invalid_api_key") == await closed(socket)


async def test_a_socket_goes_on_while_its_key_stands(brisk: Store, clock: ManualClock) -> None:
    key, app = await brisk.keys.create(), Conversing()
    async with websocket(KeyAuthMiddleware(app, keys=brisk.keys), "/v1/realtime", headers=header(key)) as socket:
        for number in range(20):
            clock.advance(1)
            await socket.send_text(str(number))
            assert str(number) == await socket.receive()
        await brisk.keys.update(key.id, name="renamed")
        await socket.send_bytes(b"\x00\xff")
        assert b"\x00\xff" == await socket.receive()
    assert "websocket.disconnect" == app.messages[-1]["type"]
    assert ["allowed"] == [decision.outcome for decision in socket.scope[CONTEXT_KEY].decisions]
