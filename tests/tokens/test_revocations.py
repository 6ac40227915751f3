import math
from typing import Any

import anyio
import pytest

from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.errors import ConfigurationError, InvalidValueError, NotFoundError, StoreCorruptError, StoreError, StoreUnavailableError
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing import ManualClock
from llm_authmw.tokens.revocation_records import KEPT_AFTER_END, LiveRevocations, Revocation
from llm_authmw.tokens.revocations import RevocationService

pytestmark = pytest.mark.anyio

ISSUER = "https://issuer.example"
TIME_LIMIT = 5.0


class Spy:
    """A store's revocations as one process sees them: counts the reads, and can be held up or fail."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.reads = 0
        self.held: anyio.Event | None = None
        self.error: StoreError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def live(self) -> LiveRevocations:
        self.reads += 1
        if self.error is not None:
            raise self.error
        found: LiveRevocations = await self._inner.live()
        # Read first, held up then: what is handed over may be out of date by that time.
        if self.held is not None:
            await self.held.wait()
        return found


class Process:
    """One process on a backend that it shares with others."""

    def __init__(self, backend: MemoryBackend, clock: ManualClock, *, deadline: float = TIME_LIMIT) -> None:
        self.store = Spy(backend.revocations)
        self.follower = ChangeFollower(backend.feed, bound=1.0, clock=clock)
        store: Any = self.store
        self.revocations = RevocationService(store, follower=self.follower, deadline=deadline, clock=clock)

    async def covers(self, **token: Any) -> bool:
        """Look as a verifier does."""
        if self.revocations.stale:
            await self.revocations.refresh()
        return covers(self.revocations, **token)


def covers(revocations: RevocationService, **token: Any) -> bool:
    """Ask about a token of the default tenant that has nothing but what is given."""
    nothing: dict[str, Any] = {"tenant": "default", "issuer": ISSUER, "jti": None, "subject": None, "issued_at": None, "kid": None}
    return revocations.covers(**{**nothing, **token})


def stale(revocations: RevocationService) -> bool:
    # Asked in a function: a type checker takes a property that was True once for one that stays so.
    return revocations.stale


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


@pytest.fixture
def revocations(here: Process) -> RevocationService:
    return here.revocations


# The verbs.


async def test_a_token_is_revoked_with_all_that_was_said_about_it(revocations: RevocationService, clock: ManualClock) -> None:
    end = clock.now() + 600
    made = await revocations.revoke_token(ISSUER, "jti-1", expires_at=end, tenant="acme", actor="ada", note="leaked")
    assert (
        Revocation(
            id=made.id,
            kind="token",
            issuer=ISSUER,
            value="jti-1",
            tenant="acme",
            expires_at=end,
            created_at=clock.now(),
            actor="ada",
            note="leaked",
        )
        == made
    )
    assert made.id.startswith("rv-")
    assert len(made.id) == 15
    assert (made,) == (await revocations.list()).revocations


async def test_a_subject_is_revoked_up_to_now_unless_another_moment_is_named(revocations: RevocationService, clock: ManualClock) -> None:
    now = await revocations.revoke_subject(ISSUER, "ann")
    then = await revocations.revoke_subject(ISSUER, "bob", issued_before=5, expires_at=clock.now(), actor="ada", note="left")
    assert ("subject", "ann", clock.now(), None, "api") == (now.kind, now.value, now.issued_before, now.expires_at, now.actor)
    assert ("subject", "bob", 5.0, clock.now(), "ada", "left") == (
        then.kind,
        then.value,
        then.issued_before,
        then.expires_at,
        then.actor,
        then.note,
    )


async def test_a_key_is_revoked_for_good(revocations: RevocationService) -> None:
    made = await revocations.revoke_key(ISSUER, "kid-1", tenant="acme", actor="ada", note="stolen")
    assert ("key", ISSUER, "kid-1", "acme", None, None, "ada", "stolen") == (
        made.kind,
        made.issuer,
        made.value,
        made.tenant,
        made.issued_before,
        made.expires_at,
        made.actor,
        made.note,
    )


async def test_revoking_again_gives_the_one_that_stands(revocations: RevocationService, clock: ManualClock) -> None:
    first = await revocations.revoke_subject(ISSUER, "ann", issued_before=5.0)
    assert first == await revocations.revoke_subject(ISSUER, "ann", issued_before=4.0, actor="bob")
    further = await revocations.revoke_subject(ISSUER, "ann", actor="bob")
    assert (first.id, clock.now(), "bob") == (further.id, further.issued_before, further.actor)
    assert (further,) == (await revocations.list()).revocations


async def test_each_revocation_has_an_id_of_its_own(revocations: RevocationService) -> None:
    made = [await revocations.revoke_token(ISSUER, f"jti-{number}") for number in range(50)]
    assert 50 == len({revocation.id for revocation in made})


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJqdGktMSJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        ("issuer is empty", {"issuer": ""}),
        ("jti is empty", {"jti": ""}),
        ("jti begins or ends with a blank", {"jti": "jti-1 "}),
        ("jti holds a character that does not print", {"jti": "jti\n1"}),
        ("jti holds a character that does not print", {"jti": "\udcff"}),
        ("jti is longer than 512 characters", {"jti": "x" * 513}),
        ("jti is not a text", {"jti": 5}),
        ("jti is the id in a token's claims, and this looks like a whole token", {"jti": TOKEN}),
        ("jti is the id in a token's claims, and this looks like a whole token", {"jti": "eyJhbGciOiJkaXIifQ..iv.text.tag"}),
        ("tenant is empty", {"tenant": ""}),
        ("actor is empty", {"actor": ""}),
        ("note is empty", {"note": ""}),
        ("note is longer", {"note": "x" * 513}),
        ("expires_at is a number of seconds since 1970", {"expires_at": "tomorrow"}),
        ("expires_at is a number of seconds since 1970", {"expires_at": -1.0}),
        ("expires_at is a number of seconds since 1970", {"expires_at": math.nan}),
        ("expires_at is a number of seconds since 1970", {"expires_at": 1_800_000_000_000}),
        ("expires_at is more than a day ago", {"expires_at": 5.0}),
    ],
)
async def test_a_token_that_is_wrongly_described_is_not_revoked(
    revocations: RevocationService, problem: str, arguments: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"issuer": ISSUER, "jti": "jti-1", **arguments}
    with pytest.raises(InvalidValueError, match=problem) as caught:
        await revocations.revoke_token(given.pop("issuer"), given.pop("jti"), **given)
    assert TOKEN not in str(caught.value)
    assert () == (await revocations.list()).revocations


@pytest.mark.parametrize("jti", ["AT.0mP4JKAZX1iACIT4vbED.oar2x4l7", "urn:uuid:b3f1", "a.b.c", "ey"])
async def test_ids_that_issuers_give_are_not_taken_for_tokens(revocations: RevocationService, jti: str) -> None:
    assert jti == (await revocations.revoke_token(ISSUER, jti)).value


async def test_subjects_and_keys_that_are_wrongly_described_are_not_revoked(revocations: RevocationService, clock: ManualClock) -> None:
    for wrong in ({"issued_before": -1.0}, {"issued_before": "now"}, {"expires_at": 5.0}, {"tenant": ""}):
        given: dict[str, Any] = wrong
        with pytest.raises(InvalidValueError, match=next(iter(given))):
            await revocations.revoke_subject(ISSUER, "ann", **given)
    with pytest.raises(InvalidValueError, match="subject is empty"):
        await revocations.revoke_subject(ISSUER, "")
    with pytest.raises(InvalidValueError, match="kid is empty"):
        await revocations.revoke_key(ISSUER, "")
    assert () == (await revocations.list()).revocations


async def test_a_token_that_ended_within_the_last_day_may_still_be_let_in_by_a_leeway_and_is_revoked(
    revocations: RevocationService, clock: ManualClock
) -> None:
    end = clock.now() - KEPT_AFTER_END
    with pytest.raises(InvalidValueError):
        await revocations.revoke_token(ISSUER, "jti-1", expires_at=end)
    await revocations.revoke_token(ISSUER, "jti-1", expires_at=end + 0.5)
    await revocations.refresh()
    assert covers(revocations, jti="jti-1")


async def test_revocations_are_listed_by_every_filter_in_pages(revocations: RevocationService, clock: ManualClock) -> None:
    await revocations.revoke_key(ISSUER, "kid", tenant="acme")
    clock.advance(1.0)
    await revocations.revoke_subject("https://other.example", "ann", tenant="acme")
    clock.advance(1.0)
    await revocations.revoke_token(ISSUER, "jti")

    async def found(**filters: Any) -> list[str]:
        return [revocation.value for revocation in (await revocations.list(**filters)).revocations]

    assert ["jti", "ann", "kid"] == await found()
    assert ["ann", "kid"] == await found(tenant="acme")
    assert ["kid"] == await found(kind="key")
    assert ["ann"] == await found(issuer="https://other.example")
    assert ["jti"] == await found(value="jti")
    first = await revocations.list(size=2)
    assert ["kid"] == await found(after=first.next)


@pytest.mark.parametrize("size", [0, -1, 1001])
async def test_a_page_has_a_size_and_a_filter_a_kind(revocations: RevocationService, size: int) -> None:
    with pytest.raises(InvalidValueError, match="a page holds 1 to 1000 revocations"):
        await revocations.list(size=size)
    kind: Any = "session"
    with pytest.raises(InvalidValueError, match="'session' is not a kind of revocation: expected one of token, subject, key"):
        await revocations.list(kind=kind)


async def test_a_revocation_is_lifted_once_and_by_somebody(revocations: RevocationService, clock: ManualClock) -> None:
    made = await revocations.revoke_token(ISSUER, "jti", tenant="acme")
    clock.advance(1.0)
    for revocation_id, tenant in (("rv-nobody", None), ("rv-nobody", "acme"), (made.id, "default")):
        with pytest.raises(NotFoundError, match="there is no such revocation"):
            await revocations.lift(revocation_id, tenant=tenant)
    with pytest.raises(InvalidValueError, match="actor is empty"):
        await revocations.lift(made.id, actor="")
    lifted = await revocations.lift(made.id, tenant="acme", actor="bob")
    assert (made.id, clock.now(), "bob") == (lifted.id, lifted.lifted_at, lifted.lifted_by)
    clock.advance(1.0)
    assert lifted == await revocations.lift(made.id)
    assert () == (await revocations.list()).revocations
    assert (lifted,) == (await revocations.list(lifted=True)).revocations


# What is covered.


async def test_before_anything_was_read_every_token_is_covered(revocations: RevocationService) -> None:
    assert stale(revocations)
    assert covers(revocations)
    await revocations.refresh()
    assert not stale(revocations)
    assert not covers(revocations)


async def test_a_revoked_token_is_covered_and_no_other(here: Process) -> None:
    await here.revocations.revoke_token(ISSUER, "jti-1")
    assert await here.covers(jti="jti-1", subject="ann", issued_at=5.0, kid="kid")
    assert not await here.covers(jti="jti-2")
    assert not await here.covers(jti="JTI-1")
    assert not await here.covers(jti=None)
    assert not await here.covers(jti="jti-1", issuer="https://other.example")
    assert not await here.covers(jti="jti-1", tenant="acme")
    assert not await here.covers(subject="jti-1", kid="jti-1")


async def test_a_subjects_tokens_are_covered_up_to_the_moment_and_where_they_do_not_say_when(here: Process) -> None:
    await here.revocations.revoke_subject(ISSUER, "ann", issued_before=1000.0)
    for issued_at in (None, 0, 999.5, 1000, 1000.0):
        assert await here.covers(subject="ann", issued_at=issued_at)
    for issued_at in (1000.5, 1001, 2e9):
        assert not await here.covers(subject="ann", issued_at=issued_at)
    assert not await here.covers(subject="bob", issued_at=5.0)
    assert not await here.covers(subject=None)
    assert not await here.covers(subject="ann", issuer="https://other.example")
    assert not await here.covers(subject="ann", tenant="acme")
    assert not await here.covers(jti="ann", kid="ann")


async def test_every_token_of_a_revoked_key_is_covered(here: Process) -> None:
    await here.revocations.revoke_key(ISSUER, "kid-1")
    assert await here.covers(kid="kid-1", jti="any", subject="anybody", issued_at=2e9)
    assert not await here.covers(kid="kid-2")
    assert not await here.covers(kid=None)
    assert not await here.covers(kid="kid-1", issuer="https://other.example")
    assert not await here.covers(kid="kid-1", tenant="acme")
    assert not await here.covers(jti="kid-1", subject="kid-1")


async def test_a_lifted_revocation_covers_nothing_and_leaves_the_others(here: Process) -> None:
    made = await here.revocations.revoke_token(ISSUER, "jti-1")
    await here.revocations.revoke_token(ISSUER, "jti-2")
    assert await here.covers(jti="jti-1")
    await here.revocations.lift(made.id)
    assert not await here.covers(jti="jti-1")
    assert await here.covers(jti="jti-2")


# When it takes effect.


async def test_what_this_process_revokes_and_lifts_counts_at_once(here: Process) -> None:
    assert not await here.covers(jti="jti-1")
    made = await here.revocations.revoke_token(ISSUER, "jti-1")
    assert stale(here.revocations)
    assert await here.covers(jti="jti-1")
    await here.revocations.lift(made.id)
    assert stale(here.revocations)
    assert not await here.covers(jti="jti-1")


async def test_what_another_process_revokes_counts_within_the_bound(here: Process, elsewhere: Process, clock: ManualClock) -> None:
    assert 1.0 == here.revocations.bound
    assert not await here.covers(jti="jti-1")
    await elsewhere.revocations.revoke_token(ISSUER, "jti-1")
    clock.advance(0.999)
    assert not stale(here.revocations)
    clock.advance(0.001)
    assert stale(here.revocations)
    assert await here.covers(jti="jti-1")


async def test_revoking_what_another_process_revoked_a_moment_ago_counts_at_once(here: Process, elsewhere: Process) -> None:
    assert not await here.covers(jti="jti-1")
    await elsewhere.revocations.revoke_token(ISSUER, "jti-1")
    await here.revocations.revoke_token(ISSUER, "jti-1")
    assert await here.covers(jti="jti-1")


async def test_the_store_is_read_once_and_again_only_when_a_revocation_changed(here: Process, clock: ManualClock) -> None:
    for _ in range(3):
        await here.revocations.refresh()
        clock.advance(1.0)
    assert 1 == here.store.reads
    here.follower.announce(Changes(cursor=0, keys=frozenset({"k1"}), accounts=True))
    await here.revocations.refresh()
    assert 1 == here.store.reads
    here.follower.announce(Changes.of_anything(0))
    assert stale(here.revocations)
    await here.revocations.refresh()
    assert 2 == here.store.reads


async def test_the_generation_rises_when_something_else_is_revoked_than_before(here: Process, clock: ManualClock) -> None:
    await here.revocations.refresh()
    generations = [here.revocations.generation]
    made = await here.revocations.revoke_subject(ISSUER, "ann", issued_before=5.0)
    await here.revocations.refresh()
    generations.append(here.revocations.generation)
    await here.revocations.revoke_subject(ISSUER, "ann", issued_before=6.0)
    await here.revocations.refresh()
    generations.append(here.revocations.generation)
    await here.revocations.lift(made.id)
    await here.revocations.refresh()
    generations.append(here.revocations.generation)
    assert sorted(set(generations)) == generations
    here.follower.announce(Changes.of_anything(0))
    clock.advance(1.0)
    await here.revocations.refresh()
    assert generations[-1] == here.revocations.generation


async def test_callers_at_the_same_time_read_once(here: Process) -> None:
    here.store.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(here.revocations.refresh)
        await anyio.wait_all_tasks_blocked()
        here.store.held.set()
    assert 1 == here.store.reads
    assert not stale(here.revocations)


async def test_what_changes_while_it_is_read_is_read_again(here: Process) -> None:
    here.store.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.revocations.refresh)
        await anyio.wait_all_tasks_blocked()
        await here.revocations.revoke_token(ISSUER, "jti-1")
        here.store.held.set()
    assert 2 == here.store.reads
    assert not stale(here.revocations)
    assert covers(here.revocations, jti="jti-1")


# When the store fails.


@pytest.mark.parametrize("error", [StoreUnavailableError("locked"), StoreCorruptError("damaged")])
async def test_a_store_that_cannot_be_read_leaves_it_stale(here: Process, error: StoreUnavailableError | StoreCorruptError) -> None:
    await here.revocations.revoke_token(ISSUER, "jti-1")
    here.store.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            await here.revocations.refresh()
        assert stale(here.revocations)
    here.store.error = None
    assert await here.covers(jti="jti-1")


async def test_a_store_that_does_not_answer_is_unavailable_within_the_deadline(backend: MemoryBackend, clock: ManualClock) -> None:
    here = Process(backend, clock, deadline=0.01)
    here.store.held = anyio.Event()
    with anyio.fail_after(TIME_LIMIT), pytest.raises(StoreUnavailableError, match="did not answer in time"):
        await here.revocations.refresh()
    assert stale(here.revocations)
    here.store.held.set()
    await here.revocations.refresh()
    assert not stale(here.revocations)


@pytest.mark.parametrize("deadline", [0, -1.0, math.inf, math.nan])
def test_a_deadline_is_seconds_above_zero(backend: MemoryBackend, clock: ManualClock, deadline: float) -> None:
    with pytest.raises(ConfigurationError, match=r"^deadline: is a number of seconds above zero$"):
        Process(backend, clock, deadline=deadline)


async def test_what_a_failed_read_had_known_is_not_lost_and_not_believed(here: Process, clock: ManualClock) -> None:
    await here.revocations.revoke_token(ISSUER, "jti-1")
    await here.revocations.refresh()
    generation = here.revocations.generation
    await here.revocations.revoke_token(ISSUER, "jti-2")
    here.store.error = StoreUnavailableError("locked")
    with pytest.raises(StoreUnavailableError):
        await here.revocations.refresh()
    assert stale(here.revocations)
    assert generation == here.revocations.generation
    assert covers(here.revocations, jti="jti-1")
