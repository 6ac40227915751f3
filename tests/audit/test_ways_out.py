"""One record of each request, whichever way it ended."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import AuditMiddleware, Denial, KeyAuthMiddleware, Record, RequestContext, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import ManualClock, request, stream
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD = [(b"x-api-key", KEY.encode())]


class Bench:
    """An app behind the layer, a sink and a clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sink = KeptRecords()

    def around(self, app: ASGIApp) -> AuditMiddleware:
        return AuditMiddleware(app, sink=self.sink, clock=self.clock)

    @property
    def record(self) -> Record:
        return self.sink.request

    @property
    def end(self) -> tuple[str | None, str | None, int | None]:
        return self.record.outcome, self.record.end, self.record.status


@pytest.fixture
def bench() -> Bench:
    return Bench()


def start(status: int = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [], **more}


def body(chunk: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": chunk, "more_body": more}


def as_it_is(app: ASGIApp) -> ASGIApp:
    return app


def sending(*messages: Any, and_then: BaseException | None = None) -> ASGIApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        if and_then is not None:
            raise and_then

    return app


async def test_a_denied_request_has_a_record_with_the_layer_that_denied_and_its_reason(bench: Bench) -> None:
    witness = Witness()
    app = Stack(Middleware(AuditMiddleware, sink=bench.sink), Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))(witness)
    answer = await request(app, "GET /v1/models", headers=[(b"x-api-key", KEY[::-1].encode())])
    assert (401, []) == (answer.status, witness.scopes)
    record = bench.record
    assert ("denied", "complete", 401) == bench.end
    assert ("key_unknown", "KeyAuthMiddleware") == (record.reason, record.layer)
    assert record.who is not None
    assert "anonymous" == record.who.method


async def test_a_request_without_a_credential_has_a_record(bench: Bench) -> None:
    app = Stack(Middleware(AuditMiddleware, sink=bench.sink), Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))(Witness())
    await request(app, "GET /v1/models")
    assert ("denied", "missing_credential") == (bench.record.outcome, bench.record.reason)


