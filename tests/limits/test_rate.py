"""Rate limits: what is counted before the app runs, what is refused and how that is told, and what is given back."""

import logging
from typing import Any, Final

import anyio
import msgspec
import pytest
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llm_authmw import (
    ConfigurationError,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    RateLimitMiddleware,
    RBACMiddleware,
    RequestLens,
    Role,
    Stack,
    StaticKey,
    StaticKeys,
    TrustedProxies,
    open_store,
)
from llm_authmw.accounts.records import AccountRecord
from llm_authmw.asgi import ASGIApp
from llm_authmw.context import CONTEXT_KEY, Decision, RequestContext
from llm_authmw.errors import StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.limits import limiting
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.plan import Plan
from llm_authmw.llm.prices import Price
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.quota import Limit
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, Response, WebSocketClosed, fake_principal, lifespan, request, stream, websocket
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.faults import FaultyLedger
from llm_authmw.testing.provider import MockProvider
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
ADA: Final = fake_principal("ada", team="blue", org="acme", realm="home")
BOB: Final = fake_principal("bob", team="blue", org="acme", realm="home")
SMALL: Final[dict[str, Any]] = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
JSON: Final = (b"content-type", b"application/json")
SIZE: Final = len('{"model":"gpt-4o","max_tokens":10,"messages":[{"role":"user","content":"hello"}]}')
KEY: Final = "sk-member-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1"


class Site:
    """An app behind limits."""

    def __init__(self, app: ASGIApp | None = None, *, books: Books | None = None, **options: Any) -> None:
        self.books: Final = books or Books()
        self.app: Final[Any] = app or Recorder()
        self.layer: Final = RateLimitMiddleware(self.app, ledger=self.books.service, **options)
        self.context = RequestContext()

    async def ask(
        self, principal: Principal = ADA, target: str = CHAT, *, tier: str | None = None, json: Any = SMALL, **given: Any
    ) -> Response:
        scope = called_by(principal) | given.pop("scope", {})
        self.context = scope[CONTEXT_KEY]
        self.context.tier = tier
        if target.startswith(("POST", "PUT")) and "body" not in given:
            given["json"] = json
        return await request(self.layer, target, scope=scope, **given)

    async def told(self, *args: Any, **given: Any) -> tuple[int, str | None]:
        return refused(await self.ask(*args, **given))


def refused(answer: Response) -> tuple[int, str | None]:
    return answer.status, answer.header("x-authmw-reason")


# Construction.


@pytest.mark.parametrize(
    ("options", "option"),
    [
        pytest.param({"ledger": MemoryLedger()}, "ledger", id="a ledger without a handle"),
        ({"ledger": None}, "ledger"),
        ({"lens": None}, "lens"),
        ({"limits": ["4 concurrent"]}, "limits"),
        ({"tiers": ["silver"]}, "tiers"),
        ({"model_groups": {"cheap": ["a"]}}, "model_groups"),
        ({"missing": "ignore"}, "missing"),
        ({"headers": "openai"}, "headers"),
        ({"headers": ["gemini"]}, "headers"),
        ({"headers": 1}, "headers"),
        ({"default_output": 0}, "default_output"),
        ({"default_output": True}, "default_output"),
        ({"context_window": 2**54}, "context_window"),
        ({"on_store_failure": "open"}, "on_store_failure"),
    ],
    ids=str,
)
def test_a_wrong_or_ignored_option_is_refused(options: dict[str, Any], option: str) -> None:
    given: dict[str, Any] = {"ledger": Books().service} | options
    with pytest.raises(ConfigurationError) as caught:
        RateLimitMiddleware(Recorder(), **given)
    assert option == caught.value.option


def keys() -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=StaticKeys({"m": StaticKey(KEY, roles=["member"])}))


def rates(**options: Any) -> Middleware:
    given: dict[str, Any] = {"ledger": Books().service} | options
    return Middleware(RateLimitMiddleware, **given)


def roles(**options: Any) -> Middleware:
    return Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["*"], **options)})


@pytest.mark.parametrize("inner", [keys(), roles()], ids=["keys", "roles"])
@pytest.mark.parametrize("options", [{}, {"limits": {"team": ["4 concurrent"]}}, {"tiers": {"t": ["4 concurrent"]}}], ids=str)
def test_a_layer_that_counts_by_caller_stands_inside_of_those_that_say_who_that_is(inner: Middleware, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="further in"):
        Stack(rates(**options), inner)


def test_a_layer_that_counts_by_address_may_stand_outside() -> None:
    Stack(rates(limits={"address": ["9 requests/minute"], "global": ["9 concurrent"]}), keys(), roles())


