import gzip
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.lens import DEFAULT_LENS, Replay, RequestLens
from llm_authmw.llm.operation import Operation
from llm_authmw.patterns import canonical_route
from llm_authmw.testing.asgi import request, stream, websocket

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = [(b"content-type", b"application/json")]


class Reader:
    """An app that reads a request by a lens, and then receives what is handed on, as an app behind would."""

    def __init__(self, *lenses: RequestLens) -> None:
        self.lenses = lenses or (DEFAULT_LENS,)
        self.calls: list[LLMCall | None] = []
        self.received: list[Any] = []
        self.receives: list[Receive] = []
        self.denial: Denial | None = None
        self.gone = False
        self.then: Callable[[Receive], Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        route = canonical_route(scope)
        assert route is not None
        reading: Receive | None = receive
        try:
            for lens in self.lenses:
                assert reading is not None
                reading = await lens.read(scope, reading, context, lens.find(*route))
                self.calls.append(context.call)
                if reading is None:
                    self.gone = True
                    return
                self.receives.append(reading)
        except Denial as denial:
            self.denial = denial
            await send({"type": "http.response.start", "status": denial.status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        assert reading is not None
        while True:
            message = await reading()
            self.received.append(message)
            if message["type"] != "http.request" or not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        if self.then is not None:
            await self.then(reading)

    @property
    def call(self) -> LLMCall:
        assert self.calls[-1] is not None
        return self.calls[-1]


async def reason(reader: Reader, *args: Any, **kwargs: Any) -> tuple[int, str]:
    response = await request(reader, *args, **kwargs)
    assert reader.denial is not None
    assert [] == reader.received
    return response.status, reader.denial.reason


async def test_what_was_read_is_received_again_message_by_message_and_byte_for_byte() -> None:
    chunks = [b'{"mod', b"", b'el" : "gpt-4o",\n"x":"\xc3', b'\xa9"}', b""]
    reader = Reader()
    await request(reader, f"POST {CHAT}", body=chunks, headers=JSON)
    assert ("gpt-4o",) == reader.call.models
    assert chunks == [message["body"] for message in reader.received]
    assert [True] * 4 + [False] == [message["more_body"] for message in reader.received]


async def test_the_very_messages_are_handed_on_and_then_those_that_follow() -> None:
    messages = [{"type": "http.request", "body": b'{"model":"a"}', "more_body": False, "extra": object()}, {"type": "http.disconnect"}]
    given = iter(messages)

    async def receive() -> Any:
        return next(given)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b""}
    context = RequestContext()
    reading = await DEFAULT_LENS.read(scope, receive, context, DEFAULT_LENS.find("POST", CHAT))
    assert reading is not None
    assert messages[0] is await reading()
    assert messages[1] is await reading()


async def test_a_disconnect_after_the_body_still_arrives() -> None:
    reader = Reader()
    seen: list[Any] = []
    waiting = anyio.Event()

    async def wait(receive: Receive) -> None:
        waiting.set()
        seen.append(await receive())

    reader.then = wait
    async with stream(reader, f"POST {CHAT}", body=[b'{"model":"a"}'], headers=JSON) as exchange:
        await exchange.started()
        assert [b""] == [chunk async for chunk in exchange]
    assert waiting.is_set()
    assert [{"type": "http.disconnect"}] == seen


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_nobody_to_decide_on() -> None:
    reader = Reader()
    async with stream(reader, f"POST {CHAT}", body=[b'{"model":'], more_body=True, headers=JSON) as exchange:
        await exchange.disconnect()
        await exchange.wait_returned()
    assert reader.gone
    assert [None] == reader.calls


@pytest.mark.parametrize("length", [b"101", b"9" * 5000])
async def test_a_body_that_says_that_it_is_too_large_is_refused_unread(length: bytes) -> None:
    reader = Reader(RequestLens(max_body=100))
    headers = [*JSON, (b"content-length", length)]
    async with stream(reader, f"POST {CHAT}", body=[b"{"], more_body=True, headers=headers) as exchange:
        response = await exchange.started()
    assert (413, 0) == (response.status, exchange.activity.receive_calls)
    assert reader.denial is not None
    assert "body_too_large" == reader.denial.reason


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")], [(b"content-length", b"nonsense")]])
async def test_a_body_that_turns_out_to_be_too_large_is_refused_where_it_does(headers: list[tuple[bytes, bytes]]) -> None:
    reader = Reader(RequestLens(max_body=10))
    chunks = [b'{"a":"', b"xxxxx", b"yyyyy", b'"}']
    async with stream(reader, f"POST {CHAT}", body=chunks, headers=[*JSON, *headers]) as exchange:
        assert 413 == (await exchange.started()).status
    assert 2 == exchange.activity.receive_calls


async def test_a_body_of_just_the_size_is_read() -> None:
    body = b'{"model":"gpt-4o"}'
    reader = Reader(RequestLens(max_body=len(body)))
    await request(reader, f"POST {CHAT}", body=body, headers=[*JSON, (b"content-length", b"%d" % len(body))])
    assert ("gpt-4o",) == reader.call.models


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"application/json"), (b"content-type", b"text/plain")],
        [(b"Content-Type", b"application/json"), (b"content-type", b"application/json")],
        [(b"content-type", b"text/plain")],
    ],
)
async def test_a_type_that_is_not_accepted_or_is_there_twice_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert (415, "content_type_not_accepted") == await reason(Reader(), f"POST {CHAT}", body=b'{"model":"a"}', headers=headers)


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"br", b"identity, gzip", b"gzip, gzip", b"x"])
async def test_a_compressed_body_is_refused(coding: bytes) -> None:
    body = gzip.compress(b'{"model":"a"}')
    headers = [*JSON, (b"content-encoding", coding)]
    assert (415, "content_encoding_not_accepted") == await reason(Reader(), f"POST {CHAT}", body=body, headers=headers)


