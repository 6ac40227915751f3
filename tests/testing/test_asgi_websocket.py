from typing import Any

import anyio
import pytest
from starlette.websockets import WebSocket

from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.testing import ProtocolError, WebSocketClosed, websocket

pytestmark = pytest.mark.anyio

ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
CLOSE: dict[str, Any] = {"type": "websocket.close"}
DENIAL: dict[str, Any] = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no key")]}
DENIAL_BODY: dict[str, Any] = {"type": "websocket.http.response.body", "body": b"no"}


class Says:
    """An app that sends these messages, whatever it is asked."""

    def __init__(self, *messages: Any) -> None:
        self.messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.messages:
            await send(message)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    socket = WebSocket(scope, receive, send)
    await socket.accept(subprotocol=socket.scope["subprotocols"][0] if socket.scope["subprotocols"] else None, headers=[(b"x-one", b"1")])
    while (message := await socket.receive())["type"] == "websocket.receive":
        await socket.send({**message, "type": "websocket.send"})


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        pytest.param([], "returned without an answer to the handshake", id="nothing"),
        pytest.param([DENIAL], "returned without an answer to the handshake", id="denial without a body"),
        pytest.param([{"type": "websocket.send", "text": "x"}], "websocket.send was sent before websocket.accept", id="send first"),
        pytest.param([ACCEPT, ACCEPT], "websocket.accept was sent after websocket.accept", id="two accepts"),
        pytest.param([ACCEPT, DENIAL], "websocket.http.response.start was sent after websocket.accept", id="denial after accept"),
        pytest.param([DENIAL, ACCEPT], "websocket.accept was sent in the middle of", id="accept in a denial"),
        pytest.param([DENIAL, DENIAL], "out of order", id="two denials"),
        pytest.param([DENIAL_BODY], "out of order", id="denial body first"),
        pytest.param([DENIAL, DENIAL_BODY, DENIAL_BODY], "after the socket was closed", id="after a denial"),
        pytest.param([CLOSE, ACCEPT], "websocket.accept was sent after the socket was closed", id="after a close"),
        pytest.param([{"type": "http.response.start", "status": 401}], "http.response.start was sent before websocket.accept", id="HTTP"),
        pytest.param([{**ACCEPT, "subprotocol": "other"}], "the subprotocol 'other' was accepted", id="a subprotocol of its own"),
        pytest.param([{**DENIAL, "status": 101}], "101 is not the status of an answer", id="denial that is none"),
        pytest.param([{**ACCEPT, "headers": [("a", "b")]}], "not in bytes", id="headers as text"),
    ],
)
async def test_an_app_that_breaks_the_protocol_fails_the_test(messages: list[Any], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        async with websocket(Says(*messages), "/ws"):
            pass


@pytest.mark.parametrize("message", [{}, {"text": None}, {"text": "x", "bytes": b"x"}, {"text": b"x"}, {"bytes": "x"}])
async def test_a_message_without_exactly_one_of_text_and_bytes_fails_the_test(message: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="without exactly one of text and bytes"):
        async with websocket(Says(ACCEPT, {"type": "websocket.send", **message}), "/ws") as socket:
            await socket.receive()


async def test_a_message_after_the_close_fails_the_test() -> None:
    with pytest.raises(ProtocolError, match=r"websocket\.send was sent after the socket was closed"):
        async with websocket(Says(ACCEPT, {"type": "websocket.close"}, {"type": "websocket.send", "text": "x"}), "/ws") as socket:
            assert socket.accepted


async def test_a_whole_answer_to_the_handshake_fails_the_test_where_the_server_offers_none() -> None:
    with pytest.raises(ProtocolError, match=r"websocket\.http\.response was sent, which the server does not offer"):
        async with websocket(Says(DENIAL, DENIAL_BODY), "/ws", denial_response=False):
            pass


async def test_a_refusal_shows_status_headers_and_body() -> None:
    async with websocket(Says(DENIAL, {**DENIAL_BODY, "more_body": True}, DENIAL_BODY), "/ws") as socket:
        assert (False, 401, "no key", b"nono") == (
            socket.accepted,
            socket.response.status,
            socket.response.header("x-why"),
            socket.response.body,
        )
        with pytest.raises(WebSocketClosed, match="the handshake was answered with 401"):
            await socket.send_text("x")
        with pytest.raises(WebSocketClosed, match="the handshake was answered with 401"):
            await socket.receive()
    assert 0 == socket.activity.receive_calls


async def test_an_app_that_refused_a_handshake_sees_the_client_gone() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Says(DENIAL, DENIAL_BODY)(scope, receive, send)
        seen.extend([await receive(), await receive()])

    async with websocket(app, "/ws") as socket:
        await socket.wait_returned()
    assert [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006, "reason": ""}] == seen


