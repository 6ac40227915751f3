"""Sockets as the way around: handshakes that a guard for HTTP does not see, and sockets that outlive their key."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket as StarletteSocket

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys, open_store
from llm_authmw.authn.credentials import SUBPROTOCOL
from llm_authmw.testing import ManualClock, WebSocketClosed, websocket
from llm_authmw.testing.asgi import websocket_scope
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
HEADERS = [(b"x-api-key", KEY.encode())]

HANDSHAKES: dict[str, tuple[Sequence[tuple[bytes, bytes]], Sequence[str]]] = {
    "no credential": ((), ()),
    "a bad key": ([(b"x-api-key", b"sk-bad")], ()),
    "a bad key in a subprotocol": ((), [SUBPROTOCOL + "sk-bad"]),
    "an empty key in a subprotocol": ((), [SUBPROTOCOL]),
    "a cookie": ([(b"cookie", KEY.encode())], ()),
    "a key as the subprotocol": ((), [KEY]),
    "a header of the subprotocol's name": ([(b"openai-insecure-api-key", KEY.encode())], ()),
    "two keys in two lines": ([(b"sec-websocket-protocol", (SUBPROTOCOL + KEY).encode())] * 2, ()),
    "garbage": ([(b"authorization", b"Basic \xff")], ["realtime"]),
    "two keys": (HEADERS, [SUBPROTOCOL + KEY]),
}


@pytest.mark.parametrize("handshake", HANDSHAKES)
@pytest.mark.parametrize("denial_response", [True, False])
async def test_a_bad_handshake_is_refused_before_the_app_hears_of_it(handshake: str, denial_response: bool) -> None:
    headers, subprotocols = HANDSHAKES[handshake]
    app = Witness()
    guarded = Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(Starlette(routes=[Mount("/", app), WebSocketRoute("/v1/realtime", app)]))
    opened = websocket(guarded, "/v1/realtime", headers=headers, subprotocols=subprotocols, denial_response=denial_response)
    async with opened as socket:
        assert not socket.accepted
        with pytest.raises(WebSocketClosed):
            await socket.send_text("hello")
    assert [] == app.scopes
    assert 0 == socket.response.activity.receive_calls
    kinds = [message["type"] for message in socket.response.activity.sent]
    expected = ["websocket.http.response.start", "websocket.http.response.body"] if denial_response else ["websocket.close"]
    assert expected == kinds


async def test_a_close_before_the_handshake_says_nothing_but_that() -> None:
    """A reason that is given before the socket was accepted is lost on some servers, and an error on others."""
    async with websocket(KeyAuthMiddleware(Witness(), keys=KEYS), "/v1/realtime", denial_response=False) as socket:
        assert [{"type": "websocket.close", "code": 1008}] == socket.response.activity.sent


async def test_an_http_scope_with_the_extensions_of_a_socket_is_answered_as_http() -> None:
    """granian lists `websocket.http.response` on HTTP scopes as well."""
    sent: list[Any] = []

    async def receive() -> Any: ...
    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {**websocket_scope("/v1/realtime"), "type": "http", "method": "GET"}
    await KeyAuthMiddleware(Witness(), keys=KEYS)(scope, receive, send)
    assert ["http.response.start", "http.response.body"] == sent


async def test_a_socket_that_was_refused_cannot_be_used_all_the_same() -> None:
    """Somebody who goes on sending after the refusal reaches nobody: the layer has returned."""
    app = Witness()
    received: list[str] = []

    async def receive() -> Any:
        received.append("receive")
        return {"type": "websocket.receive", "text": "hello"}

    async def send(message: Any) -> None: ...

    with anyio.fail_after(5):
        await KeyAuthMiddleware(app, keys=KEYS)(websocket_scope("/v1/realtime"), receive, send)
    assert ([], []) == (app.scopes, received)


async def test_a_revoked_key_leaves_no_socket_and_no_new_one() -> None:
    """LiteLLM and others: sockets that outlive a revoked key."""
    store = open_store("memory://", clock=ManualClock(), bound=0.05)
    key = await store.keys.create()
    headers = [(b"x-api-key", str(key.key).encode())]
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    async with websocket(layer, "/v1/realtime", headers=headers) as first, websocket(layer, "/v1/realtime", headers=headers) as second:
        await store.keys.revoke(key.id)
        for socket in (first, second):
            with pytest.raises(WebSocketClosed) as caught:
                await socket.receive()
            assert 1008 == caught.value.code
        async with websocket(layer, "/v1/realtime", headers=headers) as third:
            assert 401 == third.response.status
    assert 2 == len(app.scopes)


async def test_the_end_of_one_key_ends_no_socket_of_another() -> None:
    store = open_store("memory://", clock=ManualClock(), bound=0.05)
    keys = [await store.keys.create() for _ in range(2)]
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    one, two = ([(b"x-api-key", str(key.key).encode())] for key in keys)
    async with websocket(layer, "/v1/realtime", headers=one) as first, websocket(layer, "/v1/realtime", headers=two) as second:
        await store.keys.revoke(keys[0].id)
        with pytest.raises(WebSocketClosed):
            await first.receive()
        await second.send_text("still here?")
        assert f"key:{keys[1].id}" == await second.receive()


async def test_what_the_client_says_after_the_handshake_changes_nobody() -> None:
    async def endpoint(socket: StarletteSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            socket.state.principal = text
            await socket.send_text(socket.user.subject)

    app = KeyAuthMiddleware(Starlette(routes=[WebSocketRoute("/v1/realtime", endpoint)]), keys=KEYS)
    async with websocket(app, "/v1/realtime", headers=HEADERS) as socket:
        for text in ('{"authorization":"Bearer x"}', '{"type":"session.update","session":{"user":"root"}}'):
            await socket.send_text(text)
            assert "key:ci" == await socket.receive()


async def test_the_key_is_not_chosen_as_the_subprotocol_by_the_layer() -> None:
    """An accepted subprotocol goes back to the client, through every log in between."""
    app = Witness()
    async with websocket(KeyAuthMiddleware(app, keys=KEYS), "/v1/realtime", subprotocols=["realtime", SUBPROTOCOL + KEY]) as socket:
        assert socket.accepted
        assert socket.subprotocol is None
        assert KEY not in repr(socket.response.activity.sent)
