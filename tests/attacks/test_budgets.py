"""Ways to spend more than a budget has, to have others pay, or to leave without paying (attacks.md §7, accounting.md §2)."""

from typing import Any, Final

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_authmw.asgi import ASGIApp
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.llm.prices import Price
from llm_authmw.quota import MAX_AMOUNT
from llm_authmw.testing import Response, fake_principal, request, stream
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
ADA: Final = fake_principal(user="ada")
BUCKET: Final = "user:/ada / nano_usd / day"
PRICES: Final = {"gpt-4o": Price(input=1, output=2), "claude*": Price(input=1, output=2)}
ASKED: Final[dict[str, Any]] = {"model": "gpt-4o", "stream": True, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
INPUT: Final = 1000 * len(msgspec.json.encode(ASKED))
"""What the bytes of the body cost as tokens."""
JSON: Final = [(b"content-type", b"application/json")]
EVENTS: Final = [(b"content-type", b"text/event-stream")]
DELTA: Final = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"delta":{"content":"hello"}}]}\n\n'


class Site:
    def __init__(self, app: ASGIApp, *, limit: str = "5 usd/day", **options: Any) -> None:
        self.books: Final = Books()
        given: dict[str, Any] = {"prices": PRICES, "limits": {"user": [limit]}} | options
        self.layer: Final = BudgetMiddleware(app, ledger=self.books.service, **given)
        self.context = RequestContext()

    def scope(self) -> dict[str, Any]:
        scope = called_by(ADA)
        self.context = scope[CONTEXT_KEY]
        return scope

    async def ask(self, body: Any = ASKED, target: str = CHAT, **given: Any) -> Response:
        return await request(self.layer, target, json=body, scope=self.scope(), **given)

    async def used(self) -> int:
        assert self.books.held == 0
        return (await self.books.used())[BUCKET]


def answering(body: bytes, *, headers: Any = JSON, status: int = 200) -> ASGIApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


# A provider that lies.


@pytest.mark.parametrize(
    "usage",
    [
        b"null",
        b"{}",
        b'"a lot"',
        b"[1,2]",
        b'{"prompt_tokens":-5,"completion_tokens":3}',
        b'{"prompt_tokens":NaN,"completion_tokens":3}',
        b'{"prompt_tokens":1e400,"completion_tokens":3}',
        b'{"prompt_tokens":1.5,"completion_tokens":3}',
        b'{"prompt_tokens":true,"completion_tokens":3}',
        b'{"prompt_tokens":99999999999999999999999,"completion_tokens":3}',
        b'{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}',
        b'{"prompt_tokens":9007199254740992,"completion_tokens":9007199254740992}',
        b'{"completion_tokens":3}',
    ],
)
async def test_counts_that_are_none_leave_the_estimate(usage: bytes) -> None:
    site = Site(answering(b'{"model":"gpt-4o","usage":%b}' % usage))
    assert 200 == (await site.ask()).status
    ((estimate,),) = [amounts.values() for amounts in site.books.estimates]
    assert estimate == await site.used()


async def test_a_huge_count_is_debt_and_breaks_nothing() -> None:
    huge = MAX_AMOUNT // 3000
    site = Site(answering(b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (huge, huge)))
    assert 200 == (await site.ask()).status
    assert huge * 3000 == await site.used()
    assert 429 == (await site.ask()).status
    other = Books()
    layer = BudgetMiddleware(Recorder(), ledger=other.service, prices=PRICES, limits={"user": ["5 usd/day"]})
    assert 200 == (await request(layer, CHAT, json=ASKED, scope=called_by(ADA))).status


async def test_debt_that_cannot_be_counted_leaves_the_estimate() -> None:
    huge = MAX_AMOUNT // 3000
    site = Site(answering(b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (huge, huge)), limit="9000000 usd/day")
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(site.ask)
    assert await site.used() <= MAX_AMOUNT
    assert 0 < site.books.estimates[0][BUCKET]


@pytest.mark.parametrize(
    "usage",
    [
        b'{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1000}}',
        b'{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":1000}}',
        b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":1}',
    ],
)
async def test_counts_that_contradict_each_other_are_charged_at_their_highest(usage: bytes) -> None:
    site = Site(answering(b'{"usage":%b}' % usage))
    assert 200 == (await site.ask()).status
    assert 10 * 1000 + 5 * 2000 <= await site.used()


async def test_an_error_status_does_not_hide_what_was_used() -> None:
    site = Site(answering(b'{"error":{"message":"x"},"usage":{"prompt_tokens":10,"completion_tokens":5}}', status=400))
    assert 400 == (await site.ask()).status
    assert 10 * 1000 + 5 * 2000 == await site.used()


async def test_a_text_that_looks_like_usage_is_text() -> None:
    said = msgspec.json.encode({"choices": [{"delta": {"content": '"usage":{"prompt_tokens":0,"completion_tokens":0}'}}]})
    site = Site(answering(b"data: " + said + b"\n\n" + DELTA * 5, headers=EVENTS))
    assert 200 == (await site.ask()).status
    ((estimate,),) = [amounts.values() for amounts in site.books.estimates]
    assert estimate == await site.used()


# A client that cheats.


