from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import Charge, Usage
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.llm.price_book import PriceBook, PriceBooks, StaticPriceBook
from llm_authmw.llm.prices import Price
from llm_authmw.patterns import ModelPattern

NAMES = st.text("ab-", min_size=1, max_size=4)
PATTERNS = NAMES | NAMES.map("{}*".format) | st.just("*")
PRICES = st.integers(1, 1000).map(lambda cents: Price(input=cents, output=0))
ONE = Usage(input=1)


def rule_of(book: PriceBook, model: str) -> str | None:
    charge = book.charge(model, ONE)
    return None if charge is None else charge.rule


def test_a_model_without_a_price_is_neither_charged_nor_bounded() -> None:
    book = StaticPriceBook({"gpt-4o": Price(input="1", output="1", max_output=9), "claude-*": Price(input="1", output="1", max_output=9)})
    for model in ("gpt-4o-mini", "gpt-4", "GPT-4o", "claude", "openai/claude-1", "", "*"):
        assert book.charge(model, ONE) is None
        assert book.bound(model, ONE) is None
        assert book.max_output(model) is None


def test_what_a_model_uses_beyond_its_price_is_not_charged_as_nothing() -> None:
    book = StaticPriceBook({"embed": Price(input="1")})
    assert book.charge("embed", Usage(input=1, output=1)) is None
    assert book.bound("embed", Usage(input=1, output=1)) is None


@pytest.mark.parametrize(
    ("model", "rule"),
    [("gpt-4o", "gpt-4o"), ("gpt-4o-mini", "gpt-4o-*"), ("gpt-4", "gpt-*"), ("gpt-", "gpt-*"), ("gpt", "*"), ("llama", "*")],
)
def test_the_most_specific_entry_decides(model: str, rule: str) -> None:
    entries = {"*": "9", "gpt-*": "4", "gpt-4o-*": "2", "gpt-4o": "3"}
    for order in (entries, dict(reversed(entries.items()))):
        book = StaticPriceBook({pattern: Price(input=dollars, output="0") for pattern, dollars in order.items()})
        expected = Charge(amount=int(entries[rule]) * 1000, model=model, rule=rule, version=book.version)
        assert expected == book.charge(model, ONE)
        assert expected == book.bound(model, ONE)


def test_an_exact_name_goes_before_the_pattern_of_the_same_letters() -> None:
    book = StaticPriceBook({"gpt*": Price(input="1"), "gpt": Price(input="2")})
    assert "gpt" == rule_of(book, "gpt")
    assert "gpt*" == rule_of(book, "gpt4")


@given(st.dictionaries(PATTERNS, PRICES, min_size=1), NAMES)
def test_the_book_agrees_with_reading_every_entry(prices: dict[str, Price], model: str) -> None:
    matching = [text for text in prices if ModelPattern.parse(text).matches(model)]
    best = max(matching, key=lambda text: (not text.endswith("*"), len(text)), default=None)
    assert best == rule_of(StaticPriceBook(prices), model)


def test_a_bound_is_what_the_dearest_use_would_cost() -> None:
    book = StaticPriceBook({"m": Price(input="3", output="15", cache_write="3.75")})
    most = Usage(input=100, cache_write=100, output=10)
    assert Charge(amount=100 * 3750 + 10 * 15_000, model="m", rule="m", version=book.version) == book.bound("m", most)


def test_the_most_output_is_that_of_the_entry_that_decides() -> None:
    book = StaticPriceBook({"m*": Price(input="1", max_output=100), "m-large": Price(input="1")})
    assert 100 == book.max_output("m-small")
    assert book.max_output("m-large") is None


def test_a_cost_that_no_store_counts_is_refused() -> None:
    book = StaticPriceBook({"m": Price(input="1000000")})
    for cost in (book.charge, book.bound):
        with pytest.raises(InvalidValueError, match=r"more than 2\^53"):
            cost("m", Usage(input=10**8))


@given(st.dictionaries(PATTERNS, PRICES, min_size=2))
def test_books_of_equal_prices_have_one_version_in_whatever_order_they_were_written(prices: dict[str, Price]) -> None:
    assert StaticPriceBook(prices).version == StaticPriceBook(dict(reversed(prices.items()))).version


