"""Ways to have an answer and not the bill: by what hides it from the meter, by when one leaves, by what looks like something else."""

import gzip
import logging
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
import msgspec
import pytest
from starlette.middleware import Middleware

from llm_authmw.asgi import ASGIApp
from llm_authmw.errors import ConfigurationError
from llm_authmw.limits.alerts import BudgetAlert
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.llm.prices import Price
from llm_authmw.stack import Stack
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import (
    FaultyLedger,
    ManualClock,
    ProtocolError,
    Response,
    WebSocketClosed,
    fake_principal,
    request,
    stream,
    websocket,
)
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
RESPONSES: Final = "POST /v1/responses"
GEMINI: Final = "POST /v1beta/models/gemini-2.5-pro:generateContent"
ADA: Final = fake_principal(user="ada")
BUCKET: Final = "user:/ada / nano_usd / day"
PRICES: Final = {"gpt-4o": Price(input=1, output=2), "dear": Price(input=100, output=200), "gemini*": Price(input=1, output=2, search=1)}
ASKED: Final[dict[str, Any]] = {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
INPUT: Final = 1000 * len(msgspec.json.encode(ASKED))
"""What the bytes of the body cost as tokens."""
JSON: Final = [(b"content-type", b"application/json")]
EVENTS: Final = [(b"content-type", b"text/event-stream")]
DELTA: Final = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"delta":{"content":"hello"}}]}\n\n'
WHOLE: Final = b'{"model":"gpt-4o","choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":10,"completion_tokens":30}}'
USAGE: Final = b'"usage":{"prompt_tokens":10,"completion_tokens":30}'
GEMINI_USAGE: Final = b'"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":30,"totalTokenCount":40}'
SEARCHING: Final[dict[str, Any]] = {**ASKED, "model": "gemini-x", "web_search_options": {}}
SEARCHING_WITH_A_TOOL: Final[dict[str, Any]] = {**ASKED, "model": "gemini-x", "tools": [{"type": "web_search"}]}
GROUNDED: Final[dict[str, Any]] = {"contents": [], "tools": [{"google_search": {}}], "generationConfig": {"maxOutputTokens": 50}}
TRUTH: Final = 10 * 1000 + 30 * 2000


class Site:
    def __init__(self, app: ASGIApp, **options: Any) -> None:
        self.books: Final = Books()
        given: dict[str, Any] = {"prices": PRICES, "limits": {"user": ["50 usd/day"]}} | options
        self.layer: Final = Stack(Middleware(BudgetMiddleware, ledger=self.books.service, **given))(app)

    async def ask(self, body: Any = ASKED, target: str = CHAT, **given: Any) -> Response:
        return await request(self.layer, target, json=body, scope=called_by(ADA), **given)

    async def leave(self, chunks: int = 0, begun: anyio.Event | None = None) -> None:
        async with stream(self.layer, CHAT, json=ASKED, scope=called_by(ADA), reraise=False) as exchange:
            for _ in range(chunks):
                await exchange.next_chunk()
            if begun is not None:
                await begun.wait()
            await exchange.disconnect()

    async def used(self) -> int:
        assert self.books.held == 0
        return (await self.books.used()).get(BUCKET, 0)

    @property
    def estimate(self) -> int:
        return self.books.estimates[0][BUCKET]


