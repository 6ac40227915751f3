"""Ways around a limit: by another spelling, another name, another protocol, or by being counted as somebody else."""

import itertools
from typing import Any, Final

import pytest
from starlette.middleware import Middleware

from llm_authmw import Principal, RateLimitMiddleware, RBACMiddleware, Role, Stack, open_store
from llm_authmw.asgi import ASGIApp
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import Response, WebSocketClosed, fake_principal, request, stream, websocket
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.recorder import Recorder
from llm_authmw.testing.tickets import TicketLayer

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
BODY: Final[dict[str, Any]] = {"model": "gpt-4o", "messages": []}
JSON: Final = [(b"content-type", b"application/json")]
ONE: Final = ["1 requests/day, calendar"]
MANY: Final = ["1000 requests/day, calendar"]
ADA: Final = fake_principal("ada", realm="home", team="blue")


class Site:
    def __init__(self, **limits: list[str]) -> None:
        self.books: Final = Books()
        self.app: Final = Recorder()
        self.layer: Final = RateLimitMiddleware(self.app, ledger=self.books.service, limits=limits)

    async def ask(self, target: str = CHAT, who: Principal = ADA, *, json: Any = BODY, **given: Any) -> Response:
        sent = {"json": json} if target.startswith("POST") and "body" not in given else {}
        return await request(self.layer, target, scope=called_by(who) | given.pop("scope", {}), **sent, **given)

    async def statuses(self, *asked: dict[str, Any]) -> list[int]:
        return [(await self.ask(**one)).status for one in asked]


# By header.


@pytest.mark.parametrize(
    "header",
    [
        (b"x-forwarded-for", b"198.51.100.%d"),
        (b"forwarded", b"for=198.51.100.%d"),
        (b"x-real-ip", b"198.51.100.%d"),
        (b"true-client-ip", b"198.51.100.%d"),
        (b"x-client-ip", b"198.51.100.%d"),
        (b"cf-connecting-ip", b"198.51.100.%d"),
    ],
)
async def test_no_header_of_a_clients_own_gives_it_another_address(header: tuple[bytes, bytes]) -> None:
    site = Site(address=ONE)
    asked = [{"headers": [(header[0], header[1] % number)]} for number in range(3)]
    assert [200, 429, 429] == await site.statuses(*asked)


@pytest.mark.parametrize("name", [b"x-team", b"x-user-id", b"x-tier", b"x-authmw-tier", b"user-agent", b"idempotency-key", b"x-request-id"])
async def test_no_header_makes_a_caller_somebody_else(name: bytes) -> None:
    site = Site(caller=ONE)
    assert [200, 429] == await site.statuses(*({"headers": [(name, value)]} for value in (b"a", b"b")))


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"x_http_method_override", b"x-original-url", b"X-Rewrite-URL"])
async def test_headers_that_rewrite_the_request_reach_no_app_behind_a_limit_by_route_or_model(name: bytes) -> None:
    site = Site(**{"route:POST /v1/**": ONE, "caller": MANY})
    answer = await site.ask("GET /other", headers=[(name, b"POST /v1/chat/completions")])
    assert 200 == answer.status
    assert name.lower() not in {line.lower() for line, _ in site.app.scopes[0]["headers"]}


async def test_a_context_that_a_client_would_like_to_have_is_none() -> None:
    site = Site(caller=ONE)
    assert 200 == (await site.ask()).status
    answer = await site.ask(headers=[(CONTEXT_KEY.encode(), b"x"), (b"x-llm-authmw-context", b"{}")])
    assert 429 == answer.status


# By the spelling of a model, of a path, of a method.


@pytest.mark.parametrize("scope", ["model", "model:gpt-4o*", "model:GPT-4O", "model_group:big"])
async def test_a_model_in_other_letters_is_the_same_model(scope: str) -> None:
    books = Books()
    groups = {"big": ["gpt-4O*"]} if "group" in scope else None
    layer = RateLimitMiddleware(Recorder(), ledger=books.service, limits={scope: ONE}, model_groups=groups)
    statuses = [
        (await request(layer, CHAT, json=BODY | {"model": model}, scope=called_by(ADA))).status for model in ("gpt-4o", "GPT-4o", "Gpt-4O")
    ]
    assert [200, 429, 429] == statuses


