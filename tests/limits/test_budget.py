"""Budgets: what is reserved before the app runs, what is refused, and what is charged."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec
import pytest
from starlette.middleware import Middleware

from llm_authmw.asgi import ASGIApp
from llm_authmw.call import Charge
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.keys.static import StaticKey, StaticKeys
from llm_authmw.ledger.buckets import Claim
from llm_authmw.ledger.contract import Reservation
from llm_authmw.lens import DEFAULT_LENS, RequestLens
from llm_authmw.limits.alerts import BudgetAlert
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.pricing import Pricing
from llm_authmw.llm.extent import extent_of
from llm_authmw.llm.operation import Operation
from llm_authmw.llm.price_book import StaticPriceBook
from llm_authmw.llm.prices import Price
from llm_authmw.llm.requests import read_request
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.quota import NANO_USD, Budget
from llm_authmw.stack import Stack
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.store import open_store
from llm_authmw.testing import ManualClock, Response, fake_principal, lifespan, request, websocket
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.faults import FaultyLedger
from llm_authmw.testing.provider import MockProvider
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
ADA: Final = fake_principal(user="ada", team="blue", org="acme", realm="home")
BOB: Final = fake_principal(user="bob", team="blue", org="acme", realm="home")
PRICES: Final[Mapping[str, Price]] = {
    "gpt-4o": Price(input=1, output=2, max_output=100),
    "gpt-4o-mini": Price(input="0.10", output="0.20", max_output=100),
    "llama*": Price(input=1, output=2),
}
"""A token of gpt-4o's input costs 1000 nano-dollars, one of its output 2000."""
SMALL: Final[dict[str, Any]] = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}


def bound(body: Mapping[str, Any] = SMALL, **options: Any) -> int:
    """Return the most that a chat with gpt-4o can cost."""
    text = msgspec.json.encode(body)
    call = read_request(DEFAULT_LENS.find("POST", "/v1/chat/completions"), content_type=b"application/json", body=text)
    given: dict[str, Any] = {"unpriced": None, "free": (), "flat": None, "default_output": 4096, "overhead": 0} | options
    return Pricing(PRICES, **given).estimate(call, extent_of(call, text)).charge.amount


COST: Final = bound()


def usd(nano_dollars: float) -> str:
    return f"{nano_dollars / NANO_USD:.9f} usd"


class Site:
    """An app behind a budget."""

    def __init__(self, app: ASGIApp | None = None, *, books: Books | None = None, **options: Any) -> None:
        self.books: Final = books or Books()
        self.app: Final = app or MockProvider()
        given: dict[str, Any] = {"prices": PRICES, "limits": {"user": ["1 usd/day"]}} | options
        self.layer: Final = BudgetMiddleware(self.app, ledger=self.books.service, **given)
        self.context = RequestContext()

    async def ask(self, body: Any = SMALL, principal: Principal = ADA, target: str = CHAT, **given: Any) -> Response:
        scope = called_by(principal)
        self.context = scope[CONTEXT_KEY]
        return await request(self.layer, target, json=body, scope=scope, **given)

    async def used(self) -> dict[str, int]:
        assert self.books.held == 0
        return await self.books.used()

    async def total(self) -> int:
        (used,) = (await self.used()).values()
        return used


async def closed(layer: BudgetMiddleware) -> None:
    for resource in layer.resources:
        await resource.aclose()


def refused(answer: Response) -> tuple[int, str | None]:
    return answer.status, answer.header("x-authmw-reason")


async def test_the_most_is_reserved_and_the_truth_is_charged() -> None:
    site = Site()
    answer = await site.ask()
    assert 200 == answer.status
    assert [{"user:home/ada / nano_usd / day": COST}] == site.books.estimates
    assert COST >= 1000 * len(msgspec.json.encode(SMALL)) + 2000 * 10
    # The mock counts words: one of the request, four of the answer.
    assert {"user:home/ada / nano_usd / day": 1 * 1000 + 4 * 2000} == await site.used()
    assert site.context.usage is not None
    assert (1, 4, True) == (site.context.usage.input, site.context.usage.output, site.context.usage.complete)
    assert Charge(amount=9000, model="gpt-4o", rule="gpt-4o", version=StaticPriceBook(PRICES).version) == site.context.charge
    assert [("BudgetMiddleware", "allowed", None)] == [(one.layer, one.outcome, one.mark) for one in site.context.decisions]


