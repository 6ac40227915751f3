from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_authmw import KeyAuthMiddleware, StaticKeys
from llm_authmw.authn.credentials import CALLER_HEADERS, KEY_HEADERS, MAX_CREDENTIAL, SUBPROTOCOL, Credential, find_credential
from llm_authmw.errors import Denial
from llm_authmw.testing import request, websocket
from llm_authmw.testing.asgi import http_scope, websocket_scope
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
OTHER = "sk-ci-Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b"

Headers = Sequence[tuple[bytes, bytes]]


def guarded(app: Witness, **options: Any) -> KeyAuthMiddleware:
    return KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY, "other": OTHER}), **options)


def find(headers: Headers = (), *, query: str = "") -> Credential | Denial | None:
    scope = http_scope(f"GET /v1/models?{query}", headers=headers)
    return find_credential(scope, CALLER_HEADERS, frozenset({"key"}))


TWO_CREDENTIALS: list[tuple[Headers, str]] = [
    ([(b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Bearer " + KEY.encode())], "repeated_credential"),
    ([(b"authorization", b"Bearer " + KEY.encode()), (b"Authorization", b"Bearer " + OTHER.encode())], "repeated_credential"),
    ([(b"x-api-key", KEY.encode()), (b"X-Api-Key", KEY.encode())], "repeated_credential"),
    ([(b"x-api-key", KEY.encode()), (b"x-api-key", b"")], "repeated_credential"),
    ([(b"authorization", b"Bearer " + KEY.encode()), (b"x-api-key", KEY.encode())], "ambiguous_credential"),
    ([(b"x-api-key", KEY.encode()), (b"api-key", KEY.encode())], "ambiguous_credential"),
    ([(b"x-goog-api-key", KEY.encode()), (b"api-key", OTHER.encode())], "ambiguous_credential"),
    ([(b"authorization", b"Basic YTpi"), (b"x-api-key", KEY.encode())], "ambiguous_credential"),
    ([(b"authorization", b""), (b"x-api-key", KEY.encode())], "ambiguous_credential"),
    ([(b"x-api-key", KEY.encode()), (b"x-litellm-api-key", KEY.encode())], "ambiguous_credential"),
]


@pytest.mark.parametrize(("headers", "reason"), TWO_CREDENTIALS)
@pytest.mark.parametrize("required", [True, False])
async def test_two_caller_credentials_are_refused_even_when_they_are_equal(headers: Headers, reason: str, required: bool) -> None:
    app = Witness()
    layer = guarded(app, header="x-litellm-api-key", required=required)
    response = await request(layer, "GET /v1/models", headers=headers)
    assert (400, reason) == (response.status, response.header("x-authmw-reason"))
    assert 'Bearer error="invalid_request"' == response.header("www-authenticate")
    assert [] == app.scopes


@pytest.mark.parametrize(
    ("query", "headers", "reason"),
    [
        (f"key={KEY}&key={KEY}", [], "repeated_credential"),
        (f"key={KEY}&%6bey={KEY}", [], "repeated_credential"),
        (f"key={KEY}&key=", [], "repeated_credential"),
        (f"key={KEY}", [(b"x-api-key", KEY.encode())], "ambiguous_credential"),
        (f"key={KEY}", [(b"authorization", b"Bearer " + KEY.encode())], "ambiguous_credential"),
    ],
)
async def test_a_key_in_the_query_is_one_of_two_credentials_as_well(query: str, headers: Headers, reason: str) -> None:
    app = Witness()
    response = await request(guarded(app, query_parameter="key"), f"GET /v1/models?{query}", headers=headers)
    assert (400, reason) == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize(
    ("subprotocols", "headers", "reason"),
    [
        ([SUBPROTOCOL + KEY, SUBPROTOCOL + KEY], [], "repeated_credential"),
        (["realtime", SUBPROTOCOL + KEY, SUBPROTOCOL], [], "repeated_credential"),
        ([SUBPROTOCOL + KEY], [(b"authorization", b"Bearer " + KEY.encode())], "ambiguous_credential"),
        ([SUBPROTOCOL + KEY], [(b"x-api-key", KEY.encode())], "ambiguous_credential"),
    ],
)
async def test_a_subprotocol_is_one_of_two_credentials_as_well(subprotocols: list[str], headers: Headers, reason: str) -> None:
    app = Witness()
    async with websocket(guarded(app), "/v1/realtime", subprotocols=subprotocols, headers=headers) as socket:
        assert (400, reason) == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


MALFORMED = [
    b"",
    b" ",
    b"\t \t",
    KEY.encode() + b"\x00",
    b"\x00",
    KEY.encode() + b"\xff",
    "schlüssel".encode(),
    "schlüssel".encode("latin-1"),
    KEY.encode() + b"\x7f",
    KEY.encode() + b"\x1b[2J",
    KEY.encode() + b"\r\nx-admin: 1",
    KEY.encode()[:20] + b" " + KEY.encode()[20:],
    KEY.encode() + b"\t" + OTHER.encode(),
    KEY.encode() + b"\xc2\xa0",
    b"a" * (MAX_CREDENTIAL + 1),
]


@pytest.mark.parametrize("value", MALFORMED, ids=repr)
@pytest.mark.parametrize("name", [b"x-api-key", b"api-key", b"x-goog-api-key", b"x-own-key", b"authorization"])
async def test_a_value_that_is_not_well_formed_is_400_and_never_read_as_another(value: bytes, name: bytes) -> None:
    app = Witness()
    sent = b"Bearer " + value if name == b"authorization" else value
    response = await request(guarded(app, header="x-own-key", required=False), "GET /v1/models", headers=[(name, sent)])
    assert (400, "malformed_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"bearer ", b"Bearer \t", b"Bearer\t" + KEY.encode(), b"Bearer\xa0" + KEY.encode(), b"B\xe9arer x", b":x y"]
)
async def test_an_authorization_header_that_is_not_scheme_and_token_is_400(value: bytes) -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models", headers=[(b"authorization", value)])
    assert (400, "malformed_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("value", ["", "%00", "%ff", "%C3%A9", "a+b", "a%20b", "%0d%0ax", "a" * 16_385])
async def test_a_key_in_the_query_that_is_not_well_formed_is_400(value: str) -> None:
    app = Witness()
    target = f"GET /v1/models?key={value}".encode("latin-1")
    response = await request(guarded(app, query_parameter="key"), target)
    assert (400, "malformed_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("value", ["", "\x00", "\xff", chr(0xDCFF), chr(0xD800), "a b"])
async def test_a_key_in_a_subprotocol_that_is_not_well_formed_is_400(value: str) -> None:
    app = Witness()
    opened = websocket(guarded(app), "/v1/realtime", scope={"subprotocols": [SUBPROTOCOL + value]})
    async with opened as socket:
        assert (400, "malformed_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
@pytest.mark.parametrize("blanks", [(b" ", b""), (b"   ", b""), (b" ", b"  \t")])
async def test_a_bearer_key_lets_in_whatever_the_case_of_the_scheme(scheme: bytes, blanks: tuple[bytes, bytes]) -> None:
    app = Witness()
    between, behind = blanks
    response = await request(guarded(app), "GET /v1/models", headers=[(b"Authorization", scheme + between + KEY.encode() + behind)])
    assert 200 == response.status
    assert ["key:ci"] == app.subjects


@pytest.mark.parametrize("name", [b"x-api-key", b"X-API-Key", b"api-key", b"API-KEY", b"x-goog-api-key", b"X-Goog-Api-Key", b"x-own-key"])
async def test_a_key_header_lets_in_whatever_the_case_of_its_name(name: bytes) -> None:
    app = Witness()
    response = await request(guarded(app, header="x-own-key"), "GET /v1/models", headers=[(name, b" \t" + KEY.encode() + b" ")])
    assert 200 == response.status
    assert ["key:ci"] == app.subjects


@pytest.mark.parametrize(
    "name", [b"x-own-key", b"x_api_key", b"x.api.key", b"x-litellm-api-key", b"proxy-authorization", b"cookie", b"x-api"]
)
async def test_a_header_that_was_not_configured_is_no_way_in(name: bytes) -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models", headers=[(name, KEY.encode())])
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert "Bearer" == response.header("www-authenticate")
    assert [] == app.scopes


@pytest.mark.parametrize("query", [f"key={KEY}", f"api_key={KEY}", f"api-key={KEY}", f"access_token={KEY}", f"key={KEY}&key={KEY}"])
async def test_a_key_in_the_query_is_ignored_unless_it_is_switched_on(query: str) -> None:
    app = Witness()
    response = await request(guarded(app), f"GET /v1/models?{query}")
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    response = await request(guarded(app), f"GET /v1/models?{query}", headers=[(b"x-api-key", OTHER.encode())])
    assert 200 == response.status
    assert ["key:other"] == app.subjects


@pytest.mark.parametrize("query", [f"Key={KEY}", f"KEY={KEY}", f"key[]={KEY}", f"x=1;key={KEY}", f"?key={KEY}"])
async def test_only_the_parameter_that_is_named_carries_a_key(query: str) -> None:
    app = Witness()
    response = await request(guarded(app, query_parameter="key"), f"GET /v1/models?{query}")
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("query", [f"key={KEY}", f"model=x&key={KEY}&n=1", f"%6B%65%79={KEY}", f"key={KEY.replace('-', '%2D')}"])
async def test_a_key_in_the_query_lets_in_where_it_is_switched_on(query: str) -> None:
    app = Witness()
    response = await request(guarded(app, query_parameter="key"), f"GET /v1/models?{query}")
    assert 200 == response.status
    async with websocket(guarded(app, query_parameter="key"), f"/v1/realtime?{query}") as socket:
        assert socket.accepted
    assert ["key:ci", "key:ci"] == app.subjects


async def test_a_scope_without_a_query_is_one_with_an_empty_query() -> None:
    app = Witness()
    layer = guarded(app, query_parameter="key")
    async with websocket(layer, "/v1/realtime", headers=[(b"x-api-key", KEY.encode())], scope={"query_string": ...}) as socket:
        assert socket.accepted
    async with websocket(layer, "/v1/realtime", scope={"query_string": None}) as socket:
        assert (401, "missing_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert ["key:ci"] == app.subjects


@pytest.mark.parametrize("offered", [[SUBPROTOCOL + KEY], ["realtime", SUBPROTOCOL + KEY, "openai-beta.realtime-v1"]])
async def test_a_key_in_a_websocket_subprotocol_lets_in(offered: list[str]) -> None:
    app = Witness()
    async with websocket(guarded(app), "/v1/realtime", subprotocols=offered) as socket:
        await socket.send_text("who")
        assert "key:ci" == await socket.receive()
    assert offered == app.scopes[0]["subprotocols"]


async def test_every_line_of_subprotocols_is_looked_at_whatever_the_server_makes_of_them() -> None:
    """hypercorn shows only the last of several lines as `subprotocols`."""
    app = Witness()
    first, second = (SUBPROTOCOL + KEY).encode(), b"realtime ,x"
    headers = [(b"Sec-WebSocket-Protocol", first), (b"sec-websocket-protocol", second)]
    async with websocket(guarded(app), "/v1/realtime", headers=headers, scope={"subprotocols": ["realtime", "x"]}) as socket:
        assert socket.accepted
    assert ["key:ci"] == app.subjects
    headers = [(b"sec-websocket-protocol", first), (b"sec-websocket-protocol", (SUBPROTOCOL + OTHER).encode())]
    async with websocket(guarded(app), "/v1/realtime", headers=headers, scope={"subprotocols": [SUBPROTOCOL + OTHER]}) as socket:
        assert (400, "repeated_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    headers = [(b"sec-websocket-protocol", first + b" ," + second), (b"x-api-key", KEY.encode())]
    async with websocket(guarded(app), "/v1/realtime", headers=headers) as socket:
        assert (400, "ambiguous_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert 1 == len(app.scopes)


@pytest.mark.parametrize("name", [SUBPROTOCOL.upper() + KEY, "openai-api-key." + KEY, KEY, SUBPROTOCOL.removesuffix(".") + KEY])
async def test_another_subprotocol_is_no_way_in(name: str) -> None:
    app = Witness()
    async with websocket(guarded(app), "/v1/realtime", subprotocols=[name]) as socket:
        assert (401, "missing_credential") == (socket.response.status, socket.response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_subprotocol_is_no_way_in_for_http() -> None:
    app = Witness()
    headers = [(b"sec-websocket-protocol", (SUBPROTOCOL + KEY).encode())]
    response = await request(guarded(app), "GET /v1/models", headers=headers, scope={"subprotocols": [SUBPROTOCOL + KEY]})
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-own-key"])
async def test_every_header_lets_a_websocket_in_as_well(name: bytes) -> None:
    app = Witness()
    value = (b"Bearer " if name == b"authorization" else b"") + KEY.encode()
    async with websocket(guarded(app, header="x-own-key"), "/v1/realtime", headers=[(name, value)]) as socket:
        assert socket.accepted
    assert ["key:ci"] == app.subjects


async def test_a_websocket_is_closed_unaccepted_where_the_server_knows_no_denial_response() -> None:
    app = Witness()
    async with websocket(guarded(app), "/v1/realtime", denial_response=False) as socket:
        assert not socket.accepted
        assert [{"type": "websocket.close", "code": 1008}] == socket.response.activity.sent
    async with websocket(guarded(app), "/v1/realtime", denial_response=False, scope={"extensions": None}) as socket:
        assert not socket.accepted
    assert [] == app.scopes


async def test_what_the_client_sent_reaches_the_app_unchanged() -> None:
    app = Witness()
    headers = [(b"Authorization", b"bearer  " + KEY.encode()), (b"X-Odd", b"\xff\x00"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    scope = http_scope(f"POST /v1/chat//x?key={OTHER}&q=%ff", headers=headers)
    given = dict(scope)
    response = await request(guarded(app), f"POST /v1/chat//x?key={OTHER}&q=%ff", headers=headers)
    assert 200 == response.status
    seen = app.scopes[0]
    assert given == {name: seen[name] for name in given}


def test_the_credential_is_hidden_in_its_repr() -> None:
    found = find([(b"authorization", b"Bearer " + KEY.encode())])
    assert isinstance(found, Credential)
    assert KEY.encode() == found.token
    assert KEY not in repr(found)
    assert KEY not in f"{found}{[found]}"


def test_no_credential_is_none() -> None:
    assert find() is None
    assert find([(b"cookie", b"session=x"), (b"x-forwarded-for", b"10.0.0.1"), (b"", b"")]) is None


@settings(max_examples=200, deadline=None)
@given(value=st.binary(max_size=40), name=st.sampled_from(sorted(KEY_HEADERS)))
def test_any_bytes_in_a_key_header_are_taken_whole_or_refused(value: bytes, name: bytes) -> None:
    found = find([(name, value)])
    stripped = value.strip(b" \t")
    if stripped and all(0x21 <= byte <= 0x7E for byte in stripped):
        assert Credential(name, b"", stripped) == found
    else:
        assert isinstance(found, Denial)
        assert "malformed_credential" == found.reason


@settings(max_examples=300, deadline=None)
@given(value=st.binary(max_size=40) | st.from_regex(rb"\A[Bb]earer +[!-~ \t\x80]{0,20}\Z"))
def test_any_bytes_in_authorization_are_a_scheme_and_its_whole_token_or_refused(value: bytes) -> None:
    found = find([(b"authorization", value)])
    if isinstance(found, Denial):
        assert "malformed_credential" == found.reason
        return
    assert isinstance(found, Credential)
    stripped = value.strip(b" \t")
    if found.scheme == b"none" and not stripped.lower().startswith(b"none "):
        assert stripped == found.token
    else:
        assert stripped.lower().startswith(found.scheme + b" ")
        assert stripped.endswith(found.token)
        assert b"" == stripped[len(found.scheme) : -len(found.token)].strip(b" ")
    assert all(0x20 <= byte <= 0x7E for byte in found.token)


@settings(max_examples=200, deadline=None)
@given(query=st.binary(max_size=40) | st.from_regex(rb"\A(key=[!-~]{0,8}&?){0,3}\Z"))
def test_any_query_gives_a_credential_a_denial_or_nothing(query: bytes) -> None:
    for scope in (http_scope("GET /", changes={"query_string": query}), websocket_scope("/", changes={"query_string": query})):
        found = find_credential(scope, CALLER_HEADERS, frozenset({"key"}))
        assert found is None or isinstance(found, Denial) or (b"?key" == found.channel and found.token.isascii())


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text(max_size=8) | st.text(max_size=8).map(lambda text: SUBPROTOCOL + text), max_size=3))
def test_any_subprotocols_give_a_credential_a_denial_or_nothing(names: list[str]) -> None:
    found = find_credential(websocket_scope("/", changes={"subprotocols": names}), CALLER_HEADERS, frozenset())
    carrying = [name for name in names if name.startswith(SUBPROTOCOL)]
    if not carrying:
        assert found is None
    elif isinstance(found, Credential):
        assert [SUBPROTOCOL + found.token.decode("ascii")] == [
            SUBPROTOCOL + name.removeprefix(SUBPROTOCOL).strip(" \t") for name in carrying
        ]
    else:
        assert isinstance(found, Denial)
