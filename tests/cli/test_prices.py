import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from llm_authmw.llm.price_files import load_prices

Run = Callable[..., Result]

PRICES = """
["*"]
input = 100
output = 200

["gpt-4o*"]
input = "2.50"
cached_input = 1.25
output = 10
max_output = 16384

[gemini]
input = 1
above = {200000 = {input = 2}}

[painter]
image = "0.000000001"
request = 1
"""


@pytest.fixture(autouse=True)
def file(directory: Path) -> Path:
    path = directory / "prices.toml"
    path.write_text(PRICES, encoding="utf-8")
    return path


def test_check_prints_what_a_file_says_and_its_version(run: Run, file: Path) -> None:
    table, rest = run("prices", "check", "prices.toml").stdout.split("\n\n")

    assert [
        ["MODEL", "PRICE"],
        ["gemini", "input", "1;", "above", "200000:", "input", "2"],
        ["gpt-4o*", *["input", "2.5,", "output", "10,", "cached_input", "1.25,", "max_output", "16384"]],
        ["painter", *["request", "1,", "image", "0.000000001"]],
        ["*", *["input", "100,", "output", "200"]],
    ] == [line.split() for line in table.splitlines()]
    assert ["prices", "4", "version", load_prices(file).version] == rest.split()


def test_check_answers_programs_with_exact_decimals(run: Run, file: Path) -> None:
    found = json.loads(run("prices", "check", "prices.toml", "--json").stdout)

    assert load_prices(file).version == found["version"]
    assert {"input": "1", "above": {"200000": {"input": "2"}}} == found["prices"]["gemini"]
    assert {"input": "2.5", "output": "10", "cached_input": "1.25", "max_output": 16384} == found["prices"]["gpt-4o*"]


@pytest.mark.parametrize(
    ("problem", "text"),
    [("cannot be read", "x ="), ("none of", "[m]\nprice = 1"), ("not an amount", '[m]\ninput = "much"')],
)
def test_a_file_that_holds_no_prices_is_refused_with_what_is_wrong(run: Run, file: Path, problem: str, text: str) -> None:
    file.write_text(text, encoding="utf-8")

    for verb in (("check", "prices.toml"), ("explain", "m", "--file", "prices.toml", "--input", "1")):
        result = run("prices", *verb, "--json", exit_code=1)
        error = json.loads(result.stderr)["error"]
        assert "configuration" == error["code"]
        assert error["message"].startswith("prices.toml: ")
        assert problem in error["message"]


def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    assert "Error: missing.toml: No such file or directory\n" == run("prices", "check", "missing.toml", exit_code=1).stderr


def test_explain_says_what_a_call_costs_and_by_which_entry(run: Run, file: Path) -> None:
    counts = ("--input", "1200", "--cached-input", "1000", "--output", "300")
    cost = 200 * 2500 + 1000 * 1250 + 300 * 10_000

    found = json.loads(run("prices", "explain", "gpt-4o-mini", "--file", "prices.toml", *counts, "--json").stdout)
    assert {"model": "gpt-4o-mini", "rule": "gpt-4o*", "version": load_prices(file).version, "nano_usd": cost} == found
    text = run("prices", "explain", "gpt-4o-mini", "--file", "prices.toml", *counts).stdout
    assert ["cost", "0.00475", "usd", "model", "gpt-4o-mini", "by", "gpt-4o*"] == text.split()[:7]


def test_explain_counts_steps_and_pieces(run: Run) -> None:
    def cost(*arguments: str) -> int:
        found: int = json.loads(run("prices", "explain", *arguments, "--file", "prices.toml", "--json").stdout)["nano_usd"]
        return found

    assert 200_000 * 1000 == cost("gemini", "--input", "200000")
    assert 200_001 * 2000 == cost("gemini", "--input", "200001")
    assert 2 * 10**9 + 3 == cost("painter", "--images", "3", "--requests", "2")


def test_what_has_no_price_is_refused(run: Run, file: Path) -> None:
    assert "but not for all of this" in run("prices", "explain", "gemini", "--file", "prices.toml", "--output", "1", exit_code=1).stderr
    file.write_text("[gemini]\ninput = 1", encoding="utf-8")
    assert "has no price for gpt-4o; see: llm-authmw prices check prices.toml" in (
        run("prices", "explain", "gpt-4o", "--file", "prices.toml", exit_code=1).stderr
    )


@pytest.mark.parametrize("arguments", [("m",), ("m", "--file", "prices.toml", "--input", "-1"), ("--file", "prices.toml")])
def test_a_wrong_command_line_is_told_from_a_refusal(run: Run, arguments: tuple[str, ...]) -> None:
    run("prices", "explain", *arguments, exit_code=2)
