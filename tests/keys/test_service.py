import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from llm_authmw.errors import ConfigurationError, ConflictError, InvalidValueError, NotFoundError, StoreUnavailableError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.format import parse_key
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, Replay
from llm_authmw.keys.records import KeyRecord, StoredKey
from llm_authmw.keys.service import MAX_SECRETS, KeyService
from llm_authmw.stores import Store, open_store
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

PEPPER = "p" * 32
FOREIGN = "sk-litellm-" + "Zk3" * 8


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return open_store("memory://", pepper=PEPPER, clock=clock)


@pytest.fixture
def keys(store: Store) -> KeyService:
    return store.keys


@pytest.fixture
def contended(keys: KeyService, monkeypatch: pytest.MonkeyPatch) -> KeyService:
    """The same, where everybody has read before anybody writes."""
    monkeypatch.setattr(keys, "_store", Contended(keys._store, anyio.lowlevel.checkpoint))
    return keys


class Contended:
    """A store of keys in which something happens right before a write, so that somebody else can be faster."""

    def __init__(self, inner: Any, meanwhile: Callable[[], Awaitable[Any]], times: int = 1000) -> None:
        self._inner, self._meanwhile, self._left = inner, meanwhile, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None) -> Replay | bool:
        if self._left:
            self._left -= 1
            await self._meanwhile()
        answer: Replay | bool = await self._inner.write(stored, entry, idempotency)
        return answer


async def judged(keys: KeyService, text: str, *, imported: bool = False) -> str | None:
    """Return why a text is refused, or None."""
    known = await keys.verifier.verify(text.encode(), imported=imported)
    return keys.verifier.judge(known)


async def secret_of(creating: Awaitable[Any]) -> str:
    """Return the text of a new key."""
    text: str | None = (await creating).key
    assert text is not None
    return text


# Create.


async def test_a_new_key_works_and_its_text_is_nowhere_but_in_the_answer(keys: KeyService, store: Store) -> None:
    created = await keys.create(name="ci", tenant="acme", user="alice", models=["gpt-4o*"], limits=["60 requests/minute"], prefix="acme-")
    assert created.key is not None
    assert created.id == parse_key(created.key)
    assert created.key.startswith("acme-")
    assert (created.key[-4:], "acme", "alice", ("gpt-4o*",)) == (
        created.record.last_four,
        created.record.tenant,
        created.record.user,
        created.record.models,
    )
    assert not created.replayed
    assert await judged(keys, created.key) is None
    everything = (created, await keys.get(created.id), await keys.list(), await keys.history(created.id), keys, store)
    assert created.key[-49:] not in repr(everything) + str(await keys.history(created.id))
    digest = hashlib.sha256(created.key.encode()).hexdigest()
    assert digest not in repr(everything)


