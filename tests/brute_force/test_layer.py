"""Who is let in, who waits, who is locked out, and what the client and the record are told."""

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llm_authmw import (
    BruteForceMiddleware,
    ConfigurationError,
    CustomAuthMiddleware,
    Denial,
    HeaderMap,
    HeaderTrustMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Principal,
    RateLimitMiddleware,
    SharedSecret,
    Stack,
    TrustedProxies,
    route_inventory,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.context import Decision
from llm_authmw.identity import Recording
from llm_authmw.testing import call, request, websocket
from llm_authmw.testing.books import Books
from llm_authmw.testing.guessing import ELSEWHERE, HOME, GuardedSite, alerts_seen, id_of, wrong_key
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

TOO_MANY = (429, "too_many_failures")
LOCKED_OUT = (429, "locked_out")
REFUSED = (401, "invalid_api_key")
GOOD = (200, None)
TWO: dict[str, list[str]] = {"address": ["2 requests/minute, burst 2"], "address+credential": []}
GROWING: dict[str, list[str]] = {"address": ["2 requests/minute, burst 2", "4 requests/hour, burst 4"], "address+credential": []}


# Who is refused.


async def test_failures_up_to_the_limit_are_told_as_ever_and_the_next_one_that_there_were_too_many() -> None:
    site = GuardedSite(TWO | {"address": ["2 requests/minute, burst 2", "9 requests/day, burst 9"]})
    assert [401, 401, 429] == await site.guess(3)
    assert TOO_MANY == await site.told(wrong_key())


async def test_the_only_limit_of_a_network_is_its_lockout() -> None:
    site = GuardedSite(TWO)
    await site.guess(3)
    assert LOCKED_OUT == await site.told(wrong_key())


async def test_from_a_network_that_is_locked_out_a_good_credential_is_no_more_judged_than_a_bad_one() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    await site.guess(3)
    good, bad = await site.ask(key), await site.ask(wrong_key())
    told = [[line for line in answer.headers if line[0] != b"x-request-id"] for answer in (good, bad)]
    assert told[0] == told[1]
    assert good.json()["error"] == bad.json()["error"]
    assert 0 == len(site.witness.scopes)


async def test_while_a_network_is_locked_out_neither_the_ledger_nor_the_keys_are_asked() -> None:
    site = GuardedSite(TWO)
    await site.guess(3)
    calls = list(site.faults.calls)
    with alerts_seen():
        assert [429] * 50 == await site.guess(50)
    assert calls == site.faults.calls
    assert ["denied"] == [decision.outcome for decision in site.context.decisions]


async def test_nothing_is_refused_to_another_network() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    await site.guess(5)
    assert GOOD == await site.told(key, ELSEWHERE)
    assert REFUSED == await site.told(wrong_key(), ELSEWHERE)


async def test_a_lockout_ends_at_the_second_that_the_client_was_told() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    answer = [await site.ask(wrong_key()) for _ in range(3)][-1]
    assert ("30", "30000") == (answer.header("retry-after"), answer.header("retry-after-ms"))
    site.clock.advance(29.99)
    later = await site.ask(key)
    assert (429, "1", "10") == (later.status, later.header("retry-after"), later.header("retry-after-ms"))
    site.clock.advance(0.02)
    assert GOOD == await site.told(key)


async def test_the_wait_grows_from_one_limit_to_the_next_up_to_the_lockout() -> None:
    site = GuardedSite(GROWING)
    waits: list[tuple[str | None, str | None]] = []
    for _ in range(3):
        answer = await site.ask(wrong_key())
        while answer.status == 401:
            answer = await site.ask(wrong_key())
        waits.append((answer.header("x-authmw-reason"), answer.header("retry-after")))
        site.clock.advance(float(answer.header("retry-after") or 0))
    # Two at once, then one every thirty seconds; four in the hour, then one every fifteen minutes.
    assert [("too_many_failures", "30"), ("too_many_failures", "30"), ("locked_out", "840")] == waits


async def test_every_process_hears_of_a_lockout_with_its_own_first_failure() -> None:
    site = GuardedSite(TWO)
    await site.guess(3)
    other = site.process()
    key = await site.new_key(user="ada")
    assert GOOD == await site.told(key, app=other)
    assert LOCKED_OUT == await site.told(wrong_key(), app=other)
    assert LOCKED_OUT == await site.told(await site.new_key(user="bob"), app=other)


# Who is not.


async def test_no_credential_is_no_failure_and_is_told_so_while_its_network_is_locked_out() -> None:
    site = GuardedSite(TWO)
    assert [(401, "missing_credential")] * 9 == [await site.told() for _ in range(9)]
    await site.guess(3)
    assert (401, "missing_credential") == await site.told()


async def test_a_credential_that_was_good_there_lately_is_judged_while_its_network_is_locked_out() -> None:
    site = GuardedSite(TWO)
    key, other = await site.new_key(user="ada"), await site.new_key(user="bob")
    assert GOOD == await site.told(key)
    await site.guess(5)
    assert GOOD == await site.told(key)
    assert LOCKED_OUT == await site.told(other)


async def test_what_was_good_in_another_network_is_not_known_in_this_one() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    assert GOOD == await site.told(key, ELSEWHERE)
    await site.guess(3)
    assert LOCKED_OUT == await site.told(key)


async def test_a_good_credential_is_remembered_for_so_long_and_its_use_renews_that() -> None:
    site = GuardedSite({"address": ["1 requests/day, burst 1"], "address+credential": []}, remembered=3600)
    key = await site.new_key(user="ada")
    for _ in range(3):
        assert GOOD == await site.told(key)
        site.clock.advance(3000)
    await site.guess(2)
    assert GOOD == await site.told(key)
    site.clock.advance(3601)
    assert LOCKED_OUT == await site.told(key)


async def test_the_use_of_a_good_credential_renews_what_is_remembered_before_that_ends() -> None:
    site = GuardedSite({"address": ["1 requests/day, burst 1"], "address+credential": []}, remembered=3600)
    key = await site.new_key(user="ada")
    assert GOOD == await site.told(key)
    site.clock.advance(3000)
    assert GOOD == await site.told(key)
    await site.guess(2)
    site.clock.advance(3000)
    assert GOOD == await site.told(key)


async def test_what_an_anonymous_caller_has_written_is_no_good_credential() -> None:
    proxy = Middleware(
        HeaderTrustMiddleware,
        realm="sso",
        headers=HeaderMap(user="x-forwarded-user"),
        proof=SharedSecret(header="x-proxy-proof", secret="kW8mQ2xV5nB7cL4jH9gF3dS6aP1zX0yT"),
        required=False,
    )
    site = GuardedSite(TWO, inside=[proxy])
    written = [(b"x-forwarded-user", b"admin")]
    assert GOOD == await site.told(headers=written)
    assert [401, 401, 429] == [(await site.ask(headers=[(b"x-proxy-proof", b"guess-%d" % guess)])).status for guess in range(3)]
    assert LOCKED_OUT == await site.told(headers=written)


async def test_whoever_is_let_in_takes_no_place_from_those_who_are_judged() -> None:
    site = GuardedSite(TWO, at_once=1)
    both = anyio.Event()
    inside: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(scope)
        if len(inside) == 2:
            both.set()
        await both.wait()
        await site.witness(scope, receive, send)

    keys = KeyAuthMiddleware(app, keys=site.store.keys)
    guarded = BruteForceMiddleware(keys, ledger=Books(clock=site.clock).service, at_once=1)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(partial(site.ask, await site.new_key(user="ada"), app=guarded))


async def test_whoever_leaves_while_being_judged_leaves_its_place() -> None:
    judging, never = anyio.Event(), anyio.Event()

    async def judge(connection: Any) -> Principal:
        if "x-slow" in connection.headers:
            judging.set()
            await never.wait()
        return Principal(user="ada")

    site = GuardedSite(TWO, at_once=1, inside=[Middleware(CustomAuthMiddleware, authenticate=judge, deadline=60)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(site.ask, "x", headers=[(b"x-slow", b"1")]))
        await judging.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        assert GOOD == await site.told("y")


async def test_a_key_that_was_good_and_is_revoked_is_remembered_no_more() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    assert GOOD == await site.told(key)
    await site.guess(3)
    await site.store.keys.revoke(id_of(key))
    # It is judged once more, and not again.
    assert REFUSED == await site.told(key)
    assert LOCKED_OUT == await site.told(key)
    assert ["locked_out"] == [decision.reason for decision in site.context.decisions]


async def test_a_revoked_key_in_a_loop_is_locked_out_by_itself_and_nobody_beside_it() -> None:
    site = GuardedSite()
    revoked, fresh = await site.new_key(user="ada"), await site.new_key(user="ada")
    await site.store.keys.revoke(id_of(revoked))
    statuses = [(await site.ask(revoked)).status for _ in range(100)]
    assert ([401] * 5, [429] * 95) == (statuses[:5], statuses[5:])
    assert GOOD == await site.told(fresh)
    assert GOOD == await site.told(await site.new_key(user="bob"))
    assert REFUSED == await site.told(revoked, ELSEWHERE)


async def test_credentials_that_end_in_an_office_full_of_people_lock_out_nobody() -> None:
    site = GuardedSite()
    for person in range(200):
        key = await site.new_key(user=f"user-{person}")
        await site.store.keys.revoke(id_of(key))
        assert REFUSED == await site.told(key)
    assert GOOD == await site.told(await site.new_key(user="ada"))


async def test_what_was_good_and_is_now_as_if_it_had_never_been_is_no_guess() -> None:
    # As a provider says of a token that has expired what it says of any text.
    good: set[str] = set()

    async def judge(connection: Any) -> Principal | Denial:
        given = connection.headers["authorization"]
        return Principal(user="ada") if given in good else Denial("token_inactive")

    site = GuardedSite(TWO, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)])
    for number in range(50):
        good.add(f"Bearer token-{number}")
        assert GOOD == await site.told(f"token-{number}")
        good.clear()
        assert 401 == (await site.ask(f"token-{number}")).status
    assert [401, 401, 429] == [(await site.ask(f"guess-{number}")).status for number in range(3)]


