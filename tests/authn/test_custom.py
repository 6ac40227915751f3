import functools
import logging
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from llm_authmw import (
    ANONYMOUS,
    Assurance,
    Budget,
    ConfigurationError,
    Decision,
    Denial,
    KeyAuthMiddleware,
    Principal,
    Stack,
    StaticKeys,
    TrustedProxies,
    current_principal,
)
from llm_authmw.authn.credentials import NEVER_A_CREDENTIAL
from llm_authmw.authn.custom import CustomAuthMiddleware
from llm_authmw.callbacks import MOST_THREADS
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, Response, fake_principal, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
ADA = Principal(user="ada")


def answering(answer: Any) -> Any:
    """Return a function that returns the answer, or raises it."""

    async def authenticate(connection: HTTPConnection) -> Any:
        if isinstance(answer, BaseException) and not isinstance(answer, Denial):
            raise answer
        return answer

    return authenticate


async def ask(app: Any, *headers: tuple[bytes, bytes], target: str = "GET /v1/models", **scope: Any) -> tuple[Response, list[Decision]]:
    async with stream(app, target, headers=headers, scope=scope) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY].decisions


def caller(app: Witness) -> Principal:
    found: Principal = app.scopes[-1]["user"]
    return found


# Who does not get in.


async def test_where_the_function_knows_nobody_the_layer_asks_for_a_credential() -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=answering(None), challenge='Ticket realm="desk"')
    response, decisions = await ask(layer)
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert 'Ticket realm="desk"' == response.header("www-authenticate")
    assert ["passed", "denied"] == [decision.outcome for decision in decisions]
    async with websocket(layer, "/v1/realtime") as socket:
        assert 401 == socket.response.status
    assert [] == app.scopes


async def test_a_credential_that_the_function_does_not_know_is_refused_even_where_nobody_is_required() -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=answering(None), headers=["x-ticket"], query_parameters=["ticket"], required=False)
    for line in ((b"x-ticket", b"stolen"), (b"x-api-key", b"stolen"), (b"authorization", b"Basic YTpi")):
        response, _ = await ask(layer, line)
        assert (401, "credential_not_accepted") == (response.status, response.header("x-authmw-reason"))
    response, _ = await ask(layer, target="GET /v1/models?ticket=stolen")
    assert 401 == response.status
    response, _ = await ask(layer, (b"authorization", b"Bearer stolen"))
    assert (401, "invalid_token") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
    assert 200 == (await ask(layer))[0].status
    assert ANONYMOUS == caller(app)


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize(("reason", "status"), [("token_revoked", 401), ("insufficient_scope", 403), ("store_unavailable", 503)])
async def test_a_denial_of_the_functions_is_the_answer(reason: str, status: int, raised: bool) -> None:
    app = Witness()
    constant = Denial(reason)

    def authenticate(connection: HTTPConnection) -> Denial:
        if raised:
            raise constant
        return constant

    response, decisions = await ask(CustomAuthMiddleware(app, authenticate=authenticate, required=False))
    assert (status, reason) == (response.status, response.header("x-authmw-reason"))
    assert [Decision("CustomAuthMiddleware", "denied", reason)] == decisions
    assert "" == constant.layer
    assert [] == app.scopes


class Impostor(Principal, frozen=True, kw_only=True):
    @property
    def is_authenticated(self) -> bool:
        return True