def leaving(*chunks: bytes, headers: Any = JSON, begun: anyio.Event | None = None) -> ASGIApp:
    """Return an app that sends some of an answer, and stops where its client does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if begun is not None:
            begun.set()
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await receive()

    return app


def answering(body: bytes, *, headers: Any = JSON, status: int = 200) -> ASGIApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


# Leaving with what the meter did not see.


async def test_who_has_a_whole_answer_and_leaves_before_its_end_is_said_pays_for_it() -> None:
    site = Site(leaving(WHOLE))
    await site.leave(1)
    assert TRUTH == await site.used()


async def test_who_leaves_with_half_of_an_answer_that_is_no_stream_pays_for_all_of_it() -> None:
    site = Site(leaving(WHOLE[:60]))
    await site.leave(1)
    assert site.estimate == await site.used()


async def test_an_answer_that_could_not_be_handed_over_is_charged_for_what_it_says() -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has gone")

    async def receive() -> Any:
        return {"type": "http.request", "body": msgspec.json.encode(ASKED)}

    site = Site(answering(WHOLE))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": JSON,
        "client": ("192.0.2.1", 1),
        **called_by(ADA),
    }
    with pytest.raises(OSError, match="the client has gone"):
        await site.layer(scope, receive, send)
    assert TRUTH == await site.used()


@pytest.mark.parametrize(
    "headers",
    [
        [*EVENTS, (b"content-encoding", b"br")],
        [*EVENTS, (b"content-encoding", b"zstd")],
        [*EVENTS, (b"content-encoding", b"gzip, gzip")],
        [(b"content-type", b"application/octet-stream")],
        [],
    ],
)
async def test_who_leaves_with_some_of_an_answer_that_nobody_can_read_pays_for_all_of_it(headers: Any) -> None:
    site = Site(leaving(b"some of it", headers=headers))
    await site.leave(1)
    assert site.estimate == await site.used()


async def test_plain_text_is_seen_as_it_passes() -> None:
    site = Site(leaving(b"word " * 20, headers=[(b"content-type", b"text/plain; charset=utf-8")]))
    await site.leave(1)
    assert INPUT + 25 * 2000 == await site.used()


async def test_who_leaves_before_any_of_it_came_pays_for_the_input() -> None:
    for headers in (JSON, [*EVENTS, (b"content-encoding", b"br")], []):
        begun = anyio.Event()
        site = Site(leaving(headers=headers, begun=begun))
        await site.leave(begun=begun)
        assert INPUT == await site.used()


async def test_an_app_is_not_told_that_the_client_takes_what_no_meter_reads() -> None:
    app = Recorder()
    site = Site(app)
    await site.ask(headers=[(b"accept-encoding", b"br;q=1.0, gzip;q=0.8, zstd, *;q=0.1"), (b"Accept-Encoding", b"identity")])
    assert [b"gzip;q=0.8, identity"] == [value for name, value in app.scopes[0]["headers"] if name.lower() == b"accept-encoding"]
    await site.ask(headers=[(b"accept-encoding", b"br")])
    assert [b"identity"] == [value for name, value in app.scopes[1]["headers"] if name.lower() == b"accept-encoding"]


async def test_who_takes_compressed_streams_only_is_cut_like_all_others() -> None:
    app = Recorder()
    site = Site(app, on_exhausted="cut")
    await site.ask(headers=[(b"accept-encoding", b"gzip, deflate")])
    assert [b"identity"] == [value for name, value in app.scopes[0]["headers"] if name == b"accept-encoding"]


# What looks like something else.


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-4o","input":"hello","stream":true,"backgr\\u006fund":true}',
        b'{"model":"gpt-4o","input":"hello","stream":true,"extra_body":{"background":true}}',
        b'{"model":"gpt-4o","input":"hello","stream":true,"extra_body":{"\\u0062ackground":true}}',
    ],
)
async def test_an_answer_that_is_fetched_later_is_denied_however_that_is_written(body: bytes) -> None:
    app = Recorder()
    site = Site(app)
    answer = await request(site.layer, RESPONSES, body=body, headers=JSON, scope=called_by(ADA))
    assert (403, "operation_unmetered") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_no_header_makes_a_free_request_of_one_that_costs() -> None:
    app = Recorder()
    site = Site(app)
    body = msgspec.json.encode(ASKED)
    await request(
        site.layer, "GET /v1/chat/completions", body=body, headers=[*JSON, (b"X-HTTP-Method-Override", b"POST")], scope=called_by(ADA)
    )
    await request(site.layer, "GET /", headers=[(b"x-original-url", b"/v1/chat/completions")], scope=called_by(ADA))
    assert [] == [name for scope in app.scopes for name, _ in scope["headers"] if name.lower().startswith((b"x-http", b"x-original"))]


@pytest.mark.parametrize(
    "target", ["POST /vertex_ai/anything", "PUT /v1/chat/completions", "PATCH /v1/messages", "POST /v1/generate?model=dear"]
)
async def test_a_body_that_no_header_announces_leads_around_no_budget(target: str) -> None:
    app = Recorder()
    site = Site(app)
    answer = await request(site.layer, target, scope=called_by(ADA) | {"http_version": "2"})
    assert (403, "operation_unmetered") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("body", [{"fallbacks": ["gpt-4o"]}, {"models": ["gpt-4o"]}, {"model": None, "models": ["gpt-4o"]}])
async def test_a_model_that_whoever_is_behind_chooses_has_no_price(body: dict[str, Any]) -> None:
    app = Recorder()
    site = Site(app)
    answer = await site.ask({"max_tokens": 50, "messages": [], **body})
    assert (400, "model_missing") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == app.scopes


# Fees.


@pytest.mark.parametrize(
    ("target", "body", "answer", "searches"),
    [
        (GEMINI, GROUNDED, b'"candidates":[{"groundingMetadata":{"webSearchQueries":["a","b"]}}],' + GEMINI_USAGE, 2),
        (GEMINI, GROUNDED, b'"candidates":[{}],' + GEMINI_USAGE, 0),
        (CHAT, SEARCHING, USAGE, 1),
        (CHAT, SEARCHING_WITH_A_TOOL, USAGE, 10),
    ],
)
async def test_searches_are_paid_for_also_where_an_answer_does_not_count_them(
    target: str, body: dict[str, Any], answer: bytes, searches: int
) -> None:
    site = Site(answering(b"{" + answer + b"}"))
    assert 200 == (await site.ask(body, target)).status
    assert TRUTH + searches * 10**9 == await site.used()


async def test_who_leaves_before_an_answer_has_said_how_many_searches_there_were_pays_for_those_it_may_have_run() -> None:
    begun = b'data: {"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
    site = Site(leaving(begun, headers=EVENTS), prices={"claude*": Price(input=1, output=2, search="0.01")})
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]
    body: dict[str, Any] = {"model": "claude-x", "max_tokens": 50, "stream": True, "messages": [], "tools": tools}
    async with stream(site.layer, "POST /v1/messages", json=body, scope=called_by(ADA), reraise=False) as exchange:
        await exchange.next_chunk()
        await exchange.disconnect()
    assert 3 * 10**7 <= await site.used()


async def test_a_socket_cannot_go_on_to_a_model_whose_budget_did_not_pay() -> None:
    app = Recorder()
    flat = {"realtime": Price(request="0.5")}
    site = Site(app, limits={"user": ["5 usd/day"], "model": ["1 usd/day"]}, flat=flat)
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
        await socket.send_json({"type": "session.update", "session": {"model": "GPT-4o"}})
        assert "heard" == await socket.receive()
        await socket.send_json({"type": "session.update", "session": {"model": "dear"}})
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        assert (1008, "limit_dimension_missing") == (caught.value.code, caught.value.reason)
    assert 1 == len(app.frames)
    assert {BUCKET: 5 * 10**8, "model:gpt-4o / nano_usd / day": 5 * 10**8} == await site.books.used()


async def test_an_app_that_goes_on_after_its_answer_was_cut_sends_nothing_more() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for _ in range(50):
            with suppress(OSError):
                await send({"type": "http.response.body", "body": DELTA, "more_body": True})
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b""})

    site = Site(app, on_exhausted="cut", default_output=5)
    answer = await site.ask({"model": "gpt-4o", "stream": True, "messages": []})
    assert answer.body.startswith(DELTA)
    assert 1 == answer.body.count(b"insufficient_quota")
    assert len(answer.body) < 10 * len(DELTA)


async def test_a_request_that_is_larger_than_what_is_left_does_not_keep_anybody_from_hearing_when_that_is_used() -> None:
    told: list[tuple[int, int]] = []

    async def tell(alert: BudgetAlert) -> None:
        told.append((alert.percent, alert.used * 100 // alert.limit))

    site = Site(answering(b'{"usage":{"prompt_tokens":1000000,"completion_tokens":0}}'), limits={"user": ["10 usd/day"]}, on_alert=tell)
    assert 200 == (await site.ask()).status
    assert 429 == (await site.ask(ASKED | {"max_tokens": 4_800_000})).status
    while 200 == (await site.ask()).status:
        pass
    while len(told) < 2:
        await anyio.lowlevel.checkpoint()
    assert [(100, 10), (100, 100)] == told


# Providers that lie or break.


async def test_counts_that_came_before_the_answer_are_not_those_of_the_answer() -> None:
    early = b'data: {"choices":[],"model":"gpt-4o","usage":{"prompt_tokens":10,"completion_tokens":0,"total_tokens":10}}\n\n'
    site = Site(answering(early + DELTA * 40 + b"data: [DONE]\n\n", headers=EVENTS))
    assert 200 == (await site.ask(ASKED | {"stream": True})).status
    assert site.estimate == await site.used()


async def test_an_answer_that_begins_twice_is_charged_for_the_first_beginning() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": DELTA * 20, "more_body": True})
        await send({"type": "http.response.start", "status": 404, "headers": JSON})

    site = Site(app)
    # The double that stands in for a server does not take it either.
    with pytest.raises(ProtocolError):
        await site.ask(ASKED | {"stream": True})
    assert INPUT + 20 * 2000 <= await site.used()


# Operators who would not be told.


async def test_a_flat_price_holds_for_what_would_cost_nothing() -> None:
    site = Site(Recorder(), flat={"mcp": Price(request="0.5")})
    assert 200 == (await site.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}, "POST /mcp")).status
    assert 5 * 10**8 == await site.used()


def test_a_flat_price_for_what_never_costs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="models"):
        Site(Recorder(), flat={"models": Price(request="0.5")})


def test_two_budgets_on_one_bucket_are_refused() -> None:
    books = Books()
    inner = BudgetMiddleware(Recorder(), ledger=books.service, prices=PRICES, limits={"team": ["10 usd/month"]})
    with pytest.raises(ConfigurationError, match="team"):
        BudgetMiddleware(inner, ledger=books.service, prices=PRICES, limits={"team": ["100 usd/month"]})


# Executions.


async def test_each_execution_is_charged_where_something_further_out_asks_twice() -> None:
    site = Site(answering(WHOLE))

    async def again(scope: Any, receive: Any, send: Any) -> None:
        async def quiet(message: Any) -> None:
            pass

        body = msgspec.json.encode(ASKED)

        async def replay() -> Any:
            return {"type": "http.request", "body": body}

        await site.layer(scope, replay, quiet)
        await site.layer(scope, replay, send)

    assert 200 == (await request(again, CHAT, json=ASKED, scope=called_by(ADA))).status
    assert 2 * TRUTH == await site.used()


async def test_an_answer_that_was_cut_does_not_cut_the_next_one() -> None:
    bodies: list[bytes] = []
    lengths = [50, 2]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for _ in range(lengths.pop(0)):
            await send({"type": "http.response.body", "body": DELTA, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    site = Site(app, on_exhausted="cut", default_output=5)

    async def again(scope: Any, receive: Any, send: Any) -> None:
        body = msgspec.json.encode({"model": "gpt-4o", "stream": True, "messages": []})

        async def replay() -> Any:
            return {"type": "http.request", "body": body}

        async def keep(message: Any) -> None:
            bodies.append(message.get("body", b""))

        await site.layer(scope, replay, keep)
        bodies.clear()
        await site.layer(scope, replay, keep)
        await answering(b"".join(bodies))(scope, receive, send)

    assert DELTA * 2 == (await request(again, CHAT, json=ASKED, scope=called_by(ADA))).body
    assert 0 == site.books.held


async def test_each_execution_is_charged_where_something_further_out_asks_twice_at_once() -> None:
    both = anyio.Event()
    running: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.append(1)
        if len(running) == 2:
            both.set()
        await both.wait()
        await answering(WHOLE)(scope, receive, send)

    site = Site(app)

    async def hedging(scope: Any, receive: Any, send: Any) -> None:
        body = msgspec.json.encode(ASKED)

        async def replay() -> Any:
            return {"type": "http.request", "body": body}

        async def quiet(message: Any) -> None:
            pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.layer, {**scope}, replay, quiet)
            tasks.start_soon(site.layer, {**scope}, replay, quiet)
        await answering(WHOLE)(scope, receive, send)

    assert 200 == (await request(hedging, CHAT, json=ASKED, scope=called_by(ADA))).status
    assert 2 * TRUTH == await site.used()


async def test_an_execution_that_is_refused_gives_back_nothing_of_another_one() -> None:
    second = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await second.wait()
        await answering(WHOLE)(scope, receive, send)

    site = Site(app, limits={"user": ["0.0002 usd/day"]})
    statuses: list[int] = []

    async def hedging(scope: Any, receive: Any, send: Any) -> None:
        body = msgspec.json.encode(ASKED)

        async def ask() -> None:
            async def replay() -> Any:
                return {"type": "http.request", "body": body}

            async def noting(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    second.set()

            await site.layer({**scope}, replay, noting)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        await answering(WHOLE)(scope, receive, send)

    assert 200 == (await request(hedging, CHAT, json=ASKED, scope=called_by(ADA))).status
    assert [429, 200] == statuses
    assert TRUTH == await site.used()


async def test_a_compressed_answer_is_read() -> None:
    site = Site(answering(gzip.compress(WHOLE), headers=[*JSON, (b"content-encoding", b"gzip")]))
    assert 200 == (await site.ask()).status
    assert TRUTH == await site.used()


# Those who fill the log, or the memory, with others.


@pytest.mark.parametrize("layer", [BudgetMiddleware, RateLimitMiddleware])
async def test_a_ledger_that_is_away_is_told_of_once_and_not_by_each_request(layer: Any, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    ledger = FaultyLedger(partial(MemoryLedger, clock=clock))
    books = Books(ledger, clock=clock)
    options: dict[str, Any] = {"limits": {"user": ["50 requests/day"]}}
    if layer is BudgetMiddleware:
        options = {"limits": {"user": ["5 usd/day"]}, "prices": PRICES}
    app = layer(Recorder(), ledger=books.service, **options)
    ledger.fail("down")
    assert [503] * 30 == [(await request(app, CHAT, json=ASKED, scope=called_by(ADA))).status for _ in range(30)]
    ledger.heal()
    clock.advance(10)
    assert 200 == (await request(app, CHAT, json=ASKED, scope=called_by(ADA))).status
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["the ledger has failed several times in a row", "the ledger answers again"] == [text[:45].rstrip(",") for text in said]
    await books.service.aclose()


async def test_nobody_has_a_thousand_models_priced_for_one_request() -> None:
    app = Recorder()
    site = Site(app, prices={"gpt-*": Price(input=1, output=2)})
    answer = await site.ask(ASKED | {"fallbacks": [f"gpt-{number}" for number in range(64)]})
    assert (400, "limits_too_many") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == app.scopes
    assert 200 == (await site.ask(ASKED | {"fallbacks": [f"gpt-{number}" for number in range(63)]})).status


async def test_whoever_names_many_models_has_none_of_them_remembered() -> None:
    books = Books()
    limits = {"model_group:all": ["1000 requests/minute, burst 1000"]}
    layer = RateLimitMiddleware(Recorder(), ledger=books.service, limits=limits, model_groups={"all": ["*"]})
    for number in range(100):
        body = {"model": "gpt-4o", "fallbacks": [f"m{number}-{place}-{'x' * 400}" for place in range(50)]}
        assert 200 == (await request(layer, CHAT, json=body, scope=called_by(ADA))).status
    holder = layer.plan.holder(ADA, None, ())
    assert {} == holder._remembered