async def test_one_wrong_text_in_a_loop_leaves_its_network_to_others() -> None:
    site = GuardedSite()
    text = wrong_key()
    for _ in range(60):
        await site.ask(text)
        site.clock.advance(30)
    assert GOOD == await site.told(await site.new_key(user="bob"))


@pytest.mark.parametrize(
    ("fields", "after"), [({"routes": ["GET /other"]}, "route_not_allowed"), ({"networks": ["192.0.2.0/24"]}, "network_not_allowed")]
)
async def test_a_known_caller_who_may_not_is_no_failure(fields: dict[str, Any], after: str) -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(**fields)
    assert [(403, after)] * 6 == [await site.told(key) for _ in range(6)]


async def test_a_credential_that_could_not_be_judged_is_no_failure() -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("broken")

    site = GuardedSite(TWO, inside=[Middleware(CustomAuthMiddleware, authenticate=broken)])
    assert [503] * 6 == [(await site.ask("x")).status for _ in range(6)]


@pytest.mark.parametrize(
    ("address", "status"), [("192.0.2.77", 401), ("::ffff:192.0.2.77", 401), ("64:ff9b::192.0.2.77", 401), ("192.0.3.1", 429)]
)
async def test_an_exempt_network_is_never_locked_out(address: str, status: int) -> None:
    site = GuardedSite(TWO, exempt=["192.0.2.0/24"])
    assert status == (await site.guess(5, address))[-1]
    assert (status == 401) == (site.faults.calls == [])