async def test_a_compressed_body_is_read_where_that_is_switched_on_and_goes_on_compressed() -> None:
    body = gzip.compress(b'{"model":"gpt-4o"}')
    reader = Reader(RequestLens(decode=["gzip"]))
    await request(reader, f"POST {CHAT}", body=body, headers=[*JSON, (b"content-encoding", b"gzip")])
    assert ("gpt-4o",) == reader.call.models
    assert body == b"".join(message["body"] for message in reader.received)
    bomb = gzip.compress(b" " * 20_000_000)
    reader = Reader(RequestLens(decode=["gzip"]))
    assert 413 == (await reason(reader, f"POST {CHAT}", body=bomb, headers=[*JSON, (b"content-encoding", b"gzip")]))[0]
    twice = [*JSON, (b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")]
    assert 415 == (await reason(Reader(RequestLens(decode=["gzip"])), f"POST {CHAT}", body=body, headers=twice))[0]


async def test_what_was_read_is_there_for_layers_that_need_more_of_it_decoded() -> None:
    body = b'{"model":"gpt-4o"}'
    reader = Reader(RequestLens(decode=["gzip"]))
    await request(reader, f"POST {CHAT}", body=gzip.compress(body), headers=[*JSON, (b"content-encoding", b"gzip")])
    await request(reader, f"POST {CHAT}", body=body, headers=JSON)
    await request(reader, "POST /unknown", body=b"some words", headers=[(b"content-type", b"text/plain")])
    assert [body, body, b""] == [receive.body for receive in reader.receives if isinstance(receive, Replay)]


async def test_every_model_counts_wherever_it_is_named() -> None:
    reader = Reader()
    target = "POST /openai/deployments/in-path/chat/completions?model=in-query"
    headers = [*JSON, (b"x-litellm-model", b"in-header")]
    await request(reader, target, body=b'{"model":"in-body"}', headers=headers)
    assert {"in-path", "in-query", "in-header", "in-body"} == set(reader.call.models)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
async def test_a_request_by_a_method_without_a_body_is_not_waited_for(method: str) -> None:
    async def never() -> Any:
        raise AssertionError("the body was asked for")

    lens = RequestLens(operations=[Operation(name="mine", routes=("GET,DELETE,OPTIONS,POST mine",))])
    scope = {"type": "http", "method": method, "path": "/mine", "headers": JSON, "query_string": b"model=a"}
    for found in (lens.find("POST", "/mine"), None):
        context = RequestContext()
        assert never is await lens.read(scope, never, context, found)
        assert context.call is not None
        assert ("mine" if found else UNLISTED, ("a",)) == (context.call.operation, context.call.models)
    with pytest.raises(AssertionError, match="asked for"):
        await lens.read({**scope, "method": "POST"}, never, RequestContext(), lens.find("POST", "/mine"))


async def test_a_body_that_matters_to_nobody_is_not_read() -> None:
    reader = Reader()
    await request(reader, "POST /v1/responses/resp_1/cancel", body=b"not json", headers=[(b"content-type", b"text/plain")])
    assert ((), False) == (reader.call.models, reader.call.needs_model)


async def test_the_json_of_a_route_that_nobody_knows_is_read_and_nothing_else() -> None:
    reader = Reader()
    await request(reader, "POST /own/thing", body=b'{"model":"a","tools":[]}', headers=JSON)
    assert (UNLISTED, ("a",), False) == (reader.call.operation, reader.call.models, reader.call.needs_model)
    await request(reader, "POST /own/thing", body=b"model=a", headers=[(b"content-type", b"application/x-www-form-urlencoded")])
    assert (UNLISTED, ()) == (reader.call.operation, reader.call.models)
    await request(reader, "POST /own/thing", body=b"")
    assert (UNLISTED, ()) == (reader.call.operation, reader.call.models)
    assert (400, "request_malformed") == await reason(Reader(), "POST /own/thing", body=b"[1]", headers=JSON)
    for kind in (b"application/json; charset=utf-16", b"text/json", b"application/merge-patch+json"):
        headers = [(b"content-type", kind)]
        assert (415, "content_type_not_accepted") == await reason(Reader(), "POST /own/thing", body=b'{"model":"a"}', headers=headers)


async def test_a_second_layer_with_the_same_lens_reads_nothing_again() -> None:
    reader = Reader(DEFAULT_LENS, DEFAULT_LENS)
    await request(reader, f"POST {CHAT}", body=b'{"model":"a"}', headers=JSON)
    first, second = reader.receives
    assert first is second
    assert reader.calls[0] is reader.calls[1]
    assert 1 == len(reader.received)


async def test_a_lens_with_other_options_reads_for_itself() -> None:
    own = RequestLens(operations=[Operation(name="mine", routes=("chat/completions",), model_fields=("agent",))])
    reader = Reader(DEFAULT_LENS, own)
    await request(reader, f"POST {CHAT}", body=b'{"model":"a","agent":"b"}', headers=JSON)
    assert [("chat", ("a",)), ("mine", ("a", "b"))] == [(call.operation, call.models) for call in reader.calls if call]
    assert [b'{"model":"a","agent":"b"}'] == [message["body"] for message in reader.received]


async def test_what_a_laxer_lens_has_read_is_no_word_for_a_stricter_one() -> None:
    reader = Reader(RequestLens(allow_fields=["api_key"]), DEFAULT_LENS)
    assert (400, "request_field_not_allowed") == await reason(reader, f"POST {CHAT}", body=b'{"model":"a","api_key":"x"}', headers=JSON)


async def test_what_was_read_as_one_operation_is_read_again_as_another() -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"model":"a"}', "more_body": False}

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": CHAT, "headers": JSON, "query_string": b""}
    context = RequestContext()
    first = await DEFAULT_LENS.read(scope, receive, context, DEFAULT_LENS.find("POST", CHAT))
    assert first is not None
    second = await DEFAULT_LENS.read(scope, first, context, DEFAULT_LENS.find("POST", "/v1/embeddings"))
    assert second is not first
    assert context.call is not None
    assert "embeddings" == context.call.operation


async def test_a_request_with_a_context_that_another_one_has_filled_is_read_all_the_same() -> None:
    context = RequestContext(call=LLMCall(dialect="openai", operation="chat", models=("cheap",)))
    reader = Reader()
    await request(reader, f"POST {CHAT}", body=b'{"model":"secret"}', headers=JSON, scope={"llm_authmw.context": context})
    assert ("secret",) == reader.call.models


async def test_the_headers_of_an_mcp_request_are_held_against_its_body() -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search"}}).encode()
    reader = Reader()
    await request(reader, "POST /mcp", body=body, headers=JSON)
    assert ("search",) == reader.call.tools
    headers = [*JSON, (b"mcp-name", b"other")]
    assert (400, "mcp_header_mismatch") == await reason(Reader(), "POST /mcp", body=body, headers=headers)
    assert (400, "request_malformed") == await reason(Reader(), "POST /mcp", body=b"", headers=JSON)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"max_body": 0}, "max_body"),
        ({"max_body": True}, "max_body"),
        ({"max_body": 1.5}, "max_body"),
        ({"decode": ["br"]}, "decode"),
        ({"decode": "gzip"}, "decode"),
        ({"allow_fields": ["model"]}, "allow_fields"),
        ({"operations": ["chat"]}, "operations"),
        ({"operations": Operation(name="x", routes=("x",))}, "operations"),
    ],
)
async def test_a_wrong_option_is_an_error_at_construction(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        RequestLens(**options)
    assert option == wrong.value.option


async def test_a_field_that_routes_is_let_through_where_the_lens_allows_it() -> None:
    reader = Reader(RequestLens(allow_fields=["api_key"]))
    await request(reader, f"POST {CHAT}", body=b'{"model":"a","api_key":"x"}', headers=JSON)
    assert ("a",) == reader.call.models
    assert (400, "request_field_not_allowed") == await reason(Reader(), f"POST {CHAT}", body=b'{"api_key":"x"}', headers=JSON)


class Socket:
    """A WebSocket app behind a lens that lets the model `cheap` pass."""

    def __init__(self) -> None:
        self.call: LLMCall | None = None
        self.judged: list[tuple[str, ...]] = []
        self.denied: list[str] = []
        self.received: list[Any] = []

    def judge(self, call: LLMCall) -> Denial | None:
        self.judged.append(call.models)
        return None if set(call.models) <= {"cheap"} else Denial("model_not_allowed")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        route = canonical_route(scope)
        assert route is not None
        found = DEFAULT_LENS.find(*route)
        DEFAULT_LENS.handshake(scope, context, found)
        self.call = context.call

        async def deny(denial: Denial) -> None:
            self.denied.append(denial.reason)

        watched = DEFAULT_LENS.watch(receive, found, self.judge, deny)
        assert "websocket.connect" == (await watched())["type"]
        await send({"type": "websocket.accept"})
        while True:
            message = await watched()
            self.received.append(message)
            if message["type"] == "websocket.disconnect":
                self.received.append(await watched())
                await send({"type": "websocket.close", "code": 1000})
                return


async def test_a_handshake_names_models_in_its_path_query_and_headers() -> None:
    app = Socket()
    async with websocket(app, "/v1/realtime?model=a", headers=[(b"x-litellm-model", b"b")]):
        pass
    assert app.call is not None
    assert ("a", "b") == app.call.models


async def test_frames_that_name_a_model_are_judged_and_the_others_pass() -> None:
    app = Socket()
    audio = {"type": "input_audio_buffer.append", "audio": "AAAA"}
    async with websocket(app, "/v1/realtime?model=cheap") as socket:
        await socket.send_json(audio)
        await socket.send_json({"type": "session.update", "session": {"model": "cheap"}})
        await socket.send_bytes(b"\x00\x01")
    assert [("cheap",)] == app.judged
    assert [] == app.denied
    assert [json.dumps(audio, separators=(",", ":"))] == [message["text"] for message in app.received if "text" in message][:1]
    assert 3 == sum(message["type"] == "websocket.receive" for message in app.received)


@pytest.mark.parametrize("frame", ['{"session":{"model":"secret"}}', '{"session":{"model":"cheap","model":"cheap"}}', '{"model":7}'])
async def test_the_app_never_sees_a_frame_that_is_denied_nor_any_after_it(frame: str) -> None:
    app = Socket()
    async with websocket(app, "/v1/realtime?model=cheap") as socket:
        await socket.send_text(frame)
        await socket.send_text('{"session":{"model":"cheap"}}')
    assert 1 == len(app.denied)
    assert ["websocket.disconnect"] * 2 == [message["type"] for message in app.received]
