from typing import Any

import pytest

from llm_authmw import ANONYMOUS, KeyAuthMiddleware, StaticKeys, current_principal
from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."


def guarded(app: Any, **options: Any) -> KeyAuthMiddleware:
    return KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}), **options)


UNCLAIMED = [
    ("Basic YWRtaW46YWRtaW4=", "credential_not_accepted"),
    ("Digest username=x", "credential_not_accepted"),
    ("Negotiate abc", "credential_not_accepted"),
    ("ApiKey " + KEY, "credential_not_accepted"),
    ("DPoP " + KEY, "credential_not_accepted"),
    ("Token " + KEY, "credential_not_accepted"),
    (KEY, "credential_not_accepted"),
    ("garbage", "credential_not_accepted"),
    ("none " + KEY, "credential_not_accepted"),
    ("Bearer " + JWT, "invalid_token"),
    ("Bearer garbage", "invalid_token"),
    ("Bearer Bearer", "invalid_token"),
    ("Bearer " + "a" * 10_000, "invalid_token"),
    ("Bearer sk_live_" + KEY, "invalid_token"),
]


@pytest.mark.parametrize(("value", "reason"), UNCLAIMED)
@pytest.mark.parametrize("required", [True, False])
async def test_a_credential_that_nobody_claims_is_401_and_not_anonymous(value: str, reason: str, required: bool) -> None:
    app = Witness()
    layer = guarded(app, required=required)
    response = await request(layer, "GET /v1/models", headers=[(b"authorization", value.encode())])
    assert (401, reason) == (response.status, response.header("x-authmw-reason"))
    assert 'Bearer error="invalid_token"' == response.header("www-authenticate")
    async with websocket(layer, "/v1/realtime", headers=[(b"authorization", value.encode())]) as socket:
        assert (401, reason) == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("value", ["sk-", "sk-garbage", KEY + "x", KEY[:-1], KEY.upper(), "sk-" + "a" * 600])
@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
@pytest.mark.parametrize("required", [True, False])
async def test_what_looks_like_a_key_and_is_none_is_an_invalid_key(value: str, name: str, required: bool) -> None:
    app = Witness()
    sent = f"Bearer {value}" if name == "authorization" else value
    response = await request(guarded(app, required=required), "GET /v1/models", headers=[(name.encode(), sent.encode())])
    bearer_of_another_form = name == "authorization" and not value.startswith("sk-")
    reason = "invalid_token" if bearer_of_another_form else "invalid_api_key"
    assert (401, reason) == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("name", [b"x-api-key", b"api-key", b"x-goog-api-key"])
@pytest.mark.parametrize("value", ["garbage", JWT, "YWRtaW46YWRtaW4="])
async def test_whatever_is_in_a_key_header_is_judged_as_a_key(name: bytes, value: str) -> None:
    app = Witness()
    response = await request(guarded(app, required=False), "GET /v1/models", headers=[(name, value.encode())])
    assert (401, "invalid_api_key") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_nobody_gets_in_without_a_credential_by_default() -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models")
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert "Bearer" == response.header("www-authenticate")
    assert "no-store" == response.header("cache-control")
    async with websocket(guarded(app), "/v1/realtime") as socket:
        assert (401, "missing_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "TRACE", "CONNECT", "PROPFIND", "get"])
@pytest.mark.parametrize("path", ["/health", "/", "/favicon.ico", "*", "/docs", "/openapi.json"])
async def test_no_method_and_no_path_is_exempt(method: str, path: str) -> None:
    app = Witness()
    response = await request(guarded(app), f"{method} {path}", headers=[(b"user-agent", b"kube-probe/1.30"), (b"upgrade", b"websocket")])
    assert 401 == response.status
    assert [] == app.scopes


async def test_where_nobody_is_required_an_anonymous_caller_is_published_as_such() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["user"], scope["auth"].scopes, scope["state"]["principal"], current_principal()))
        await Witness()(scope, receive, send)

    layer = guarded(app, required=False)
    assert 200 == (await request(layer, "GET /v1/models")).status
    async with websocket(layer, "/v1/realtime") as socket:
        assert socket.accepted
    assert [(ANONYMOUS, [], ANONYMOUS, ANONYMOUS)] * 2 == seen
    assert not seen[0][0].is_authenticated


async def test_where_nobody_is_required_a_good_key_still_says_who_calls() -> None:
    app = Witness()
    response = await request(guarded(app, required=False), "GET /v1/models", headers=[(b"x-api-key", KEY.encode())])
    assert {"subject": "key:ci", "method": "key"} == response.json()


@pytest.mark.parametrize("kind", ["lifespan", "something.else"])
async def test_what_is_neither_http_nor_a_websocket_is_passed_on_untouched(kind: str) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    scope = {"type": kind}
    await guarded(app)(scope, receive, send)
    assert [({"type": kind}, receive, send)] == seen
    assert scope is seen[0][0]
