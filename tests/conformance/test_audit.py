"""What every store does with the audit trail."""

from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.errors import ConflictError
from llm_authmw.stores.audit import TrailStore
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.protocols import RecordQuery, UsageQuery
from llm_authmw.trail.reading import read_line
from llm_authmw.trail.record import Person, Record, Who
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

DAY = 86_400_000_000
NOON = 20_000 * DAY + DAY // 2


@pytest.fixture
def audit(backend: Backend) -> TrailStore:
    return backend.audit


@pytest.fixture
def chain(clock: ManualClock) -> Chain:
    clock.set(NOON / 1_000_000)
    return Chain(clock=clock)


def record(number: int = 0, *, who: dict[str, Any] | None = None, user: str | None = "ann", **fields: Any) -> Record:
    values: dict[str, Any] = {"time": NOON + number, "kind": "request", "id": f"{number:016x}", "outcome": "allowed", **fields}
    caller: dict[str, Any] = {"tenant": "acme", "realm": "corp", **(who or {})}
    return Record(who=Who(**caller), person=None if user is None else Person(user=user), **values)


async def numbers(audit: TrailStore, **query: Any) -> list[int]:
    """The numbers of the records that a query finds."""
    found = [read_line(entry.line) for entry in await audit.search(RecordQuery(**query))]
    return [int(one.id, 16) for one in found if one.id is not None]


async def lines(audit: TrailStore) -> list[bytes]:
    return [entry.line for entry in await audit.search(RecordQuery(limit=100_000))]


async def test_what_was_appended_is_found_byte_for_byte_and_in_order(audit: TrailStore, chain: Chain) -> None:
    entries = chain.link_all([record(number) for number in range(5)])
    await audit.append(entries)
    assert [entry.line for entry in entries] == await lines(audit)


async def test_nothing_is_found_where_nothing_was_appended(audit: TrailStore) -> None:
    assert [] == await audit.search(RecordQuery())
    await audit.append([])
    assert [] == await audit.usage(UsageQuery())


async def test_entries_that_are_there_already_change_nothing_and_are_counted_once(audit: TrailStore, chain: Chain) -> None:
    entries = chain.link_all([record(number) for number in range(5)])
    await audit.append(entries[:4])
    await audit.append(entries[:4])
    await audit.append(entries[2:])
    assert [entry.line for entry in entries] == await lines(audit)
    assert [5] == [row.requests for row in await audit.usage(UsageQuery())]


async def test_an_entry_in_whose_place_another_one_stands_is_refused_and_changes_nothing(audit: TrailStore, chain: Chain) -> None:
    first = chain.link_all([record(1)])
    second = chain.link(record(2))
    forged = msgspec.structs.replace(Chain().link(record(3)), writer=second.writer, sequence=second.sequence)
    await audit.append([*first, forged])
    kept = await lines(audit)
    for entries in ([second], [*first, second], [second, chain.link(record(4))]):
        with pytest.raises(ConflictError, match="another entry stands in the place"):
            await audit.append(entries)
    assert kept == await lines(audit)
    assert [2] == [row.requests for row in await audit.usage(UsageQuery())]


async def test_an_entry_that_is_twice_in_one_batch_is_there_once(audit: TrailStore, chain: Chain) -> None:
    (entry,) = [chain.link(record())]
    await audit.append([entry, entry])
    assert [entry.line] == await lines(audit)
    assert [1] == [row.requests for row in await audit.usage(UsageQuery())]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"tenant": "acme"}, [0, 1, 2, 4, 5]),
        ({"tenant": "nobody"}, []),
        ({"principal": "ann"}, [0, 3]),
        ({"principal": "ann", "tenant": "acme"}, [0]),
        ({"principal": "client:batch"}, [2]),
        ({"principal": "key:k1"}, [1, 5]),
        ({"principal": "batch"}, []),
        ({"team": "blue"}, [0, 1]),
        ({"team": "blue", "principal": "key:k1"}, [1]),
        ({"reason": "rate_limited"}, [1]),
        ({"reason": "key_expired"}, [4]),
        ({"model": "gpt-4o"}, [0, 2]),
        ({"model": "gpt-4o-2024"}, [0]),
        ({"outcome": "denied"}, [1]),
        ({"kinds": ("intent",)}, [5]),
        ({"kinds": ("intent", "change")}, [4, 5]),
        ({"id": "0000000000000003"}, [3]),
        ({"id": "nothing"}, []),
        ({"since": NOON + 2}, [2, 3, 4, 5]),
        ({"until": NOON + 2}, [0, 1]),
        ({"since": NOON + 1, "until": NOON + 4}, [1, 2, 3]),
        ({"principal": "ann", "since": NOON + 1}, [3]),
        ({"newest_first": True, "limit": 2}, [5, 4]),
        ({"principal": "ann", "newest_first": True}, [3, 0]),
        ({"limit": 2}, [0, 1]),
        ({"principal": "ann' OR '1'='1"}, []),
        ({"team": "\0"}, []),
        ({"model": "\ud800"}, []),
        ({"tenant": "x" * 10_000}, []),
    ],
)
async def test_a_search_finds_what_it_asks_for(audit: TrailStore, chain: Chain, query: dict[str, Any], found: list[int]) -> None:
    await audit.append(
        [
            chain.link(one)
            for one in (
                record(0, who={"team": "blue"}, models=("gpt-4o",), served="gpt-4o-2024"),
                record(1, who={"team": "blue", "credential_id": "k1"}, user="bob", outcome="denied", reason="rate_limited"),
                record(2, who={"client": "batch"}, user=None, models=("gpt-4o", "o3")),
                record(3, who={"tenant": "other"}),
                record(4, user=None, kind="change", outcome=None, decisions=(Decision("keys", "denied", "key_expired"),)),
                record(5, who={"credential_id": "k1"}, user=None, kind="intent", outcome=None),
            )
        ]
    )
    assert found == await numbers(audit, **query)