NOBODY: dict[str, Any] = {
    "True": True,
    "a name": "ada",
    "a mapping": {"user": "ada"},
    "an empty mapping": {},
    "a class": Principal,
    "a class of denials": Denial,
    "the anonymous principal": ANONYMOUS,
    "a principal without a name": Principal(realm="corp", roles=("admin",)),
    "a subclass": Impostor(user="ada"),
    "something like one": type("Principal", (), {"user": "ada", "is_authenticated": True})(),
    "roles that are no texts": Principal(user="ada", roles=(1,)),  # type: ignore[arg-type]
    "roles that are empty": Principal(user="ada", roles=("",)),
    "scopes with line breaks": Principal(user="ada", scopes=("a\nb",)),
    "routes that are none": Principal(user="ada", routes=("models",)),
    "networks that are none": Principal(user="ada", networks=("10.0.0.1/8",)),
    "networks that are numbers": Principal(user="ada", networks=(1,)),  # type: ignore[arg-type]
    "models that are none": Principal(user="ada", models=("a*b",)),
    "limits that are none": Principal(user="ada", limits=("soon",)),  # type: ignore[arg-type]
    "a tier that is a number": Principal(user="ada", tier=1),  # type: ignore[arg-type]
    "an assurance that is a number": Principal(user="ada", assurance=5),  # type: ignore[arg-type]
    "an end that is a text": Principal(user="ada", expires_at="never"),  # type: ignore[arg-type]
    "an end that is true": Principal(user="ada", expires_at=True),
    "an end that is not a number": Principal(user="ada", expires_at=float("nan")),
    "an end that is never": Principal(user="ada", expires_at=float("inf")),
    "claims that can be changed": Principal(user="ada", claims=(("department", ["research"]),)),  # type: ignore[arg-type]
    "claims that are no pairs": Principal(user="ada", claims=("ab",)),  # type: ignore[arg-type]
    "a method that is empty": Principal(user="ada", method=""),
    "an error": ValueError(KEY),
    "an error of Starlette's": AuthenticationError(KEY),
    "an answer of Starlette's": HTTPException(401),
    "an error of ours": ConfigurationError("authenticate", KEY),
    "a group of errors": ExceptionGroup("several", [ValueError(KEY)]),
    "an assertion": AssertionError(KEY),
    "a time-out of its own": TimeoutError(KEY),
    "no such thing": KeyError("authorization"),
}


@pytest.mark.parametrize("what", NOBODY)
@pytest.mark.parametrize("required", [True, False])
async def test_whatever_else_the_function_returns_or_raises_is_503(what: str, required: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llm_authmw")
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=answering(NOBODY[what]), required=required)
    response, decisions = await ask(layer, (b"x-api-key", KEY.encode()))
    assert (503, "store_unavailable") == (response.status, response.header("x-authmw-reason"))
    assert [Decision("CustomAuthMiddleware", "denied", "check_failed")] == decisions
    async with websocket(layer, "/v1/realtime") as socket:
        assert 503 == socket.response.status
    assert [] == app.scopes
    assert "could not judge a credential" in caplog.text
    assert KEY not in caplog.text + response.text


async def test_a_function_that_is_late_is_503_and_its_answer_is_not_waited_for() -> None:
    app = Witness()
    go_on, asked = threading.Event(), threading.Event()

    async def late(connection: HTTPConnection) -> Principal:
        await anyio.sleep_forever()
        return ADA

    def late_in_a_thread(connection: HTTPConnection) -> Principal:
        asked.set()
        go_on.wait(10)
        return ADA

    for function in (late, late_in_a_thread):
        response, decisions = await ask(CustomAuthMiddleware(app, authenticate=function, deadline=0.05, required=False))
        assert (503, "check_failed") == (response.status, decisions[-1].reason)
    assert asked.is_set()
    go_on.set()
    assert [] == app.scopes


async def test_functions_that_hang_take_no_threads_away_from_the_app() -> None:
    go_on = threading.Event()

    def hanging(connection: HTTPConnection) -> None:
        go_on.wait(20)

    layer = CustomAuthMiddleware(Witness(), authenticate=hanging, deadline=0.1)
    statuses: list[int] = []

    async def call() -> None:
        statuses.append((await ask(layer))[0].status)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(MOST_THREADS + 5):
                tasks.start_soon(call)
        assert [503] * (MOST_THREADS + 5) == statuses
        with anyio.fail_after(5):
            assert 1 == await anyio.to_thread.run_sync(lambda: 1)
    finally:
        go_on.set()


