"""Requests that say one thing to the rules and another to the app: each reached it once, or cost too much to refuse."""

import json
import threading
import tracemalloc
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from llm_authmw import KeyAuthMiddleware, RBACMiddleware, RequestLens, Role, Stack, StaticKey, StaticKeys
from llm_authmw.authz.trial import Kept
from llm_authmw.errors import Denial
from llm_authmw.lens import DEFAULT_LENS
from llm_authmw.llm.json_body import check_text, members_of
from llm_authmw.llm.realtime import read_frame
from llm_authmw.testing import WebSocketClosed, stream, websocket
from llm_authmw.testing.asgi.scopes import http_scope
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
JSON = (b"content-type", b"application/json")
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "delete_everything"}}
SMALL = Role(routes=["*"], models=["small*"])


class Runner:
    """An app that parses what comes, as Python does, and runs what it finds."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["POST"]), WebSocketRoute("/{path:path}", self.converse)])

    async def answer(self, request: Request) -> Response:
        self.ran.append(await request.json())
        return JSONResponse({})

    async def converse(self, socket: WebSocket) -> None:
        await socket.accept()
        while (message := await socket.receive())["type"] == "websocket.receive":
            self.ran.append(json.loads(message.get("text") or message["bytes"]))
            await socket.send_text("ran")


def guarded(app: Any, role: Role = SMALL, **options: Any) -> Any:
    keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY, roles=["member"])}))
    return Stack(keys, Middleware(RBACMiddleware, roles={"member": role}, **options))(app)


async def ask(guard: Any, target: str, *headers: tuple[bytes, bytes], **sent: Any) -> tuple[int, str | None]:
    async with stream(guard, target, headers=[BEARER, *headers], **sent) as exchange:
        async for _ in exchange:
            pass
    return exchange.response.status, exchange.response.header("x-authmw-reason")


# Bodies that are JSON, whatever their type says.


OTHER_TYPES = [b"text/plain", b"application/x-www-form-urlencoded", b"application/octet-stream", b"multipart/form-data; boundary=x", b""]


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-be", "utf-32-le"])
async def test_a_body_of_another_type_that_begins_as_json_does_is_refused_on_a_route_of_ones_own(
    content_type: bytes, encoding: str
) -> None:
    runner = Runner()
    guard = guarded(runner.app, Role(routes=["POST /ask"], models=["small"]))
    body = ' \n {"model":"large"}'.encode(encoding)
    told = await ask(guard, "POST /ask", (b"content-type", content_type), body=[bytes([byte]) for byte in body])
    assert (415, "content_type_not_accepted") == told
    assert [] == runner.ran


async def test_blanks_without_end_are_no_way_to_hide_what_a_body_begins_with() -> None:
    runner = Runner()
    body = [*[b" "] * 5000, b'{"model":"large"}']
    assert (415, "content_type_not_accepted") == await ask(guarded(runner.app), "POST /ask", (b"content-type", b"text/plain"), body=body)
    assert [] == runner.ran


@pytest.mark.parametrize("chunks", [[b"--x\r\n", b"{}"], [b"", b"\0\0", b"\0\0\0{"], [b"  ", b"a{"], [b"\0" * 70_000], [b""]])
async def test_a_file_goes_through_to_the_byte(chunks: list[bytes]) -> None:
    app = Recorder()
    assert 200 == (await ask(guarded(app), "POST /upload", (b"content-type", b"application/octet-stream"), body=chunks))[0]
    assert [b"".join(chunks)] == app.bodies


# Frames that only some parsers take for JSON.


ESCAPED = '{"mod\\u0065l":"large"}'


@pytest.mark.parametrize(
    "frame",
    [
        "\ufeff".encode() + ESCAPED.encode(),
        ESCAPED.encode("utf-16"),
        ESCAPED.encode("utf-16-be"),
        ESCAPED.encode("utf-32-be"),
        '\ufeff{"fallbacks":["large"]}'.encode(),
        '{"response":{"tools":[{"type":"web_search"}]}}'.encode("utf-16"),
        f"[{ESCAPED}]",
        f"[{ESCAPED}]".encode("utf-16"),
        json.dumps({"type": "session.update", **CALL}),
    ],
)
async def test_a_frame_that_python_reads_ends_the_socket_where_it_asks_for_what_is_not_allowed(frame: str | bytes) -> None:
    runner = Runner()
    async with websocket(guarded(runner.app), "/v1/realtime?model=small", headers=[BEARER]) as socket:
        await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        with pytest.raises(WebSocketClosed):
            await socket.receive()
    assert [] == runner.ran


# Tools of an MCP server that listens where nobody would look for one.


@pytest.mark.parametrize(("target", "role"), [("POST /messages/?session_id=1", Role(routes=["*"], models=["*"])), ("POST /mine", SMALL)])
async def test_a_message_to_an_mcp_server_is_one_on_every_route(target: str, role: Role) -> None:
    runner = Runner()
    assert (403, "tool_not_allowed") == await ask(guarded(runner.app, role), target, JSON, body=[json.dumps(CALL).encode()])
    assert [] == runner.ran


async def test_a_message_that_calls_no_tool_passes_on_a_route_of_ones_own() -> None:
    runner = Runner()
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}
    assert 200 == (await ask(guarded(runner.app), "POST /mine", JSON, body=[json.dumps(message).encode()]))[0]
    assert [message] == runner.ran


# Models by another way.


@pytest.mark.parametrize("model", ["small/../large", "small/..", "small/./large", "small-a/b/../../large"])
async def test_a_model_does_not_lead_to_another_one_once_it_is_part_of_a_url(model: str) -> None:
    runner = Runner()
    told = await ask(guarded(runner.app), "POST /v1/chat/completions", JSON, body=[json.dumps({"model": model}).encode()])
    assert (400, "model_malformed") == told
    assert [] == runner.ran


@pytest.mark.parametrize("route", ["/endpoints/large/invocations", "/serving-endpoints/large/invocations", "/v1/agents/completions"])
async def test_what_is_run_is_not_what_the_body_calls_the_model(route: str) -> None:
    runner = Runner()
    body = b'{"model":"small","agent_id":"large"}'
    assert (403, "model_not_allowed") == await ask(guarded(runner.app), f"POST {route}", JSON, body=[body])
    assert [] == runner.ran


@pytest.mark.parametrize(
    "route", ["/generate_stream", "/vertex_generate", "/encode", "/load_lora_adapter", "/prompts/test", "/v1.1/x", "/v1p1beta1/x"]
)
async def test_a_route_of_an_inference_server_that_no_table_has_is_not_taken_for_the_apps_own(route: str) -> None:
    runner = Runner()
    assert (403, "operation_unknown") == await ask(guarded(runner.app), f"POST {route}", JSON, body=[b'{"inputs":"x"}'])
    assert [] == runner.ran


async def test_a_server_of_tools_is_known_by_a_part_of_its_name() -> None:
    runner = Runner()
    guard = guarded(runner.app, Role(routes=["*"], models=["*"]))
    assert (403, "operation_unknown") == await ask(guard, "POST /github-mcp/run", JSON, body=[b"{}"])
    assert [] == runner.ran


@pytest.mark.parametrize(
    "header",
    [
        "x-amzn-sagemaker-target-model",
        "X_Amzn_SageMaker_Target_Variant",
        "x-amzn-sagemaker-inference-component",
        "azureml-model-deployment",
    ],
)
async def test_a_header_by_which_an_endpoint_chooses_its_model_counts(header: str) -> None:
    runner = Runner()
    told = await ask(guarded(runner.app), "POST /endpoints/small/invocations", JSON, (header.encode(), b"large"), body=[b"{}"])
    assert (403, "model_not_allowed") == told
    assert [] == runner.ran


# What a request costs.


@pytest.mark.parametrize(
    "body",
    [
        {"model": "small", "fallbacks": [f"small-{number}" for number in range(2000)]},
        {"model": "small", "tools": [{"type": f"tool-{number}"} for number in range(2000)]},
    ],
)
async def test_more_names_than_anybody_needs_are_not_held_against_the_rules(body: dict[str, Any]) -> None:
    runner = Runner()
    guard = guarded(runner.app, Role(routes=["*"], models=["small*"], tools=["tool-*"]))
    told = await ask(guard, "POST /v1/chat/completions", JSON, body=[json.dumps(body).encode()])
    assert (400, "request_field_invalid") == told
    assert [] == runner.ran


async def test_the_name_of_a_member_takes_no_more_room_to_read_than_it_has() -> None:
    # The last member keeps the object from being written again, so that it is walked through.
    body = b'{"model":"small","' + b"\\u0061" * 500_000 + b'":1, "a":2}'
    tracemalloc.start()
    try:
        assert {"model", "a" * 500_000, "a"} == members_of(body).keys()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(body)


@pytest.mark.parametrize(("depth", "fits"), [(62, True), (63, False)])
async def test_many_objects_within_objects_are_counted_without_being_made(depth: int, fits: bool) -> None:
    nested = b'{"\\"":' * depth + b'"x"' + b"}" * depth
    text = b'{"a":[' + b",".join([nested] * 3000) + b"]}"
    tracemalloc.start()
    try:
        if fits:
            check_text(text)
        else:
            with pytest.raises(ValueError, match="nested too deeply"):
                check_text(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(text)


class Pieces:
    """A server that gives a body in pieces of one byte."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.given = 0
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        self.given += 1
        return {"type": "http.request", "body": self.body[self.given - 1 : self.given], "more_body": self.given < len(self.body)}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)