async def test_positions_grow_and_one_reads_on_from_any_of_them(audit: TrailStore, chain: Chain) -> None:
    await audit.append([chain.link(record(number)) for number in range(6)])
    first = await audit.search(RecordQuery(limit=3))
    rest = await audit.search(RecordQuery(after=first[-1].position))
    positions = [entry.position for entry in (*first, *rest)]
    assert sorted(set(positions)) == positions
    assert [3, 4, 5] == await numbers(audit, after=first[-1].position)
    assert [0, 1] == await numbers(audit, before=first[-1].position)
    assert [1, 0] == await numbers(audit, before=first[-1].position, newest_first=True)
    assert [3] == await numbers(audit, after=first[-1].position, principal="ann", limit=1)


async def test_a_position_is_never_given_twice(audit: TrailStore, chain: Chain, clock: ManualClock) -> None:
    await audit.append(chain.link_all([record(number) for number in range(3)]))
    last = (await audit.search(RecordQuery()))[-1].position
    assert 4 == await audit.prune(NOON + DAY)
    await audit.append([Chain(clock=clock).link(record(9))])
    assert last < (await audit.search(RecordQuery()))[0].position


async def test_a_name_is_the_whole_name_and_nothing_of_another_kind(audit: TrailStore, chain: Chain) -> None:
    await audit.append([chain.link(record(0, user="key:k1")), chain.link(record(1, user="Ann")), chain.link(record(2, user="annette"))])
    assert [] == await numbers(audit, principal="ann")
    assert [] == await numbers(audit, principal="key:k1")


async def test_a_person_who_is_forgotten_is_nowhere_any_more_and_the_chain_still_holds(audit: TrailStore, chain: Chain) -> None:
    people = [record(0), record(1, user="bob"), record(2, user=None), record(3), record(4, who={"tenant": "other"})]
    people[2] = msgspec.structs.replace(people[2], person=Person(end_user="ann"))
    entries = chain.link_all(people)
    await audit.append(entries)
    assert 3 == await audit.forget("acme", "ann")
    found = await lines(audit)
    assert [entry.sealed[:-1] for entry in entries] == [line[: len(entry.sealed) - 1] for line, entry in zip(found, entries, strict=True)]
    assert [None, None, "bob", None, None, "ann"] == [None if (person := read_line(line).person) is None else person.user for line in found]
    assert [4] == await numbers(audit, principal="ann")
    assert [1] == await numbers(audit, principal="bob")
    assert 3 == verify(found).forgotten
    assert verify(found).sound
    assert 0 == await audit.forget("acme", "ann")


async def test_a_person_of_another_realm_or_tenant_is_not_forgotten(audit: TrailStore, chain: Chain) -> None:
    await audit.append([chain.link(record(0)), chain.link(record(1, who={"realm": "guests"}))])
    assert 0 == await audit.forget("other", "ann")
    assert 0 == await audit.forget("acme", "Ann")
    assert 1 == await audit.forget("acme", "ann", realm="guests")
    assert [0] == await numbers(audit, principal="ann")
    rows = await audit.usage(UsageQuery(by=("realm", "user")))
    assert [({"realm": "corp", "user": "ann"}, 1), ({"realm": None, "user": None}, 1)] == sorted(
        ((row.by, row.requests) for row in rows), key=str
    )


async def test_very_many_entries_of_one_person_are_all_forgotten(audit: TrailStore, chain: Chain) -> None:
    await audit.append(chain.link_all([record(number) for number in range(2500)]))
    assert 2500 == await audit.forget("acme", "ann")
    assert not [line for line in await lines(audit) if b"ann" in line]