def test_a_limit_is_written_once_where_two_layers_count_in_one_ledger() -> None:
    service = Books().service
    limits = {"team": ["9 requests/minute"]}
    with pytest.raises(ConfigurationError, match="write them once"):
        Stack(keys(), rates(ledger=service, limits=limits), rates(ledger=service, limits=limits))
    Stack(keys(), rates(limits=limits), rates(limits=limits))
    Stack(keys(), rates(ledger=service, limits=limits), rates(ledger=service, limits={"team": ["9 requests/day"]}))


@pytest.mark.parametrize("inner", [[], [rates()], [rates(tiers={"gold": ["4 concurrent"]})]], ids=["none", "no tiers", "another tier"])
def test_a_tier_of_a_role_that_nobody_would_look_at_is_refused(inner: list[Middleware]) -> None:
    with pytest.raises(ConfigurationError, match="would be ignored") as caught:
        Stack(keys(), roles(tier="silver"), *inner)
    assert "tier" == caught.value.option


def test_a_tier_of_a_role_is_looked_for_in_every_layer_inside_of_the_roles() -> None:
    silver, gold = rates(tiers={"silver": ["4 concurrent"]}), rates(tiers={"gold": ["5 concurrent"]}, limits={"org": ["9 concurrent"]})
    Stack(keys(), roles(tier="silver"), silver)
    Stack(keys(), Stack(roles(tier="gold"), Stack(gold)))
    policies = [Policy("/v1/**", Stack(roles(tier="silver"), silver))]
    PolicyRouter(Recorder(), policies=policies)
    # It may be a part of another stack, in which the limits come behind it.
    Stack(Stack(keys()), Stack(roles(tier="silver")), silver)


def test_a_stack_starts_and_closes_what_the_counters_share() -> None:
    store = open_store("memory://")
    guarded = Stack(keys(), rates(ledger=store.ledger))(Recorder())
    assert (store,) == guarded._resources  # the lifespan's own test shows what becomes of it


def test_it_prints_what_it_limits() -> None:
    layer = Site(limits={"team": ["9 requests/minute"]}, tiers={"gold": ["4 concurrent"]}).layer
    assert "RateLimitMiddleware(team=['9 requests/minute'], tiers=['gold'])" == repr(layer)


# Refused.


async def test_what_is_over_a_limit_is_refused_with_the_exact_wait_and_costs_nothing() -> None:
    site = Site(limits={"team": ["2 requests/minute, burst 2"], "caller": ["9 requests/minute, burst 9"]})
    for _ in range(2):
        assert 200 == (await site.ask()).status
    site.books.clock.advance(0.5)
    used = await site.books.used()
    answer = await site.ask()
    assert (429, "rate_limited") == refused(answer)
    # One comes back every 30 seconds.
    assert ("30", "29500") == (answer.header("retry-after"), answer.header("retry-after-ms"))
    assert answer.header("x-should-retry") is None
    assert (
        Decision("RateLimitMiddleware", "denied", "rate_limited", None, None, "team:blue / requests / minute rolling")
        == (site.context.decisions[-1])
    )
    assert "at most 2 requests/minute, burst 2 per team" in answer.body.decode()
    assert not {"blue", "ada", "acme"} & set(answer.body.decode().replace('"', " ").split())
    assert 2 == len(site.app.scopes)
    assert used == await site.books.used()
    site.books.clock.advance(29.5)
    assert 200 == (await site.ask()).status


async def test_a_refused_request_consumes_nothing_in_any_bucket() -> None:
    site = Site(limits={"team": ["2 requests/day, calendar"], "caller": ["9 requests/day, calendar"], "org": ["9 concurrent"]})
    for status in (200, 200, 429, 429, 429):
        assert status == (await site.ask()).status
    assert {"team:blue / requests / day": 2, "caller:home/ada / requests / day": 2, "org:acme / concurrent": 0} == await site.books.used()


async def test_the_longest_wait_is_told_of_several_limits_that_refuse() -> None:
    site = Site(
        limits={"caller": ["1 requests/second, burst 1"], "team": ["1 requests/hour, burst 1"], "org": ["1 requests/minute, burst 1"]}
    )
    assert 200 == (await site.ask()).status
    answer = await site.ask()
    assert "3600" == answer.header("retry-after")
    assert "team:blue / requests / hour rolling" == site.context.decisions[-1].rule


