"""Budgets and streams: clients that leave, streams that go on too long, and what is written into requests and answers."""

from collections.abc import Callable
from typing import Any, Final

import anyio
import httpx
import httpx2
import msgspec
import pytest
from anthropic import AsyncAnthropic
from openai import APIError, AsyncOpenAI

from llm_authmw.asgi import ASGIApp
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.lens import RequestLens
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.llm.prices import Price
from llm_authmw.testing import Response, fake_principal, request, stream
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.provider import MockProvider
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
MESSAGES: Final = "POST /v1/messages"
ADA: Final = fake_principal(user="ada")
BUCKET: Final = "user:/ada / nano_usd / day"
PRICES: Final = {"gpt-4o": Price(input=1, output=2), "claude*": Price(input=1, output=2)}
ASKED: Final[dict[str, Any]] = {
    "model": "gpt-4o",
    "stream": True,
    "max_tokens": 500,
    "messages": [{"role": "user", "content": "one two three"}],
}
EVENTS: Final = [(b"content-type", b"text/event-stream")]


def delta(word: str = "word") -> bytes:
    return b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"delta":{"content":"%b"}}]}\n\n' % (
        word.encode()
    )


LAST: Final = b'data: {"id":"1","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}\n\n'
DONE: Final = b"data: [DONE]\n\n"


class Site:
    """An app behind a budget of five dollars a day."""

    def __init__(self, app: ASGIApp, *, limit: str = "5 usd/day", **options: Any) -> None:
        self.books: Final = Books()
        given: dict[str, Any] = {"prices": PRICES, "limits": {"user": [limit]}} | options
        self.app: Final = app
        self.layer: Final = BudgetMiddleware(app, ledger=self.books.service, **given)
        self.context = RequestContext()

    async def ask(self, body: Any = ASKED, target: str = CHAT, **given: Any) -> Response:
        return await request(self.layer, target, json=body, scope=self.scope(), **given)

    def stream(self, body: Any = ASKED, target: str = CHAT, **given: Any) -> Any:
        return stream(self.layer, target, json=body, scope=self.scope(), **given)

    def scope(self) -> dict[str, Any]:
        scope = called_by(ADA)
        self.context = scope[CONTEXT_KEY]
        return scope

    @property
    def estimate(self) -> int:
        return self.books.estimates[0][BUCKET]

    async def used(self) -> int:
        assert self.books.held == 0
        return (await self.books.used())[BUCKET]


