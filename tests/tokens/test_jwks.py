import itertools
import logging
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
import pytest
from joserfc.jwk import ECKey

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.testing import ManualClock
from llm_authmw.testing.raw_server import answers, raw_server
from llm_authmw.testing.scripted import Reply, ScriptedClient
from llm_authmw.tokens.http import Answer, Fetcher
from llm_authmw.tokens.jwks import RemoteKeys
from llm_authmw.tokens.keys import VerificationKey

pytestmark = pytest.mark.anyio

TIME_LIMIT = 5.0
ISSUER = "https://sso.example.com"
CONFIGURATION = f"{ISSUER}/.well-known/openid-configuration"
URL = f"{ISSUER}/keys"
TTL, MAX_AGE, INTERVAL = 600.0, 86_400.0, 30.0


def public_key(kid: str | None = "a") -> dict[str, Any]:
    key: dict[str, Any] = {**ECKey.generate_key("P-256").as_dict(private=False), "alg": "ES256", "use": "sig"}
    key.pop("kid", None)
    return key if kid is None else {**key, "kid": kid}


A, B, C = public_key("a"), public_key("b"), public_key("c")


def key_set(*keys: Any) -> Reply:
    return Reply(body={"keys": keys})


FAILURES = [
    pytest.param(ConnectionRefusedError(), id="refused"),
    pytest.param(TimeoutError(), id="timeout"),
    pytest.param(Reply(503, {"keys": [A]}), id="503"),
    pytest.param(Reply(404), id="404"),
    pytest.param(Reply(204), id="204"),
    pytest.param(Reply(302, headers={"location": URL}), id="a redirect"),
    pytest.param(Reply(body=b"<!DOCTYPE html><title>Maintenance</title>", headers={"content-type": "text/html"}), id="HTML with 200"),
    pytest.param(Reply(body=b""), id="an empty body"),
    pytest.param(Reply(body=b'{"keys": ['), id="half a body"),
    pytest.param(Reply(body={}), id="no set"),
    pytest.param(Reply(body=[A]), id="an array"),
    pytest.param(key_set(), id="an empty set"),
    pytest.param(key_set({"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA"}, None), id="no usable key"),
    pytest.param(Reply(body={"keys": [A], "more": "x" * 1_048_576}), id="too big"),
    pytest.param(Reply(body={"keys": [A] * 101}), id="too many keys"),
]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient({URL: key_set(A)})


def remote(client: ScriptedClient, clock: ManualClock, **options: Any) -> RemoteKeys:
    usual: dict[str, Any] = {
        "jwks_url": URL,
        "fetcher": Fetcher(client),
        "ttl": TTL,
        "max_age": MAX_AGE,
        "interval": INTERVAL,
        "jitter": lambda: 1.0,
        "clock": clock,
    }
    return RemoteKeys(ISSUER, **{**usual, **options})


@pytest.fixture
async def keys(client: ScriptedClient, clock: ManualClock) -> AsyncGenerator[RemoteKeys]:
    keys = remote(client, clock)
    yield keys
    await keys.aclose()


async def ask(keys: RemoteKeys, kid: str | None = "a", algorithm: str = "ES256") -> tuple[VerificationKey, ...]:
    """Ask as a layer does."""
    found = keys.find(kid, algorithm)
    return await keys.fetch(kid, algorithm) if found is None else found


async def asked_at_once(keys: RemoteKeys, *kids: str) -> list[tuple[VerificationKey, ...] | str]:
    """Ask for all of these at the same time; return the keys, or why there are none."""
    results: list[tuple[VerificationKey, ...] | str] = []

    async def one(kid: str) -> None:
        try:
            results.append(await ask(keys, kid))
        except IssuerUnavailableError as error:
            results.append(str(error))

    async with anyio.create_task_group() as tasks:
        for kid in kids:
            tasks.start_soon(one, kid)
    return results


async def landed(keys: RemoteKeys) -> None:
    """Let an attempt that is under way behind the requests come to its end."""
    with anyio.fail_after(TIME_LIMIT):
        while keys._flights:
            await anyio.lowlevel.checkpoint()


