"""What a layer does not touch: messages, bodies, errors, cancellation."""

from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from llm_authmw import CreatedKey, KeyAuthMiddleware, StaticKeys, Store, open_store
from llm_authmw.testing import ManualClock, request, websocket
from llm_authmw.testing.asgi import websocket_scope
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


@pytest.fixture
def store() -> Store:
    return open_store("memory://", clock=ManualClock())


def header(key: CreatedKey) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", str(key.key).encode())]


MESSAGES: list[dict[str, Any]] = [
    {"type": "http.response.early_hint", "links": [b"</x>; rel=preload"]},
    {"type": "http.response.debug", "info": {"template": "x"}},
    {"type": "http.response.start", "status": 200, "headers": ((b"X-Case", b"Kept"), (b"x-bytes", b"\xff"))},
    {"type": "http.response.push", "path": "/x", "headers": []},
    {"type": "http.response.body", "body": b"", "more_body": True},
    {"type": "http.response.body", "body": b"\x00\xff" * 50_000, "more_body": True},
    {"type": "http.response.body", "more_body": True, "odd": 1},
    {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
    {"type": "http.response.body", "body": b"end"},
    {"type": "http.response.trailers", "headers": [(b"x-t", b"1")]},
]


async def test_every_message_passes_as_the_very_object_that_it_was(store: Store) -> None:
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number, message in enumerate(MESSAGES):
            await send(message)
            assert number + 1 == len(passed)

    async def receive() -> Any: ...
    async def send(message: Any) -> None:
        passed.append(message)

    key = await store.keys.create()
    before = msgspec.json.encode([repr(message) for message in MESSAGES])
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"x-api-key", str(key.key).encode())]}
    await KeyAuthMiddleware(app, keys=store.keys)(scope, receive, send)
    assert [id(message) for message in MESSAGES] == [id(message) for message in passed]
    assert before == msgspec.json.encode([repr(message) for message in MESSAGES])


async def test_a_body_is_not_read_by_the_layer_and_reaches_the_app_as_it_was_sent(store: Store) -> None:
    bodies: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/read":
            while (message := await receive())["type"] == "http.request":
                bodies.append(message)
                if not message["more_body"]:
                    break
        await Witness()(scope, receive, send)

    key = await store.keys.create()
    headers = [(b"x-api-key", str(key.key).encode())]
    layer = KeyAuthMiddleware(app, keys=store.keys)
    response = await request(layer, "POST /unread", headers=headers, body=[b"a", b"b"])
    assert 0 == response.activity.receive_calls
    await request(layer, "POST /read", headers=headers, body=[b"a", b"", b"\xff"])
    expected = [(b"a", True), (b"", True), (b"\xff", False)]
    assert expected == [(message["body"], message["more_body"]) for message in bodies]
    refused = await request(layer, "POST /read", body=[b"a", b"b"])
    assert (401, 0) == (refused.status, refused.activity.receive_calls)


@pytest.mark.parametrize("static", [True, False])
async def test_every_message_of_a_socket_passes_as_the_very_object_that_it_was(store: Store, static: bool) -> None:
    incoming = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "a", "bytes": None},
        {"type": "websocket.receive", "bytes": b"\xff" * 50_000},
        {"type": "websocket.something"},
        {"type": "websocket.disconnect", "code": 1001},
    ]
    outgoing = [
        {"type": "websocket.accept", "subprotocol": None, "headers": [(b"X-Case", b"1")]},
        {"type": "websocket.send", "text": "b"},
        {"type": "websocket.something"},
        {"type": "websocket.send", "bytes": b"\xff" * 50_000},
        {"type": "websocket.close", "code": 4_000, "reason": "done"},
    ]
    given, received, sent = iter(incoming), list[Any](), list[Any]()

    async def receive() -> Any:
        return next(given)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in outgoing:
            received.append(await receive())
            await send(message)

    key = await store.keys.create()
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}) if static else store.keys)
    headers = [(b"x-api-key", KEY.encode())] if static else header(key)
    await layer(websocket_scope("/v1/realtime", headers=headers), receive, send)
    assert [id(message) for message in incoming] == [id(message) for message in received]
    assert [id(message) for message in outgoing] == [id(message) for message in sent]


class AppError(Exception): ...


class AppExit(BaseException): ...


@pytest.mark.parametrize("error", [AppError("a"), ExceptionGroup("g", [AppError("a")]), AppExit("a"), OSError("a")], ids=repr)
@pytest.mark.parametrize("static", [True, False])
async def test_what_the_app_raises_leaves_as_the_app_raised_it(store: Store, error: BaseException, static: bool) -> None:
    cause = ValueError("the cause")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise error from cause

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    key = await store.keys.create()
    layer = KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}) if static else store.keys)
    headers = [(b"x-api-key", KEY.encode())] if static else header(key)
    caught: BaseException | None = None
    try:
        await layer(websocket_scope("/v1/realtime", headers=headers), receive, send)
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it is what is looked at
        caught = raised
    assert (type(error), repr(error)) == (type(caught), repr(caught))
    assert error is caught or isinstance(error, ExceptionGroup)  # trio copies groups
    assert caught is not None
    assert cause is caught.__cause__


async def test_a_server_that_cancels_a_socket_cancels_the_app(store: Store) -> None:
    running, cancelled = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.set()
            raise

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    key = await store.keys.create()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer, websocket_scope("/v1/realtime", headers=header(key)), receive, send)
            await running.wait()
            tasks.cancel_scope.cancel()
    assert cancelled.is_set()


async def test_a_socket_that_the_app_refuses_by_itself_is_refused_as_the_app_says(store: Store) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-own", b"1")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    key = await store.keys.create()
    async with websocket(KeyAuthMiddleware(app, keys=store.keys), "/v1/realtime", headers=header(key)) as socket:
        assert (418, "1", b"no") == (socket.response.status, socket.response.header("x-own"), socket.response.body)