async def test_a_request_that_the_budget_cannot_pay_for_is_refused_before_the_app_sees_it() -> None:
    app = Recorder()
    budget = Budget.parse(usd(2.5 * COST) + "/day")
    site = Site(app, limits={"user": [budget]}, books=Books(clock=ManualClock(1_800_000_000)))
    assert [200, 200] == [(await site.ask()).status for _ in range(2)]
    answer = await site.ask()
    assert (429, "insufficient_quota") == refused(answer)
    assert "false" == answer.header("x-should-retry")
    assert answer.header("retry-after") is None
    told = answer.header("x-authmw-budget") or ""
    assert told.startswith(f'"user: usd/day";limit={budget.amount / NANO_USD:g};left=0')
    assert told.endswith(";anew=2027-01-16T00:00:00Z")
    assert "which begins anew at 2027-01-16T00:00:00Z" in answer.body.decode()
    assert 2 == len(app.scopes)
    assert ("denied", "insufficient_quota", f"user: {budget}") == (
        site.context.decisions[-1].outcome,
        site.context.decisions[-1].reason,
        site.context.decisions[-1].rule,
    )


async def test_a_refused_request_takes_nothing_from_any_budget() -> None:
    site = Site(Recorder(), limits={"org": ["1 usd/day"], "team": ["1 usd/month"], "user": [usd(1.5 * COST) + "/day"]})
    assert 200 == (await site.ask()).status
    before = await site.used()
    assert 429 == (await site.ask()).status
    assert before == await site.used()
    assert 1 == len(site.books.estimates)


async def test_a_request_that_can_never_fit_is_told_so() -> None:
    site = Site(Recorder(), limits={"user": [usd(COST - 1) + "/day"]})
    answer = await site.ask()
    assert (400, "request_exceeds_budget") == refused(answer)
    assert answer.header("retry-after") is None
    assert "anew" not in (answer.header("x-authmw-budget") or "")


async def test_what_costs_more_than_can_be_counted_is_told_so() -> None:
    site = Site(Recorder(), prices={"*": Price(input=1, output=1_000_000)}, limits=None)
    answer = await site.ask(SMALL | {"max_tokens": 10_000_000})
    assert (400, "request_exceeds_budget") == refused(answer)


async def test_a_window_that_begins_anew_pays_again() -> None:
    site = Site(limits={"user": [usd(COST + 1) + "/day"]})
    clock = site.books.clock
    assert [200, 429] == [(await site.ask()).status for _ in range(2)]
    clock.advance(86_400)
    assert 200 == (await site.ask()).status


async def test_what_others_hold_counts_until_they_are_done() -> None:
    going, done = anyio.Event(), anyio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        going.set()
        await done.wait()
        await MockProvider()(scope, receive, send)

    site = Site(slow, limits={"team": [usd(1.5 * COST) + "/day"]})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(site.ask)
        await going.wait()
        assert 429 == (await site.ask(principal=BOB)).status
        assert 1 == site.books.held
        done.set()
    assert 200 == (await site.ask(principal=BOB)).status
    assert {"team:blue / nano_usd / day": 18_000} == await site.used()


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("user", "user:home/ada"),
        ("team", "team:blue"),
        ("org", "org:acme"),
        ("tenant", "tenant:default"),
        ("global", "global"),
        ("model", "model:gpt-4o"),
        ("team+model", "team:blue+model:gpt-4o"),
        ("team:blue", "team:blue"),
        ("model:gpt-4o*", "model:gpt-4o*"),
        ("address", "address:127.0.0.1"),
    ],
)
async def test_money_is_counted_by_any_scope(scope: str, name: str) -> None:
    site = Site(limits={scope: ["1 usd/week"]})
    assert 200 == (await site.ask()).status
    (bucket,) = await site.used()
    assert bucket.endswith(" / nano_usd / week")
    assert bucket.split(" / ")[0].replace("%2F", "/") == name or scope in {"tenant", "model:gpt-4o*", "address"}
    assert 9000 == await site.total()


