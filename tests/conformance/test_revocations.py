import base64
import math
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from llm_authmw.errors import InvalidValueError
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock
from llm_authmw.tokens.revocation_records import KEPT_AFTER_END, Revocation, RevocationPage, RevocationQuery, RevocationRef

pytestmark = pytest.mark.anyio

MakeRevocation = Callable[..., Revocation]

END = 5e9
"""Later than anything that the clock of these tests says."""

EVERYTHING: dict[str, Any] = {
    "tenant": "acme",
    "kind": "subject",
    "issuer": "https://issuer.example/ä",
    "value": "auth0|42",
    "issued_before": 1_800_000_000.000001,
    "expires_at": 1_900_000_000.5,
    "created_at": 1_800_000_000.25,
    "actor": "cli:ada",
    "note": "laptop stolen, ticket 4711",
}


async def standing(backend: Backend, **filters: Any) -> list[Revocation]:
    page = await backend.revocations.query(RevocationQuery(**filters))
    assert page.next is None
    return list(page.revocations)


async def ids(backend: Backend, **filters: Any) -> list[str]:
    return [revocation.id for revocation in await standing(backend, **filters)]


async def lift(backend: Backend, revocation_id: str, tenant: str | None = None, **fields: Any) -> Revocation | None:
    values: dict[str, Any] = {"at": 9.5, "actor": "bob", **fields}
    return await backend.revocations.lift(revocation_id, tenant=tenant, **values)


async def test_where_nothing_is_revoked_nothing_is_listed_or_lifted_or_live(backend: Backend) -> None:
    assert RevocationPage((), None) == await backend.revocations.query(RevocationQuery())
    assert {} == await backend.revocations.live()
    assert await lift(backend, "rv-1") is None
    assert await lift(backend, "\udcff") is None
    assert await lift(backend, "rv-1", "\udcff") is None


async def test_a_revocation_is_listed_as_it_was_added(backend: Backend, revocation: MakeRevocation) -> None:
    for added in (revocation("rv-1"), revocation("rv-2", **EVERYTHING), revocation("rv-3", kind="key", created_at=0.5)):
        assert added == await backend.revocations.add(added)
        assert [added] == await standing(backend, value=added.value, kind=added.kind)


