import functools
import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.middleware import Middleware

from llm_authmw import ConfigurationError, Decision, Denial, KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.authz.access import AccessRequest
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.keys.static import StaticKey
from llm_authmw.testing import Response, stream, websocket
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
CHAT = "POST /v1/chat/completions"
SMALL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": []}
BIG: dict[str, Any] = {"model": "o3", "messages": []}
ROLES = {"member": Role(routes=["*"], models=["gpt-*"])}


def guarded(authorizer: Any, *, key: StaticKey | None = None, **options: Any) -> tuple[Any, Recorder]:
    app = Recorder()
    keys = StaticKeys({"ci": key or StaticKey(KEY, user="ada", roles=["member"])})
    stack = Stack(Middleware(KeyAuthMiddleware, keys=keys), Middleware(RBACMiddleware, authorizer=authorizer, **options))
    return stack(app), app


async def ask(guard: Any, target: str = CHAT, **given: Any) -> tuple[Response, RequestContext]:
    async with stream(guard, target, headers=[BEARER, *given.pop("headers", ())], **given) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


def told(response: Response) -> tuple[int, str | None]:
    return response.status, response.header("x-authmw-reason")


class Engine:
    """An engine that answers what it was told to, and remembers what it was asked."""

    def __init__(self, answer: Any = True, *, needs_call: bool = True) -> None:
        self.answer = answer
        self.needs_call = needs_call
        self.asked: list[AccessRequest] = []

    async def authorize(self, request: AccessRequest) -> Any:
        self.asked.append(request)
        if isinstance(self.answer, Exception) and not isinstance(self.answer, Denial):
            raise self.answer
        return self.answer


# Who does not get through.


ANSWERS: dict[str, Any] = {
    "None": None,
    "a number": 1,
    "a text": "yes",
    "a list of problems, none of them": [],
    "a mapping": {"allow": True},
    "a coroutine function": Engine.authorize,
    "an error": RuntimeError(KEY),
    "a configuration error": ConfigurationError("engine", KEY),
}


