"""The page of the introspection layer: its options are those of the code, and each row of its failure table is made to happen."""

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm_authmw import RequestContext
from llm_authmw.authn.introspection import IntrospectionMiddleware
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens.introspection import Introspector, IntrospectorOptions

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "layers" / "introspection.md").read_text(encoding="utf-8")
NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"active": True, "sub": "ada", "aud": "api://llm", "iss": "https://sso.example.com", "exp": NOW + 300}
TOKEN = b"Bearer t0ken"


class Cause(NamedTuple):
    said: Any = GOOD
    credential: bytes | None = TOKEN


CAUSES = {
    "no credential": Cause(credential=None),
    "another scheme in `Authorization` (Basic, DPoP)": Cause(credential=b"DPoP t0ken"),
    "a text that is no token, or is over 8 KiB; no call": Cause(credential=b"Bearer " + b"a" * 8193),
    'the provider does not say `"active": true`': Cause(GOOD | {"active": "true"}),
    "active, but past its `exp`": Cause(GOOD | {"exp": NOW - 5}),
    "before its `nbf`": Cause(GOOD | {"nbf": NOW + 6}),
    "for another audience, or for none": Cause(GOOD | {"aud": None}),
    "of another issuer": Cause(GOOD | {"iss": "https://other.example"}),
    "a refresh token, an ID token, a DPoP token": Cause(GOOD | {"typ": "Refresh"}),
    "bound to a certificate that was not proven, or to a key": Cause(GOOD | {"cnf": {"jkt": "key"}}),
    "a claim that is demanded is missing, or nobody is named": Cause(GOOD | {"sub": None}),
    "a claim of the wrong type or out of bounds": Cause(GOOD | {"sub": 7}),
    "the provider is down, slow, or answers with something that says nothing": Cause(Reply(body=b"<html>")),
    "the provider does not accept our own credentials; an error is logged": Cause(Reply(401)),
}


def _rows() -> dict[str, list[str]]:
    table = PAGE.partition("| what happens | status |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: rest for what, *rest in rows}


def test_every_row_of_the_table_has_a_cause() -> None:
    assert set(CAUSES) == set(_rows())


@pytest.mark.parametrize("what", CAUSES)
async def test_the_client_and_the_record_say_what_the_row_says(what: str) -> None:
    provider, app, context = TokenProvider(), Witness(), RequestContext()
    provider.otherwise, credential = CAUSES[what]
    options: dict[str, Any] = {"issuer": "https://sso.example.com", "audience": "api://llm", "client_id": "x", "client_secret": "s"}
    endpoint = "https://sso.example.com/introspect"
    layer = IntrospectionMiddleware(app, endpoint=endpoint, http=provider, clock=ManualClock(now=NOW), **options)
    headers = [] if credential is None else [(b"authorization", credential)]
    response = await request(layer, "GET /v1/models", headers=headers, scope={"llm_authmw.context": context})
    status, told, recorded, header = _rows()[what]
    name, _, value = header.strip("`| ").partition(": ")
    assert (int(status), told.strip("`"), recorded.strip("`"), value) == (
        response.status,
        response.header("x-authmw-reason"),
        context.decisions[-1].reason,
        response.header(name.lower()),
    )
    assert [] == app.scopes


def test_the_page_has_every_option() -> None:
    named = set(inspect.signature(IntrospectionMiddleware).parameters) - {"app", "options"}
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    assert named | set(IntrospectorOptions.__annotations__) == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


def test_the_layer_takes_every_option_of_the_handle() -> None:
    assert set(IntrospectorOptions.__annotations__) == set(inspect.signature(Introspector).parameters)
