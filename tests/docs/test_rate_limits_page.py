"""The tables of the page: each option is there, and each row of what can go wrong is made to happen."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import pytest

from llm_authmw import Limit, RateLimitMiddleware, RequestContext, RequestLens
from llm_authmw.limits.dimensions import DIMENSIONS
from llm_authmw.limits.rate_headers import STYLES
from llm_authmw.limits.scopes import Scope
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.testing import ManualClock, Response, fake_principal, request, stream
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.faults import FaultyLedger

pytestmark = pytest.mark.anyio

PAGE: Final = (Path(__file__).parents[2] / "docs" / "layers" / "rate-limits.md").read_text(encoding="utf-8")
CHAT: Final = "POST /v1/chat/completions"
JSON: Final = (b"content-type", b"application/json")
SMALL: Final = b'{"model":"gpt-4o-mini","max_tokens":9,"messages":[]}'
ADA: Final[dict[str, Any]] = {"user": "ada", "realm": "home", "team": "blue"}


class Row(NamedTuple):
    what: str
    status: int
    told: str
    waiting_helps: bool
    named: str


class Cause(NamedTuple):
    """What makes a row happen: limits and other options, who calls, what is sent, and how often before."""

    limits: Mapping[str, list[str]] = {}
    options: Mapping[str, Any] = {}
    caller: Mapping[str, Any] = ADA
    body: bytes = SMALL
    target: str = CHAT
    before: int = 0
    store: str = "up"


def rows() -> dict[str, Row]:
    table = PAGE.partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(what, int(status), told, helps == "yes", named) for what, status, told, helps, named in cells}


class BrokenLens(RequestLens):
    def find(self, method: str, path: str) -> Any:
        raise RuntimeError("broken")


CAUSES: Final[dict[str, Cause]] = {
    "a path that can be read in two ways": Cause(target="POST /v1//chat/completions"),
    "the caller's tier is not defined": Cause(caller=ADA | {"tier": "gold"}),
    "what a limit is counted by is missing": Cause({"org": ["4 concurrent"]}),
    "the app would choose the model, under a limit by model": Cause({"model": ["4 concurrent"]}, body=b'{"messages":[]}'),
    "more buckets than 64": Cause(
        {"model": ["4 concurrent"]}, body=b'{"model":"a","messages":[],"fallbacks":[%s]}' % b",".join(b'"m%d"' % n for n in range(64))
    ),
    "a body that cannot be read, where it has to be": Cause({"model": ["4 concurrent"]}, body=b"{"),
    "a body that is too large to be read": Cause({"model": ["4 concurrent"]}, {"lens": RequestLens(max_body=20)}),
    "tokens that cannot be measured": Cause({"team": ["9 tokens/day"]}, target="POST /v1/batches"),
    "a ceiling of nothing": Cause({"team": ["9 tokens/day"]}, body=b'{"model":"gpt-4o-mini","max_tokens":0,"messages":[]}'),
    "more tokens than the limit ever lets through": Cause({"team": ["50 tokens/day"]}),
    "too many requests": Cause({"team": ["1 requests/day"]}, before=1),
    "too many tokens": Cause({"team": ["70 tokens/day, calendar"]}, before=1),
    "too much at once": Cause({"team": ["1 concurrent"]}),
    "the ledger does not answer": Cause({"team": ["1 concurrent"]}, store="down"),
    "anything else keeps the request from being counted": Cause({"model": ["1 concurrent"]}, {"lens": BrokenLens()}),
}
NAMED: Final = {
    "nothing": r"",
    "the tier": r"gold",
    "the scope": r"org|model",
    "the operation": r"batches",
    "the bucket": r"team:blue / (?:tokens|requests|concurrent).*",
}


def test_the_page_has_every_option() -> None:
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(RateLimitMiddleware).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


@pytest.mark.parametrize("option", inspect.signature(RateLimitMiddleware).parameters)
def test_every_option_is_documented_where_it_is_defined(option: str) -> None:
    assert f"\n    {option}: " in (inspect.getdoc(RateLimitMiddleware) or "")


def test_the_page_has_every_dimension_and_every_style() -> None:
    table = PAGE.partition("| scope | one bucket for |")[2].partition("\n\n")[0]
    assert DIMENSIONS.keys() == set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*`) \|", table))))
    styles = PAGE.partition("| style | headers |")[2].partition("\n\n")[0]
    assert list(STYLES) == re.findall(r"(?m)^\| `(\w+)` \|", styles)


def test_every_limit_and_scope_on_the_page_is_one() -> None:
    table = PAGE.partition("| limit | lets through |")[2].partition("\n\n")[0]
    for text in re.findall(r"(?m)^\| `([^`]+)` \|", table):
        assert text == str(Limit.parse(text))
    values = PAGE.partition("A value limits only what it names")[2].partition("\n\n")[0]
    for text in re.findall(r"`(\w+:[^`]+)`", values):
        if not text.startswith("model_group"):
            assert text == Scope.parse(text).text


def test_something_makes_each_row_happen() -> None:
    assert list(rows()) == list(CAUSES)


@pytest.mark.parametrize("what", CAUSES)
async def test_a_failure_looks_as_its_row_says(what: str) -> None:
    row, cause = rows()[what], CAUSES[what]
    clock = ManualClock()
    faulty = FaultyLedger(lambda: MemoryLedger(clock=clock))
    books = Books(faulty, clock=clock)
    reached, go_on = anyio.Event(), anyio.Event()
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope["path"])
        if scope["path"] == "/slow":
            reached.set()
            await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    layer = RateLimitMiddleware(app, ledger=books.service, limits=cause.limits, **cause.options)
    scope = called_by(fake_principal(**cause.caller))
    context: RequestContext = scope["llm_authmw.context"]

    async def ask() -> Response:
        return await request(layer, cause.target, headers=[JSON], body=cause.body, scope=scope)

    for _ in range(cause.before):
        assert 200 == (await request(layer, cause.target, headers=[JSON], body=cause.body, scope=called_by(context.principal))).status
    if cause.store == "down":
        faulty.fail("down")
    if what == "too much at once":
        async with stream(layer, "GET /slow", scope=called_by(context.principal)) as slow:
            await reached.wait()
            answer = await ask()
            go_on.set()
            async for _ in slow:
                pass
    else:
        answer = await ask()
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
    (decision,) = context.decisions
    assert ("denied", row.told) == (decision.outcome, decision.reason)
    assert re.fullmatch(NAMED[row.named], decision.rule or "") is not None, decision
    assert row.waiting_helps == (answer.header("retry-after") is not None)
    assert (row.waiting_helps and row.status == 429) == (answer.header("retry-after-ms") is not None)
    assert cause.before + (what == "too much at once") == len(calls)