def streaming(*chunks: bytes, headers: Any = EVENTS, after: dict[int, anyio.Event] | None = None) -> ASGIApp:
    """Return an app that streams; it waits for an event before some of its chunks, and ends when it hears that the client has gone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for place, chunk in enumerate(chunks):
                if after is not None and place in after:
                    await after[place].wait()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            tasks.cancel_scope.cancel()

    return app


# Clients that leave.


@pytest.mark.parametrize("client_gone", ["bill_seen", "bill_estimate", "drain"])
async def test_a_client_that_leaves_pays_as_the_policy_says(client_gone: str) -> None:
    left = anyio.Event()
    site = Site(streaming(delta(), delta(), LAST, DONE, after={1: left}), client_gone=client_gone)
    async with site.stream() as exchange:
        assert delta() == await exchange.next_chunk()
        await exchange.disconnect()
        await anyio.wait_all_tasks_blocked()
        left.set()
    used = await site.used()
    if client_gone == "drain":
        assert 3 * 1000 + 9 * 2000 == used
    elif client_gone == "bill_estimate":
        assert site.estimate == used
    else:
        assert 1000 * len(msgspec.json.encode(ASKED)) < used < site.estimate
    assert site.context.charge is not None
    assert used == site.context.charge.amount


async def test_an_app_that_does_not_listen_runs_to_its_end_and_the_truth_is_charged() -> None:
    site = Site(MockProvider())
    body = ASKED | {"stream_options": {"include_usage": True}}
    async with site.stream(body) as exchange:
        await exchange.next_chunk()
    assert 3 * 1000 + 6 * 2000 == await site.used()


async def test_a_client_that_leaves_before_its_request_is_whole_pays_nothing() -> None:
    app = Recorder()
    site = Site(app)
    async with stream(site.layer, CHAT, body=b'{"model":', more_body=True, scope=site.scope(), headers=[JSON]) as exchange:
        await exchange.disconnect()
    assert [] == site.books.estimates
    assert [] == app.scopes


JSON: Final = (b"content-type", b"application/json")


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_error_of_the_provider_costs_nothing(status: int) -> None:
    site = Site(MockProvider())
    answer = await site.ask(headers=[(b"x-mock-fault", b"status=%d" % status)])
    assert status == answer.status
    assert 0 == await site.used()
    assert site.context.charge is not None
    assert 0 == site.context.charge.amount


async def test_a_stream_that_is_dropped_costs_what_was_seen() -> None:
    site = Site(MockProvider())
    await site.ask(headers=[(b"x-mock-fault", b"drop-after=2")], reraise=False)
    assert 0 < await site.used() < site.estimate


async def test_an_answer_without_usage_costs_the_estimate() -> None:
    site = Site(MockProvider())
    await site.ask(ASKED | {"stream": False}, headers=[(b"x-mock-fault", b"no-usage")])
    assert site.estimate == await site.used()


async def test_each_execution_is_charged_whatever_key_the_client_sends() -> None:
    site = Site(MockProvider())
    for _ in range(2):
        await site.ask(ASKED | {"stream": False}, headers=[(b"idempotency-key", b"one-and-the-same")])
    assert 2 * (3 * 1000 + 6 * 2000) == await site.used()


# Streams that go on for too long.

GUESSED: Final = {name: value for name, value in ASKED.items() if name != "max_tokens"}


def long(count: int) -> ASGIApp:
    return streaming(*[delta() for _ in range(count)], LAST.replace(b'"completion_tokens":9', b'"completion_tokens":%d' % count), DONE)


async def test_a_stream_may_finish_and_its_debt_is_booked() -> None:
    site = Site(long(60), default_output=5)
    answer = await site.ask(GUESSED)
    assert answer.body.endswith(DONE)
    assert 3 * 1000 + 60 * 2000 == await site.used()


async def test_a_stream_is_cut_with_an_event_that_the_sdk_understands() -> None:
    site = Site(long(60), default_output=5, on_exhausted="cut")
    answer = await site.ask(GUESSED)
    assert 200 == answer.status
    *events, error, rest = answer.body.split(b"\n\n")
    assert b"" == rest
    assert "insufficient_quota" == msgspec.json.decode(error.removeprefix(b"data: "))["error"]["code"]
    assert 5 <= len(events) <= 7
    assert {delta().rstrip()} == set(events)
    assert [("allowed", None), ("denied", "insufficient_quota")] == [(one.outcome, one.reason) for one in site.context.decisions]
    assert 1000 * len(msgspec.json.encode(GUESSED)) + 6 * 2000 <= await site.used() <= site.estimate + 2 * 2000


@pytest.mark.parametrize("size", [1, 7, len(delta()) - 1, len(delta()) + 1, 3 * len(delta()) + 40])
@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
async def test_a_stream_is_cut_between_two_events_wherever_it_is_split(size: int, line: bytes) -> None:
    text = (delta() * 60).replace(b"\n", line)
    site = Site(streaming(*[text[at : at + size] for at in range(0, len(text), size)]), default_output=5, on_exhausted="cut")
    answer = await site.ask(GUESSED)
    whole, rest = divmod(len(answer.body.partition(b'data: {"error"')[0]), len(delta().replace(b"\n", line)))
    assert (True, 0) == (4 < whole < 12, rest)
    assert b"insufficient_quota" in answer.body
    assert answer.body.endswith(b"\n\n")


async def test_a_stream_without_an_end_of_an_event_is_not_cut() -> None:
    chunks = [delta() * 9 + b"d", *[b"ata"] * 9]
    site = Site(streaming(*chunks), default_output=5, on_exhausted="cut")
    answer = await site.ask(GUESSED)
    assert b"".join(chunks) == answer.body
    assert b"insufficient_quota" not in answer.body


async def test_a_length_that_was_promised_is_not_promised_where_more_is_said() -> None:
    app = streaming(delta(), headers=[*EVENTS, (b"Content-Length", b"%d" % len(delta()))])
    site = Site(app, final_event=True)
    answer = await site.ask()
    assert answer.header("content-length") is None
    assert b": llm-authmw" in answer.body


async def test_a_stream_in_halves_is_cut_between_two_events() -> None:
    halves = [half for _ in range(60) for half in (delta()[:40], delta()[40:])]
    site = Site(streaming(*halves), default_output=5, on_exhausted="cut")
    answer = await site.ask(GUESSED)
    *events, error, rest = answer.body.split(b"\n\n")
    assert b"" == rest
    assert {delta().rstrip()} == set(events)
    assert b"insufficient_quota" in error


async def test_what_is_no_stream_of_plain_events_is_not_cut() -> None:
    for headers in (
        [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")],
        [(b"content-type", b"application/x-ndjson")],
    ):
        site = Site(streaming(*[delta()] * 60, headers=headers), default_output=5, on_exhausted="cut", final_event=True)
        answer = await site.ask(GUESSED)
        assert delta() * 60 == answer.body
        assert headers == answer.headers


async def test_a_stream_that_is_extended_goes_on_while_the_budget_pays() -> None:
    site = Site(long(60), default_output=5, on_exhausted="extend")
    answer = await site.ask(GUESSED)
    assert answer.body.endswith(DONE)
    assert 3 * 1000 + 60 * 2000 == await site.used()
    assert len(site.books.estimates) > 2
    assert [0] * (len(site.books.estimates) - 1) + [123_000] == [truth["nano_usd"] for truth in site.books.truths]


async def test_a_stream_whose_extension_is_refused_is_cut() -> None:
    probe = Site(long(1), default_output=5)
    await probe.ask(GUESSED)
    site = Site(long(60), default_output=5, on_exhausted="extend", limit=f"{(probe.estimate + 21_000) / 1e9:.9f} usd/day")
    answer = await site.ask(GUESSED)
    assert b"insufficient_quota" in answer.body
    assert DONE not in answer.body
    assert await site.used() <= probe.estimate + 40_000


async def test_an_extended_stream_without_usage_keeps_all_of_its_estimate() -> None:
    site = Site(streaming(*[delta()] * 8, DONE), default_output=5, on_exhausted="extend")
    await site.ask(GUESSED)
    assert 2 == len(site.books.estimates)
    assert sum(amounts[BUCKET] for amounts in site.books.estimates) == await site.used()


async def test_a_ceiling_of_the_requests_own_is_not_cut_short_by_an_estimate() -> None:
    site = Site(long(60), on_exhausted="cut")
    answer = await site.ask(ASKED | {"max_tokens": 60})
    assert answer.body.endswith(DONE)


# Last words.


async def test_a_stream_ends_with_what_it_cost() -> None:
    site = Site(streaming(delta(), LAST, DONE), final_event=True)
    answer = await site.ask()
    said = answer.body.removeprefix(delta() + LAST + DONE)
    assert said.startswith(b": llm-authmw ")
    assert said.endswith(b"\n\n")
    assert {"charged_nano_usd": 21_000, "left_nano_usd": 5_000_000_000 - 21_000} == msgspec.json.decode(said.removeprefix(b": llm-authmw "))


async def test_a_stream_that_ends_in_half_an_event_has_its_last_words_apart() -> None:
    site = Site(streaming(delta(), b"data: [DONE]"), final_event=True)
    answer = await site.ask()
    assert answer.body.startswith(delta() + b"data: [DONE]\n\n: llm-authmw {")


async def test_an_answer_that_is_no_stream_has_no_last_words() -> None:
    site = Site(MockProvider(), final_event=True)
    plain = Site(MockProvider())
    body = ASKED | {"stream": False}
    assert (await plain.ask(body)).body == (await site.ask(body)).body


def client(package: Any, layer: ASGIApp, context: Callable[[], dict[str, Any]]) -> Any:
    """Return a client of the HTTP package that an SDK is made for, without a network."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await layer({**scope, **context()}, receive, send)

    return package.AsyncClient(transport=package.ASGITransport(app), base_url="http://app")


