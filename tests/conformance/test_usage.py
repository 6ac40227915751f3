"""What every store sums up of what was used, beside one plain model that adds it all up anew each time."""

import math
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_authmw.call import Charge, Usage
from llm_authmw.errors import InvalidValueError
from llm_authmw.stores.audit import TrailStore
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.store import Backend
from llm_authmw.stores.trail import sums
from llm_authmw.stores.trail.histogram import MAX_ERROR
from llm_authmw.stores.usage import UsageService
from llm_authmw.testing import ManualClock
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.protocols import UsageQuery, UsageRow
from llm_authmw.trail.record import Person, Record, Who

pytestmark = pytest.mark.anyio

DAY = 86_400_000_000
FIRST = 20_000  # 2024-10-04


@pytest.fixture
def audit(backend: Backend) -> TrailStore:
    return backend.audit


@pytest.fixture
def usage(backend: Backend) -> UsageService:
    return UsageService(backend.audit)


@pytest.fixture
def chain(clock: ManualClock) -> Chain:
    return Chain(clock=clock)


def request(
    *,
    day: int = FIRST,
    user: str | None = None,
    tokens: tuple[int, int] = (0, 0),
    cost: int = 0,
    who: dict[str, Any] | None = None,
    **fields: Any,
) -> Record:
    values: dict[str, Any] = {"kind": "request", "outcome": "allowed", **fields}
    if tokens != (0, 0):
        values["usage"] = Usage(input=tokens[0], output=tokens[1])
    if cost:
        values["charge"] = Charge(amount=cost, model="m", rule="m", version="1")
    caller: dict[str, Any] = {"tenant": "acme", "realm": "corp", **(who or {})}
    return Record(time=day * DAY + 1, who=Who(**caller), person=None if user is None else Person(user=user), **values)


async def append(audit: TrailStore, chain: Chain, *records: Record) -> None:
    await audit.append([chain.link(record) for record in records])