@pytest.mark.parametrize(
    "spelling", ["gpt-4o ", " gpt-4o", "gpt-4o\n", "gpt-4o\u200b", "gpt\u20114o", "gpt-4o,o3", "", "gpt 4o", ["gpt-4o"], 4, "g\u0440t-4o"]
)
async def test_a_model_in_a_spelling_that_is_no_models_name_is_refused(spelling: Any) -> None:
    site = Site(model=MANY)
    assert (await site.ask(json=BODY | {"model": spelling})).status in {400, 403}
    assert [] == site.app.scopes


@pytest.mark.parametrize(
    "named",
    [
        {"json": BODY | {"model": "o3", "fallbacks": ["gpt-4o"]}},
        {"json": BODY | {"model": "o3", "models": ["gpt-4o"]}},
        {"target": "POST /v1/chat/completions?model=gpt-4o", "json": {"messages": [], "model": "o3"}},
        {"target": "POST /openai/deployments/gpt-4o/chat/completions", "json": {"messages": []}},
        {"target": "POST /v1/responses", "json": {"input": "x", "model": "gpt-4o"}},
    ],
    ids=str,
)
async def test_a_model_counts_wherever_it_is_named(named: dict[str, Any]) -> None:
    site = Site(**{"model:gpt-4o": ONE, "caller": MANY})
    assert 200 == (await site.ask()).status
    assert 429 == (await site.ask(**named)).status


async def test_a_request_that_leaves_the_model_to_the_app_is_refused_under_a_limit_by_model() -> None:
    bodies: list[dict[str, Any]] = [{"messages": []}, {"messages": [], "fallbacks": ["o3"]}, {"model": None, "messages": []}]
    for scope in ("model", "model:gpt-4o", "team+model"):
        site = Site(**{scope: MANY})
        for body in bodies:
            assert 403 == (await site.ask(json=body)).status
        assert [] == site.app.scopes


@pytest.mark.parametrize(
    "target", ["POST /v1//chat/completions", "POST /v1/./chat/completions", "POST /v1/chat%2fcompletions", "POST /v1/chat/completions;x"]
)
async def test_no_spelling_of_a_path_gets_around_a_limit_by_route(target: str) -> None:
    site = Site(**{"route:POST /v1/chat/completions": ONE})
    assert 200 == (await site.ask()).status
    assert (await site.ask(target)).status in {400, 429}


async def test_head_is_counted_as_get_and_a_method_in_small_letters_as_itself() -> None:
    site = Site(**{"route:GET /v1/models": ONE})
    assert [200, 429, 429] == await site.statuses(*({"target": f"{method} /v1/models"} for method in ("GET", "HEAD", "GET")))
    lower = await site.ask("GET /v1/models", scope={"method": "get"})
    assert 429 == lower.status


async def test_ids_in_a_path_make_no_bucket_each() -> None:
    site = Site(route=ONE)
    assert [200, 429, 429] == await site.statuses(*({"target": f"GET /v1/files/f{number}"} for number in range(3)))
    assert [200, 429, 429] == await site.statuses(*({"target": f"GET /own/{number}"} for number in range(3)))
    assert {"route:files / requests / day", "route:unlisted / requests / day"} == (await site.books.used()).keys()


# By names.


NASTY: Final = [
    "a/b",
    "a",
    "a+b",
    "a+model:o3",
    "a%2Fb",
    "a%2fb",
    "a:b",
    "A",
    "a b",
    "a / requests / day",
    "team:a",
    "sha256 x",
    "ä",
    "a\u0308",
]


@pytest.mark.parametrize("scope", ["team", "user", "caller", "member", "org", "tag", "tenant"])
async def test_no_name_is_counted_in_the_bucket_of_another(scope: str) -> None:
    site = Site(**({scope: ONE} | ({"global": MANY} if scope == "tag" else {})))
    for name in NASTY:
        facts: dict[str, Any] = {"team": name, "org": name, "tags": [name], "tenant": name}
        assert 200 == (await site.ask(who=fake_principal(f"u-{name}", realm="home", **facts))).status, name
        assert 429 == (await site.ask(who=fake_principal(f"u-{name}", realm="home", **facts))).status, name


async def test_a_realm_and_a_user_cannot_be_put_together_into_another_pair() -> None:
    site = Site(user=ONE)
    pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc")]
    assert [200] * 4 == await site.statuses(*({"who": Principal(realm=realm, user=user, method="jwt")} for realm, user in pairs))
    assert [429] * 4 == await site.statuses(*({"who": Principal(realm=realm, user=user, method="jwt")} for realm, user in pairs))


