"""One record of each WebSocket, whichever way it ended."""

from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import AuditMiddleware, Denial, KeyAuthMiddleware, RequestContext, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import ManualClock, websocket
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


@pytest.fixture
def sink() -> KeptRecords:
    return KeptRecords()


def end_of(sink: KeptRecords) -> tuple[str | None, str | None, int | None]:
    return sink.request.outcome, sink.request.end, sink.request.status


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def run(app: ASGIApp, *events: Any) -> list[Any]:
    """Run an app with these events of a client, who then does nothing any more."""
    coming, sent = list(events), list[Any]()

    async def receive() -> Any:
        if not coming:
            await anyio.sleep_forever()
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/v1/realtime",
        "raw_path": b"/v1/realtime",
        "query_string": b"",
        "headers": [],
        "client": None,
    }
    await app(scope, receive, send)
    return sent


CONNECT = {"type": "websocket.connect"}


@pytest.mark.parametrize("denial_response", [True, False])
async def test_a_denied_handshake_has_a_record(sink: KeptRecords, denial_response: bool) -> None:
    witness = Witness()
    app = Stack(Middleware(AuditMiddleware, sink=sink), Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))(witness)
    async with websocket(app, "/v1/realtime", denial_response=denial_response) as socket:
        assert not socket.accepted
    assert [] == witness.scopes
    assert ("denied", "complete", 401 if denial_response else 403) == end_of(sink)
    assert ("missing_credential", "websocket", "WS") == (sink.request.reason, sink.request.protocol, sink.request.verb)


async def test_a_socket_is_passed_as_it_is_and_complete_once_its_client_closes_it(sink: KeptRecords) -> None:
    hello = {"type": "websocket.receive", "text": "hello"}
    sent = await run(AuditMiddleware(echo, sink=sink), CONNECT, hello, {"type": "websocket.disconnect", "code": 1000})
    assert [{"type": "websocket.accept"}, {"type": "websocket.send", "text": "hello"}] == sent
    assert ("allowed", "complete", 101) == end_of(sink)
    assert sink.request.first_byte is not None


@pytest.mark.parametrize(
    ("code", "end"), [(1000, "complete"), (1001, "complete"), (1005, "complete"), (1006, "client_gone"), (1011, "client_gone")]
)
async def test_how_a_client_leaves_says_whether_the_socket_was_complete(sink: KeptRecords, code: int, end: str) -> None:
    await run(AuditMiddleware(echo, sink=sink), CONNECT, {"type": "websocket.disconnect", "code": code})
    assert ("allowed", end, 101) == end_of(sink)


async def test_a_client_that_leaves_before_it_is_let_in_has_gone(sink: KeptRecords) -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert "websocket.disconnect" == (await receive())["type"]

    await run(AuditMiddleware(waits, sink=sink), CONNECT, {"type": "websocket.disconnect", "code": 1000})
    assert ("allowed", "client_gone", None) == end_of(sink)


async def test_a_socket_that_its_app_closes_is_complete(sink: KeptRecords) -> None:
    async def closes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1011})

    await run(AuditMiddleware(closes, sink=sink), CONNECT)
    assert ("allowed", "complete", 101) == end_of(sink)


async def test_a_socket_that_its_app_does_not_accept_has_the_status_that_servers_make_of_it(sink: KeptRecords) -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 1008})

    await run(AuditMiddleware(refuses, sink=sink), CONNECT)
    assert ("allowed", "complete", 403) == end_of(sink)


async def test_a_socket_that_its_app_answers_with_a_page_has_its_status(sink: KeptRecords) -> None:
    async def answers(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no", "more_body": False})

    await run(AuditMiddleware(answers, sink=sink), CONNECT)
    assert ("allowed", "complete", 404) == end_of(sink)


async def test_an_app_that_neither_accepts_nor_refuses_has_failed(sink: KeptRecords) -> None:
    async def returns(scope: Any, receive: Any, send: Any) -> None:
        pass

    await run(AuditMiddleware(returns, sink=sink), CONNECT)
    assert ("failed", "upstream_error", None) == end_of(sink)


async def test_a_socket_whose_app_raises_has_failed(sink: KeptRecords) -> None:
    async def raises(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        await run(AuditMiddleware(raises, sink=sink), CONNECT)
    assert ("failed", "upstream_error", 101) == end_of(sink)


async def test_a_socket_that_a_layer_ends_was_cut_and_says_why(sink: KeptRecords) -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        RequestContext.of(scope).record(Denial("key_revoked", layer="KeyAuthMiddleware"))
        await send({"type": "websocket.close", "code": 1008})

    await run(AuditMiddleware(cut, sink=sink), CONNECT)
    assert ("allowed", "cut", 101) == end_of(sink)
    assert ("key_revoked", "KeyAuthMiddleware") == (sink.request.reason, sink.request.layer)


async def test_a_socket_whose_server_cannot_send_any_more_has_lost_its_client(sink: KeptRecords) -> None:
    async def talks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise OSError("closed")

    async def receive() -> Any:
        await anyio.sleep_forever()

    with pytest.raises(OSError, match="closed"):
        await AuditMiddleware(talks, sink=sink)({"type": "websocket", "path": "/x", "headers": []}, receive, send)
    assert ("allowed", "client_gone", 101) == end_of(sink)


async def test_a_socket_that_is_killed_has_its_record(sink: KeptRecords) -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await run(AuditMiddleware(hangs, sink=sink), CONNECT)
    assert ("failed", "cut", 101) == end_of(sink)


async def test_the_duration_of_a_socket_ends_with_it(sink: KeptRecords) -> None:
    clock = ManualClock()

    async def talks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        clock.advance(1)
        await send({"type": "websocket.send", "text": "hello"})
        clock.advance(2)
        await send({"type": "websocket.close"})
        clock.advance(4)

    await run(AuditMiddleware(talks, sink=sink, clock=clock), CONNECT)
    assert (1_000_000, 3_000_000) == (sink.request.first_byte, sink.request.duration)
