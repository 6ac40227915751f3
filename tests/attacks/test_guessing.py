"""Guessing credentials: one at a time and a thousand at once, from one place and from everywhere, and against whom it must not help."""

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from llm_authmw import (
    BruteForceMiddleware,
    CustomAuthMiddleware,
    Denial,
    HeaderMap,
    HeaderTrustMiddleware,
    JWTMiddleware,
    KeyAuthMiddleware,
    Principal,
    SharedSecret,
    Stack,
    TrustedProxies,
)
from llm_authmw.brute_force import gate as waiting
from llm_authmw.ledger.buckets import Claim
from llm_authmw.stack import GuardedApp
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import TestIssuer
from llm_authmw.testing.books import Books
from llm_authmw.testing.guessing import ELSEWHERE, HOME, GuardedSite, alerts_seen, id_of, wrong_key

pytestmark = pytest.mark.anyio

FEW: Final[dict[str, list[str]]] = {"address": ["3 requests/hour, burst 3"], "address+credential": ["2 requests/hour, burst 2"]}
PROXY_SECRET: Final = "kW8mQ2xV5nB7cL4jH9gF3dS6aP1zX0yT"


# Against somebody else's key.


async def test_guesses_at_an_id_from_everywhere_never_lock_out_its_owner() -> None:
    site = GuardedSite()
    key = await site.new_key(user="ada")
    for host in range(200):
        await site.guess(1, f"198.51.{host}.9", at=id_of(key))
    for address in (HOME, "192.0.2.1", "2001:db8::1"):
        assert (200, None) == await site.told(key, address)


async def test_guesses_at_an_id_from_one_network_lock_out_that_network_only() -> None:
    site = GuardedSite(FEW)
    key = await site.new_key(user="ada")
    assert [401, 401, 429, 429] == await site.guess(4, ELSEWHERE, at=id_of(key))
    assert (200, None) == await site.told(key, HOME)
    # There another id may still be judged, and this one may not.
    assert (429, "locked_out") == await site.told(key, ELSEWHERE)
    assert (200, None) == await site.told(await site.new_key(user="bob"), ELSEWHERE)


async def test_an_owner_beside_the_attacker_is_let_in_where_its_key_was_good_before() -> None:
    site = GuardedSite(FEW)
    key = await site.new_key(user="ada")
    assert (200, None) == await site.told(key)
    await site.guess(20, at=id_of(key))
    assert (200, None) == await site.told(key)


async def test_a_filled_limit_of_somebody_elses_is_no_way_to_be_counted_nowhere() -> None:
    site = GuardedSite({"credential": ["1 requests/day, burst 1"], "global": ["1 requests/day, burst 1"], **FEW})
    key = await site.new_key(user="ada")
    for host in range(5):
        await site.guess(1, f"198.51.100.{host}", at=id_of(key))
    assert [401, 401, 429] == await site.guess(3, at=id_of(key))
    # All three of them counted for the network, although the last one was too much for the id.
    assert [429] == await site.guess(1)


# From one place.


async def test_many_ids_from_one_network_are_few_guesses() -> None:
    site = GuardedSite(FEW)
    keys = [await site.new_key() for _ in range(30)]
    statuses = Counter([(await site.ask(wrong_key(id_of(key)))).status for key in keys])
    assert {401: 3, 429: 27} == statuses


async def test_every_address_of_a_64_is_one_guesser() -> None:
    site = GuardedSite(FEW)
    statuses = [(await site.guess(1, f"2001:db8:0:1::{host:x}"))[0] for host in range(1, 30)]
    assert Counter({429: 26, 401: 3}) == Counter(statuses)