async def test_a_model_has_a_budget_of_its_own() -> None:
    site = Site(Recorder(), limits={"user+model:gpt-4o": [usd(1.5 * COST) + "/day"], "user": ["1 usd/day"]})
    mini = SMALL | {"model": "gpt-4o-mini"}
    assert [200, 429, 200, 200] == [(await site.ask(body)).status for body in (SMALL, SMALL, mini, mini)]


@pytest.mark.parametrize("budget", ["1 usd/second", "1 usd/hour", "1 usd/quarter, starts 3", "1 usd/year, timezone Europe/Berlin", "1 usd"])
async def test_money_is_counted_in_any_window(budget: str) -> None:
    site = Site(limits={"user": [budget]})
    assert 200 == (await site.ask()).status
    assert 9000 == await site.total()


async def test_a_temporary_increase_counts_until_it_ends() -> None:
    clock = ManualClock(1_800_000_000)
    site = Site(Recorder(), books=Books(clock=clock), limits={"user": [f"{usd(COST - 1)}, plus {usd(COST)} until 2027-01-16"]})
    assert 200 == (await site.ask()).status
    clock.advance(86_400)
    assert 400 == (await site.ask()).status


async def test_the_budgets_of_a_caller_and_of_its_accounts_count() -> None:
    site = Site(Recorder(), limits=None)
    poor = fake_principal(user="ada", budgets=["0.00001 usd/day"])
    assert 400 == (await site.ask(principal=poor)).status
    assert [] == site.books.estimates
    assert 200 == (await site.ask(principal=ADA)).status
    assert [] == site.books.estimates


async def test_anonymous_callers_are_counted_where_no_identity_is_needed() -> None:
    site = Site(limits={"global": ["1 usd/day"], "address": ["1 usd/day"]})
    assert 200 == (await site.ask(principal=ANONYMOUS)).status
    assert [9000, 9000] == list((await site.used()).values())


async def test_a_caller_without_what_a_budget_is_counted_by_is_refused() -> None:
    site = Site(Recorder(), limits={"team": ["1 usd/day"]})
    assert (403, "limit_dimension_missing") == refused(await site.ask(principal=fake_principal(user="ada")))
    lenient = Site(Recorder(), limits={"team": ["1 usd/day"]}, missing="skip")
    assert 200 == (await lenient.ask(principal=fake_principal(user="ada"))).status


async def test_a_caller_without_any_budget_is_metered() -> None:
    site = Site(limits=None)
    assert 200 == (await site.ask()).status
    assert site.context.charge is not None
    assert 9000 == site.context.charge.amount
    assert [] == site.books.estimates


# Ceilings.


@pytest.mark.parametrize(
    ("changes", "same_as"),
    [
        ({"max_completion_tokens": 20, "max_tokens": 10}, {"max_completion_tokens": 10, "max_tokens": 20}),
        ({"max_tokens": 5000}, {"max_tokens": 1000, "n": 1}),
        ({"model": "llama-3", "max_tokens": 4096, "seed": 123456789}, {"model": "llama-3", "max_tokens": 4096, "seed": 987654321}),
    ],
)
async def test_the_largest_ceiling_counts_and_never_more_than_the_models(changes: dict[str, Any], same_as: dict[str, Any]) -> None:
    one, other = bound(SMALL | changes), bound(SMALL | same_as)
    assert abs(one - other) <= 1000 * 2 * abs(len(msgspec.json.encode(SMALL | changes)) - len(msgspec.json.encode(SMALL | same_as)))
    assert one > COST


async def test_where_nothing_says_so_the_ceiling_is_the_default() -> None:
    small, large = Site(Recorder(), default_output=10), Site(Recorder(), default_output=1010)
    for site in (small, large):
        assert 200 == (await site.ask({"model": "llama-3", "messages": []})).status
    (few,), (many,) = [[*amounts.values()] for site in (small, large) for amounts in site.books.estimates]
    assert many - few >= 1000 * 2000