async def test_too_much_at_once_is_refused_and_has_room_again_when_something_ends() -> None:
    reached, go_on = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            reached.set()
            await go_on.wait()
        await JSONResponse({})(scope, receive, send)

    site = Site(app, limits={"caller": ["1 concurrent"]})
    async with stream(site.layer, "GET /slow", scope=called_by(ADA)) as under_way:
        await reached.wait()
        answer = await site.ask()
        assert (429, "concurrency_limited") == refused(answer)
        assert ("1", "1000") == (answer.header("retry-after"), answer.header("retry-after-ms"))
        assert 200 == (await site.ask(BOB)).status
        go_on.set()
        async for _ in under_way:
            pass
    assert 200 == (await site.ask()).status
    assert 0 == site.books.held


@pytest.mark.parametrize("way", ["answer", "error", "disconnect"])
async def test_room_comes_back_whichever_way_a_request_ends(way: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if way == "error":
            raise RuntimeError("broken")
        if way == "disconnect":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await JSONResponse({})(scope, receive, send)

    site = Site(app, limits={"caller": ["1 concurrent"]})
    for _ in range(3):
        async with stream(site.layer, CHAT, scope=called_by(ADA), json=SMALL, reraise=False) as exchange:
            if way == "disconnect":
                await exchange.disconnect()
            else:
                async for _ in exchange:
                    pass
        assert (way == "error") == (exchange.activity.raised is not None)
    assert 0 == site.books.held
    assert {"caller:home/ada / concurrent": 0} == await site.books.used()


async def test_a_request_for_more_than_a_limit_ever_lets_through_is_refused_without_a_wait() -> None:
    site = Site(MockProvider(), limits={"caller": ["50 tokens/minute"]})
    answer = await site.ask()
    assert (400, "request_exceeds_limit") == refused(answer)
    assert answer.header("retry-after") is None
    assert "at most 50 tokens in one request" in answer.body.decode()
    assert {} == await site.books.used()
    explicit = Site(MockProvider(), limits={"caller": ["100000 tokens/minute, burst 50"]})
    assert (400, "request_exceeds_limit") == await explicit.told()


@pytest.mark.parametrize(
    ("principal", "tier"), [(fake_principal(tier="gold"), None), (fake_principal(tier="gold"), "silver"), (ADA, "gold")], ids=repr
)
async def test_a_tier_that_is_not_defined_is_refused(principal: Principal, tier: str | None) -> None:
    for tiers in (None, {"silver": ["9 concurrent"]}):
        site = Site(tiers=tiers)
        assert (403, "tier_unknown") == await site.told(principal, tier=tier)
        assert "gold" == site.context.decisions[-1].rule
        assert [] == site.app.scopes


async def test_what_a_limit_is_counted_by_has_to_be_there_unless_the_limit_is_skipped() -> None:
    limits = {"team": ["9 concurrent"]}
    for principal in (fake_principal(), ANONYMOUS):
        site = Site(limits=limits)
        assert (403, "limit_dimension_missing") == await site.told(principal)
        assert "team" == site.context.decisions[-1].rule
        assert 200 == (await Site(limits=limits, missing="skip").ask(principal)).status


async def test_more_models_than_can_be_counted_are_refused() -> None:
    site = Site(limits={"model": ["9 requests/minute"]})
    many = {"model": "m", "messages": [], "fallbacks": [f"m{number}" for number in range(64)]}
    assert (400, "limits_too_many") == await site.told(json=many)
    assert [] == site.app.scopes


@pytest.mark.parametrize("target", ["POST /v1//chat/completions", "POST /v1/../x"])
async def test_an_ambiguous_path_is_refused(target: str) -> None:
    assert (400, "ambiguous_path") == await Site().told(target=target)


async def test_what_cannot_be_read_is_refused_where_it_has_to_be_read() -> None:
    site = Site(limits={"model": ["9 concurrent"]}, lens=RequestLens(max_body=200))
    assert (400, "request_malformed") == await site.told(body=b"{", headers=[(b"content-type", b"application/json")])
    assert (413, "body_too_large") == await site.told(json=SMALL | {"user": "x" * 300})
    assert 200 == (await Site(limits={"team": ["9 concurrent"]}).ask(body=b"{")).status


# The store.


def broken(**options: Any) -> tuple[Site, FaultyLedger]:
    clock = ManualClock()
    faulty = FaultyLedger(lambda: MemoryLedger(clock=clock))
    return Site(books=Books(faulty, clock=clock), limits={"team": ["9 concurrent"]}, **options), faulty


async def test_a_ledger_that_does_not_answer_denies_with_a_wait() -> None:
    site, faulty = broken()
    faulty.fail("down")
    answer = await site.ask()
    assert (503, "ledger_unavailable", "1") == (*refused(answer), answer.header("retry-after"))
    assert Decision("RateLimitMiddleware", "denied", "ledger_unavailable") == site.context.decisions[-1]
    assert [] == site.app.scopes
    faulty.heal()
    site.books.clock.advance(10)
    assert 200 == (await site.ask()).status


async def test_a_ledger_that_does_not_answer_lets_through_where_the_operator_says_so_and_the_record_says_it() -> None:
    site, faulty = broken(on_store_failure="allow")
    faulty.fail("down")
    assert 200 == (await site.ask()).status
    assert Decision("RateLimitMiddleware", "allowed", "ledger_unavailable") == site.context.decisions[-1]
    assert 1 == len(site.app.scopes)
    faulty.heal()
    site.books.clock.advance(10)
    assert 200 == (await site.ask()).status
    assert Decision("RateLimitMiddleware", "allowed") == site.context.decisions[-1]


class Unreadable:
    def recall(self, principal: Principal) -> None:
        return None

    async def load(self, principal: Principal, *, waited: float) -> Any:
        raise StoreUnavailableError("down")


async def test_accounts_that_cannot_be_read_deny_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for option, status in (("deny", 503), ("allow", 200)):
        site = Site(limits={"team": ["9 concurrent"]}, on_store_failure=option)
        monkeypatch.setattr(site.books.service, "accounts", Unreadable())
        assert status == (await site.ask()).status
        assert "ledger_unavailable" == site.context.decisions[-1].reason
        assert (status == 200) == ("team:blue / concurrent" in await site.books.used())


async def test_whatever_else_keeps_a_request_from_being_counted_denies_and_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a secret")

    site = Site()
    monkeypatch.setattr(Plan, "holder", fail)
    with caplog.at_level(logging.ERROR, "llm_authmw"):
        assert (503, "ledger_unavailable") == await site.told()
    assert "RuntimeError at" in caplog.text
    assert "a secret" not in caplog.text


# What is counted.


async def test_a_caller_without_any_limit_is_let_through() -> None:
    site = Site()
    for _ in range(20):
        assert 200 == (await site.ask()).status
    assert {} == await site.books.used()
    assert Decision("RateLimitMiddleware", "allowed") == site.context.decisions[-1]


async def test_limits_come_from_the_credential_its_accounts_its_tier_and_the_layer() -> None:
    site = Site(limits={"org": ["9 requests/day, calendar"]}, tiers={"gold": ["8 requests/day, calendar"]})
    blue = AccountRecord(kind="team", name="blue", created_at=0, limits=(Limit.parse("7 requests/day, calendar"),))
    assert await site.books.accounts.write(blue, HistoryEntry(at=0, action="create", actor="test"))
    key = fake_principal(
        "ada", realm="home", team="blue", org="acme", method="key", credential_id="k1", limits=["6 requests/day, calendar"], tier="gold"
    )
    assert 200 == (await site.ask(key)).status
    assert {
        "org:acme / requests / day": 1,
        "caller:home/ada / requests / day": 1,
        "key:k1 / requests / day": 1,
        "team:blue / requests / day": 1,
    } == await site.books.used()


async def test_a_tier_of_a_role_counts_each_caller() -> None:
    site = Site(tiers={"silver": ["1 requests/day, calendar"]})
    assert [200, 429, 200, 429] == [(await site.ask(who, tier="silver")).status for who in (ADA, ADA, BOB, BOB)]
    assert 200 == (await site.ask()).status


async def test_callers_cannot_make_the_layer_remember_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MAX_TERMS", 50)
    site = Site(limits={"caller": ["9 concurrent"], "model": ["9 concurrent"]})
    for number in range(120):
        assert 200 == (await site.ask(fake_principal(f"u{number}"))).status
    assert len(site.layer._basis.terms) <= 50


async def test_one_caller_has_its_tier_once_whatever_number_of_keys_it_has() -> None:
    site = Site(tiers={"silver": ["2 requests/day, calendar"]})
    many = [fake_principal("ada", realm="home", method="key", credential_id=f"k{number}", tier="silver") for number in range(3)]
    assert [200, 200, 429] == [(await site.ask(key)).status for key in many]


async def test_what_is_counted_by_model_is_counted_by_every_model_that_is_named() -> None:
    site = Site(limits={"model": ["1 requests/day, calendar"]})
    assert 200 == (await site.ask(json=SMALL | {"fallbacks": ["o3"]})).status
    assert (429, "rate_limited") == await site.told(json=SMALL | {"model": "o3"})
    assert "model:o3 / requests / day" == site.context.decisions[-1].rule
    assert 200 == (await site.ask(json=SMALL | {"model": "o1"})).status
    assert 200 == (await site.ask(target="GET /v1/models")).status


async def test_what_was_read_reaches_the_app_byte_for_byte() -> None:
    site = Site(limits={"model": ["9 concurrent"], "caller": ["99999 tokens/minute"]})
    body = b'{ "model" :"gpt-4o",\n"messages":[{"role":"user","content":"\xc3\xa9"}] }'
    answer = await site.ask(body=[body[:60], body[60:]], headers=[(b"content-type", b"application/json")])
    assert 200 == answer.status
    assert [body] == site.app.bodies


async def test_addresses_are_those_that_the_trusted_proxies_say() -> None:
    service = Books().service
    layer = Middleware(RateLimitMiddleware, ledger=service, limits={"address": ["1 requests/day, calendar"]})
    app = Stack(layer, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))(Recorder())

    async def told(peer: str, forwarded: str) -> int:
        headers = [(b"x-forwarded-for", forwarded.encode())]
        return (await request(app, "GET /v1/models", headers=headers, scope={"client": (peer, 1)})).status

    assert [200, 429, 200] == [
        await told("10.0.0.1", "192.0.2.1"),
        await told("10.0.0.2", "192.0.2.1"),
        await told("10.0.0.1", "192.0.2.2"),
    ]
    assert [200, 429] == [await told("192.0.2.9", "192.0.2.3"), await told("192.0.2.9", "192.0.2.4")]
    assert 403 == await told("10.0.0.1", "unknown")


