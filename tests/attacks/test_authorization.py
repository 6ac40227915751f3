"""Callers who want more than their role allows: roles that they give themselves, models that they hide, messages that come later."""

import json
import logging
from typing import Any
from urllib.parse import urlencode

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from llm_authmw import (
    ClaimMap,
    Grant,
    HeaderMap,
    HeaderTrustMiddleware,
    JWTMiddleware,
    KeyAuthMiddleware,
    RBACMiddleware,
    RequestLens,
    Role,
    SharedSecret,
    Stack,
    StaticKey,
    StaticKeys,
)
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.testing import Response, TestIssuer, WebSocketClosed, stream, websocket
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
BEARER = (b"authorization", b"Bearer " + KEY.encode())
JSON = (b"content-type", b"application/json")
CHAT = "POST /v1/chat/completions"
SMALL: dict[str, Any] = {"model": "gpt-4o-mini", "messages": []}
MEMBER = Role(routes=[CHAT, "GET /v1/models", "WS /v1/realtime"], models=["gpt-4o-mini"])
ROLES = {"member": MEMBER, "operator": Role(routes=["*"], models=["*"], tools=["*"])}


def guarded(*outside: Middleware, **options: Any) -> tuple[Any, Recorder]:
    app = Recorder()
    keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": StaticKey(KEY, roles=["member"])}))
    return Stack(*(outside or (keys,)), Middleware(RBACMiddleware, roles=ROLES, **options))(app), app


async def ask(guard: Any, target: str | bytes = CHAT, *headers: tuple[bytes, bytes], **sent: Any) -> tuple[Response, RequestContext]:
    async with stream(guard, target, headers=headers, **sent) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


# Roles that somebody gives themselves.


@pytest.mark.parametrize(
    "claims",
    [
        {"roles": ["operator"]},
        {"roles": "operator member"},
        {"realm_access": {"roles": ["operator"]}},
        {"groups": ["operator"]},
        {"scope": "operator"},
        {"role": "operator", "tier": "operator"},
        {"sub": "operator"},
    ],
)
async def test_a_token_that_names_a_role_of_ours_has_none_by_that(claims: dict[str, Any]) -> None:
    issuer = TestIssuer()
    mapped = ClaimMap(roles=("roles", "realm_access.roles"), groups="groups", tier="tier")
    guard, app = guarded(
        Middleware(JWTMiddleware, issuers=[issuer.trusted(claims=mapped)]), grants=[Grant(role="operator", token_role="llm-operator")]
    )
    response, _ = await ask(guard, CHAT, (b"authorization", b"Bearer " + issuer.token(**claims).encode()), json=SMALL)
    assert (403, "role_missing") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_proxy_that_names_a_role_of_ours_gives_none_by_that() -> None:
    proof = SharedSecret(header="x-proxy-proof", secret="a-proof-that-only-the-proxy-knows-01")
    headers = HeaderMap(user="x-user", roles="x-roles")
    guard, app = guarded(Middleware(HeaderTrustMiddleware, realm="corp", headers=headers, proof=proof))
    proven = (b"x-proxy-proof", b"a-proof-that-only-the-proxy-knows-01")
    response, _ = await ask(guard, CHAT, proven, (b"x-user", b"ada"), (b"x-roles", b"operator"), json=SMALL)
    assert (403, "role_missing") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_the_facts_of_one_issuer_do_not_count_from_another() -> None:
    ours, partners = TestIssuer("https://ours.example"), TestIssuer("https://partners.example")
    mapped = ClaimMap(groups="groups")
    layer = Middleware(JWTMiddleware, issuers=[ours.trusted(claims=mapped), partners.trusted(claims=mapped)])
    guard, app = guarded(layer, grants=[Grant(role="operator", group="llm-admins", issuer="https://ours.example")])
    told: list[int] = []
    for issuer in (partners, ours):
        response, _ = await ask(guard, CHAT, (b"authorization", b"Bearer " + issuer.token(groups=["llm-admins"]).encode()), json=SMALL)
        told.append(response.status)
    assert [403, 200] == told
    assert 1 == len(app.scopes)