async def test_a_principal_that_has_expired_is_refused() -> None:
    app = Witness()
    clock = ManualClock(1_000)
    found = Principal(user="ada", credential_id="t-1", expires_at=1_000)
    layer = CustomAuthMiddleware(app, authenticate=answering(found), clock=clock)
    response, decisions = await ask(layer)
    assert (401, "token_expired") == (response.status, response.header("x-authmw-reason"))
    assert 'Bearer error="invalid_token"' == response.header("www-authenticate")
    assert [Decision("CustomAuthMiddleware", "denied", "token_expired", "t-1")] == decisions
    clock.set(999.5)
    assert 200 == (await ask(layer))[0].status
    assert 1 == len(app.scopes)


@pytest.mark.parametrize(
    ("restriction", "status", "reason"),
    [
        ({"networks": ("192.0.2.0/24",)}, 403, "network_not_allowed"),
        ({"networks": ()}, 403, "network_not_allowed"),
        ({"routes": ("POST /v1/chat/completions",)}, 403, "route_not_allowed"),
        ({"routes": ()}, 403, "route_not_allowed"),
        ({"networks": ("127.0.0.0/8",), "routes": ("GET /v1/*",)}, 200, None),
    ],
)
async def test_a_principals_own_networks_and_routes_are_enforced(restriction: Any, status: int, reason: str | None) -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=answering(Principal(user="ada", credential_id="t-1", **restriction)))
    response, decisions = await ask(layer)
    assert (status, reason) == (response.status, response.header("x-authmw-reason"))
    assert (reason, "t-1") == (decisions[-1].reason, decisions[-1].credential_id)
    assert (status == 200) == bool(app.scopes)


async def test_a_principals_networks_are_compared_with_the_client_behind_trusted_proxies() -> None:
    app = Witness()
    found = answering(Principal(user="ada", networks=("192.0.2.0/24",)))
    layer = CustomAuthMiddleware(app, authenticate=found, trusted_proxies=TrustedProxies(["127.0.0.0/8"]))
    assert 403 == (await ask(layer))[0].status
    assert 200 == (await ask(layer, (b"x-forwarded-for", b"192.0.2.1")))[0].status


async def test_a_path_that_can_be_read_in_two_ways_is_400_for_a_principal_with_routes() -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=answering(Principal(user="ada", routes=("/v1/**",))))
    response, _ = await ask(layer, target="GET /v1//models")
    assert (400, "ambiguous_path") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-ticket", b"a"), (b"X-Ticket", b"a")],
        [(b"x-ticket", b"a"), (b"authorization", b"Bearer b")],
        [(b"x-api-key", b"a"), (b"api-key", b"b")],
    ],
)
async def test_two_credentials_at_once_are_400_and_the_function_is_not_asked(headers: Any) -> None:
    asked: list[Any] = []
    layer = CustomAuthMiddleware(Witness(), authenticate=asked.append, headers=["x-ticket"], query_parameters=["ticket"])
    assert 400 == (await ask(layer, *headers))[0].status
    assert 400 == (await ask(layer, headers[0], target="GET /v1/models?ticket=c"))[0].status
    assert 400 == (await ask(layer, target="GET /v1/models?ticket=c&ticket=c"))[0].status
    assert [] == asked


async def test_the_function_is_not_asked_where_a_layer_outside_has_decided() -> None:
    app = Witness()
    asked: list[Any] = []
    stack = Stack(Middleware(KeyAuthMiddleware, keys=KEYS), Middleware(CustomAuthMiddleware, authenticate=asked.append))(app)
    assert 200 == (await ask(stack, (b"x-api-key", KEY.encode())))[0].status
    assert 401 == (await ask(stack, (b"x-api-key", b"sk-wrong")))[0].status
    assert [] == asked
    assert 401 == (await ask(stack))[0].status
    assert 1 == len(asked)
    assert ["key:ci"] == app.subjects


# Who gets in, and as whom.


