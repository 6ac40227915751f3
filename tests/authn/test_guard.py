"""Sockets whose end somebody else has begun: the app itself, the client, or the server."""

from typing import Any

import anyio
import pytest

from llm_authmw import CreatedKey, Denial, KeyAuthMiddleware, RequestContext, Store, open_store
from llm_authmw.authn.guard import Guard
from llm_authmw.testing import ManualClock
from llm_authmw.testing.asgi import websocket_scope

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


@pytest.fixture
def brisk() -> Store:
    """A store with a bound that a test can wait for, since it waits for the close."""
    return open_store("memory://", clock=ManualClock(), bound=0.05)


def header(key: CreatedKey) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", str(key.key).encode())]


class Ended:
    """A credential that never stands, and says when it was asked."""

    bound = due = 0.05

    def __init__(self) -> None:
        self.asked = anyio.Event()

    def holds(self) -> bool:
        return False

    async def confirm(self) -> Denial | None:
        self.asked.set()
        return Denial("key_revoked")


ENDS_BY_ITSELF: dict[str, list[dict[str, Any]]] = {
    "closed": [{"type": "websocket.accept"}, {"type": "websocket.close"}],
    "closed unaccepted": [{"type": "websocket.close"}],
    "refused": [{"type": "websocket.http.response.start", "status": 404}],
}


@pytest.mark.parametrize("messages", ENDS_BY_ITSELF.values(), ids=ENDS_BY_ITSELF)
async def test_an_app_that_has_ended_its_socket_by_itself_is_left_to_finish(messages: list[dict[str, Any]]) -> None:
    standing, sent, finished = Ended(), list[Any](), list[bool]()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.wait_all_tasks_blocked()  # so that the watcher is on its way
        for message in messages:
            await send(message)
        await standing.asked.wait()
        await anyio.wait_all_tasks_blocked()
        if messages[-1]["type"] == "websocket.http.response.start":
            await send({"type": "websocket.http.response.body"})
        finished.append(True)

    guard = Guard(scope=websocket_scope("/"), receive=receive, send=send, context=RequestContext(), standing=standing)
    with anyio.fail_after(5):
        await guard.websocket(app)
    assert [True] == finished
    assert messages == sent[: len(messages)]
    assert len(sent) - len(messages) == (1 if messages[-1]["type"] == "websocket.http.response.start" else 0)


async def test_an_app_whose_client_has_gone_is_left_to_finish() -> None:
    standing, sent, finished = Ended(), list[Any](), list[bool]()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1001}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await anyio.wait_all_tasks_blocked()
        await receive()
        await standing.asked.wait()
        await anyio.wait_all_tasks_blocked()
        finished.append(True)

    guard = Guard(scope=websocket_scope("/"), receive=receive, send=send, context=RequestContext(), standing=standing)
    with anyio.fail_after(5):
        await guard.websocket(app)
    assert [True] == finished
    assert [{"type": "websocket.accept"}] == sent


async def test_a_server_that_sends_no_close_while_somebody_waits_for_a_message_closes_all_the_same(brisk: Store) -> None:
    """As granian does: its socket is busy as long as `receive` is under way."""
    free, sent, heard = anyio.Event(), list[Any](), list[Any]()

    async def receive() -> Any:
        try:
            await anyio.sleep_forever()
        finally:
            free.set()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            await free.wait()
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await brisk.keys.revoke(key.id)
        heard.extend([await receive(), await receive()])

    key = await brisk.keys.create()
    with anyio.fail_after(5):
        await KeyAuthMiddleware(app, keys=brisk.keys)(websocket_scope("/v1/realtime", headers=header(key)), receive, send)
    assert ["websocket.accept", "websocket.close"] == [message["type"] for message in sent]
    assert [{"type": "websocket.disconnect", "code": 1008}] * 2 == heard


def test_a_guard_does_not_show_the_credential() -> None:
    scope = websocket_scope("/", headers=[(b"x-api-key", KEY.encode())])
    nothing: Any = None
    assert KEY not in repr(Guard(scope=scope, receive=nothing, send=nothing, context=RequestContext(), standing=None))
