from pathlib import Path

import pytest

from llm_authmw.call import Usage
from llm_authmw.errors import ConfigurationError
from llm_authmw.llm.price_book import StaticPriceBook
from llm_authmw.llm.price_files import load_prices
from llm_authmw.llm.prices import Price

BOOK = StaticPriceBook(
    {
        "gpt-4o*": Price(input="2.50", output="10", max_output=16_384),
        "gemini-2.5-pro": Price(input="1.25", output="10", above={200_000: Price(input="2.50", output="15")}),
    }
)
FILES = {
    "prices.yaml": """
gpt-4o*: {input: 2.50, output: 10, max_output: 16384}
gemini-2.5-pro:
  input: "1.25"
  output: 10
  above:
    200_000: {input: 2.50, output: 15}
""",
    "prices.toml": """
["gpt-4o*"]
input = 2.50
output = 10
max_output = 16384
["gemini-2.5-pro"]
input = "1.25"
output = 10
above.200_000 = {input = 2.50, output = 15}
""",
    "prices.json": """
{"gpt-4o*": {"input": 2.50, "output": 10, "max_output": 16384},
 "gemini-2.5-pro": {"input": "1.25", "output": 10, "above": {"200000": {"input": 2.50, "output": 15}}}}
""",
}


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_the_same_as_code_in_each_format(tmp_path: Path, name: str) -> None:
    book = load_prices(written(tmp_path, name, FILES[name]))
    assert BOOK.version == book.version
    for model in ("gpt-4o-mini", "gemini-2.5-pro", "other"):
        for tokens in (10, 200_001):
            usage = Usage(input=tokens, output=7)
            assert BOOK.charge(model, usage) == book.charge(model, usage)


def test_a_float_of_a_file_is_the_decimal_number_that_it_is_written_as(tmp_path: Path) -> None:
    book = load_prices(str(written(tmp_path, "prices.yml", "m: {input: 0.1, output: 0.30}")))
    charge = book.charge("m", Usage(input=10**12, output=10**12))
    assert charge is not None
    assert 400_000 * 10**9 == charge.amount


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("prices.ini", "", "is none of .json, .toml, .yaml, .yml"),
        ("prices.yaml", "", "is a mapping of models to prices"),
        ("prices.yaml", "[]", "is a mapping of models to prices"),
        ("prices.yaml", "a: {input: 1", "cannot be read"),
        ("prices.yaml", "a: {input: 1}\nb: {input: 1}\na: {input: 2}", "'a' is there twice"),
        ("prices.yaml", "a: {input: 1, input: 2}", "'input' is there twice"),
        ("prices.yaml", "a: !!python/object/apply:os.system [ls]", "cannot be read"),
        ("prices.yaml", "a: 5", "'a' is a mapping of options"),
        ("prices.yaml", "1: {input: 1}", "1 is not the name of a model"),
        ("prices.yaml", "'!a': {input: 1}", "excludes models"),
        ("prices.yaml", "a: {inputs: 1}", "'a' has 'inputs', which is none of above, audio_input"),
        ("prices.yaml", "a: {input: yes}", "'a': input: True is not an amount"),
        ("prices.yaml", "a: {input: .nan}", "'a': input: nan is not an amount"),
        ("prices.yaml", "a: {output: -1}", "'a': output: -1 is not an amount"),
        ("prices.yaml", "a: {input: 1, above: 5}", "'a': above is a mapping"),
        ("prices.yaml", "a: {input: 1, above: {x: {input: 2}}}", "'a': above has 'x', which is no number of tokens"),
        ("prices.yaml", "a: {input: 1, above: {true: {input: 2}}}", "'a': above has True, which is no number of tokens"),
        ("prices.yaml", "a: {input: 1, above: {5: {input: no}}}", "'a' above 5: input: False is not an amount"),
        ("prices.yaml", "a: {input: 1, above: {5: {input: 1, above: {6: {input: 2}}}}}", "has 'above'"),
        ("prices.toml", "a.input = 1\na.input = 2", "cannot be read"),
        ("prices.toml", "a.input = nan", "is not an amount"),
        ("prices.json", '{"a": {"input": 1, "input": 2}}', "cannot be read"),
        ("prices.json", '{"a": {"input": 1, "above": {"5": {"input": 2}, "0_5": {"input": 3}}}}', "is there twice"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_file_entry_and_option(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = written(tmp_path, name, text)
    with pytest.raises(ConfigurationError) as error:
        load_prices(file)
    assert str(file) == error.value.option
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_prices(tmp_path / "prices.toml")