@pytest.mark.parametrize("options", [{"final_event": True}, {"final_event": True, "ask_for_usage": True}, {}])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_sdk_of_openai_reads_such_a_stream(options: dict[str, Any], anyio_backend: str) -> None:
    site = Site(MockProvider(), **options)
    async with AsyncOpenAI(api_key="x", base_url="http://app/v1", http_client=client(httpx, site.layer, site.scope)) as sdk:
        chunks = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model="gpt-4o", max_tokens=500, stream=True, messages=[{"role": "user", "content": "one two three"}]
            )
        ]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "Hello from gpt-4o: one two three" == text
        assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_sdk_of_anthropic_reads_such_a_stream(anyio_backend: str) -> None:
    site = Site(MockProvider(), final_event=True)
    async with (
        AsyncAnthropic(api_key="x", base_url="http://app", http_client=client(httpx2, site.layer, site.scope)) as sdk,
        sdk.messages.stream(model="claude-house", max_tokens=500, messages=[{"role": "user", "content": "one two"}]) as events,
    ):
        assert "Hello from claude-house: one two" == await events.get_final_text()
    assert 0 < await site.used() < site.estimate


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_sdk_of_openai_raises_where_a_stream_is_cut(anyio_backend: str) -> None:
    site = Site(long(60), default_output=5, on_exhausted="cut")
    async with AsyncOpenAI(api_key="x", base_url="http://app/v1", http_client=client(httpx, site.layer, site.scope)) as sdk:
        answer = await sdk.chat.completions.create(model="gpt-4o", stream=True, messages=[{"role": "user", "content": "one"}])
        with pytest.raises(APIError, match="A budget is used up"):
            async for _ in answer:
                pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_sdks_do_not_hammer_a_budget_that_is_used_up(anyio_backend: str) -> None:
    asked: list[str] = []
    site = Site(MockProvider(), limit="1 usd/day")

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await site.layer(scope, receive, send)

    full: dict[str, Any] = {"max_tokens": 4000, "messages": [{"role": "user", "content": "one"}]}
    async with AsyncOpenAI(api_key="x", base_url="http://app/v1", http_client=client(httpx, counting, site.scope)) as sdk:
        hold = await site.books.service.money.reserve(await claims(site))
        with pytest.raises(Exception, match="A budget is used up"):
            await sdk.chat.completions.create(model="gpt-4o", **full)
        assert 1 == len(asked)
    async with AsyncAnthropic(api_key="x", base_url="http://app", http_client=client(httpx2, counting, site.scope)) as other:
        with pytest.raises(Exception, match="A budget is used up"):
            await other.messages.create(model="claude-house", **full)
        assert 2 == len(asked)
        assert hold is not None


