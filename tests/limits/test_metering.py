"""What a layer notes of an exchange, and that it settles once, whichever way the app ends."""

import gc
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import pytest

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.call import LLMCall, Usage
from llm_authmw.context import RequestContext
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.metering import run
from llm_authmw.limits.outcome import Facts
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, request, stream, websocket

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
CALL: Final = LLMCall(dialect="openai", operation="chat", models=("gpt-4o",))
BUCKET: Final = Bucket(tenant="default", name="global / nano_usd / ever", kind="lifetime", measure="nano_usd", limit=1_000)
JSON: Final = [(b"Content-Type", b"application/json")]
EVENTS: Final = [(b"content-type", b"text/event-stream")]
WHOLE: Final = b'{"model":"gpt-4o","choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
DELTA: Final = b'data: {"id":"1","model":"gpt-4o","choices":[{"delta":{"content":"hello, this is a word"}}]}\n\n'
LAST: Final = b'data: {"id":"1","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'


class Layer:
    """A layer that holds 100 of 1,000 and settles each request at what a function says."""

    def __init__(self, app: ASGIApp, handle: LedgerHandle | None = None, *, amount: int = 10, drain: float = 0) -> None:
        self.app: Final = app
        self.handle: Final = handle or LedgerHandle(MemoryLedger(clock=ManualClock()), deadline=None)
        self.facts: Final[list[Facts]] = []
        self.answers: Final[list[Any]] = []
        self._amount = amount
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        context.call = CALL
        exchange = Exchange.of(context)
        hold = await self.handle.reserve([Claim(BUCKET, 100)])
        assert isinstance(hold, Hold)
        exchange.add(self.handle, hold, self._actual, self.answers.append)
        exchange.drain = self._drain
        await run(exchange, self.app, scope, receive, send)

    def _actual(self, exchange: Exchange) -> Mapping[Measure, int]:
        self.facts.append(exchange.facts)
        return {"nano_usd": self._amount}

    async def used(self) -> int:
        (balance,) = await self.handle.balance([BUCKET])
        assert self.handle.held == 0
        return balance.used


def answering(*chunks: bytes, status: int = 200, headers: Any = JSON, then: Callable[[], Awaitable[None]] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": chunks[-1]})
        if then is not None:
            await then()

    return app


async def test_an_answer_is_settled_before_the_app_has_returned() -> None:
    seen: list[int] = []

    async def afterwards() -> None:
        seen.append(await layer.used())

    layer = Layer(answering(WHOLE, then=afterwards))
    await request(layer, CHAT)
    assert [10] == seen
    assert Facts(status=200, flowing=True, ended=True, usage=layer.facts[0].usage) == layer.facts[0]
    assert Usage(input=7, output=3, total=10, model="gpt-4o", complete=True) == layer.facts[0].usage
    assert 10 == layer.answers[0].balances[0].used


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
async def test_no_byte_is_changed_however_a_stream_is_split(size: int) -> None:
    text = DELTA * 5 + LAST + b"data: [DONE]\n\n"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    layer = Layer(answering(*chunks, headers=EVENTS))
    answer = await request(layer, CHAT)
    assert chunks == answer.chunks
    assert EVENTS == answer.headers
    assert Usage(input=7, output=3, total=10, model="gpt-4o", complete=True) == layer.facts[0].usage


async def test_a_chunk_goes_out_before_it_is_looked_at() -> None:
    layer = Layer(answering(DELTA, LAST, headers=EVENTS))
    async with stream(layer, CHAT) as exchange:
        counted: Exchange | None = None
        async for _ in exchange:
            counted = counted or RequestContext.of(exchange.scope).exchange
        assert counted is not None
    assert layer.facts[0].usage is not None


async def test_an_error_before_the_first_byte_is_settled_and_raised() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    layer = Layer(app)
    with pytest.raises(ValueError, match="broken"):
        await request(layer, CHAT)
    assert [Facts(raised=True)] == layer.facts
    assert await layer.used() == 10


async def test_an_error_behind_an_error_page_is_known_when_it_is_settled() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    layer = Layer(answering(b"{}", status=500, then=fail))
    with pytest.raises(ValueError, match="broken"):
        await request(layer, CHAT)
    (facts,) = layer.facts
    assert (True, True, 500) == (facts.raised, facts.ended, facts.status)


async def test_an_error_after_the_answer_is_none_of_the_answers() -> None:
    async def fail() -> None:
        raise ValueError("a background task")

    layer = Layer(answering(WHOLE, then=fail))
    with pytest.raises(ValueError, match="a background task"):
        await request(layer, CHAT)
    (facts,) = layer.facts
    assert not facts.raised


async def test_an_error_in_mid_stream_is_settled_with_what_was_seen() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": DELTA * 2, "more_body": True})
        raise ValueError("dropped")

    layer = Layer(app)
    with pytest.raises(ValueError, match="dropped"):
        await request(layer, CHAT)
    (facts,) = layer.facts
    assert (True, True, False, 200) == (facts.raised, facts.flowing, facts.ended, facts.status)
    assert facts.seen >= 2
    assert await layer.used() == 10


async def test_a_cancelled_request_is_settled() -> None:
    started = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await anyio.sleep_forever()

    layer = Layer(app)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, layer, CHAT)
        await started.wait()
        tasks.cancel_scope.cancel()
    assert [Facts(raised=True)] == layer.facts
    assert await layer.used() == 10


