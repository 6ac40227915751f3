"""The table of ways on the page about LiteLLM, against the requests that the tests make."""

import re
from pathlib import Path

from tests.peers.litellm_ways import GROUPS

PAGE = Path(__file__).parents[2] / "docs" / "litellm.md"


def test_the_page_has_each_kind_of_way_and_what_it_is_refused_with() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("<!-- ways:")[2].partition("\nA WebSocket")[0]
    rows = re.findall(r"(?m)^\| ([a-z ]+) \| .+ \| (`.+`) \|$", table)
    refused = {group: sorted({way.refused[1] for way in ways.values()}) for group, ways in GROUPS.items()}
    assert refused == {group: re.findall(r"`([a-z_]+)`", reasons) for group, reasons in rows}