@pytest.mark.parametrize(
    ("ceiling", "reason"),
    [(0, "output_ceiling_invalid"), (20_000_000, "output_ceiling_invalid"), (-1, "request_field_invalid"), (1.5, "request_field_invalid")],
)
async def test_a_ceiling_that_is_none_is_refused(ceiling: float, reason: str) -> None:
    app = Recorder()
    site = Site(app)
    assert (400, reason) == refused(await site.ask(SMALL | {"max_tokens": ceiling}))
    assert [] == app.scopes


async def test_more_than_a_guessed_ceiling_is_booked_as_debt() -> None:
    long = {"model": "llama-3", "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4}]}
    site = Site(default_output=1, limits={"user": [usd(bound(long, default_output=1)) + "/day"]})
    assert 200 == (await site.ask(long)).status
    estimate = bound(long, default_output=1)
    assert 104 * 1000 + 107 * 2000 == await site.total()
    cheap = Site(default_output=1, limits={"user": [usd(estimate) + "/day"]}, books=Books())
    (balance,) = [amounts.values() for amounts in site.books.estimates]
    assert [estimate] == list(balance)
    assert 200 == (await cheap.ask(long)).status


async def test_what_the_app_adds_is_counted() -> None:
    site = Site(Recorder(), overhead=7)
    await site.ask()
    plain = Site(Recorder())
    await plain.ask()
    assert 7000 <= min(
        one["user:home/ada / nano_usd / day"] - other["user:home/ada / nano_usd / day"]
        for one, other in zip(site.books.estimates, plain.books.estimates, strict=True)
    )


# Prices.


async def test_a_model_without_a_price_is_refused_unless_there_is_one_for_all() -> None:
    body = SMALL | {"model": "o3"}
    app = Recorder()
    assert (403, "model_unpriced") == refused(await Site(app).ask(body))
    assert [] == app.scopes
    site = Site(unpriced=Price(input=100, output=100))
    assert 200 == (await site.ask(body)).status
    assert 500_000 == await site.total()
    assert site.context.charge is not None
    assert "*" == site.context.charge.rule


async def test_a_model_is_free_by_name_only() -> None:
    site = Site(free=["o3*"], limits={"user": ["0.000001 usd/day"]})
    assert 200 == (await site.ask(SMALL | {"model": "o3-mini"})).status
    assert 0 == await site.total()
    assert site.context.charge is not None
    assert ("o3*", "free", 0) == (site.context.charge.rule, site.context.charge.version, site.context.charge.amount)
    assert 400 == (await site.ask()).status


async def test_what_is_free_is_let_in_where_there_is_debt() -> None:
    async def dear(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"usage":{"prompt_tokens":1000000,"completion_tokens":1}}'})

    site = Site(dear, free=["local"], limits={"user": [usd(COST) + "/day"]})
    assert 200 == (await site.ask()).status
    assert COST < await site.total()
    assert [429, 200] == [(await site.ask(body)).status for body in (SMALL, SMALL | {"model": "local"})]


async def test_the_model_of_the_answer_is_charged_where_it_is_the_dearer_one() -> None:
    async def answer_by(model: str, asked: str) -> int:
        async def other(scope: Any, receive: Any, send: Any) -> None:
            usage = b'"usage":{"prompt_tokens":10,"completion_tokens":10,"total_tokens":20}'
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": b'{"model":"%b",%b}' % (model.encode(), usage)})

        site = Site(other, limits={"user": ["5 usd/day"]})
        assert 200 == (await site.ask(SMALL | {"model": asked})).status
        return await site.total()

    assert 30_000 == await answer_by("gpt-4o", "gpt-4o-mini")
    assert 30_000 == await answer_by("gpt-4o-mini", "gpt-4o")
    assert 30_000 == await answer_by("gpt-4o-2024-08-06", "gpt-4o")
    assert 3_000 == await answer_by("gpt-4o-mini", "gpt-4o-mini")


async def test_of_fallbacks_the_dearest_is_reserved_and_the_one_that_answered_charged() -> None:
    site = Site(limits={"user": ["5 usd/day"]})
    body = SMALL | {"model": "gpt-4o-mini", "fallbacks": ["gpt-4o"]}
    assert 200 == (await site.ask(body)).status
    (amounts,) = site.books.estimates
    assert amounts["user:home/ada / nano_usd / day"] > 100_000
    assert 900 == await site.total()
    assert (403, "model_unpriced") == refused(await site.ask(body | {"fallbacks": ["o3"]}))


# Operations.


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("POST /v1/batches", {"input_file_id": "file-1"}),
        ("POST /v1/messages/batches", {"requests": []}),
        ("POST /v1/fine_tuning/jobs", {"model": "gpt-4o", "training_file": "f"}),
        ("POST /v1/threads/runs", {"model": "gpt-4o"}),
        ("POST /v1/realtime/client_secrets", {"session": {"model": "gpt-4o"}}),
        ("POST /v1/responses", {"model": "gpt-4o", "input": "hello", "background": True}),
        ("POST /v1/responses", {"model": "gpt-4o", "input": "hello", "background": 1}),
        ("POST /async-invoke", {"modelId": "gpt-4o"}),
        ("POST /v1/generate", {"prompt": "hello"}),
        ("POST /v2/new/thing", {"model": "gpt-4o"}),
        ("POST /own/business", {"model": "gpt-4o"}),
    ],
)
async def test_what_cannot_be_metered_is_refused(target: str, body: Any) -> None:
    app = Recorder()
    site = Site(app)
    assert (403, "operation_unmetered") == refused(await site.ask(body, target=target))
    assert [] == app.scopes


