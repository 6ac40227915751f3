"""The tables of two pages: each option is there, and each row of what can go wrong is made to happen."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import pytest

from llm_authmw import CustomAuthMiddleware, Denial, Principal, ProtectedResource, RequestContext, UpstreamCredentialMiddleware
from llm_authmw.testing import ManualClock, Response, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

PAGES = Path(__file__).parents[2] / "docs" / "layers"
DOCUMENTED: dict[str, Callable[..., Any]] = {
    "custom.md": CustomAuthMiddleware,
    "upstream-credentials.md": UpstreamCredentialMiddleware,
    "protected-resource.md": ProtectedResource,
}


class Row(NamedTuple):
    what: str
    status: int
    told: str
    recorded: str


class Cause(NamedTuple):
    """What makes a row happen: what the function returns or raises, and what is sent."""

    answer: Any = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    target: str = "GET /v1/models"


def rows(page: str) -> dict[str, Row]:
    table = (PAGES / page).read_text(encoding="utf-8").partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(what, int(status), told, recorded) for what, status, told, recorded, *_ in cells}


CLOCK: Final = ManualClock(1_000)
LATE: Final = object()
BEARER = (b"authorization", b"Bearer tok-x")
TICKET = (b"x-ticket", b"t-1")

CUSTOM: Final[dict[str, Cause]] = {
    "no credential, and the function returns `None": Cause(),
    "a bearer token that neither the function nor a layer beside knows": Cause(None, (BEARER,)),
    "another credential that nobody knows": Cause(None, (TICKET,)),
    'the function returns or raises a `Denial`, such as `Denial("token_revoked")': Cause(Denial("token_revoked")),
    "two places at once": Cause(Principal(user="ada"), (TICKET, BEARER)),
    "one of them twice": Cause(Principal(user="ada"), (TICKET, TICKET)),
    "the principal has expired": Cause(Principal(user="ada", expires_at=1_000)),
    "from a network that the principal does not allow": Cause(Principal(user="ada", networks=("10.0.0.0/8",))),
    "for a route that the principal does not allow": Cause(Principal(user="ada", routes=("POST /v1/chat/completions",))),
    "a path that can be read in two ways, with a principal that has routes": Cause(
        Principal(user="ada", routes=("/v1/**",)), target="GET /v1//models"
    ),
    "the function raises anything else": Cause(ValueError()),
    "the function is late": Cause(LATE),
    "the function returns anything else": Cause("ada"),
    "the principal is nobody, or a field of it is outside its grammar": Cause(Principal(user="ada", routes=("models",))),
}
UPSTREAM: Final[dict[str, Cause]] = {
    "choose` raises, whatever it is": Cause(Denial("insufficient_scope")),
    "choose` is late": Cause(LATE),
    "choose` returns None, nothing, or no credential": Cause(None),
    "what it returns does not fit into a header": Cause("sk-x\r\n"),
}


def function(answer: Any) -> Any:
    async def answering(argument: Any) -> Any:
        if answer is LATE:
            await anyio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return answer

    return answering


async def looks_as_its_row_says(row: Row, layer: Any, cause: Cause) -> Response:
    context = RequestContext()
    answer = await request(layer, cause.target, headers=cause.headers, scope={"llm_authmw.context": context})
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
    assert [row.recorded] == [decision.reason for decision in context.decisions if decision.outcome == "denied"]
    return answer


@pytest.mark.parametrize("page", DOCUMENTED)
def test_the_page_has_every_option(page: str) -> None:
    table = (PAGES / page).read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(DOCUMENTED[page]).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


@pytest.mark.parametrize("option", [(kind, name) for kind in DOCUMENTED.values() for name in inspect.signature(kind).parameters])
def test_every_option_is_documented_where_it_is_defined(option: tuple[Callable[..., Any], str]) -> None:
    assert f"\n    {option[1]}: " in (inspect.getdoc(option[0]) or "")


def test_something_makes_each_row_happen() -> None:
    assert (list(rows("custom.md")), list(rows("upstream-credentials.md"))) == (list(CUSTOM), list(UPSTREAM))


@pytest.mark.parametrize("what", CUSTOM)
async def test_a_failure_of_the_custom_layer_looks_as_its_row_says(what: str) -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=function(CUSTOM[what].answer), headers=["x-ticket"], clock=CLOCK, deadline=0.05)
    answer = await looks_as_its_row_says(rows("custom.md")[what], layer, CUSTOM[what])
    assert (answer.status in (400, 401)) == (answer.header("www-authenticate") is not None)
    assert [] == app.scopes


@pytest.mark.parametrize("what", UPSTREAM)
async def test_a_failure_of_the_upstream_layer_looks_as_its_row_says(what: str) -> None:
    app = Witness()
    layer = UpstreamCredentialMiddleware(app, choose=function(UPSTREAM[what].answer), deadline=0.05)
    answer = await looks_as_its_row_says(rows("upstream-credentials.md")[what], layer, UPSTREAM[what])
    assert "1" == answer.header("retry-after")
    assert [] == app.scopes