async def settle() -> None:
    """Let everybody come to where they must wait for a held answer."""
    with anyio.fail_after(TIME_LIMIT):
        await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("jwks_url", {"jwks_url": "http://sso.example.com/keys"}),
        ("jwks_url", {"jwks_url": "file:///etc/passwd"}),
        ("ttl", {"ttl": 0}),
        ("ttl", {"ttl": 700.0, "max_age": 600.0}),
        ("ttl", {"max_age": float("inf")}),
        ("interval", {"interval": 0}),
        ("interval", {"interval": float("nan")}),
    ],
)
def test_a_wrong_option_is_refused(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option}: "):
        remote(ScriptedClient(), ManualClock(), **options)


def test_an_issuer_that_is_to_be_discovered_must_be_discoverable() -> None:
    with pytest.raises(ConfigurationError, match=r"^issuer: "):
        RemoteKeys("accounts.example.com", fetcher=Fetcher(ScriptedClient()))
    RemoteKeys("accounts.example.com", jwks_url=URL, fetcher=Fetcher(ScriptedClient()))


async def test_nothing_is_asked_before_a_token_comes(client: ScriptedClient, keys: RemoteKeys) -> None:
    assert keys.find("a", "ES256") is None
    await settle()
    assert [] == client.asked


async def test_200_cold_callers_make_one_fetch(client: ScriptedClient, keys: RemoteKeys) -> None:
    client.may_answer = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(ask, keys)
        await settle()
        client.may_answer.set()
    assert [URL] == client.asked
    assert 1 == len(keys.find("a", "ES256") or ())


async def test_200_callers_of_a_real_server_make_one_connection(clock: ManualClock) -> None:
    body = b'{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"%b","y":"%b"}]}' % (A["x"].encode(), A["y"].encode())
    async with raw_server(answers(body, headers="Content-Type: application/jwk-set+json\r\n")) as server:
        fetcher = Fetcher()
        keys = RemoteKeys(ISSUER, jwks_url=f"{server.url}/keys", fetcher=fetcher, clock=clock)
        found = await asked_at_once(keys, *["a"] * 200)
        assert [1] * 200 == [len(keys) for keys in found]
        assert 1 == server.connections
        assert "accept: application/jwk-set+json, application/json" in server.heads[0]
        await fetcher.aclose()


async def test_who_asks_for_what_has_come_meanwhile_gets_it_without_another_fetch(client: ScriptedClient, keys: RemoteKeys) -> None:
    found = await keys.fetch("a", "ES256")
    assert found == await keys.fetch("a", "ES256")
    assert [URL] == client.asked


async def test_a_caller_who_goes_away_takes_the_fetch_from_nobody(client: ScriptedClient, keys: RemoteKeys) -> None:
    client.may_answer = anyio.Event()
    async with anyio.create_task_group() as leaving:
        for _ in range(3):
            leaving.start_soon(ask, keys)
        await settle()
        leaving.cancel_scope.cancel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, keys)
        await settle()
        client.may_answer.set()
    assert [URL] == client.asked
    assert keys.find("a", "ES256")


@pytest.mark.parametrize("failure", FAILURES)
async def test_without_any_keys_a_failure_is_unavailable_with_the_time_of_the_next_attempt(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, failure: Any
) -> None:
    client.replies[URL] = failure
    with pytest.raises(IssuerUnavailableError) as caught:
        await ask(keys)
    assert 1.0 == caught.value.retry_after
    clock.advance(0.75)
    with pytest.raises(IssuerUnavailableError) as caught:
        await ask(keys)
    assert 0.25 == caught.value.retry_after
    assert [URL] == client.asked
    clock.advance(0.25)
    client.replies[URL] = key_set(A)
    assert 1 == len(await ask(keys))
    assert 2 == len(client.asked)


@pytest.mark.parametrize("failure", FAILURES)
async def test_any_failure_keeps_the_last_good_keys_until_their_hard_age(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, failure: Any
) -> None:
    (key,) = await ask(keys)
    client.replies[URL] = failure
    for _ in range(int(MAX_AGE / 300) - 1):
        clock.advance(300)
        assert (key,) == keys.find("a", "ES256")
        await landed(keys)
    clock.advance(299.5)
    assert (key,) == keys.find("a", "ES256")
    await landed(keys)
    assert key.current
    clock.advance(0.5)
    assert keys.find("a", "ES256") is None
    assert [False] == [key.current]
    with pytest.raises(IssuerUnavailableError):
        await ask(keys)


