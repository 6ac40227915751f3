"""Streams that send nothing for a while, and what an app hears that waits for its client meanwhile."""

from typing import Any

import anyio
import pytest

from llm_authmw import KeyAuthMiddleware, Store, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, stream

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
EVENTS = (b"content-type", b"text/event-stream")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store() -> Store:
    return open_store("memory://", clock=ManualClock())


class Listening:
    """An app that sends an event, then nothing more, and waits for its client to go."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        while not self.messages or self.messages[-1]["type"] != "http.disconnect":
            self.messages.append(await receive())


async def test_a_stream_that_idles_is_ended_where_the_app_waits_for_its_client(clock: ManualClock) -> None:
    store = open_store("memory://", clock=clock, bound=0.05)
    key = await store.keys.create()
    app = Listening()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    async with stream(layer, "POST /v1/chat", headers=[(b"x-api-key", str(key.key).encode())], body=[b"a", b"b"]) as exchange:
        await exchange.next_chunk()
        await store.keys.revoke(key.id)
        assert b"invalid_api_key" in (await exchange.next_chunk() or b"")
        assert await exchange.next_chunk() is None
        await exchange.wait_returned()
    assert [b"a", b"b", None] == [message.get("body") for message in app.messages]


async def test_a_stream_that_idles_goes_on_while_its_key_stands_and_its_client_stays(clock: ManualClock) -> None:
    store = open_store("memory://", clock=clock, bound=0.01)
    key = await store.keys.create()
    waited = 0

    async def receive() -> Any:
        nonlocal waited
        waited += 1
        if waited == 1:
            return {"type": "http.request"}
        if waited < 5:
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = Listening()
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"x-api-key", str(key.key).encode())]}
    with anyio.fail_after(5):
        await KeyAuthMiddleware(app, keys=store.keys)(scope, receive, send)
    assert [b"data: one\n\n"] == [message["body"] for message in sent[1:]]
    assert [{"type": "http.request"}, {"type": "http.disconnect"}] == app.messages


async def test_an_answer_that_is_complete_is_not_ended_a_second_time(clock: ManualClock) -> None:
    store = open_store("memory://", clock=clock, bound=0.01)
    key = await store.keys.create()
    waited = 0

    async def receive() -> Any:
        nonlocal waited
        waited += 1
        if waited == 2:
            await store.keys.revoke(key.id)
            await anyio.sleep_forever()
        return {"type": "http.request"} if waited == 1 else {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        await send({"type": "http.response.body"})
        assert {"type": "http.disconnect"} == await receive()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"x-api-key", str(key.key).encode())]}
    with anyio.fail_after(5):
        await KeyAuthMiddleware(app, keys=store.keys)(scope, receive, send)
    assert 3 == len(sent)
    assert 3 == waited


async def test_a_client_that_goes_away_is_seen_by_the_app(store: Store) -> None:
    key = await store.keys.create()
    app = Listening()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    async with stream(layer, "POST /v1/chat", headers=[(b"x-api-key", str(key.key).encode())]) as exchange:
        await exchange.next_chunk()
        await exchange.disconnect()
        await exchange.wait_returned()
    assert "http.disconnect" == app.messages[-1]["type"]
    assert ["allowed"] == [decision.outcome for decision in exchange.scope[CONTEXT_KEY].decisions]