async def test_creating_is_the_first_entry_of_the_history(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(name="ci", limits=["60 request/minute"], actor="alice")
    changes = {"name": [None, "ci"], "limits": [None, ["60 requests/minute"]]}
    assert (HistoryEntry(at=clock.now(), action="create", actor="alice", changes=changes),) == await keys.history(created.id)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"tenant": ""}, InvalidValueError),
        ({"tenant": "a\nb"}, InvalidValueError),
        ({"prefix": "SK-"}, ConfigurationError),
        ({"models": "gpt-4o*"}, ConfigurationError),
        ({"models": ["gpt*4"]}, InvalidValueError),
        ({"limits": ["0 requests/minute"]}, InvalidValueError),
        ({"budgets": ["50 usd/day, timezone ../etc"]}, InvalidValueError),
        ({"user": "key:x"}, InvalidValueError),
        ({"not_before": 200.0, "expires_at": 100.0}, InvalidValueError),
        ({"not_before": 100.0, "expires_at": 100.0}, InvalidValueError),
        ({"idempotency_key": ""}, InvalidValueError),
        ({"idempotency_key": "a\nb"}, InvalidValueError),
        ({"role": ["admin"]}, TypeError),
        ({"status": "active"}, TypeError),
    ],
)
async def test_a_key_that_is_wrongly_described_is_not_made(keys: KeyService, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await keys.create(**arguments)
    assert () == (await keys.list()).keys


async def test_repeating_a_create_gives_the_same_key_without_its_text(keys: KeyService, clock: ManualClock) -> None:
    first = await keys.create(name="ci", idempotency_key="deploy-1")
    clock.advance(IDEMPOTENCY_TTL - 0.001)
    again = await keys.create(name="ci", idempotency_key="deploy-1")
    assert (first.id, None, True) == (again.id, again.key, again.replayed)
    assert first.record == again.record
    assert 1 == len((await keys.list()).keys) == len(await keys.history(first.id))
    clock.advance(0.001)
    later = await keys.create(name="ci", idempotency_key="deploy-1")
    assert later.id != first.id
    assert later.key is not None


async def test_a_replayed_create_tells_the_state_of_the_key_now(keys: KeyService) -> None:
    first = await keys.create(idempotency_key="x")
    await keys.revoke(first.id)
    again = await keys.create(idempotency_key="x")
    assert ("revoked", True) == (again.record.status, again.replayed)


@pytest.mark.parametrize(
    "other", [{"name": "other"}, {"name": "ci", "prefix": "acme-"}, {}, {"name": "ci", "models": []}, {"name": "ci", "models": None}]
)
async def test_an_idempotency_key_is_good_for_one_call(keys: KeyService, other: dict[str, Any]) -> None:
    await keys.create(name="ci", idempotency_key="x")
    with pytest.raises(ConflictError, match="this idempotency key was used for another call"):
        await keys.create(**other, idempotency_key="x")
    assert 1 == len((await keys.list()).keys)


async def test_an_idempotency_key_is_the_tenants_own(keys: KeyService) -> None:
    one = await keys.create(tenant="one", idempotency_key="x")
    other = await keys.create(tenant="other", idempotency_key="x")
    assert one.id != other.id
    assert other.key is not None


async def test_the_same_idempotency_key_for_two_operations_is_two_keys(keys: KeyService) -> None:
    created = await keys.create(idempotency_key="x")
    rotated = await keys.rotate(created.id, idempotency_key="x")
    assert not rotated.replayed
    assert rotated.key is not None


async def test_creating_the_same_key_at_the_same_time_makes_one(contended: KeyService) -> None:
    answers: list[Any] = []

    async def create() -> None:
        answers.append(await contended.create(name="ci", idempotency_key="x"))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(create)
    assert 1 == len({answer.id for answer in answers})
    assert 1 == len([answer.key for answer in answers if answer.key is not None])


# Find.


async def test_a_key_of_another_tenant_is_not_there(keys: KeyService) -> None:
    created = await keys.create(tenant="acme")
    foreign: list[Callable[[], Awaitable[Any]]] = [
        lambda: keys.get(created.id, tenant="other"),
        lambda: keys.history(created.id, tenant="other"),
        lambda: keys.update(created.id, tenant="other", name="x"),
        lambda: keys.rotate(created.id, tenant="other"),
        lambda: keys.block(created.id, tenant="other"),
        lambda: keys.unblock(created.id, tenant="other"),
        lambda: keys.revoke(created.id, tenant="other"),
        lambda: keys.expire(created.id, tenant="other"),
    ]
    for call in foreign:
        with pytest.raises(NotFoundError, match="there is no such API key"):
            await call()
    assert created.record == await keys.get(created.id, tenant="acme") == await keys.get(created.id)
    assert () == (await keys.list(tenant="other")).keys


@pytest.mark.parametrize("key_id", ["0123456789abcdef", "", "x' OR 1=1 --", "\x00", "x" * 10_000])
async def test_an_id_that_nobody_has_is_not_found(keys: KeyService, key_id: str) -> None:
    with pytest.raises(NotFoundError):
        await keys.get(key_id)
    with pytest.raises(NotFoundError):
        await keys.rotate(key_id, idempotency_key="x")


async def test_keys_are_listed_newest_first_in_pages_by_every_filter(keys: KeyService, clock: ManualClock) -> None:
    made: dict[str, KeyRecord] = {}
    for name, fields in {
        "one": {"user": "alice", "team": "blue"},
        "two": {"user": "bob", "team": "blue", "org": "research", "tags": ["beta"]},
        "three": {"user": "alice", "team": "red", "not_before": clock.now() + 1000},
    }.items():
        given: Any = fields
        made[name] = (await keys.create(name=name, tenant="acme", **given)).record
        clock.advance(1.0)
    await keys.create(name="foreign", tenant="other", user="alice", team="blue")

    async def found(**filters: Any) -> list[str | None]:
        return [record.name for record in (await keys.list(tenant="acme", **filters)).keys]

    assert ["three", "two", "one"] == await found()
    assert ["three", "one"] == await found(user="alice")
    assert ["two", "one"] == await found(team="blue")
    assert ["one"] == await found(team="blue", user="alice")
    assert ["two"] == await found(org="research") == await found(tag="beta") == await found(search="TW")
    assert ["one"] == await found(search=made["one"].id[:10])
    assert ["three"] == await found(state="not yet valid")
    assert ["two", "one"] == await found(state="active")
    page = await keys.list(tenant="acme", size=2)
    assert (["three", "two"], True) == ([record.name for record in page.keys], page.next is not None)
    page = await keys.list(tenant="acme", size=2, after=page.next)
    assert (["one"], None) == ([record.name for record in page.keys], page.next)


@pytest.mark.parametrize("size", [0, -1, 1001])
async def test_a_page_has_a_size(keys: KeyService, size: int) -> None:
    with pytest.raises(InvalidValueError, match="a page holds 1 to 1000 keys"):
        await keys.list(size=size)
    with pytest.raises(InvalidValueError, match="a page holds 1 to 1000 keys"):
        await keys.unused(since=0.0, size=size)


@pytest.mark.parametrize("size", [1, 1000])
async def test_the_smallest_and_the_largest_page_are_given(keys: KeyService, size: int) -> None:
    for _ in range(2):
        await keys.create()
    assert min(size, 2) == len((await keys.list(size=size)).keys) == len((await keys.unused(since=2e9, size=size)).keys)


async def test_a_cursor_of_somebody_else_is_refused(keys: KeyService) -> None:
    with pytest.raises(InvalidValueError):
        await keys.list(after="bm90IGEgY3Vyc29y")


async def test_the_report_of_unused_keys_names_those_that_work_and_that_nobody_used(keys: KeyService, clock: ManualClock) -> None:
    old = await keys.create(name="old")
    used = await keys.create(name="used")
    revoked = await keys.create(name="revoked")
    await keys.revoke(revoked.id)
    clock.advance(1000.0)
    since = clock.now()
    clock.advance(1.0)
    await keys.create(name="new")
    assert used.key is not None
    assert await judged(keys, used.key) is None
    await keys.verifier.flush()
    assert [old.id] == [record.id for record in (await keys.unused(since=since)).keys]
    assert () == (await keys.unused(since=since, tenant="other")).keys


# Change.


async def test_an_update_changes_what_it_names_and_takes_effect_at_once(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(name="ci", roles=["member"], models=["gpt-4o*"])
    assert created.key is not None
    assert await judged(keys, created.key) is None
    clock.advance(0.5)
    changed = await keys.update(created.id, models=[], roles=["member", "admin"], actor="bob")
    assert ("ci", (), ("admin", "member"), 2) == (changed.name, changed.models, changed.roles, changed.revision)
    known = await keys.verifier.verify(created.key.encode())
    assert () == known.principal.models
    changes: dict[str, Any] = {"models": [["gpt-4o*"], []], "roles": [["member"], ["admin", "member"]]}
    assert HistoryEntry(at=clock.now(), action="update", actor="bob", changes=changes) == (await keys.history(created.id))[-1]


async def test_an_update_that_changes_nothing_writes_nothing(keys: KeyService) -> None:
    created = await keys.create(name="ci", roles=["b", "a"])
    for fields in ({}, {"name": "ci"}, {"roles": ["a", "b"]}):
        given: Any = fields
        assert created.record == await keys.update(created.id, **given)
    assert 1 == len(await keys.history(created.id))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"limits": ["sixty"]}, InvalidValueError),
        ({"roles": "admin"}, ConfigurationError),
        ({"expires_at": 50.0}, InvalidValueError),
        ({"not_before": 100.0}, InvalidValueError),
        ({"tenant": "other"}, NotFoundError),
        ({"status": "active"}, TypeError),
    ],
)
async def test_an_update_that_is_wrong_changes_nothing(keys: KeyService, fields: dict[str, Any], error: type[Exception]) -> None:
    created = await keys.create(not_before=50.0, expires_at=100.0)
    with pytest.raises(error):
        await keys.update(created.id, **fields)
    assert created.record == await keys.get(created.id)