# What it costs a good credential.


async def test_a_good_credential_costs_the_ledger_nothing() -> None:
    site = GuardedSite()
    key = await site.new_key(user="ada")
    assert [GOOD] * 5 == [await site.told(key) for _ in range(5)]
    assert [] == site.faults.calls


async def test_what_has_reached_its_limit_and_only_tells_is_asked_about_no_more() -> None:
    site = GuardedSite({"global": ["1 requests/day, burst 1"]})
    for host in range(4):
        await site.guess(1, f"198.51.100.{host}")
    # The second one finds out that there were too many, and is counted in another step.
    assert ["reserve", "settle", "reserve", "reserve", "settle", "reserve", "settle", "reserve", "settle"] == site.faults.calls


async def test_a_failure_is_one_reservation_that_is_settled_at_once() -> None:
    site = GuardedSite()
    await site.guess()
    assert ["reserve", "settle"] == site.faults.calls


# What is recorded and told.


async def test_the_record_shows_what_was_wrong_and_which_limit_was_reached() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    guess = wrong_key(id_of(key))
    await site.guess(2)
    await site.ask(guess)
    rule = f"failures / address:{HOME} / requests / minute rolling"
    assert [
        Decision("KeyAuthMiddleware", "denied", "key_mismatch", id_of(key)),
        Decision("BruteForceMiddleware", "denied", "locked_out", id_of(key), None, rule),
    ] == site.context.decisions
    await site.ask(guess)
    assert [Decision("BruteForceMiddleware", "denied", "locked_out", None, None, rule)] == site.context.decisions


