from collections.abc import MutableMapping
from typing import Any

import pytest

from llm_authmw.asgi import Composed, send_denial, unwrap
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial

pytestmark = pytest.mark.anyio

DENIAL = Denial("missing_credential", layer="keys", challenges=("Bearer",))


async def sent_for(scope: MutableMapping[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await send_denial({"path": "/v1/models", "headers": [], **scope}, send, DENIAL, RequestContext())
    return sent


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}, "http.response.pathsend": {}}])
async def test_an_http_request_is_answered_with_one_start_and_one_body(extensions: dict[str, Any]) -> None:
    # Some servers list the extension of WebSockets on HTTP scopes as well.
    start, body = await sent_for({"type": "http", "extensions": extensions})
    assert {"type": "http.response.start", "status": 401, "headers": start["headers"]} == start
    assert {"type": "http.response.body", "body": body["body"], "more_body": False} == body
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]


async def test_a_websocket_is_answered_with_a_whole_response_where_the_server_can() -> None:
    start, body = await sent_for({"type": "websocket", "extensions": {"websocket.http.response": {}}})
    assert ("websocket.http.response.start", 401) == (start["type"], start["status"])
    assert ("websocket.http.response.body", False) == (body["type"], body["more_body"])
    assert (b"www-authenticate", b"Bearer") in start["headers"]


@pytest.mark.parametrize("scope", [{}, {"extensions": None}, {"extensions": {}}, {"extensions": {"tls": {}}}])
async def test_a_websocket_is_closed_without_a_reason_where_the_server_cannot(scope: dict[str, Any]) -> None:
    assert [{"type": "websocket.close", "code": 1008}] == await sent_for({"type": "websocket", **scope})


def test_what_a_request_meets_first_is_found_through_any_number_of_stacks() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Stand at the end."""

    outer, inner = Composed(), Composed()
    outer.entry, inner.entry = inner, app  # type: ignore[assignment]
    assert app is unwrap(app) is unwrap(outer)