async def test_a_blocked_key_stops_at_once_and_works_again_when_it_is_unblocked(keys: KeyService) -> None:
    created = await keys.create()
    assert created.key is not None
    assert await judged(keys, created.key) is None
    for verb, reason in ((keys.block, "key_blocked"), (keys.block, "key_blocked"), (keys.unblock, None), (keys.unblock, None)):
        await verb(created.id, actor="alice")
        assert reason == await judged(keys, created.key)
    assert ["create", "block", "unblock"] == [entry.action for entry in await keys.history(created.id)]
    assert {"status": ["active", "blocked"]} == (await keys.history(created.id))[1].changes


async def test_revoking_is_final(keys: KeyService) -> None:
    created = await keys.create()
    assert created.key is not None
    revoked = await keys.revoke(created.id)
    assert ("revoked", "key_revoked") == (revoked.status, await judged(keys, created.key))
    assert revoked == await keys.revoke(created.id)
    again: list[Callable[[], Awaitable[Any]]] = [
        lambda: keys.update(created.id, name="x"),
        lambda: keys.rotate(created.id),
        lambda: keys.block(created.id),
        lambda: keys.unblock(created.id),
        lambda: keys.expire(created.id),
    ]
    for call in again:
        with pytest.raises(ConflictError, match="revoked, which is final"):
            await call()
    assert revoked == await keys.get(created.id)
    assert ["create", "revoke"] == [entry.action for entry in await keys.history(created.id)]