def test_the_version_tells_equal_amounts_from_other_ones() -> None:
    version = StaticPriceBook({"m": Price(input="0.5", output="1")}).version
    assert version == StaticPriceBook({"m": Price(output=1.0, input="0.50")}).version
    others: list[dict[str, Price]] = [
        {"m": Price(input="0.500000001", output="1")},
        {"m*": Price(input="0.5", output="1")},
        {"n": Price(input="0.5", output="1")},
        {"m": Price(input="0.5", output="1", max_output=1)},
        {"m": Price(input="0.5", output="1", reasoning="1")},
        {"m": Price(input="0.5", output="1"), "n": Price(input="0.5")},
    ]
    assert len(others) + 1 == len({version, *(StaticPriceBook(other).version for other in others)})


def test_the_version_of_a_book_is_the_same_in_every_release() -> None:
    # Charges that were written down name it: what this says may change with no release.
    assert "bbf3b5b5045c2d2fd89f0d119e8cce9a" == StaticPriceBook({"gpt-4o*": Price(input="2.50", output="10", max_output=16_384)}).version


def test_changing_the_mapping_afterwards_does_not_change_the_book() -> None:
    prices = {"m": Price(input="1")}
    book = StaticPriceBook(prices)
    prices["n"] = Price(input="1")
    assert book.charge("n", ONE) is None


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        ({}, "is a mapping of models to prices"),
        ([("m", Price(input="1"))], "is a mapping of models to prices"),
        (None, "is a mapping of models to prices"),
        ({"m": "0.50"}, "'m' is given str, not a Price"),
        ({"m": {"input": 1}}, "'m' is given dict, not a Price"),
        ({1: Price(input="1")}, "1 is not the name of a model"),
        ({"": Price(input="1")}, "a model pattern names a model"),
        ({"g*t": Price(input="1")}, r"one '\*' at its end"),
        ({"m\n": Price(input="1")}, "a model pattern names a model"),
        ({"!m": Price(input="1")}, "'!m' excludes models"),
    ],
)
def test_a_book_that_cannot_be_read_in_one_way_is_refused(prices: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^prices: .*{problem}"):
        StaticPriceBook(prices)


def test_a_book_says_how_much_it_holds() -> None:
    book = StaticPriceBook({"m": Price(input="1"), "n*": Price(input="1")})
    assert f"StaticPriceBook(2 prices, version='{book.version}')" == repr(book)


def test_prices_of_ones_own_go_before_a_book_and_never_mix_with_it() -> None:
    own = StaticPriceBook({"blue-*": Price(input="2", max_output=7, context_window=8)})
    everybody = StaticPriceBook({"*": Price(input="9", output="9", search="1", max_output=70, context_window=80)})
    books = PriceBooks(own, everybody)
    assert ("blue-*", "*") == (rule_of(books, "blue-1"), rule_of(books, "red"))
    assert (7, 70, 8, 80) == (
        books.max_output("blue-1"),
        books.max_output("red"),
        books.context_window("blue-1"),
        books.context_window("red"),
    )
    assert books.charge("blue-1", Usage(input=1, searches=1)) is None
    assert books.bound("blue-1", Usage(input=1, searches=1)) is None
    assert books.bound("red", Usage(input=1, searches=1)) is not None


def test_two_books_say_which_one_decided_and_what_both_were() -> None:
    first, then = {"m": Price(input="1")}, StaticPriceBook({"n": Price(input="1")})
    books = PriceBooks(first, then)
    charge = books.charge("m", ONE)
    assert charge is not None
    assert f"{StaticPriceBook(first).version}, {then.version}" == books.version
    assert StaticPriceBook(first).version == charge.version
    assert f"PriceBooks({StaticPriceBook(first)!r}, {then!r})" == repr(books)
    three = PriceBooks({"o": Price(input="1")}, books)
    assert [None, "m", "n", "o"] == [rule_of(three, model) for model in ("l", "m", "n", "o")]


def test_the_version_of_a_book_tells_of_windows_and_steps() -> None:
    prices = [Price(input="1"), Price(input="1", context_window=5), Price(input="1", above={5: Price(input="2")})]
    assert 3 == len({StaticPriceBook({"m": price}).version for price in prices})


def test_a_book_tells_its_prices_by_name_and_that_of_everything_else_last() -> None:
    prices = {"*": Price(input="9"), "gpt-4o*": Price(input="2"), "gpt-4o": Price(input="3")}
    book = StaticPriceBook(prices)

    assert ["gpt-4o", "gpt-4o*", "*"] == list(book.prices)
    assert prices == book.prices
    assert StaticPriceBook(book.prices).version == book.version