class Directory:
    async def __call__(self, connection: HTTPConnection) -> Principal:
        await anyio.lowlevel.checkpoint()
        return ADA

    def look_up(self, connection: HTTPConnection) -> Principal:
        return ADA

    async def look_up_later(self, connection: HTTPConnection) -> Principal:
        await anyio.lowlevel.checkpoint()
        return ADA


async def _with_argument(name: str, connection: HTTPConnection) -> Principal:
    await anyio.lowlevel.checkpoint()
    return Principal(user=name)


def _at_once(connection: HTTPConnection) -> Principal:
    return ADA


def _decorated(connection: HTTPConnection) -> Any:
    return Directory().look_up_later(connection)


FUNCTIONS: dict[str, Any] = {
    "async": answering(ADA),
    "sync": _at_once,
    "an object that is async": Directory(),
    "a method": Directory().look_up,
    "an async method": Directory().look_up_later,
    "a partial": functools.partial(_with_argument, "ada"),
    "a function around an async one": _decorated,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
async def test_a_function_of_any_kind_says_who_is_calling(kind: str) -> None:
    app = Witness()
    layer = CustomAuthMiddleware(app, authenticate=FUNCTIONS[kind])
    assert 200 == (await ask(layer))[0].status
    async with websocket(layer, "/v1/realtime") as socket:
        assert socket.accepted
    assert ["ada", "ada"] == app.subjects


async def test_a_sync_function_runs_beside_the_loop() -> None:
    seen: list[int] = []

    def authenticate(connection: HTTPConnection) -> Principal:
        seen.append(threading.get_ident())
        return ADA

    assert 200 == (await ask(CustomAuthMiddleware(Witness(), authenticate=authenticate)))[0].status
    assert threading.get_ident() not in seen


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Principal(user="ada"), Principal(user="ada", realm="desk", method="custom")),
        (Principal(client="ci"), Principal(client="ci", realm="desk", method="custom")),
        (Principal(credential_id="t-1"), Principal(credential_id="t-1", realm="desk", method="custom")),
        (Principal(user="ada", realm="corp"), Principal(user="ada", realm="corp", method="custom")),
        (Principal(user="ada", method="ldap"), Principal(user="ada", realm="desk", method="ldap")),
        (
            Principal(user="ada", roles=("b", "a", "b"), scopes=("z", "y"), networks=("127.0.0.1/32",), models=()),
            Principal(
                user="ada", realm="desk", method="custom", roles=("a", "b"), scopes=("y", "z"), networks=("127.0.0.1/32",), models=()
            ),
        ),
        (
            Principal(
                user="ada", assurance=Assurance.SIGNED, claims=(("department", ("research",)),), budgets=(Budget.parse("5 usd/month"),)
            ),
            Principal(
                user="ada",
                realm="desk",
                method="custom",
                assurance=Assurance.SIGNED,
                claims=(("department", ("research",)),),
                budgets=(Budget.parse("5 usd/month"),),
            ),
        ),
    ],
)
async def test_what_the_function_leaves_out_is_filled_in_and_the_rest_kept(found: Principal, expected: Principal) -> None:
    app = Witness()
    assert 200 == (await ask(CustomAuthMiddleware(app, authenticate=answering(found), realm="desk")))[0].status
    assert expected == caller(app)


async def test_the_same_facts_give_the_same_principal_as_any_other_layer() -> None:
    app = Witness()
    expected = fake_principal("ada", realm="corp", method="custom", groups=["b", "a"], routes=["GET /v1/*"], limits=["60 requests/minute"])
    found = Principal(user="ada", groups=("b", "a"), routes=("GET /v1/*",), limits=expected.limits, assurance=Assurance.SHARED_SECRET)
    await ask(CustomAuthMiddleware(app, authenticate=answering(found), realm="corp"))
    assert (expected, hash(expected)) == (caller(app), hash(caller(app)))