async def test_a_lockout_is_told_of_once_a_day() -> None:
    site = GuardedSite(TWO)
    with alerts_seen() as seen:
        await site.guess(9)
        site.clock.advance(31)
        await site.guess(9)
        (alert,) = seen.alerts
        assert ("lockout", "*", f"address:{HOME}") == (alert.kind, alert.tenant, alert.subject)
        assert {"limit": "2 requests/minute, burst 2", "seconds": 30.0} == {name: alert.details[name] for name in ("limit", "seconds")}
        site.clock.advance(86_400)
        await site.guess(9)
        assert 2 == len(seen.alerts)
        assert seen.alerts[0].occasion != seen.alerts[1].occasion


async def test_a_short_wait_is_not_worth_an_alert() -> None:
    site = GuardedSite(GROWING)
    with alerts_seen() as seen:
        assert [401, 401, 429] == await site.guess(3)
    assert [] == seen.alerts


async def test_guessing_at_one_id_from_many_networks_is_told_of_and_answered_as_ever() -> None:
    site = GuardedSite({"credential": ["3 requests/day, burst 3"]})
    key = await site.new_key(user="ada")
    with alerts_seen() as seen:
        statuses = [(await site.guess(1, f"198.51.100.{host}", at=id_of(key)))[0] for host in range(8)]
    assert [401] * 8 == statuses
    assert [f"credential:{id_of(key)}"] == seen.subjects
    assert GOOD == await site.told(key)


async def test_ended_credentials_of_one_caller_are_told_of_and_another_one_stays_good() -> None:
    site = GuardedSite({"caller": ["3 requests/day, burst 3"]})
    revoked, key = await site.new_key(user="ada"), await site.new_key(user="ada")
    await site.store.keys.revoke(id_of(revoked))
    with alerts_seen() as seen:
        for host in range(6):
            await site.ask(revoked, f"198.51.100.{host}")
    assert ["caller:default/keys/ada"] == seen.subjects
    assert GOOD == await site.told(key, "198.51.100.1")


async def test_guessing_from_everywhere_is_told_of() -> None:
    site = GuardedSite({"global": ["5 requests/hour, burst 5"]})
    with alerts_seen() as seen:
        for host in range(9):
            await site.guess(1, f"198.51.100.{host}")
    assert ["global"] == seen.subjects


# By what it is counted.


