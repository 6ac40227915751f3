"""What the app behind sees: its own credential, and everything of the caller's but the caller's credentials."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from llm_authmw import (
    ANONYMOUS,
    ConfigurationError,
    Decision,
    Denial,
    KeyAuthMiddleware,
    Principal,
    Secret,
    Stack,
    StaticKey,
    StaticKeys,
)
from llm_authmw.authn.credentials import NEVER_A_CREDENTIAL
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.proof import SharedSecret
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.protected_resource import ProtectedResource, ProtectedResourceMiddleware
from llm_authmw.testing import lifespan, request, stream, websocket
from llm_authmw.testing.witness import Witness
from llm_authmw.upstream import UpstreamCredentialMiddleware

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": StaticKey(KEY, team="blue")})
HEADER = (b"x-api-key", KEY.encode())
MASTER = "sk-upstream-9xQ2"
PROOF = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
OURS = (b"authorization", b"Bearer sk-upstream-9xQ2")


def choosing(answer: Any) -> Any:
    async def choose(principal: Principal) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return choose


def _at_once(principal: Principal) -> str:
    return MASTER


# Where there is no credential, the app is not called.

NONE: dict[str, Any] = {
    "None": None,
    "nothing": "",
    "an empty mapping": {},
    "a number": 1,
    "bytes": b"sk-x",
    "a list": ["sk-x"],
    "a text with a blank": "sk x",
    "a text with a line break": "sk-x\r\nx-role: admin",
    "a text that is not ASCII": "schlüssel",
    "a secret with a line break": Secret("sk-x\n"),
    "a header's value that is None": {"x-api-key": None},
    "a header's value with a line break": {"x-api-key": "sk-x\r\nx-role: admin"},
    "a header's value that ends with a blank": {"x-api-key": "sk-x "},
    "a header in upper case": {"X-Api-Key": "sk-x"},
    "a header with a line break": {"x-api-key\r\nx-role": "sk-x"},
    "a header that is no text": {b"x-api-key": "sk-x"},
    "a header that means something else": {"x-api-key": "sk-x", "host": "elsewhere"},
    "an error": ValueError(MASTER),
    "a denial": Denial("insufficient_scope"),
    "a time-out of its own": TimeoutError(),
}


@pytest.mark.parametrize("what", NONE)
async def test_a_choice_that_is_no_credential_is_503_and_the_app_is_not_called(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm_authmw")
    app = Witness()
    layer = UpstreamCredentialMiddleware(app, choose=choosing(NONE[what]))
    async with stream(layer, "POST /v1/chat/completions") as exchange:
        async for _ in exchange:
            pass
    response = exchange.response
    assert (503, "upstream_credential_unavailable") == (response.status, response.header("x-authmw-reason"))
    assert ("1", "no-store") == (response.header("retry-after"), response.header("cache-control"))
    denied = Decision("UpstreamCredentialMiddleware", "denied", "upstream_credential_unavailable")
    assert [denied] == exchange.scope[CONTEXT_KEY].decisions
    async with websocket(layer, "/v1/realtime") as socket:
        assert 503 == socket.response.status
    assert [] == app.scopes
    assert "UpstreamCredentialMiddleware has no credential" in caplog.text
    assert MASTER not in caplog.text + response.text


async def test_a_choice_that_is_late_is_503() -> None:
    app = Witness()
    go_on = threading.Event()

    async def late(principal: Principal) -> str:
        await anyio.sleep_forever()
        return MASTER

    def late_in_a_thread(principal: Principal) -> str:
        go_on.wait(10)
        return MASTER

    for choose in (late, late_in_a_thread):
        response = await request(UpstreamCredentialMiddleware(app, choose=choose, deadline=0.05), "GET /v1/models")
        assert (503, "upstream_credential_unavailable") == (response.status, response.header("x-authmw-reason"))
    go_on.set()
    assert [] == app.scopes


# What the app sees.


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"bearer": MASTER}, [OURS]),
        ({"bearer": Secret(MASTER)}, [OURS]),
        ({"bearer": "env:UPSTREAM_KEY"}, [OURS]),
        ({"header": "x-api-key", "value": "env:UPSTREAM_KEY"}, [(b"x-api-key", MASTER.encode())]),
        ({"header": "x-own", "value": Secret("Key one two")}, [(b"x-own", b"Key one two")]),
        ({"choose": choosing(MASTER)}, [OURS]),
        ({"choose": choosing(Secret(MASTER))}, [OURS]),
        ({"choose": _at_once}, [OURS]),
        (
            {"choose": choosing({"api-key": MASTER, "openai-project": Secret("p1")})},
            [(b"api-key", MASTER.encode()), (b"openai-project", b"p1")],
        ),
        ({"choose": choosing("env:UPSTREAM_KEY")}, [(b"authorization", b"Bearer env:UPSTREAM_KEY")]),
    ],
)
async def test_the_app_sees_its_own_credential_and_not_the_callers(
    options: Any, lines: list[tuple[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", MASTER)
    app = Witness()
    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS), Middleware(UpstreamCredentialMiddleware, **options))(app)
    about = [(b"Accept", b"*/*"), (b"x-own", b"mine"), (b"openai-project", b"p2"), (b"X-Request-Id", b"7")]
    kept = [line for line in about if line[0] not in {name for name, _ in lines}]
    assert 200 == (await request(stack, "GET /v1/models", headers=[HEADER, *about])).status
    async with websocket(stack, "/v1/realtime", headers=[HEADER, *about]) as socket:
        assert socket.accepted
    assert [[*kept, *lines]] * 2 == [scope["headers"] for scope in app.scopes]
    assert ["key:ci", "key:ci"] == app.subjects


async def test_the_choice_is_made_for_the_principal() -> None:
    seen: list[Principal] = []

    def choose(principal: Principal) -> str:
        seen.append(principal)
        return f"sk-of-{principal.team}"

    app = Witness()
    upstream = UpstreamCredentialMiddleware(app, choose=choose)
    assert 200 == (await request(KeyAuthMiddleware(upstream, keys=KEYS), "GET /v1/models", headers=[HEADER])).status
    assert 200 == (await request(KeyAuthMiddleware(upstream, keys=KEYS, required=False), "GET /v1/models")).status
    assert 200 == (await request(upstream, "GET /v1/models")).status
    assert ["key:ci", "anonymous", "anonymous"] == [principal.subject for principal in seen]
    assert [ANONYMOUS, ANONYMOUS] == seen[1:]
    assert [(b"authorization", b"Bearer sk-of-blue")] == app.scopes[0]["headers"]


async def test_a_caller_who_is_denied_outside_is_not_given_the_apps_credential() -> None:
    app = Witness()
    chosen: list[Any] = []
    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS), Middleware(UpstreamCredentialMiddleware, choose=chosen.append))(app)
    for headers in ([], [(b"x-api-key", b"sk-wrong")], [OURS]):
        assert 401 == (await request(stack, "GET /v1/models", headers=headers)).status
    assert ([], []) == (app.scopes, chosen)


async def test_nothing_of_the_callers_scope_is_touched() -> None:
    app = Witness()
    headers = [HEADER, (b"cookie", b"s=1")]
    scope = {
        "type": "websocket",
        "path": "/v1/realtime",
        "headers": headers,
        "query_string": b"key=sk-x&model=gpt-4o",
        "subprotocols": ["realtime", "openai-insecure-api-key.sk-x"],
    }
    before = {**scope, "headers": list(headers), "subprotocols": ["realtime", "openai-insecure-api-key.sk-x"]}

    async def receive() -> Any:
        return {"type": "websocket.disconnect"}

    async def send(message: Any) -> None: ...

    await UpstreamCredentialMiddleware(app, bearer=MASTER)(scope, receive, send)
    assert before == {name: value for name, value in scope.items() if name != CONTEXT_KEY}
    assert headers is scope["headers"]
    assert ([OURS], b"model=gpt-4o", ["realtime"]) == tuple(app.scopes[0][name] for name in ("headers", "query_string", "subprotocols"))


async def test_a_scope_without_the_members_that_a_server_may_leave_out_is_passed_without_them() -> None:
    app = Witness()
    await request(UpstreamCredentialMiddleware(app, bearer=MASTER), "GET /", scope={"query_string": ...})
    assert not {"query_string", "subprotocols"} & set(app.scopes[0])


async def test_cookies_are_passed_only_where_the_operator_says_so() -> None:
    app = Witness()
    cookies = [(b"cookie", b"a=1"), (b"Cookie", b"b=2")]
    await request(UpstreamCredentialMiddleware(app, bearer=MASTER), "GET /", headers=cookies)
    await request(UpstreamCredentialMiddleware(app, bearer=MASTER, cookies="pass"), "GET /", headers=cookies)
    assert [[OURS], [*cookies, OURS]] == [scope["headers"] for scope in app.scopes]


@pytest.mark.parametrize("place", ["beside", "further out"])
async def test_what_the_authentication_layers_look_into_is_removed_in_every_spelling(place: str) -> None:
    app = Witness()
    upstream = UpstreamCredentialMiddleware(app, bearer=MASTER)
    inner: Any = upstream
    if place == "further out":
        inner = Starlette(routes=[Mount("/", KeyAuthMiddleware(upstream, keys=KEYS))])
    layer = KeyAuthMiddleware(inner, keys=KEYS, header="x-corp-secret", query_parameter="schlüssel")
    sent = [HEADER, (b"X_Corp_Secret", b"sk-smuggled"), (b"x.corp.secret", b"sk-smuggled"), (b"x-corp-secrets", b"no")]
    assert 200 == (await request(layer, "GET /v1/models?Schl%C3%BCssel=x&a=b", headers=sent)).status
    assert ([(b"x-corp-secrets", b"no"), OURS], b"a=b") == (app.scopes[0]["headers"], app.scopes[0]["query_string"])
    if place == "beside":
        target = b"GET /v1/models?a=b&schl%C3%BCssel=" + KEY.encode()
        assert 200 == (await request(layer, target)).status
        assert b"a=b" == app.scopes[1]["query_string"]


@pytest.mark.parametrize("proven", [True, False])
async def test_what_an_edge_says_of_the_caller_goes_no_further(proven: bool) -> None:
    app = Witness()
    stack = Stack(
        Middleware(
            HeaderTrustMiddleware,
            realm="corp",
            headers=HeaderMap(user="x-corp-user", team="x-corp-team"),
            proof=SharedSecret(header="x-proxy-proof", secret=PROOF),
            required=False,
        ),
        Middleware(KeyAuthMiddleware, keys=KEYS, required=False),
        Middleware(UpstreamCredentialMiddleware, bearer=MASTER),
    )(app)
    said = [(b"X-Corp-User", b"ada"), (b"x-corp-team", b"blue"), (b"x-forwarded-user", b"root"), (b"x-request-id", b"7")]
    proof = [(b"x-proxy-proof", PROOF.encode())] if proven else []
    assert 200 == (await request(stack, "GET /v1/models", headers=[*said, *proof])).status
    assert [(b"x-request-id", b"7"), OURS] == app.scopes[0]["headers"]
    assert ["ada" if proven else "anonymous"] == app.subjects


async def test_the_answer_goes_back_as_it_is() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 207, "headers": [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]})
        for chunk in (b"one", b"two"):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": (await receive())["body"]})

    response = await request(UpstreamCredentialMiddleware(app, bearer=MASTER), "POST /", body=b"asked")
    assert (207, [b"one", b"two", b"asked"]) == (response.status, response.chunks)
    assert [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")] == response.headers


async def test_the_apps_lifespan_passes() -> None:
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for phase in ("startup", "shutdown"):
            events.append((await receive())["type"])
            await send({"type": f"lifespan.{phase}.complete"})

    async with lifespan(UpstreamCredentialMiddleware(app, choose=choosing(None))):
        assert ["lifespan.startup"] == events
    assert ["lifespan.startup", "lifespan.shutdown"] == events


# Options and places.

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("bearer", {}),
    ("header", {"bearer": MASTER, "header": "x-api-key", "value": MASTER}),
    ("choose", {"bearer": MASTER, "choose": choosing(MASTER)}),
    ("value", {"header": "x-api-key"}),
    ("bearer", {"value": MASTER}),
    ("value", {"bearer": MASTER, "value": MASTER}),
    ("bearer", {"bearer": ""}),
    ("bearer", {"bearer": "env:NO_SUCH_VARIABLE"}),
    ("bearer", {"bearer": "file:/no/such/file"}),
    ("bearer", {"bearer": "sk x"}),
    ("bearer", {"bearer": "Bearer " + MASTER}),
    ("bearer", {"bearer": MASTER + "\r\nx-role: admin"}),
    ("bearer", {"bearer": "schlüssel"}),
    ("bearer", {"bearer": 12}),
    ("header", {"header": "X-Api-Key", "value": MASTER}),
    ("header", {"header": "x api key", "value": MASTER}),
    ("header", {"header": "", "value": MASTER}),
    *(("header", {"header": name.decode(), "value": MASTER}) for name in sorted(NEVER_A_CREDENTIAL)),
    ("value", {"header": "x-api-key", "value": ""}),
    ("value", {"header": "x-api-key", "value": " " + MASTER}),
    ("value", {"header": "x-api-key", "value": MASTER + "\n"}),
    ("choose", {"choose": MASTER}),
    ("choose", {"choose": dict}),
    ("cookies", {"bearer": MASTER, "cookies": True}),
    ("deadline", {"bearer": MASTER, "deadline": 1}),
    ("deadline", {"choose": choosing(MASTER), "deadline": 0}),
]


@pytest.mark.parametrize(("option", "options"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_option_is_refused_at_construction_by_name_and_shows_no_secret(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        UpstreamCredentialMiddleware(Witness(), **options)
    assert option == caught.value.option
    assert MASTER not in f"{caught.value!r} {caught.value}"


RESOURCE = ProtectedResource("https://llm.example.com", authorization_servers=["https://sso.example.com"])
INSIDE: dict[str, Callable[[Any], Any]] = {
    "authentication": lambda app: KeyAuthMiddleware(app, keys=KEYS),
    "authentication in a stack": Stack(Middleware(KeyAuthMiddleware, keys=KEYS)),
    "authentication behind something foreign": lambda app: GZipMiddleware(KeyAuthMiddleware(app, keys=KEYS)),
    "authentication in a stack behind something foreign": lambda app: GZipMiddleware(Stack(Middleware(KeyAuthMiddleware, keys=KEYS))(app)),
    "another of its kind": lambda app: UpstreamCredentialMiddleware(app, bearer=MASTER),
    "the metadata of a resource": lambda app: ProtectedResourceMiddleware(app, resource=RESOURCE),
}


@pytest.mark.parametrize("what", INSIDE)
def test_no_layer_of_ours_stands_inside(what: str) -> None:
    with pytest.raises(ConfigurationError, match="stands inside") as caught:
        UpstreamCredentialMiddleware(INSIDE[what](Witness()), bearer=MASTER)
    assert "UpstreamCredentialMiddleware" == caught.value.option


def test_an_app_of_its_own_inside_is_its_own_affair() -> None:
    inner = Starlette(routes=[Mount("/", KeyAuthMiddleware(Witness(), keys=KEYS))])
    assert UpstreamCredentialMiddleware(GZipMiddleware(inner), bearer=MASTER).app is not inner


def test_no_secret_is_in_the_repr() -> None:
    def choose(secret: str, principal: Principal) -> str:
        return secret

    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS), Middleware(UpstreamCredentialMiddleware, bearer=MASTER))
    chosen = UpstreamCredentialMiddleware(Witness(), choose=functools.partial(choose, MASTER), cookies="pass")
    sent = UpstreamCredentialMiddleware(Witness(), header="x-api-key", value=MASTER)
    assert "UpstreamCredentialMiddleware(bearer, cookies='remove')" in str(stack)
    assert "choose=test_no_secret_is_in_the_repr.<locals>.choose, cookies='pass'" in repr(chosen)
    assert "UpstreamCredentialMiddleware(header='x-api-key', cookies='remove')" == repr(sent)
    assert MASTER not in f"{stack} {stack!r} {chosen!r} {sent!r}"