async def test_an_app_that_raises_has_failed_and_its_error_goes_on(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        await request(bench.around(sending(and_then=RuntimeError("broken"))), "GET /x")
    assert ("failed", "upstream_error", None) == bench.end


async def test_an_app_that_raises_in_the_middle_of_its_answer_has_failed(bench: Bench) -> None:
    app = bench.around(sending(start(), body(b"half", more=True), and_then=RuntimeError("broken")))
    with pytest.raises(RuntimeError):
        await request(app, "GET /x")
    assert ("failed", "upstream_error", 200) == bench.end


async def test_an_error_page_and_the_error_behind_it_are_a_failure(bench: Bench) -> None:
    app = bench.around(sending(start(500), body(b"oops"), and_then=RuntimeError("broken")))
    with pytest.raises(RuntimeError):
        await request(app, "GET /x")
    assert ("failed", "upstream_error", 500) == bench.end


async def test_an_error_behind_a_whole_answer_leaves_that_complete(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        await request(bench.around(sending(start(), body(b"all"), and_then=RuntimeError("broken"))), "GET /x")
    assert ("failed", "complete", 200) == bench.end


async def test_an_app_that_returns_without_an_answer_has_failed(bench: Bench) -> None:
    await _quietly(bench.around(sending()))
    assert ("failed", "upstream_error", None) == bench.end


async def test_an_app_that_returns_in_the_middle_of_its_answer_has_failed(bench: Bench) -> None:
    await _quietly(bench.around(sending(start(), body(b"half", more=True))))
    assert ("failed", "upstream_error", 200) == bench.end


@pytest.mark.parametrize("status", [500, 502, 503, 529])
async def test_an_error_of_the_server_is_one_of_the_service_behind(bench: Bench, status: int) -> None:
    await request(bench.around(sending(start(status), body(b"{}"))), "GET /x")
    assert ("allowed", "upstream_error", status) == bench.end


@pytest.mark.parametrize("status", [200, 204, 301, 404, 429])
async def test_an_answer_is_complete(bench: Bench, status: int) -> None:
    await request(bench.around(sending(start(status), body())), "GET /x")
    assert ("allowed", "complete", status) == bench.end


async def test_a_client_that_leaves_before_the_answer_has_gone(bench: Bench) -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with stream(bench.around(waits), "POST /x", body=b"{}", more_body=True) as exchange:
        await exchange.disconnect()
    assert ("allowed", "client_gone", None) == bench.end
    assert bench.record.first_byte is None


async def test_a_client_that_leaves_behind_the_first_byte_has_gone(bench: Bench) -> None:
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"first", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass

    async with stream(bench.around(streams), "POST /x") as exchange:
        assert b"first" == await exchange.next_chunk()
        await exchange.disconnect()
    assert ("allowed", "client_gone", 200) == bench.end
    assert bench.record.first_byte is not None


@pytest.mark.parametrize("failing", ["http.response.start", "http.response.body"])
async def test_a_client_whose_server_cannot_send_any_more_has_gone(bench: Bench, failing: str) -> None:
    async def send(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == failing:
            raise OSError("closed")

    app = bench.around(sending(start(), body(b"all")))
    with pytest.raises(OSError, match="closed"):
        await app(_scope(), _nothing_comes, send)
    assert ("allowed", "client_gone", 200) == bench.end


async def test_an_app_that_swallows_that_its_client_has_gone_is_recorded_likewise(bench: Bench) -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("closed")

    async def swallows(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            await send(body(b"all"))
        except OSError:
            return

    await bench.around(swallows)(_scope(), _nothing_comes, send)
    assert ("allowed", "client_gone", 200) == bench.end


async def test_a_client_that_is_gone_behind_the_last_byte_had_all_of_it(bench: Bench) -> None:
    async def lingers(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"all"))
        while (await receive())["type"] != "http.disconnect":
            pass

    await request(bench.around(lingers), "GET /x")
    assert ("allowed", "complete", 200) == bench.end


async def test_a_handler_that_is_killed_has_its_record_and_is_killed_all_the_same(bench: Bench) -> None:
    killed = False

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        nonlocal killed
        await send(start())
        try:
            await anyio.sleep_forever()
        except BaseException:
            killed = True
            raise

    async def send(message: Any) -> None:
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        await bench.around(hangs)(_scope(), _nothing_comes, send)
    assert killed
    assert ("failed", "cut", 200) == bench.end


async def test_a_handler_that_is_killed_behind_its_answer_has_answered(bench: Bench) -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"all"))
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        await bench.around(hangs)(_scope(), _nothing_comes, send)
    assert ("allowed", "complete", 200) == bench.end


async def test_a_handler_whose_loop_is_gone_has_its_record(bench: Bench) -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    class Never:
        def __await__(self) -> Any:
            yield

    async def never() -> Any:
        await Never()

    running: Any = bench.around(hangs)(_scope(), never, _taken)
    running.send(None)
    running.close()
    assert ("failed", "cut", None) == bench.end


async def test_an_answer_to_head_has_no_first_byte(bench: Bench) -> None:
    await request(bench.around(sending(start(), body())), "HEAD /x")
    assert ("allowed", "complete", 200) == bench.end
    assert ("HEAD", None) == (bench.record.verb, bench.record.first_byte)


async def test_an_answer_with_trailers_ends_with_them(bench: Bench) -> None:
    trailers: dict[str, Any] = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
    seen: list[float] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        await send(body(b"all"))
        bench.clock.advance(2)
        await send({**trailers, "more_trailers": True})
        bench.clock.advance(3)
        await send(trailers)
        bench.clock.advance(7)
        seen.append(1)

    await request(bench.around(slow), "GET /x", scope={"extensions": {"http.response.trailers": {}}})
    assert ("allowed", "complete", 200) == bench.end
    assert (0, 5_000_000) == (bench.record.first_byte, bench.record.duration)


async def test_an_answer_whose_trailers_never_come_is_not_complete(bench: Bench) -> None:
    await _quietly(bench.around(sending(start(trailers=True), body(b"all"))))
    assert ("failed", "upstream_error", 200) == bench.end


async def test_a_file_that_the_server_sends_is_an_answer(bench: Bench) -> None:
    app = bench.around(sending(start(), {"type": "http.response.pathsend", "path": "/tmp/x"}))
    await _quietly(app)
    assert ("allowed", "complete", 200) == bench.end
    assert 0 == bench.record.first_byte


async def test_early_hints_are_no_answer(bench: Bench) -> None:
    app = bench.around(sending({"type": "http.response.early_hint", "links": []}, start(404), body(b"no")))
    await _quietly(app)
    assert ("allowed", "complete", 404) == bench.end


async def test_times_are_those_of_the_first_and_of_the_last_byte(bench: Bench) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        bench.clock.advance(1)
        await send(start())
        await send(body(b"", more=True))
        bench.clock.advance(2)
        await send(body(b"first", more=True))
        bench.clock.advance(4)
        await send(body(b"last"))
        bench.clock.advance(8)

    came = bench.clock.now()
    await request(bench.around(slow), "GET /x")
    assert (3_000_000, 7_000_000) == (bench.record.first_byte, bench.record.duration)
    assert int(came * 1_000_000) == bench.record.time


async def test_what_passes_is_passed_as_it_is(bench: Bench) -> None:
    messages = [start(201, headers=[(b"x", b"y")]), body(b"a", more=True), body(b"", more=True), body(b"b")]
    passed: list[Any] = []

    async def send(message: Any) -> None:
        passed.append(message)

    await bench.around(sending(*messages))(_scope(), _nothing_comes, send)
    assert messages == passed
    assert all(one is other for one, other in zip(messages, passed, strict=True))


async def test_a_denial_that_the_app_only_saw_and_answered_itself_is_none(bench: Bench) -> None:
    async def composes(scope: Any, receive: Any, send: Any) -> None:
        RequestContext.of(scope).record(Denial("missing_credential", layer="Inner"))
        await send(start())
        await send(body(b"all the same"))

    await request(bench.around(composes), "GET /x")
    assert ("allowed", "complete", 200) == bench.end
    assert ["denied"] == [decision.outcome for decision in bench.record.decisions]


async def test_a_denial_after_the_answer_has_begun_has_cut_it(bench: Bench) -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"first", more=True))
        RequestContext.of(scope).record(Denial("key_revoked", layer="KeyAuthMiddleware"))
        await send(body(b""))

    await request(bench.around(cut), "GET /x")
    assert ("allowed", "cut", 200) == bench.end
    assert ("key_revoked", "KeyAuthMiddleware") == (bench.record.reason, bench.record.layer)


