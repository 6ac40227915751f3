"""What a caller whose key is not accepted is told: the same to everybody, unless the operator wants it otherwise."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from llm_authmw import Decision, KeyAuthMiddleware, Store, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, Response, request, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

BadKey: TypeAlias = Callable[[Store, ManualClock], Awaitable[str]]


async def unknown(store: Store, clock: ManualClock) -> str:
    return mint_key().text


async def wrong(store: Store, clock: ManualClock) -> str:
    return mint_key(key_id=(await store.keys.create()).id).text


async def mistyped(store: Store, clock: ManualClock) -> str:
    return str((await store.keys.create()).key)[:-1] + "-"


async def blocked(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create()
    await store.keys.block(made.id)
    return str(made.key)


async def revoked(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create()
    await store.keys.revoke(made.id)
    return str(made.key)


async def expired(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create(expires_at=clock.now() + 60)
    clock.advance(60)
    return str(made.key)


async def not_yet_valid(store: Store, clock: ManualClock) -> str:
    return str((await store.keys.create(not_before=clock.now() + 60)).key)


async def rotated(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create()
    await store.keys.rotate(made.id, grace=60)
    clock.advance(60)
    return str(made.key)


async def rotated_at_once(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create()
    await store.keys.rotate(made.id, grace=0)
    return str(made.key)


async def of_a_blocked_team(store: Store, clock: ManualClock) -> str:
    made = await store.keys.create(team="blue")
    await store.accounts.create("team", "blue", status="blocked")
    return str(made.key)


BAD_KEYS: dict[BadKey, tuple[str, str]] = {
    # What the record says, and what the caller hears with disclosure="exact": only what his secret has earned him.
    unknown: ("key_unknown", "invalid_api_key"),
    wrong: ("key_mismatch", "invalid_api_key"),
    mistyped: ("key_malformed", "invalid_api_key"),
    rotated_at_once: ("key_mismatch", "invalid_api_key"),
    blocked: ("key_blocked", "key_blocked"),
    revoked: ("key_revoked", "key_revoked"),
    expired: ("key_expired", "key_expired"),
    not_yet_valid: ("key_not_yet_valid", "key_not_yet_valid"),
    rotated: ("key_rotated", "key_rotated"),
    of_a_blocked_team: ("account_blocked", "account_blocked"),
}


async def answer(bad_key: BadKey, path: str = "/v1/models", **options: Any) -> tuple[Response, list[Decision], Witness]:
    clock = ManualClock()
    store = open_store("memory://", clock=clock)
    key = await bad_key(store, clock)
    app = Witness()
    async with stream(
        KeyAuthMiddleware(app, keys=store.keys, **options), f"GET {path}", headers=[(b"x-api-key", key.encode())]
    ) as exchange:
        async for _ in exchange:
            pass
    decisions: list[Decision] = exchange.scope[CONTEXT_KEY].decisions
    return exchange.response, decisions, app


def told(response: Response) -> tuple[Any, ...]:
    """Return all that the caller sees, byte for byte, but for the id that each request has of its own."""
    own = (response.header("x-request-id") or "").encode()
    assert own
    return response.status, [(name, value.replace(own, b"ID")) for name, value in response.headers], response.body.replace(own, b"ID")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages", "/v1beta/models/gemini:generateContent", "/other"])
async def test_every_bad_key_is_told_the_same_byte_for_byte(path: str) -> None:
    heard: set[str] = set()
    for bad_key, (reason, _) in BAD_KEYS.items():
        response, decisions, app = await answer(bad_key, path)
        heard.add(repr(told(response)))
        assert [("denied", reason)] == [(decision.outcome, decision.reason) for decision in decisions]
        assert [] == app.scopes
    assert 1 == len(heard)
    (only,) = heard
    assert only.startswith("(401, ")
    assert "invalid_api_key" in only


@pytest.mark.parametrize("bad_key", BAD_KEYS)
async def test_a_proven_key_may_be_told_why_and_nobody_else(bad_key: BadKey) -> None:
    reason, public = BAD_KEYS[bad_key]
    response, decisions, app = await answer(bad_key, disclosure="exact")
    assert (401, public) == (response.status, response.header("x-authmw-reason"))
    assert public == response.json()["error"]["code"]
    assert [reason] == [decision.reason for decision in decisions]
    assert [] == app.scopes


@pytest.mark.parametrize("bad_key", BAD_KEYS)
async def test_a_socket_is_told_the_same_as_a_request(bad_key: BadKey) -> None:
    clock = ManualClock()
    store = open_store("memory://", clock=clock)
    key = await bad_key(store, clock)
    app = Witness()
    async with websocket(KeyAuthMiddleware(app, keys=store.keys), "/v1/models", headers=[(b"x-api-key", key.encode())]) as socket:
        assert told((await answer(bad_key))[0]) == told(socket.response)
    assert [] == app.scopes


@pytest.mark.parametrize("bad_key", [blocked, revoked, expired, wrong, unknown])
async def test_asking_again_gives_the_same_answer(bad_key: BadKey) -> None:
    clock = ManualClock()
    store = open_store("memory://", clock=clock)
    headers = [(b"x-api-key", (await bad_key(store, clock)).encode())]
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    answers = [told(await request(layer, "GET /v1/models", headers=headers)) for _ in range(3)]
    assert [answers[0]] * 3 == answers


async def test_a_key_of_one_tenant_or_realm_says_nothing_of_another() -> None:
    store = open_store("memory://", clock=ManualClock())
    made = [await store.keys.create(tenant=tenant, user="ada") for tenant in ("blue", "red")]
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    for one in made:
        assert 200 == (await request(layer, "GET /v1/models", headers=[(b"x-api-key", str(one.key).encode())])).status
    assert ["blue/keys/ada", "red/keys/ada"] == [scope["user"].identity for scope in app.scopes]
    await store.keys.block(made[0].id)
    assert [401, 200] == [(await request(layer, "GET /v1/models", headers=[(b"x-api-key", str(one.key).encode())])).status for one in made]