async def claims(site: Site) -> Any:
    """Take nearly all of the budget."""
    from llm_authmw.ledger.buckets import Claim  # noqa: PLC0415 - used here only
    from llm_authmw.limits.plan import Asked, Plan  # noqa: PLC0415 - likewise
    from llm_authmw.quota import Budget  # noqa: PLC0415 - likewise

    plan = Plan(quota=Budget, limits={"user": ["1 usd/day"]}, clock=site.books.clock)
    (counted,) = plan.counted(Asked(ADA, None, None, "POST", "/v1/chat/completions"), ())
    return [Claim(counted.bucket, 999_990_000)]


# What is written into requests.


async def test_usage_is_asked_for_and_taken_out_again() -> None:
    provider = MockProvider()
    site = Site(provider, ask_for_usage=True)
    answer = await site.ask(headers=[(b"x-other", b"kept")])
    plain = await request(MockProvider(), CHAT, json=ASKED)
    assert b'"include_usage":true' in provider.seen[0].body
    assert [b"%d" % len(provider.seen[0].body)] == provider.seen[0].header_lines("content-length")
    assert [b"kept"] == provider.seen[0].header_lines("x-other")
    assert b'"usage":{' not in answer.body
    assert [event.partition(b"choices")[2] for event in plain.body.split(b"\n\n")] == [
        event.partition(b"choices")[2] for event in answer.body.split(b"\n\n")
    ]
    assert 3 * 1000 + 6 * 2000 == await site.used()