async def test_a_request_that_is_cancelled_while_a_chunk_goes_out_has_seen_it() -> None:
    layer = Layer(answering(DELTA, DELTA, headers=EVENTS))
    context = RequestContext()
    sending = anyio.Event()

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await anyio.sleep_forever()

    scope = {"type": "http", "llm_authmw.context": context}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(layer, scope, receive, send)
        await sending.wait()
        tasks.cancel_scope.cancel()
    (facts,) = layer.facts
    assert (True, 1) == (facts.flowing, min(1, facts.seen))


async def test_a_client_that_leaves_is_told_to_the_app_and_noted() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": DELTA, "more_body": True})
        told.append((await receive())["type"])

    layer = Layer(app)
    async with stream(layer, CHAT) as exchange:
        assert DELTA == await exchange.next_chunk()
        await exchange.disconnect()
    assert ["http.disconnect"] == told
    (facts,) = layer.facts
    assert (True, False, True) == (facts.left, facts.ended, facts.flowing)
    assert await layer.used() == 10


async def test_a_client_that_leaves_after_the_answer_has_not_left_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(WHOLE)(scope, receive, send)
        await receive()
        await receive()

    layer = Layer(app)
    async with stream(layer, CHAT) as exchange:
        assert WHOLE == await exchange.next_chunk()
    assert not layer.facts[0].left


async def test_a_client_that_has_all_of_its_answer_has_not_left_though_the_last_send_still_waits() -> None:
    heard = anyio.Event()
    gone = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                await receive()
                heard.set()

            tasks.start_soon(listen)
            await answering(DELTA, LAST, headers=EVENTS)(scope, receive, send)

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body") == LAST:
            gone.set()
            await heard.wait()

    layer = Layer(app)
    await layer({"type": "http", "llm_authmw.context": RequestContext()}, receive, send)
    assert not layer.facts[0].left