# Tokens.


async def test_tokens_are_reserved_at_the_most_and_corrected_by_the_truth() -> None:
    site = Site(
        MockProvider(),
        limits={"team": ["1000 tokens/day, calendar", "900 input tokens/day, calendar", "800 output tokens/day, calendar", "9 concurrent"]},
    )
    assert 200 == (await site.ask()).status
    whose = "team:blue / "
    assert [
        {whose + "tokens / day": SIZE + 10, whose + "input tokens / day": SIZE, whose + "output tokens / day": 10, whose + "concurrent": 1}
    ] == site.books.estimates
    # The mock counts words: one of the request, four of the answer.
    assert {
        whose + "tokens / day": 5,
        whose + "input tokens / day": 1,
        whose + "output tokens / day": 4,
        whose + "concurrent": 0,
    } == await site.books.used()


async def test_an_answer_without_usage_leaves_the_estimate() -> None:
    site = Site(limits={"team": ["1000 tokens/day, calendar"]})
    assert 200 == (await site.ask()).status
    assert {"team:blue / tokens / day": SIZE + 10} == await site.books.used()


async def test_an_error_of_the_app_gives_the_tokens_back_and_keeps_the_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"error": {}}, 400)(scope, receive, send)

    site = Site(app, limits={"team": ["1000 tokens/day, calendar", "9 requests/day, calendar"]})
    assert 400 == (await site.ask()).status
    assert {"team:blue / tokens / day": 0, "team:blue / requests / day": 1} == await site.books.used()


