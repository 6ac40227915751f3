"""The tables of the page: each option is there, and each row of what can go wrong is made to happen."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from llm_authmw import Assurance, ConfigurationError, RBACMiddleware, RequestContext, RequestLens, Role
from llm_authmw.testing import ManualClock, fake_principal, stream
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "layers" / "rbac.md").read_text(encoding="utf-8")
CHAT = "POST /v1/chat/completions"
JSON = (b"content-type", b"application/json")
SMALL = b'{"model":"gpt-4o-mini","messages":[]}'
CLOCK: Final = ManualClock(100_000)


class Row(NamedTuple):
    what: str
    status: int
    told: str
    names_the_role: bool


class Cause(NamedTuple):
    """What makes a row happen: the role's options beside those that allow the request, who calls, what is sent."""

    role: Mapping[str, Any] = {}
    caller: Mapping[str, Any] | None = {"roles": ["member"]}
    body: bytes = SMALL
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    target: str = CHAT
    options: Mapping[str, Any] = {}


def rows() -> dict[str, Row]:
    table = PAGE.partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(what, int(status), told, names == "yes") for what, status, told, names in cells}


def says_no(request: Any) -> bool:
    return False


def fails(request: Any) -> bool:
    raise RuntimeError


class BrokenLens(RequestLens):
    def find(self, method: str, path: str) -> Any:
        raise ConfigurationError("find", "is broken")


MEMBER = {"roles": ["member"]}
CAUSES: Final[dict[str, Cause]] = {
    "a path that can be read in two ways": Cause(target="POST /v1//chat/completions"),
    "nobody is logged in": Cause(caller=None),
    "the caller has no role": Cause(caller={}),
    "our own records give a role that is not defined": Cause(caller={"roles": ["member", "retired"]}),
    "a network that the credential may not be used from": Cause(caller=MEMBER | {"networks": ["10.0.0.0/8"]}),
    "a route that the credential may not be used for": Cause(caller=MEMBER | {"routes": ["GET /v1/models"]}),
    "a route that no role allows": Cause(target="POST /v1/embeddings"),
    "a kind of request that the role leaves out": Cause({"operations": ["embeddings"]}),
    "a body for a route of an LLM API that no table has, from a caller whose models are restricted": Cause(target="POST /own/v1/thing"),
    "a body of another type": Cause(headers=((b"content-type", b"text/plain"),)),
    "a compressed body": Cause(headers=(JSON, (b"content-encoding", b"gzip"))),
    "a body that is too large": Cause(options={"lens": RequestLens(max_body=10)}),
    "a body that can be read in two ways, or not at all": Cause(body=b'{"model":"gpt-4o-mini","model":"o3"}'),
    "a model that is named by something else than a name": Cause(body=b'{"model":["gpt-4o-mini"],"messages":[]}'),
    "no model": Cause(body=b'{"messages":[]}'),
    "a model that the role does not allow": Cause(body=b'{"model":"o3","messages":[]}'),
    "a tool that it does not allow": Cause(body=b'{"model":"gpt-4o-mini","messages":[],"tools":[{"type":"web_search"}]}'),
    "a scope that it asks for is missing": Cause({"scopes": ["llm:chat"]}),
    "the credential proves too little": Cause({"assurance": Assurance.SIGNED}),
    "a network that the role does not allow": Cause({"networks": ["10.0.0.0/8"]}),
    "the login is too old": Cause({"max_age": 300}, MEMBER | {"authenticated_at": 99_000.0}),
    "the login is of another class": Cause({"acr": ["phr"]}, MEMBER | {"acr": "pwd"}),
    "the engine says no": Cause(options={"authorizer": says_no}),
    "the engine raises, is late, or answers something else": Cause(options={"authorizer": fails}),
    "anything else keeps the request from being decided": Cause(options={"lens": BrokenLens()}),
}


def test_the_page_has_every_option() -> None:
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(RBACMiddleware).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


def test_the_page_has_every_field_of_a_role() -> None:
    table = PAGE.partition("## What is decided")[2].partition("\n## ")[0]
    assert set(Role.__struct_fields__) == set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*`) \|", table))))


@pytest.mark.parametrize("option", inspect.signature(RBACMiddleware).parameters)
def test_every_option_is_documented_where_it_is_defined(option: str) -> None:
    assert f"\n    {option}: " in (inspect.getdoc(RBACMiddleware) or "")


def test_something_makes_each_row_happen() -> None:
    assert list(rows()) == list(CAUSES)


@pytest.mark.parametrize("what", CAUSES)
async def test_a_failure_looks_as_its_row_says(what: str) -> None:
    row, cause = rows()[what], CAUSES[what]
    context = RequestContext()
    if cause.caller is not None:
        context.principal = fake_principal(**cause.caller)
    app = Recorder()
    role = Role(routes=[CHAT, "/own/**"], models=["gpt-4o-mini"], **cause.role)
    layer = RBACMiddleware(app, roles={"member": role}, clock=CLOCK, **cause.options)
    scope = {"llm_authmw.context": context}
    async with stream(layer, cause.target, headers=cause.headers, body=cause.body, scope=scope) as exchange:
        async for _ in exchange:
            pass
    answer = exchange.response
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
    (decision,) = context.decisions
    assert ("denied", row.told) == (decision.outcome, decision.reason)
    assert row.names_the_role == (decision.rule == "member")
    assert (row.status == 401 or row.told == "insufficient_scope") == (answer.header("www-authenticate") is not None)
    assert (row.status == 503) == (answer.header("retry-after") is not None)
    assert [] == app.scopes