# Models that somebody hides.


HIDDEN: dict[str, tuple[str, bytes]] = {
    "in the query": ("?model=o3", b'{"model":"gpt-4o-mini"}'),
    "in the query, escaped": ("?%6dodel=o3", b'{"model":"gpt-4o-mini"}'),
    "as a second member": ("", b'{"model":"gpt-4o-mini","model":"o3"}'),
    "as a second member, escaped": ("", b'{"model":"gpt-4o-mini","mod\\u0065l":"o3"}'),
    "among fallbacks": ("", b'{"model":"gpt-4o-mini","fallbacks":["o3"]}'),
    "among fallbacks, as an object": ("", b'{"model":"gpt-4o-mini","fallbacks":[{"model":"o3"}]}'),
    "among fallbacks, by model": ("", b'{"model":"gpt-4o-mini","fallbacks":[{"gpt-4o-mini":["o3"]}]}'),
    "in a list": ("", b'{"model":["gpt-4o-mini","o3"]}'),
    "behind a comma": ("", b'{"model":"gpt-4o-mini,o3"}'),
    "behind the end of the object": ("", b'{"model":"gpt-4o-mini"}{"model":"o3"}'),
    "behind a byte order mark": ("", b'\xef\xbb\xbf{"model":"gpt-4o-mini"}'),
    "in another encoding": ("", '{"model":"o3"}'.encode("utf-16")),
    "with a blank": ("", b'{"model":"gpt-4o-mini "}'),
    "in capitals": ("", b'{"model":"GPT-4o-mini"}'),
    "with full-width letters": ("", '{"model":"gpt-4o-m\uff49ni"}'.encode()),
    "behind the name of a provider": ("", b'{"model":"openai/gpt-4o-mini"}'),
    "nowhere": ("", b"{}"),
}


@pytest.mark.parametrize(("query", "body"), [pytest.param(*sent, id=what) for what, sent in HIDDEN.items()])
async def test_a_model_that_is_hidden_beside_one_that_is_allowed_is_found(query: str, body: bytes) -> None:
    guard, app = guarded()
    response, context = await ask(guard, CHAT + query, BEARER, JSON, body=[body[:9], body[9:]])
    assert response.status in (400, 403)
    assert "denied" == context.decisions[-1].outcome
    assert [] == app.scopes


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [JSON, (b"content-type", b"text/plain")],
        [JSON, (b"content-encoding", b"br")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [JSON, (b"x-litellm-model", b"o3")],
    ],
)
async def test_a_body_that_the_app_might_read_in_another_way_does_not_reach_it(headers: list[tuple[bytes, bytes]]) -> None:
    guard, app = guarded()
    response, _ = await ask(guard, CHAT, BEARER, *headers, body=msgspec.json.encode(SMALL))
    assert response.status in (400, 403, 415)
    assert [] == app.scopes