async def test_a_key_ends_now_or_at_a_moment(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(not_before=clock.now() - 10)
    assert created.key is not None
    await keys.expire(created.id, at=clock.now() + 5)
    assert await judged(keys, created.key) is None
    await keys.expire(created.id)
    assert "key_expired" == await judged(keys, created.key)
    assert clock.now() == (await keys.get(created.id)).expires_at
    await keys.update(created.id, expires_at=None)
    assert await judged(keys, created.key) is None
    with pytest.raises(InvalidValueError):
        await keys.expire(created.id, at=-1.0)


async def test_a_key_that_was_ended_before_it_began_can_still_be_changed(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(not_before=clock.now() + 100)
    await keys.expire(created.id)
    assert "x" == (await keys.update(created.id, name="x")).name
    with pytest.raises(InvalidValueError, match="end before it begins"):
        await keys.update(created.id, not_before=clock.now() + 200)
    assert "active" == (await keys.update(created.id, not_before=None, expires_at=None)).state(clock.now())


async def test_changes_at_the_same_time_lose_nothing(contended: KeyService) -> None:
    keys = contended
    created = await keys.create(name="at first")

    async def change(number: int) -> None:
        given: Any = {("name", "team", "org", "tier", "user")[number % 5]: str(number)}
        await keys.update(created.id, **given)

    async with anyio.create_task_group() as tasks:
        for number in range(25):
            tasks.start_soon(change, number)
    record = await keys.get(created.id)
    history = await keys.history(created.id)
    assert 26 == record.revision == len(history)
    assert all(value is not None for value in (record.name, record.team, record.org, record.tier, record.user))
    replayed: dict[str, Any] = {}
    for entry in history:
        for field, (before, after) in entry.changes.items():
            # Each change began where the one before it ended.
            assert replayed.get(field) == before
            replayed[field] = after


async def test_a_change_that_was_overtaken_is_made_again_on_what_is_there_now(keys: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await keys.create()
    inner = keys._store
    monkeypatch.setattr(keys, "_store", Contended(inner, lambda: keys.update(created.id, team="blue"), 1))
    changed = await keys.update(created.id, org="research")
    assert ("blue", "research", 3) == (changed.team, changed.org, changed.revision)


@pytest.mark.parametrize("verb", ["unblock", "rotate", "update"])
async def test_a_key_that_is_revoked_meanwhile_is_not_brought_back(keys: KeyService, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    created = await keys.create()
    await keys.block(created.id)
    changes = {"name": "x"} if verb == "update" else {}
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_store", Contended(keys._store, lambda: keys.revoke(created.id), 1))
        with pytest.raises(ConflictError, match="revoked, which is final"):
            await getattr(keys, verb)(created.id, **changes)
    assert "revoked" == (await keys.get(created.id)).status


async def test_a_store_that_cannot_be_written_is_no_success(keys: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    created = await keys.create()
    assert created.key is not None

    async def down() -> None:
        raise StoreUnavailableError("locked")

    monkeypatch.setattr(keys, "_store", Contended(keys._store, down, 99))
    for call in (keys.create, lambda: keys.revoke(created.id), lambda: keys.rotate(created.id)):
        with pytest.raises(StoreUnavailableError):
            await call()
    assert await judged(keys, created.key) is None


# Rotate.


async def test_after_a_rotation_both_secrets_work_until_the_exact_end_of_grace(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(team="blue")
    old = created.key
    assert old is not None
    clock.advance(10.0)
    rotated = await keys.rotate(created.id, grace=60.0, actor="bob")
    assert rotated.key is not None
    assert (created.id, created.id, "blue") == (rotated.id, parse_key(rotated.key), rotated.record.team)
    assert (rotated.key[-4:], clock.now()) == (rotated.record.last_four, rotated.record.rotated_at)
    marks = [(await keys.verifier.verify(text.encode())).mark for text in (old, rotated.key)]
    assert ["retiring_secret", None] == marks
    clock.advance(59.999)
    assert (None, None) == (await judged(keys, old), await judged(keys, rotated.key))
    clock.advance(0.001)
    assert ("key_rotated", None) == (await judged(keys, old), await judged(keys, rotated.key))
    entry = (await keys.history(created.id))[-1]
    assert ("rotate", "bob", {"last_four", "rotated_at", "secrets_end"}) == (entry.action, entry.actor, set(entry.changes))
    assert [[None], [None, clock.now()]] == entry.changes["secrets_end"]


async def test_a_rotation_without_grace_ends_every_old_secret_at_once(keys: KeyService) -> None:
    created = await keys.create()
    texts = [created.key, (await keys.rotate(created.id)).key]
    newest = await secret_of(keys.rotate(created.id, grace=0))
    for text in texts:
        assert text is not None
        assert "key_mismatch" == await judged(keys, text)
    assert await judged(keys, newest) is None


async def test_a_later_rotation_never_prolongs_an_earlier_grace(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create()
    assert created.key is not None
    await keys.rotate(created.id, grace=10.0)
    second = await keys.rotate(created.id, grace=1000.0)
    assert second.key is not None
    clock.advance(10.0)
    assert "key_rotated" == await judged(keys, created.key)
    shortened = await keys.rotate(created.id, grace=5.0)
    assert shortened.key is not None
    assert "key_mismatch" == await judged(keys, created.key)
    clock.advance(5.0)
    assert "key_rotated" == await judged(keys, second.key)


async def test_a_key_that_ends_before_its_grace_has_expired(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create(expires_at=clock.now() + 5)
    assert created.key is not None
    await keys.rotate(created.id, grace=60.0)
    clock.advance(5.0)
    assert "key_expired" == await judged(keys, created.key)


async def test_a_key_has_only_so_many_secrets(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create()
    for _ in range(MAX_SECRETS - 1):
        await keys.rotate(created.id, grace=60.0)
    with pytest.raises(ConflictError, match="5 secrets whose time of grace still runs"):
        await keys.rotate(created.id, grace=60.0)
    assert MAX_SECRETS == (await keys.get(created.id)).revision
    clock.advance(60.0)
    await keys.rotate(created.id, grace=60.0)
    await keys.rotate(created.id, grace=0)


@pytest.mark.parametrize("grace", [-0.001, 366 * 86_400 + 1, float("nan"), float("inf")])
async def test_a_grace_is_a_number_of_seconds_up_to_a_year(keys: KeyService, grace: float) -> None:
    created = await keys.create()
    with pytest.raises(InvalidValueError, match="grace is a number of seconds from 0 to a year"):
        await keys.rotate(created.id, grace=grace)
    assert created.record == await keys.get(created.id)


@pytest.mark.parametrize(("grace", "seconds"), [({}, 86_400.0), ({"grace": 366 * 86_400}, 366 * 86_400.0)])
async def test_the_grace_is_a_day_unless_it_is_said(keys: KeyService, clock: ManualClock, grace: dict[str, Any], seconds: float) -> None:
    created = await keys.create()
    assert created.key is not None
    await keys.rotate(created.id, **grace)
    clock.advance(seconds - 0.001)
    assert await judged(keys, created.key) is None
    clock.advance(0.001)
    assert "key_rotated" == await judged(keys, created.key)


async def test_repeating_a_rotation_rotates_no_second_time(keys: KeyService, clock: ManualClock) -> None:
    created = await keys.create()
    assert created.key is not None
    first = await keys.rotate(created.id, grace=60.0, idempotency_key="x")
    clock.advance(1.0)
    again = await keys.rotate(created.id, grace=60.0, idempotency_key="x")
    assert (first.id, first.record, None, True) == (again.id, again.record, again.key, again.replayed)
    assert first.key is not None
    assert (None, None) == (await judged(keys, created.key), await judged(keys, first.key))
    assert 2 == len(await keys.history(created.id))


async def test_a_rotation_may_be_repeated_when_the_key_can_no_longer_be_rotated(keys: KeyService) -> None:
    created = await keys.create()
    await keys.rotate(created.id, idempotency_key="x")
    await keys.revoke(created.id)
    again = await keys.rotate(created.id, idempotency_key="x")
    assert (True, "revoked") == (again.replayed, again.record.status)


async def test_a_rotation_of_another_key_is_another_call(keys: KeyService) -> None:
    one, other = await keys.create(), await keys.create()
    await keys.rotate(one.id, idempotency_key="x")
    for key_id, arguments in ((other.id, {}), (one.id, {"grace": 1.0}), (one.id, {"prefix": "acme-"})):
        given: Any = arguments
        with pytest.raises(ConflictError, match="used for another call"):
            await keys.rotate(key_id, idempotency_key="x", **given)
    assert 1 == (await keys.get(other.id)).revision


async def test_rotating_at_the_same_time_rotates_once_where_the_caller_says_so(contended: KeyService) -> None:
    keys = contended
    created = await keys.create()
    answers: list[Any] = []

    async def rotate() -> None:
        answers.append(await keys.rotate(created.id, idempotency_key="x"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(rotate)
    assert 1 == len([answer.key for answer in answers if answer.key is not None])
    assert 2 == (await keys.get(created.id)).revision


async def test_a_rotation_that_was_overtaken_by_its_own_repetition_answers_like_it(
    keys: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await keys.create()
    inner = keys._store
    monkeypatch.setattr(keys, "_store", Contended(inner, lambda: keys.rotate(created.id, idempotency_key="x"), 1))
    late = await keys.rotate(created.id, idempotency_key="x")
    assert (None, True, 2) == (late.key, late.replayed, late.record.revision)


# Import.


@pytest.mark.parametrize("by", ["text", "digest", "digest in upper case"])
async def test_an_imported_key_works_unchanged_where_imported_keys_are_accepted(keys: KeyService, by: str) -> None:
    digest = hashlib.sha256(FOREIGN.encode()).hexdigest()
    given: dict[str, Any] = (
        {"key": FOREIGN} if by == "text" else {"sha256_hex": digest.upper() if "upper" in by else digest, "last_four": "3Zk3"}
    )
    imported = await keys.import_key(**given, tenant="acme", user="alice")
    assert (None, "3Zk3", True, "acme") == (imported.key, imported.record.last_four, imported.record.imported, imported.record.tenant)
    known = await keys.verifier.verify(FOREIGN.encode(), imported=True)
    assert (None, "imported_secret", True, "alice") == (keys.verifier.judge(known), known.mark, known.imported, known.principal.user)
    assert "key_malformed" == await judged(keys, FOREIGN)


async def test_the_digest_of_an_imported_key_is_not_the_key(keys: KeyService) -> None:
    digest = hashlib.sha256(FOREIGN.encode())
    await keys.import_key(key=FOREIGN)
    for presented in (digest.hexdigest(), digest.hexdigest().upper(), f"sk-{digest.hexdigest()}", digest.digest().decode("latin-1")):
        assert await judged(keys, presented, imported=True) in {"key_unknown", "key_malformed"}


async def test_importing_again_changes_nothing_and_another_tenant_may_not(keys: KeyService) -> None:
    first = await keys.import_key(key=FOREIGN, tenant="acme", name="first")
    again = await keys.import_key(sha256_hex=hashlib.sha256(FOREIGN.encode()).hexdigest(), tenant="acme", name="again")
    assert (first.id, "first", True, None) == (again.id, again.record.name, again.replayed, again.key)
    with pytest.raises(ConflictError, match="another tenant has imported this key"):
        await keys.import_key(key=FOREIGN, tenant="other")
    assert 1 == len((await keys.list()).keys)
    assert ["import"] == [entry.action for entry in await keys.history(first.id)]


async def test_importing_the_same_key_at_the_same_time_makes_one(keys: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = keys._store
    monkeypatch.setattr(keys, "_store", Contended(inner, lambda: keys.import_key(key=FOREIGN), 1))
    assert (await keys.import_key(key=FOREIGN)).replayed
    assert 1 == len((await keys.list()).keys)


async def test_an_import_whose_new_id_is_taken_is_an_error_and_no_replay(keys: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    async def taken() -> None:
        raise ConflictError("an API key with this id exists")

    monkeypatch.setattr(keys, "_store", Contended(keys._store, taken))
    with pytest.raises(ConflictError, match="with this id exists"):
        await keys.import_key(key=FOREIGN)


async def test_a_rotation_gives_an_imported_key_a_secret_of_our_form(keys: KeyService, clock: ManualClock) -> None:
    imported = await keys.import_key(key=FOREIGN, team="blue")
    assert await judged(keys, FOREIGN, imported=True) is None
    rotated = await keys.rotate(imported.id, grace=60.0)
    assert rotated.key is not None
    assert (imported.id, False, "blue") == (parse_key(rotated.key), rotated.record.imported, rotated.record.team)
    assert await judged(keys, rotated.key) is None
    known = await keys.verifier.verify(FOREIGN.encode(), imported=True)
    assert ("retiring_secret", True) == (known.mark, known.imported)
    clock.advance(60.0)
    assert "key_rotated" == await judged(keys, FOREIGN, imported=True)
    assert await judged(keys, rotated.key) is None


async def test_a_revoked_import_stays_revoked(keys: KeyService) -> None:
    imported = await keys.import_key(key=FOREIGN)
    await keys.revoke(imported.id)
    assert "key_revoked" == await judged(keys, FOREIGN, imported=True)
    again = await keys.import_key(key=FOREIGN)
    assert ("revoked", True) == (again.record.status, again.replayed)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"key": FOREIGN, "sha256_hex": "0" * 64},
        {"sha256_hex": ""},
        {"sha256_hex": "0" * 63},
        {"sha256_hex": "0" * 65},
        {"sha256_hex": "g" * 64},
        {"sha256_hex": "0x" + "0" * 62},
        {"sha256_hex": "\u0660" * 64},
        {"sha256_hex": "0" * 64, "last_four": "12345"},
        {"sha256_hex": "0" * 64, "last_four": "a\n"},
        {"key": ""},
        {"key": "x" * 15},
        {"key": "x" * 513},
        {"key": "with blanks in between"},
        {"key": "with-a-line-break\n"},
        {"key": "größe-größe-größe"},
        {"key": FOREIGN, "tenant": ""},
        {"key": FOREIGN, "limits": ["sixty"]},
    ],
)
async def test_what_cannot_be_imported_is_refused(keys: KeyService, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        await keys.import_key(**arguments)
    assert () == (await keys.list()).keys


async def test_a_key_of_our_own_form_is_not_imported(keys: KeyService) -> None:
    text = await secret_of(keys.create())
    with pytest.raises(InvalidValueError, match="of our own form"):
        await keys.import_key(key=text)


async def test_a_random_digest_lets_nobody_in(keys: KeyService) -> None:
    await keys.import_key(sha256_hex=secrets.token_hex(32))
    assert "key_unknown" == await judged(keys, FOREIGN, imported=True)


async def test_budgets_are_changed_by_what_is_made_of_them_even_where_somebody_else_is_faster(
    keys: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await keys.create(budgets=["50 usd/month", "9 usd"])

    async def elsewhere() -> None:
        await keys.update(created.id, budgets=["70 usd/month", "9 usd"])

    monkeypatch.setattr(keys, "_store", Contended(keys._store, elsewhere, times=1))
    changed = await keys.change_budgets(created.id, lambda budgets: budgets[:1], action="trim", actor="alice")

    assert ["70 usd/month"] == [str(budget) for budget in changed.budgets]
    last = (await keys.history(created.id))[-1]
    assert ("trim", "alice", {"budgets": [["70 usd/month", "9 usd"], ["70 usd/month"]]}) == (last.action, last.actor, last.changes)


async def test_budgets_of_a_revoked_key_or_of_another_tenants_are_not_changed(keys: KeyService) -> None:
    created = await keys.create(budgets=["50 usd/month"])

    with pytest.raises(NotFoundError):
        await keys.change_budgets(created.id, lambda budgets: (), action="trim", tenant="acme")
    await keys.revoke(created.id)
    with pytest.raises(ConflictError):
        await keys.change_budgets(created.id, lambda budgets: (), action="trim")
    assert created.record.budgets == (await keys.get(created.id)).budgets
