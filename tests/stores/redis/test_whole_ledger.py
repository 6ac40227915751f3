"""A ledger that holds money in Redis: what it asks of the server, and what it does when that has lost something."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Claim
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import ValkeyPeer

pytestmark = pytest.mark.anyio

MINUTE = 60 * SECOND
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")

Make = Callable[..., RedisLedger]
Servers = Callable[..., ValkeyPeer]


async def used(ledger: RedisLedger, claims: Sequence[Claim]) -> list[int]:
    return [balance.used for balance in await ledger.balance([claim.bucket for claim in claims])]


async def denied(ledger: RedisLedger, claims: Sequence[Claim]) -> None:
    for step in (
        ledger.start(),
        ledger.reserve("denied", claims, ttl=MINUTE),
        ledger.settle("r", {"tokens": 0}),
        ledger.extend(["r"], ttl=MINUTE),
        ledger.balance([claims[0].bucket]),
    ):
        with pytest.raises(StoreUnavailableError, match=r"has lost what was counted.*acknowledged it with RedisLedger.acknowledge\(\)"):
            await step


async def test_a_new_ledger_grants_nothing_until_it_is_acknowledged(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server(*DURABLE)
    ledger = make_ledger(server.url, whole=True)
    await denied(ledger, claims)
    await ledger.acknowledge()
    await ledger.start()
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    assert [10, 10, 10] == await used(make_ledger(server.url, whole=True), claims)


async def test_a_restart_that_lost_nothing_is_not_noticed(own_server: Servers, make_ledger: Make, claims: Sequence[Claim]) -> None:
    server = own_server(*DURABLE)
    ledger = make_ledger(server.url, whole=True)
    await ledger.acknowledge()
    reservation = await ledger.reserve("r", claims, ttl=MINUTE)
    server.restart()
    assert reservation == await ledger.reserve("r", claims, ttl=MINUTE)
    assert frozenset({"r"}) == await ledger.extend(["r"], ttl=2 * MINUTE)
    settlement = await ledger.settle("r", {"tokens": 7})
    server.restart()
    assert settlement == await ledger.settle("r", {"tokens": 8})
    assert [7, 7, 0] == await used(ledger, claims)


async def test_a_restart_that_lost_everything_is_noticed_by_all(own_server: Servers, make_ledger: Make, claims: Sequence[Claim]) -> None:
    server = own_server(*DURABLE)
    ledger = make_ledger(server.url, whole=True)
    await ledger.acknowledge()
    await ledger.reserve("r", claims, ttl=MINUTE)
    server.restart(empty=True)
    await denied(ledger, claims)
    await denied(make_ledger(server.url, whole=True), claims)
    await make_ledger(server.url, whole=True).acknowledge()
    assert [0, 0, 0] == await used(ledger, claims)
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted


@pytest.mark.parametrize("step", ["reserve", "settle", "extend"])
async def test_a_restart_that_lost_one_step_is_noticed_and_then_denied_to_all(
    step: str, own_server: Servers, make_ledger: Make, claims: Sequence[Claim], tmp_path: Path
) -> None:
    server = own_server(*DURABLE)
    ledger, witness = make_ledger(server.url, whole=True), make_ledger(server.url, whole=True)
    await ledger.acknowledge()
    await ledger.reserve("r", claims, ttl=MINUTE)
    await witness.start()
    server.kill()
    shutil.copytree(server.folder, tmp_path / "earlier")
    server.start()
    if step == "reserve":
        await ledger.reserve("s", claims, ttl=MINUTE)
    elif step == "settle":
        await ledger.settle("r", {})
    else:
        await ledger.extend(["r"], ttl=2 * MINUTE)
    server.kill()
    server.empty()
    shutil.copytree(tmp_path / "earlier", server.folder, dirs_exist_ok=True)
    server.start()
    await witness.start()  # which had seen no more than is there
    await denied(ledger, claims)
    await denied(witness, claims)
    await ledger.acknowledge()
    assert [10, 10, 10] == await used(witness, claims)


async def test_an_answer_that_is_repeated_is_no_loss(own_server: Servers, make_ledger: Make, claims: Sequence[Claim]) -> None:
    server = own_server(*DURABLE)
    ledger = make_ledger(server.url, whole=True)
    await ledger.acknowledge()
    for _ in range(3):
        assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    for _ in range(3):
        assert await ledger.settle("r", {}) is not None
    assert await ledger.settle("unknown", {}) is None
    await make_ledger(server.url, whole=True).start()


async def test_a_server_that_does_not_write_to_its_disk_is_refused_for_money_and_not_for_rates(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server()
    money = make_ledger(server.url, whole=True)
    for step in (money.start(), money.acknowledge(), money.reserve("r", claims, ttl=MINUTE)):
        with pytest.raises(StoreUnavailableError, match=r"keeps nothing when it restarts \(appendonly no\).*set appendonly yes"):
            await step
    assert (await make_ledger(server.url).reserve("r", claims, ttl=MINUTE)).granted
    server.ask("CONFIG", "SET", "appendonly", "yes")
    await money.acknowledge()
    assert (await money.reserve("r", claims, ttl=MINUTE)).granted


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-ttl"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_server_that_drops_keys_when_it_is_full_is_refused(
    policy: str, whole: bool, valkey_server: ValkeyPeer, valkey_url: str, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    ledger = make_ledger(valkey_url, whole=whole)
    valkey_server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        for step in (ledger.start(), ledger.reserve("r", claims, ttl=MINUTE)):
            with pytest.raises(StoreUnavailableError, match=rf"maxmemory-policy {policy}.*set maxmemory-policy noeviction"):
                await step
    finally:
        valkey_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_there_is_nothing_to_acknowledge_of_what_may_be_lost(ledger: RedisLedger) -> None:
    with pytest.raises(ConfigurationError, match="nothing to acknowledge"):
        await ledger.acknowledge()