async def test_equal_names_in_two_realms_or_tenants_are_two_people() -> None:
    site = Site(caller=ONE)
    people = [fake_principal("ada", realm=realm, tenant=tenant) for realm, tenant in itertools.product(("home", "work"), ("t1", "t2"))]
    assert [200] * 4 == await site.statuses(*({"who": person} for person in people))
    assert [429] * 4 == await site.statuses(*({"who": person} for person in people))


async def test_a_tenant_that_is_called_like_the_shared_one_shares_nothing() -> None:
    site = Site(**{"global": ["2 requests/day, calendar"], "tenant": MANY})
    star = fake_principal("eve", tenant="*")
    assert [200, 200, 429] == await site.statuses({"who": star}, {}, {"who": star})
    site = Site(tenant=ONE)
    assert [200, 200] == await site.statuses({"who": star}, {})


async def test_names_of_every_length_are_counted_apart() -> None:
    site = Site(**{"org+team+member": ONE})
    long = "+" * 511
    people = [fake_principal("u", realm=long + "r", org=long + "o", team=long + last) for last in "ab"]
    assert [200, 200, 429, 429] == await site.statuses(*({"who": person} for person in people * 2))


# By what a caller may choose.


async def test_another_end_user_with_each_request_does_not_get_around_the_callers_own_limit() -> None:
    site = Site(caller=["3 requests/day, calendar"], end_user=ONE)
    statuses = await site.statuses(*({"json": BODY | {"user": f"customer-{number}"}} for number in range(6)))
    assert [200, 200, 200, 429, 429, 429] == statuses
    used = await site.books.used()
    assert [1, 1, 1, 0, 0, 0] == [used[f"end_user:customer-{number} / requests / day"] for number in range(6)]


@pytest.mark.parametrize(
    "body", [BODY, BODY | {"user": None}, BODY | {"user": ""}, BODY | {"user": 7}, BODY | {"metadata": {"tags": ["vip"]}}], ids=str
)
async def test_a_request_that_does_not_say_for_whom_it_is_is_refused_where_that_counts(body: dict[str, Any]) -> None:
    site = Site(caller=MANY, end_user=MANY)
    assert 403 == (await site.ask(json=body)).status


@pytest.mark.parametrize("member", ["tags", "metadata", "litellm_metadata"])
async def test_tags_of_a_callers_own_making_are_none(member: str) -> None:
    site = Site(caller=MANY, **{"tag:vip": MANY, "tag": ONE})
    tagged = fake_principal("ada", tags=["cheap"])
    forged = {member: ["vip"] if member == "tags" else {"tags": ["vip"]}}
    assert 200 == (await site.ask(who=tagged, json=BODY)).status
    answer = await site.ask(who=tagged, json=BODY | forged, headers=[(b"x-litellm-tags", b"vip")])
    assert answer.status in {400, 429}
    assert not any("vip" in name for name in await site.books.used())


async def test_many_models_in_one_request_cost_a_bounded_number_of_buckets() -> None:
    site = Site(model=MANY, caller=["9 requests/day, calendar"])
    many = {"fallbacks": [f"m{number}" for number in range(900)]}
    assert 400 == (await site.ask(json=BODY | many)).status
    assert {} == await site.books.used()


async def test_another_model_with_each_request_does_not_get_around_the_callers_own_limit() -> None:
    site = Site(caller=["2 requests/day, calendar"], model=ONE)
    assert [200, 200, 429] == await site.statuses(*({"json": BODY | {"model": f"m{number}"}} for number in range(3)))


async def test_all_addresses_of_a_network_of_one_subscriber_are_one() -> None:
    site = Site(address=ONE)
    asked = [{"scope": {"client": (f"2001:db8:7:7::{number:x}", 1)}} for number in (1, 2, 0xFFFF)]
    assert [200, 429, 429] == await site.statuses(*asked)
    assert [200, 429] == await site.statuses(*({"scope": {"client": (peer, 1)}} for peer in ("192.0.2.9", "::ffff:192.0.2.9")))


async def test_an_address_that_is_not_known_is_refused() -> None:
    site = Site(address=MANY)
    for peer in (None, ("", 0), ("unix", 0), ("fe80::1%eth0", 1)):
        assert 403 == (await site.ask(scope={"client": peer})).status


# By another protocol.


