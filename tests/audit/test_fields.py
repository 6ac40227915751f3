"""What a record says of a request."""

from typing import Any, Literal

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from llm_authmw import (
    AuditMiddleware,
    BudgetMiddleware,
    CustomAuthMiddleware,
    KeyAuthMiddleware,
    Person,
    Price,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    StaticKey,
    StaticKeys,
    StoreUnavailableError,
    TrustedProxies,
    Who,
    open_store,
)
from llm_authmw.keys.format import mint_key
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import FaultyLedger, ManualClock, fake_principal, request
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 100, "stream": True, "user": "end-user-7", "messages": []}
USAGE = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


async def chat(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({"object": "chat.completion", "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE})


BLUE = fake_principal(team="blue")
PRICES = {"*": Price(input="1", output="2")}
APP = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def audit(sink: KeptRecords, **options: Any) -> Middleware:
    return Middleware(AuditMiddleware, sink=sink, **options)


async def test_all_of_a_request_is_in_its_record() -> None:
    sink, books = KeptRecords(), Books()
    ada = fake_principal(user="ada", realm="home", email="ada@example.com", team="blue", org="acme", tenant="t1")
    layers = [
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o*"])}, default_role="member"),
        Middleware(RateLimitMiddleware, ledger=books.service, limits={"user": ["9 concurrent"], "team": ["1000 tokens/day, calendar"]}),
        Middleware(BudgetMiddleware, ledger=books.service, prices=PRICES, limits={"team": ["1 usd/day"]}),
    ]
    app = AuditMiddleware(Stack(*layers)(APP), sink=sink)
    headers = [(b"traceparent", b"00-" + TRACE + b"-00f067aa0ba902b7-01")]
    scope = {**called_by(ada), "client": ("192.0.2.7", 4)}
    answer = await request(app, "POST /v1/chat/completions?debug=1", headers=headers, json=CHAT, scope=scope)
    assert 200 == answer.status
    record = sink.request
    assert ("allowed", "complete", 200, None) == (record.outcome, record.end, record.status, record.reason)
    assert ("http", "POST", "/v1/chat/completions") == (record.protocol, record.verb, record.path)
    assert ("chat", ("gpt-4o-mini",), "gpt-4o-mini-2024-07-18", True) == (record.operation, record.models, record.served, record.streaming)
    assert TRACE.decode() == record.trace_id
    assert record.who == Who(
        tenant="t1",
        realm="home",
        team="blue",
        org="acme",
        roles=("member",),
        method=ada.method,
        credential_id=ada.credential_id,
        issuer=ada.issuer,
        assurance=ada.assurance.name.lower(),
    )
    assert Person(user="ada", email="ada@example.com", address="192.0.2.7", end_user="end-user-7") == record.person
    assert ["RBACMiddleware", "RateLimitMiddleware", "BudgetMiddleware"] == [decision.layer for decision in record.decisions]
    assert "member" == record.decisions[0].rule
    assert len(record.decisions) == len(record.spent)
    assert record.usage is not None
    assert (12, 30, True) == (record.usage.input, record.usage.output, record.usage.complete)
    assert record.charge is not None
    assert (12 + 2 * 30) * 1_000 == record.charge.amount
    rates, money = record.reservations
    assert (True, True) == (rates.settled, money.settled)
    assert {"concurrent", "tokens"} == rates.estimate.keys()
    assert {"user / concurrent": 9, "team:blue / tokens / day": 1000 - 42} == rates.left
    assert {"team:blue / nano_usd / day": 1_000_000_000 - 72_000} == money.left
    assert money.estimate["nano_usd"] > record.charge.amount
    assert not record.store_trouble


async def test_the_names_of_people_stand_in_the_part_that_can_be_forgotten_alone() -> None:
    sink, books = KeptRecords(), Books()
    ada = fake_principal(user="ada lovelace", realm="home", team="blue", email="ada@example.com")
    limits = {"user": ["1 requests/day"], "member": ["9 concurrent"], "caller": ["9 requests/hour"], "address": ["9 requests/minute"]}
    limits["team+end_user"] = ["8 requests/day"]
    app = AuditMiddleware(RateLimitMiddleware(APP, ledger=books.service, limits=limits), sink=sink)
    for _ in range(2):
        await request(app, "POST /v1/chat/completions", json=CHAT, scope={**called_by(ada), "client": ("192.0.2.7", 4)})
    allowed, denied = sink.of("request")
    assert ("rate_limited", "user / requests / day rolling") == (denied.reason, denied.decisions[-1].rule)
    assert 5 == len(allowed.reservations[0].left)
    for record in (allowed, denied):
        assert record.person is not None
        assert "ada lovelace" == record.person.user
        said = repr([record.who, record.decisions, record.reservations])
        for personal in ("ada", "192.0.2.7", "end-user-7"):
            assert personal not in said


async def test_a_request_that_a_later_layer_denies_names_what_was_reserved_and_given_back() -> None:
    sink, books = KeptRecords(), Books()
    outer = {"team": ["9 requests/day"]}
    inner = BudgetMiddleware(APP, ledger=books.service, prices=PRICES, limits={"team": ["0.000001 usd/day"]})
    app = AuditMiddleware(RateLimitMiddleware(inner, ledger=books.service, limits=outer), sink=sink)
    await request(app, "POST /v1/chat/completions", json=CHAT, scope=called_by(BLUE))
    record = sink.request
    assert ("denied", "BudgetMiddleware") == (record.outcome, record.layer)
    (reserved,) = record.reservations
    assert ({"requests": 1}, True) == (reserved.estimate, reserved.settled)


async def test_what_is_left_is_below_zero_where_there_is_debt() -> None:
    sink, books = KeptRecords(), Books()
    limits = {"team": ["30 tokens/day, calendar"]}
    app = AuditMiddleware(RateLimitMiddleware(APP, ledger=books.service, limits=limits, default_output=1), sink=sink)
    await request(app, "POST /v1/chat/completions", json={"model": "m", "messages": []}, scope=called_by(BLUE))
    assert {"team:blue / tokens / day": 30 - 42} == sink.request.reservations[0].left


@pytest.mark.parametrize("open_", [False, True])
async def test_a_ledger_that_does_not_answer_is_trouble_whether_or_not_the_request_is_let_in(open_: bool) -> None:
    sink, ledger = KeptRecords(), FaultyLedger(lambda: MemoryLedger(clock=ManualClock()))
    ledger.fail("down")
    option: Literal["allow", "deny"] = "allow" if open_ else "deny"
    for layer in (
        RateLimitMiddleware(APP, ledger=Books(ledger).service, limits={"team": ["9 concurrent"]}, on_store_failure=option),
        BudgetMiddleware(APP, ledger=Books(ledger).service, prices=PRICES, limits={"team": ["1 usd/day"]}, on_store_failure=option),
    ):
        sink.records.clear()
        app = AuditMiddleware(layer, sink=sink)
        answer = await request(app, "POST /v1/chat/completions", json=CHAT, scope=called_by(BLUE))
        assert (200 if open_ else 503) == answer.status
        assert ("allowed" if open_ else "denied", True) == (sink.request.outcome, sink.request.store_trouble)


async def test_a_settlement_that_nobody_confirms_is_trouble() -> None:
    sink, ledger = KeptRecords(), FaultyLedger(lambda: MemoryLedger(clock=ManualClock()))

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        ledger.fail("down")
        await APP(scope, receive, send)

    app = RateLimitMiddleware(fails, ledger=Books(ledger).service, limits={"team": ["9 concurrent"]})
    await request(AuditMiddleware(app, sink=sink), "POST /v1/chat/completions", json=CHAT, scope=called_by(BLUE))
    assert ("allowed", True) == (sink.request.outcome, sink.request.store_trouble)
    assert not sink.request.reservations[0].settled


async def test_keys_that_cannot_be_looked_up_are_trouble() -> None:
    sink, store = KeptRecords(), open_store("sqlite:////nowhere/that/exists/authmw.db")
    app = AuditMiddleware(KeyAuthMiddleware(Witness(), keys=store.keys), sink=sink)
    answer = await request(app, "GET /v1/models", headers=[(b"x-api-key", mint_key().text.encode())])
    assert (503, "store_unavailable") == (answer.status, sink.request.reason)
    assert sink.request.store_trouble


async def test_a_function_of_the_users_whose_store_is_down_is_trouble() -> None:
    async def fails(_: Any) -> Any:
        raise StoreUnavailableError("down")

    sink = KeptRecords()
    app = AuditMiddleware(CustomAuthMiddleware(Witness(), authenticate=fails), sink=sink)
    answer = await request(app, "GET /v1/models", headers=[(b"authorization", b"Bearer whatever")])
    assert 503 == answer.status
    assert sink.request.store_trouble


async def test_an_engine_that_does_not_answer_is_trouble() -> None:
    async def fails(_: Any) -> bool:
        raise RuntimeError("down")

    sink = KeptRecords()
    app = AuditMiddleware(RBACMiddleware(Witness(), authorizer=fails), sink=sink)
    assert 503 == (await request(app, "GET /v1/models", scope=called_by(BLUE))).status
    assert sink.request.store_trouble


async def test_an_operation_that_no_layer_has_read_is_known_by_its_route() -> None:
    sink = KeptRecords()
    app = AuditMiddleware(Witness(), sink=sink)
    for target in ("POST /v1/embeddings", "POST /v1beta/models/gemini-2.5-pro:generateContent", "GET /somewhere"):
        await request(app, target)
    assert [("embeddings", ()), ("generate_content", ("gemini-2.5-pro",)), (None, ())] == [
        (record.operation, record.models) for record in sink.of("request")
    ]


async def test_the_path_is_what_the_app_routes_on_whatever_the_url_says() -> None:
    sink = KeptRecords()
    app = AuditMiddleware(Witness(), sink=sink)
    headers = [(b"host", b"evil.example/%2e%2e/admin?"), (b"x-original-url", b"/admin"), (b"x-forwarded-prefix", b"/admin")]
    await request(app, "GET /v1/models?path=/admin", headers=headers)
    assert "/v1/models" == sink.request.path


async def test_the_path_is_that_of_the_beginning_whatever_the_framework_makes_of_the_scope() -> None:
    sink = KeptRecords()

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = "/elsewhere"
        await Witness()(scope, receive, send)

    await request(AuditMiddleware(Starlette(routes=[Mount("/v1", mounted)]), sink=sink), "GET /v1/models")
    assert "/v1/models" == sink.request.path


@pytest.mark.parametrize("path", ["/v1//models", "/v1/../admin", "/v1/%2e%2e/admin", "/v1\\models", "/v1/a;b"])
async def test_a_path_that_can_be_read_in_two_ways_is_recorded_as_it_came(path: str) -> None:
    sink = KeptRecords()
    await request(AuditMiddleware(Witness(), sink=sink), "GET /", scope={"path": path})
    assert path == sink.request.path


PROXIES = TrustedProxies(["10.0.0.0/8"])
FORWARDED = [(b"x-forwarded-for", b"203.0.113.9, 10.2.2.2")]


@pytest.mark.parametrize(
    ("peer", "proxies", "headers", "address"),
    [
        ("10.1.1.1", PROXIES, FORWARDED, "203.0.113.9"),
        ("10.1.1.1", None, FORWARDED, "10.1.1.1"),
        ("192.0.2.7", PROXIES, FORWARDED, "192.0.2.7"),
        ("10.1.1.1", PROXIES, [(b"X-Forwarded-For", b"203.0.113.9")], "203.0.113.9"),
        ("10.1.1.1", PROXIES, [(b"x-forwarded-for", b"203.0.113.9, nonsense")], None),
        ("10.1.1.1", PROXIES, [(b"x-forwarded-for", b"198.51.100.1, " * 4000 + b"203.0.113.9")], None),
        ("::ffff:192.0.2.7", None, [], "192.0.2.7"),
        ("unknown", None, [], None),
    ],
)
@pytest.mark.parametrize("given_to", ["layer", "stack"])
async def test_the_address_is_the_one_that_the_one_setting_gives(
    peer: str, proxies: TrustedProxies | None, headers: Any, address: str | None, given_to: str
) -> None:
    sink = KeptRecords()
    if given_to == "layer":
        app: Any = AuditMiddleware(Witness(), sink=sink, trusted_proxies=proxies)
    else:
        app = Stack(audit(sink), trusted_proxies=proxies)(Witness())
    await request(app, "GET /x", headers=headers, scope={"client": (peer, 1)})
    assert address == (None if sink.request.person is None else sink.request.person.address)


async def test_the_setting_of_a_layer_further_in_counts_in_a_plain_list() -> None:
    sink = KeptRecords()
    keys = StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"})
    app = AuditMiddleware(KeyAuthMiddleware(Witness(), keys=keys, trusted_proxies=PROXIES), sink=sink)
    await request(app, "GET /x", headers=FORWARDED, scope={"client": ("10.1.1.1", 1)})
    assert sink.request.person is not None
    assert "203.0.113.9" == sink.request.person.address


async def test_a_static_key_is_named_by_its_id_and_never_shown() -> None:
    sink = KeptRecords()
    secret = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
    keys = StaticKeys({"ci": StaticKey(secret, user="ada", team="blue")})
    app = Stack(audit(sink), Middleware(KeyAuthMiddleware, keys=keys))(Witness())
    await request(app, "GET /x", headers=[(b"x-api-key", secret.encode())])
    record = sink.request
    assert record.who is not None
    assert ("key", "ci", "shared_secret", "blue") == (record.who.method, record.who.credential_id, record.who.assurance, record.who.team)
    assert secret not in repr(record)


async def test_decisions_have_their_times() -> None:
    sink, clock = KeptRecords(), ManualClock()

    class Slow(RBACMiddleware):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            clock.advance(0.5)
            await super().__call__(scope, receive, send)

    layers = Slow(Witness(), roles={"member": Role(routes=["*"])}, default_role="member")
    await request(AuditMiddleware(layers, sink=sink, clock=clock), "GET /x", scope=called_by(BLUE))
    assert (500_000,) == sink.request.spent