async def test_a_close_before_the_acceptance_is_a_403_as_servers_answer() -> None:
    async with websocket(Says({**CLOSE, "code": 1008}), "/ws", denial_response=False) as socket:
        assert (False, 403) == (socket.accepted, socket.response.status)
    assert [{**CLOSE, "code": 1008}] == socket.activity.sent


async def test_what_the_app_raises_in_the_handshake_is_raised_in_the_test_or_kept() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        async with websocket(app, "/ws"):
            pass
    async with websocket(app, "/ws", reraise=False) as socket:
        assert (False, 500) == (socket.accepted, socket.response.status)
    assert isinstance(socket.activity.raised, LookupError)


async def test_an_app_that_does_not_answer_the_handshake_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match=r"waited 0\.01 s for the handshake to be answered; so far the app sent nothing"):
        async with websocket(app, "/ws", time_limit=0.01):
            pass


async def test_messages_go_both_ways() -> None:
    async with websocket(echo, "/ws?a=b", headers=[(b"X-Odd", b"\xff")], subprotocols=["realtime", "key.x"]) as socket:
        assert (True, 101, "realtime", "1") == (
            socket.accepted,
            socket.response.status,
            socket.subprotocol,
            socket.response.header("x-one"),
        )
        await socket.send_text("one")
        await socket.send_bytes(b"\x00")
        await socket.send_json({"a": [1]})
        assert "one" == await socket.receive()
        assert b"\x00" == await socket.receive()
        assert {"a": [1]} == await socket.receive_json()
    assert [(b"X-Odd", b"\xff"), (b"sec-websocket-protocol", b"realtime, key.x")] == socket.scope["headers"]
    assert (b"a=b", ["realtime", "key.x"]) == (socket.scope["query_string"], socket.scope["subprotocols"])


async def test_the_app_sees_that_the_client_closed_after_it_read_what_came_before() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive()) == {"type": "websocket.connect"}
        await send(ACCEPT)
        seen.extend([await receive(), await receive(), await receive()])

    async with websocket(app, "/ws") as socket:
        await socket.send_text("one")
        await socket.close(4001, "enough")
    closed = {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}
    assert [{"type": "websocket.receive", "text": "one"}, closed, closed] == seen


async def test_a_client_that_just_goes_away_is_an_abnormal_closure() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        seen.append(await receive())
        await send({"type": "websocket.send", "text": "too late"})

    async with websocket(app, "/ws") as socket:
        pass
    assert [{"type": "websocket.disconnect", "code": 1006, "reason": ""}] == seen
    assert {"type": "websocket.send", "text": "too late"} == socket.activity.sent[-1]


async def test_a_close_by_the_app_is_told_to_both_sides() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await Says(ACCEPT, {"type": "websocket.send", "text": "bye"}, {**CLOSE, "code": 1008, "reason": "revoked"})(scope, receive, send)
        seen.append(await receive())

    async with websocket(app, "/ws") as socket:
        assert "bye" == await socket.receive()
        with pytest.raises(WebSocketClosed, match="closed with 1008 revoked") as closed:
            await socket.receive()
        assert (1008, "revoked") == (closed.value.code, closed.value.reason)
        with pytest.raises(WebSocketClosed, match="closed with 1008 revoked"):
            await socket.send_text("x")
    assert [{"type": "websocket.disconnect", "code": 1008, "reason": "revoked"}] == seen


async def test_an_app_that_returns_without_a_close_is_an_abnormal_closure_for_the_client() -> None:
    async with websocket(Says(ACCEPT), "/ws") as socket:
        with pytest.raises(WebSocketClosed, match="closed with 1006"):
            await socket.receive()
