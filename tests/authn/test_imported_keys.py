import hashlib
from typing import Any

import pytest

from llm_authmw import Decision, KeyAuthMiddleware, Store, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

IMPORTED = "sk-zD6mQ1vXk8Rj4Lw0"
WITHOUT_PREFIX = "pAq9Tn3Ew7Yc2Hs5"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> Store:
    return open_store("memory://", clock=clock)


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


async def ask(store: Store, headers: list[tuple[bytes, bytes]], **options: Any) -> tuple[int, str | None, Witness]:
    app = Witness()
    response = await request(KeyAuthMiddleware(app, keys=store.keys, **options), "GET /v1/models", headers=headers)
    return response.status, response.header("x-authmw-reason"), app


@pytest.mark.parametrize("key", [IMPORTED, WITHOUT_PREFIX])
async def test_an_imported_key_is_accepted_only_where_imported_keys_are(store: Store, key: str) -> None:
    made = await store.keys.import_key(key=key, user="ada")
    refused = "invalid_api_key" if key.startswith("sk-") else "invalid_token"
    assert (401, refused) == (await ask(store, bearer(key)))[:2]
    assert (401, "invalid_api_key") == (await ask(store, [(b"x-api-key", key.encode())]))[:2]
    status, _, app = await ask(store, bearer(key), imported=True)
    assert 200 == status
    assert ["ada"] == app.subjects
    assert [Decision("KeyAuthMiddleware", "allowed", None, made.id, "imported_secret")] == app.scopes[0][CONTEXT_KEY].decisions


@pytest.mark.parametrize("key", [IMPORTED, WITHOUT_PREFIX])
@pytest.mark.parametrize("retiring", [False, True])
async def test_a_key_that_one_layer_has_cached_is_still_no_key_for_a_layer_without_imported_keys(
    store: Store, key: str, retiring: bool
) -> None:
    made = await store.keys.import_key(key=key)
    if retiring:
        await store.keys.rotate(made.id, grace=3_600)
    assert 200 == (await ask(store, bearer(key), imported=True))[0]
    refused = "invalid_api_key" if key.startswith("sk-") else "invalid_token"
    assert (401, refused) == (await ask(store, bearer(key)))[:2]
    status, reason, app = await ask(store, [(b"x-api-key", key.encode())])
    assert (401, "invalid_api_key") == (status, reason)
    assert [] == app.scopes


async def test_an_imported_secret_works_beside_the_new_one_until_its_time_of_grace_is_over(store: Store, clock: ManualClock) -> None:
    made = await store.keys.import_key(key=IMPORTED)
    rotated = await store.keys.rotate(made.id, grace=60)
    assert rotated.key is not None
    for key in (IMPORTED, rotated.key):
        assert 200 == (await ask(store, bearer(key), imported=True))[0]
    clock.advance(60)
    assert (401, "invalid_api_key") == (await ask(store, bearer(IMPORTED), imported=True))[:2]
    assert 200 == (await ask(store, bearer(rotated.key)))[0]


@pytest.mark.parametrize("disclosure", ["uniform", "exact"])
async def test_the_digest_of_an_imported_key_is_not_the_key(store: Store, disclosure: str) -> None:
    await store.keys.import_key(key=IMPORTED)
    digest = hashlib.sha256(IMPORTED.encode())
    for sent in (digest.hexdigest(), f"sk-{digest.hexdigest()}", digest.hexdigest().upper()):
        status, _, app = await ask(store, [(b"x-api-key", sent.encode())], imported=True, disclosure=disclosure)
        assert 401 == status
        assert [] == app.scopes


async def test_a_bearer_token_that_is_no_imported_key_is_left_to_other_layers(store: Store) -> None:
    await store.keys.import_key(key=IMPORTED)
    for token in ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "garbage", "a" * 1_000):
        assert (401, "invalid_token") == (await ask(store, bearer(token), imported=True))[:2]
    assert (401, "invalid_api_key") == (await ask(store, bearer("sk-garbage"), imported=True))[:2]


async def test_a_revoked_imported_key_is_refused_at_once(store: Store) -> None:
    made = await store.keys.import_key(key=IMPORTED)
    assert 200 == (await ask(store, bearer(IMPORTED), imported=True))[0]
    await store.keys.revoke(made.id)
    assert (401, "invalid_api_key") == (await ask(store, bearer(IMPORTED), imported=True))[:2]
    assert (401, "key_revoked") == (await ask(store, bearer(IMPORTED), imported=True, disclosure="exact"))[:2]
