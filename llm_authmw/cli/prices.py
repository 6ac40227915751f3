"""`llm-authmw prices …`: what a price file says, and what a call would cost by it."""

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import click

from llm_authmw.call import Usage
from llm_authmw.cli.options import Option, json_option, stacked
from llm_authmw.cli.output import Column, emit, print_fields, print_table, say
from llm_authmw.cli.target import Target
from llm_authmw.errors import NotFoundError
from llm_authmw.llm.price_files import load_prices
from llm_authmw.llm.prices import Price
from llm_authmw.quota import usd_text

_COUNTS: Final = {
    "input": "Tokens of the request, all of them.",
    "cached_input": "Those that were read from a cache.",
    "cache_write": "Those that were written to a cache.",
    "cache_write_1h": "Those of --cache-write that are kept for an hour.",
    "audio_input": "Those of --input that are sound.",
    "image_input": "Those of --input that are pictures.",
    "output": "Tokens of the answer, all of them.",
    "reasoning": "Those that were thought and not said.",
    "audio_output": "Those of --output that are sound.",
    "image_output": "Those of --output that are pictures.",
    "requests": "Requests that the provider serves; 1 where it is left out.",
    "searches": "Searches that the provider runs.",
    "images": "Pictures that are made.",
    "seconds": "Seconds of sound.",
    "characters": "Characters to be spoken.",
}
"""By count of `Usage`: what it is."""

_usage_options: Final[Option] = stacked(
    *(
        click.option(f"--{name.replace('_', '-')}", name, metavar="N", type=click.IntRange(0, 2**53), help=text)
        for name, text in _COUNTS.items()
    )
)


@click.group()
def prices() -> None:
    """Look at a file of prices, as load_prices reads it."""


@prices.command(
    epilog="""\b
Example:
  llm-authmw prices check prices.yaml

FILE ends in .yaml, .yml, .toml or .json. Of tokens and characters a price is dollars per million, else dollars for one. The version is
what charges name: it changes with every price."""
)
@click.argument("file", metavar="FILE", type=click.Path())
@json_option
@click.pass_context
def check(context: click.Context, /, file: str) -> None:
    """Check a file of prices, and print what it says."""
    book = load_prices(file)
    if Target(context).json:
        emit({"version": book.version, "prices": {text: _object(price) for text, price in book.prices.items()}})
        return
    rows = [[text, _said(price)] for text, price in book.prices.items()]
    print_table([Column("MODEL"), Column("PRICE", "wrap")], rows)
    say("")
    print_fields([("prices", str(len(rows))), ("version", book.version)])


@prices.command(
    epilog="""\b
Example:
  llm-authmw prices explain gpt-4o-mini --file prices.yaml --input 1200 --cached-input 1000 --output 300"""
)
@click.argument("model", metavar="MODEL")
@click.option("--file", metavar="FILE", type=click.Path(), required=True, help="The prices.")
@_usage_options
@json_option
@click.pass_context
def explain(context: click.Context, /, model: str, file: str, **counts: int | None) -> None:
    """Say what a call would cost, exactly, and which entry decides.

    The entry is one of the price file's.
    """
    book = load_prices(file)
    given: dict[str, Any] = {name: count for name, count in counts.items() if count is not None}
    usage = Usage(**given)
    if model not in book:
        raise NotFoundError(f"{file} has no price for {model}; see: llm-authmw prices check {file}")
    charge = book.charge(model, usage)
    if charge is None:
        raise NotFoundError(f"{file} has a price for {model}, but not for all of this: something that is counted here has none")
    if Target(context).json:
        emit({"model": charge.model, "rule": charge.rule, "version": charge.version, "nano_usd": charge.amount})
        return
    price = book.prices[charge.rule]
    print_fields(
        [
            ("cost", usd_text(charge.amount)),
            ("model", charge.model),
            ("by", charge.rule),
            ("price", _said(price)),
            ("version", charge.version),
        ]
    )


def _said(price: Price) -> str:
    parts = [f"{name} {_decimal(rate)}" for name, rate in price.rates.items() if rate or name != "request"]
    parts += [f"{name} {tokens}" for name in ("max_output", "context_window") if (tokens := getattr(price, name)) is not None]
    return "; ".join([", ".join(parts), *(f"above {start}: {_said(step)}" for start, step in sorted(price.above.items()))])


def _object(price: Price) -> dict[str, Any]:
    found: dict[str, Any] = {name: _decimal(rate) for name, rate in price.rates.items() if rate or name != "request"}
    found |= {name: tokens for name in ("max_output", "context_window") if (tokens := getattr(price, name)) is not None}
    return found | ({"above": {str(start): _object(step) for start, step in sorted(price.above.items())}} if price.above else {})


def _decimal(rate: Fraction) -> str:
    # Of a file it is a decimal number of at most 25 digits, so the quotient is exact.
    return f"{(Decimal(rate.numerator) / Decimal(rate.denominator)).normalize():f}"