@pytest.mark.parametrize(
    ("options", "one", "another", "same"),
    [
        ({}, "203.0.113.7", "203.0.113.8", False),
        ({}, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ({}, "2001:db8::1", "2001:db8:0:1::1", False),
        ({}, "::ffff:203.0.113.7", "203.0.113.7", True),
        ({"ipv4_prefix": 24}, "203.0.113.7", "203.0.113.200", True),
        ({"ipv6_prefix": 48}, "2001:db8:0:1::1", "2001:db8:0:ffff::1", True),
        ({"ipv6_prefix": 48}, "2001:db8:0:1::1", "2001:db8:1::1", False),
        ({}, "fe80::1%eth0", "testclient", True),
    ],
)
async def test_addresses_of_one_network_are_counted_together(options: dict[str, Any], one: str, another: str, same: bool) -> None:
    site = GuardedSite(TWO, **options)
    await site.guess(3, one)
    assert (429 if same else 401) == (await site.guess(1, another))[0]


async def test_whoever_has_no_address_is_counted_with_all_that_have_none() -> None:
    site = GuardedSite(TWO)
    await site.guess(3, None)
    assert LOCKED_OUT == await site.told(wrong_key(), None)
    assert REFUSED == await site.told(wrong_key(), HOME)


async def test_behind_a_trusted_proxy_it_is_the_clients_network_that_is_counted() -> None:
    site = GuardedSite(TWO, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    for _ in range(3):
        await site.ask(wrong_key(), "10.0.0.1", headers=[(b"x-forwarded-for", b"203.0.113.7")])
    assert LOCKED_OUT == await site.told(wrong_key(), "10.0.0.2", headers=[(b"x-forwarded-for", b"203.0.113.7")])
    assert REFUSED == await site.told(wrong_key(), "10.0.0.1", headers=[(b"x-forwarded-for", b"203.0.113.8")])


async def test_a_layer_inside_may_say_whose_word_about_addresses_is_taken() -> None:
    site = GuardedSite(TWO)
    service = Books(site.faults, clock=site.clock).service
    keys = KeyAuthMiddleware(site.witness, keys=site.store.keys, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    app = BruteForceMiddleware(keys, ledger=service, limits=TWO)
    for _ in range(3):
        await site.ask(wrong_key(), "10.0.0.1", app=app, headers=[(b"x-forwarded-for", b"203.0.113.7")])
    assert 401 == (await site.ask(wrong_key(), "10.0.0.1", app=app, headers=[(b"x-forwarded-for", b"203.0.113.8")])).status


async def test_handshakes_of_sockets_count_and_are_refused_too() -> None:
    site = GuardedSite(TWO)
    told: list[tuple[int, str | None]] = []
    for _ in range(4):
        headers = [(b"x-api-key", wrong_key().encode())]
        async with websocket(site.app, "/v1/realtime", headers=headers, scope={"client": (HOME, 1)}) as socket:
            told.append((socket.response.status, socket.response.header("x-authmw-reason")))
    assert [REFUSED, REFUSED, LOCKED_OUT, LOCKED_OUT] == told
    assert LOCKED_OUT == await site.told(wrong_key())


async def test_what_a_function_of_the_users_own_refuses_counts() -> None:
    def judge(connection: Any) -> Principal | Denial | None:
        return Principal(user="ada") if connection.cookies.get("ticket") == "good" else Denial("invalid_token")

    site = GuardedSite(TWO, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)])
    assert GOOD == await site.told(headers=[(b"cookie", b"ticket=good")])
    assert [401, 401, 429] == [(await site.ask(headers=[(b"cookie", b"ticket=%d" % guess)])).status for guess in range(3)]
    assert GOOD == await site.told(headers=[(b"cookie", b"ticket=good")])
    # Where a function may look anywhere, to present nothing that is known is a guess.
    assert LOCKED_OUT == await site.told()


# Trouble with the ledger.


async def test_while_the_ledger_is_down_failures_are_counted_here_and_good_credentials_are_let_in() -> None:
    site = GuardedSite(TWO)
    key = await site.new_key(user="ada")
    site.faults.fail("down")
    assert GOOD == await site.told(key)
    assert [401, 401, 429, 429] == await site.guess(4)
    assert GOOD == await site.told(key)
    assert GOOD == await site.told(await site.new_key(user="bob"), ELSEWHERE)


async def test_that_the_ledger_did_not_answer_is_in_the_record() -> None:
    site = GuardedSite(TWO)
    await site.guess()
    assert not site.context.store_trouble
    site.faults.fail("down")
    await site.guess()
    assert site.context.store_trouble


async def test_once_the_ledger_is_back_it_counts_again() -> None:
    site = GuardedSite(TWO)
    site.faults.fail("down")
    await site.guess(1)
    site.faults.heal()
    assert [401, 401, 429] == await site.guess(3)


# Where it stands.


def layered(*layers: Middleware) -> Stack:
    return Stack(*layers)


def test_without_an_authentication_layer_inside_it_would_hear_of_nothing() -> None:
    books = Books()
    with pytest.raises(ConfigurationError, match="no authentication layer stands inside"):
        BruteForceMiddleware(Witness(), ledger=books.service)
    with pytest.raises(ConfigurationError, match="no authentication layer stands inside"):
        layered(Middleware(BruteForceMiddleware, ledger=books.service), Middleware(RateLimitMiddleware, ledger=books.service))(Witness())


def test_inside_of_authentication_it_would_hear_of_nothing_either() -> None:
    site = GuardedSite()
    with pytest.raises(ConfigurationError, match="BruteForceMiddleware stands inside"):
        layered(*site_layers(site, "keys", "defence", "keys"))


def test_two_of_them_are_one_too_many() -> None:
    site = GuardedSite()
    with pytest.raises(ConfigurationError, match="once more"):
        layered(*site_layers(site, "defence", "defence", "keys"))


def test_what_records_requests_stands_outside_of_it() -> None:
    class Recorder(Recording):
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    site = GuardedSite()
    defence, keys = site_layers(site, "defence", "keys")
    layered(Middleware(Recorder), defence, keys)
    with pytest.raises(ConfigurationError, match="Recorder stands inside"):
        layered(defence, Middleware(Recorder), keys)


def site_layers(site: GuardedSite, *names: str) -> list[Middleware]:
    kinds = {
        "defence": Middleware(BruteForceMiddleware, ledger=Books().service),
        "keys": Middleware(KeyAuthMiddleware, keys=site.store.keys),
    }
    return [kinds[name] for name in names]


async def test_it_guards_the_policies_of_a_router() -> None:
    site = GuardedSite()
    keys = Stack(Middleware(KeyAuthMiddleware, keys=site.store.keys))
    router = PolicyRouter(site.witness, policies=[Policy("GET /health", public=True), Policy("/v1/**", keys)], inventory="off")
    app = layered(Middleware(BruteForceMiddleware, ledger=Books(clock=site.clock).service, limits=TWO))(router)
    assert [401, 401, 429] == await site.guess(3, app=app)
    answer = await request(app, "GET /health", headers=[(b"authorization", b"Bearer x")], scope={"client": (HOME, 1)})
    assert 200 == answer.status


async def test_it_stands_in_a_frameworks_own_list_and_in_its_inventory() -> None:
    site = GuardedSite(TWO)

    async def models(_: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/v1/models", models)], middleware=site_layers(site, "defence", "keys"))
    assert 401 == (await site.ask(wrong_key(), app=app)).status
    ((guarding,),) = [route.guarding for route in route_inventory(app).routes]
    assert ("BruteForceMiddleware", "KeyAuthMiddleware") == guarding.layers


async def test_a_policy_test_reaches_the_app_through_it() -> None:
    site = GuardedSite()
    answer = await call(site.app, "GET /v1/models", bearer=await site.new_key(user="ada"))
    assert answer.allowed, answer


async def test_the_lifespan_of_a_stack_owns_its_ledger() -> None:
    store = GuardedSite().store
    guarded = Stack(Middleware(BruteForceMiddleware, ledger=store.ledger), Middleware(KeyAuthMiddleware, keys=store.keys))(Witness())
    alone: Callable[[Any], Any] = Stack(Middleware(BruteForceMiddleware, ledger=store.ledger))
    assert store.ledger.resource in guarded._resources
    with pytest.raises(ConfigurationError):
        alone(Witness())


# Options.


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("ledger", None, "takes store.ledger"),
        ("limits", {"team": ["1 requests/day"]}, "nothing that failures are counted by"),
        ("limits", {"address": "1 requests/day"}, "takes a list of limits"),
        ("limits", {"address": ["1 usd/day"]}, "cannot be limited"),
        ("limits", {"address": [7]}, "string"),
        ("limits", {"address": ["9 tokens/day"]}, "counts no requests in a time"),
        ("limits", {"address": ["9 concurrent"]}, "counts no requests in a time"),
        ("limits", {"address": ["9 requests/day", "8 requests/day"]}, "two of one window"),
        ("limits", {"address": [], "address+credential": []}, "stop nobody"),
        ("exempt", ["0.0.0.0/0"], "is everybody"),
        ("exempt", ["::/0"], "is everybody"),
        ("exempt", ["10.0.0.1/8"], "is not a network"),
        ("exempt", "10.0.0.0/8", "a single one"),
        ("ipv4_prefix", 33, "from 16 to 32"),
        ("ipv4_prefix", True, "from 16 to 32"),
        ("ipv6_prefix", 65, "from 32 to 64"),
        ("ipv6_prefix", 31, "from 32 to 64"),
        ("remembered", 0, "from 1 to"),
        ("remembered", float("inf"), "from 1 to"),
        ("remembered", float("nan"), "from 1 to"),
        ("remembered", "1 day", "from 1 to"),
        ("at_once", 0, "from 1 to"),
        ("at_once", 1.5, "from 1 to"),
    ],
)
def test_a_wrong_option_is_an_error_that_names_it(option: str, value: Any, problem: str) -> None:
    site = GuardedSite()
    options: dict[str, Any] = {"ledger": Books().service, option: value}
    with pytest.raises(ConfigurationError, match=problem) as caught:
        BruteForceMiddleware(KeyAuthMiddleware(Witness(), keys=site.store.keys), **options)
    assert option == caught.value.option


def test_its_repr_says_what_it_limits() -> None:
    site = GuardedSite(TWO, exempt=["192.0.2.0/24"])
    assert "'address': ['2 requests/minute, burst 2']" in repr(site.app)
    assert "192.0.2.0/24" in repr(site.app)