async def test_a_client_that_leaves_does_not_stop_an_app_that_is_to_be_drained() -> None:
    told: list[str] = []
    left = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                told.append((await receive())["type"])

            tasks.start_soon(listen)
            await send({"type": "http.response.body", "body": DELTA, "more_body": True})
            await left.wait()
            await send({"type": "http.response.body", "body": LAST, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    layer = Layer(app, drain=60)
    async with stream(layer, CHAT) as exchange:
        assert DELTA == await exchange.next_chunk()
        await exchange.disconnect()
        await anyio.wait_all_tasks_blocked()
        assert [] == told
        left.set()
        await exchange.wait_returned()
    assert ["http.disconnect"] == told
    (facts,) = layer.facts
    assert facts.usage is not None
    assert (True, True, True) == (facts.left, facts.ended, facts.usage.complete)
    assert [] == [message for message in exchange.activity.sent if message.get("body") == LAST]


async def test_draining_ends_in_time() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        told.append((await receive())["type"])
        told.append((await receive())["type"])

    layer = Layer(app, drain=0.001)
    async with stream(layer, CHAT) as exchange:
        await exchange.disconnect()
        await exchange.wait_returned()
    assert ["http.disconnect"] * 2 == told
    assert layer.facts[0].left


@pytest.mark.parametrize("drain", [0, 60])
async def test_a_server_may_say_by_an_error_that_the_client_has_gone(drain: float) -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    async def receive() -> Any:
        raise AssertionError

    layer = Layer(answering(DELTA, LAST, headers=EVENTS), drain=drain)
    scope = {"type": "http", "llm_authmw.context": RequestContext()}
    if drain:
        await layer(scope, receive, send)
    else:
        with pytest.raises(OSError, match="gone"):
            await layer(scope, receive, send)
    (facts,) = layer.facts
    assert facts.left
    assert facts.usage is not None
    assert facts.usage.complete is bool(drain)
    assert await layer.used() == 10


async def test_trailers_end_an_answer_that_has_them() -> None:
    used: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": JSON, "trailers": True})
        await send({"type": "http.response.body", "body": WHOLE})
        used.append(len(layer.facts))
        await send({"type": "http.response.trailers", "headers": [], "more_trailers": False})
        used.append(len(layer.facts))

    layer = Layer(app)
    await request(layer, CHAT, scope={"extensions": {"http.response.trailers": {}}})
    assert [0, 1] == used


async def test_a_file_that_the_server_sends_is_an_answer_that_nobody_could_read() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.pathsend", "path": "/nowhere"})

    layer = Layer(app)
    await request(layer, CHAT, scope={"extensions": {"http.response.pathsend": {}}})
    (facts,) = layer.facts
    assert (True, Usage()) == (facts.ended, facts.usage)


async def test_layers_that_stand_one_inside_the_other_settle_once_each_with_the_same_facts() -> None:
    inner = Layer(answering(DELTA, LAST, headers=EVENTS), amount=3)
    outer = Layer(inner, inner.handle, amount=4)
    await request(outer, CHAT)
    assert inner.facts == outer.facts
    assert inner.facts[0].usage is not None
    assert inner.facts[0].usage.complete
    assert await inner.used() == 7


async def test_what_outer_layers_hold_is_given_back_where_an_inner_one_releases_it() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await RequestContext.of(scope).exchange.release()
        seen.append(await outer.used())
        await answering(b"{}", status=429)(scope, receive, send)

    seen: list[int] = []
    outer = Layer(refusing)
    await request(outer, CHAT)
    assert [0] == seen
    assert await outer.used() == 0
    assert [] == outer.facts


async def test_an_app_that_is_called_again_is_counted_again() -> None:
    inner = Layer(answering(WHOLE), amount=3)

    async def again(scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(message: Any) -> None:
            pass

        await inner(scope, receive, nowhere)
        await inner(scope, receive, send)

    await request(again, CHAT)
    assert await inner.used() == 6
    assert inner.facts[0] == inner.facts[1]


async def test_a_function_that_fails_leaves_the_estimate(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Layer):
        def _actual(self, exchange: Exchange) -> Mapping[Measure, int]:
            raise KeyError("broken")

    layer = Broken(answering(WHOLE))
    await request(layer, CHAT)
    assert await layer.used() == 100
    assert "its estimate stands" in caplog.text


async def test_a_meter_that_fails_hurts_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(self: Any, text: bytes) -> None:
        raise KeyError("broken")

    monkeypatch.setattr("llm_authmw.llm.tally.Tally.read", fail)
    layer = Layer(answering(DELTA, LAST, headers=EVENTS))
    answer = await request(layer, CHAT)
    assert [DELTA, LAST] == answer.chunks
    assert Facts(status=200, flowing=True, ended=True) == layer.facts[0]
    assert "could not be metered" in caplog.text


DONE: Final = '{"type":"response.done","response":{"usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7}}}'


@pytest.mark.parametrize("form", ["text", "bytes"])
async def test_the_responses_of_a_socket_add_up(form: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for text in (DONE, '{"type":"response.text.delta"}', DONE, '{"type":"response.done","response":{"usage":{"input_tokens":-1}}}'):
            await send({"type": "websocket.send", form: text if form == "text" else text.encode()})
        await receive()

    layer = Layer(app)
    async with websocket(layer, "/v1/realtime"):
        pass
    (facts,) = layer.facts
    assert Usage(input=10, output=4, requests=2, complete=True) == facts.usage
    assert facts.ended
    assert await layer.used() == 10


async def test_a_socket_that_is_refused_is_an_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    layer = Layer(app)
    async with websocket(layer, "/v1/realtime"):
        pass
    assert 403 == layer.facts[0].status


async def test_a_request_whose_loop_is_gone_is_left_to_its_lease() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    layer = Layer(app)

    async def never(*_: Any) -> Any:
        raise AssertionError

    asked: Any = layer({"type": "http", "llm_authmw.context": RequestContext()}, never, never)
    asked.send(None)  # as a loop does
    asked.close()  # as the garbage collector does
    gc.collect()
    assert [] == layer.facts
    assert layer.handle.held == 1
