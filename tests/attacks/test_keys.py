"""Keys that should not work, or not there, or not any more."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import (
    AuthmwError,
    ConfigurationError,
    CreatedKey,
    KeyAuthMiddleware,
    Principal,
    Stack,
    StaticKey,
    StaticKeys,
    Store,
    StoreError,
    open_store,
)
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

PUBLISHED = [
    "sk-1234",
    "sk-1234567890abcdef1234567890abcdef",
    "edd1c9f034335f136f87ad84b625c8f1",
    "changeme-changeme-changeme-changeme",
    "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
    "my-super-secret-master-key-for-litellm-x",
    "password-password-password-password",
    "your-key-goes-here-0123456789-abcdefgh",
    "replace-me-with-something-long-enough-1",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "0000000000000000000000000000000000000000",
    "1234567890123456789012345678901234567890",
    "abcdefghijklmnopqrstuvwxyz-abcdefghijklm",
    "",
    "admin",
]


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_published_or_weak_bootstrap_key_does_not_start(published: str) -> None:
    """CVE-2020-13945 of APISIX: a default key that everybody knows."""
    keys = StaticKeys({"ci": "Zx9-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"})
    with pytest.raises(ConfigurationError):
        Stack(Middleware(KeyAuthMiddleware, keys=keys, master_key=published))
    with pytest.raises(ConfigurationError):
        StaticKeys({"ci": published})


async def ask(store: Store, key: CreatedKey, target: str = "GET /v1/models", **options: Any) -> int:
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys, **options)
    response = await request(layer, target, headers=[(b"x-api-key", str(key.key).encode())])
    assert (response.status == 200) == bool(app.scopes)
    return response.status


End = Callable[[Store, CreatedKey, ManualClock], Awaitable[Any]]


async def _expire(store: Store, key: CreatedKey, clock: ManualClock) -> None:
    await store.keys.expire(key.id, at=clock.now() + 0.5)


ENDS: dict[str, End] = {
    "revoked": lambda store, key, clock: store.keys.revoke(key.id),
    "blocked": lambda store, key, clock: store.keys.block(key.id),
    "expired": _expire,
    "rotated": lambda store, key, clock: store.keys.rotate(key.id, grace=0),
    "of a blocked team": lambda store, key, clock: store.accounts.create("team", "blue", status="blocked"),
    "of a blocked user": lambda store, key, clock: store.accounts.create("user", "ada", status="blocked"),
    "of a blocked org": lambda store, key, clock: store.accounts.create("org", "acme", status="blocked"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_key_that_ended_works_nowhere_within_the_bound(tmp_path: Path, end: str) -> None:
    """LiteLLM 2149, 1775, 9820, 34217: it went on working on the other workers."""
    clock = ManualClock()
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=clock, deadline=5) as here, open_store(url, clock=clock, deadline=5) as there:
        key = await here.keys.create(team="blue", user="ada", org="acme")
        assert [200, 200] == [await ask(store, key) for store in (here, there)]
        await ENDS[end](here, key, clock)
        if end != "expired":
            assert 401 == await ask(here, key)
        clock.advance(1.0)
        assert [401, 401] == [await ask(store, key) for store in (here, there)]
        clock.advance(3_600)
        assert [401, 401] == [await ask(store, key) for store in (here, there)]


async def test_a_key_of_a_team_does_not_work_where_its_routes_do_not_lead(tmp_path: Path) -> None:
    """Kong 2637, 5563, 12789: a credential of one consumer on any route of any team."""
    async with open_store(f"sqlite:///{tmp_path / 'authmw.db'}", clock=ManualClock(), deadline=5) as store:
        blue = await store.keys.create(team="blue", routes=["/blue/**"])
        red = await store.keys.create(team="red", routes=["/red/**"])
        assert [200, 403] == [await ask(store, key, "GET /blue/v1/models") for key in (blue, red)]
        assert [403, 200] == [await ask(store, key, "GET /red/v1/models") for key in (blue, red)]


async def test_a_rotated_key_is_the_same_caller() -> None:
    """LiteLLM 31079: after a rotation the budget began anew."""
    store = open_store("memory://", clock=ManualClock())
    old = await store.keys.create(team="blue", budgets=["50 usd/month"], limits=["60 requests/minute"])
    new = await store.keys.rotate(old.id)
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    for key in (old, new):
        assert 200 == (await request(layer, "GET /", headers=[(b"x-api-key", str(key.key).encode())])).status
    callers: list[Principal] = [scope["user"] for scope in app.scopes]
    assert callers[0] == callers[1]
    assert callers[0].identity == callers[1].identity


async def test_a_lookup_that_fails_makes_nobody_a_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-59822 of LiteLLM: the failed check of a key became an empty user; keys that were never issued got in."""
    store = open_store("memory://", clock=ManualClock())
    key = await store.keys.create()

    def failing(error: Exception) -> Callable[..., Awaitable[Any]]:
        async def fail(*args: Any) -> Any:
            raise error

        return fail

    errors: list[Exception] = [StoreError("down"), AuthmwError("odd"), RuntimeError("bug"), KeyError("id"), OSError("disk"), ValueError()]
    for error in errors:
        for facet, method in (("keys", "find"), ("feed", "changes")):
            store.keys.verifier._cache.clear()
            store.keys.verifier._follower.fresh_until = 0.0
            monkeypatch.setattr(getattr(store._backend, facet), method, failing(error))
            for required in (True, False):
                assert 503 == await ask(store, key, required=required)
            monkeypatch.undo()
    assert 200 == await ask(store, key)


async def test_a_store_that_answers_with_another_key_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is compared with the row that was found, whatever row that is."""
    store = open_store("memory://", clock=ManualClock())
    key, other = await store.keys.create(), await store.keys.create()
    row = await store._backend.keys.find(other.id)

    async def mixed_up(key_id: str) -> Any:
        return row

    monkeypatch.setattr(store._backend.keys, "find", mixed_up)
    assert 401 == await ask(store, key)
    assert 200 == await ask(store, other)


async def test_a_static_key_of_one_layer_is_none_of_another() -> None:
    text = "Zx9-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
    other = StaticKeys({"other": StaticKey("Qw8eRt6yUi4oPa2sDf0gHj1kLz3xCv5b9")})
    app = Witness()
    response = await request(KeyAuthMiddleware(app, keys=other), "GET /", headers=[(b"x-api-key", text.encode())])
    assert (401, []) == (response.status, app.scopes)
