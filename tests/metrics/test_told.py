from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from joserfc.jwk import ECKey

from llm_authmw import telemetry
from llm_authmw.cache import Cache
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.errors import Denial, InvalidValueError, IssuerUnavailableError, StoreCorruptError, StoreError, StoreUnavailableError
from llm_authmw.keys.expiry import NOTICE, ExpiryNotices
from llm_authmw.keys.known import KnownKey
from llm_authmw.keys.verifier import TOUCH_INTERVAL
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.metrics.instruments import READ
from llm_authmw.principal import Principal
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.store import open_store
from llm_authmw.telemetry import Alert, Asked, Fetched
from llm_authmw.testing import FaultyLedger, ManualClock
from llm_authmw.testing.scripted import Reply, ScriptedClient
from llm_authmw.tokens.breaker import QuestionRefusedError
from llm_authmw.tokens.calls import Calls
from llm_authmw.tokens.discovery import discover
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.jwks import RemoteKeys

pytestmark = pytest.mark.anyio

DAY = 86_400.0
ISSUER = "https://sso.example.com"
URL = f"{ISSUER}/keys"


def alerts(heard: list[object], kind: str) -> list[Alert]:
    return [event for event in heard if isinstance(event, Alert) and event.kind == kind]


def asked(heard: list[object], store: str) -> list[tuple[str, str]]:
    return [(event.operation, event.outcome) for event in heard if isinstance(event, Asked) and event.store == store]


def fetched(heard: list[object]) -> list[tuple[str, str, str]]:
    return [(event.what, event.issuer, event.outcome) for event in heard if isinstance(event, Fetched)]


def read(measured: Any) -> dict[tuple[str, ...], float]:
    found = {(reading.name, *(value for _, value in reading.labels)): reading.value for reading in measured.readings()}
    for reading in measured.readings():
        instrument = READ[reading.name]
        assert {name for name, _ in reading.labels} == {label.name for label in instrument.labels}
        assert reading.counts_up == (instrument.kind == "counter")
    return found


# Caches.


async def test_a_cache_counts_what_was_at_hand_and_what_had_to_be_found(clock: ManualClock) -> None:
    cache: Cache[str, str] = Cache(max_entries=10, ttl=10.0, stale_ttl=10.0, name="answers", clock=clock)

    async def load(key: str) -> str:
        return key.upper()

    async def fail(key: str) -> str:
        raise StoreUnavailableError(key)

    assert (None, 0, 0) == (cache.peek("a"), cache.hits, cache.misses)
    await cache.get("a", load)
    assert (0, 1) == (cache.hits, cache.misses)
    await cache.get("a", load)
    assert (1, 1) == (cache.hits, cache.misses)
    clock.advance(15.0)
    # Out of date, and better than nothing.
    assert "A" == await cache.get("a", fail)
    cache.put("b", "B")
    assert cache.holds("b", "B")
    assert {("cache_lookups", "answers", "hit"): 2, ("cache_lookups", "answers", "miss"): 2, ("cache_entries", "answers"): 2} == read(cache)


# Keys.


async def test_questions_about_keys_and_accounts_are_told_with_what_came_of_them(heard: list[object], clock: ManualClock) -> None:
    async with open_store("memory://", clock=clock) as store:
        created = await store.keys.create(team="blue")
        assert created.key is not None
        heard.clear()
        await store.keys.verifier.verify(created.key.encode())
        await store.keys.verifier.verify(created.key.encode())
    assert [("poll", "ok")] == asked(heard, "changes")
    assert [("blocked", "ok")] == asked(heard, "accounts")
    assert [("find", "ok")] == [one for one in asked(heard, "keys") if one[0] == "find"]


async def test_a_store_that_fails_or_is_late_is_told_of(heard: list[object], clock: ManualClock) -> None:
    async def failing() -> None:
        raise StoreCorruptError("torn")

    with pytest.raises(StoreCorruptError):
        await telemetry.asking("keys", "find", failing, monotonic=clock.monotonic)
    assert [("find", "failed")] == asked(heard, "keys")


