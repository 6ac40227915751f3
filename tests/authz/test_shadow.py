from collections.abc import Mapping
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import Decision, KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.context import CONTEXT_KEY, RequestContext, shadow_counts
from llm_authmw.keys.static import StaticKey
from llm_authmw.lens import RequestLens
from llm_authmw.testing import Response, stream, websocket
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
JSON = (b"content-type", b"application/json")
CHAT = "POST /v1/chat/completions"
SMALL = b'{"model": "gpt-4o-mini", "messages": []}'
BIG = b'{"model": "o3", "messages": []}'
ROLES = {"member": Role(routes=[CHAT, "WS /v1/realtime"], models=["gpt-4o-mini"])}
TRIAL = {"trial": Role(routes=[CHAT, "WS /v1/realtime"], models=["gpt-4o-mini"], shadow=True)}


def guarded(roles: Mapping[str, Role], *held: str, required: bool = True, **options: Any) -> tuple[Any, Recorder]:
    app = Recorder()
    keys = StaticKeys({"ci": StaticKey(KEY, roles=list(held))})
    layers = [Middleware(KeyAuthMiddleware, keys=keys, required=required), Middleware(RBACMiddleware, roles=roles, **options)]
    return Stack(*layers)(app), app


async def ask(
    guard: Any, target: str = CHAT, *headers: tuple[bytes, bytes], key: bool = True, **given: Any
) -> tuple[Response, RequestContext]:
    lines = [JSON, *headers, *([BEARER] if key else [])]
    async with stream(guard, target, headers=lines, **given) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


def shadowed(context: RequestContext) -> list[tuple[str | None, str | None]]:
    return [(decision.reason, decision.rule) for decision in context.decisions if decision.outcome == "shadowed"]


# All of a layer.


@pytest.mark.parametrize(
    ("target", "body", "reason", "rule"),
    [
        (CHAT, BIG, "model_not_allowed", "member"),
        (CHAT, b'{"messages":[]}', "model_missing", "member"),
        (CHAT, b"\xff not JSON", "request_malformed", None),
        (CHAT, b'{"model": 7}', "model_malformed", None),
        (CHAT, b" " * 101, "body_too_large", None),
        ("POST /v1/embeddings", b"\xff", "route_not_allowed", "member"),
        ("POST /v1//chat/completions", BIG, "ambiguous_path", None),
    ],
)
async def test_a_layer_on_trial_denies_nothing_and_the_app_gets_every_byte(target: str, body: bytes, reason: str, rule: str | None) -> None:
    guard, app = guarded(ROLES, "member", shadow=True, lens=RequestLens(max_body=100))
    before = shadow_counts().get(("RBACMiddleware", rule, reason), 0)
    response, context = await ask(guard, target, body=[body[:3], body[3:]])
    assert 200 == response.status
    assert [body] == app.bodies
    assert [(reason, rule)] == shadowed(context)
    assert "allowed" not in [decision.outcome for decision in context.decisions if decision.layer == "RBACMiddleware"]
    assert before + 1 == shadow_counts()["RBACMiddleware", rule, reason]


async def test_a_layer_on_trial_lets_nobody_through_whom_the_authentication_layers_refuse() -> None:
    guard, app = guarded(ROLES, "member", shadow=True)
    assert 401 == (await ask(guard, key=False, body=SMALL))[0].status
    assert [] == app.scopes
    guard, app = guarded(ROLES, "member", required=False, shadow=True)
    response, context = await ask(guard, key=False, body=SMALL)
    assert 200 == response.status
    assert [("missing_credential", None)] == shadowed(context)
    assert [SMALL] == app.bodies


async def test_a_layer_on_trial_that_cannot_decide_denies_nothing_either() -> None:
    async def broken(request: Any) -> bool:
        raise RuntimeError

    guard, app = guarded(ROLES, "member", shadow=True, authorizer=broken)
    response, context = await ask(guard, body=SMALL)
    assert 200 == response.status
    assert [("authorization_unavailable", None)] == shadowed(context)
    assert [SMALL] == app.bodies