async def test_a_request_that_names_no_ceiling_reserves_the_default() -> None:
    site = Site(limits={"team": ["9000 tokens/day, calendar"]}, default_output=700)
    body: dict[str, Any] = {"model": "gpt-4o", "messages": []}
    assert 200 == (await site.ask(json=body)).status
    assert [700 + len('{"model":"gpt-4o","messages":[]}')] == [one["team:blue / tokens / day"] for one in site.books.estimates]


async def test_what_is_only_assumed_is_cut_to_what_a_full_bucket_holds_and_is_debt_where_it_was_more() -> None:
    site = Site(MockProvider(), limits={"team": ["300 tokens/minute"]})
    body = SMALL | {"previous_response_id": "resp_1"}
    assert 200 == (await site.ask(json=body)).status
    (estimate,) = site.books.estimates
    assert {"team:blue / tokens / minute rolling": 30} == estimate
    assert 5 == sum((await site.books.used()).values())


async def test_of_what_was_only_assumed_no_more_is_booked_than_was_claimed_where_an_app_breaks_down() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    site = Site(app, limits={"team": ["300 tokens/day, calendar"]})
    body = SMALL | {"previous_response_id": "resp_1"}
    async with stream(site.layer, CHAT, scope=called_by(ADA), json=body, reraise=False) as exchange:
        async for _ in exchange:
            pass
    assert {"team:blue / tokens / day": 300} == site.books.estimates[0]
    # All but the answer, of which nothing has passed.
    assert {"team:blue / tokens / day": 290} == await site.books.used()


async def test_a_refused_bound_says_when_a_full_bucket_is_there_again() -> None:
    site = Site(limits={"team": ["600 tokens/minute"]})
    assert 200 == (await site.ask()).status
    answer = await site.ask()
    # All of the burst of 60 was claimed, and 60 come back in six seconds.
    assert (429, "rate_limited", "6") == (*refused(answer), answer.header("retry-after"))


