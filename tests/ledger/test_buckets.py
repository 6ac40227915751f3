from typing import Any

import pytest

from llm_authmw.errors import InvalidValueError
from llm_authmw.ledger.buckets import MAX_MOMENT, MAX_SPANS, Bucket, BucketRef, Claim, Span
from llm_authmw.quota import MAX_AMOUNT

WINDOW: dict[str, Any] = {"kind": "window", "measure": "nano_usd", "spans": (Span(10, 20), Span(25, 30))}
ROLLING: dict[str, Any] = {"kind": "rolling", "measure": "tokens", "burst": 5, "period": 60}
LEASE: dict[str, Any] = {"kind": "lease", "measure": "concurrent"}
LIFETIME: dict[str, Any] = {"kind": "lifetime", "measure": "nano_usd"}


def bucket(**fields: Any) -> Bucket:
    values: dict[str, Any] = {"tenant": "t", "name": "b", "limit": 10, **fields}
    return Bucket(**values)


@pytest.mark.parametrize(
    "fields",
    [
        {**LIFETIME, "tenant": ""},
        {**LIFETIME, "name": ""},
        {**LIFETIME, "name": "a\nb"},
        {**LIFETIME, "name": "\udcff"},
        {**LIFETIME, "name": "x" * 2049},
        {**LIFETIME, "kind": "sliding"},
        {**LIFETIME, "measure": "usd"},
        {**LIFETIME, "measure": "concurrent"},
        {**LEASE, "measure": "requests"},
        {**LIFETIME, "limit": 0},
        {**LIFETIME, "limit": -1},
        {**LIFETIME, "limit": MAX_AMOUNT + 1},
        {**LIFETIME, "limit": 1.0},
        {**LIFETIME, "limit": True},
        {**LIFETIME, "burst": 1},
        {**LIFETIME, "period": 1},
        {**LIFETIME, "spans": (Span(1, 2),)},
        {**ROLLING, "burst": 0},
        {**ROLLING, "burst": 11},
        {**ROLLING, "period": 0},
        {**ROLLING, "period": 0.5},
        {**ROLLING, "spans": (Span(1, 2),)},
        {**WINDOW, "spans": ()},
        {**WINDOW, "spans": (Span(2, 2),)},
        {**WINDOW, "spans": (Span(-1, 2),)},
        {**WINDOW, "spans": (Span(1.0, 2),)},  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        {**WINDOW, "spans": (Span(5, 9), Span(8, 12))},
        {**WINDOW, "spans": (Span(5, 9), Span(1, 4))},
        {**WINDOW, "spans": (Span(0, MAX_MOMENT + 1),)},
        {**WINDOW, "spans": tuple(Span(start, start + 1) for start in range(MAX_SPANS + 1))},
    ],
)
def test_a_bucket_whose_parts_are_wrong_or_contradict_each_other_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        bucket(**fields)


@pytest.mark.parametrize("fields", [WINDOW, ROLLING, LEASE, LIFETIME, {**LIFETIME, "limit": MAX_AMOUNT}, {**LIFETIME, "name": "x" * 2048}])
def test_a_bucket_of_each_kind_can_be_made(fields: dict[str, Any]) -> None:
    assert BucketRef("t", fields.get("name", "b")) == bucket(**fields).ref


def test_one_request_can_have_the_burst_of_a_rate_and_the_whole_limit_of_any_other() -> None:
    assert [10, 5, 10, 10] == [bucket(**fields).capacity for fields in (WINDOW, ROLLING, LEASE, LIFETIME)]


def test_a_moment_is_in_the_window_that_begins_with_it_and_not_in_the_one_that_ends_with_it() -> None:
    spans = [bucket(**WINDOW).span_at(now) for now in (9, 10, 19, 20, 24, 25, 30)]
    assert [None, Span(10, 20), Span(10, 20), None, None, Span(25, 30), None] == spans


@pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1, 1.0, True, "1", None])
def test_a_claim_for_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidValueError):
        Claim(bucket(**LIFETIME), amount)


def test_nothing_may_be_claimed_of_all_but_a_lease() -> None:
    assert 0 == Claim(bucket(**LIFETIME), 0).amount
    with pytest.raises(InvalidValueError):
        Claim(bucket(**LEASE), 0)