async def test_what_happens_behind_the_end_changes_no_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[RequestContext] = []

    async def keeps(scope: Any, receive: Any, send: Any) -> None:
        kept.append(RequestContext.of(scope))
        await send(start())
        await send(body(b""))

    put: list[Any] = []
    monkeypatch.setattr(bench.sink, "put", put.append)
    await request(bench.around(keeps), "GET /x")
    kept[0].record(Denial("key_revoked", layer="Late"))
    notes = put[-1]
    record: Record = notes.record()
    assert ("allowed", ()) == (record.outcome, record.decisions)
    assert record is notes.record()
    assert kept[0].request_id == record.id


@pytest.mark.parametrize("wrap", [as_it_is, Stack(Middleware(AuditMiddleware, sink=KeptRecords()))], ids=["side by side", "one between"])
async def test_two_layers_with_one_sink_make_one_record(bench: Bench, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    second = KeptRecords()
    inner = AuditMiddleware(sending(start(), body()), sink=[bench.sink, second])
    await request(AuditMiddleware(wrap(inner), sink=bench.sink), "GET /x")
    assert 1 == len(bench.sink.of("request")) == len(second.of("request"))
    assert second.request == bench.record


async def test_each_request_has_a_record_of_its_own(bench: Bench) -> None:
    app = bench.around(sending(start(), body()))
    for _ in range(3):
        await request(app, "GET /x")
    assert 3 == len({record.id for record in bench.sink.of("request")})


def _scope() -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "query_string": b"", "headers": [], "client": None}


async def _nothing_comes() -> Any:
    await anyio.sleep_forever()


async def _taken(message: Any) -> None:
    pass


async def _quietly(app: ASGIApp) -> None:
    """Run an app without the rules that the test driver holds it to."""
    await app(_scope(), _nothing_comes, _taken)