@pytest.mark.parametrize(
    ("target", "json"),
    [
        ("POST /v1/batches", {"input_file_id": "f"}),
        ("POST /v1/fine_tuning/jobs", {"model": "gpt-4o", "training_file": "f"}),
        ("POST /v1/responses", {"model": "gpt-4o", "input": "x", "background": True}),
        ("POST /v1/realtime/sessions", {"model": "gpt-realtime"}),
        ("POST /v1/chat/completions2", {"model": "gpt-4o"}),
        ("POST /own", {"model": "gpt-4o"}),
    ],
)
async def test_what_cannot_be_measured_is_refused_under_a_limit_of_tokens_only(target: str, json: Any) -> None:
    site = Site(limits={"team": ["9000 tokens/day, calendar"]})
    assert (403, "operation_unmetered") == await site.told(target=target, json=json)
    assert [] == site.app.scopes
    assert 200 == (await Site(limits={"team": ["9 requests/day, calendar"]}).ask(target=target, json=json)).status


@pytest.mark.parametrize("target", ["GET /v1/models", "POST /feedback", "DELETE /v1/files/7"])
async def test_what_runs_no_model_is_counted_as_a_request_and_not_in_tokens(target: str) -> None:
    site = Site(limits={"team": ["9 tokens/day, calendar", "9 requests/day, calendar"]})
    assert 200 == (await site.ask(target=target, json={"stars": 5})).status
    assert {"team:blue / requests / day": 1} == await site.books.used()


async def test_each_kind_of_request_of_one_caller_claims_its_own() -> None:
    site = Site(limits={"team": ["1000 tokens/day, calendar", "9 requests/day, calendar"]})
    for target in (CHAT, "GET /v1/models", CHAT, "GET /v1/models"):
        assert 200 == (await site.ask(target=target)).status
    tokens, requests = "team:blue / tokens / day", "team:blue / requests / day"
    both, one = {tokens: SIZE + 10, requests: 1}, {requests: 1}
    assert [both, one, both, one] == site.books.estimates


# Sockets.


async def test_a_socket_counts_as_one_request_and_is_under_way_until_it_ends() -> None:
    site = Site(limits={"caller": ["1 concurrent", "9 requests/day, calendar"], "model": ["9 requests/day, calendar"]})
    async with websocket(site.layer, "/v1/realtime?model=gpt-realtime", scope=called_by(ADA)) as socket:
        await socket.send_json({"type": "response.create"})
        assert "heard" == await socket.receive()
        assert (429, "concurrency_limited") == await site.told()
    assert 200 == (await site.ask()).status
    assert 2 == (await site.books.used())["caller:home/ada / requests / day"]
    assert 0 == site.books.held


async def test_a_socket_over_its_limit_is_refused_before_the_app_sees_it() -> None:
    site = Site(limits={"caller": ["1 requests/day, calendar"]})
    assert 200 == (await site.ask()).status
    async with websocket(site.layer, "/v1/realtime?model=gpt-realtime", scope=called_by(ADA)) as socket:
        assert (429, "rate_limited") == refused(socket.response)
    assert 1 == len(site.app.scopes)


async def test_a_socket_is_refused_under_a_limit_of_tokens() -> None:
    site = Site(limits={"caller": ["99999 tokens/day, calendar"]})
    async with websocket(site.layer, "/v1/realtime?model=gpt-realtime", scope=called_by(ADA)) as socket:
        assert (403, "operation_unmetered") == refused(socket.response)


class Talker:
    """An app that goes on talking on a socket whatever it hears."""

    def __init__(self, *, accepts: bool = True, fails: bool = False) -> None:
        self.accepts, self.fails = accepts, fails
        self.heard: list[Any] = []
        self.raised: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if self.accepts:
            await send({"type": "websocket.accept"})
        if self.fails:
            await receive()
            raise RuntimeError("of the app's own")
        while (message := await receive())["type"] != "websocket.disconnect":
            self.heard.append(message)
        self.heard.append(message)
        self.heard.append(await receive())
        try:
            await send({"type": "websocket.send", "text": "more"})
        except OSError as error:
            self.raised = error
            raise


OTHER: Final = {"type": "session.update", "session": {"model": "o3"}}