async def test_where_nobody_listens_the_time_is_not_even_asked_for() -> None:
    async def answer() -> int:
        return 7

    def monotonic() -> float:
        raise AssertionError

    assert 7 == await telemetry.asking("keys", "find", answer, monotonic=monotonic)


class Feed:
    """A store's record of changes, which can be made slow or unreadable."""

    def __init__(self) -> None:
        self.error: StoreError | None = None
        self.may_answer = anyio.Event()
        self.may_answer.set()

    async def changes(self, since: int | None) -> Changes:
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return Changes(cursor=1)


async def test_polls_that_fail_are_alerted_of_once_until_one_succeeds(heard: list[object], clock: ManualClock) -> None:
    feed = Feed()
    follower = ChangeFollower(feed, clock=clock, deadline=0.2)
    feed.error = StoreUnavailableError("down")
    for _ in range(3):
        clock.advance(2.0)
        with pytest.raises(StoreUnavailableError):
            await follower.refresh()
    feed.error, feed.may_answer = None, anyio.Event()
    with pytest.raises(StoreUnavailableError):
        await follower.refresh()
    assert [("poll", "failed")] * 3 + [("poll", "late")] == asked(heard, "changes")
    (first,) = alerts(heard, "refresh_failing")
    assert ("changes", "*") == (first.subject, first.tenant)
    feed.may_answer.set()
    await follower.refresh()
    clock.advance(2.0)
    feed.error = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError):
        await follower.refresh()
    _, second = alerts(heard, "refresh_failing")
    assert first.occasion != second.occasion


async def test_a_key_that_is_used_and_about_to_end_is_told_of_once_a_day(heard: list[object], clock: ManualClock) -> None:
    async with open_store("memory://", clock=clock) as store:
        created = await store.keys.create(team="blue", tenant="acme", expires_at=clock.now() + NOTICE + 1.5 * DAY)
        assert created.key is not None
        for _ in range(4):
            known = await store.keys.verifier.verify(created.key.encode())
            for _ in range(3):
                assert store.keys.verifier.judge(known) is None
                clock.advance(TOUCH_INTERVAL)
            clock.advance(DAY)
    told = alerts(heard, "key_expiring")
    assert 2 == len(told) == len({alert.occasion for alert in told})
    assert ("acme", created.id, "blue") == (told[0].tenant, told[0].subject, told[0].details["team"])
    assert "A key is still in use, and ends within 7 days." == told[0].message
    assert created.key not in repr(told)


def known_key(number: int = 0, **fields: Any) -> KnownKey:
    return KnownKey(None, key_id=f"k{number}", principal=Principal(tenant="acme"), **fields)


def test_a_replaced_secret_that_is_still_used_is_told_of_as_one(heard: list[object]) -> None:
    ExpiryNotices().look(known_key(ends=1000.0, ends_by="key_rotated"), 100.0)
    (told,) = alerts(heard, "key_expiring")
    assert "A secret that a rotation has replaced is still in use, and ends within 1 days." == told.message
    assert told.details["replaced_secret"] is True


@pytest.mark.parametrize("fields", [{}, {"ends": NOTICE + 101.0}], ids=["no end", "an end that is far away"])
def test_a_key_whose_end_is_not_near_is_not_told_of(heard: list[object], fields: dict[str, Any]) -> None:
    ExpiryNotices().look(known_key(**fields), 100.0)
    assert [] == heard


def test_where_nobody_listens_the_day_is_not_used_up() -> None:
    notices, known = ExpiryNotices(), known_key(ends=1000.0)
    notices.look(known, 100.0)
    told: list[object] = []
    observer: Any = SimpleNamespace(observe=told.append)
    telemetry.attach(observer)
    notices.look(known, 100.0)
    telemetry.detach(observer)
    assert 1 == len(told)


