"""The page of policies: its options are those of the code, and each row of its failure table happens."""

import inspect
import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from llm_authmw import (
    HeaderMap,
    HeaderTrustMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    RequestContext,
    SharedSecret,
    Stack,
    StaticKeys,
)
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD_KEY = (b"authorization", b"Bearer " + KEY.encode())


class Row(NamedTuple):
    status: int
    told: str
    recorded: str


def _rows() -> dict[str, Row]:
    table = PAGE.read_text(encoding="utf-8").partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(int(status), told.strip("`"), recorded.strip("`| ")) for what, status, told, recorded in cells}


ROWS: Final = _rows()
CAUSES: Final[dict[str, list[tuple[str, list[tuple[bytes, bytes]]]]]] = {
    "a method and path that no policy names": [("GET /metrics", [GOOD_KEY]), ("GET /", []), ("POST /v2/chat", [GOOD_KEY])],
    "`OPTIONS` or `POST` where the policy says `GET`": [("OPTIONS /health", []), ("POST /health", [GOOD_KEY])],
    "a WebSocket where the policy says `GET`": [("WS /health", [])],
    "a path that can be read in two ways: dot segments, `//`, `;`, `\\`, an encoded slash": [
        (f"GET {path}", [GOOD_KEY]) for path in ("/v1/../admin", "/v1//models", "/v1;/models", "/v1\\models", "/v1%2fmodels")
    ],
    "a slash at the end by which another policy would decide": [("GET /v1/reports/", [GOOD_KEY]), ("WS /v1/reports/", [GOOD_KEY])],
    "another spelling of a header that another policy trusts": [
        ("GET /health", [(b"X_Forwarded_User", b"ada")]),
        ("GET /v1/models", [GOOD_KEY, (b"x.forwarded.user", b"ada")]),
    ],
    "the inventory finds errors in the routes of the app, and no lifespan arrives in which it can stop the server": [
        ("POST /v1/chat/completions", [GOOD_KEY]),
        ("GET /health", []),
    ],
    "a credential that gets one in by another policy only": [("GET /admin/keys", [GOOD_KEY])],
}


@pytest.mark.anyio
@pytest.mark.parametrize("what", ROWS)
async def test_each_row_of_the_failure_table_happens(what: str) -> None:
    row = ROWS[what]
    assert CAUSES.keys() == ROWS.keys()
    proof = SharedSecret(header="x-proxy-proof", secret="Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf")
    proxied = Stack(Middleware(HeaderTrustMiddleware, realm="corp", headers=HeaderMap.preset("oauth2-proxy"), proof=proof))
    policies = [
        Policy("GET /health", public=True),
        Policy("/v1/**", Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))),
        Policy("/v1/reports", proxied),
        Policy("/admin/**", proxied),
    ]
    for target, lines in CAUSES[what]:
        app, context = Witness(), RequestContext()
        # Behind a key alone, where nothing looks at the model.
        routes = [Route("/v1/chat/completions", app, methods=["POST"])]
        router = PolicyRouter(Starlette(routes=routes) if what.startswith("the inventory") else app, policies=policies)
        method, _, path = target.partition(" ")
        scope = {"llm_authmw.context": context}
        if method == "WS":
            async with websocket(router, path, headers=lines, scope=scope) as socket:
                answer = socket.response
        else:
            answer = await request(router, target, headers=lines, scope=scope)
        assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason")), target
        assert (row.recorded, "denied") == (context.decisions[-1].reason, context.decisions[-1].outcome)
        assert [] == app.scopes


def test_the_page_has_every_option() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]
    options = {*inspect.signature(Policy).parameters, *inspect.signature(PolicyRouter).parameters} - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))