async def test_a_socket_counts_with_the_requests() -> None:
    site = Site(caller=["2 requests/day, calendar"])
    assert 200 == (await site.ask()).status
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
        assert socket.accepted
    assert 429 == (await site.ask()).status
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
        assert 429 == socket.response.status


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "session.update", "session": {"model": "o3"}},
        {"type": "response.create", "response": {"model": "gpt-4o-mini"}},
        {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}},
    ],
    ids=str,
)
async def test_a_socket_cannot_go_on_to_a_model_that_was_not_counted(frame: dict[str, Any]) -> None:
    site = Site(model=MANY)
    async with websocket(site.layer, "/v1/realtime?model=gpt-4o", scope=called_by(ADA)) as socket:
        await socket.send_json({"type": "response.create", "response": {}})
        assert "heard" == await socket.receive()
        await socket.send_json({"type": "session.update", "session": {"model": "GPT-4o"}})
        assert "heard" == await socket.receive()
        await socket.send_json(frame)
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        assert (1008, "limit_dimension_missing") == (caught.value.code, caught.value.reason)
    assert 2 == len(site.app.frames)
    assert 0 == site.books.held


async def test_a_socket_that_names_no_model_is_refused_under_a_limit_by_model() -> None:
    site = Site(model=MANY)
    async with websocket(site.layer, "/v1/realtime", scope=called_by(ADA)) as socket:
        assert 403 == socket.response.status
    assert [] == site.app.scopes


# By hiding what an answer used.


class Tokens:
    def __init__(self, app: ASGIApp) -> None:
        self.books: Final = Books()
        self.app: Final = RateLimitMiddleware(app, ledger=self.books.service, limits={"caller": ["1000 tokens/day, calendar"]})

    async def used(self) -> int:
        assert 0 == self.books.held
        return sum((await self.books.used()).values())


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/event-stream"), (b"content-encoding", b"br")], JSON])
async def test_who_leaves_with_what_no_meter_reads_has_used_what_was_claimed(headers: list[tuple[bytes, bytes]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"model":', "more_body": True})
        await receive()

    site = Tokens(app)
    async with stream(site.app, CHAT, json=BODY | {"max_tokens": 100}, scope=called_by(ADA)) as exchange:
        await exchange.next_chunk()
        await exchange.disconnect()
    ((claimed,),) = [amounts.values() for amounts in site.books.estimates]
    assert claimed == await site.used() > 100


@pytest.mark.parametrize("target", ["POST /vertex_ai/anything", "PUT /v1/chat/completions", "POST /v1/responses"])
async def test_what_is_fetched_later_or_announced_by_no_header_is_not_let_in_uncounted(target: str) -> None:
    app = Recorder()
    site = Tokens(app)
    text = b'{"model":"gpt-4o","input":"x","backgr\\u006fund":true}'
    given: dict[str, Any] = {"body": text, "headers": JSON} if target.endswith("responses") else {}
    assert 403 == (await request(site.app, target, scope=called_by(ADA), **given)).status
    assert [] == app.scopes


# By being nobody, or somebody who is denied.


async def test_a_caller_whom_the_roles_deny_uses_nothing_up_for_the_others() -> None:
    store = open_store("memory://")
    app = Stack(
        Middleware(TicketLayer),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["GET /v1/models"])}, default_role="member"),
        Middleware(RateLimitMiddleware, ledger=store.ledger, limits={"global": ONE}),
    )(Recorder())
    ticket = [(b"x-ticket", b"good-ada")]
    assert [401] * 3 == [(await request(app, "GET /v1/models")).status for _ in range(3)]
    assert [403] * 3 == [(await request(app, CHAT, json=BODY, headers=ticket)).status for _ in range(3)]
    assert [200, 429] == [(await request(app, "GET /v1/models", headers=ticket)).status for _ in range(2)]


async def test_a_denial_shows_nothing_of_another_tenant_and_no_id() -> None:
    site = Site(key=ONE, **{"global": MANY})
    who = fake_principal("ada", method="key", credential_id="k-7f3a9c", realm="home", team="blue", tenant="acme", org="holding")
    assert 200 == (await site.ask(who=who)).status
    answer = await site.ask(who=who)
    assert 429 == answer.status
    shown = answer.body.decode() + " ".join(value.decode() for _, value in answer.headers)
    assert not [name for name in ("7f3a9c", "acme", "holding", "blue", "ada", "home", "1000") if name in shown]
    assert "per API key" in shown
