"""WebSockets: they pass through as they are, and are closed when the key that opened them ends, also while they idle."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute

from llm_authmw import CreatedKey, Decision, Denial, KeyAuthMiddleware, StaticKey, StaticKeys, Store, open_store
from llm_authmw.authn.guard import Guard
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.testing import ManualClock, WebSocketClosed, websocket
from llm_authmw.testing.asgi import websocket_scope

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


@pytest.mark.parametrize("static", [True, False])
async def test_every_message_passes_as_the_very_object_that_it_was(store: Store, static: bool) -> None:
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


def test_a_guard_does_not_show_the_credential() -> None:
    scope = websocket_scope("/", headers=[(b"x-api-key", KEY.encode())])
    nothing: Any = None
    assert KEY not in repr(Guard(scope=scope, receive=nothing, send=nothing, context=RequestContext(), standing=None))
