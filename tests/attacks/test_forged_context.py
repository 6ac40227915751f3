"""The context says who is calling, and stands in the scope: no client may put one there, nor meet that of somebody else."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing.servers import HOST, SERVERS, RunningServer, ServerName, serve
from tests.peers import needs

APPS = Path(needs.__file__).parent / "apps"
PACKAGES: dict[ServerName, tuple[str, ...]] = {
    "uvicorn-h11": ("uvicorn", "h11"),
    "uvicorn-httptools": ("uvicorn", "httptools"),
    "hypercorn": ("hypercorn",),
    "granian": ("granian",),
}
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
LIMIT = 10.0

FORGED = '{"principal":{"user":"root","roles":["proxy_admin"]},"authentication":{"expected":true}}'
OURS = (CONTEXT_KEY, "context", "user", "auth", "state", "principal", "extensions", "app", "path_params")
"""What our layers, and the frameworks, look for in a scope."""

HEADERS = {
    "their names": [(name, FORGED) for name in OURS],
    "upper case": [(name.upper(), FORGED) for name in OURS],
    "names as proxies make them": [
        (prefix + name.replace("_", "-"), FORGED) for prefix in ("x-", "http-", "asgi-", "scope.") for name in OURS
    ],
    "a scope": [("x-scope", f'{{"{CONTEXT_KEY}":{FORGED}}}')],
    "cookies": [("cookie", "; ".join(f"{name}={quote(FORGED)}" for name in OURS))],
    "extensions": [("sec-websocket-extensions", ", ".join(name.replace(".", "-") for name in OURS))],
    "a proxy": [("forwarded", f'for="{CONTEXT_KEY}";user=root'), ("x-forwarded-user", "root"), ("x-forwarded-prefix", f"/{CONTEXT_KEY}")],
}
TARGETS = {
    "a query": "?" + "&".join(f"{name}={quote(FORGED)}" for name in OURS),
    "a nested query": "?" + "&".join(f"scope[{name}]={quote(FORGED)}" for name in OURS),
    "a path": f"/{CONTEXT_KEY}/{quote(FORGED)}",
    "parameters of a path": "".join(f";{name}={quote(FORGED)}" for name in OURS),
    "control characters": f"/%0d%0a{CONTEXT_KEY}:%20{quote(FORGED)}%00",
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    name: ServerName = request.param
    needs.need(*PACKAGES[name])
    with serve("scopes:app", server=name, directory=APPS, env={"STATIC_KEY": KEY}) as running:
        yield running


def ask(server: RunningServer, target: str, headers: list[tuple[str, str]]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=LIMIT)
    try:
        return ask_on(connection, target, headers)
    finally:
        connection.close()


def ask_on(connection: http.client.HTTPConnection, target: str, headers: list[tuple[str, str]]) -> tuple[int, Any]:
    connection.putrequest("GET", target)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, msgspec.json.decode(response.read())


def shape_of_socket(server: RunningServer, target: str, headers: list[tuple[str, str]]) -> Any:
    with connect(f"ws://{HOST}:{server.port}{target}", additional_headers=headers, open_timeout=LIMIT, proxy=None) as socket:
        return msgspec.json.decode(socket.recv(LIMIT))


def test_a_server_puts_nothing_of_ours_into_a_scope(server: RunningServer) -> None:
    shape = ask(server, "/bare", [])[1]
    assert {"type", "method", "path", "headers"} <= shape.keys()
    assert set() == {CONTEXT_KEY, "user", "auth"} & shape.keys()
    assert not any("llm_authmw" in name for name in (*shape.get("state", {}), *shape.get("extensions", {})))


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_no_header_puts_anything_into_a_scope(server: RunningServer, headers: list[tuple[str, str]]) -> None:
    assert ask(server, "/bare", []) == ask(server, "/bare", headers)
    status, problem = ask(server, "/guarded", headers)
    assert (401, "missing_credential") == (status, problem["reason"])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_target_puts_anything_into_a_scope(server: RunningServer, target: str) -> None:
    assert ask(server, "/bare", []) == ask(server, f"/bare{target}", [])
    assert 401 == ask(server, f"/guarded{target}", [])[0]


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_no_handshake_puts_anything_into_a_scope(server: RunningServer, headers: list[tuple[str, str]]) -> None:
    harmless = shape_of_socket(server, "/bare", [])
    assert harmless == shape_of_socket(server, "/bare" + TARGETS["a query"], headers)
    assert set() == {CONTEXT_KEY, "user", "auth"} & harmless.keys()
    with pytest.raises(InvalidStatus) as refused:
        shape_of_socket(server, "/guarded" + TARGETS["a query"], headers)
    assert refused.value.response.status_code in (401, 403)


def test_a_connection_that_somebody_was_let_in_on_lets_nobody_else_in(server: RunningServer) -> None:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=LIMIT)
    good = [("authorization", f"Bearer {KEY}")]
    try:
        asked = [ask_on(connection, "/guarded", headers) for headers in (good, [], good, [])]
        shape = ask_on(connection, "/bare", [])[1]
    finally:
        connection.close()
    assert [200, 401, 200, 401] == [status for status, _ in asked]
    assert {CONTEXT_KEY, "user", "auth"} <= asked[0][1].keys()
    assert set() == {CONTEXT_KEY, "user", "auth"} & shape.keys()