@pytest.mark.parametrize("answer", [pytest.param(answer, id=what) for what, answer in ANSWERS.items()])
async def test_an_answer_that_is_none_denies_and_the_log_quotes_nothing(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    guard, app = guarded(Engine(answer), roles=ROLES)
    with caplog.at_level(logging.DEBUG, "llm_authmw"):
        response, context = await ask(guard, json=SMALL)
    assert (503, "authorization_unavailable") == told(response)
    assert "authorization_unavailable" == context.decisions[-1].reason
    assert "could not decide" in caplog.text
    assert KEY not in caplog.text + response.text
    assert [] == app.scopes


async def test_an_engine_that_is_late_denies() -> None:
    async def late(request: AccessRequest) -> bool:
        await anyio.sleep_forever()
        return True

    guard, app = guarded(late, roles=ROLES, authorizer_deadline=0.01)
    assert (503, "authorization_unavailable") == told((await ask(guard, json=SMALL))[0])
    assert [] == app.scopes


async def test_false_denies() -> None:
    guard, app = guarded(Engine(answer=False), roles=ROLES)
    response, context = await ask(guard, json=SMALL)
    assert (403, "not_authorized") == told(response)
    assert "denied" == context.decisions[-1].outcome
    assert [] == app.scopes


@pytest.mark.parametrize("raises", [True, False])
async def test_a_denial_of_the_engines_is_the_answer_and_stays_as_it_is(raises: bool) -> None:
    constant = Denial("insufficient_scope", rule="policy-7", need="llm:batch")

    def judge(request: AccessRequest) -> Denial:
        if raises:
            raise constant
        return constant

    guard, app = guarded(judge, roles=ROLES)
    response, context = await ask(guard, json=SMALL)
    assert (403, "insufficient_scope") == told(response)
    assert 'Bearer error="insufficient_scope", scope="llm:batch"' == response.header("www-authenticate")
    assert Decision("RBACMiddleware", "denied", "insufficient_scope", "ci", None, "policy-7") == context.decisions[-1]
    assert ("", ()) == (constant.layer, constant.challenges)
    assert [] == app.scopes


async def test_it_only_narrows_what_roles_allow() -> None:
    engine = Engine()
    guard, app = guarded(engine, roles=ROLES)
    assert (403, "model_not_allowed") == told((await ask(guard, json=BIG))[0])
    assert [] == engine.asked
    assert [] == app.scopes
    response, context = await ask(guard, json=SMALL)
    assert 200 == response.status
    assert Decision("RBACMiddleware", "allowed", None, "ci", None, "member") == context.decisions[-1]
    assert 1 == len(engine.asked)


# What it is asked.


async def test_it_is_told_who_asks_for_what_from_where() -> None:
    engine = Engine()
    guard, _ = guarded(engine, roles=ROLES)
    await ask(guard, json=SMALL | {"stream": True}, scope={"client": ("203.0.113.7", 1)})
    (asked,) = engine.asked
    assert ("ada", "POST", "/v1/chat/completions", "203.0.113.7") == (
        asked.principal.subject,
        asked.method,
        asked.path,
        str(asked.address),
    )
    assert asked.call is not None
    assert ("chat", ("gpt-4o-mini",), True) == (asked.call.operation, asked.call.models, asked.call.streaming)


async def test_one_that_does_not_look_at_the_call_leaves_the_body_unread() -> None:
    engine = Engine(needs_call=False)
    guard, app = guarded(engine, roles={"member": Role(routes=["*"], models=["*"], tools=["*"])})
    response, _ = await ask(guard, body=b"\xff")
    assert 200 == response.status
    assert [b"\xff"] == app.bodies
    assert [None] == [asked.call for asked in engine.asked]


async def test_one_that_does_has_the_body_read_though_no_role_looks_at_it() -> None:
    engine = Engine()
    guard, app = guarded(engine, roles={"member": Role(routes=["*"], models=["*"], tools=["*"])})
    json = (b"content-type", b"application/json")
    assert 400 == (await ask(guard, body=b"\xff", headers=[json]))[0].status
    assert [] == engine.asked
    assert [] == app.scopes
    body = b'{ "model":"o3","messages":[] }'
    assert 200 == (await ask(guard, body=body, headers=[json]))[0].status
    assert [body] == app.bodies


async def slow(request: AccessRequest, *, models: frozenset[str]) -> bool:
    await anyio.lowlevel.checkpoint()
    return request.call is not None and models.issuperset(request.call.models)


def quick(request: AccessRequest) -> bool:
    return request.call is not None and request.call.models == ("gpt-4o-mini",)


class Callable_:  # noqa: N801 - what a user may have written
    async def __call__(self, request: AccessRequest) -> bool:
        return quick(request)


class Sync:
    needs_call = True

    def authorize(self, request: AccessRequest) -> bool:
        return quick(request)


@pytest.mark.parametrize(
    "authorizer",
    [functools.partial(slow, models=frozenset({"gpt-4o-mini"})), quick, Callable_(), Sync()],
    ids=["async", "sync", "an object that is called", "an object with a sync method"],
)
async def test_any_kind_of_function_will_do(authorizer: Callable[[AccessRequest], Any]) -> None:
    guard, app = guarded(authorizer)
    assert (403, "not_authorized") == told((await ask(guard, json=BIG))[0])
    assert [] == app.scopes
    assert 200 == (await ask(guard, json=SMALL))[0].status


# Alone.


async def test_alone_it_decides_whatever_roles_the_caller_has() -> None:
    engine = Engine()
    guard, app = guarded(engine, key=StaticKey(KEY, roles=["anything"]))
    response, context = await ask(guard, json=BIG)
    assert 200 == response.status
    assert Decision("RBACMiddleware", "allowed", None, "ci") == context.decisions[-1]
    assert ("anything",) == context.roles == engine.asked[0].principal.roles
    engine.answer = False
    assert (403, "not_authorized") == told((await ask(guard, json=BIG))[0])
    assert 1 == len(app.scopes)


async def test_alone_it_is_not_asked_about_nobody() -> None:
    app, engine = Recorder(), Engine()
    layer = RBACMiddleware(app, authorizer=engine)
    async with stream(layer, CHAT, json=BIG) as exchange:
        async for _ in exchange:
            pass
    assert 401 == exchange.response.status
    assert [] == engine.asked == app.scopes


async def test_alone_it_does_not_widen_what_the_credential_is_restricted_to() -> None:
    guard, app = guarded(Engine(), key=StaticKey(KEY, models=["gpt-4o-mini"]))
    assert (403, "model_not_allowed") == told((await ask(guard, json=BIG))[0])
    assert [] == app.scopes
    assert 200 == (await ask(guard, json=SMALL))[0].status


# Sockets.


async def test_it_is_asked_about_the_handshake_of_a_socket_and_about_each_message_that_names_something() -> None:
    engine = Engine()
    guard, app = guarded(engine)
    async with websocket(guard, "/v1/realtime?model=o3", headers=[BEARER]) as socket:
        await socket.send_json({"type": "session.update", "session": {"model": "gpt-4o-mini"}})
        assert "heard" == await socket.receive()
        engine.answer = False
        await socket.send_json({"type": "session.update", "session": {"model": "o4"}})
        with pytest.raises(Exception, match="closed with 1008 not_authorized"):
            await socket.receive()
    assert [("o3",), ("gpt-4o-mini",), ("o4",)] == [asked.call.models for asked in engine.asked if asked.call is not None]
    assert 1 == len(app.frames)
    assert [1008] == app.ends


async def test_an_engine_that_fails_on_a_message_ends_the_socket() -> None:
    engine = Engine()
    guard, app = guarded(engine)
    async with websocket(guard, "/v1/realtime?model=o3", headers=[BEARER]) as socket:
        engine.answer = RuntimeError(KEY)
        await socket.send_json({"type": "session.update", "session": {"model": "gpt-4o-mini"}})
        with pytest.raises(Exception, match="closed with 1008 authorization_unavailable"):
            await socket.receive()
    assert [] == app.frames


async def test_a_message_is_not_lost_where_the_app_gives_up_waiting_while_the_engine_is_asked() -> None:
    asked, may_answer, seen = anyio.Event(), anyio.Event(), list[Any]()
    gave_up = anyio.Event()

    async def slow(request: AccessRequest) -> bool:
        if request.call is not None and request.call.models == ("gpt-4o-mini",):
            asked.set()
            await may_answer.wait()
        return True

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                await asked.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait)
            await receive()
        gave_up.set()
        seen.append(await receive())

    keys = StaticKeys({"ci": KEY})
    guard = Stack(Middleware(KeyAuthMiddleware, keys=keys), Middleware(RBACMiddleware, authorizer=slow))(impatient)
    async with websocket(guard, "/v1/realtime?model=o3", headers=[BEARER]) as socket:
        await socket.send_text('{"type":"session.update","session":{"model":"gpt-4o-mini"}}')
        with anyio.fail_after(5):
            await gave_up.wait()
        may_answer.set()
        await socket.wait_returned()
    assert ['{"type":"session.update","session":{"model":"gpt-4o-mini"}}'] == [message["text"] for message in seen]


# What is none.


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"authorizer": "opa"}, "authorizer", id="a text"),
        pytest.param({"authorizer": Engine}, "authorizer", id="a class"),
        pytest.param({"authorizer": type("Half", (), {"authorize": quick})()}, "authorizer", id="does not say what it needs"),
        pytest.param({"authorizer": quick, "authorizer_deadline": 0}, "authorizer_deadline", id="no time"),
        pytest.param({"authorizer": quick, "authorizer_deadline": True}, "authorizer_deadline", id="no number"),
    ],
)
def test_what_cannot_be_asked_is_an_error(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RBACMiddleware(Recorder(), **given)
    assert named == raised.value.option


def test_alone_it_is_shown_by_its_name() -> None:
    assert "RBACMiddleware(authorizer=quick)" == repr(RBACMiddleware(Recorder(), authorizer=quick))