async def test_the_caller_is_published_as_by_any_other_layer() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["user"], scope["auth"].scopes, current_principal()))
        await Witness()(scope, receive, send)

    found = Principal(user="ada", scopes=("llm:use",), credential_id="t-1")
    _, decisions = await ask(CustomAuthMiddleware(app, authenticate=answering(found), realm="desk"))
    expected = Principal(user="ada", scopes=("llm:use",), credential_id="t-1", realm="desk", method="custom")
    assert [(expected, ["llm:use"], expected)] == seen
    assert [Decision("CustomAuthMiddleware", "allowed", None, "t-1")] == decisions


async def test_two_functions_stand_side_by_side_and_the_first_that_knows_the_caller_decides() -> None:
    app = Witness()

    def known_by(header: str) -> Any:
        def authenticate(connection: HTTPConnection) -> Principal | None:
            return Principal(user=connection.headers[header]) if header in connection.headers else None

        return authenticate

    stack = Stack(
        Middleware(CustomAuthMiddleware, authenticate=known_by("x-desk"), headers=["x-desk"], realm="desk", challenge="Desk"),
        Middleware(KeyAuthMiddleware, keys=KEYS),
        Middleware(CustomAuthMiddleware, authenticate=known_by("x-floor"), headers=["x-floor"], realm="floor", challenge="Floor"),
    )(app)
    assert ["Desk", "Bearer", "Floor"] == (await ask(stack))[0].header_lines("www-authenticate")
    assert 400 == (await ask(stack, (b"x-desk", b"ada"), (b"x-floor", b"bob")))[0].status
    assert 401 == (await ask(stack, (b"authorization", b"Bearer nobody")))[0].status
    assert [] == app.scopes
    for header, realm in ((b"x-desk", "desk"), (b"x-floor", "floor")):
        assert 200 == (await ask(stack, (header, b"ada")))[0].status
        assert ("ada", realm) == (caller(app).user, caller(app).realm)


# What the function sees.


async def test_no_spelling_of_a_header_hides_it_from_the_function() -> None:
    seen: list[Any] = []

    def authenticate(connection: HTTPConnection) -> Principal:
        seen.extend([connection.headers.get("x-ticket"), connection.cookies, connection.query_params.get("a"), connection.url.path])
        return ADA

    app = Witness()
    lines = [(b"X-Ticket", b"t-1"), (b"COOKIE", b"s=1")]
    response, _ = await ask(CustomAuthMiddleware(app, authenticate=authenticate), *lines, target="GET /v1/models?a=b")
    assert 200 == response.status
    assert ["t-1", {"s": "1"}, "b", "/v1/models"] == seen
    assert lines == app.scopes[0]["headers"]


async def test_a_scope_without_the_members_that_a_server_may_leave_out_is_shown_too() -> None:
    seen: list[Any] = []

    def authenticate(connection: HTTPConnection) -> Principal:
        seen.append((dict(connection.query_params), connection.client))
        return ADA

    response, _ = await ask(CustomAuthMiddleware(Witness(), authenticate=authenticate), query_string=..., client=...)
    assert (200, [({}, None)]) == (response.status, seen)


async def test_nothing_that_the_function_does_to_the_connection_reaches_the_app_or_another_request() -> None:
    lifespan_state: dict[str, Any] = {"pool": 1}

    def authenticate(connection: HTTPConnection) -> Principal:
        connection.scope["user"] = "root"
        connection.scope["path"] = "/admin"
        connection.scope["headers"].append((b"x-role", b"admin"))
        connection.state.tenant = "other"
        return ADA

    app = Witness()
    await ask(CustomAuthMiddleware(app, authenticate=authenticate), state=lifespan_state)
    scope = app.scopes[0]
    assert ("ada", "/v1/models", []) == (scope["user"].user, scope["path"], scope["headers"])
    assert {"pool": 1, "principal": scope["user"]} == scope["state"]
    assert {"pool": 1} == lifespan_state