@pytest.mark.parametrize(
    "target",
    ["GET /v1/models", "GET /health", "GET /v1/batches/b1", "DELETE /v1/files/f1", "GET /v1/responses/r1", "POST /v1/batches/b/cancel"],
)
async def test_what_runs_no_model_costs_nothing(target: str) -> None:
    site = Site(Recorder())
    answer = await request(site.layer, target, scope=called_by(ADA))
    assert 200 == answer.status
    assert [] == site.books.estimates


async def test_the_apps_own_business_costs_nothing() -> None:
    site = Site(Recorder())
    assert 200 == (await site.ask({"name": "ada"}, target="POST /own/business")).status
    assert 200 == (await site.ask(SMALL, target="POST /v1/messages/count_tokens")).status
    assert [] == site.books.estimates


async def test_a_flat_price_lets_in_what_cannot_be_metered() -> None:
    site = Site(Recorder(), flat={"batches": Price(request="0.50"), "realtime": Price(request="0.10"), "unlisted": Price(request="0.01")})
    assert 200 == (await site.ask({"input_file_id": "file-1"}, target="POST /v1/batches")).status
    assert 500_000_000 == await site.total()
    assert site.context.charge is not None
    assert ("batches", "flat") == (site.context.charge.rule, site.context.charge.version)
    assert 200 == (await site.ask({"model": "anything"}, target="POST /v2/new/thing")).status
    assert 510_000_000 == await site.total()
    async with websocket(site.layer, "/v1/realtime?model=gpt-realtime", scope=called_by(ADA)):
        assert 1 == site.books.held
    assert 610_000_000 == await site.total()
    assert 200 == (await request(site.layer, "GET /v1/batches/b1", scope=called_by(ADA))).status
    assert 610_000_000 == await site.total()
    assert 429 == (await site.ask({"input_file_id": "file-1"}, target="POST /v1/batches")).status


async def test_a_socket_without_a_flat_price_is_refused() -> None:
    app = Recorder()
    site = Site(app)
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
        assert not socket.accepted
    assert [] == app.scopes


# Alerts.

LIMIT: Final = bound(SMALL | {"max_tokens": 90})
EARLY, LATE = 18_000 * 100 // LIMIT, 36_000 * 100 // LIMIT
"""In percent, what two requests cost and what four do."""
BUDGET: Final = Budget.parse(f"{usd(LIMIT)}/day, soft {EARLY}% {LATE}%")


