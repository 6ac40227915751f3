"""Beside the package's own calculation, which is the oracle of what its data mean."""

import builtins
import functools
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from genai_prices import calc_price, types
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_authmw.call import COUNTS, Usage
from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.llm.genai_price_book import MAX_MODELS, GenaiPriceBook
from llm_authmw.testing import ManualClock

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MODELS = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4o-audio-preview",
    "gpt-image-1",
    "claude-sonnet-4-5",
    "claude-opus-4-5",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "command-r",
    "deepseek-chat",
    "text-embedding-3-small",
]

counts = st.integers(0, 400_000)


@functools.cache
def book() -> GenaiPriceBook:
    return GenaiPriceBook(clock=ManualClock(NOW.timestamp()))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    into, out = draw(counts), draw(counts)
    cached = draw(st.integers(0, into))
    written = draw(st.integers(0, into - cached))
    return Usage(
        input=into, output=out, cached_input=cached, cache_write=written, cache_write_1h=draw(st.sampled_from([0, written // 2, written]))
    )


def theirs(model: str, usage: Usage) -> int:
    told = types.Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        cache_write_1h_tokens=usage.cache_write_1h,
        input_audio_tokens=0,
        output_audio_tokens=0,
        cache_audio_read_tokens=0,
        input_image_tokens=0,
        output_image_tokens=0,
        cache_image_read_tokens=0,
        output_reasoning_tokens=0,
        input_video_tokens=0,
    )
    return math.ceil(Fraction(calc_price(told, model, genai_request_timestamp=NOW).total_price) * 10**9)


@given(st.sampled_from(MODELS), usages())
def test_a_charge_is_what_the_package_itself_says_rounded_up_once(model: str, usage: Usage) -> None:
    charge = book().charge(model, usage)
    assume(charge is not None)
    assert charge is not None
    # Decimal numbers of theirs have 28 digits, which is more than any of these sums.
    assert theirs(model, usage) == charge.amount
    assert (model, book().version) == (charge.model, charge.version)


@given(st.sampled_from(MODELS), st.data())
def test_no_usage_within_the_ceilings_costs_more_than_their_bound(model: str, drawn: st.DataObject) -> None:
    ceilings: dict[str, Any] = {name: drawn.draw(counts) for name in COUNTS if name != "requests"}
    # Room for all parts beside each other, which may overlap.
    ceilings["input"] += sum(ceilings[part] for part in ("cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input"))
    ceilings["output"] += sum(ceilings[part] for part in ("reasoning", "audio_output", "image_output"))
    most = Usage(**ceilings)
    below: dict[str, Any] = {name: drawn.draw(st.integers(0, getattr(most, name))) for name in COUNTS}
    used = Usage(**below)
    bound, charge = book().bound(model, most), book().charge(model, used)
    if bound is not None and charge is not None:
        assert charge.amount <= bound.amount


def test_all_of_a_long_request_costs_what_long_ones_do() -> None:
    at, above = Usage(input=200_000, output=10), Usage(input=200_001, output=10)
    charges = [book().charge("gemini-2.5-pro", usage) for usage in (at, above)]
    bound = book().bound("gemini-2.5-pro", above)
    assert [theirs("gemini-2.5-pro", at), theirs("gemini-2.5-pro", above)] == [charge and charge.amount for charge in charges]
    assert bound is not None
    assert theirs("gemini-2.5-pro", above) == bound.amount
    assert charges[0] is not None
    assert "google/gemini-2.5-pro" == charges[0].rule


@pytest.mark.parametrize("model", ["nobody-s-model", "", "gpt-4o/../x", "x" * 512])
def test_a_model_that_nobody_knows_has_no_price(model: str) -> None:
    usage = Usage(input=1)
    assert (None, None, None) == (book().charge(model, usage), book().bound(model, usage), book().context_window(model))


def test_what_a_model_can_be_shown_is_known_and_how_much_it_answers_is_not() -> None:
    assert (128_000, None) == (book().context_window("gpt-4o"), book().max_output("gpt-4o"))


def test_a_search_that_has_no_price_leaves_the_whole_without_one() -> None:
    assert book().charge("command-r", Usage(input=1, output=1)) is not None
    assert book().charge("command-r", Usage(input=1, output=1, searches=1)) is None


def test_a_provider_may_be_chosen_and_has_to_exist() -> None:
    azure = GenaiPriceBook(provider="azure", clock=ManualClock(NOW.timestamp()))
    charge = azure.charge("gpt-4o", Usage(input=1000))
    assert charge is not None
    assert charge.rule.startswith("azure/")
    assert "azure" in repr(azure)
    assert azure.version != book().version
    with pytest.raises(ConfigurationError, match="nobody"):
        GenaiPriceBook(provider="nobody")


def test_a_variant_costs_what_it_costs() -> None:
    usage = Usage(input=1000, output=1000)
    usual, priority = book().charge("gpt-4o", usage), GenaiPriceBook(variants={"service_tier": "priority"}).charge("gpt-4o", usage)
    assert usual is not None
    assert priority is not None
    assert priority.amount > usual.amount


def test_names_that_are_asked_for_do_not_pile_up() -> None:
    small = GenaiPriceBook(clock=ManualClock(NOW.timestamp()))
    snapshot = get_snapshot()
    before = len(snapshot._provider_misses)
    for number in range(MAX_MODELS + 5):
        small.max_output(f"m{number}")
        small.context_window(f"m{number}")
    assert MAX_MODELS == len(small._entries)
    assert before == len(snapshot._provider_misses)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *others: Any) -> Any:
        if name.startswith("genai_prices"):
            raise ImportError(name)
        return importing(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"llm-authmw\[prices\]"):
        GenaiPriceBook()


def conditional(*prices: tuple[Any, str]) -> list[types.ConditionalPrice]:
    return [types.ConditionalPrice(constraint, prices=types.ModelPrice(input_mtok=Decimal(rate))) for constraint, rate in prices]


@pytest.fixture
def data() -> Iterator[None]:
    """Data of the test's own: prices that change by the hour and by the day, and ones that we cannot count."""
    day = types.TimeOfDateConstraint(datetime(2026, 1, 1, 18).time(), datetime(2026, 1, 1, 20).time())  # noqa: DTZ001 - a time of day
    rates: dict[str, Any] = {
        "changing": conditional((None, "4"), (types.StartDateConstraint(datetime(2026, 11, 2, tzinfo=UTC).date()), "8"), (day, "16")),
        "pages": types.ModelPrice(input_document_kpages=Decimal(1), input_mtok=Decimal(1)),
        "nothing": types.ModelPrice(),
        "film": types.ModelPrice(input_mtok=Decimal(1), input_video_mtok=Decimal(3), output_mtok=Decimal(1)),
    }
    models = [types.ModelInfo(name, types.ClauseEquals(name), prices=price) for name, price in rates.items()]
    speech = types.ModelInfo("whisper-large-v3", types.ClauseEquals("whisper-large-v3"), prices=types.ModelPrice(audio_hours=Decimal(36)))
    every = types.ClauseContains("")
    groq = types.Provider("groq", "Groq", "x", model_match=types.ClauseEquals("whisper-large-v3"), models=[speech])
    set_custom_snapshot(DataSnapshot([groq, types.Provider("p", "P", "y", model_match=every, models=models)], from_auto_update=False))
    yield
    set_custom_snapshot(None)


@pytest.mark.usefixtures("data")
def test_a_price_that_changes_within_the_day_is_bound_by_the_dearest_and_charged_as_it_is() -> None:
    clock = ManualClock(NOW.timestamp())
    changing = GenaiPriceBook(clock=clock)
    million = Usage(input=1_000_000)

    def dollars() -> list[int]:
        charge, bound = changing.charge("changing", million), changing.bound("changing", million)
        assert charge is not None
        assert bound is not None
        return [charge.amount // 10**9, bound.amount // 10**9]

    assert [4, 16] == dollars()
    clock.advance(6 * 3600)
    assert [16, 16] == dollars()
    clock.advance(2 * 3600)
    assert [4, 16] == dollars()
    clock.advance(4 * 3600)
    assert [8, 16] == dollars()


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("model", ["pages", "nothing"])
def test_a_model_with_a_price_for_what_we_do_not_count_has_none(model: str) -> None:
    assert GenaiPriceBook().charge(model, Usage(input=1)) is None


@pytest.mark.usefixtures("data")
def test_what_we_do_not_tell_apart_costs_what_the_dearer_does() -> None:
    charge = GenaiPriceBook().charge("film", Usage(input=1_000_000))
    assert charge is not None
    assert 3 * 10**9 == charge.amount


@pytest.mark.usefixtures("data")
def test_short_speech_costs_what_the_least_that_is_billed_does() -> None:
    speech = GenaiPriceBook()
    charges = [speech.charge("whisper-large-v3", Usage(seconds=seconds)) for seconds in (0, 1, 10, 11)]
    bound = speech.bound("whisper-large-v3", Usage(seconds=3))
    assert [0, 10**8, 10**8, 11 * 10**7] == [charge and charge.amount for charge in charges]
    assert bound is not None
    assert 10**8 == bound.amount
