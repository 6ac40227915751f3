from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw.errors import Denial, StoreCorruptError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores import Store, open_store
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

PEPPER = "a pepper of more than thirty-two characters"
PATIENCE = 60.0
"""Seconds that a question may take where the deadline is not what is asked about: the machine may be busy."""


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{path}"


async def test_a_store_starts_by_itself_on_first_use_and_again_after_closing(url: str) -> None:
    store = open_store(url)
    created = await store.keys.create(name="first")
    await store.aclose()
    assert created.record == await store.keys.get(created.id)
    await store.start()
    await store.start()
    await store.aclose()
    await store.aclose()
    async with store as entered:
        assert entered is store
        assert created.record == await store.keys.get(created.id)
    await store.aclose()


async def test_a_store_that_was_never_used_may_be_closed(url: str, tmp_path: Path) -> None:
    await open_store(url).aclose()
    assert [] == list(tmp_path.iterdir())


async def test_a_store_that_cannot_be_opened_says_so_when_it_is_entered(path: Path) -> None:
    path.write_text("no database")
    with pytest.raises(StoreCorruptError):
        async with open_store(f"sqlite:///{path}"):
            pytest.fail("it was entered")


async def used(store: Store) -> str:
    """Use a key and return its id: the use is noted and not written yet."""
    created = await store.keys.create()
    assert created.key is not None
    known = await store.keys.verifier.verify(created.key.encode())
    assert store.keys.verifier.judge(known) is None
    assert (await store.keys.get(created.id)).last_used_at is None
    return created.id


async def test_closing_writes_the_uses_that_were_noted(url: str) -> None:
    clock = ManualClock()
    store = open_store(url, deadline=PATIENCE, clock=clock)
    key_id = await used(store)
    await store.aclose()
    assert clock.now() == (await store.keys.get(key_id)).last_used_at
    await store.aclose()


async def test_uses_that_cannot_be_written_keep_no_file_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    store = open_store(f"sqlite:///{path}", deadline=PATIENCE, clock=clock)
    await used(store)

    async def refuse(*_: Any) -> None:
        raise StoreReadOnlyError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("llm_authmw.stores.sqlite.keys.SQLiteKeys.touch", refuse)
        with pytest.raises(StoreReadOnlyError, match="not now"):
            await store.aclose()
    assert ["store.audit.db", "store.db"] == sorted(left.name for left in path.parent.iterdir())
    await store.aclose()


async def test_a_store_prints_its_url_and_no_secret(url: str) -> None:
    async with open_store(url, pepper=PEPPER) as store:
        created = await store.keys.create()
        assert created.key is not None
        assert f"Store({url!r})" == repr(store) == str(store)
        deeper = f"{vars(store)!r} {vars(store.keys)!r} {vars(store.keys.verifier)!r}"
        assert PEPPER not in deeper
        assert created.key not in deeper


async def test_a_revocation_takes_effect_at_once_here_and_within_the_bound_in_another_store_on_the_file(path: Path) -> None:
    clock = ManualClock()
    here, there = (open_store(f"sqlite:///{path}", bound=1.0, deadline=PATIENCE, clock=clock) for _ in range(2))
    created = await here.keys.create(team="blue")
    assert created.key is not None
    presented = created.key.encode()
    for store in (here, there):
        known = await store.keys.verifier.verify(presented)
        assert store.keys.verifier.judge(known) is None
    await here.keys.revoke(created.id)
    recalled = await here.keys.verifier.verify(presented)
    assert "key_revoked" == here.keys.verifier.judge(recalled)
    clock.advance(1.0)
    assert there.keys.verifier.recall(presented) is None
    assert "key_revoked" == there.keys.verifier.judge(await there.keys.verifier.verify(presented))
    await here.aclose()
    await there.aclose()


async def test_a_blocked_team_stops_its_keys_within_the_bound_in_another_store_on_the_file(path: Path) -> None:
    clock = ManualClock()
    here, there = (open_store(f"sqlite:///{path}", bound=1.0, deadline=PATIENCE, clock=clock) for _ in range(2))
    await here.accounts.create("team", "blue")
    created = await here.keys.create(team="blue")
    assert created.key is not None
    presented = created.key.encode()
    assert there.keys.verifier.judge(await there.keys.verifier.verify(presented)) is None
    await here.accounts.block("team", "blue")
    clock.advance(1.0)
    assert "account_blocked" == there.keys.verifier.judge(await there.keys.verifier.verify(presented))
    await here.aclose()
    await there.aclose()


async def test_a_revoked_token_is_covered_at_once_here_and_within_the_bound_in_another_store_on_the_file(path: Path) -> None:
    clock = ManualClock()
    here, there = (open_store(f"sqlite:///{path}", bound=1.0, deadline=PATIENCE, clock=clock) for _ in range(2))
    token: dict[str, Any] = {"tenant": "default", "issuer": "https://i", "jti": "j", "subject": "s", "issued_at": 5.0, "kid": "k"}
    for store in (here, there):
        assert 1.0 == store.revocations.bound
        assert store is store.revocations.resource
        await store.revocations.refresh()
        assert not store.revocations.covers(**token)
    await here.revocations.revoke_key("https://i", "k")
    assert (True, False) == (here.revocations.stale, there.revocations.stale)
    clock.advance(1.0)
    assert (True, True) == (here.revocations.stale, there.revocations.stale)
    for store in (here, there):
        await store.revocations.refresh()
        assert store.revocations.covers(**token)
    await here.aclose()
    await there.aclose()


async def test_what_was_revoked_is_revoked_after_the_store_was_closed(path: Path) -> None:
    async with open_store(f"sqlite:///{path}", deadline=PATIENCE) as store:
        made = await store.revocations.revoke_token("https://i", "j")
    async with open_store(f"sqlite:///{path}", deadline=PATIENCE) as store:
        assert (made,) == (await store.revocations.list()).revocations
        await store.revocations.refresh()
        assert store.revocations.covers(tenant="default", issuer="https://i", jti="j", subject=None, issued_at=None, kid=None)


async def test_a_store_that_waits_for_its_file_refuses_to_say_what_is_revoked_within_the_deadline(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(url, deadline=PATIENCE)
    await store.start()
    await store.revocations.refresh()
    await store.revocations.revoke_token("https://i", "j")
    allowed: list[float] = []

    async def wait() -> None:
        allowed.append(anyio.current_effective_deadline() - anyio.current_time())
        await anyio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(store.revocations._store, "live", wait)
        patch.setattr(store.revocations, "_deadline", 0.01)
        with anyio.fail_after(5), pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store.revocations.refresh()
    assert store.revocations.stale
    assert allowed[0] <= 0.01
    await store.aclose()


async def test_a_store_that_fails_denies_what_it_had_let_through(path: Path) -> None:
    clock = ManualClock()
    store = open_store(f"sqlite:///{path}", deadline=PATIENCE, clock=clock)
    created = await store.keys.create()
    assert created.key is not None
    presented = created.key.encode()
    assert store.keys.verifier.judge(await store.keys.verifier.verify(presented)) is None
    for left in path.parent.iterdir():
        left.unlink()
    path.write_bytes(b"no database any more" * 1000)
    clock.advance(1.0)
    with pytest.raises(Denial) as caught:
        await store.keys.verifier.verify(presented)
    assert "store_unavailable" == caught.value.reason
    with pytest.raises(StoreCorruptError):
        await store.aclose()
