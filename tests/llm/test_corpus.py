"""What the SDKs send, recorded in tests/corpus, against what the lens reads from it."""

from typing import Any, Final

import anyio.to_thread
import pytest

from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial
from llm_authmw.lens import DEFAULT_LENS
from llm_authmw.llm.operation import Found
from llm_authmw.patterns import canonical_route
from llm_authmw.testing import request
from tests.corpus.expected import EXPECTED, FRAMES, REFUSED
from tests.corpus.record import record
from tests.corpus.shapes import Shape, recordings

pytestmark = pytest.mark.anyio

RECORDED: Final = recordings()
SHAPES: Final = {f"{file}/{name}": shape for file, recording in RECORDED.items() for name, shape in recording.shapes.items()}
CALLS: Final = {f"{file}/{name}": call for file, calls in EXPECTED.items() for name, call in calls.items()}
REQUESTS: Final = [name for name in CALLS if SHAPES[name].method != "WS"]
SOCKETS: Final = [name for name in CALLS if SHAPES[name].method == "WS"]


class Reader:
    """An app that reads each request by the lens, and then as any app does."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.call: LLMCall | None = None
        self.body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        route = canonical_route(scope)
        assert route is not None
        self.found = DEFAULT_LENS.find(*route)
        replay = await DEFAULT_LENS.read(scope, receive, context, self.found)
        assert replay is not None
        self.call = context.call
        more = True
        while more:
            message = await replay()
            self.body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def raw_headers(shape: Shape) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in shape.headers]


async def send(app: Reader, shape: Shape, body: bytes | list[bytes]) -> None:
    assert 204 == (await request(app, shape.target, headers=raw_headers(shape), body=body)).status


def found_for(shape: Shape) -> Found | None:
    return DEFAULT_LENS.find(shape.method, shape.path)


def test_every_shape_has_its_expectation() -> None:
    assert set(SHAPES) == set(CALLS) | set(REFUSED)


# Some calls are deprecated, and so is the way in which the OpenAI SDK opens a WebSocket.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_what_the_installed_sdks_send_is_read_like_what_was_recorded() -> None:
    sent = await anyio.to_thread.run_sync(record)
    now = {f"{file}/{name}": shape for file, recording in sent.items() for name, shape in recording.shapes.items()}
    assert set(SHAPES) == set(now)
    for name in REQUESTS:
        reader = Reader()
        await send(reader, now[name], now[name].body)
        assert (name, CALLS[name], now[name].body) == (name, reader.call, reader.body), "has the SDK changed? python -m tests.corpus.record"


@pytest.mark.parametrize("name", REQUESTS)
async def test_what_an_sdk_sends_is_read_as_it_was_meant_and_goes_on_byte_for_byte(name: str) -> None:
    shape, reader = SHAPES[name], Reader()
    await send(reader, shape, shape.body)
    assert CALLS[name] == reader.call
    assert (reader.found is None) == (CALLS[name].operation == UNLISTED)
    assert shape.body == reader.body


@pytest.mark.parametrize("name", REQUESTS)
async def test_how_a_body_is_cut_into_messages_changes_nothing(name: str) -> None:
    shape, reader = SHAPES[name], Reader()
    middle = len(shape.body) // 2
    await send(reader, shape, [shape.body[:middle], b"", shape.body[middle:]])
    assert (CALLS[name], shape.body) == (reader.call, reader.body)


@pytest.mark.parametrize("name", list(REFUSED))
async def test_what_is_not_read_at_all_is_refused(name: str) -> None:
    shape = SHAPES[name]
    with pytest.raises(Denial) as refused:
        await send(Reader(), shape, shape.body)
    assert REFUSED[name] == (refused.value.status, refused.value.reason)


@pytest.mark.parametrize("name", SOCKETS)
async def test_the_frames_of_a_socket_are_held_to_the_rules_where_they_name_something(name: str) -> None:
    shape = SHAPES[name]
    found = found_for(shape)
    scope: Any = {"type": "websocket", "path": shape.path, "query_string": shape.query.encode(), "headers": raw_headers(shape)}
    context = RequestContext.of(scope)
    DEFAULT_LENS.handshake(scope, context, found)
    assert CALLS[name] == context.call

    frames = iter(shape.frames)
    judged: list[LLMCall] = []

    async def receive() -> Any:
        return {"type": "websocket.receive", "text": next(frames)}

    async def deny(denial: Denial) -> None:
        raise denial

    def judge(call: LLMCall) -> None:
        judged.append(call)

    watched = DEFAULT_LENS.watch(receive, found, judge, deny)
    assert shape.frames == [(await watched())["text"] for _ in shape.frames]
    assert FRAMES[name] == judged