@pytest.mark.parametrize("accepts", [True, False])
async def test_an_app_whose_socket_was_ended_is_told_that_the_client_has_gone(accepts: bool) -> None:
    app = Talker(accepts=accepts)
    site = Site(app, limits={"model": ["9 concurrent"]})
    if accepts:
        async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
            await socket.send_json(OTHER)
            with pytest.raises(WebSocketClosed):
                await socket.receive()
    else:
        early = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": msgspec.json.encode(OTHER).decode()}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(early)

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/v1/realtime",
            "query_string": b"model=gpt-4o",
            "headers": [],
            "extensions": {},
        }
        await site.layer(scope | called_by(ADA), receive, send)
        assert [{"type": "websocket.close", "code": 1008}] == sent
    assert [{"type": "websocket.disconnect", "code": 1008}] * 2 == app.heard
    assert isinstance(app.raised, OSError)
    assert 0 == site.books.held


async def test_a_socket_that_the_app_has_closed_is_not_closed_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        assert "websocket.disconnect" == (await receive())["type"]

    site = Site(app, limits={"model": ["9 concurrent"]})
    incoming = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": msgspec.json.encode(OTHER).decode()}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope: dict[str, Any] = {"type": "websocket", "path": "/v1/realtime", "query_string": b"model=gpt-4o", "headers": [], "extensions": {}}
    await site.layer(scope | called_by(ADA), receive, send)
    assert ["websocket.accept", "websocket.close"] == sent


async def test_an_error_of_the_app_s_own_on_a_socket_stays_one() -> None:
    site = Site(Talker(fails=True), limits={"model": ["9 concurrent"]})
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA), reraise=False) as socket:
        await socket.send_json({"type": "response.create", "response": {"metadata": {}}})
        await socket.wait_returned()
    assert "of the app's own" == str(socket.activity.raised)
    assert 0 == site.books.held


async def test_a_client_that_leaves_while_its_request_is_read_costs_nothing_and_reaches_no_app() -> None:
    books, app = Books(), Recorder()
    inner = RateLimitMiddleware(app, ledger=books.service, limits={"model": ["9 requests/day, calendar"]})
    layer = RateLimitMiddleware(inner, ledger=books.service, limits={"team": ["9 concurrent"]})
    for outermost in (inner, layer):
        async with stream(outermost, CHAT, scope=called_by(ADA), body=b'{"model":', more_body=True, headers=[JSON]) as exchange:
            await exchange.disconnect()
    assert [] == app.scopes
    assert 0 == books.held
    assert 0 == sum((await books.used()).values())


# Several layers.


async def test_a_bucket_that_a_layer_further_out_counts_in_is_not_counted_in_twice() -> None:
    books, app = Books(), Recorder()
    inner = RateLimitMiddleware(app, ledger=books.service, limits={"org": ["9 requests/day, calendar"]})
    layer = RateLimitMiddleware(inner, ledger=books.service, limits={"team": ["9 requests/day, calendar"]})
    own = fake_principal("ada", realm="home", team="blue", org="acme", limits=["9 requests/day, calendar"])
    assert 200 == (await request(layer, "GET /v1/models", scope=called_by(own))).status
    assert {"caller:home/ada / requests / day": 1, "team:blue / requests / day": 1, "org:acme / requests / day": 1} == await books.used()
    assert 0 == books.held


async def test_what_a_layer_further_out_has_reserved_is_given_back_before_the_denial_goes_out() -> None:
    books = Books()
    inner = RateLimitMiddleware(Recorder(), ledger=books.service, limits={"org": ["1 requests/day, calendar"]})
    layer = RateLimitMiddleware(inner, ledger=books.service, limits={"team": ["1000 tokens/day, calendar", "1 concurrent"]})
    assert 200 == (await request(layer, CHAT, json=SMALL, scope=called_by(ADA))).status
    before = await books.used()
    held: list[int] = []

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                held.append(books.held)
            await send(message)

        await layer(scope, receive, noting)

    answer = await request(watching, CHAT, json=SMALL, scope=called_by(ADA))
    assert (429, "rate_limited") == refused(answer)
    assert [0] == held
    assert before == await books.used()


