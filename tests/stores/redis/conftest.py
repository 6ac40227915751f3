from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import ValkeyPeer, valkey


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": False}  # redis-py knows no trio


@pytest.fixture
async def make_ledger(anyio_backend: Any) -> AsyncIterator[Callable[..., RedisLedger]]:
    """Makes ledgers, and closes them. They wait for long, so that a busy machine fails no test that is not about that."""
    async with AsyncExitStack() as closing:

        def make(url: str, **options: Any) -> RedisLedger:
            values: dict[str, Any] = {"deadline": 20.0, **options}
            ledger = RedisLedger(url, **values)
            closing.push_async_callback(ledger.aclose)
            return ledger

        yield make


@pytest.fixture
def ledger(make_ledger: Callable[..., RedisLedger], valkey_url: str) -> RedisLedger:
    return make_ledger(valkey_url)


@pytest.fixture
def own_server() -> Iterator[Callable[..., ValkeyPeer]]:
    """Starts servers with options, which the test may ill-treat, and ends them."""
    with ExitStack() as running:
        yield lambda *options: running.enter_context(valkey(*options))


@pytest.fixture
def bucket() -> Callable[..., Bucket]:
    def make(name: str = "ever", limit: int = 100, **fields: Any) -> Bucket:
        values: dict[str, Any] = {"tenant": "t", "kind": "lifetime", "measure": "tokens", **fields}
        return Bucket(name=name, limit=limit, **values)

    return make


@pytest.fixture
def claims(bucket: Callable[..., Bucket]) -> tuple[Claim, ...]:
    """Ten of a bucket of each kind but windows, which need a time."""
    return (
        Claim(bucket(), 10),
        Claim(bucket("rate", kind="rolling", burst=100, period=86_400 * SECOND), 10),
        Claim(bucket("slots", kind="lease", measure="concurrent"), 10),
    )