async def test_a_layer_on_trial_records_what_it_allows_too() -> None:
    guard, app = guarded(ROLES, "member", shadow=True)
    _, context = await ask(guard, body=SMALL)
    assert Decision("RBACMiddleware", "allowed", None, "ci", None, "member") == context.decisions[-1]
    assert [SMALL] == app.bodies


async def test_a_client_that_leaves_is_still_heard_of_by_the_app() -> None:
    guard, app = guarded(ROLES, "member", shadow=True)
    async with stream(guard, CHAT, headers=[JSON, BEARER], body=SMALL[:5], more_body=True) as exchange:
        await exchange.disconnect()
    # A recorder keeps what had come when it heard that the client has gone.
    assert 1 == len(app.bodies)


async def test_frames_of_a_layer_on_trial_all_reach_the_app() -> None:
    guard, app = guarded(ROLES, "member", shadow=True)
    frames = [
        '{"type":"session.update","session":{"model":"o3"}}',
        '{"type":"session.update","session":{"model":"gpt-4o-mini"}}',
        "{ not JSON",
        '{"type":"session.update","session":{"model":"o4"}}',
    ]
    async with websocket(guard, "/v1/realtime?model=gpt-4o-mini", headers=[BEARER]) as socket:
        for frame in frames:
            await socket.send_text(frame)
            assert "heard" == await socket.receive()
    assert frames == app.frames
    reasons = [reason for reason, _ in shadowed(socket.scope[CONTEXT_KEY])]
    assert "model_not_allowed" == reasons[0]
    assert 2 <= len(reasons)


# Some roles.


async def test_whoever_has_only_roles_on_trial_is_let_through_and_recorded() -> None:
    guard, app = guarded(TRIAL, "trial")
    for target, body, reason in ((CHAT, BIG, "model_not_allowed"), ("POST /v1/embeddings", b"\xff", "route_not_allowed")):
        response, context = await ask(guard, target, body=body)
        assert 200 == response.status
        assert [(reason, "trial")] == shadowed(context)
    assert [BIG, b"\xff"] == app.bodies


async def test_a_role_that_is_enforced_decides_beside_one_on_trial() -> None:
    guard, app = guarded(ROLES | TRIAL, "member", "trial")
    response, context = await ask(guard, body=BIG)
    assert (403, "model_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == shadowed(context)
    assert [] == app.scopes


@pytest.mark.parametrize(("body", "status"), [(b"\xff", 400), (b'{"model": 7}', 400), (b"{" * 200, 413)])
async def test_what_cannot_be_read_is_refused_though_all_roles_are_on_trial(body: bytes, status: int) -> None:
    guard, app = guarded(TRIAL, "trial", lens=RequestLens(max_body=100))
    assert status == (await ask(guard, body=body))[0].status
    assert [] == app.scopes


async def test_whoever_has_no_role_is_refused_though_all_roles_are_on_trial() -> None:
    guard, app = guarded(TRIAL)
    assert 403 == (await ask(guard, body=SMALL))[0].status
    assert [] == app.scopes


async def test_frames_that_only_roles_on_trial_deny_reach_the_app() -> None:
    guard, app = guarded(TRIAL, "trial")
    frame = '{"type":"session.update","session":{"model":"o3"}}'
    async with websocket(guard, "/v1/realtime?model=gpt-4o-mini", headers=[BEARER]) as socket:
        await socket.send_text(frame)
        assert "heard" == await socket.receive()
    assert [frame] == app.frames
    assert [("model_not_allowed", "trial")] == shadowed(socket.scope[CONTEXT_KEY])


async def test_a_socket_whose_route_only_roles_on_trial_deny_keeps_its_frames_to_itself() -> None:
    guard, app = guarded(TRIAL, "trial")
    async with websocket(guard, "/v1/other", headers=[BEARER]) as socket:
        await socket.send_text("{ not JSON")
        assert "heard" == await socket.receive()
    assert ["{ not JSON"] == app.frames
    assert [("route_not_allowed", "trial")] == shadowed(socket.scope[CONTEXT_KEY])
