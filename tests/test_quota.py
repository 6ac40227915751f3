import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import InvalidValueError
from llm_authmw.quota import MAX_AMOUNT, NANO_USD, ROLLING_WINDOWS, UNITS, WINDOWS, Budget, Limit

AMOUNTS = st.one_of(st.integers(1, 200), st.integers(1, MAX_AMOUNT))
ZONES = ("UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Kathmandu")


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    amount, unit = draw(AMOUNTS), draw(st.sampled_from(UNITS))
    given: dict[str, Any] = {"amount": amount, "unit": unit}
    if unit != "concurrent":
        given["window"] = window = draw(st.sampled_from(WINDOWS))
        given["calendar"] = window not in ROLLING_WINDOWS or draw(st.booleans())
        if not given["calendar"]:
            given["burst"] = draw(st.none() | st.integers(1, amount))
    return Limit(**given)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    window = draw(st.none() | st.sampled_from(WINDOWS))
    given: dict[str, Any] = {"window": window, "amount": draw(AMOUNTS | st.integers(1, 9_000_000).map(NANO_USD.__mul__))}
    given["soft"] = tuple(sorted(draw(st.frozensets(st.integers(1, 99), max_size=4))))
    if window in {"month", "quarter", "year"}:
        given["starts"] = draw(st.integers(1, 28))
    if window is not None:
        given["timezone"] = draw(st.sampled_from(ZONES))
    if given["amount"] < MAX_AMOUNT and draw(st.booleans()):
        given["plus"] = draw(st.integers(1, MAX_AMOUNT - given["amount"]))
        given["until"] = draw(st.integers(0, 2**53 // 10**6) | st.integers(0, 100_000).map((86_400).__mul__))
    return Budget(**given)


@given(limits())
def test_the_text_of_a_limit_reads_as_the_same_limit(limit: Limit) -> None:
    assert limit == Limit.parse(str(limit))
    assert hash(limit) == hash(Limit.parse(str(limit)))


@given(budgets())
def test_the_text_of_a_budget_reads_as_the_same_budget(budget: Budget) -> None:
    assert budget == Budget.parse(str(budget))
    assert hash(budget) == hash(Budget.parse(str(budget)))


@given(limits() | budgets())
def test_the_values_survive_a_store_that_keeps_json(value: Limit | Budget) -> None:
    assert value == msgspec.json.decode(msgspec.json.encode(value), type=type(value))


@given(limits())
def test_what_may_come_at_once_is_at_least_one_and_never_more_than_the_limit(limit: Limit) -> None:
    assert 1 <= limit.burst_amount <= limit.amount


@pytest.mark.parametrize(
    ("text", "limit", "burst"),
    [
        ("60 requests/minute", {"amount": 60, "unit": "requests", "window": "minute"}, 6),
        ("100000 tokens/minute", {"amount": 100_000, "unit": "tokens", "window": "minute"}, 10_000),
        ("1000000 tokens/minute", {"amount": 1_000_000, "unit": "tokens", "window": "minute"}, 100_000),
        ("4 concurrent", {"amount": 4, "unit": "concurrent"}, 4),
        ("9 input tokens/second", {"amount": 9, "unit": "input tokens", "window": "second"}, 1),
        ("10 output tokens/week", {"amount": 10, "unit": "output tokens", "window": "week"}, 1),
        ("60 requests/minute, burst 10", {"amount": 60, "unit": "requests", "window": "minute", "burst": 10}, 10),
        ("1000 requests/day, calendar", {"amount": 1000, "unit": "requests", "window": "day", "calendar": True}, 1000),
        ("5 tokens/quarter, calendar", {"amount": 5, "unit": "tokens", "window": "quarter", "calendar": True}, 5),
        (f"{2**53} tokens/hour", {"amount": 2**53, "unit": "tokens", "window": "hour"}, 2**53 // 10),
    ],
)
def test_a_limit_that_people_write_is_its_own_canonical_text(text: str, limit: dict[str, Any], burst: int) -> None:
    assert Limit(**limit) == Limit.parse(text)
    assert text == str(Limit.parse(text))
    assert burst == Limit.parse(text).burst_amount


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("50 usd/month", {"amount": 50 * NANO_USD, "window": "month"}),
        ("500 usd/month, soft 80%", {"amount": 500 * NANO_USD, "window": "month", "soft": (80,)}),
        ("20 usd/day", {"amount": 20 * NANO_USD, "window": "day"}),
        ("5000 usd/month", {"amount": 5000 * NANO_USD, "window": "month"}),
        ("100 usd", {"amount": 100 * NANO_USD}),
        ("0.000000001 usd", {"amount": 1}),
        ("1.5 usd/hour, soft 50% 80%", {"amount": 1_500_000_000, "window": "hour", "soft": (50, 80)}),
        ("50 usd/month, starts 15", {"amount": 50 * NANO_USD, "window": "month", "starts": 15}),
        ("20 usd/day, timezone Europe/Berlin", {"amount": 20 * NANO_USD, "window": "day", "timezone": "Europe/Berlin"}),
        (
            "9007199.254740992 usd/year, soft 1% 99%, starts 28, timezone Asia/Kathmandu",
            {"amount": 2**53, "window": "year", "soft": (1, 99), "starts": 28, "timezone": "Asia/Kathmandu"},
        ),
    ],
)
def test_a_budget_that_people_write_is_its_own_canonical_text(text: str, budget: dict[str, Any]) -> None:
    assert Budget(**budget) == Budget.parse(text)
    assert text == str(Budget.parse(text))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1 request/minute", "1 requests/minute"),
        ("1 token/minute", "1 tokens/minute"),
        ("1 input token/minute", "1 input tokens/minute"),
        ("1 output token/minute", "1 output tokens/minute"),
        ("100_000 tokens/minute, burst 1_000", "100000 tokens/minute, burst 1000"),
        ("0060 requests/minute", "60 requests/minute"),
        ("1_000 usd", "1000 usd"),
        ("0.50 usd/day", "0.5 usd/day"),
        ("100.000000000 usd", "100 usd"),
        ("5 usd/month, timezone UTC, starts 1", "5 usd/month"),
        ("5 usd/month, starts 2, timezone Europe/Berlin, soft 80%", "5 usd/month, soft 80%, starts 2, timezone Europe/Berlin"),
    ],
)
def test_other_ways_to_write_the_same_have_the_canonical_text(text: str, canonical: str) -> None:
    kind = Budget if "usd" in text else Limit
    assert canonical == str(kind.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "requests", "requests/minute", "60", "60/minute", "minute", "/", "sixty requests/minute"),
        *("0 requests/minute", "0 concurrent", "-1 requests/minute", "+1 requests/minute", "1.5 requests/minute", "1e3 requests/minute"),
        *("9007199254740993 tokens/minute", "99999999999999999 tokens/minute", "1" * 18 + " tokens/minute", "9" * 9999 + " tokens/minute"),
        *(
            "_60 requests/minute",
            "6__0 requests/minute",
            "60_ requests/minute",
            "٣ requests/minute",
            "\uff160 requests/minute",
            "0x10 requests/minute",
        ),
        *(
            "60 requests",
            "60 request",
            "60 bananas/minute",
            "60 usd/minute",
            "60 Requests/minute",
            "60 tokens tokens/minute",
            "60 total tokens/day",
        ),
        *(
            "60 requests/fortnight",
            "60 requests/Minute",
            "60 requests/minutes",
            "60 requests/",
            "60 requests/60s",
            "60 requests/minute/key",
        ),
        *("60 requests/month", "60 requests/quarter", "60 requests/year, burst 3"),
        *("4 concurrent/minute", "4 concurrent, burst 2", "4 concurrent, calendar", "4 concurrent tokens"),
        *("60 requests/minute, burst", "60 requests/minute, burst ", "60 requests/minute, burst 0", "60 requests/minute, burst -1"),
        *("60 requests/minute, burst 61", "60 requests/minute, burst _5", "60 requests/minute, burst 5_", "60 requests/minute, burst 1.5"),
        *("60 requests/minute, burst 5, calendar", "60 requests/minute, calendar, burst 5"),
        *("60 requests/minute, burst 5, burst 6", "60 requests/minute, calendar, calendar", "60 requests/minute, calendar now"),
        *(
            "60 requests/minute, soft 80%",
            "60 requests/minute,",
            "60 requests/minute, ",
            "60 requests/minute,burst 5",
            "60 requests/minute burst 5",
        ),
        *(
            " 60 requests/minute",
            "60 requests/minute ",
            "60  requests/minute",
            "60 requests /minute",
            "60 requests/ minute",
            "60requests/minute",
        ),
        *(
            "60 requests/minute\n",
            "60 requests/minute\n, burst 5",
            "60 requests/minute, burst 5\n",
            "60 requests/minute\x00",
            "60\u00a0requests/minute",
        ),
    ],
)
def test_a_text_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        Limit.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "usd", "usd/month", "50", "$50/month", "50 USD/month", "50 eur/month", "50 dollars/month", "50 usd per month", "fifty usd"),
        *("0 usd", "0.0 usd/month", "0.000000000 usd", "-5 usd/month", "+5 usd/month", "1e3 usd", "nan usd", "inf usd"),
        *(
            "9007199.254740993 usd",
            "9007200 usd/month",
            "99999999999999999 usd",
            "9" * 9999 + " usd",
            "1.0000000001 usd",
            "1. usd",
            ".5 usd",
        ),
        *("1_ usd", "1__0 usd", "_1 usd", "1.5_0 usd", "٣ usd", "1,5 usd", "1,000 usd"),
        *("50 usd/fortnight", "50 usd/Month", "50 usd/months", "50 usd/", "50 usd/30d", "50 usd/month/team"),
        *("50 usd/month, soft", "50 usd/month, soft 80", "50 usd/month, soft 0%", "50 usd/month, soft 100%", "50 usd/month, soft -1%"),
        *("50 usd/month, soft 80% 50%", "50 usd/month, soft 80% 80%", "50 usd/month, soft 80%  90%", "50 usd/month, soft 80.5%"),
        *("50 usd/month, soft 80%, soft 90%", "50 usd/month, soft 80%,90%", "50 usd/month, hard 80%", "50 usd/month, burst 5"),
        *(
            "50 usd/month, starts 0",
            "50 usd/month, starts 29",
            "50 usd/month, starts -1",
            "50 usd/month, starts _5",
            "50 usd/month, starts",
        ),
        *("50 usd/month, starts 1, starts 15", "50 usd/day, starts 2", "50 usd/week, starts 2", "50 usd, starts 2"),
        *(
            "50 usd/day, timezone",
            "50 usd/day, timezone Mars/Olympus",
            "50 usd/day, timezone europe/berlin",
            "50 usd, timezone Europe/Berlin",
        ),
        *("50 usd/day, timezone UTC, timezone Europe/Berlin", "50 usd/day, timezone Europe/Berlin, timezone UTC"),
        *(
            "50 usd/month,",
            "50 usd/month, ",
            "50 usd/month soft 80%",
            " 50 usd",
            "50 usd ",
            "50  usd",
            "50 usd\n",
            "50 usd/month, soft 80%\n",
        ),
    ],
)
def test_a_text_that_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        Budget.parse(text)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("../etc/localtime", id="a path upwards"),
        pytest.param("../etc", id="a directory upwards"),
        pytest.param("/etc/localtime", id="an absolute path"),
        pytest.param("Europe/../Europe/Berlin", id="a path that is not plain"),
        pytest.param("Europe", id="a directory"),
        pytest.param("Europe/", id="a directory with a slash"),
        pytest.param(".", id="the directory of all"),
        pytest.param("", id="nothing"),
        pytest.param("zone.tab", id="another file beside the zones"),
        pytest.param("localtime", id="whatever this machine is set to"),
        pytest.param("posixrules", id="a file that is no zone"),
        pytest.param("posix/Europe/Berlin", id="a copy"),
        pytest.param("right/Europe/Berlin", id="a zone that counts leap seconds"),
        pytest.param("Europe/Berlin\x00", id="NUL"),
        pytest.param("Europe/Berlin\n", id="a line break"),
        pytest.param("\ud800", id="half a surrogate pair"),
        pytest.param("x" * 5000, id="too long for a file's name"),
        pytest.param("CEST", id="an abbreviation"),
        pytest.param("+02:00", id="an offset"),
    ],
)
def test_a_time_zone_that_is_no_iana_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="is not an IANA time zone"):
        Budget(amount=1, window="day", timezone=name)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"amount": 1.5}, {"amount": True}, {"amount": "60"}, {"amount": None}, {"amount": float("nan")}, {"amount": 2**53 + 1}),
        *({"unit": "bananas"}, {"unit": None}, {"unit": "request"}, {"window": "fortnight"}, {"window": None}, {"window": ""}),
        *({"window": "fortnight", "calendar": True}, {"window": None, "calendar": True}),
        *({"burst": 1.5}, {"burst": True}, {"burst": "5"}, {"burst": 0}, {"burst": 61}),
    ],
)
def test_a_limit_that_its_text_could_not_say_cannot_be_built(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"amount": 60, "unit": "requests", "window": "minute", **wrong}
    with pytest.raises(InvalidValueError):
        Limit(**fields)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"amount": 1.5},
            {"amount": True},
            {"amount": "60"},
            {"amount": float("inf")},
            {"amount": 0},
            {"window": "fortnight"},
            {"window": ""},
        ),
        *({"soft": [80]}, {"soft": "80%"}, {"soft": 80}, {"soft": (80.5,)}, {"soft": (True,)}, {"soft": (80, 50)}, {"soft": (100,)}),
        *({"starts": 1.5}, {"starts": True}, {"starts": "15"}, {"starts": 29}),
    ],
)
def test_a_budget_that_its_text_could_not_say_cannot_be_built(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"amount": NANO_USD, "window": "month", **wrong}
    with pytest.raises(InvalidValueError):
        Budget(**fields)


