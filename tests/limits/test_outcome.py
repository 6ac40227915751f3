"""Every way out of a request, and what is charged for it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import Usage
from llm_authmw.limits.outcome import NOTHING, ClientGone, Facts, combined, final

MOST = Usage(input=1000, cached_input=1000, output=400, reasoning=400, searches=2, images=1, seconds=30, characters=7)
TRUTH = Usage(input=90, output=20, complete=True, model="gpt-4o")
SEEN = Usage(output=35)
"""What a meter says of an answer that has no counts of its own."""
HALF = Usage(input=90, cached_input=40, output=35, model="claude-sonnet-4-5")
"""What it says of one that counts from its beginning, and broke off."""
INPUT = Usage(input=1000, cached_input=1000, seconds=30, characters=7)
"""The input of the estimate, and nothing of an answer."""


def facts(**changes: Any) -> Facts:
    given: dict[str, Any] = {"status": 200, "flowing": True, "ended": True} | changes
    return Facts(**given)


def with_output(output: int) -> Usage:
    return Usage(input=1000, cached_input=1000, seconds=30, characters=7, output=output)


@pytest.mark.parametrize(
    "how",
    [
        facts(usage=TRUTH),
        facts(usage=TRUTH, ended=False, raised=True),
        facts(usage=TRUTH, ended=False, left=True),
        facts(usage=TRUTH, left=True),
        facts(usage=TRUTH, status=500, raised=True),
        facts(usage=TRUTH, status=429),
        facts(usage=TRUTH, failed=True),
    ],
)
@pytest.mark.parametrize("client_gone", ["bill_seen", "drain", "bill_estimate"])
def test_whatever_else_happened_an_answer_that_says_what_it_used_is_charged_for_that(how: Facts, client_gone: ClientGone) -> None:
    assert TRUTH == final(how, MOST, client_gone=client_gone)


@pytest.mark.parametrize("usage", [None, Usage(), SEEN, HALF])
def test_a_clean_end_without_usage_keeps_the_estimate(usage: Usage | None) -> None:
    assert final(facts(usage=usage, seen=35), MOST) is None


def test_more_than_a_guessed_ceiling_is_charged_where_it_was_seen() -> None:
    seen = Usage(output=500, model="llama")
    assert Usage(
        input=1000, cached_input=1000, output=500, reasoning=400, searches=2, images=1, seconds=30, characters=7, model="llama"
    ) == final(facts(usage=seen, seen=500), MOST, capped=False)


def test_where_the_ceiling_is_certain_what_was_counted_here_does_not_go_beyond_it() -> None:
    assert final(facts(usage=Usage(output=500), seen=500), MOST) is None
    assert with_output(400) == final(facts(usage=Usage(output=500), seen=500, ended=False, left=True), MOST)


def test_counts_of_the_providers_own_do_go_beyond_it() -> None:
    assert with_output(500) == final(facts(usage=Usage(output=500), seen=35, ended=False, left=True), MOST)


@pytest.mark.parametrize("status", [300, 304, 307, 400, 401, 404, 413, 429, 499, 500, 502, 503, 529])
@pytest.mark.parametrize("usage", [None, Usage(), Usage(output=12)])
@pytest.mark.parametrize("how", [{}, {"ended": False, "left": True}, {"ended": False, "raised": True}])
def test_an_error_without_usage_is_released(status: int, usage: Usage | None, how: dict[str, Any]) -> None:
    if status >= 500 and "raised" in how:
        return
    assert final(facts(status=status, usage=usage, seen=12, failed=True, **how), MOST) is NOTHING


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_with_some_usage_is_charged_for_that(status: int) -> None:
    assert HALF == final(facts(status=status, usage=HALF, seen=35), MOST)


@pytest.mark.parametrize("ended", [False, True])
def test_an_error_of_the_app_before_the_first_byte_costs_the_input(ended: bool) -> None:
    assert INPUT == final(Facts(raised=True), MOST)
    assert INPUT == final(Facts(status=500, flowing=True, ended=ended, raised=True, usage=Usage()), MOST)


def test_an_app_that_sends_nothing_costs_the_input() -> None:
    assert INPUT == final(Facts(), MOST)


@pytest.mark.parametrize("how", [{"raised": True, "ended": False}, {"failed": True}])
def test_an_error_in_mid_stream_costs_the_input_and_what_was_seen(how: dict[str, Any]) -> None:
    assert with_output(35) == final(facts(usage=SEEN, seen=35, **how), MOST)
    assert HALF == final(facts(usage=HALF, seen=35, **how), MOST)


def test_a_client_that_leaves_before_the_first_byte_pays_for_the_input() -> None:
    assert INPUT == final(Facts(left=True), MOST)
    assert INPUT == final(Facts(left=True, status=200, usage=Usage()), MOST)


@pytest.mark.parametrize("client_gone", ["bill_seen", "drain"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_client_that_leaves_in_mid_stream_pays_for_the_input_and_what_was_seen(client_gone: ClientGone, ended: bool) -> None:
    how = facts(usage=SEEN, seen=35, left=True, ended=ended)
    assert with_output(35) == final(how, MOST, client_gone=client_gone)
    assert HALF == final(facts(usage=HALF, seen=35, left=True, ended=ended), MOST, client_gone=client_gone)


@pytest.mark.parametrize("flowing", [False, True])
def test_a_client_that_leaves_pays_the_estimate_where_that_is_the_rule(flowing: bool) -> None:
    how = facts(usage=SEEN, seen=35, left=True, ended=False, flowing=flowing)
    assert final(how, MOST, client_gone="bill_estimate") is None


def test_a_task_that_is_cancelled_costs_what_was_seen() -> None:
    assert with_output(35) == final(facts(usage=SEEN, seen=35, ended=False, raised=True), MOST, client_gone="bill_estimate")


def test_what_nobody_could_read_may_have_been_all_of_it() -> None:
    assert MOST == final(facts(ended=False, left=True), MOST)


def test_a_truth_that_counts_nothing_is_none() -> None:
    assert final(facts(usage=Usage(complete=True)), MOST) is None
    assert with_output(0) == final(facts(usage=Usage(complete=True), ended=False, left=True), MOST)
    assert final(facts(usage=Usage(complete=True), status=400), MOST) is NOTHING


COUNTS = st.integers(0, 1000)
USAGES = st.none() | st.builds(Usage, input=COUNTS, output=COUNTS, complete=st.booleans())


@given(
    usage=USAGES,
    status=st.none() | st.sampled_from([200, 304, 404, 500]),
    flags=st.tuples(*[st.booleans()] * 5),
    seen=COUNTS,
    capped=st.booleans(),
    client_gone=st.sampled_from(["bill_seen", "drain", "bill_estimate"]),
)
def test_nobody_pays_less_than_what_the_answer_says_was_used(
    usage: Usage | None, status: int | None, flags: tuple[bool, ...], seen: int, capped: bool, client_gone: ClientGone
) -> None:
    names = ("flowing", "ended", "left", "raised", "failed")
    how = facts(status=status, seen=seen, usage=usage, **dict(zip(names, flags, strict=True)))
    charged = final(how, MOST, client_gone=client_gone, capped=capped)
    if charged is not None and usage is not None and usage.input > 0:
        assert charged.input >= usage.input
        assert charged.output >= (usage.output if usage.output != seen else min(usage.output, MOST.output))
    if charged is None:
        assert status is None or status < 300


def test_two_answers_add_up() -> None:
    assert Usage(input=93, output=21, requests=2, complete=True, model="o3") == combined(
        TRUTH, Usage(input=3, output=1, complete=True, model="o3")
    )
    assert not combined(TRUTH, SEEN).complete
