"""The tables of the page: each option is there, and each row of what can go wrong is made to happen."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from llm_authmw import BudgetMiddleware, ConfigurationError, Price, RequestLens
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.ledger.contract import MAX_CLAIMS
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, fake_principal, request
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.faults import FaultyLedger
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

PAGE: Final = (Path(__file__).parents[2] / "docs" / "layers" / "budgets.md").read_text(encoding="utf-8")
CHAT: Final = "POST /v1/chat/completions"
JSON: Final = (b"content-type", b"application/json")
SMALL: Final = b'{"model":"gpt-4o","max_tokens":10,"messages":[]}'
MANY: Final = b'{"model":"gpt-4o","fallbacks":[%b]}' % b",".join([b'"gpt-4o-%d"' % number for number in range(MAX_CLAIMS + 1)])


class Row(NamedTuple):
    what: str
    status: int
    told: str
    names_the_budget: bool


class Cause(NamedTuple):
    """What makes a row happen: the layer's options, what is sent, and what was asked for before."""

    options: Mapping[str, Any] = {}
    body: bytes = SMALL
    target: str = CHAT
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    before: int = 0
    down: bool = False


class BrokenLens(RequestLens):
    def find(self, method: str, path: str) -> Any:
        raise ConfigurationError("find", "is broken")


CAUSES: Final[dict[str, Cause]] = {
    "a path that can be read in two ways": Cause(target="POST /v1//chat/completions"),
    "what cannot be metered, and has no flat price": Cause(target="POST /v1/batches"),
    "a body of another type": Cause(headers=((b"content-type", b"text/plain"),)),
    "a body that can be read in two ways, or not at all": Cause(body=b'{"model":"gpt-4o","model":"o3"}'),
    "a ceiling of zero, or above what any model can do": Cause(body=b'{"model":"gpt-4o","max_tokens":0}'),
    "a ceiling that is no whole number, or is negative": Cause(body=b'{"model":"gpt-4o","max_tokens":-1}'),
    "no model": Cause(body=b'{"messages":[]}'),
    "a model without a price": Cause(body=b'{"model":"o3","messages":[]}'),
    "something that a budget is counted by is missing": Cause({"limits": {"team": ["1 usd/day"]}}),
    "more budgets than can be counted at once": Cause({"limits": {"user+model": ["1 usd/day"]}}, body=MANY),
    "the request may cost more than the whole of a budget": Cause({"limits": {"user": ["0.000001 usd/day"]}}),
    "a budget cannot pay for it now": Cause({"limits": {"user": ["0.000151 usd/day"]}}, before=3),
    "the ledger does not answer": Cause(down=True),
    "anything else keeps the request from being decided": Cause({"lens": BrokenLens()}),
}


async def closed(layer: BudgetMiddleware) -> None:
    for resource in layer.resources:
        await resource.aclose()


def rows() -> dict[str, Row]:
    table = PAGE.partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(what, int(status), told, names == "yes") for what, status, told, names in cells}


def test_the_page_has_every_option() -> None:
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(BudgetMiddleware).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


@pytest.mark.parametrize("option", inspect.signature(BudgetMiddleware).parameters)
def test_every_option_is_documented_where_it_is_defined(option: str) -> None:
    assert f"\n    {option}: " in (inspect.getdoc(BudgetMiddleware) or "")


def test_something_makes_each_row_happen() -> None:
    assert list(rows()) == list(CAUSES)


@pytest.mark.parametrize("what", CAUSES)
async def test_a_failure_looks_as_its_row_says(what: str) -> None:
    row, cause = rows()[what], CAUSES[what]
    clock = ManualClock()
    ledger = FaultyLedger(lambda: MemoryLedger(clock=clock))
    books = Books(ledger, clock=clock)
    app = Recorder()
    options: dict[str, Any] = {"prices": {"gpt-4o*": Price(input=1, output=1)}, "limits": {"user": ["1 usd/day"]}, **cause.options}
    layer = BudgetMiddleware(app, ledger=books.service, **options)

    async def ask() -> Any:
        scope = called_by(fake_principal(user="ada"))
        answer = await request(layer, cause.target, headers=cause.headers, body=cause.body, scope=scope)
        return answer, scope[CONTEXT_KEY]

    for _ in range(cause.before):
        await ask()
    if cause.down:
        ledger.fail("down")
    reached = len(app.scopes)
    answer, context = await ask()
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
    assert ("denied", row.told) == (context.decisions[-1].outcome, context.decisions[-1].reason)
    assert row.names_the_budget == (answer.header("x-authmw-budget") is not None)
    assert (row.status == 503) == (answer.header("retry-after") is not None)
    assert (row.status == 429) == (answer.header("x-should-retry") == "false")
    assert reached == len(app.scopes)
    assert books.held == 0
    await books.service.aclose()
    await closed(layer)