def test_the_keys_that_were_told_of_are_bounded_in_number(heard: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.keys.expiry._REMEMBERED", 2)
    notices = ExpiryNotices()
    for number in (0, 1, 2, 2, 0):
        notices.look(known_key(number, ends=1000.0), 100.0)
    assert ["k0", "k1", "k2", "k0"] == [alert.subject for alert in alerts(heard, "key_expiring")]


async def test_a_store_that_does_not_answer_about_a_key_in_time_is_late(
    heard: list[object], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store("memory://", clock=clock, deadline=0.2) as store:
        created = await store.keys.create()
        assert created.key is not None

        async def find(key_id: str) -> None:
            await anyio.sleep_forever()

        monkeypatch.setattr(store.keys.verifier._store, "find", find)
        with pytest.raises(Denial, match="store_unavailable"):
            await store.keys.verifier.verify(created.key.encode())
    assert ("find", "late") in asked(heard, "keys")


# Ledgers.


CLAIMS = (Claim(Bucket(tenant="acme", name="team:blue / requests", kind="lifetime", measure="requests", limit=1000), 1),)


@pytest.fixture
def ledger(clock: ManualClock) -> FaultyLedger:
    return FaultyLedger(lambda: MemoryLedger(clock=clock))


@pytest.fixture
async def handle(ledger: FaultyLedger, clock: ManualClock) -> AsyncGenerator[LedgerHandle]:
    handle = LedgerHandle(ledger, deadline=0.2, name="counters", clock=clock, sleep=clock.sleep)
    yield handle
    ledger.heal()
    await handle.aclose()


async def test_questions_to_a_ledger_are_told_and_a_breaker_that_opens_is_alerted_of(
    heard: list[object], ledger: FaultyLedger, handle: LedgerHandle
) -> None:
    hold = await handle.reserve(CLAIMS)
    assert isinstance(hold, Hold)
    await handle.balance([claim.bucket for claim in hold.claims])
    assert 1 == read(handle)["ledger_reservations_open", "counters"]
    await handle.settle(hold, {})
    assert [("reserve", "ok"), ("balance", "ok"), ("settle", "ok")] == asked(heard, "counters")
    heard.clear()
    ledger.fail("down")
    for _ in range(4):
        with pytest.raises(StoreUnavailableError):
            await handle.reserve(CLAIMS)
    assert [("reserve", "failed")] * 3 + [("reserve", "skipped")] == [one for one in asked(heard, "counters") if one[0] == "reserve"]
    (alert,) = alerts(heard, "store_outage")
    assert ("counters", "*") == (alert.subject, alert.tenant)
    found = read(handle)
    assert (1, 0) == (found["store_breaker_open", "counters"], found["ledger_reservations_open", "counters"])
    assert found["ledger_settlements_waiting", "counters"] > 0


async def test_a_ledger_that_does_not_answer_in_time_is_late(heard: list[object], ledger: FaultyLedger, handle: LedgerHandle) -> None:
    ledger.fail("silent")
    with pytest.raises(StoreUnavailableError):
        await handle.balance([claim.bucket for claim in CLAIMS])
    assert [("balance", "late")] == asked(heard, "counters")


async def test_a_question_that_is_refused_for_what_is_in_it_was_answered(heard: list[object], handle: LedgerHandle) -> None:
    with pytest.raises(InvalidValueError):
        await handle.reserve([])
    assert [("reserve", "ok")] == asked(heard, "counters")


# Issuers.


def remote(client: ScriptedClient, clock: ManualClock, **options: Any) -> RemoteKeys:
    return RemoteKeys(ISSUER, fetcher=Fetcher(client), jitter=lambda: 1.0, clock=clock, **options)


async def test_an_issuer_whose_keys_cannot_be_had_is_alerted_of_at_once_and_once(heard: list[object], clock: ManualClock) -> None:
    client = ScriptedClient({URL: Reply(503)})
    keys = remote(client, clock, jwks_url=URL)
    for _ in range(2):
        with pytest.raises(IssuerUnavailableError):
            await keys.fetch("a", "ES256")
    clock.advance(60.0)
    with pytest.raises(IssuerUnavailableError):
        await keys.fetch("a", "ES256")
    await keys.aclose()
    assert [("jwks", ISSUER, "failed"), ("jwks", ISSUER, "skipped"), ("jwks", ISSUER, "failed")] == fetched(heard)
    (alert,) = alerts(heard, "issuer_outage")
    assert (ISSUER, "jwks") == (alert.subject, alert.details["what"])


async def test_an_issuer_whose_keys_are_at_hand_may_fail_twice_in_a_row_before_it_is_alerted_of(
    heard: list[object], clock: ManualClock
) -> None:
    key = {**ECKey.generate_key("P-256").as_dict(private=False), "alg": "ES256", "kid": "a"}
    client = ScriptedClient({URL: Reply(body={"keys": [key]})})
    keys = remote(client, clock, jwks_url=URL, ttl=60.0)
    assert await keys.fetch("a", "ES256")

    async def fetch_again() -> None:
        clock.advance(70.0)
        keys.renew()
        await anyio.wait_all_tasks_blocked()

    client.replies[URL] = Reply(503)
    for told in (0, 0, 1, 1):
        await fetch_again()
        assert told == len(alerts(heard, "issuer_outage"))
    client.replies[URL] = Reply(body={"keys": [key]})
    await fetch_again()
    client.replies[URL] = Reply(503)
    for told in (1, 1, 2):
        await fetch_again()
        assert told == len(alerts(heard, "issuer_outage"))
    assert ["ok", *["failed"] * 4, "ok", *["failed"] * 3] == [outcome for _, _, outcome in fetched(heard)]
    await keys.aclose()


async def test_metadata_are_told_of_by_themselves(heard: list[object], clock: ManualClock) -> None:
    client = ScriptedClient({f"{ISSUER}/.well-known/openid-configuration": Reply(body={"issuer": "https://other.example"})})
    with pytest.raises(IssuerUnavailableError):
        await discover(Fetcher(client), ISSUER, clock=clock)
    assert [("discovery", ISSUER, "failed")] == fetched(heard)


async def failing() -> None:
    raise IssuerUnavailableError("down")


async def refusing() -> None:
    raise QuestionRefusedError("not this one")


async def answering() -> None: ...


async def test_a_provider_that_is_left_alone_is_told_of_and_alerted_of_until_it_is_back(heard: list[object], clock: ManualClock) -> None:
    calls = Calls(what="introspection", issuer=ISSUER, clock=clock)

    async def call(work: Callable[[], Any]) -> None:
        with pytest.raises(IssuerUnavailableError):
            await calls.run(work)

    await call(refusing)
    for _ in range(6):
        await call(failing)
    outcomes = [outcome for _, _, outcome in fetched(heard)]
    assert ["ok", *["failed"] * 5, "skipped"] == outcomes
    assert {("introspection", ISSUER)} == {(what, issuer) for what, issuer, _ in fetched(heard)}
    assert 1 == len(alerts(heard, "issuer_outage"))
    assert {("issuer_breaker_open", ISSUER, "introspection"): 1} == read(calls)
    clock.advance(2.0)
    await calls.run(answering)
    assert {("issuer_breaker_open", ISSUER, "introspection"): 0} == read(calls)
    for _ in range(5):
        await call(failing)
    first, second = alerts(heard, "issuer_outage")
    assert first.occasion != second.occasion


async def test_of_a_question_that_was_cancelled_nothing_is_told(heard: list[object], clock: ManualClock) -> None:
    calls, under_way = Calls(clock=clock), anyio.Event()

    async def hang() -> None:
        under_way.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(calls.run, hang)
        await under_way.wait()
        tasks.cancel_scope.cancel()
    assert [] == fetched(heard)