async def test_a_hung_issuer_is_given_up_at_the_deadline_and_hurts_nobody_who_has_a_key(client: ScriptedClient, clock: ManualClock) -> None:
    keys = remote(client, clock, fetcher=Fetcher(client, deadline=0.25))
    (key,) = await ask(keys)
    client.may_answer = anyio.Event()
    clock.advance(TTL)
    assert (key,) == keys.find("a", "ES256")
    with anyio.fail_after(TIME_LIMIT), pytest.raises(IssuerUnavailableError, match=r"^it did not answer in time$"):
        await ask(keys, "b")
    assert (key,) == keys.find("a", "ES256")


async def test_an_attempt_has_one_deadline_however_long_each_of_its_calls_may_take(clock: ManualClock) -> None:
    class Patient(Fetcher):
        async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
            await anyio.sleep_forever()
            raise AssertionError

    keys = RemoteKeys(ISSUER, fetcher=Patient(ScriptedClient(), deadline=0.05), clock=clock)
    with anyio.fail_after(TIME_LIMIT), pytest.raises(IssuerUnavailableError, match=r"^it did not answer in time$"):
        await ask(keys)


async def test_what_is_remembered_has_the_keys_renewed_without_looking_for_one(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    keys.renew()
    assert [] == client.asked
    (key,) = await ask(keys)
    keys.renew()
    clock.advance(TTL)
    client.replies[URL] = key_set(B)
    keys.renew()
    await landed(keys)
    assert 2 == len(client.asked)
    assert not key.current


async def test_what_is_remembered_ends_with_the_hard_age_of_its_key(client: ScriptedClient, keys: RemoteKeys, clock: ManualClock) -> None:
    (key,) = await ask(keys)
    clock.advance(MAX_AGE)
    keys.renew()
    assert not key.current


async def test_keys_end_at_their_hard_age_also_while_they_are_asked_for(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    (key,) = await ask(keys)
    clock.advance(MAX_AGE - 1)
    client.may_answer = anyio.Event()
    assert (key,) == keys.find("a", "ES256")
    clock.advance(1)
    assert keys.find("a", "ES256") is None
    assert not key.current
    client.may_answer.set()
    await landed(keys)
    assert 1 == len(keys.find("a", "ES256") or ())


async def test_keys_are_fetched_anew_behind_the_requests(client: ScriptedClient, keys: RemoteKeys, clock: ManualClock) -> None:
    (key,) = await ask(keys)
    clock.advance(TTL - 0.1)
    assert (key,) == keys.find("a", "ES256")
    await landed(keys)
    assert 1 == len(client.asked)
    clock.advance(0.1)
    client.may_answer = anyio.Event()
    client.replies[URL] = key_set(A, B)
    for _ in range(50):
        assert (key,) == keys.find("a", "ES256")
    await settle()
    assert (key,) == keys.find("a", "ES256")
    assert 2 == len(client.asked)
    client.may_answer.set()
    await landed(keys)
    assert keys.find("b", "ES256")
    assert 2 == len(client.asked)


async def test_an_attempt_that_outlives_the_clock_is_still_the_only_one(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    await ask(keys)
    client.may_answer = anyio.Event()
    clock.advance(TTL)
    for _ in range(5):
        keys.find("a", "ES256")
        clock.advance(60)
    await settle()
    keys.find("a", "ES256")
    assert 2 == len(client.asked)
    client.may_answer.set()
    await landed(keys)
    assert 2 == len(client.asked)


async def test_a_rotation_needs_no_restart_and_costs_one_fetch(client: ScriptedClient, keys: RemoteKeys) -> None:
    await ask(keys)
    client.replies[URL] = key_set(A, B)
    found = await asked_at_once(keys, *["b"] * 50)
    assert [1] * 50 == [len(keys) for keys in found]
    assert 2 == len(client.asked)


async def test_a_key_that_stays_is_the_same_object_and_one_that_goes_is_no_longer_current(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    client.replies[URL] = key_set(A, B)
    (a,), (b,) = await ask(keys, "a"), await ask(keys, "b")
    client.replies[URL] = key_set(C, A)
    clock.advance(TTL)
    await ask(keys)
    await landed(keys)
    assert (a,) == keys.find("a", "ES256")
    assert a.current
    assert not b.current
    client.replies[URL] = key_set(A, B)
    clock.advance(TTL)
    await ask(keys)
    await landed(keys)
    (again,) = await ask(keys, "b")
    assert again is not b
    assert again.current
    assert not b.current


async def test_another_key_under_the_same_id_is_another_key(client: ScriptedClient, keys: RemoteKeys, clock: ManualClock) -> None:
    (old,) = await ask(keys)
    client.replies[URL] = key_set(public_key("a"))
    clock.advance(TTL)
    await ask(keys)
    await landed(keys)
    (new,) = await ask(keys)
    assert old is not new
    assert (False, True) == (old.current, new.current)


async def test_the_same_key_under_another_id_is_another_key(client: ScriptedClient, keys: RemoteKeys, clock: ManualClock) -> None:
    (old,) = await ask(keys)
    client.replies[URL] = key_set({**A, "kid": "b"})
    clock.advance(TTL)
    await ask(keys)
    await landed(keys)
    assert not old.current
    assert () == await ask(keys, "a")


async def test_an_unknown_key_is_asked_for_once_per_interval_and_then_there_is_none(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    await ask(keys)
    assert () == await ask(keys, "made-up")
    assert 2 == len(client.asked)
    clock.advance(INTERVAL - 0.1)
    assert () == keys.find("made-up", "ES256")
    assert () == await ask(keys, "another")
    assert 2 == len(client.asked)
    clock.advance(0.1)
    assert keys.find("made-up", "ES256") is None
    client.replies[URL] = key_set(A, B)
    assert 1 == len(await ask(keys, "b"))
    assert 3 == len(client.asked)
    assert () == await ask(keys, "made-up")
    assert 3 == len(client.asked)


async def test_a_key_that_goes_as_another_one_comes_is_not_asked_for_once_more(client: ScriptedClient, keys: RemoteKeys) -> None:
    (old,) = await ask(keys)
    client.replies[URL] = key_set(B)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, keys, "b")
        with anyio.fail_after(TIME_LIMIT):
            while old.current:
                await anyio.lowlevel.checkpoint()
        # At once, and before the one who has asked for the new key wakes up.
        assert () == await ask(keys, "a")
    assert 2 == len(client.asked)


async def test_an_unknown_key_of_the_first_caller_is_not_asked_for_twice(client: ScriptedClient, keys: RemoteKeys) -> None:
    assert () == await ask(keys, "made-up")
    assert () == await ask(keys, "made-up")
    assert [URL] == client.asked


async def test_a_known_key_for_another_algorithm_is_an_unknown_key(client: ScriptedClient, keys: RemoteKeys) -> None:
    await ask(keys)
    assert () == await ask(keys, "a", "RS256")
    assert () == await ask(keys, "a", "RS512")
    assert () == await ask(keys, None, "RS256")
    assert 2 == len(client.asked)


@pytest.mark.parametrize("failure", FAILURES)
async def test_an_unknown_key_while_the_issuer_is_down_is_unavailable_never_unknown(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, failure: Any
) -> None:
    await ask(keys)
    client.replies[URL] = failure
    waits: list[float] = []
    for _ in range(3):
        with pytest.raises(IssuerUnavailableError) as caught:
            await ask(keys, "b")
        waits.append(caught.value.retry_after)
        clock.advance(0.25)
    assert [1.0, 0.75, 0.5] == waits
    assert 2 == len(client.asked)
    clock.advance(0.25)
    client.replies[URL] = key_set(A, B)
    assert 1 == len(await ask(keys, "b"))


async def test_what_the_issuer_just_said_it_does_not_have_stays_unknown_when_it_goes_down(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    await ask(keys)
    assert () == await ask(keys, "b")
    client.replies[URL] = ConnectionRefusedError()
    clock.advance(INTERVAL - 0.1)
    assert () == await ask(keys, "b")
    clock.advance(0.1)
    with pytest.raises(IssuerUnavailableError):
        await ask(keys, "b")


async def test_the_back_off_doubles_up_to_a_minute_and_starts_anew_after_a_success(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    for _ in range(2):
        client.replies[URL] = Reply(500)
        waits: list[float] = []
        for _ in range(8):
            with pytest.raises(IssuerUnavailableError) as caught:
                await ask(keys)
            waits.append(caught.value.retry_after)
            clock.advance(caught.value.retry_after)
        assert [1, 2, 4, 8, 16, 32, 60, 60] == waits
        client.replies[URL] = key_set(A)
        assert await ask(keys)
        clock.advance(MAX_AGE)


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_processes_do_not_come_back_all_at_once(client: ScriptedClient, clock: ManualClock, jitter: float, expected: float) -> None:
    keys = remote(client, clock, jitter=lambda: jitter)
    client.replies[URL] = Reply(500)
    with pytest.raises(IssuerUnavailableError) as caught:
        await ask(keys)
    assert expected == caught.value.retry_after


async def test_the_usual_jitter_is_a_share_of_one(client: ScriptedClient, clock: ManualClock) -> None:
    client.replies[URL] = Reply(500)
    waits: set[float] = set()
    for _ in range(20):
        keys = RemoteKeys(ISSUER, jwks_url=URL, fetcher=Fetcher(client), clock=clock)
        with pytest.raises(IssuerUnavailableError) as caught:
            await ask(keys)
        waits.add(caught.value.retry_after)
    assert all(0.5 <= wait <= 1.0 for wait in waits)
    assert len(waits) > 10


async def test_ten_minutes_of_outage_at_500_requests_a_second_fail_no_known_key_and_cost_one_attempt_per_back_off(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    (key,) = await ask(keys)
    clock.advance(TTL)
    client.replies[URL] = ConnectionRefusedError()
    started, attempts = clock.monotonic(), list[float]()
    for _ in range(600 * 500 // 50):
        # 50 lookups in a tenth of a second.
        assert all((key,) == keys.find("a", "ES256") for _ in range(50))
        before = len(client.asked)
        await landed(keys)
        attempts += [clock.monotonic() - started] * (len(client.asked) - before)
        clock.advance(0.1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    # Of attempts that may be a tenth late, since that is how often somebody looks.
    assert all(backoff <= gap + 1e-6 < backoff + 0.1 + 1e-6 for backoff, gap in zip([1, 2, 4, 8, 16, 32, *[60] * 20], gaps, strict=False))
    assert 6 + 9 == len(attempts)
    client.replies[URL] = key_set(A, B)
    clock.advance(60)
    assert (key,) == keys.find("a", "ES256")
    await landed(keys)
    assert keys.find("b", "ES256")


async def test_the_outage_of_one_issuer_is_no_others(client: ScriptedClient, keys: RemoteKeys, clock: ManualClock) -> None:
    other_url = "https://other.example.com/keys"
    client.replies[other_url] = ConnectionRefusedError()
    other = remote(client, clock, jwks_url=other_url)
    for _ in range(5):
        with pytest.raises(IssuerUnavailableError):
            await ask(other)
        assert 1 == len(await ask(keys))
    assert [other_url, URL] == client.asked


async def test_one_malformed_key_costs_only_itself_and_is_told_once(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    bad: dict[str, Any] = {"kty": "EC", "crv": "P-256", "kid": "bad", "x": "AA", "y": "AA"}
    client.replies[URL] = key_set(bad, A)
    with caplog.at_level(logging.WARNING, logger="llm_authmw"):
        (key,) = await ask(keys)
        for _ in range(3):
            clock.advance(TTL)
            assert (key,) == keys.find("a", "ES256")
            await landed(keys)
        assert [f"keys in the set of {ISSUER} that cannot be used, and are left out: 1"] == caplog.messages
        client.replies[URL] = key_set(bad, A, B, {**bad, "kid": "worse"})
        clock.advance(TTL)
        keys.find("a", "ES256")
        await landed(keys)
        assert f"keys in the set of {ISSUER} that cannot be used, and are left out: 2" == caplog.messages[-1]
    assert 2 == len(caplog.messages)


async def test_an_outage_and_its_end_are_in_the_log_without_anything_that_the_issuer_sent(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    client.replies[URL] = Reply(500, b"hunter2")
    with caplog.at_level(logging.INFO, logger="llm_authmw"):
        with pytest.raises(IssuerUnavailableError):
            await ask(keys)
        clock.advance(1)
        client.replies[URL] = key_set(A)
        await ask(keys)
    expected = f"the keys of {ISSUER} could not be fetched: its keys were asked for, and it answered 500; the next attempt is in 1.0 s"
    assert [expected, f"the keys of {ISSUER} could be fetched again"] == caplog.messages


async def test_a_defect_of_ours_is_a_failure_like_any_other_and_is_logged(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = await ask(keys)

    def broken(jwks: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("llm_authmw.tokens.jwks.read_keys", broken)
    clock.advance(TTL)
    with caplog.at_level(logging.ERROR, logger="llm_authmw"), pytest.raises(IssuerUnavailableError, match=r"^its keys could not be read$"):
        await ask(keys, "b")
    assert [f"the keys of {ISSUER} could not be read"] == caplog.messages
    assert (key,) == keys.find("a", "ES256")


async def test_metadata_say_where_the_keys_are_and_a_move_is_followed(client: ScriptedClient, clock: ManualClock) -> None:
    keys = remote(client, clock, jwks_url=None)
    before: object = keys.metadata
    assert before is None
    client.replies[CONFIGURATION] = Reply(body={"issuer": ISSUER, "jwks_uri": URL, "userinfo_endpoint": f"{ISSUER}/me"})
    (a,) = await ask(keys)
    assert keys.metadata is not None
    assert f"{ISSUER}/me" == keys.metadata.userinfo_endpoint
    moved = f"{ISSUER}/v2/keys"
    client.replies[CONFIGURATION] = Reply(body={"issuer": ISSUER, "jwks_uri": moved})
    client.replies[moved] = key_set(B)
    clock.advance(TTL)
    await ask(keys)
    await landed(keys)
    assert not a.current
    assert 1 == len(await ask(keys, "b"))
    assert [CONFIGURATION, URL, CONFIGURATION, moved] == client.asked
    assert moved == keys.metadata.jwks_uri


@pytest.mark.parametrize("body", [{"issuer": "https://evil.example", "jwks_uri": URL}, {"issuer": ISSUER}, b"<html>", Reply(503)])
async def test_metadata_that_go_wrong_keep_the_keys_and_what_was_known(client: ScriptedClient, clock: ManualClock, body: Any) -> None:
    keys = remote(client, clock, jwks_url=None)
    client.replies[CONFIGURATION] = Reply(body={"issuer": ISSUER, "jwks_uri": URL})
    (key,) = await ask(keys)
    known = keys.metadata
    client.replies[CONFIGURATION] = body if isinstance(body, Reply) else Reply(body=body)
    clock.advance(TTL)
    with pytest.raises(IssuerUnavailableError):
        await ask(keys, "b")
    assert (key,) == keys.find("a", "ES256")
    assert known is keys.metadata


async def test_closing_lets_those_who_wait_go_and_the_next_caller_begins_anew(client: ScriptedClient, keys: RemoteKeys) -> None:
    client.may_answer = anyio.Event()
    reasons: list[str] = []

    async def waits() -> None:
        with pytest.raises(IssuerUnavailableError) as caught:
            await ask(keys)
        reasons.append(str(caught.value))

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(waits)
            await settle()
            await keys.aclose()
    assert ["asking it was broken off, since this is being closed"] * 3 == reasons
    client.may_answer = None
    assert 1 == len(await ask(keys))


async def test_what_is_under_way_behind_the_requests_ends_with_closing_and_the_keys_stay(
    client: ScriptedClient, keys: RemoteKeys, clock: ManualClock
) -> None:
    (key,) = await ask(keys)
    clock.advance(TTL)
    client.may_answer = anyio.Event()
    assert (key,) == keys.find("a", "ES256")
    await settle()
    with anyio.fail_after(TIME_LIMIT):
        await keys.aclose()
    assert (key,) == keys.find("a", "ES256")
    client.may_answer = None
    client.replies[URL] = key_set(A, B)
    clock.advance(TTL)
    assert (key,) == keys.find("a", "ES256")
    await settle()
    assert keys.find("b", "ES256")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_source_serves_one_event_loop_after_another(backend: str, client: ScriptedClient, clock: ManualClock) -> None:
    keys = remote(client, clock)

    async def leaves_in_the_middle() -> None:
        client.may_answer = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, keys)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    async def asks() -> int:
        client.may_answer = None
        return len(await ask(keys))

    anyio.run(leaves_in_the_middle, backend=backend)
    assert [1, 1] == [anyio.run(asks, backend=backend) for _ in range(2)]
    assert 2 == len(client.asked)


def test_loops_in_several_threads_share_what_is_known(client: ScriptedClient, clock: ManualClock) -> None:
    keys = remote(client, clock)
    found: list[tuple[VerificationKey, ...]] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(anyio.run(ask, keys)))
        thread.start()
        thread.join(TIME_LIMIT)
    assert 3 == len(found)
    assert 1 == len({id(key) for (key,) in found})
    assert [URL] == client.asked


def test_it_prints_as_what_it_is(clock: ManualClock) -> None:
    assert f"RemoteKeys({ISSUER!r})" == repr(remote(ScriptedClient(), clock, jwks_url=f"{URL}?code=hunter2"))