async def test_what_is_neither_http_nor_a_websocket_is_passed_on_unasked() -> None:
    seen: list[Any] = []
    asked: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(message: Any = None) -> Any: ...

    await CustomAuthMiddleware(app, authenticate=asked.append)({"type": "lifespan"}, nothing, nothing)
    assert ([{"type": "lifespan"}], []) == (seen, asked)


# Streams and sockets.


async def test_a_stream_ends_when_its_principal_expires() -> None:
    clock = ManualClock(1_000)
    go_on = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: one\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: two\n\n", "more_body": True})

    found = Principal(user="ada", credential_id="t-1", expires_at=1_060)
    layer = CustomAuthMiddleware(app, authenticate=answering(found), clock=clock)
    async with stream(layer, "POST /v1/chat/completions") as exchange:
        assert b"data: one\n\n" == await exchange.next_chunk()
        clock.advance(60)
        go_on.set()
        assert b'"code":"token_expired"' in (await exchange.next_chunk() or b"")
        assert await exchange.next_chunk() is None
    assert Decision("CustomAuthMiddleware", "denied", "token_expired", "t-1") == exchange.scope[CONTEXT_KEY].decisions[-1]


async def test_a_stream_goes_on_until_its_principal_expires() -> None:
    clock = ManualClock(1_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            clock.advance(11.9)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    layer = CustomAuthMiddleware(app, authenticate=answering(Principal(user="ada", expires_at=1_060)), clock=clock)
    assert "xxxxx" == (await ask(layer))[0].text


async def test_a_socket_ends_when_its_principal_expires() -> None:
    clock = ManualClock(1_000)
    layer = CustomAuthMiddleware(Witness(), authenticate=answering(Principal(user="ada", expires_at=1_060)), clock=clock)
    async with websocket(layer, "/v1/realtime") as socket:
        await socket.send_text("who")
        assert "ada" == await socket.receive()
        clock.advance(60)
        await socket.send_text("who")
        with pytest.raises(Exception, match="1008 token_expired"):
            await socket.receive()


# Options.

WRONG: list[tuple[str, Any]] = [
    ("authenticate", None),
    ("authenticate", "ada"),
    ("authenticate", Principal),
    ("realm", ""),
    ("realm", None),
    ("realm", "a\nb"),
    ("headers", "x-ticket"),
    ("headers", ["X-Ticket"]),
    ("headers", ["authorization"]),
    ("headers", ["x-api-key"]),
    *(("headers", [name.decode()]) for name in sorted(NEVER_A_CREDENTIAL)),
    ("headers", [b"x-ticket"]),
    ("query_parameters", "ticket"),
    ("query_parameters", [""]),
    ("challenge", ""),
    ("challenge", None),
    ("challenge", "Bearer, Basic"),
    ("challenge", "Bearer realm="),
    ("challenge", 'Bearer realm="a", realm="b"'),
    ("challenge", "Bearer realm=a\r\nx: y"),
    ("challenge", 'Bearer realm="größe"'),
    ("deadline", 0),
    ("deadline", -1),
    ("deadline", True),
    ("deadline", None),
    ("deadline", "5"),
    ("deadline", float("inf")),
    ("deadline", float("nan")),
    ("required", None),
    ("trusted_proxies", ["10.0.0.0/8"]),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_option_is_refused_at_construction_by_name(option: str, value: Any) -> None:
    options: dict[str, Any] = {"authenticate": answering(None), option: value}
    with pytest.raises(ConfigurationError) as caught:
        CustomAuthMiddleware(Witness(), **options)
    assert option == caught.value.option


def test_the_repr_names_the_function_and_not_what_it_was_given() -> None:
    partial: Any = functools.partial(_with_argument, KEY)
    layer = CustomAuthMiddleware(Witness(), authenticate=partial, required=False)
    assert "CustomAuthMiddleware(authenticate=_with_argument, realm='custom', required=False)" == repr(layer)
    assert "CustomAuthMiddleware(authenticate=Directory, realm='custom', required=True)" == repr(
        CustomAuthMiddleware(Witness(), authenticate=Directory())
    )
