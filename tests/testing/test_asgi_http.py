from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.testing import ProtocolError, request, stream
from llm_authmw.testing.asgi import http_scope

pytestmark = pytest.mark.anyio

START: dict[str, Any] = {"type": "http.response.start", "status": 200}
LAST: dict[str, Any] = {"type": "http.response.body"}


class Says:
    """An app that sends these messages, whatever it is asked."""

    def __init__(self, *messages: Any) -> None:
        self.messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.messages:
            await send(message)


def body(chunk: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, **more}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        pytest.param([], "returned without an answer", id="nothing"),
        pytest.param([START], "returned before its answer was complete; so far the app sent http.response.start", id="no end"),
        pytest.param([START, body(b"x", more_body=True)], "returned before its answer was complete", id="no last chunk"),
        pytest.param([START, START], "a second http.response.start", id="two starts"),
        pytest.param([body(b"x")], "http.response.body was sent before http.response.start", id="body first"),
        pytest.param([START, LAST, LAST], "http.response.body was sent after the answer was complete", id="after the end"),
        pytest.param([START, LAST, START], "http.response.start was sent after the answer was complete", id="start after the end"),
        pytest.param(
            [START, {"type": "websocket.accept"}], "websocket.accept was sent, which the server does not offer", id="another kind"
        ),
        pytest.param(
            [START, {"type": "http.response.trailers"}], "trailers was sent, which the server does not", id="extension not offered"
        ),
        pytest.param([START, {"body": b""}], "has no type", id="no type"),
        pytest.param([None], "has no type", id="no message"),
        pytest.param([{**START, "status": "200"}], "'200' is not the status of an answer", id="status as text"),
        pytest.param([{**START, "status": 100}], "100 is not the status of an answer", id="status that is not final"),
        pytest.param([{"type": "http.response.start"}], "None is not the status of an answer", id="no status"),
        pytest.param([{**START, "headers": [("a", "b")]}], "the header 'a': 'b' is not in bytes", id="headers as text"),
        pytest.param([{**START, "headers": [b"a: b"]}], "is not a header", id="a header that is no pair"),
        pytest.param([START, body("x")], "a body of type str", id="body as text"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ],
)
async def test_an_app_that_breaks_the_protocol_fails_the_test(messages: list[Any], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        await request(Says(*messages), "GET /")


async def test_a_broken_protocol_fails_the_test_even_where_the_app_swallows_the_error_and_goes_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await send(START)
        except AssertionError:
            await send(LAST)

    with pytest.raises(ProtocolError, match=r"a second http\.response\.start"):
        await request(app, "GET /", reraise=False)


async def test_a_broken_protocol_is_told_instead_of_the_wait_that_follows_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(LAST)
        except AssertionError:
            await anyio.sleep_forever()

    with pytest.raises(ProtocolError, match=r"before http\.response\.start"):
        await request(app, "GET /", time_limit=0.01)


@pytest.mark.parametrize("messages", [[], [START], [START, body(b"x", more_body=True)], [START, LAST]])
async def test_an_app_that_hangs_is_given_up_after_the_time_limit(messages: list[Any]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Says(*messages)(scope, receive, send)
        await anyio.sleep_forever()

    said = messages[-1]["type"] if messages else "nothing"
    with pytest.raises(TimeoutError, match=f"waited 0.01 s for .*; so far the app sent .*{said}"):
        await request(app, "GET /", time_limit=0.01)


async def test_what_the_app_raises_is_raised_in_the_test_as_it_was() -> None:
    error = LookupError("broken")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(LookupError) as raised:
        await request(app, "GET /")
    assert error is raised.value


async def test_what_the_app_raises_can_be_kept_and_is_a_500_where_nothing_was_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("broken")

    response = await request(app, "GET /", reraise=False)
    assert (500, [], b"") == (response.status, response.headers, response.body)
    assert isinstance(response.activity.raised, LookupError)
    assert response.activity.returned


async def test_an_error_in_the_middle_of_a_stream_comes_after_the_chunks_before_it_and_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Says(START, body(b"one", more_body=True))(scope, receive, send)
        raise LookupError("broken")

    async with stream(app, "GET /") as exchange:
        assert b"one" == await exchange.next_chunk()
        with pytest.raises(LookupError, match="broken"):
            await exchange.next_chunk()
        assert (await exchange.next_chunk()) is None
        assert not exchange.complete
    kept = await request(app, "GET /", reraise=False)
    assert (200, [b"one"]) == (kept.status, kept.chunks)


async def test_what_the_app_raises_before_its_answer_comes_where_the_answer_is_waited_for() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("broken")

    async with stream(app, "GET /") as exchange:
        with pytest.raises(LookupError, match="broken"):
            await exchange.started()


async def test_the_failure_of_the_test_itself_comes_out_as_it_is_and_ends_the_app() -> None:
    ended = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            await anyio.sleep_forever()
        finally:
            ended.set()

    with pytest.raises(AssertionError, match="of the test"):
        async with stream(app, "GET /") as exchange:
            assert 404 == (await exchange.started()).status, "of the test"
    assert ended.is_set()


async def test_a_cancelled_test_cancels_the_app() -> None:
    ended = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with anyio.move_on_after(0.01) as scope:
        await request(app, "GET /")
    assert scope.cancelled_caught
    assert ended.is_set()


async def test_the_app_gets_the_bytes_that_were_given_and_no_others() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await Says(START, LAST)(scope, receive, send)

    headers = [(b"X-Odd", b" \xff "), (b"authorization", b"one"), (b"Authorization", b"two"), (b"", b"")]
    await request(app, b"pAtCh /a%2Fb/%C3%A9/%ff?q=%20\xfe&", headers=headers)
    (scope,) = seen
    assert headers == scope["headers"]
    assert ("pAtCh", "/a/b/é/\ufffd", b"/a%2Fb/%C3%A9/%ff", b"q=%20\xfe&") == (
        scope["method"],
        scope["path"],
        scope["raw_path"],
        scope["query_string"],
    )


async def test_json_is_sent_with_its_type_and_length() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope["headers"], await Request(scope, receive).body()])
        await Says(START, LAST)(scope, receive, send)

    await request(app, "POST /", headers=[(b"a", b"b")], json={"x": "é"})
    assert [[(b"a", b"b"), (b"content-type", b"application/json"), (b"content-length", b"10")], '{"x":"é"}'.encode()] == seen