@given(st.text(alphabet="0169_ requstokncad/mihwyb,%.", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_canonical_value_or_an_error_with_a_name(text: str) -> None:
    for kind in (Limit, Budget):
        try:
            value = kind.parse(text)
        except InvalidValueError:
            continue
        assert value == kind.parse(str(value))


def test_a_number_of_any_length_is_refused_before_it_is_converted() -> None:
    # Python refuses to convert more digits than this by itself, with another error.
    digits = "9" * (sys.get_int_max_str_digits() + 1)
    with pytest.raises(InvalidValueError, match="at most 17 digits"):
        Limit.parse(f"60 requests/minute, burst {digits}")


def test_the_values_cannot_be_changed() -> None:
    for value in (Limit.parse("4 concurrent"), Budget.parse("5 usd")):
        with pytest.raises(AttributeError):
            setattr(value, "amount", 5)  # noqa: B010 - a type checker refuses the assignment


# Increases for a time.


@pytest.mark.parametrize(
    ("text", "until", "canonical"),
    [
        ("50 usd/month, plus 20 usd until 2026-12-01", 1_796_083_200, None),
        ("50 usd/month, timezone Europe/Berlin, plus 20 usd until 2026-12-01", 1_796_079_600, None),
        (
            "50 usd/month, plus 20 usd until 2026-12-01, timezone Europe/Berlin",
            1_796_079_600,
            "timezone Europe/Berlin, plus 20 usd until 2026-12-01",
        ),
        ("50 usd/month, plus 0.5 usd until 2026-11-21T18:00:00Z", 1_795_284_000, None),
        ("50 usd/month, plus 20 usd until 2026-11-21T19:00+01:00", 1_795_284_000, "plus 20 usd until 2026-11-21T18:00:00Z"),
        ("50 usd/month, soft 80%, starts 15, plus 20 usd until 2026-12-01", 1_796_083_200, None),
        ("50 usd, plus 20 usd until 2026-12-01", 1_796_083_200, None),
        # Clocks there leave out that midnight, and go back over this one.
        ("1 usd/day, timezone America/Asuncion, plus 1 usd until 2023-10-01", 1_696_132_800, "until 2023-10-01T04:00:00Z"),
        ("1 usd/day, timezone America/Havana, plus 1 usd until 2026-11-01", 1_793_505_600, None),
    ],
)
def test_an_increase_ends_with_the_moment_that_it_names(text: str, until: int, canonical: str | None) -> None:
    budget = Budget.parse(text)
    assert until == budget.until
    assert str(budget).endswith(canonical or text)
    assert budget == Budget.parse(str(budget))
    amount = budget.amount
    assert [amount + budget.plus, amount + budget.plus, amount, amount] == [
        budget.amount_at(moment) for moment in (0, until - 0.001, until, until + 10**9)
    ]
    assert budget.plus > 0


def test_a_budget_without_an_increase_is_always_the_same() -> None:
    assert [5 * NANO_USD] * 2 == [Budget.parse("5 usd/day").amount_at(moment) for moment in (0, 10**10)]


@pytest.mark.parametrize(
    "option",
    [
        "plus 20 usd",
        "plus 20 usd until",
        "plus 20 until 2026-12-01",
        "plus 20 usd until tomorrow",
        "plus 20 usd until 2026-13-01",
        "plus 20 usd until 2026-02-30",
        "plus 20 usd until 2026-12-01T18:00:00",
        "plus 20 usd until 20261201",
        "plus 20 usd until 2026-W49-1",
        "plus 20 usd until 1969-12-31",
        "plus 20 usd until 2300-01-01",
        "plus 0 usd until 2026-12-01",
        "plus -1 usd until 2026-12-01",
        "plus 9007198 usd until 2026-12-01",
        "plus 1 usd until 2026-12-01, plus 2 usd until 2026-12-02",
        "timezone Mars/Base, plus 1 usd until 2026-12-01",
    ],
)
def test_an_increase_outside_its_grammar_is_refused(option: str) -> None:
    with pytest.raises(InvalidValueError):
        Budget.parse(f"50 usd/month, {option}")


@pytest.mark.parametrize(
    "given", [{"plus": 5}, {"until": 5}, {"plus": 5, "until": -1}, {"plus": 5, "until": 1.5}, {"plus": True, "until": 5}]
)
def test_an_increase_has_an_amount_and_an_end(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        Budget(amount=1, window="day", **given)