@pytest.mark.parametrize("chunks", [1, 5, 20])
async def test_leaving_early_is_not_free(chunks: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                await receive()
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            while True:
                await send({"type": "http.response.body", "body": DELTA, "more_body": True})

    site = Site(app)
    async with stream(site.layer, CHAT, json=ASKED, scope=site.scope()) as exchange:
        for _ in range(chunks):
            await exchange.next_chunk()
        await exchange.disconnect()
    ((estimate,),) = [amounts.values() for amounts in site.books.estimates]
    assert INPUT + chunks * 2000 <= await site.used() <= estimate


async def test_leaving_before_the_first_byte_costs_the_input() -> None:
    begun = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        await receive()

    site = Site(app)
    async with stream(site.layer, CHAT, json=ASKED, scope=site.scope()) as exchange:
        await begun.wait()
        await exchange.disconnect()
    assert INPUT <= await site.used()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 10, "max_completion_tokens": 400},
        {"n": 8},
        {"max_tokens": None},
        {"max_gen_len": 1, "max_tokens": None},
    ],
)
async def test_no_spelling_makes_the_estimate_smaller_than_what_is_asked_for(changes: dict[str, Any]) -> None:
    site, plain = Site(Recorder(), default_output=400), Site(Recorder(), default_output=400)
    body = {name: value for name, value in (ASKED | changes).items() if value is not None}
    assert [200, 200] == [(await site.ask(body)).status, (await plain.ask()).status]
    assert site.books.estimates[0][BUCKET] > plain.books.estimates[0][BUCKET] + 300 * 2000


@pytest.mark.parametrize("ceiling", [0, -1, 1e300, "10", True, [10], 2**63])
async def test_no_ceiling_makes_the_estimate_negative(ceiling: Any) -> None:
    app = Recorder()
    site = Site(app)
    assert 400 == (await site.ask(ASKED | {"max_tokens": ceiling})).status
    assert [] == app.scopes
    assert [] == site.books.estimates


@pytest.mark.parametrize(
    "target",
    [
        "POST /openai/v1/chat/completions",
        "POST /v1/chat/completions/",
        "POST /engines/gpt-4o/chat/completions",
        "POST /v1/messages",
        "POST /v2/embed",
        "POST /invocations",
        "POST /vertex_ai/anything",
        "PUT /v1/chat/completions",
    ],
)
async def test_no_route_leads_around_the_budget(target: str) -> None:
    app = Recorder()
    site = Site(app, limit="0.000001 usd/day")
    assert 400 <= (await site.ask(target=target)).status < 500
    assert [] == app.scopes


async def test_a_burst_is_let_in_up_to_the_limit_and_no_further() -> None:
    done = anyio.Event()
    let_in: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        let_in.append(1)
        await done.wait()
        await answering(b'{"usage":{"prompt_tokens":10,"completion_tokens":50}}')(scope, receive, send)

    probe = Site(answering(b"{}"))
    await probe.ask()
    estimate = probe.books.estimates[0][BUCKET]
    site = Site(app, limit=f"{10 * estimate / 1e9:.9f} usd/day")
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await site.ask()).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        while len(statuses) + len(let_in) < 50:
            await anyio.lowlevel.checkpoint()
        done.set()
    assert (10, 40) == (statuses.count(200), statuses.count(429))
    assert 10 * 110_000 == await site.used()


# Whatever happens, the books are right.

ENDS: Final = ["clean", "usage", "raise", "disconnect", "leave", "error event", "nothing"]
USAGE: Final = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9}}\n\n'


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plans=st.lists(st.tuples(st.sampled_from(ENDS), st.integers(0, 6), st.integers(1, 60)), min_size=1, max_size=8),
    policy=st.sampled_from(["bill_seen", "bill_estimate", "drain"]),
    on_exhausted=st.sampled_from(["finish", "cut", "extend"]),
    guessed=st.booleans(),
)
async def test_the_charges_and_the_ledger_agree_and_nothing_is_left_behind(
    plans: list[tuple[str, int, int]], policy: str, on_exhausted: str, guessed: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        place: int = scope["plan"]
        end, count, size = plans[place]
        await receive()
        if end == "nothing":
            raise ValueError("the app broke before it began")
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        text = DELTA * count
        for at in range(0, len(text), size * 10):
            await send({"type": "http.response.body", "body": text[at : at + size * 10], "more_body": True})
        if end == "raise":
            raise ValueError("the app broke")
        # Who is to be drained does not hear of it.
        if end in {"disconnect", "leave"} and policy != "drain":
            await receive()
            return
        last = {"usage": USAGE, "error event": b'data: {"error":{"message":"x"}}\n\n'}.get(end, b"")
        await send({"type": "http.response.body", "body": last})

    site = Site(app, client_gone=policy, on_exhausted=on_exhausted, default_output=3)
    contexts: list[RequestContext] = []
    body = {name: value for name, value in ASKED.items() if name != "max_tokens" or not guessed}

    async def ask(place: int) -> None:
        scope = called_by(ADA)
        scope["plan"] = place
        contexts.append(scope[CONTEXT_KEY])
        end = plans[place][0]
        async with stream(site.layer, CHAT, json=body, scope=scope, reraise=False) as exchange:
            if end == "leave" and plans[place][1]:
                await exchange.next_chunk()
                await exchange.disconnect()
            elif end in {"leave", "disconnect"}:
                await exchange.disconnect()
            else:
                async for _ in exchange:
                    pass

    async with anyio.create_task_group() as tasks:
        for place in range(len(plans)):
            tasks.start_soon(ask, place)
    assert 0 == site.books.held
    charges = [context.charge.amount for context in contexts if context.charge is not None]
    # Who leaves at once is not let in at all.
    assert sum(end not in {"disconnect", "leave"} for end, _, _ in plans) <= len(charges) <= len(plans)
    assert sum(charges) == sum((await site.books.used()).values())
