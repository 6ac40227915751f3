"""The tables of the page: every instrument is there as it is, and none that is not."""

from pathlib import Path
from typing import Final

import pytest

from llm_authmw.metrics.instruments import CONVENTIONS, INSTRUMENTS, MAX_SERIES, Instrument
from llm_authmw.metrics.series import MAX_VALUE

PAGE: Final = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def row(instrument: Instrument) -> str:
    labels = ", ".join(f"`{label.name}`" for label in instrument.labels) or "–"
    return f"| `{instrument.name}` | {instrument.kind} | `{instrument.unit}` | {labels} | {instrument.meaning} |"


@pytest.mark.parametrize(
    ("heading", "instruments"), [("## What is measured", INSTRUMENTS), ("### By OpenTelemetry's conventions", CONVENTIONS)]
)
def test_the_tables_have_every_instrument_as_it_is(heading: str, instruments: tuple[Instrument, ...]) -> None:
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    assert [row(instrument) for instrument in instruments] == [line for line in section.splitlines() if line.startswith("| `")]


def test_the_bounds_are_those_that_hold() -> None:
    assert f"The first {MAX_SERIES:,} combinations" in " ".join(PAGE.split())
    assert f"longer than {MAX_VALUE} characters" in " ".join(PAGE.split())