async def test_members_of_the_scope_can_be_changed_and_left_out() -> None:
    scope = http_scope("GET /", changes={"client": None, "root_path": "/api", "raw_path": ..., "mine": 1})
    assert (None, "/api", 1) == (scope["client"], scope["root_path"], scope["mine"])
    assert "raw_path" not in scope
    assert ("http", "1.1", ("127.0.0.1", 8000)) == (scope["type"], scope["http_version"], scope["server"])


@pytest.mark.parametrize("target", ["", "GET", "/v1/models", " /v1/models", "GET "])
async def test_a_target_that_is_no_method_and_path_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="is not a request"):
        http_scope(target)


async def test_body_and_json_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="either body or json"):
        await request(Says(START, LAST), "POST /", body=b"x", json={})


async def test_a_body_in_chunks_reaches_the_app_chunk_by_chunk() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive(), await receive()])
        await Says(START, LAST)(scope, receive, send)
        seen.append(await receive())

    response = await request(app, "POST /", body=[b"one", b"", b"two"])
    assert [
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
        {"type": "http.disconnect"},
    ] == seen
    assert 4 == response.activity.receive_calls


async def test_a_body_that_was_left_open_goes_on_while_the_app_runs() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(body(message["body"], more_body=more))

    async with stream(app, "POST /", body=b"one", more_body=True) as exchange:
        assert b"one" == await exchange.next_chunk()
        await exchange.send_body(b"two", more_body=True)
        assert b"two" == await exchange.next_chunk()
        await exchange.send_body(b"three")
        assert b"three" == await exchange.next_chunk()
        assert (await exchange.next_chunk()) is None


async def test_a_chunk_is_there_before_the_app_goes_on_to_the_next() -> None:
    steps: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"x", b"y")]})
        for name in ("one", "two"):
            await send(body(name.encode(), more_body=True))
            steps.append(name)
        await send(LAST)

    async with stream(app, "GET /") as exchange:
        response = await exchange.started()
        await anyio.wait_all_tasks_blocked()
        assert ("y", [], []) == (response.header("x"), response.chunks, steps)
        assert b"one" == await exchange.next_chunk()
        await anyio.wait_all_tasks_blocked()
        assert ["one"] == steps
        assert [b"two", b""] == [chunk async for chunk in exchange]
        assert (["one", "two"], [b"one", b"two", b""]) == (steps, response.chunks)


async def test_an_endless_stream_can_be_left_at_any_chunk() -> None:
    left = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def endless() -> None:
            await send(START)
            while True:
                await send(body(b"x", more_body=True))

        async with anyio.create_task_group() as group:
            group.start_soon(endless)
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()
        left.set()

    async with stream(app, "GET /") as exchange:
        assert b"x" == await exchange.next_chunk()
        await exchange.disconnect()
        await exchange.wait_returned()
    assert left.is_set()
    async with stream(app, "GET /") as exchange:
        pass
    assert exchange.activity.returned