async def alerts_of(site: Site, told: list[BudgetAlert]) -> list[tuple[int, str]]:
    await anyio.wait_all_tasks_blocked()
    return [(alert.percent, alert.subject) for alert in told]


async def test_each_threshold_is_told_once_in_a_window(caplog: pytest.LogCaptureFixture) -> None:
    told: list[BudgetAlert] = []

    async def on_alert(alert: BudgetAlert) -> None:
        told.append(alert)

    books = Books()
    options: dict[str, Any] = {"limits": {"user": [BUDGET]}, "on_alert": on_alert}
    site, other = Site(books=books, **options), Site(books=books, **options)
    with caplog.at_level(logging.WARNING, "llm_authmw"):
        await site.ask()
        assert [] == await alerts_of(site, told)
        await other.ask()
        assert [(EARLY, "user:home/ada")] == await alerts_of(site, told)
        await site.ask()
        await other.ask()
        assert [(EARLY, "user:home/ada"), (LATE, "user:home/ada")] == await alerts_of(site, told)
        dearer = SMALL | {"max_tokens": 90}
        assert 429 == (await site.ask(dearer)).status
        assert 429 == (await other.ask(dearer)).status
        assert [EARLY, LATE, 100] == [percent for percent, _ in await alerts_of(site, told)]
    assert f"{EARLY}% reached" in caplog.text
    assert (
        BudgetAlert(
            tenant="default",
            scope="user",
            subject="user:home/ada",
            budget=str(BUDGET),
            percent=EARLY,
            used=18_000,
            limit=BUDGET.amount,
            ends_at=told[0].ends_at,
        )
        == told[0]
    )
    books.clock.advance(86_400)
    await site.ask()
    await site.ask()
    assert [EARLY, LATE, 100, EARLY] == [percent for percent, _ in await alerts_of(site, told)]
    await closed(site.layer)
    await closed(other.layer)


async def test_an_alert_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def on_alert(alert: BudgetAlert) -> None:
        raise RuntimeError("a secret")

    site = Site(limits={"user": [f"{usd(COST)}/day, soft 1%"]}, on_alert=on_alert)
    assert 200 == (await site.ask()).status
    while "on_alert failed" not in caplog.text:
        await anyio.wait_all_tasks_blocked()
        await anyio.lowlevel.checkpoint()
    assert "a secret" not in caplog.text
    await closed(site.layer)


async def test_a_threshold_that_the_ledger_could_not_mark_is_told_later() -> None:
    told: list[BudgetAlert] = []

    async def on_alert(alert: BudgetAlert) -> None:
        told.append(alert)

    class Marking(Books):
        fails = True

        async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
            if self.fails and " / alert " in claims[0].bucket.name:
                raise StoreUnavailableError("down")
            return await super().reserve(reservation_id, claims, ttl=ttl)

    books = Marking()
    site = Site(books=books, limits={"user": [f"{usd(2 * COST)}/day, soft 1%"]}, on_alert=on_alert)
    await site.ask()
    assert [] == await alerts_of(site, told)
    books.fails = False
    await site.ask()
    assert [(1, "user:home/ada")] == await alerts_of(site, told)
    await closed(site.layer)
    await books.service.aclose()


# The store.


async def test_a_request_is_refused_where_the_ledger_does_not_answer() -> None:
    clock = ManualClock()
    faulty = FaultyLedger(lambda: MemoryLedger(clock=clock))
    app = Recorder()
    site = Site(app, books=Books(faulty, clock=clock))
    faulty.fail("down")
    answer = await site.ask()
    assert (503, "ledger_unavailable") == refused(answer)
    assert "1" == answer.header("retry-after")
    assert [] == app.scopes
    await site.books.service.aclose()


async def test_a_request_is_let_in_all_the_same_where_that_is_the_rule() -> None:
    clock = ManualClock()
    faulty = FaultyLedger(lambda: MemoryLedger(clock=clock))
    site = Site(books=Books(faulty, clock=clock), on_store_failure="allow")
    faulty.fail("down")
    assert 200 == (await site.ask()).status
    assert "ledger_unavailable" == site.context.decisions[-1].mark
    assert site.context.charge is not None
    assert 9000 == site.context.charge.amount
    await site.books.service.aclose()


