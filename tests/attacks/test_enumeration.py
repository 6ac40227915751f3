"""Guessing keys: what a guess costs, and what it can learn from answers, from the work done, and from a flood."""

import hmac
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw import KeyAuthMiddleware, Store, open_store
from llm_authmw.keys import hashing
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness

PEPPER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Store:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'authmw.db'}"
    return open_store(url, clock=clock, pepper=PEPPER, deadline=5)


def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the store's answers, and the digests that are made."""
    calls: Counter[str] = Counter()
    backend: Any = store._backend

    def watch(facet: str, method: str) -> None:
        ask: Callable[..., Awaitable[Any]] = getattr(getattr(backend, facet), method)

        async def watched(*args: Any) -> Any:
            calls[f"{facet}.{method}"] += 1
            return await ask(*args)

        monkeypatch.setattr(getattr(backend, facet), method, watched)

    for facet, method in (("keys", "find"), ("keys", "find_imported"), ("keys", "touch"), ("feed", "changes"), ("accounts", "query")):
        watch(facet, method)

    class Watched:
        compare_digest = staticmethod(hmac.compare_digest)

        @staticmethod
        def digest(*args: Any) -> bytes:
            calls["digest"] += 1
            return hmac.digest(*args)

    monkeypatch.setattr(hashing, "hmac", Watched)
    return calls


async def ask(store: Store, key: str, **options: Any) -> int:
    response = await request(KeyAuthMiddleware(Witness(), keys=store.keys, **options), "GET /", headers=[(b"x-api-key", key.encode())])
    return response.status


GUESSES = [
    "sk-",
    "sk-a",
    "a" * 32,
    pytest.param(mint_key().text[:-1] + "-", id="another last character"),
    pytest.param(mint_key().text + "x", id="a character more"),
    pytest.param(mint_key().text.swapcase(), id="another case"),
    "sk-" + "a" * 400,
]


@pytest.mark.anyio
@pytest.mark.parametrize("guess", GUESSES)
async def test_a_guess_without_the_right_checksum_never_reaches_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, guess: str
) -> None:
    async with store:
        calls = counted(store, monkeypatch)
        for _ in range(3):
            assert 401 == await ask(store, guess)
        assert Counter() == calls


@pytest.mark.anyio
async def test_an_unknown_id_a_wrong_secret_and_a_key_that_ended_cost_the_same_work(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store:
        made = [await store.keys.create() for _ in range(4)]
        await store.keys.block(made[1].id)
        await store.keys.revoke(made[2].id)
        expired = await store.keys.create(expires_at=clock.now() + 1)
        clock.advance(2)
        texts = {
            "unknown": mint_key().text,
            "wrong": mint_key(key_id=made[0].id).text,
            "blocked": str(made[1].key),
            "revoked": str(made[2].key),
            "expired": str(expired.key),
        }
        assert 401 == await ask(store, mint_key().text)  # the first one also reads which accounts are blocked
        calls = counted(store, monkeypatch)
        work: dict[str, Counter[str]] = {}
        for name, text in texts.items():
            store.keys.verifier._cache.clear()
            store.keys.verifier._follower.fresh_until = 0.0
            calls.clear()
            assert 401 == await ask(store, text)
            work[name] = Counter(calls)
        assert 1 == len({tuple(sorted(counter.items())) for counter in work.values()}), work
        assert {"keys.find": 1, "feed.changes": 1, "digest": 1} == dict(work["unknown"])


@pytest.mark.anyio
async def test_a_few_bogus_keys_that_are_sent_over_and_over_are_looked_up_once_each(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM made 200 lookups for 200 requests with 5 bogus keys, in the slots that good keys need."""
    async with store:
        bogus = [mint_key().text for _ in range(5)]
        calls = counted(store, monkeypatch)
        for number in range(200):
            assert 401 == await ask(store, bogus[number % 5])
        assert 5 == calls["keys.find"]


@pytest.mark.anyio
async def test_one_bogus_key_that_is_sent_many_times_at_once_is_looked_up_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store:
        text = mint_key().text
        calls = counted(store, monkeypatch)
        statuses: list[int] = []

        async def one() -> None:
            statuses.append(await ask(store, text))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert [401] * 20 == statuses
        assert 1 == calls["keys.find"]


def test_a_flood_of_bogus_keys_evicts_no_good_one_and_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood() -> None:
        store = open_store("memory://", clock=ManualClock())
        good = str((await store.keys.create()).key)
        assert 200 == await ask(store, good)
        verifier = store.keys.verifier
        for _ in range(10_500):
            await verifier.verify(mint_key().text.encode())
        assert len(verifier._cache) <= 10_001
        calls = counted(store, monkeypatch)
        assert 200 == await ask(store, good)
        assert Counter() == calls

    anyio.run(flood)


@pytest.mark.anyio
async def test_imported_keys_cannot_be_guessed_by_their_digest_or_a_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """GHSA-69x8-hrgq-fjj8 of LiteLLM: pass-the-hash."""
    async with store:
        text = "sk-zD6mQ1vXk8Rj4Lw0"
        await store.keys.import_key(key=text)
        assert 200 == await ask(store, text, imported=True)
        for guess in (
            hashing.sha256(text.encode()).hex(),
            "sk-" + hashing.sha256(text.encode()).hex(),
            text[:-1],
            text + "0",
            text.upper(),
        ):
            assert 401 == await ask(store, guess, imported=True)


@pytest.mark.anyio
async def test_the_stored_digest_of_a_key_is_not_the_key(store: Store) -> None:
    """GHSA-69x8-hrgq-fjj8 of LiteLLM, once more: for keys of our own, with a pepper and without."""
    async with store:
        made = await store.keys.create()
        stored = await store._backend.keys.find(made.id)
        assert stored is not None
        for digest in (stored.secrets[0].digest.value, hashing.sha256(str(made.key).encode())):
            for guess in (digest.hex(), f"sk-{made.id}_{digest.hex()}", f"sk-{digest.hex()}"):
                assert 401 == await ask(store, guess)
                assert 401 == await ask(store, guess, imported=True)


@pytest.mark.anyio
async def test_a_key_with_the_id_of_another_is_not_taken_from_the_cache(store: Store) -> None:
    """A cache keyed by the public id would let anybody in who knows it."""
    async with store:
        made = await store.keys.create()
        assert 200 == await ask(store, str(made.key))
        for _ in range(3):
            assert 401 == await ask(store, mint_key(key_id=made.id).text)
        assert 200 == await ask(store, str(made.key))