async def test_what_is_live_says_up_to_which_moment_of_issue(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1"))
    await backend.revocations.add(revocation("rv-2", kind="key", value="kid"))
    await backend.revocations.add(revocation("rv-3", **EVERYTHING))
    issuer = revocation().issuer
    assert {
        RevocationRef("default", "token", issuer, "jti"): math.inf,
        RevocationRef("default", "key", issuer, "kid"): math.inf,
        RevocationRef("acme", "subject", EVERYTHING["issuer"], "auth0|42"): 1_800_000_000.000001,
    } == await backend.revocations.live()


async def test_revocations_that_differ_in_one_part_are_about_different_tokens(backend: Backend, revocation: MakeRevocation) -> None:
    base = revocation("rv-0")
    others = [
        msgspec.structs.replace(base, id="rv-1", tenant="acme"),
        msgspec.structs.replace(base, id="rv-2", kind="key"),
        msgspec.structs.replace(base, id="rv-3", issuer="https://issuer.example/"),
        msgspec.structs.replace(base, id="rv-4", value="JTI"),
    ]
    for added in (base, *others):
        assert added == await backend.revocations.add(added)
    assert {added.ref for added in (base, *others)} == set(await backend.revocations.live())


async def test_adding_the_same_again_changes_nothing_and_tells_nobody(backend: Backend, revocation: MakeRevocation) -> None:
    first = revocation("rv-1", expires_at=END, note="first")
    await backend.revocations.add(first)
    cursor = (await backend.feed.changes(None)).cursor
    for again in (revocation("rv-2", expires_at=END, actor="bob", note="again"), revocation("rv-3", expires_at=END - 1, created_at=7.0)):
        assert first == await backend.revocations.add(again)
    assert [first] == await standing(backend)
    assert (await backend.feed.changes(cursor)).revocations is False


@pytest.mark.parametrize(
    ("present", "added", "end"), [(END, END + 1, END + 1), (END, None, None), (None, END, None), (END + 1, END, END + 1)]
)
async def test_of_two_ends_the_later_one_stands_and_none_is_the_latest(
    backend: Backend, revocation: MakeRevocation, present: float | None, added: float | None, end: float | None
) -> None:
    await backend.revocations.add(revocation("rv-1", expires_at=present))
    stands = await backend.revocations.add(revocation("rv-2", expires_at=added))
    assert ("rv-1", end) == (stands.id, stands.expires_at)
    assert [stands] == await standing(backend)


@pytest.mark.parametrize(("present", "added", "moment"), [(50.0, 60.0, 60.0), (60.0, 50.0, 60.0)])
async def test_of_two_moments_of_issue_the_later_one_stands(
    backend: Backend, revocation: MakeRevocation, present: float, added: float, moment: float
) -> None:
    await backend.revocations.add(revocation("rv-1", kind="subject", issued_before=present))
    stands = await backend.revocations.add(revocation("rv-2", kind="subject", issued_before=added))
    assert ("rv-1", moment) == (stands.id, stands.issued_before)
    assert [stands] == await standing(backend)
    assert {stands.ref: moment} == await backend.revocations.live()


async def test_who_made_it_reach_further_is_told_and_since_when_it_stands_stays(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1", kind="subject", issued_before=5.0, created_at=5.0, actor="ada", note="first"))
    cursor = (await backend.feed.changes(None)).cursor
    further = revocation("rv-2", kind="subject", issued_before=6.0, created_at=6.0, actor="bob", note="second")
    assert msgspec.structs.replace(further, id="rv-1", created_at=5.0) == await backend.revocations.add(further)
    silent = revocation("rv-3", kind="subject", issued_before=7.0, actor="cat")
    stands = await backend.revocations.add(silent)
    assert ("cat", "second") == (stands.actor, stands.note)
    assert [stands] == await standing(backend)
    assert (await backend.feed.changes(cursor)).revocations is True


async def test_a_lifted_revocation_stands_no_more_and_says_who_lifted_it(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1"))
    await backend.revocations.add(revocation("rv-2", value="other"))
    lifted = msgspec.structs.replace(revocation("rv-1"), lifted_at=9.5, lifted_by="bob")
    assert lifted == await lift(backend, "rv-1")
    assert {revocation(value="other").ref: math.inf} == await backend.revocations.live()
    assert ["rv-2"] == await ids(backend)
    assert [lifted] == await standing(backend, lifted=True)


async def test_lifting_a_lifted_revocation_changes_nothing_and_tells_nobody(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1"))
    first = await lift(backend, "rv-1")
    cursor = (await backend.feed.changes(None)).cursor
    assert first == await lift(backend, "rv-1", at=20.0, actor="cat")
    assert [first] == await standing(backend, lifted=True)
    assert (await backend.feed.changes(cursor)).revocations is False


async def test_a_revocation_of_another_tenant_is_not_lifted(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1", tenant="acme"))
    cursor = (await backend.feed.changes(None)).cursor
    assert await lift(backend, "rv-1", "default") is None
    assert ["rv-1"] == await ids(backend)
    assert (await backend.feed.changes(cursor)).revocations is False
    assert await lift(backend, "rv-1", "acme") is not None
    assert {} == await backend.revocations.live()


async def test_what_was_lifted_may_be_revoked_again(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1", expires_at=END))
    await lift(backend, "rv-1")
    again = revocation("rv-2", expires_at=END - 10, created_at=2.0)
    assert again == await backend.revocations.add(again)
    assert {again.ref: math.inf} == await backend.revocations.live()
    await lift(backend, "rv-2")
    assert ["rv-2", "rv-1"] == await ids(backend, lifted=True)


# Forgetting.


async def test_a_revocation_outlives_its_tokens_by_a_day_and_is_forgotten_then(
    backend: Backend, clock: ManualClock, revocation: MakeRevocation
) -> None:
    end = clock.now() + 60.0
    await backend.revocations.add(revocation("rv-1", expires_at=end))
    await backend.revocations.add(revocation("rv-2", value="never"))
    clock.set(end + KEPT_AFTER_END - 0.5)
    assert 2 == len(await backend.revocations.live())
    assert ["rv-2", "rv-1"] == await ids(backend)
    clock.set(end + KEPT_AFTER_END)
    assert [revocation(value="never").ref] == list(await backend.revocations.live())
    assert ["rv-2"] == await ids(backend)
    assert await lift(backend, "rv-1") is None


async def test_what_was_forgotten_may_be_revoked_again(backend: Backend, clock: ManualClock, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1", expires_at=clock.now()))
    clock.advance(KEPT_AFTER_END)
    again = revocation("rv-2", expires_at=clock.now() - 1.0)
    assert again == await backend.revocations.add(again)
    assert [again] == await standing(backend)
    assert {again.ref: math.inf} == await backend.revocations.live()


async def test_an_end_that_was_moved_is_the_one_that_counts(backend: Backend, clock: ManualClock, revocation: MakeRevocation) -> None:
    end = clock.now()
    await backend.revocations.add(revocation("rv-1", expires_at=end))
    await backend.revocations.add(revocation("rv-2", expires_at=end + 10.0))
    await backend.revocations.add(revocation("rv-3", value="never", expires_at=end))
    await backend.revocations.add(revocation("rv-4", value="never"))
    clock.set(end + KEPT_AFTER_END)
    assert ["rv-3", "rv-1"] == await ids(backend)
    clock.advance(10.0)
    assert ["rv-3"] == await ids(backend)


async def test_a_lifted_revocation_is_forgotten_with_its_tokens_and_takes_no_other_with_it(
    backend: Backend, clock: ManualClock, revocation: MakeRevocation
) -> None:
    await backend.revocations.add(revocation("rv-1", expires_at=clock.now()))
    await lift(backend, "rv-1")
    await backend.revocations.add(revocation("rv-2"))
    clock.advance(KEPT_AFTER_END)
    assert [] == await ids(backend, lifted=True)
    assert ["rv-2"] == await ids(backend)
    assert {revocation().ref: math.inf} == await backend.revocations.live()


# Listing.


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
async def test_revocations_are_listed_from_the_newest_in_pages(backend: Backend, revocation: MakeRevocation, size: int) -> None:
    expected = [("rv-b", 3.0), ("rv-a", 3.0), ("rv-e", 2.5), ("rv-d", 1.0), ("rv-c", 1.0)]
    for number, (revocation_id, created_at) in enumerate(sorted(expected)):
        await backend.revocations.add(revocation(revocation_id, value=str(number), created_at=created_at, tenant=f"t{number % 2}"))
    found: list[tuple[str, float]] = []
    after: str | None = None
    while len(found) <= len(expected):
        page = await backend.revocations.query(RevocationQuery(after=after, size=size))
        found += [(listed.id, listed.created_at) for listed in page.revocations]
        after = page.next
        if after is None:
            break
        assert size == len(page.revocations)
    assert expected == found


async def test_a_revocation_that_is_added_meanwhile_moves_no_page(backend: Backend, revocation: MakeRevocation) -> None:
    for number in (1, 3):
        await backend.revocations.add(revocation(f"rv-{number}", value=str(number), created_at=float(number)))
    first = await backend.revocations.query(RevocationQuery(size=1))
    await backend.revocations.add(revocation("rv-4", value="4", created_at=4.0))
    second = await backend.revocations.query(RevocationQuery(size=1, after=first.next))
    assert ["rv-3", "rv-1"] == [listed.id for page in (first, second) for listed in page.revocations]


async def test_every_filter_that_is_given_must_hold(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1", tenant="acme", kind="subject", issuer="i", value="v"))
    await backend.revocations.add(revocation("rv-2", kind="subject", issuer="i", value="v"))
    await backend.revocations.add(revocation("rv-3", tenant="acme", kind="key", issuer="i", value="v"))
    await backend.revocations.add(revocation("rv-4", tenant="acme", kind="subject", issuer="I", value="v"))
    await backend.revocations.add(revocation("rv-5", tenant="acme", kind="subject", issuer="i", value="V"))
    assert ["rv-1"] == await ids(backend, tenant="acme", kind="subject", issuer="i", value="v")
    assert ["rv-5", "rv-4", "rv-3", "rv-1"] == await ids(backend, tenant="acme")
    assert ["rv-3"] == await ids(backend, kind="key")
    assert ["rv-4"] == await ids(backend, issuer="I")
    assert ["rv-5"] == await ids(backend, value="V")
    assert [] == await ids(backend, lifted=True)
    for surrogate in ({"tenant": "\udcff"}, {"issuer": "\udcff"}, {"value": "\udcff"}):
        assert [] == await ids(backend, **surrogate)


@pytest.mark.parametrize(
    "cursor", ["", "not a cursor", "\udcff", base64.b64encode(b'["rv-1", 1.0]').decode(), base64.b64encode(b"[1.0]").decode()]
)
async def test_a_cursor_that_no_store_gave_is_refused(backend: Backend, cursor: str) -> None:
    with pytest.raises(InvalidValueError, match="cursor"):
        await backend.revocations.query(RevocationQuery(after=cursor))


# At the same time.


async def test_of_many_who_revoke_the_same_at_once_all_get_the_one_that_stands(backend: Backend, revocation: MakeRevocation) -> None:
    outcomes: list[Revocation] = []

    async def revoke(number: int) -> None:
        outcomes.append(await backend.revocations.add(revocation(f"rv-{number}", kind="subject", issued_before=float(number))))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(revoke, number)
    (stands,) = await standing(backend)
    assert 11.0 == stands.issued_before
    assert {stands.id} == {outcome.id for outcome in outcomes}


async def test_what_is_handed_out_stays_as_it_was(backend: Backend, revocation: MakeRevocation) -> None:
    await backend.revocations.add(revocation("rv-1"))
    before = await backend.revocations.live()
    await backend.revocations.add(revocation("rv-2", value="other"))
    await lift(backend, "rv-1")
    assert {revocation().ref: math.inf} == before