async def test_many_64_of_one_48_are_told_of_and_are_one_guesser_where_that_is_asked_for() -> None:
    hops = [f"2001:db8:0:{subnet:x}::1" for subnet in range(50)]
    site = GuardedSite(FEW | {"global": ["20 requests/day, burst 20"], "credential": ["10 requests/day, burst 10"]})
    key = await site.new_key(user="ada")
    with alerts_seen() as seen:
        for address in hops:
            await site.guess(1, address, at=id_of(key))
    assert {f"credential:{id_of(key)}", "global"} == set(seen.subjects)
    wide = GuardedSite(FEW, ipv6_prefix=48)
    assert Counter({429: 47, 401: 3}) == Counter([(await wide.guess(1, address))[0] for address in hops])


@pytest.mark.parametrize("header", [b"x-forwarded-for", b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip"])
async def test_no_header_of_the_guessers_own_makes_another_network(header: bytes) -> None:
    site = GuardedSite(FEW)
    value = b"for=198.51.100.%d" if header == b"forwarded" else b"198.51.100.%d"
    statuses = [(await site.guess(1, headers=[(header, value % guess)]))[0] for guess in range(9)]
    assert [401, 401, 401, 429] == statuses[:4]
    assert {429} == set(statuses[3:])


@pytest.mark.parametrize("forged", [b"198.51.100.%d", b"198.51.100.%d, 192.0.2.1, unknown", b"1.1.1.%d" + b", 2.2.2.2" * 40, b"%d"])
async def test_behind_a_proxy_nothing_that_a_guesser_writes_in_front_helps(forged: bytes) -> None:
    site = GuardedSite(FEW, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    statuses: list[int] = []
    for guess in range(9):
        chain = forged % guess + b", 203.0.113.7"
        statuses += await site.guess(1, "10.0.0.1", headers=[(b"x-forwarded-for", chain)])
    assert [401, 401, 401, 429] == statuses[:4]
    assert {429} == set(statuses[3:])


async def test_to_make_its_address_unreadable_helps_nobody() -> None:
    site = GuardedSite(FEW, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    unreadable = [b"203.0.113.7:x", b"\xff", b"fe80::1%eth0", b", ".join([b"10.0.0.9"] * 33), b"203.0.113.7;"]
    statuses = [(await site.guess(1, "10.0.0.1", headers=[(b"x-forwarded-for", value)]))[0] for value in unreadable]
    assert [401, 401, 401, 429, 429] == statuses


async def test_every_channel_of_a_credential_counts_as_one() -> None:
    site = GuardedSite(FEW)
    channels = [b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"]
    statuses: list[int] = []
    for channel in channels:
        prefix = b"Bearer " if channel == b"authorization" else b""
        statuses.append((await site.ask(headers=[(channel, prefix + wrong_key().encode())])).status)
    assert [401, 401, 401, 429] == statuses


@pytest.mark.parametrize("guess", ["x", "sk-test", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.", "a" * 600])
async def test_what_is_no_key_at_all_counts_too(guess: str) -> None:
    site = GuardedSite(FEW)
    statuses = [(await site.ask(f"{guess}{number}")).status for number in range(5)]
    assert [401, 401, 401, 429, 429] == statuses


async def test_forged_tokens_count_and_expired_ones_lock_out_nobody_else() -> None:
    issuer = TestIssuer()
    layer = Middleware(JWTMiddleware, issuers=[issuer.trusted()])
    site = GuardedSite(FEW, inside=[layer])
    good = issuer.token(sub="ada")
    forged = [good[:-6] + f"{number:06d}" for number in range(5)]
    assert (200, None) == await site.told(good, ELSEWHERE)
    assert [401, 401, 401, 429, 429] == [(await site.ask(token)).status for token in forged]
    expired = issuer.token(sub="ada", exp=1_000_000_000)
    assert [401, 401, 429, 429] == [(await site.ask(expired, ELSEWHERE)).status for _ in range(4)]
    assert (200, None) == await site.told(issuer.token(sub="bob"), ELSEWHERE)


@pytest.mark.parametrize(
    "hops",
    [
        pytest.param([f"2002:cb00:7107:{subnet:x}::1" for subnet in range(9)], id="the 65,536 networks that 6to4 gives one IPv4 address"),
        pytest.param(["203.0.113.7", "::ffff:203.0.113.7", "64:ff9b::cb00:7107", "2002:cb00:7107::1"] * 2, id="one in many spellings"),
    ],
)
async def test_an_ipv4_address_in_whatever_ipv6_one_is_one_guesser(hops: list[str]) -> None:
    site = GuardedSite(FEW)
    statuses = [(await site.guess(1, address))[0] for address in hops]
    assert [401] * 3 + [429] * (len(hops) - 3) == statuses


async def test_behind_a_translator_one_guesser_does_not_lock_out_everybody_who_comes_by_ipv4() -> None:
    site = GuardedSite(FEW)
    await site.guess(9, "64:ff9b::cb00:7107")
    assert (200, None) == await site.told(await site.new_key(user="ada"), "64:ff9b::cb00:7108")


async def test_where_all_come_without_an_address_that_is_said_once_and_the_alert_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    site = GuardedSite(FEW)
    with alerts_seen() as seen:
        await site.guess(5, None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "unix_socket=True" in line
    (alert,) = seen.alerts
    assert ("address:unknown", True) == (alert.subject, "trusted_proxies" in alert.message)


async def test_an_address_that_a_client_makes_unreadable_is_nothing_that_the_log_complains_of(caplog: pytest.LogCaptureFixture) -> None:
    site = GuardedSite(FEW, trusted_proxies=TrustedProxies(["10.0.0.0/8"]))
    await site.guess(2, "10.0.0.1", headers=[(b"x-forwarded-for", b"?")])
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_comes_by_a_unix_socket_that_is_named_is_known_by_what_the_proxy_says() -> None:
    site = GuardedSite(FEW, trusted_proxies=TrustedProxies(unix_socket=True))
    assert 429 == (await site.guess(4, None, headers=[(b"x-forwarded-for", b"203.0.113.7")]))[-1]
    forwarded = [(b"x-forwarded-for", b"203.0.113.8")]
    assert (200, None) == await site.told(await site.new_key(user="ada"), None, headers=forwarded)


# By having something.


async def test_a_good_key_beside_a_guess_is_good_for_one_guess() -> None:
    proxy = Middleware(
        HeaderTrustMiddleware,
        realm="sso",
        headers=HeaderMap(user="x-forwarded-user"),
        proof=SharedSecret(header="x-proxy-proof", secret=PROXY_SECRET),
    )
    site = GuardedSite(FEW)
    site = GuardedSite(FEW, inside=[proxy, Middleware(KeyAuthMiddleware, keys=site.store.keys)])
    own = await _key_of(site)
    assert (200, None) == await site.told(own)
    await site.guess(4)
    # What it holds is judged still, until it comes with something that is wrong.
    assert (200, None) == await site.told(own)
    guesses = [await site.told(own, headers=[(b"x-proxy-proof", b"guess-%d" % number)]) for number in range(9)]
    assert {(429, "locked_out")} == set(guesses)
    judged = [decision for decision in site.context.decisions if decision.reason == "proxy_proof_invalid"]
    assert [] == judged
    assert (429, "locked_out") == await site.told(own)


async def _key_of(site: GuardedSite) -> str:
    keys: Any = next(layer for layer in site.app.all_layers if isinstance(layer, KeyAuthMiddleware))
    store = next(resource for resource in keys.resources)
    return str((await store.keys.create(user="eve")).key)


async def test_nobody_gets_into_what_is_remembered_as_good_by_guessing() -> None:
    site = GuardedSite(FEW)
    with alerts_seen():
        for _ in range(50):
            await site.guess(1)
            site.clock.advance(700)
    assert "proven=0" in repr(_memory_of(site.app))


def _memory_of(app: GuardedApp) -> Any:
    return app.layers[0]._memory  # type: ignore[attr-defined]


# At once.


class SlowJudge:
    """Judges passwords, each only once it is told to, and counts how many it has judged."""

    def __init__(self) -> None:
        self.judged: Final[list[str]] = []
        self.under_way = 0
        self.most = 0

    async def __call__(self, connection: Any) -> Principal | Denial | None:
        given = connection.headers.get("authorization")
        if given is None:
            return None
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        self.under_way -= 1
        self.judged.append(given)
        return Principal(user="ada") if given == "Bearer right" else Denial("invalid_token")


@pytest.mark.parametrize("processes", [1, 3])
async def test_of_a_thousand_guesses_at_once_few_are_judged(processes: int) -> None:
    judge = SlowJudge()
    site = GuardedSite(FEW, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)], at_once=4)
    apps = [site.app, *(site.process() for _ in range(processes - 1))]
    statuses: list[int] = []

    async def guess(number: int) -> None:
        statuses.append((await site.ask(f"wrong-{number}", app=apps[number % processes])).status)

    async with anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(guess, number)
    assert {401: 3, 429: 997} == Counter(statuses)
    assert len(judge.judged) <= 3 + 4 * processes
    assert judge.most <= 4 * processes
    assert 0 == sum(len(_memory_of(app).gate) for app in apps)


async def test_the_end_of_a_wait_lets_one_guess_in_at_each_process_and_not_as_many_as_come_at_that_moment() -> None:
    judge = SlowJudge()
    limits: dict[str, list[str]] = {"address": ["10 requests/day, burst 10"], "address+credential": []}
    site = GuardedSite(limits, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)])
    apps = [site.app, *(site.process() for _ in range(3))]
    judged: list[int] = []
    for wave in range(6):
        before = len(judge.judged)
        async with anyio.create_task_group() as tasks:
            for number in range(80):
                tasks.start_soon(partial(site.ask, f"wrong-{wave}-{number}", app=apps[number % 4]))
        judged.append(len(judge.judged) - before)
        site.clock.advance(8641)
    assert judged[0] <= 10 + 16 * 4
    # The one that was given back, and one for each process that then learns that it is gone.
    assert max(judged[1:]) <= 1 + 4


async def test_what_one_run_of_layers_has_found_good_opens_no_other_run_to_guesses() -> None:
    judge = SlowJudge()

    async def by_cookie(connection: Any) -> Principal | Denial | None:
        await judge(connection)
        return Denial("invalid_token")

    site = GuardedSite()
    inner = Mount("/v1", app=CustomAuthMiddleware(site.witness, authenticate=by_cookie))
    defence = Middleware(BruteForceMiddleware, ledger=Books(clock=site.clock).service, limits=FEW, at_once=4)
    app = Stack(defence, Middleware(KeyAuthMiddleware, keys=site.store.keys))(Starlette(routes=[inner]))
    own = await site.new_key(user="eve")
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(partial(site.ask, own, headers=[(b"cookie", b"pin=%d" % number)], app=app))
    assert len(judge.judged) <= 3 + 4
    # They were guesses, so the network is locked out, too.
    assert (429, "locked_out") == await site.told(wrong_key(), app=app)


async def test_what_waits_for_its_turn_is_bounded_though_the_clients_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 5)
    judging, answered = anyio.Event(), anyio.Event()

    async def hang(_: object) -> Denial:
        judging.set()
        await answered.wait()
        return Denial("issuer_unavailable")

    layer = Middleware(CustomAuthMiddleware, authenticate=hang, deadline=60)
    site = GuardedSite(FEW, inside=[layer], at_once=1)
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(site.ask, f"x-{number}")
            await judging.wait()
        await anyio.wait_all_tasks_blocked()
        told = await site.ask("y")
        assert (429, "concurrency_limited", "1") == (told.status, told.header("x-authmw-reason"), told.header("retry-after"))
        assert ["concurrency_limited"] == [decision.reason for decision in site.context.decisions]
        # Others are judged meanwhile.
        tasks.start_soon(site.ask, "z", ELSEWHERE)
        await anyio.wait_all_tasks_blocked()
        assert 1 + 5 + 1 == len(_memory_of(site.app).gate)
        answered.set()
    assert 0 == len(_memory_of(site.app).gate)


async def test_many_good_credentials_at_once_from_one_network_are_all_let_in() -> None:
    judge = SlowJudge()
    site = GuardedSite(FEW, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)], at_once=4)
    statuses: list[int] = []

    async def come() -> None:
        statuses.append((await site.ask("right")).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(come)
    assert [200] * 200 == statuses
    assert [] == site.faults.calls


async def test_to_leave_before_the_answer_is_no_way_not_to_be_counted() -> None:
    site = GuardedSite(FEW)
    for _ in range(3):
        site.faults.fail("frozen", times=1)
        async with anyio.create_task_group() as tasks:
            leaving = anyio.CancelScope()

            async def guess(leaving: anyio.CancelScope) -> None:
                with leaving:
                    await site.guess()

            tasks.start_soon(guess, leaving)
            while not site.faults.waiting:
                await anyio.lowlevel.checkpoint()
            leaving.cancel()
            await site.faults.thaw()
    assert (429, "locked_out") == await site.told(wrong_key())


# What a guesser learns, and what a flood costs.


async def test_an_id_that_somebody_has_is_counted_by_the_same_work_as_one_that_nobody_has() -> None:
    site = GuardedSite()
    asked: list[int] = []
    reserve = MemoryLedger.reserve

    async def counted(self: MemoryLedger, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Any:
        asked.append(len(claims))
        return await reserve(self, reservation_id, claims, ttl=ttl)

    key = await site.new_key(user="ada")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLedger, "reserve", counted)
        for guess in (wrong_key(id_of(key)), wrong_key()):
            assert (401, "invalid_api_key") == await site.told(guess)
    assert 1 == len(set(asked)), asked


async def test_a_password_that_was_mistyped_cannot_be_found_by_what_is_recorded_of_it() -> None:
    async def judge(_: object) -> Denial:
        return Denial("invalid_token")

    site = GuardedSite({"address+credential": ["1 requests/day, burst 1"]}, inside=[Middleware(CustomAuthMiddleware, authenticate=judge)])
    with alerts_seen() as seen:
        await site.ask("hunter2")
        await site.ask("hunter2")
    digest = hashlib.sha256(b"hunter2").hexdigest()
    told = repr(seen.alerts) + repr(site.context.decisions)
    assert digest[:5] in told
    assert digest[:6] not in told


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("POST /v1/chat/completions", []),
        ("POST /v1/messages", [(b"anthropic-version", b"2023-06-01")]),
        ("POST /v1beta/models/gemini:generateContent", []),
        ("GET /other", [(b"accept", b"application/problem+json")]),
        ("GET /other", []),
    ],
)
async def test_in_every_dialect_a_lockout_is_one_answer_to_good_and_bad_and_malformed(
    target: str, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    site = GuardedSite(FEW)
    good = await site.new_key(user="ada")
    await site.guess(4)
    method, path = target.split()
    answers: list[tuple[int, bytes, str | None]] = []
    for presented in (good, wrong_key(), wrong_key(id_of(good)), good[:-1] + "!", "x"):
        answer = await site.ask(presented, headers=headers, method=method, path=path, raw_path=path.encode())
        request_id = answer.header("x-request-id") or "?"
        answers.append((answer.status, answer.body.replace(request_id.encode(), b""), answer.header("retry-after")))
        assert good.encode() not in answer.body
    assert {429} == {answer[0] for answer in answers}
    assert 1 == len(set(answers))


async def test_a_flood_from_one_network_reaches_the_ledger_as_often_as_it_may_fail() -> None:
    site = GuardedSite(FEW)
    with alerts_seen() as seen:
        await site.guess(2000)
    # Three that count, and one that is told that there were too many and still counts for everybody.
    assert Counter({"reserve": 5, "settle": 4}) == Counter(site.faults.calls)
    assert [f"address:{HOME}"] == seen.subjects


async def test_a_flood_from_many_networks_is_told_of_a_few_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    site = GuardedSite(FEW)
    with alerts_seen() as seen:
        for network in range(200):
            await site.guess(4, f"198.51.{network}.9")
    assert 21 == len(seen.alerts)
    assert [] == caplog.records


async def test_no_alert_and_no_log_line_holds_a_guess(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    site = GuardedSite(FEW)
    guesses = [wrong_key() for _ in range(6)]
    with alerts_seen() as seen:
        for guess in guesses:
            await site.ask(guess)
            await site.ask(guess)
    told = repr(seen.alerts) + caplog.text + repr(site.context.decisions)
    assert seen.alerts
    assert not [guess for guess in guesses if guess[20:] in told]


# Trouble.


@pytest.mark.parametrize("fault", ["down", "answer lost", "frozen", "silent"])
async def test_whatever_is_wrong_with_the_ledger_guesses_are_counted_and_owners_are_let_in(fault: Any) -> None:
    site = GuardedSite(FEW, deadline=0.05)
    key = await site.new_key(user="ada")
    site.faults.fail(fault)
    assert [401, 401, 401, 429, 429] == await site.guess(5)
    assert (200, None) == await site.told(key, ELSEWHERE)


# Whatever comes in whatever order.


class Interleavings(RuleBasedStateMachine):
    """Owners and guessers, in any order, at any of three processes, with a ledger that comes and goes."""

    networks = st.sampled_from(["198.51.100.1", "198.51.100.2", "2001:db8::7"])
    processes = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.site = GuardedSite(FEW)
        self.apps = [self.site.app, self.site.process(), self.site.process()]
        self.key: str = self.runner.run(self.site.new_key(user="ada"))
        self.clean = (f"203.0.{number // 256}.{number % 256}" for number in itertools.count())
        self.shown: set[tuple[int, str]] = set()
        self.counted: Counter[str] = Counter()
        self.judged: Counter[tuple[str, int]] = Counter()
        self.began = self.site.clock.now()
        self.up = True
        self.was_down = False

    @rule(network=networks, process=processes, times=st.integers(1, 6), at_owner=st.booleans())
    def guess(self, network: str, process: int, times: int, *, at_owner: bool) -> None:
        async def guessed() -> None:
            for _ in range(times):
                (status,) = await self.site.guess(1, network, at=id_of(self.key) if at_owner else None, app=self.apps[process])
                reasons = [decision.reason for decision in self.site.context.decisions]
                if status == 401:
                    self.counted[network] += 1
                elif "key_mismatch" in reasons or "key_unknown" in reasons:
                    self.judged[network, process] += 1

        self.runner.run(guessed())
        if not self.was_down:
            hours = (self.site.clock.now() - self.began) / 3600
            assert self.counted[network] <= 3 + 3 * hours + 1e-6

    @rule(process=processes)
    def the_owner_comes_from_where_nobody_guessed(self, process: int) -> None:
        assert (200, None) == self.runner.run(self.site.told(self.key, next(self.clean), app=self.apps[process]))

    @rule(network=networks, process=processes)
    def the_owner_comes_from_where_somebody_guesses(self, network: str, process: int) -> None:
        status, reason = self.runner.run(self.site.told(self.key, network, app=self.apps[process]))
        if (process, network) in self.shown:
            assert status == 200
        assert status == 200 or reason in {"too_many_failures", "locked_out"}
        if status == 200:
            self.shown.add((process, network))

    @rule(seconds=st.sampled_from([1.0, 60.0, 600.0, 1200.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        # Of what was judged and was too much, each process has heard once: it was told until when.
        assert all(times <= 2 + len(self.apps) for times in self.judged.values()), self.judged
        self.judged.clear()
        self.site.clock.advance(seconds)

    @precondition(lambda self: self.up)
    @rule()
    def the_ledger_fails(self) -> None:
        self.site.faults.fail("down")
        self.up, self.was_down = False, True

    @precondition(lambda self: not self.up)
    @rule()
    def the_ledger_is_back(self) -> None:
        self.site.faults.heal()
        self.up = True

    def teardown(self) -> None:
        self.runner.close()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