async def test_a_store_that_is_down_at_the_end_is_told_the_truth_later() -> None:
    clock = ManualClock()
    faulty = FaultyLedger(lambda: MemoryLedger(clock=clock))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        faulty.fail("down", times=1)
        await MockProvider()(scope, receive, send)

    site = Site(app, books=Books(faulty, clock=clock))
    assert 200 == (await site.ask()).status
    await site.books.service.aclose()
    assert 9000 == await site.total()


# Options and places.


class NoBook:
    pass


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ledger", MemoryLedger()),
        ("prices", {}),
        ("prices", NoBook()),
        ("prices", {"gpt-4o": 2.5}),
        ("limits", {"planet": ["1 usd/day"]}),
        ("limits", {"user": "1 usd/day"}),
        ("limits", {"user": ["60 requests/minute"]}),
        ("model_groups", {"cheap": ["gpt-4o-mini"]}),
        ("missing", "ignore"),
        ("unpriced", 1),
        ("free", "gpt-4o"),
        ("free", ["*"]),
        ("free", ["!o3"]),
        ("flat", {"batches": Price(input=1, output=1)}),
        ("flat", {"lunch": Price(request=1)}),
        ("flat", [("batches", 1)]),
        ("default_output", 0),
        ("default_output", True),
        ("overhead", -1),
        ("clamp_output", 1),
        ("ask_for_usage", "yes"),
        ("final_event", None),
        ("client_gone", "free"),
        ("on_exhausted", "stop"),
        ("on_alert", "log"),
        ("lens", None),
        ("on_store_failure", "ignore"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: Any) -> None:
    options: dict[str, Any] = {"ledger": Books().service, "prices": PRICES, option: value}
    with pytest.raises(ConfigurationError) as caught:
        BudgetMiddleware(Recorder(), **options)
    assert option == caught.value.option


async def test_a_stack_starts_and_closes_what_it_counts_in() -> None:
    store = open_store("memory://")
    guard = Stack(Middleware(BudgetMiddleware, ledger=store.ledger, prices=PRICES, limits={"global": ["1 usd/day"]}))(MockProvider())
    (layer,) = guard.all_layers
    assert isinstance(layer, BudgetMiddleware)
    assert store is layer.resources[0]
    async with lifespan(guard):
        assert 200 == (await request(guard, CHAT, json=SMALL)).status


def test_an_authentication_layer_inside_is_refused() -> None:
    from llm_authmw.authn.keys import KeyAuthMiddleware  # noqa: PLC0415 - used here only

    inside = KeyAuthMiddleware(Recorder(), keys=StaticKeys({"ada": StaticKey("sk-ada-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1")}))
    with pytest.raises(ConfigurationError, match="stands inside"):
        BudgetMiddleware(inside, ledger=Books().service, prices=PRICES)


def test_a_layer_says_what_it_is() -> None:
    layer = BudgetMiddleware(Recorder(), ledger=Books().service, prices=PRICES, limits={"user": ["1 usd/day"]})
    assert "BudgetMiddleware(user=['1 usd/day'])" == repr(layer)


async def test_operations_of_ones_own_have_flat_prices() -> None:
    lens = RequestLens(operations=[Operation(name="own", routes=["own/thing"])])
    site = Site(Recorder(), lens=lens, flat={"own": Price(request=1)}, limits={"user": ["1 usd"]})
    assert [200, 429] == [(await site.ask({"model": "x"}, target="POST /own/thing")).status for _ in range(2)]


async def test_a_path_that_can_be_read_in_two_ways_is_refused() -> None:
    assert (400, "ambiguous_path") == refused(await Site().ask(target="POST /v1//chat/completions"))


async def test_whatever_fails_while_it_is_decided_is_a_refusal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("a secret")

    monkeypatch.setattr("llm_authmw.lens.extent_of", fail)
    app = Recorder()
    assert (503, "ledger_unavailable") == refused(await Site(app).ask())
    assert [] == app.scopes
    assert "a secret" not in caplog.text
    assert "KeyError" in caplog.text
