"""Requests to one machine, changes on another: what the one revokes, the other refuses within the bound."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_authmw import KeyAuthMiddleware, Store, open_store
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

BOUND = 1.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def here(postgres_url: str, clock: ManualClock, anyio_backend: Any) -> AsyncIterator[Store]:
    async with open_store(postgres_url, clock=clock, bound=BOUND, deadline=5.0) as store:
        yield store


@pytest.fixture
async def there(postgres_url: str, clock: ManualClock, anyio_backend: Any) -> AsyncIterator[Store]:
    async with open_store(postgres_url, clock=clock, bound=BOUND, deadline=5.0) as store:
        yield store


async def status(store: Store, key: str) -> int:
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    return (await request(layer, "GET /v1/models", headers=[(b"authorization", f"Bearer {key}".encode())])).status


async def test_a_key_that_another_machine_makes_and_revokes_is_let_in_and_refused(here: Store, there: Store, clock: ManualClock) -> None:
    created = await there.keys.create(team="blue")
    assert 200 == await status(here, str(created.key))
    await there.keys.revoke(created.id)
    clock.advance(BOUND)
    assert 401 == await status(here, str(created.key))


async def test_a_team_that_another_machine_blocks_is_refused_and_let_in_again(here: Store, there: Store, clock: ManualClock) -> None:
    created = await there.keys.create(team="blue")
    await there.accounts.create("team", "blue")
    assert 200 == await status(here, str(created.key))
    await there.accounts.block("team", "blue")
    clock.advance(BOUND)
    assert 401 == await status(here, str(created.key))
    await there.accounts.unblock("team", "blue")
    clock.advance(BOUND)
    assert 200 == await status(here, str(created.key))


async def test_a_use_here_is_seen_there(here: Store, there: Store, clock: ManualClock) -> None:
    created = await there.keys.create()
    assert 200 == await status(here, str(created.key))
    used = clock.now()
    await here.aclose()
    assert used == (await there.keys.get(created.id)).last_used_at


async def test_an_id_that_could_not_be_stored_is_nobodys(here: Store) -> None:
    backend: Any = here._backend
    assert await backend.keys.find("a\0b") is None
    assert await backend.keys.find("a\ud800b") is None
    assert () == await backend.keys.history("a\0b")
