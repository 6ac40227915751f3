import itertools
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llm_authmw.call import COUNTS, MAX_COUNT, Usage
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.llm.prices import Price
from llm_authmw.quota import MAX_AMOUNT

INPUT_PARTS = ("cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_PARTS = ("reasoning", "audio_output", "image_output")
TOKENS = ("input", *INPUT_PARTS, "output", *OUTPUT_PARTS)
UNITS = {"requests": ("request", 1), "searches": ("search", 1), "images": ("image", 1), "seconds": ("minute", 60)}
NAMES = (*TOKENS, "characters", *(name for name, _ in UNITS.values()))

DOLLARS = st.one_of(
    st.fractions(0, 100, max_denominator=10**6),
    st.decimals(0, 100, allow_nan=False, places=9).map(Fraction),
    st.just(Fraction(0)),
)

COUNT = st.integers(0, 3) | st.integers(0, 10_000)


@st.composite
def full_prices(draw: st.DrawFn) -> Price:
    rates: dict[str, Any] = {name: draw(DOLLARS) for name in NAMES}
    return Price(**rates)


@st.composite
def usages(draw: st.DrawFn, most: Usage | None = None) -> Usage:
    counts: dict[str, Any] = {name: draw(COUNT if most is None else st.integers(0, getattr(most, name))) for name in COUNTS}
    return Usage(**counts)


def exact(price: Price, apart: dict[str, int]) -> Fraction:
    dollars = sum((Fraction(count, 1_000_000) * price.rates[kind] for kind, count in apart.items() if kind not in UNITS), Fraction(0))
    dollars += sum((Fraction(apart[unit], per) * price.rates[name] for unit, (name, per) in UNITS.items()), Fraction(0))
    return dollars * 10**9


def inclusive(apart: dict[str, int]) -> Usage:
    counts: dict[str, Any] = dict(apart)
    counts["cache_write"] += apart["cache_write_1h"]
    counts["input"] += sum(apart[kind] for kind in INPUT_PARTS)
    counts["output"] += sum(apart[kind] for kind in OUTPUT_PARTS)
    return Usage(**counts)


@given(full_prices(), st.fixed_dictionaries(dict.fromkeys(COUNTS, COUNT)))
def test_a_charge_is_never_below_the_exact_cost_and_less_than_a_nano_dollar_above(price: Price, apart: dict[str, int]) -> None:
    amount = price.charge(inclusive(apart))
    assert amount is not None
    assert 0 <= amount - exact(price, apart) < 1


def with_room_for_all_parts(most: Usage) -> Usage:
    """Return ceilings whose wholes are at least their parts together, so that even parts which overlap are within."""
    written = max(most.cache_write, most.cache_write_1h)
    return replace(
        most,
        input=max(most.input, most.audio_input + most.image_input, most.cached_input + written),
        output=max(most.output, most.reasoning + most.audio_output + most.image_output),
    )


def test_a_token_that_may_be_of_any_kind_is_bounded_once() -> None:
    price = Price(input="1", cached_input="0.1", cache_write="2", output="10", reasoning="20", audio_output="5")
    most = Usage(input=100, cached_input=100, cache_write=100, output=40, reasoning=40, audio_output=40)
    assert 100 * 2_000 + 40 * 20_000 == price.bound(most)


@given(st.data(), full_prices(), usages())
def test_no_usage_within_the_ceilings_costs_more_than_their_bound(data: st.DataObject, price: Price, most: Usage) -> None:
    usage = data.draw(usages(most))
    charge, bound = price.charge(usage), price.bound(with_room_for_all_parts(most))
    assert charge is not None
    assert bound is not None
    assert charge <= bound


@settings(max_examples=40)
@pytest.mark.parametrize("kinds", [("input", *INPUT_PARTS), ("output", *OUTPUT_PARTS)])
@given(price=full_prices(), counts=st.lists(st.integers(0, 1), min_size=6, max_size=6), whole=st.integers(0, 2))
def test_some_usage_within_the_ceilings_costs_just_the_bound(price: Price, counts: list[int], whole: int, kinds: tuple[str, ...]) -> None:
    most: dict[str, Any] = dict(zip(kinds, [whole, *counts[1:]], strict=False))
    if "cache_write" in most:
        most["cache_write"] = max(most["cache_write"], most["cache_write_1h"])
        most["input"] = max(whole, most["cached_input"] + most["cache_write"], most["audio_input"] + most["image_input"])
    else:
        most["output"] = max(whole, sum(counts[1:4]))
    charges: list[int] = []
    for some in itertools.product(*(range(count + 1) for count in most.values())):
        usage: dict[str, Any] = dict(zip(most, some, strict=True))
        charge = price.charge(Usage(**usage, requests=0))
        assert charge is not None
        charges.append(charge)
    assert price.bound(Usage(**most, requests=0)) == max(charges)


@given(full_prices(), usages(), st.sampled_from(COUNTS), st.integers(0, 10_000))
def test_a_higher_ceiling_never_lowers_the_bound(price: Price, most: Usage, name: str, more: int) -> None:
    higher: dict[str, Any] = {count: getattr(most, count) for count in COUNTS}
    higher[name] += more
    low, high = price.bound(most), price.bound(Usage(**higher))
    assert low is not None
    assert high is not None
    assert low <= high


@given(full_prices(), usages(), st.sampled_from(("input", "output", "requests", "searches", "images", "seconds", "characters")))
def test_more_use_never_costs_less(price: Price, usage: Usage, name: str) -> None:
    more: dict[str, Any] = {count: getattr(usage, count) for count in COUNTS}
    more[name] += 1
    one, other = price.charge(usage), price.charge(Usage(**more))
    assert one is not None
    assert other is not None
    assert one <= other


@pytest.mark.parametrize(
    ("price", "usage", "nano_dollars"),
    [
        (Price(input="0.50", output="1.50"), Usage(input=5, output=2), 5 * 500 + 2 * 1500),
        (Price(input=0.15, output=0.60), Usage(input=1_000_000), 150_000_000),
        (Price(input="0", output="0"), Usage(input=10**9, output=10**9), 0),
        (Price(input="0.0000001", output=0), Usage(input=1), 1),
        (Price(input="3", cached_input="0.30"), Usage(input=100, cached_input=90), 10 * 3000 + 90 * 300),
        (Price(input="3", cache_write="3.75"), Usage(input=100, cache_write=90), 10 * 3000 + 90 * 3750),
        (Price(input="3", cache_write="3.75", cache_write_1h="6"), Usage(input=9, cache_write=9, cache_write_1h=4), 5 * 3750 + 4 * 6000),
        (Price(input="3", cache_write="3.75"), Usage(input=9, cache_write=9, cache_write_1h=4), 9 * 3750),
        (Price(input="3", output="15"), Usage(input=9, cached_input=9, output=7, reasoning=7), 9 * 3000 + 7 * 15_000),
        (Price(input="1", output="2", reasoning="5"), Usage(output=10, reasoning=4), 6 * 2000 + 4 * 5000),
        (Price(input="1", audio_input="40"), Usage(input=10, audio_input=4), 6 * 1000 + 4 * 40_000),
        (Price(input="1", output="2", request="0.01"), Usage(), 10_000_000),
        (Price(input="1", output="2", request="0.01"), Usage(requests=3), 30_000_000),
        (Price(input="1", search="0.01"), Usage(searches=2), 20_000_000),
        (Price(image="0.04"), Usage(images=2), 80_000_000),
        (Price(minute="0.006"), Usage(seconds=61), 6_100_000),
        (Price(characters="15"), Usage(characters=3), 45_000),
    ],
)
def test_each_kind_has_its_price_or_that_of_its_whole(price: Price, usage: Usage, nano_dollars: int) -> None:
    assert nano_dollars == price.charge(usage)


@pytest.mark.parametrize(
    "usage",
    [Usage(cached_input=8), Usage(input=3, cached_input=8), Usage(input=8, cached_input=8)],
)
def test_parts_that_come_to_more_than_their_whole_are_charged(usage: Usage) -> None:
    assert 8 * 300 == Price(input="3", cached_input="0.30").charge(usage)


def test_more_read_from_and_written_to_a_cache_than_was_sent_is_charged() -> None:
    price = Price(input="3", cached_input="0.30", cache_write="3.75", cache_write_1h="6")
    assert 2 * 300 + 3 * 3750 == price.charge(Usage(input=1, cached_input=2, cache_write=3))
    assert 2 * 300 + 3 * 6000 == price.charge(Usage(input=1, cached_input=2, cache_write_1h=3))


@pytest.mark.parametrize(
    ("shortly", "for_an_hour", "nano_dollars"),
    [("2", "4", 3 * 4000 + 1 * 2000 + 6 * 1000), ("4", "2", 4 * 4000 + 6 * 1000), ("4", "0", 4 * 4000 + 6 * 1000)],
)
def test_a_bound_counts_what_is_written_to_a_cache_once(shortly: str, for_an_hour: str, nano_dollars: int) -> None:
    price = Price(input="1", cache_write=shortly, cache_write_1h=for_an_hour)
    assert nano_dollars == price.bound(Usage(input=10, cache_write=4, cache_write_1h=3))


def test_parts_that_overlap_are_charged_once_and_at_the_dearer_price() -> None:
    price = Price(input="4", cached_input="0.40", audio_input="32")
    # Of ten tokens, six are sound and eight were read from a cache: at least four of the eight are sound.
    assert 6 * 32_000 + 4 * 400 == price.charge(Usage(input=10, audio_input=6, cached_input=8))


@pytest.mark.parametrize(
    ("price", "usage"),
    [
        (Price(input="1"), Usage(input=1, output=1)),
        (Price(output="1"), Usage(input=1)),
        (Price(input="1"), Usage(reasoning=1)),
        (Price(input="1", output="1"), Usage(searches=1)),
        (Price(input="1", output="1"), Usage(images=1)),
        (Price(input="1", output="1"), Usage(seconds=1)),
        (Price(input="1", output="1"), Usage(characters=1)),
        (Price(request="0.01"), Usage(input=1)),
    ],
)
def test_what_has_no_price_is_neither_charged_nor_bounded(price: Price, usage: Usage) -> None:
    assert price.charge(usage) is None
    assert price.bound(usage) is None


def test_a_count_of_nothing_needs_no_price() -> None:
    assert 1000 == Price(input="1").charge(Usage(input=1))
    assert 1000 == Price(input="1").bound(Usage(input=1))


def test_an_amount_that_no_store_counts_exactly_is_refused() -> None:
    price = Price(input="0.001", output=0)
    assert MAX_AMOUNT == price.charge(Usage(input=MAX_COUNT))
    assert MAX_AMOUNT == price.bound(Usage(input=MAX_COUNT))
    dearer = Price(input="0.001", output="0.001")
    for cost in (dearer.charge, dearer.bound):
        with pytest.raises(InvalidValueError, match=r"more than 2\^53 nano-dollars"):
            cost(Usage(input=MAX_COUNT, output=1))


@pytest.mark.parametrize(
    "value",
    [
        "-1", "", " 1", "1 ", "1.", ".5", "1e3", "1_000", "0x1", "nan", "inf", "1/3", "$1", "\u0661", "1,5", "9" * 10,
        -1, -0.5, float("nan"), float("inf"), float("-inf"), True, False, b"1", [1],
        Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal(-1), Fraction(-1, 3),
        1_000_001, "1000000.1", 10**400, Fraction(1, 10**18 + 1), 1e-300,
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", ["input", "output", "cached_input", "request", "minute"])
def test_a_price_that_is_no_amount_is_refused_with_the_name_of_the_option(option: str, value: Any) -> None:
    given: dict[str, Any] = {"input": 1, option: value}
    with pytest.raises(ConfigurationError) as refused:
        Price(**given)
    assert option == refused.value.option


@pytest.mark.parametrize("value", ["0.15", 0.15, Decimal("0.15"), Fraction(3, 20)])
def test_an_amount_means_the_same_however_it_is_written(value: Any) -> None:
    assert Price(input="0.150") == Price(input=value)
    assert hash(Price(input="0.150")) == hash(Price(input=value))


@pytest.mark.parametrize("other", [Price(input="2"), Price(input="1", output="1"), Price(input="1", max_output=5), "Price(input='1')"])
def test_prices_that_differ_anywhere_are_not_equal(other: object) -> None:
    assert Price(input="1") != other


def test_a_price_shows_what_was_given_and_reads_as_it() -> None:
    price = Price(input="0.50", output=3, request="0.01", max_output=4096)
    assert "Price(input='1/2', output='3', request='1/100', max_output=4096)" == repr(price)
    assert "Price(input='1')" == repr(Price(input=1))


def test_a_price_of_nothing_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="what is free has input=0, output=0"):
        Price()
    with pytest.raises(ConfigurationError, match="what is free has input=0, output=0"):
        Price(max_output=5)


@pytest.mark.parametrize(("part", "whole"), [("cached_input", "input"), ("cache_write_1h", "cache_write"), ("reasoning", "output")])
def test_a_price_of_a_part_needs_that_of_its_whole(part: str, whole: str) -> None:
    given: dict[str, Any] = {part: "1"}
    with pytest.raises(ConfigurationError, match=f"{part}: is the price of a part of {whole}, which has none"):
        Price(**given)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4096", MAX_COUNT + 1])
def test_a_most_of_output_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_output: is a whole number of tokens"):
        Price(input="1", max_output=value)


def test_the_rates_of_a_price_cannot_be_changed() -> None:
    rates: Any = Price(input="1").rates
    with pytest.raises(TypeError):
        rates["input"] = Fraction(0)


@pytest.mark.parametrize("value", [-1, MAX_COUNT + 1, 1.0, float("nan"), True, None, "1"])
@pytest.mark.parametrize("name", [*COUNTS, "total"])
def test_a_usage_holds_whole_numbers_only(name: str, value: Any) -> None:
    if name == "total" and value is None:
        assert Usage(total=None).total is None
        return
    given: dict[str, Any] = {name: value}
    with pytest.raises(InvalidValueError, match=f"{name} is a whole number"):
        Usage(**given)


@st.composite
def sparse_prices(draw: st.DrawFn, *, steps: bool = True) -> Price:
    wholes: dict[str, str] = {
        **dict.fromkeys(INPUT_PARTS, "input"),
        "cache_write_1h": "cache_write",
        **dict.fromkeys(OUTPUT_PARTS, "output"),
    }
    rates: dict[str, Any] = {name: draw(DOLLARS) for name in sorted(draw(st.sets(st.sampled_from(NAMES), min_size=1)))}
    for part, whole in (*wholes.items(), *wholes.items()):
        if part in rates:
            rates.setdefault(whole, draw(DOLLARS))
    if rates == {"request": 0}:
        rates["image"] = 1
    if steps:
        rates["above"] = {start: draw(sparse_prices(steps=False)) for start in sorted(draw(st.sets(st.integers(1, 9000), max_size=2)))}
    return Price(**rates)


@given(st.data(), sparse_prices(), usages())
def test_what_has_steps_and_gaps_is_bounded_as_well(data: st.DataObject, price: Price, most: Usage) -> None:
    usage = data.draw(usages(most))
    charge, bound = price.charge(usage), price.bound(with_room_for_all_parts(most))
    if charge is not None and bound is not None:
        assert charge <= bound


def test_all_of_a_request_with_more_input_costs_what_the_step_does() -> None:
    price = Price(input=1, output=1, above={100: Price(input=2, output=4), 200: Price(input=3, output=4)})
    assert [1000 * 101, 1000 * 206, 1000 * 607] == [
        price.charge(Usage(input=tokens, output=output)) for tokens, output in ((100, 1), (101, 1), (201, 1))
    ]


def test_a_bound_is_by_the_dearest_step_that_may_be_reached() -> None:
    price = Price(input=9, output=1, above={100: Price(input=2, output=4)})
    assert [9 * 100 * 1000, 9 * 101 * 1000] == [price.bound(Usage(input=tokens)) for tokens in (100, 101)]


@pytest.mark.parametrize(
    ("price", "usage", "nano_dollars"),
    [
        (Price(image="0.04"), Usage(images=2, input=50, output=900), 80_000_000),
        (Price(minute="0.006"), Usage(seconds=60, input=50, audio_input=50, output=9), 6_000_000),
        (Price(characters=15), Usage(characters=100, input=50, output=9, audio_output=9), 1_500_000),
        (Price(search="0.002"), Usage(searches=1, input=50), 2_000_000),
        (Price(input=5, output=40), Usage(images=2, input=50, output=900), 36_250_000),
        (Price(input=5, output=40), Usage(images=2), None),
        (Price(image="0.04"), Usage(input=50), None),
        (Price(image="0.04"), Usage(images=1, searches=1), None),
        (Price(input=5, output=40), Usage(searches=1, input=50), None),
        (Price(input=5), Usage(images=1, input=50, output=9), None),
        (Price(request="0.5"), Usage(input=50), None),
    ],
)
def test_what_is_counted_by_the_piece_and_in_tokens_costs_what_has_a_price(price: Price, usage: Usage, nano_dollars: int | None) -> None:
    assert nano_dollars == price.charge(usage)
    assert nano_dollars == price.bound(usage)


@pytest.mark.parametrize(
    "above",
    [
        {0: Price(input=1)},
        {True: Price(input=1)},
        {"5": Price(input=1)},
        {5: "1"},
        {5: Price(input=1, max_output=5)},
        {5: Price(input=1, context_window=5)},
        {5: Price(input=1, above={6: Price(input=1)})},
    ],
)
def test_a_step_that_is_none_is_refused(above: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^above: "):
        Price(input=1, above=above)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, MAX_COUNT + 1])
def test_a_window_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^context_window: "):
        Price(input=1, context_window=value)


def test_prices_that_differ_in_their_steps_or_windows_are_not_equal() -> None:
    price = Price(input=1, context_window=9, above={5: Price(input=2)})
    assert price == Price(input=1, context_window=9, above={5: Price(input=2)})
    assert price not in {Price(input=1, context_window=9), Price(input=1, above={5: Price(input=2)}), Price(input=1)}
    assert "Price(input='1', context_window=9, above={5: Price(input='2')})" == repr(price)