async def test_a_large_body_is_looked_through_and_written_to_beside_the_loop() -> None:
    provider = MockProvider()
    site = Site(provider, ask_for_usage=True)
    body = ASKED | {"messages": [{"role": "user", "content": "word " * 100_000}]}
    assert 200 == (await site.ask(body)).status
    assert b'"include_usage":true' in provider.seen[0].body
    assert site.estimate > 500_000 * 1000
    assert 100_000 * 1000 < await site.used() < site.estimate


async def test_usage_that_the_caller_asked_for_stays() -> None:
    provider = MockProvider()
    body = ASKED | {"stream_options": {"include_usage": True}}
    site = Site(provider, ask_for_usage=True)
    answer = await site.ask(body)
    assert msgspec.json.encode(body) == provider.seen[0].body
    assert b'"usage":{' in answer.body


@pytest.mark.parametrize("seal", [b"content-digest", b"Signature", b"x-amz-content-sha256"])
async def test_a_body_that_is_sealed_goes_on_as_it_is(seal: bytes) -> None:
    provider = MockProvider()
    site = Site(provider, ask_for_usage=True, clamp_output=True)
    await site.ask(GUESSED, headers=[(seal, b"abc")])
    assert msgspec.json.encode(GUESSED) == provider.seen[0].body


async def test_a_compressed_body_that_is_written_to_goes_on_as_it_reads() -> None:
    import gzip  # noqa: PLC0415 - used here only

    provider = MockProvider()
    site = Site(provider, ask_for_usage=True, lens=RequestLens(decode=["gzip"]))
    body = gzip.compress(msgspec.json.encode(ASKED))
    headers = [JSON, (b"Content-Encoding", b"gzip"), (b"Content-Length", b"%d" % len(body))]
    answer = await request(site.layer, CHAT, body=[body[:20], body[20:]], headers=headers, scope=site.scope())
    assert 200 == answer.status
    assert [] == provider.seen[0].header_lines("content-encoding")
    assert b'"include_usage":true' in provider.seen[0].body


async def test_the_ceiling_is_written_into_the_request() -> None:
    provider = MockProvider()
    site = Site(provider, clamp_output=True, default_output=2)
    answer = await site.ask(GUESSED | {"stream": False})
    assert b'"max_completion_tokens":2' in provider.seen[0].body
    assert 2 == msgspec.json.decode(answer.body)["usage"]["completion_tokens"]
    assert site.context.call is not None
    assert 2 == site.context.call.max_output_tokens


async def test_the_ceiling_is_lowered_to_what_is_left() -> None:
    provider = MockProvider()
    body = ASKED | {"stream": False, "max_tokens": 4000}
    probe = Site(MockProvider())
    await probe.ask(body | {"max_tokens": 1000})
    site = Site(provider, clamp_output=True, limit=f"{probe.estimate / 1e9:.9f} usd/day")
    assert 200 == (await site.ask(body)).status
    assert site.estimate <= probe.estimate
    assert 900 < msgspec.json.decode(provider.seen[0].body)["max_tokens"] <= 1000


async def test_what_cannot_be_paid_for_at_all_is_not_lowered_to_nothing() -> None:
    app = Recorder()
    site = Site(app, clamp_output=True, limit="0.000001 usd/day")
    answer = await site.ask(ASKED)
    assert (400, "request_exceeds_budget") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_what_is_not_written_to_is_not_changed() -> None:
    app = Recorder()
    site = Site(app, clamp_output=True, ask_for_usage=True)
    body = b'{"model" : "gpt-4o",  "max_tokens": 5, "messages":[]}'
    async with stream(site.layer, CHAT, body=[body[:9], body[9:]], headers=[JSON], scope=site.scope()) as exchange:
        async for _ in exchange:
            pass
    assert [body] == app.bodies
