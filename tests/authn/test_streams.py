"""Streamed answers: they pass through as they are, and end when the key that opened them does."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route

from llm_authmw import CreatedKey, Decision, KeyAuthMiddleware, StaticKey, StaticKeys, Store, StoreUnavailableError, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, ProtocolError, Response, request, stream
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")

Ending: TypeAlias = Callable[[Store, CreatedKey], Awaitable[Any]]

ENDINGS: dict[str, tuple[Ending, str]] = {
    "revoked": (lambda store, key: store.keys.revoke(key.id), "key_revoked"),
    "blocked": (lambda store, key: store.keys.block(key.id), "key_blocked"),
    "expired": (lambda store, key: store.keys.expire(key.id), "key_expired"),
    "rotated": (lambda store, key: store.keys.rotate(key.id, grace=0), "key_mismatch"),
    "kept off its route": (lambda store, key: store.keys.update(key.id, routes=["GET /other"]), "route_not_allowed"),
    "kept off its network": (lambda store, key: store.keys.update(key.id, networks=["192.0.2.1"]), "network_not_allowed"),
    "of a blocked team": (lambda store, key: store.accounts.create("team", "blue", status="blocked"), "account_blocked"),
}


class Streaming:
    """An app that sends some chunks, waits until it is told to go on, and sends the others."""

    def __init__(self, before: Sequence[bytes], after: Sequence[bytes] = (b"data: late\n\n",), **start: Any) -> None:
        self.before, self.after = before, after
        self.start = {"type": "http.response.start", "status": 200, "headers": [EVENTS], **start}
        self.go_on = anyio.Event()
        self.errors: list[OSError] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(self.start)
        for chunk in self.before:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self.go_on.wait()
        for chunk in self.after:
            # As somebody does who thinks that one lost chunk does not matter.
            try:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except OSError as error:
                self.errors.append(error)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.start.get("trailers"):
            await send({"type": "http.response.trailers", "headers": [(b"x-t", b"1")], "more_trailers": False})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return open_store("memory://", clock=clock)


async def ended(store: Store, app: Streaming, ending: str = "revoked", path: str = "/v1/chat/completions", **scope: Any) -> Response:
    """Stream until the key ends in the way that is named, and return what the client got."""
    key = await store.keys.create(team="blue")
    headers = [(b"x-api-key", str(key.key).encode())]
    async with stream(KeyAuthMiddleware(app, keys=store.keys), f"POST {path}", headers=headers, scope=scope) as exchange:
        await exchange.started()
        for chunk in app.before:
            assert chunk == await exchange.next_chunk()
        end, reason = ENDINGS[ending]
        await end(store, key)
        app.go_on.set()
        async for _ in exchange:
            pass
    decisions: list[Decision] = exchange.scope[CONTEXT_KEY].decisions
    told = [Decision("KeyAuthMiddleware", "allowed", None, key.id), Decision("KeyAuthMiddleware", "denied", reason, key.id)]
    assert told == decisions
    return exchange.response


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_stream_of_events_ends_with_an_error_event_when_its_key_ends(store: Store, ending: str) -> None:
    app = Streaming([b"data: one\n\n", b"data: two\n\n"], [b"data: three\n\n", b"data: four\n\n"])
    response = await ended(store, app, ending)
    assert [b"data: one\n\n", b"data: two\n\n"] == response.chunks[:2]
    assert 3 == len(response.chunks)
    public = {"route_not_allowed": "route_not_allowed", "network_not_allowed": "network_not_allowed"}.get(
        ENDINGS[ending][1], "invalid_api_key"
    )
    assert response.chunks[2].startswith(b"data: {")
    assert response.chunks[2].endswith(b"}\n\n")
    assert public == msgspec.json.decode(response.chunks[2].removeprefix(b"data: "))["error"]["code"]
    assert 2 == len(app.errors)


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/v1/chat/completions", b'data: {"error":{"message":'),
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"authentication_error"'),
        ("/v1beta/models/gemini:streamGenerateContent", b'data: {"error":{"code":401'),
        ("/other", b'data: {"type":"urn:llm-authmw:reason:invalid_api_key"'),
    ],
)
async def test_the_error_event_is_in_the_dialect_of_the_client(store: Store, path: str, begins: bytes) -> None:
    response = await ended(store, Streaming([b"data: one\n\n"]), path=path)
    assert response.chunks[1].startswith(begins)


@pytest.mark.parametrize(
    "last",
    [[b"data: one"], [b"data: one\n"], [b"data: one\n\ndata: tw"], [b"data: one\n\n", b"da"], [b"data: one\r\n"], [b"data: one\n\n:"]],
)
async def test_no_error_event_is_put_into_the_middle_of_another(store: Store, last: list[bytes]) -> None:
    response = await ended(store, Streaming(last))
    assert [*last, b""] == response.chunks


@pytest.mark.parametrize(
    "last",
    [[], [b"data: one\n\n"], [b"data: one\r\n\r\n"], [b"data: one\r\r"], [b"data: o", b"ne\n\n"], [b"data: one\n\n", b""], [b": ping\n\n"]],
)
async def test_an_error_event_is_put_between_two_others(store: Store, last: list[bytes]) -> None:
    response = await ended(store, Streaming(last))
    assert last == response.chunks[:-1]
    assert response.chunks[-1].startswith(b'data: {"error"')


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"application/json")],
        [(b"content-type", b"application/x-ndjson"), (b"transfer-encoding", b"chunked")],
        [EVENTS, (b"content-encoding", b"gzip")],
        [EVENTS, (b"Content-Encoding", b"br")],
    ],
)
async def test_a_stream_of_something_else_just_ends(store: Store, headers: list[tuple[bytes, bytes]]) -> None:
    response = await ended(store, Streaming([b'{"one":1}\n\n'], headers=headers))
    assert [b'{"one":1}\n\n', b""] == response.chunks


@pytest.mark.parametrize("content_type", [b"text/event-stream", b"Text/Event-Stream", b"text/event-stream;charset=utf-8"])
async def test_a_stream_of_events_is_known_by_its_content_type(store: Store, content_type: bytes) -> None:
    response = await ended(store, Streaming([b"data: one\n\n"], headers=[(b"Content-Type", content_type)]))
    assert response.chunks[-1].startswith(b'data: {"error"')


async def test_an_answer_of_a_promised_length_is_cut_off_since_its_promise_cannot_be_kept(store: Store) -> None:
    app = Streaming([b"1234\n\n"], [b"5678"], headers=[EVENTS, (b"Content-Length", b"10")])
    with pytest.raises(ProtocolError, match="before its answer was complete"):
        await ended(store, app)
    assert 1 == len(app.errors)


async def test_trailers_that_were_announced_come_after_the_end_and_are_empty(store: Store) -> None:
    app = Streaming([b"data: one\n\n"], trailers=True)
    response = await ended(store, app, extensions={"http.response.trailers": {}})
    assert 2 == len(response.chunks)
    assert [] == response.trailers
    assert "http.response.trailers" == response.activity.sent[-1]["type"]


async def test_the_app_sees_a_client_that_has_gone(store: Store) -> None:
    app = Streaming([b"data: one\n\n"], [b"data: two\n\n"] * 5)
    response = await ended(store, app)
    assert 5 == len(app.errors)
    assert response.activity.raised is None


async def test_what_the_app_raises_because_its_stream_was_ended_goes_no_further(store: Store) -> None:
    class Chunks:  # no generator: Starlette leaves those to the garbage collector, which trio minds
        asked = 0

        def __aiter__(self) -> "Chunks":
            return self

        async def __anext__(self) -> bytes:
            self.asked += 1
            if self.asked > 1:
                await go_on.wait()
            return b"data: %d\n\n" % self.asked

    async def endpoint(request: Any) -> StreamingResponse:
        return StreamingResponse(Chunks(), media_type="text/event-stream")

    key = await store.keys.create()
    app = KeyAuthMiddleware(Starlette(routes=[Route("/v1/chat", endpoint)]), keys=store.keys)
    for version in ("2.3", "2.4"):
        go_on = anyio.Event()
        scope = {"asgi": {"version": "3.0", "spec_version": version}}
        async with stream(app, "GET /v1/chat", headers=[(b"x-api-key", str(key.key).encode())], scope=scope) as exchange:
            assert b"data: 1\n\n" == await exchange.next_chunk()
            await store.keys.block(key.id)
            go_on.set()
            assert (await exchange.next_chunk() or b"").startswith(b'data: {"error"')
            assert await exchange.next_chunk() is None
        await store.keys.unblock(key.id)


async def test_what_the_app_raises_by_itself_goes_on_to_the_server(store: Store) -> None:
    class AppError(Exception): ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise AppError

    key = await store.keys.create()
    with pytest.raises(AppError):
        await request(KeyAuthMiddleware(app, keys=store.keys), "GET /v1/chat", headers=[(b"x-api-key", str(key.key).encode())])


async def test_an_answer_in_one_piece_was_decided_before_and_goes_out(store: Store) -> None:
    key = await store.keys.create()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await store.keys.revoke(key.id)
        await Witness()(scope, receive, send)

    layer = KeyAuthMiddleware(app, keys=store.keys)
    headers = [(b"x-api-key", str(key.key).encode())]
    assert 200 == (await request(layer, "GET /v1/chat", headers=headers)).status
    assert 401 == (await request(layer, "GET /v1/chat", headers=headers)).status


async def test_a_key_that_is_revoked_before_the_answer_starts_gets_none_of_its_chunks(store: Store) -> None:
    response = await ended(store, Streaming([], [b"data: one\n\n"]))
    assert 1 == len(response.chunks)
    assert b"data: one" not in response.body


async def test_a_change_that_does_not_end_a_key_does_not_end_its_stream(store: Store, clock: ManualClock) -> None:
    key = await store.keys.create(team="blue")
    app = Streaming([b"data: one\n\n"], [b"data: two\n\n"])
    async with stream(KeyAuthMiddleware(app, keys=store.keys), "GET /", headers=[(b"x-api-key", str(key.key).encode())]) as exchange:
        await exchange.next_chunk()
        await store.keys.update(key.id, name="renamed", routes=["GET /"], networks=["127.0.0.0/8"])
        await store.keys.rotate(key.id, grace=3_600)
        await store.accounts.create("team", "red", status="blocked")
        clock.advance(3_599)
        app.go_on.set()
        assert [b"data: two\n\n", b""] == [chunk async for chunk in exchange]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_stream_ends_within_the_bound_when_another_process_ends_its_key(tmp_path: Path, clock: ManualClock, ending: str) -> None:
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=clock, deadline=5) as here, open_store(url, clock=clock, deadline=5) as there:
        key = await here.keys.create(team="blue")
        app = Streaming([b"data: one\n\n"], [b"data: two\n\n"])
        layer = KeyAuthMiddleware(app, keys=here.keys)
        async with stream(layer, "POST /v1/chat", headers=[(b"x-api-key", str(key.key).encode())]) as exchange:
            await exchange.next_chunk()
            await ENDINGS[ending][0](there, key)
            clock.advance(1.0)
            app.go_on.set()
            assert b'data: {"error"' == (await exchange.next_chunk() or b"")[:14]
            assert await exchange.next_chunk() is None
        assert ENDINGS[ending][1] == exchange.scope[CONTEXT_KEY].decisions[-1].reason


async def test_a_stream_is_not_looked_at_in_the_store_more_often_than_the_bound(tmp_path: Path, clock: ManualClock) -> None:
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=clock, deadline=5) as store:
        key = await store.keys.create()
        asked: list[float] = []
        changes = store._backend.feed.changes

        async def counted(since: int | None) -> Any:
            asked.append(clock.monotonic())
            return await changes(since)

        store._backend.feed.changes = counted  # type: ignore[method-assign]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                clock.advance(0.1)
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body"})

        layer = KeyAuthMiddleware(app, keys=store.keys)
        assert b"x" * 100 == (await request(layer, "GET /", headers=[(b"x-api-key", str(key.key).encode())])).body
        assert 9 <= len(asked) <= 11
        assert all(later - earlier >= 0.999 for earlier, later in pairwise(asked))


async def test_a_stream_ends_when_the_store_cannot_be_asked(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(since: int | None) -> Any:
        raise StoreUnavailableError("down")

    key = await store.keys.create()
    app = Streaming([b"data: one\n\n"])
    layer = KeyAuthMiddleware(app, keys=store.keys)
    async with stream(layer, "POST /v1/chat", headers=[(b"x-api-key", str(key.key).encode())]) as exchange:
        await exchange.next_chunk()
        monkeypatch.setattr(store._backend.feed, "changes", down)
        clock.advance(1.0)
        app.go_on.set()
        event = await exchange.next_chunk() or b""
    assert "store_unavailable" == msgspec.json.decode(event.removeprefix(b"data: "))["error"]["code"]
    assert Decision("KeyAuthMiddleware", "denied", "store_unavailable") == exchange.scope[CONTEXT_KEY].decisions[-1]


async def test_a_stream_ends_when_the_check_of_its_key_fails(store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(presented: bytes, *, imported: bool = False) -> Any:
        raise RuntimeError("bug")

    key = await store.keys.create()
    app = Streaming([b"data: one\n\n"])
    layer = KeyAuthMiddleware(app, keys=store.keys)
    async with stream(layer, "POST /v1/chat", headers=[(b"x-api-key", str(key.key).encode())]) as exchange:
        await exchange.next_chunk()
        monkeypatch.setattr(store.keys.verifier, "verify", broken)
        clock.advance(1.0)
        app.go_on.set()
        assert b"store_unavailable" in (await exchange.next_chunk() or b"")
    assert Decision("KeyAuthMiddleware", "denied", "check_failed") == exchange.scope[CONTEXT_KEY].decisions[-1]


async def test_a_stream_of_a_static_key_ends_when_the_key_expires(clock: ManualClock) -> None:
    keys = StaticKeys({"ci": StaticKey(KEY, expires_at=clock.now() + 60)}, clock=clock)
    app = Streaming([b"data: one\n\n"])
    async with stream(KeyAuthMiddleware(app, keys=keys), "POST /v1/chat", headers=[(b"x-api-key", KEY.encode())]) as exchange:
        await exchange.next_chunk()
        clock.advance(60)
        app.go_on.set()
        assert b"invalid_api_key" in (await exchange.next_chunk() or b"")
        assert await exchange.next_chunk() is None


async def test_a_compressed_stream_is_ended_properly_from_inside_and_from_outside(store: Store) -> None:
    for outside in (False, True):
        key = await store.keys.create()
        app = Streaming([b"data: one\n\n" * 100], headers=[(b"content-type", b"text/plain")])
        if outside:
            guarded: Any = GZipMiddleware(KeyAuthMiddleware(app, keys=store.keys))
        else:
            guarded = KeyAuthMiddleware(GZipMiddleware(app), keys=store.keys)
        headers = [(b"x-api-key", str(key.key).encode()), (b"accept-encoding", b"gzip")]
        async with stream(guarded, "POST /v1/chat", headers=headers) as exchange:
            await exchange.next_chunk()
            await store.keys.revoke(key.id)
            app.go_on.set()
            async for _ in exchange:
                pass
        assert exchange.complete
        assert "gzip" == exchange.response.header("content-encoding")