class Counter(Recorder):
    """A recorder that counts the messages of a body."""

    messages = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            self.messages += 1
            return await receive()

        await super().__call__(scope, counted, send)


async def test_a_body_in_pieces_of_one_byte_is_not_kept_as_so_many_messages() -> None:
    app, body = Counter(), b'{"model":"small","x":"' + b"a" * 50_000 + b'"}'
    pieces = Pieces(body)
    await guarded(app)(http_scope("POST /v1/chat/completions", headers=[BEARER, JSON]), pieces.receive, pieces.send)
    assert 200 == pieces.status
    assert [body] == app.bodies
    assert app.messages < 2000


async def test_what_was_read_on_trial_in_pieces_of_one_byte_is_given_on_as_it_came() -> None:
    # To move all that is left at each message would take many seconds here.
    pieces = Pieces(b"a" * 300_000)
    kept = Kept(pieces.receive)
    for _ in pieces.body:
        await kept.keep()
    assert pieces.body == b"".join([(await kept.again())["body"] for _ in pieces.body])


# What a large frame costs.


LARGE = '{"type":"session.update","session":{"model":"large"},"x":"' + "a" * 600_000 + '"}'


async def test_a_frame_that_is_longer_than_a_body_may_be_ends_the_socket() -> None:
    app = Recorder()
    guard = guarded(app, lens=RequestLens(max_body=100))
    async with websocket(guard, "/v1/realtime?model=small", headers=[BEARER]) as socket:
        await socket.send_text(json.dumps({"x": "a" * 100}))
        with pytest.raises(WebSocketClosed, match="body_too_large"):
            await socket.receive()
    assert [] == app.frames


