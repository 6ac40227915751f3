import functools
import hashlib
import hmac
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from llm_authmw.accounts.service import AccountService
from llm_authmw.cache import Cache
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.errors import ConfigurationError, Denial, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.keys import format as key_format
from llm_authmw.keys import verifier
from llm_authmw.keys.format import MAX_KEY_LENGTH, mint_key, parse_key
from llm_authmw.keys.hashing import Digest, PepperOption, Peppers, sha256
from llm_authmw.keys.known import MALFORMED, UNKNOWN, KnownKey
from llm_authmw.keys.protocols import KeyUse
from llm_authmw.keys.records import StoredKey
from llm_authmw.keys.service import KeyService
from llm_authmw.keys.verifier import FLUSH_INTERVAL, NEGATIVE_TTL, TOUCH_INTERVAL, KeyVerifier
from llm_authmw.principal import ANONYMOUS
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

OLD, NEW = "old-" + "o" * 28, "new-" + "n" * 28
FOREIGN = "sk-litellm-" + "Zk3" * 8
BOUND = 1.0
TIME_LIMIT = 5.0


class Spy:
    """A store's keys as one process sees them: notes the calls, and can be held up, broken, or disturbed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls: list[tuple[str, Any]] = []
        self.errors: dict[str, StoreError] = {}
        self.held: dict[str, anyio.Event] = {}
        self.touched: list[KeyUse] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _call(self, name: str, argument: Any) -> Any:
        self.calls.append((name, argument))
        if name in self.errors:
            raise self.errors[name]
        # Read first, held up then: what is handed over may be out of date by that time.
        answer = await getattr(self._inner, name)(argument)
        if name in self.held:
            await self.held[name].wait()
        return answer

    async def find(self, key_id: str) -> StoredKey | None:
        found: StoredKey | None = await self._call("find", key_id)
        return found

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        found: StoredKey | None = await self._call("find_imported", digest)
        return found

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        await self._call("touch", uses)
        self.touched += uses

    def asked(self) -> list[str]:
        """Return what was asked since the last time."""
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names


class Process:
    """One process on a backend that it shares with others."""

    def __init__(self, backend: MemoryBackend, clock: ManualClock, pepper: PepperOption | None = NEW, **options: Any) -> None:
        peppers = Peppers(pepper)
        self.store = Spy(backend.keys)
        self.follower = ChangeFollower(backend.feed, bound=BOUND, clock=clock)
        self.accounts = AccountService(backend.accounts, follower=self.follower, clock=clock)
        self.verifier = KeyVerifier(self.store, follower=self.follower, accounts=self.accounts, peppers=peppers, clock=clock, **options)
        store: Any = self.store
        self.keys = KeyService(store, follower=self.follower, peppers=peppers, verifier=self.verifier, clock=clock)

    async def new_key(self, **fields: Any) -> tuple[str, str]:
        """Return the id and the text of a new key."""
        created = await self.keys.create(**fields)
        assert created.key is not None
        return created.id, created.key

    async def verify(self, text: str, *, imported: bool = False) -> KnownKey:
        return await self.verifier.verify(text.encode(), imported=imported)

    async def judged(self, text: str, *, imported: bool = False) -> str | None:
        """Return why a text is refused, as the layer finds out: from memory if that will do."""
        known = self.verifier.recall(text.encode())
        if known is None:
            known = await self.verify(text, imported=imported)
        return self.verifier.judge(known)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend(clock=clock)


@pytest.fixture
def here(backend: MemoryBackend, clock: ManualClock) -> Process:
    return Process(backend, clock)


@pytest.fixture
def elsewhere(backend: MemoryBackend, clock: ManualClock) -> Process:
    return Process(backend, clock)


def forged(key_id: str | None = None) -> str:
    """A text with a right checksum that nobody ever got."""
    return mint_key(key_id=key_id).text


# Texts that are no key.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "sk-1234",
        "' OR 1=1 --",
        FOREIGN,
        "größe",
        pytest.param(forged()[:-1], id="a character less"),
        pytest.param(forged() + "x", id="a character more"),
        pytest.param(forged().upper(), id="another case"),
    ],
)
async def test_a_text_of_another_form_is_refused_without_asking_anybody(here: Process, text: str) -> None:
    known = await here.verifier.verify(text.encode())
    assert known is MALFORMED
    assert ("key_malformed", ANONYMOUS) == (here.verifier.judge(known), known.principal)
    assert [] == here.store.asked()
    assert -math.inf == here.follower.fresh_until


async def test_a_text_of_another_form_is_looked_up_by_its_digest_where_imported_keys_are_accepted(here: Process) -> None:
    known = await here.verify(FOREIGN, imported=True)
    assert "key_unknown" == here.verifier.judge(known)
    assert [("find_imported", hashlib.sha256(FOREIGN.encode()).digest())] == here.store.calls
    here.store.calls.clear()
    assert MALFORMED is await here.verify("x" * (MAX_KEY_LENGTH + 1), imported=True)
    assert [] == here.store.asked()
    assert MALFORMED is not await here.verify("x" * MAX_KEY_LENGTH, imported=True)


async def test_a_text_of_our_form_is_never_looked_up_as_an_imported_key(here: Process) -> None:
    await here.verify(forged(), imported=True)
    assert ["find"] == here.store.asked()


async def test_another_secret_under_a_good_id_is_nobodys(here: Process) -> None:
    key_id, _ = await here.new_key(user="alice", roles=["admin"])
    known = await here.verify(forged(key_id))
    assert "key_mismatch" == here.verifier.judge(known)
    assert (None, key_id, ANONYMOUS) == (known.key_id, known.claimed_id, known.principal)


async def test_a_good_text_under_another_prefix_is_nobodys(here: Process) -> None:
    _, text = await here.new_key()
    body = "acme-" + text[3:-6]
    disguised = body + key_format._checksum(body)
    assert parse_key(text) == parse_key(disguised)
    assert "key_mismatch" == await here.judged(disguised)


@pytest.mark.parametrize("pepper", [NEW, None], ids=["with a pepper", "without"])
async def test_what_is_stored_is_not_what_is_presented(backend: MemoryBackend, clock: ManualClock, pepper: str | None) -> None:
    here = Process(backend, clock, pepper)
    key_id, _ = await here.new_key()
    stored = await backend.keys.find(key_id)
    assert stored is not None
    digest = stored.secrets[0].digest.value
    body = f"sk-{key_id}_{key_format._base62(int.from_bytes(digest), 43)}"
    for presented in (digest.hex(), f"sk-{digest.hex()}", f"sk-{key_id}_{digest.hex()}", body + key_format._checksum(body)):
        for imported in (False, True):
            assert await here.judged(presented, imported=imported) in {"key_malformed", "key_unknown", "key_mismatch"}
    assert "key_unknown" == here.verifier.judge(await here.verifier.verify(digest, imported=True))


# The same work for whatever the answer is.


@pytest.mark.parametrize("pepper", [NEW, None], ids=["with a pepper", "without"])
async def test_unknown_wrong_blocked_and_good_keys_cost_the_same_work(
    backend: MemoryBackend, clock: ManualClock, pepper: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Process(backend, clock, pepper)
    texts: dict[str, str] = {"unknown": forged()}
    for name in ("good", "wrong", "blocked", "revoked", "expired", "not yet valid", "of a blocked team"):
        key_id, texts[name] = await here.new_key(team="red" if "team" in name else None)
        match name:
            case "wrong":
                texts[name] = forged(key_id)
            case "blocked":
                await here.keys.block(key_id)
            case "revoked":
                await here.keys.revoke(key_id)
            case "expired":
                await here.keys.expire(key_id)
            case "not yet valid":
                await here.keys.update(key_id, not_before=clock.now() + 60)
            case "of a blocked team":
                await here.accounts.create("team", "red", status="blocked")
            case _:
                pass
    # The answer must not hang on what was asked before.
    await here.verify(forged())
    work: dict[str, tuple[Any, ...]] = {}
    counts: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(hmac, name)

        def count(*arguments: Any) -> Any:
            counts.append(name)
            return function(*arguments)

        return count

    for name in ("digest", "compare_digest"):
        monkeypatch.setattr(hmac, name, counted(name))
    for name, text in texts.items():
        await here.verifier.flush()
        here.store.asked()
        counts.clear()
        reason = await here.judged(text)
        asked = here.store.asked()
        work[name] = (asked, list(counts))
        assert (reason is None) == (name == "good")
        # And again, from memory.
        counts.clear()
        assert reason == await here.judged(text)
        assert ([], []) == (here.store.asked(), counts)
    expected: tuple[list[str], list[str]] = (["find"], ["digest", "compare_digest"] if pepper else ["compare_digest"])
    assert dict.fromkeys(texts, expected) == work


async def test_a_flood_of_forged_keys_evicts_no_good_one(
    backend: MemoryBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "Cache", functools.partial(Cache, max_negative=20))
    here = Process(backend, clock)
    good = [await here.new_key() for _ in range(5)]
    for _, text in good:
        await here.verify(text)
    for number in range(200):
        await here.judged(forged(good[0][0] if number % 2 else None))
    here.store.asked()
    assert [None] * 5 == [await here.judged(text) for _, text in good]
    assert [] == here.store.asked()
    assert 25 == len(here.verifier._cache)
    # What all unknown texts share is never marked as out of date by one of them.
    assert UNKNOWN.current
    assert 5 == len(here.verifier._texts_of)


async def test_a_text_that_is_no_key_is_remembered_for_a_while(here: Process, clock: ManualClock) -> None:
    text = forged()
    for seconds, asked in ((0.0, ["find"]), (NEGATIVE_TTL - 0.001, []), (0.001, ["find"])):
        clock.advance(seconds)
        assert "key_unknown" == await here.judged(text)
        assert asked == here.store.asked()


async def test_only_so_many_keys_are_remembered(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, max_keys=2)
    texts = [(await here.new_key())[1] for _ in range(3)]
    known = [await here.verify(text) for text in texts]
    assert [None, *known[1:]] == [here.verifier.recall(text.encode()) for text in texts]
    # Nobody would tell it of a change any more, so whoever holds on to it asks.
    assert [False, True, True] == [here.verifier.holds(each) for each in known]
    assert 2 == len(here.verifier._texts_of)


# What others change.


async def test_nothing_is_known_before_the_store_was_asked_and_after_the_bound(here: Process, clock: ManualClock) -> None:
    _, text = await here.new_key()
    assert here.verifier.recall(text.encode()) is None
    known = await here.verify(text)
    clock.advance(BOUND - 0.001)
    assert known is here.verifier.recall(text.encode())
    assert here.verifier.holds(known)
    clock.advance(0.001)
    assert here.verifier.recall(text.encode()) is None
    assert not here.verifier.holds(known)
    here.store.asked()
    # Nothing has changed meanwhile, which is all that had to be asked.
    assert known is await here.verify(text)
    assert [] == here.store.asked()
    assert here.verifier.holds(known)
    assert BOUND == here.verifier.bound


CHANGES: dict[str, tuple[Callable[[Process, str], Awaitable[Any]], str | None]] = {
    "revoke": (lambda process, key_id: process.keys.revoke(key_id), "key_revoked"),
    "block": (lambda process, key_id: process.keys.block(key_id), "key_blocked"),
    "expire": (lambda process, key_id: process.keys.expire(key_id), "key_expired"),
    "rotate without grace": (lambda process, key_id: process.keys.rotate(key_id, grace=0), "key_mismatch"),
    "block the team": (lambda process, _: process.accounts.create("team", "blue", status="blocked"), "account_blocked"),
    "block the user": (lambda process, _: process.accounts.create("user", "alice", status="blocked"), "account_blocked"),
    "change the models": (lambda process, key_id: process.keys.update(key_id, models=[]), None),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_by_another_process_takes_effect_within_the_bound(
    here: Process, elsewhere: Process, clock: ManualClock, change: str
) -> None:
    act, reason = CHANGES[change]
    key_id, text = await elsewhere.new_key(team="blue", user="alice", models=["*"])
    assert await here.judged(text) is None
    held = await here.verify(text)
    await act(elsewhere, key_id)
    clock.advance(BOUND)
    assert reason == await here.judged(text)
    # That somebody else has asked since does not help who holds on to what was known before.
    assert not here.verifier.holds(held)
    if change == "change the models":
        assert () == (await here.verify(text)).principal.models


async def test_a_key_that_ends_holds_no_longer_while_others_keep_what_is_known_fresh(here: Process, clock: ManualClock) -> None:
    _, text = await here.new_key(expires_at=clock.now() + 2.5 * BOUND)
    _, other = await here.new_key()
    held = await here.verify(text)
    seconds: list[float] = []
    for _ in range(3):
        await here.judged(other)
        assert here.verifier.holds(held)
        seconds.append(here.verifier.due(held))
        clock.advance(seconds[-1])
    await here.judged(other)
    assert pytest.approx([BOUND, BOUND, 0.5 * BOUND]) == seconds
    assert (False, True) == (here.verifier.holds(held), here.verifier.due(held) <= 0)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_by_this_process_takes_effect_at_once(here: Process, change: str) -> None:
    act, reason = CHANGES[change]
    key_id, text = await here.new_key(team="blue", user="alice", models=["*"])
    assert await here.judged(text) is None
    held = await here.verify(text)
    assert here.verifier.holds(held)
    await act(here, key_id)
    assert not here.verifier.holds(held)
    assert reason == await here.judged(text)
    if change == "change the models":
        assert () == (await here.verify(text)).principal.models


async def test_an_account_that_works_again_lets_its_keys_in(here: Process, elsewhere: Process, clock: ManualClock) -> None:
    _, text = await here.new_key(team="blue")
    await here.accounts.create("team", "blue", status="blocked")
    assert "account_blocked" == await here.judged(text)
    await elsewhere.accounts.unblock("team", "blue")
    clock.advance(BOUND)
    assert await here.judged(text) is None


async def test_a_change_of_one_key_leaves_the_others_in_memory(here: Process) -> None:
    (one, _), (_, other_text) = await here.new_key(), await here.new_key()
    known = await here.verify(other_text)
    await here.keys.revoke(one)
    assert known is here.verifier.recall(other_text.encode())
    assert here.verifier.holds(known)


async def test_both_texts_of_a_rotated_key_are_forgotten_when_it_changes(here: Process) -> None:
    key_id, old = await here.new_key()
    new = (await here.keys.rotate(key_id, grace=60.0)).key
    assert new is not None
    for text in (old, new, old):
        await here.verify(text)
    await here.keys.revoke(key_id)
    assert ["key_revoked", "key_revoked"] == [await here.judged(old), await here.judged(new)]
    assert {key_id} == set(here.verifier._texts_of)


async def test_one_of_two_texts_may_be_evicted(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, max_keys=2)
    key_id, old = await here.new_key()
    new = (await here.keys.rotate(key_id, grace=60.0)).key
    assert new is not None
    await here.verify(old)
    await here.verify(new)
    await here.verify((await here.new_key())[1])
    assert here.verifier.recall(new.encode()) is not None
    await here.keys.revoke(key_id)
    assert here.verifier.recall(new.encode()) is None
    assert 1 == len(here.verifier._texts_of)


async def test_a_text_that_was_nobodys_may_become_a_key(here: Process, elsewhere: Process, clock: ManualClock) -> None:
    assert "key_unknown" == await here.judged(FOREIGN, imported=True) == await elsewhere.judged(FOREIGN, imported=True)
    await elsewhere.keys.import_key(key=FOREIGN)
    assert await elsewhere.judged(FOREIGN, imported=True) is None
    clock.advance(BOUND)
    assert await here.judged(FOREIGN, imported=True) is None


async def test_when_too_much_changed_to_name_it_everything_is_forgotten(here: Process) -> None:
    _, text = await here.new_key()
    known = await here.verify(text)
    here.follower.announce(Changes(cursor=0, keys=None))
    assert here.verifier.recall(text.encode()) is None
    assert not here.verifier.holds(known)
    assert {} == here.verifier._texts_of


@pytest.mark.parametrize("by", ["this process", "another process"])
async def test_what_was_read_before_a_revocation_is_not_kept_after_it(
    here: Process, elsewhere: Process, clock: ManualClock, by: str
) -> None:
    key_id, text = await here.new_key()
    await here.verify(forged())
    here.store.held["find"] = anyio.Event()
    loaded: list[KnownKey] = []

    async def load() -> None:
        loaded.append(await here.verify(text))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        await anyio.wait_all_tasks_blocked()
        reading = here.store.held.pop("find")
        if by == "this process":
            await here.keys.revoke(key_id)
        else:
            await elsewhere.keys.revoke(key_id)
            clock.advance(BOUND)
            await here.follower.refresh()
        reading.set()
    # Good for whoever asked before it happened, and not a moment longer.
    assert [None] == [known.refused for known in loaded]
    assert not here.verifier.holds(loaded[0])
    assert here.verifier.recall(text.encode()) is None
    assert "key_revoked" == await here.judged(text)


# A store that does not answer.


@pytest.mark.parametrize("error", [StoreUnavailableError("locked"), StoreReadOnlyError("read-only"), StoreError("odd")])
async def test_a_store_that_cannot_be_read_is_a_denial_and_never_a_principal(here: Process, error: StoreError) -> None:
    _, text = await here.new_key()
    here.store.errors["find"] = error
    for _ in range(2):
        with pytest.raises(Denial) as caught:
            await here.verify(text)
        assert ("store_unavailable", 503, 1.0) == (caught.value.reason, caught.value.status, caught.value.retry_after)
        assert error is caught.value.__cause__
    assert ["find", "find"] == here.store.asked()
    del here.store.errors["find"]
    assert await here.judged(text) is None


async def test_a_feed_that_cannot_be_read_makes_what_is_known_unusable(
    here: Process, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = await here.new_key()
    known = await here.verify(text)
    clock.advance(BOUND)

    async def changes(since: int | None) -> Changes:
        raise StoreUnavailableError("locked")

    with monkeypatch.context() as patch:
        patch.setattr(here.follower._feed, "changes", changes)
        assert here.verifier.recall(text.encode()) is None
        assert not here.verifier.holds(known)
        with pytest.raises(Denial, match="store_unavailable"):
            await here.verify(text)
    assert await here.judged(text) is None


async def test_accounts_that_cannot_be_read_make_what_is_known_unusable(
    here: Process, elsewhere: Process, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = await here.new_key(team="blue")
    known = await here.verify(text)
    await elsewhere.accounts.create("team", "blue", status="blocked")
    clock.advance(BOUND)

    async def query(_: Any) -> Any:
        raise StoreUnavailableError("locked")

    with monkeypatch.context() as patch:
        patch.setattr(here.accounts._store, "query", query)
        # The keys' changes were heard of, so only the accounts keep what is known from being used.
        for _ in range(2):
            with pytest.raises(Denial, match="store_unavailable"):
                await here.verify(text)
            assert here.verifier.recall(text.encode()) is None
            assert not here.verifier.holds(known)
    assert "account_blocked" == await here.judged(text)


async def test_a_store_that_is_too_slow_is_a_denial_within_the_deadline(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, deadline=0.02)
    _, text = await here.new_key()
    here.store.held["find"] = anyio.Event()
    with anyio.fail_after(TIME_LIMIT), pytest.raises(Denial) as caught:
        await here.verify(text)
    assert "store_unavailable" == caught.value.reason
    assert isinstance(caught.value.__cause__, StoreUnavailableError)
    assert here.verifier.recall(text.encode()) is None
    here.store.held.pop("find").set()
    assert await here.judged(text) is None


async def test_callers_at_the_same_time_ask_once(here: Process) -> None:
    _, text = await here.new_key()
    here.store.held["find"] = anyio.Event()
    found: list[KnownKey] = []

    async def ask() -> None:
        found.append(await here.verify(text))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        here.store.held["find"].set()
    assert ["find"] == here.store.asked()
    assert 1 == len(set(map(id, found)))


@pytest.mark.parametrize("deadline", [0, -1.0, math.inf, math.nan])
def test_a_deadline_is_a_number_of_seconds_above_zero(backend: MemoryBackend, clock: ManualClock, deadline: float) -> None:
    with pytest.raises(ConfigurationError, match=r"^deadline: is a number of seconds above zero$"):
        Process(backend, clock, deadline=deadline)


# Dates.


async def test_dates_take_effect_to_the_second_for_a_key_that_is_in_memory(here: Process, clock: ManualClock) -> None:
    _, text = await here.new_key(not_before=clock.now() + 0.3, expires_at=clock.now() + 0.6)
    reasons: list[str | None] = []
    for seconds in (0.0, 0.299, 0.001, 0.299, 0.001):
        clock.advance(seconds)
        reasons.append(await here.judged(text))
    assert ["key_not_yet_valid", "key_not_yet_valid", None, None, "key_expired"] == reasons
    assert ["find"] == here.store.asked()


async def test_setting_the_date_back_brings_no_fresh_answer(here: Process, elsewhere: Process, clock: ManualClock) -> None:
    key_id, text = await here.new_key()
    assert await here.judged(text) is None
    await elsewhere.keys.revoke(key_id)
    clock.advance(BOUND)
    clock.set(clock.now() - 1e6)
    assert "key_revoked" == await here.judged(text)


# When a key was last used.


async def last_used(process: Process, key_id: str) -> float | None:
    return (await process.keys.get(key_id)).last_used_at


async def test_a_use_is_noted_once_a_minute_and_written_in_batches(here: Process, clock: ManualClock) -> None:
    (one, one_text), (other, other_text) = await here.new_key(), await here.new_key()
    begun = clock.now()
    for _ in range(int(3 * TOUCH_INTERVAL)):
        for text in (one_text, other_text):
            assert await here.judged(text) is None
        clock.advance(1.0)
    await here.verifier.flush()
    uses = [(use.key_id, use.at - begun) for use in here.store.touched]
    assert sorted((key_id, at) for key_id in (one, other) for at in (0.0, 60.0, 120.0)) == sorted(uses)
    assert here.store.asked().count("touch") < len(uses)
    assert begun + 120.0 == await last_used(here, one)


async def test_a_use_that_was_refused_is_none(here: Process, clock: ManualClock) -> None:
    texts = [forged()]
    for act, _ in (CHANGES["revoke"], CHANGES["block"], CHANGES["expire"]):
        key_id, text = await here.new_key()
        await act(here, key_id)
        texts += [text, forged(key_id)]
    for _ in range(3):
        for text in texts:
            assert await here.judged(text) is not None
        clock.advance(TOUCH_INTERVAL)
    await here.verifier.flush()
    assert [] == here.store.touched
    assert "touch" not in here.store.asked()


async def test_notes_are_written_at_most_every_few_seconds(here: Process, clock: ManualClock) -> None:
    _, first = await here.new_key()
    assert await here.judged(first) is None
    await here.verify(first)
    assert 1 == here.store.asked().count("touch")
    _, second = await here.new_key()
    assert await here.judged(second) is None
    clock.advance(FLUSH_INTERVAL - 0.001)
    await here.verify(second)
    assert "touch" not in here.store.asked()
    clock.advance(0.001)
    await here.verify(second)
    assert ["touch"] == here.store.asked()


async def test_notes_that_cannot_be_written_are_kept_and_keys_still_verify(here: Process, clock: ManualClock) -> None:
    key_id, text = await here.new_key()
    at = clock.now()
    assert await here.judged(text) is None
    here.store.errors["touch"] = StoreReadOnlyError("read-only")
    assert (await here.verify(text)).refused is None
    with pytest.raises(StoreReadOnlyError):
        await here.verifier.flush()
    assert await last_used(here, key_id) is None
    del here.store.errors["touch"]
    clock.advance(FLUSH_INTERVAL)
    await here.verify(text)
    assert at == await last_used(here, key_id)


async def test_a_store_that_is_slow_to_write_holds_nobody_up(here: Process, clock: ManualClock) -> None:
    _, text = await here.new_key()
    assert await here.judged(text) is None
    here.store.held["touch"] = anyio.Event()
    with anyio.fail_after(TIME_LIMIT):
        assert (await here.verify(text)).refused is None
    assert [] == here.store.touched
    here.store.held.pop("touch").set()
    await here.verifier.flush()
    assert [clock.now()] == [use.at for use in here.store.touched]


async def test_a_use_during_the_writing_is_not_lost(here: Process, clock: ManualClock) -> None:
    key_id, text = await here.new_key()
    assert await here.judged(text) is None
    here.store.held["touch"] = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.verifier.flush)
        await anyio.wait_all_tasks_blocked()
        clock.advance(TOUCH_INTERVAL)
        assert await here.judged(text) is None
        here.store.held.pop("touch").set()
    await here.verifier.flush()
    assert clock.now() == await last_used(here, key_id)
    here.store.asked()
    await here.verifier.flush()
    assert [] == here.store.asked()


# Peppers.


async def stored_digests(backend: MemoryBackend, key_id: str) -> list[Digest]:
    stored = await backend.keys.find(key_id)
    assert stored is not None
    return [secret.digest for secret in stored.secrets]


@pytest.mark.parametrize("first", [OLD, None], ids=["an older pepper", "no pepper"])
async def test_a_used_key_moves_to_the_newest_pepper_and_the_old_one_may_go(
    backend: MemoryBackend, clock: ManualClock, first: str | None
) -> None:
    key_id, text = await Process(backend, clock, first).new_key()
    both = Process(backend, clock, {2: NEW, 1: OLD})
    only_new = Process(backend, clock, {2: NEW})
    if first is not None:
        assert "pepper_unavailable" == await only_new.judged(text)
    assert await both.judged(text) is None
    await both.verifier.flush()
    assert [Peppers({2: NEW}).digest(text.encode())] == await stored_digests(backend, key_id)
    later = Process(backend, clock, {2: NEW})
    assert await later.judged(text) is None
    assert "pepper_unavailable" == await Process(backend, clock, {1: OLD}).judged(text)
    # Once is enough, and it is no use of its own.
    assert await both.judged(text) is None
    both.store.touched.clear()
    await later.verifier.flush()
    assert [None] == [use.rehash for use in later.store.touched]


async def test_each_secret_of_a_rotation_moves_to_the_newest_pepper(backend: MemoryBackend, clock: ManualClock) -> None:
    before = Process(backend, clock, {1: OLD})
    key_id, old = await before.new_key()
    new = (await before.keys.rotate(key_id, grace=1000.0)).key
    assert new is not None
    both = Process(backend, clock, {2: NEW, 1: OLD})
    assert (None, None) == (await both.judged(old), await both.judged(new))
    await both.verifier.flush()
    assert [Peppers({2: NEW}).digest(text.encode()) for text in (new, old)] == await stored_digests(backend, key_id)
    only_new = Process(backend, clock, {2: NEW})
    assert (None, None) == (await only_new.judged(old), await only_new.judged(new))


async def test_a_key_never_moves_to_an_older_pepper(backend: MemoryBackend, clock: ManualClock) -> None:
    key_id, text = await Process(backend, clock, {2: NEW, 1: OLD}).new_key()
    digests = await stored_digests(backend, key_id)
    for pepper in ({2: NEW}, {2: NEW, 1: OLD}, None, {1: OLD}):
        process = Process(backend, clock, pepper)
        await process.judged(text)
        await process.verifier.flush()
    assert digests == await stored_digests(backend, key_id)
    without = Process(backend, clock, None)
    plain_id, plain = await without.new_key()
    assert await without.judged(plain) is None
    await without.verifier.flush()
    assert [Peppers().digest(plain.encode())] == await stored_digests(backend, plain_id)


async def test_a_key_that_is_refused_keeps_its_pepper(backend: MemoryBackend, clock: ManualClock) -> None:
    before = Process(backend, clock, {1: OLD})
    digests: list[Digest] = []
    both = Process(backend, clock, {2: NEW, 1: OLD})
    for act, _ in (CHANGES["revoke"], CHANGES["block"], CHANGES["expire"]):
        key_id, text = await before.new_key()
        await act(before, key_id)
        assert await both.judged(text) is not None
        await both.verifier.flush()
        digests += await stored_digests(backend, key_id)
    assert [] == both.store.touched
    assert [1, 1, 1] == [digest.pepper_version for digest in digests]


async def test_an_imported_key_stays_as_it_is_found(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, {2: NEW})
    imported = await here.keys.import_key(key=FOREIGN)
    assert await here.judged(FOREIGN, imported=True) is None
    await here.verifier.flush()
    assert [None] == [use.rehash for use in here.store.touched]
    assert [Digest(sha256(FOREIGN.encode()), "sha256", 0)] == await stored_digests(backend, imported.id)
    assert await Process(backend, clock, None).judged(FOREIGN, imported=True) is None


async def test_a_pepper_that_is_missing_is_no_wrong_key(backend: MemoryBackend, clock: ManualClock) -> None:
    before = Process(backend, clock, {1: OLD})
    key_id, text = await before.new_key(roles=["admin"])
    here = Process(backend, clock, {2: NEW})
    for presented in (text, forged(key_id)):
        known = await here.verify(presented)
        assert "pepper_unavailable" == here.verifier.judge(known)
        assert (None, key_id, ANONYMOUS) == (known.key_id, known.claimed_id, known.principal)
    # One secret that can be read does not make the others wrong.
    await here.keys.rotate(key_id, grace=60.0)
    assert "pepper_unavailable" == await here.judged(text)
    assert Denial("pepper_unavailable").public_reason == "store_unavailable"


# Memory.


async def test_keys_of_a_team_share_what_they_have_in_common(here: Process) -> None:
    fields: dict[str, Any] = {
        "roles": ["member"],
        "models": ["gpt-4o*"],
        "limits": ["4 concurrent"],
        "networks": ["10.0.0.0/8"],
        "routes": ["/v1/**"],
    }
    known = [await here.verify((await here.new_key(team="blue", **fields))[1]) for _ in range(2)]
    for field in fields:
        assert getattr(known[0].principal, field) is getattr(known[1].principal, field)
    assert known[0].networks is known[1].networks
    assert known[0].routes is known[1].routes
    assert known[0].principal != known[1].principal


async def test_what_is_shared_is_bounded(here: Process) -> None:
    for number in range(10_001):
        here.verifier._one_of(number)
    assert (await here.verify((await here.new_key())[1])).refused is None
    assert len(here.verifier._shared) < 100


async def test_no_secret_prints(here: Process) -> None:
    _, text = await here.new_key(user="alice")
    await here.judged(text)
    known = await here.verify(text)
    shown = repr((known, here.verifier, list(here.verifier._uses.values()), here.store.touched))
    for secret in (text, text[-49:], sha256(text.encode()).hex(), NEW):
        assert secret not in shown
    assert secrets.compare_digest(repr(known), f"KnownKey(key_id={known.key_id!r}, refused=None)")