@pytest.mark.parametrize("rates_first", [True, False])
async def test_a_budget_stands_on_either_side_and_a_denial_of_one_gives_back_what_the_other_holds(*, rates_first: bool) -> None:
    books = Books()
    rate: dict[str, Any] = {"ledger": books.service, "limits": {"team": ["200 tokens/day, calendar", "3 requests/day, calendar"]}}
    budget: dict[str, Any] = {
        "ledger": books.service,
        "limits": {"team": ["0.001 usd/day"]},
        "prices": {"gpt-4o": Price(input=1, output=2)},
    }
    app = MockProvider()
    if rates_first:
        layer: ASGIApp = RateLimitMiddleware(BudgetMiddleware(app, **budget), **rate)
    else:
        layer = BudgetMiddleware(RateLimitMiddleware(app, **rate), **budget)
    tokens, requests, money = "team:blue / tokens / day", "team:blue / requests / day", "team:blue / nano_usd / day"
    assert 200 == (await request(layer, CHAT, json=SMALL, scope=called_by(ADA))).status
    assert {tokens: 5, requests: 1, money: 9000} == await books.used()
    too_dear = SMALL | {"max_tokens": 100, "n": 5}
    too_long = SMALL | {"max_tokens": 190}
    for body, reasons in ((too_dear, {"request_exceeds_budget", "request_exceeds_limit"}), (too_long, {"request_exceeds_limit"})):
        answer = await request(layer, CHAT, json=body, scope=called_by(ADA))
        assert 400 == answer.status
        assert answer.header("x-authmw-reason") in reasons
        used = await books.used()
        assert (5, 9000, 0) == (used[tokens], used[money], books.held)


async def test_tiers_are_looked_at_by_the_layer_that_has_them() -> None:
    tiers: dict[str, Any] = {"tiers": {"gold": ["1 requests/day, calendar"]}}
    nothing: dict[str, Any] = {}
    for outer, inner in ((nothing, tiers), (tiers, nothing)):
        books = Books()
        layer = RateLimitMiddleware(RateLimitMiddleware(Recorder(), ledger=books.service, **inner), ledger=books.service, **outer)
        gold, lead = fake_principal("ada", realm="home", tier="gold"), fake_principal("bob", tier="lead")
        answers = [await request(layer, "GET /v1/models", scope=called_by(who)) for who in (gold, gold, lead)]
        assert [200, 429, 403] == [answer.status for answer in answers]
        assert {"caller:home/ada / requests / day": 1} == await books.used()


# Behind roles and policies.


async def test_two_layers_with_tiers_of_their_own_both_have_to_know_the_tier() -> None:
    books = Books()
    inner = RateLimitMiddleware(Recorder(), ledger=books.service, tiers={"gold": ["9 concurrent"], "lead": ["9 concurrent"]})
    layer = RateLimitMiddleware(inner, ledger=books.service, tiers={"gold": ["9 requests/day"]})
    statuses = [(await request(layer, "GET /v1/models", scope=called_by(fake_principal(tier=tier)))).status for tier in ("gold", "lead")]
    assert [200, 403] == statuses


async def test_it_works_behind_keys_roles_and_policies() -> None:
    store = open_store("memory://")
    member = {"member": Role(routes=["/v1/**"], models=["gpt-4o*"], tier="silver")}
    rate = Middleware(RateLimitMiddleware, ledger=store.ledger, tiers={"silver": ["2 requests/day, calendar"]})
    app = Recorder()
    policies = [
        Policy("/v1/**", Stack(Middleware(KeyAuthMiddleware, keys=store.keys), Middleware(RBACMiddleware, roles=member), rate)),
        Policy("GET /health", public=True),
    ]
    guarded = PolicyRouter(app, policies=policies, inventory="off")
    async with lifespan(guarded):
        created = await store.keys.create(user="ada", roles=["member"])
        headers = [(b"x-api-key", str(created.key).encode())]
        statuses = [(await request(guarded, CHAT, headers=headers, json=SMALL)).status for _ in range(3)]
        assert [200, 200, 429] == statuses
        async with websocket(guarded, "/v1/realtime?model=gpt-4o", headers=headers) as socket:
            assert (429, "rate_limited") == refused(socket.response)
        denied = await request(guarded, CHAT, headers=headers, json=SMALL | {"model": "o3"})
        assert (403, "model_not_allowed") == refused(denied)
        assert [200] * 3 == [(await request(guarded, "GET /health")).status for _ in range(3)]


async def test_limits_of_a_key_and_of_its_team_are_those_of_the_store() -> None:
    store = open_store("memory://")
    app = Stack(Middleware(KeyAuthMiddleware, keys=store.keys), Middleware(RateLimitMiddleware, ledger=store.ledger))(Recorder())
    await store.accounts.create("team", "blue", limits=["3 requests/day, calendar"])
    one = await store.keys.create(team="blue", limits=["2 requests/day, calendar"])
    other = await store.keys.create(team="blue")

    async def ask(created: Any) -> int:
        return (await request(app, "GET /v1/models", headers=[(b"x-api-key", created.key.encode())])).status

    assert [200, 200, 429, 200, 429] == [await ask(one), await ask(one), await ask(one), await ask(other), await ask(other)]
    await store.accounts.update("team", "blue", limits=["4 requests/day, calendar"])
    assert [200, 429] == [await ask(other), await ask(other)]


async def test_other_events_pass() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await Site(app).layer({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert ["lifespan"] == seen