async def test_an_app_that_does_not_notice_that_the_client_left_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while True:
            await send(body(b"x", more_body=True))

    with pytest.raises(TimeoutError, match=r"for the app to return; so far the app sent …, http\.response\.body"):
        async with stream(app, "GET /", time_limit=0.05):
            pass


async def test_sending_to_a_client_that_left_does_nothing_and_is_noted() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive()) == {"type": "http.disconnect"}
        await Says(START, body(b"x"))(scope, receive, send)

    async with stream(app, "GET /") as exchange:
        await exchange.disconnect()
    assert [START, body(b"x")] == exchange.activity.sent
    assert [] == exchange.response.chunks


async def test_a_broken_protocol_fails_the_test_even_when_the_client_has_left() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive()) == {"type": "http.disconnect"}
        await Says(START, START)(scope, receive, send)

    with pytest.raises(ProtocolError, match=r"a second http\.response\.start"):
        async with stream(app, "GET /", reraise=False):
            pass


async def test_sending_to_a_client_that_left_raises_from_version_2_4_on() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"x", more_body=True))

    async with stream(app, "GET /", scope={"asgi": {"version": "3.0", "spec_version": "2.4"}}, reraise=False) as exchange:
        await exchange.started()
        await exchange.disconnect()
    assert isinstance(exchange.activity.raised, OSError)


async def test_a_client_that_leaves_overtakes_what_is_left_of_its_body() -> None:
    seen: list[Any] = []
    read = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read.wait()
        seen.append(await receive())

    async with stream(app, "POST /", body=[b"one", b"two"]) as exchange:
        await exchange.disconnect()
        read.set()
    assert [{"type": "http.disconnect"}] == seen


async def test_nothing_can_be_read_after_leaving() -> None:
    async with stream(Says(START, LAST), "GET /") as exchange:
        await exchange.disconnect()
        with pytest.raises(RuntimeError, match="the client has disconnected"):
            await exchange.next_chunk()


async def test_a_framework_that_listens_for_a_disconnect_beside_its_stream_loses_no_chunk() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(chunks())(scope, receive, send)

    response = await request(app, "GET /")
    assert [b"0", b"1", b"2", b""] == response.chunks


async def test_extensions_that_the_server_offers_are_passed_through() -> None:
    offered: dict[str, Any] = {"extensions": {"http.response.trailers": {}, "http.response.early_hint": {}, "http.response.pathsend": {}}}
    hint = {"type": "http.response.early_hint", "links": [b"</a>"]}
    trailers = {"type": "http.response.trailers", "headers": [(b"x-end", b"1")], "more_trailers": True}
    more = {"type": "http.response.trailers", "headers": [(b"x-end", b"2")]}
    response = await request(Says(hint, {**START, "trailers": True}, LAST, trailers, more), "GET /", scope=offered)
    assert [(b"x-end", b"1"), (b"x-end", b"2")] == response.trailers
    assert hint == response.activity.sent[0]
    whole = await request(Says(START, {"type": "http.response.pathsend", "path": "/file"}), "GET /", scope=offered)
    assert (200, []) == (whole.status, whole.chunks)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        pytest.param([START, {"type": "http.response.trailers"}], "unannounced, or before the end", id="unannounced"),
        pytest.param([{**START, "trailers": True}, {"type": "http.response.trailers"}], "before the end", id="before the end"),
        pytest.param([{**START, "trailers": True}, LAST], "before its answer was complete", id="announced and not sent"),
        pytest.param([{**START, "trailers": True}, LAST, LAST], "after the end of the body", id="body after the body"),
    ],
)
async def test_trailers_out_of_place_fail_the_test(messages: list[Any], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        await request(Says(*messages), "GET /", scope={"extensions": {"http.response.trailers": {}}})


async def test_a_response_shows_its_headers_and_its_body() -> None:
    headers = [(b"X-One", b"\xe9"), (b"www-authenticate", b"Bearer"), (b"WWW-Authenticate", b"Basic")]
    response = await request(Says({**START, "status": 401, "headers": headers}, body(b'{"a": ', more_body=True), body(b"1}")), "GET /")
    assert (401, headers, b'{"a": 1}', '{"a": 1}', {"a": 1}) == (
        response.status,
        response.headers,
        response.body,
        response.text,
        response.json(),
    )
    assert ("é", None, ["Bearer", "Basic"]) == (
        response.header("x-one"),
        response.header("x-two"),
        response.header_lines("www-authenticate"),
    )
    with pytest.raises(AssertionError, match="www-authenticate was sent 2 times"):
        response.header("www-authenticate")