async def test_a_sum_says_all_that_was_used(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(
        audit,
        chain,
        request(tokens=(100, 20), cost=3_000, duration=1_000_000, first_byte=200_000, status=200),
        request(tokens=(10, 2), cost=300, duration=1_000_000, first_byte=200_000, status=200),
        request(outcome="denied", reason="rate_limited", duration=9_000_000, status=429),
        request(outcome="failed", status=500),
        request(outcome="allowed", status=502),
    )
    (row,) = await usage.by()
    assert ({}, 5, 1, 2, 110, 22, 3_300) == (row.by, row.requests, row.denied, row.failed, row.input_tokens, row.output_tokens, row.cost)
    assert row.latency is not None
    assert row.first_byte is not None
    for found, truth in ((row.latency, 1000), (row.first_byte, 200)):
        assert ["p50", "p90", "p95", "p99"] == list(found)
        assert all(abs(value - truth) <= truth * MAX_ERROR for value in found.values())


async def test_a_sum_without_a_request_that_was_let_in_has_no_times(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(audit, chain, request(outcome="denied", duration=1, first_byte=1))
    (row,) = await usage.by()
    assert (None, None) == (row.latency, row.first_byte)


async def test_only_requests_count(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    for kind in ("intent", "change", "policy", "loss"):
        await append(audit, chain, request(kind=kind, cost=7))
    await audit.append([chain.checkpoint()])
    assert [] == await usage.by()


async def test_a_model_that_a_denied_request_names_is_counted_nowhere(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(audit, chain, *(request(outcome="denied", models=(f"made-up-{number}",)) for number in range(50)))
    await append(audit, chain, request(models=("gpt-4o",)), request(models=("gpt-4o",), served="gpt-4o-2024"))
    assert [({"model": None}, 50), ({"model": "gpt-4o"}, 1), ({"model": "gpt-4o-2024"}, 1)] == [
        (row.by, row.requests) for row in await usage.by("model")
    ]


async def test_the_id_of_a_token_is_no_key(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(
        audit,
        chain,
        *(request(who={"method": "jwt", "credential_id": f"jti-{number}"}) for number in range(20)),
        request(who={"method": "key", "credential_id": "k1"}),
    )
    assert [({"key": None}, 20), ({"key": "k1"}, 1)] == [(row.by, row.requests) for row in await usage.by("key")]


async def test_rows_come_by_cost_and_then_by_requests_and_no_more_than_were_asked_for(
    audit: TrailStore, usage: UsageService, chain: Chain
) -> None:
    await append(
        audit, chain, request(user="a"), request(user="b", cost=2), request(user="c", cost=5), request(user="d"), request(user="d")
    )
    assert ["c", "b", "d", "a"] == [row.by["user"] for row in await usage.by("user")]
    assert ["c", "b"] == [row.by["user"] for row in await usage.by("user", limit=2)]


async def test_the_order_of_what_is_told_apart_is_that_of_the_question(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(audit, chain, request(user="ann", extra={"country": "DE"}, who={"team": "blue"}, models=("m",)))
    (row,) = await usage.by("country", "day", "team", "user", "tenant", "realm", "model", "nothing")
    assert [
        ("country", "DE"),
        ("day", "2024-10-04"),
        ("team", "blue"),
        ("user", "ann"),
        ("tenant", "acme"),
        ("realm", "corp"),
        ("model", "m"),
        ("nothing", None),
    ] == list(row.by.items())


async def test_enriched_values_of_any_kind_are_told_apart(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    values = ["DE", 7, 1.5, True, False, None, ""]
    await append(audit, chain, *(request(extra={"field": value}) for value in values))
    assert {"DE", "7", "1.5", "true", "false", None, ""} == {row.by["field"] for row in await usage.by("field")}


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ({"since": "yesterday"}, "no date"),
        ({"until": "2024-13-01"}, "month"),
        ({"since": "2024-1-1"}, "no date"),
        ({"limit": 0}, "limit"),
        ({"limit": 100_001}, "limit"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(usage: UsageService, question: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidValueError, match=problem):
        await usage.by(**question)


async def test_a_dimension_that_comes_twice_is_refused(usage: UsageService) -> None:
    with pytest.raises(InvalidValueError, match="twice"):
        await usage.by("team", "team")


async def test_sums_of_two_tenants_never_mix(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    await append(audit, chain, request(user="ann", cost=1), request(user="ann", cost=2, who={"tenant": "other"}))
    assert [1] == [row.cost for row in await usage.by("user", tenant="acme")]
    assert [2] == [row.cost for row in await usage.by("user", tenant="other")]
    assert [] == await usage.by(tenant="")
    assert [({"tenant": "other"}, 2), ({"tenant": "acme"}, 1)] == [(row.by, row.cost) for row in await usage.by("tenant")]


async def test_two_tenants_whose_long_names_begin_alike_never_mix(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    one, other = "x" * 511 + "1", "x" * 511 + "2"
    await append(audit, chain, request(cost=1, user=one, who={"tenant": one}), request(cost=2, user=other, who={"tenant": other}))
    assert [1] == [row.cost for row in await usage.by(tenant=one)]
    assert [2] == [row.cost for row in await usage.by("user", tenant=other)]
    assert [] == await usage.by(tenant="x" * 511)
    assert 2 == len(await usage.by("tenant"))
    # Nor does to forget the one of them forget the other.
    assert 0 == await audit.forget(one, other)
    assert 1 == await audit.forget(other, other)
    assert [1] == [row.cost for row in await usage.by(user=one)]


async def test_one_caller_who_names_ever_new_models_takes_no_room_from_others(
    audit: TrailStore, usage: UsageService, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sums", "postgres"):
        _bound(monkeypatch, module, MAX_SUMS_OF_ONE=5, MAX_SUMS=100)
    await append(audit, chain, *(request(user="mallory", models=(f"m{number}",), cost=1) for number in range(20)))
    await append(audit, chain, *(request(user="mallory", models=(f"n{number}",), cost=1) for number in range(20)))
    await append(audit, chain, request(user="ann", models=("gpt-4o",), cost=1))
    rows = await usage.by("user", "model")
    assert 7 == len(rows)
    assert [35] == [row.requests for row in rows if row.by == {"user": "mallory", "model": "(other)"}]
    assert [1] == [row.requests for row in rows if row.by == {"user": "ann", "model": "gpt-4o"}]
    assert [41] == [row.cost for row in await usage.by()]


async def test_a_day_has_so_many_sums_and_one_more_for_all_the_rest(
    audit: TrailStore, usage: UsageService, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sums", "postgres"):
        _bound(monkeypatch, module, MAX_SUMS_OF_ONE=5, MAX_SUMS=10)
    for _ in range(2):
        await append(audit, chain, *(request(user=f"u{number}", cost=1, duration=5) for number in range(30)))
    rows = await usage.by("user", "team")
    assert 11 == len(rows)
    assert {"user": "(other)", "team": "(other)"} == rows[0].by
    assert 40 == rows[0].requests
    assert [2] * 10 == [row.requests for row in rows[1:]]
    await append(audit, chain, request(user="u29", day=FIRST + 1), request(user="u29", who={"tenant": "other"}))
    assert [1] == [row.requests for row in await usage.by("user", since="2024-10-05", user="u29")]
    assert [1] == [row.requests for row in await usage.by("user", tenant="other", user="u29")]


def _bound(monkeypatch: pytest.MonkeyPatch, module: str, **bounds: int) -> None:
    place: Any = sums
    if module == "postgres":
        place = pytest.importorskip("llm_authmw.stores.postgres.audit")
    for name, bound in bounds.items():
        monkeypatch.setattr(place, name, bound)


async def test_a_sum_grows_no_further_than_can_be_held(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    most = 2**53
    for _ in range(3):
        await append(audit, chain, *(request(tokens=(most, most), cost=most) for _ in range(400)))
    (row,) = await usage.by()
    assert (1200, 2**62, 2**62, 2**62) == (row.requests, row.input_tokens, row.output_tokens, row.cost)


async def test_what_a_forgotten_person_used_stays_and_is_nobodys(audit: TrailStore, usage: UsageService, chain: Chain) -> None:
    for day in (FIRST, FIRST + 1):
        await append(
            audit,
            chain,
            request(day=day, user="ann", cost=1, duration=7, models=("m",)),
            request(day=day, user="ann", cost=2, models=("n",)),
            request(day=day, cost=4, duration=9, models=("m",), who={"realm": ""}),
            request(day=day, user="bob", cost=8),
        )
    before = await usage.by("day", "model")
    await audit.forget("acme", "ann")
    assert [] == await usage.by("user", user="ann")
    assert before == await usage.by("day", "model")
    assert [("bob", 16), (None, 14)] == [(row.by["user"], row.cost) for row in await usage.by("user")]


async def test_the_room_of_a_forgotten_person_is_free_again(
    audit: TrailStore, usage: UsageService, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sums", "postgres"):
        _bound(monkeypatch, module, MAX_SUMS_OF_ONE=5, MAX_SUMS=3)
    await append(audit, chain, request(user="a"), request(user="b"), request(user="c"))
    await audit.forget("acme", "a")
    await audit.forget("acme", "b")
    await append(audit, chain, request(user="d"))
    assert {"c", "d", None} == {row.by["user"] for row in await usage.by("user")}


times = st.integers(0, 10**11)
requests = st.builds(
    request,
    day=st.integers(FIRST, FIRST + 2),
    user=st.sampled_from([None, "ann", "bob"]),
    tokens=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    cost=st.integers(0, 10**9),
    who=st.fixed_dictionaries(
        {
            "tenant": st.sampled_from(["acme", "other"]),
            "team": st.sampled_from([None, "blue", "red"]),
            "org": st.sampled_from([None, "org"]),
            "method": st.sampled_from(["key", "jwt"]),
            "credential_id": st.sampled_from([None, "k1", "k2"]),
        }
    ),
    models=st.sampled_from([(), ("m",), ("n", "m")]),
    outcome=st.sampled_from(["allowed", "denied", "failed"]),
    status=st.sampled_from([None, 200, 500]),
    duration=st.none() | times,
    first_byte=st.none() | times,
    extra=st.sampled_from([{}, {"country": "DE"}, {"country": "FR", "vip": True}]),
)
DIMENSIONS = ("key", "user", "team", "org", "tenant", "model", "day", "country", "vip", "realm")
questions = st.fixed_dictionaries(
    {"by": st.lists(st.sampled_from(DIMENSIONS), max_size=4, unique=True).map(tuple)},
    optional={
        "since": st.sampled_from(["2024-10-04", "2024-10-05", "2025-01-01"]),
        "until": st.sampled_from(["2024-10-04", "2024-10-05", "2025-01-01"]),
        "tenant": st.sampled_from(["acme", "nobody"]),
        "user": st.just("ann"),
        "team": st.just("blue"),
        "org": st.just("org"),
        "key": st.just("k1"),
        "model": st.just("m"),
    },
)


def dimensions_of(record: Record) -> dict[str, str | None]:
    who, user = record.who, None if record.person is None else record.person.user
    assert who is not None
    return {
        "key": who.credential_id if who.method == "key" else None,
        "user": user,
        "realm": who.realm if user is not None else None,
        "team": who.team,
        "org": who.org,
        "tenant": who.tenant,
        "model": None if record.outcome == "denied" else next(iter(record.models), None),
        "day": {FIRST: "2024-10-04", FIRST + 1: "2024-10-05", FIRST + 2: "2024-10-06"}[record.time // DAY],
        "country": {"DE": "DE", "FR": "FR"}.get(str(record.extra.get("country"))),
        "vip": "true" if record.extra.get("vip") else None,
    }


def nearest_rank(values: list[int], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1] / 1000


def check(rows: list[UsageRow], records: list[Record], question: dict[str, Any]) -> None:
    groups: dict[tuple[tuple[str, str | None], ...], list[Record]] = defaultdict(list)
    for record in records:
        found = dimensions_of(record)
        day = found["day"] or ""
        if question.get("since", "") <= day <= question.get("until", "9") and all(
            found[name] == question[name] for name in ("tenant", "user", "team", "org", "key", "model") if name in question
        ):
            groups[tuple((name, found[name]) for name in question["by"])].append(record)
    assert set(groups) == {tuple(row.by.items()) for row in rows}
    assert len(groups) == len(rows)
    for row in rows:
        group = groups[tuple(row.by.items())]
        let_in = [record for record in group if record.outcome != "denied"]
        assert len(group) == row.requests
        assert len(group) - len(let_in) == row.denied
        assert sum(record.outcome == "failed" or record.status == 500 for record in let_in) == row.failed
        assert sum(record.usage.input for record in group if record.usage) == row.input_tokens
        assert sum(record.usage.output for record in group if record.usage) == row.output_tokens
        assert sum(record.charge.amount for record in group if record.charge) == row.cost
        for told, name in ((row.latency, "duration"), (row.first_byte, "first_byte")):
            values = [getattr(record, name) for record in let_in if getattr(record, name) is not None]
            assert (told is None) is (not values)
            for percentile, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
                if told is not None:
                    truth = nearest_rank(values, share)
                    assert abs(told[percentile] - truth) <= max(truth * (MAX_ERROR + 1e-6), 0.001)


@settings(max_examples=40)
@given(batches=st.lists(st.lists(requests, max_size=12), max_size=4), question=questions)
@pytest.mark.parametrize("place", ["memory", "sqlite"])
def test_sums_are_what_a_plain_model_says(place: str, batches: list[list[Record]], question: dict[str, Any]) -> None:
    async def play() -> list[UsageRow]:
        with TemporaryDirectory() as directory:
            backend: Backend = MemoryBackend() if place == "memory" else SQLiteBackend(str(Path(directory) / "store.db"))
            try:
                for chain in (Chain(), Chain()):
                    for batch in batches:
                        await backend.audit.append(chain.link_all(batch))
                return list(await backend.audit.usage(UsageQuery(**question)))
            finally:
                await backend.aclose()

    check(anyio.run(play), [record for batch in batches for record in batch] * 2, question)


@pytest.mark.parametrize("seed", range(4))
async def test_sums_of_any_store_are_what_a_plain_model_says(audit: TrailStore, chain: Chain, seed: int) -> None:
    records = [
        request(
            day=FIRST + number * 7 % 3,
            user=[None, "ann", "bob"][(number + seed) % 3],
            tokens=(number, 2 * number),
            cost=number * 1000,
            who={"tenant": "acme", "team": ["blue", "red"][number % 2], "method": "key", "credential_id": f"k{number % 4}"},
            models=[(), ("m",), ("n", "m")][number % 3],
            outcome=["allowed", "denied", "failed", "allowed"][number * 3 % 4],
            status=[None, 200, 500][number % 3],
            duration=number**4,
            first_byte=number**3 if number % 2 else None,
            extra=[{}, {"country": "DE"}, {"country": "FR", "vip": True}][number % 3],
        )
        for number in range(seed, seed + 60)
    ]
    for start in range(0, 60, 13):
        await append(audit, chain, *records[start : start + 13])
    ways: list[tuple[str, ...]] = [(), ("user",), ("team", "model"), ("day", "country"), ("key", "vip", "tenant")]
    filters: list[dict[str, Any]] = [{}, {"user": "ann"}, {"model": "m", "since": "2024-10-05"}]
    for by in ways:
        for question in filters:
            check(list(await audit.usage(UsageQuery(by=by, **question))), records, {"by": by, **question})