async def test_old_entries_are_removed_up_to_a_checkpoint_and_what_is_left_is_sound(audit: TrailStore, clock: ManualClock) -> None:
    clock.set((NOON - 2) / 1_000_000)
    chain = Chain(clock=clock)
    entries = [chain.checkpoint("opened"), *(chain.link(record(number)) for number in range(3))]
    clock.set((NOON + 3) / 1_000_000)
    entries += [chain.checkpoint(), *(chain.link(record(number)) for number in range(4, 8))]
    await audit.append(entries)
    assert 0 == await audit.prune(NOON + 2)
    assert 4 == await audit.prune(NOON + 5)
    found = await lines(audit)
    assert [entry.line for entry in entries[4:]] == found
    assert verify(found, since=NOON + 5).sound
    assert 0 == await audit.prune(NOON + 5)
    assert [] == await numbers(audit, id=f"{1:016x}")
    assert [7] == [row.requests for row in await audit.usage(UsageQuery())]


async def test_an_old_entry_that_stands_behind_a_newer_one_stays_since_no_chain_gets_a_gap(audit: TrailStore, chain: Chain) -> None:
    await audit.append([chain.link(record(5)), chain.link(record(0))])
    assert 0 == await audit.prune(NOON + 3)
    assert [5, 0] == await numbers(audit)


async def test_a_chain_that_is_old_as_a_whole_goes_and_others_stay(audit: TrailStore, clock: ManualClock, chain: Chain) -> None:
    await audit.append(chain.link_all([record(number) for number in range(3)]))
    other = Chain(clock=clock)
    await audit.append([other.link(record(9, user="bob"))])
    await audit.append([chain.link(record(3))])
    assert 5 == await audit.prune(NOON + 5)
    assert [9] == await numbers(audit)


async def test_very_many_old_entries_are_all_removed(audit: TrailStore, chain: Chain) -> None:
    await audit.append(chain.link_all([record(number) for number in range(2500)]))
    assert 2503 == await audit.prune(NOON + DAY)
    assert [] == await lines(audit)
    assert [] == await numbers(audit, principal="ann")


async def test_hostile_names_are_kept_and_found(audit: TrailStore, chain: Chain) -> None:
    names = ["a\0b", "line\nbreak", "\x1b[31m", "\u202e", "\ud800", "x" * 100_000, "'; DROP TABLE entries; --", "%", "_", "{}", ":name"]
    await audit.append([chain.link(record(number, user=name, who={"team": name}, extra={name: name})) for number, name in enumerate(names)])
    for number, name in enumerate(names):
        assert [number] == await numbers(audit, principal=name), ascii(name[:20])
        assert [1] == [row.requests for row in await audit.usage(UsageQuery(user=name, by=("user", name)))], ascii(name[:20])
        assert 1 == await audit.forget("acme", name), ascii(name[:20])
    assert [len(names)] == [row.requests for row in await audit.usage(UsageQuery(by=("user",)))]


async def test_many_writers_at_the_same_time_lose_nothing_and_count_each_request_once(audit: TrailStore, clock: ManualClock) -> None:
    clock.set(NOON / 1_000_000)

    async def write(writer: int) -> None:
        chain = Chain(clock=clock)
        for batch in range(5):
            entries = chain.link_all([record(number, charge=_charge(7), usage=Usage(input=3)) for number in range(20)])
            await audit.append(entries)
            if batch == writer % 5:
                await audit.append(entries)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for writer in range(8):
                tasks.start_soon(write, writer)
    found = await lines(audit)
    assert 8 * 101 == len(found)
    assert verify(found).sound
    (row,) = await audit.usage(UsageQuery())
    assert (800, 5600, 2400) == (row.requests, row.cost, row.input_tokens)


async def test_whoever_reads_on_while_others_write_misses_nothing(audit: TrailStore, clock: ManualClock) -> None:
    clock.set(NOON / 1_000_000)
    left = 4
    seen: list[int] = []

    async def write(writer: int) -> None:
        nonlocal left
        chain = Chain(clock=clock)
        for batch in range(10):
            await audit.append([chain.link(record(1000 * writer + 10 * batch + number)) for number in range(10)])
            await anyio.lowlevel.checkpoint()
        left -= 1

    async def follow() -> None:
        after = None
        while True:
            done = left == 0
            await anyio.lowlevel.checkpoint()
            found = await audit.search(RecordQuery(after=after, limit=50))
            if found:
                after = found[-1].position
                seen.extend(int(read_line(entry.line).id or "", 16) for entry in found)
            elif done:
                return

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            for writer in range(4):
                tasks.start_soon(write, writer)
    assert sorted(1000 * writer + number for writer in range(4) for number in range(100)) == sorted(seen)


def _charge(amount: int) -> Charge:
    return Charge(amount=amount, model="m", rule="m", version="1")