async def test_a_body_that_says_nothing_of_its_type_is_read_all_the_same() -> None:
    guard, app = guarded()
    response, _ = await ask(guard, CHAT, BEARER, body=msgspec.json.encode(SMALL | {"model": "o3"}))
    assert (403, "model_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_a_body_without_an_end_is_not_read_without_one() -> None:
    guard, app = guarded(lens=RequestLens(max_body=1_000))
    chunks = [b" " * 100] * 1_000
    async with stream(guard, CHAT, headers=[BEARER, JSON], body=chunks, more_body=True) as exchange:
        async for _ in exchange:
            pass
    assert 413 == exchange.response.status
    assert exchange.activity.receive_calls <= 11
    assert [] == app.scopes


@settings(max_examples=150)
@given(
    st.sampled_from(["POST", "post", "Post", "GET", "HEAD", "WS", "QUERY", "OPTIONS"]),
    st.sampled_from(["/v1/chat/completions", "/v1/chat/completions/", "/v1/models", "/v1/embeddings", "/v1/chat/completions%2f", "/x"]),
    st.dictionaries(st.sampled_from(["model", "x", "fallback", "MODEL"]), st.sampled_from(["o3", "gpt-4o-mini", "a b"]), max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from(["model", "fallbacks", "models", "tools"]),
            st.sampled_from(["gpt-4o-mini", "o3", None, 1, [], ["o3"], [{"model": "o3"}], [{"type": "web_search"}], {"model": "o3"}]),
        ),
        max_size=4,
    ),
)
def test_whatever_gets_through_names_nothing_but_what_the_role_allows(
    method: str, path: str, query: dict[str, str], members: list[tuple[str, Any]]
) -> None:
    body = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members) + "}").encode()

    async def check() -> None:
        guard, app = guarded()
        response, context = await ask(guard, f"{method} {path}?{urlencode(query)}", BEARER, JSON, body=body)
        assert 500 != response.status
        if not app.scopes:
            assert 400 <= response.status < 500
            assert "denied" == context.decisions[-1].outcome
            return
        assert "allowed" == context.decisions[-1].outcome
        assert [body] == app.bodies
        (scope,) = app.scopes
        assert (scope["method"].upper(), scope["path"]) in {("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("HEAD", "/v1/models")}
        if scope["method"].upper() == "POST":
            # As an app reads it that takes any of two members, or the query before the body.
            assert {"gpt-4o-mini"} == {value for name, value in [*members, *query.items()] if name in ("model", "MODEL")}
            assert "o3" not in json.dumps([value for name, value in members if name != "tools"])
            assert [{"type": "web_search"}] not in [value for _, value in members]

    anyio.run(check)


# Messages that come later.


FRAMES: dict[str, str | bytes] = {
    "another model": '{"type":"session.update","session":{"model":"o3"}}',
    "in a binary message": b'{"type":"session.update","session":{"model":"o3"}}',
    "as a second member": '{"type":"session.update","session":{"model":"gpt-4o-mini","model":"o3"}}',
    "in a second session": '{"type":"session.update","session":{"model":"gpt-4o-mini"},"session":{"model":"o3"}}',
    "in the response": '{"type":"response.create","response":{"model":"o3"}}',
    "as something else than a name": '{"type":"session.update","session":{"model":["o3"]}}',
    "behind the end": '{"type":"session.update","session":{}}{"session":{"model":"o3"}}',
}


@pytest.mark.parametrize("frame", [pytest.param(frame, id=what) for what, frame in FRAMES.items()])
async def test_a_model_that_comes_in_a_later_message_ends_the_socket(frame: str | bytes) -> None:
    guard, app = guarded()
    async with websocket(guard, "/v1/realtime?model=gpt-4o-mini", headers=[BEARER]) as socket:
        await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        # What was sent behind it before the end was told reaches nobody either.
        await socket.send_text('{"type":"input_audio_buffer.commit"}')
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
    assert 1008 == closed.value.code
    assert [] == app.frames
    assert [1008] == app.ends


# What is told.


async def test_nothing_of_the_caller_is_told_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    issuer = TestIssuer()
    token = issuer.token(sub="ada", department="s3cret-claim")
    claims = ClaimMap(keep=["department"])
    guard, _ = guarded(Middleware(JWTMiddleware, issuers=[issuer.trusted(claims=claims)]), default_role="member")
    with caplog.at_level(logging.DEBUG):
        for body in ({"model": "o3", "messages": ["s3cret-prompt"]}, {"model": "gpt-4o-mini", "messages": ["s3cret-prompt"], "x": 1}):
            response, context = await ask(guard, CHAT, (b"authorization", b"Bearer " + token.encode()), json=body)
            told = response.text + repr(response.headers) + caplog.text + repr(context.decisions)
            assert "s3cret" not in told
            assert token not in told


async def test_the_text_of_a_denial_has_nothing_that_ends_a_line_or_a_header() -> None:
    guard, app = guarded()
    for body in (b'{"model":"o3\\r\\nx-evil: 1"}', '{"model":"o3\u2028"}'.encode()):
        response, _ = await ask(guard, CHAT, BEARER, JSON, body=body)
        assert 400 == response.status
        assert all(b"\r" not in value and b"\n" not in value for _, value in response.headers)
    assert [] == app.scopes