async def test_a_large_frame_is_read_while_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def read(*frame: Any) -> Any:
        threads.append(threading.get_ident())
        return read_frame(*frame)

    monkeypatch.setattr("llm_authmw.lens.read_frame", read)
    app = Recorder()
    async with websocket(guarded(app), "/v1/realtime?model=small", headers=[BEARER]) as socket:
        await socket.send_text(LARGE)
        with pytest.raises(WebSocketClosed, match="model_not_allowed"):
            await socket.receive()
    assert [] == app.frames
    assert 1 == len(threads)
    assert threading.get_ident() not in threads


async def test_a_large_frame_is_not_lost_where_the_app_gives_up_waiting() -> None:
    message = {"type": "websocket.receive", "text": LARGE}
    given = [message]

    async def receive() -> Any:
        return given.pop()

    async def deny(denial: Denial) -> None:
        raise denial

    watched = DEFAULT_LENS.watch(receive, None, lambda _: None, deny)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await watched()
    assert scope.cancelled_caught
    assert message == await watched()


# Bodies where nobody looks for one, and models in paths that are about something else.


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("framing", [(b"content-length", b"17"), (b"transfer-encoding", b"chunked")])
async def test_a_method_that_has_no_body_as_a_rule_is_read_where_it_brings_one(method: str, framing: tuple[bytes, bytes]) -> None:
    app = Recorder()
    body = b'{"model":"large"}'
    assert (403, "model_not_allowed") == await ask(guarded(app), f"{method} /ask", JSON, framing, body=body)
    assert (403, "operation_unknown") == await ask(guarded(app), f"{method} /v1/new", JSON, framing, body=b'{"model":"small"}')
    assert [] == app.bodies
    assert 200 == (await ask(guarded(app), f"{method} /ask", JSON, framing, body=b'{"model":"small"}'))[0]
    assert [b'{"model":"small"}'] == app.bodies


async def test_a_method_without_a_body_passes_by_its_route() -> None:
    app = Recorder()
    assert 200 == (await ask(guarded(app), "GET /v1/new", (b"content-length", b"0")))[0]
    assert 200 == (await ask(guarded(app), "DELETE /v1/new"))[0]


@pytest.mark.parametrize("path", ["/openai/deployments/large/messages", "/openai/deployments/large/ocr", "/engines/large/v1/messages"])
async def test_a_deployment_counts_whatever_is_done_with_it(path: str) -> None:
    app = Recorder()
    body = b'{"model":"small","max_tokens":1,"messages":[]}'
    assert (403, "model_not_allowed") == await ask(guarded(app), f"POST {path}", JSON, body=body)
    assert 200 == (await ask(guarded(app), f"POST {path.replace('large', 'small')}", JSON, body=body))[0]


@pytest.mark.parametrize("path", ["/api/create", "/api/copy/", "/ai/run/x", "/pipeline/x", "/collective_rpc"])
async def test_a_server_s_own_route_takes_a_role_that_names_it(path: str) -> None:
    app = Recorder()
    assert (403, "operation_unknown") == await ask(guarded(app), f"POST {path}", JSON, body=b'{"model":"small","from":"large"}')
    assert [] == app.bodies
