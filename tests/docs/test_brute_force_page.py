"""The tables of the page: each option and limit is there, and each row of what can go wrong is made to happen."""

import inspect
import re
from pathlib import Path
from typing import Final, Literal, NamedTuple

import pytest

from llm_authmw import BruteForceMiddleware
from llm_authmw.brute_force.waits import DEFAULTS, STOPPING
from llm_authmw.testing.guessing import GuardedSite, wrong_key

pytestmark = pytest.mark.anyio

PAGE: Final = (Path(__file__).parents[2] / "docs" / "layers" / "brute-force.md").read_text(encoding="utf-8")
GROWING: Final = {"address": ["2 requests/minute, burst 2", "3 requests/day, burst 3"], "address+credential": list[str]()}


class Row(NamedTuple):
    status: int
    told: str
    waiting_helps: bool
    named: str


class Cause(NamedTuple):
    """What makes a row happen: what is presented, after how many wrong ones, and whether the ledger answers."""

    presented: Literal["wrong", "good", "known", "nothing"]
    before: Literal["no failure", "too many", "locked out"] = "no failure"
    down: bool = False


def rows() -> dict[str, Row]:
    table = PAGE.partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(int(status), told, helps == "yes", named) for what, status, told, helps, named in cells}


CAUSES: Final[dict[str, Cause]] = {
    "a wrong credential, within the limits": Cause("wrong"),
    "a wrong credential, above the limit of a minute": Cause("wrong", "too many"),
    "a wrong credential, above the longest limit": Cause("wrong", "locked out"),
    "a good credential from a network that has to wait": Cause("good", "too many"),
    "a good credential from a network that is locked out": Cause("good", "locked out"),
    "a good credential that was good there lately, from such a network": Cause("known", "locked out"),
    "no credential, from such a network": Cause("nothing", "locked out"),
    "a wrong credential while the ledger does not answer": Cause("wrong", down=True),
    "a good credential while the ledger does not answer": Cause("good", down=True),
}


def test_the_page_has_every_option() -> None:
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(BruteForceMiddleware).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


def test_the_page_has_the_limits_that_are_left_out_and_what_they_do() -> None:
    table = PAGE.partition("| counted by | limits")[2].partition("\n\n")[0]
    shown = {
        dimension: (tuple(re.findall(r"`([^`]+)`", limits)), "lock out" in does)
        for dimension, limits, does in re.findall(r"(?m)^\| `([\w+]+)` \| ([^|]+) \| ([^|]+) \|$", table)
    }
    assert {dimension: (limits, dimension in STOPPING) for dimension, limits in DEFAULTS.items()} == shown


def test_something_makes_each_row_happen() -> None:
    assert list(rows()) == list(CAUSES)


@pytest.mark.parametrize("what", CAUSES)
async def test_a_failure_looks_as_its_row_says(what: str) -> None:
    row, cause = rows()[what], CAUSES[what]
    site = GuardedSite(GROWING)
    key = await site.new_key(user="ada")
    if cause.presented == "known":
        assert 200 == (await site.ask(key)).status
    if cause.before != "no failure":
        await site.guess(3)
    if cause.before == "locked out":
        site.clock.advance(61)
        await site.guess(2)
    if cause.down:
        site.faults.fail("down")
    answer = await site.ask(None if cause.presented == "nothing" else wrong_key() if cause.presented == "wrong" else key)
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason") or "nothing")
    assert row.waiting_helps == (answer.header("retry-after") is not None)
    rule = site.context.decisions[-1].rule
    assert ("the bucket" if rule is not None and rule.startswith("failures / address:") else "nothing") == row.named
