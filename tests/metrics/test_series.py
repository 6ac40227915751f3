import pytest

from llm_authmw import ConfigurationError
from llm_authmw.metrics.instruments import DECISIONS, INSTRUMENTS, NONE, OTHER, REQUESTS, TOKENS
from llm_authmw.metrics.series import MAX_VALUE, Series


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None])
def test_a_bound_that_is_no_number_above_zero_is_refused(most: object) -> None:
    with pytest.raises(ConfigurationError, match="max_series"):
        Series(TOKENS, most)  # type: ignore[arg-type]


def test_a_label_of_a_closed_set_is_never_anything_else() -> None:
    series = Series(DECISIONS, 10)
    assert ("keys", "denied", "key_unknown") == series.of("keys", "denied", "key_unknown")
    assert ("keys", OTHER, OTHER) == series.of("keys", "DROP TABLE", "because")


def test_what_is_missing_is_none() -> None:
    assert (NONE, NONE, NONE, NONE) == Series(REQUESTS, 10).of(None, None, None, None)


@pytest.mark.parametrize("value", ["", "a\nb", "\x1b[31mred", "a\u202eb", "\ud800", "x" * (MAX_VALUE + 1)])
def test_a_value_that_cannot_be_shown_is_not_told_apart(value: str) -> None:
    assert ("default", OTHER, "gpt-4o", "input") == Series(TOKENS, 10).of("default", value, "gpt-4o", "input")


def test_the_first_combinations_are_told_apart_and_of_further_ones_only_what_is_of_a_closed_set() -> None:
    series = Series(TOKENS, 2)
    assert ("t", "blue", "m", "input") == series.of("t", "blue", "m", "input")
    assert ("t", "blue", "m", "output") == series.of("t", "blue", "m", "output")
    assert (OTHER, OTHER, OTHER, "input") == series.of("t", "red", "m", "input")
    assert (OTHER, OTHER, OTHER, "input") == series.of("t", "green", "m", "input")
    # Those that were first stay.
    assert ("t", "blue", "m", "input") == series.of("t", "blue", "m", "input")


def test_there_are_never_more_than_twice_as_many_as_are_told_apart() -> None:
    series = Series(DECISIONS, 3)
    outcomes, reasons = ["allowed", "denied", "passed", "shadowed"], [None, "key_unknown", "key_revoked", "rate_limited"]
    given = {series.of(f"layer{number}", outcome, reason) for number in range(10) for outcome in outcomes for reason in reasons}
    assert 6 >= len(given) == len(series)


def test_every_instrument_has_a_name_of_its_own() -> None:
    for names in (
        [one.name for one in INSTRUMENTS],
        [one.prometheus_name for one in INSTRUMENTS],
        [one.opentelemetry_name for one in INSTRUMENTS],
    ):
        assert sorted(set(names)) == sorted(names)


def test_a_histogram_and_nothing_else_has_buckets_which_rise() -> None:
    for instrument in INSTRUMENTS:
        assert (instrument.kind == "histogram") == bool(instrument.buckets)
        assert sorted(set(instrument.buckets)) == list(instrument.buckets)
