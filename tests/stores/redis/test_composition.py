"""`open_store(…, counters=…)` and `open_store(…, ledger=…)`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from llm_authmw.errors import ConfigurationError, MissingExtraError, StoreError, StoreUnavailableError
from llm_authmw.ledger.buckets import Bucket, Claim
from llm_authmw.ledger.contract import Reservation
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.hold import Hold
from llm_authmw.stores import open_store
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import ValkeyPeer

pytestmark = pytest.mark.anyio

MakeBucket = Callable[..., Bucket]


async def test_rates_are_counted_in_redis_and_money_in_the_store(
    tmp_path: Path, valkey_url: str, make_ledger: Callable[..., RedisLedger], bucket: MakeBucket
) -> None:
    rate, money = bucket("rate"), bucket("money", measure="nano_usd")
    async with open_store(f"sqlite:///{tmp_path}/a.db", counters=valkey_url, deadline=10.0) as store:
        assert store.ledger.rates is not store.ledger.money
        assert isinstance(await store.ledger.rates.reserve([Claim(rate, 5)]), Hold)
        assert isinstance(await store.ledger.money.reserve([Claim(money, 7)]), Hold)
        assert [5, 0] == [balance.used for balance in await store.ledger.rates.balance([rate, money])]
        assert [0, 7] == [balance.used for balance in await store.ledger.money.balance([rate, money])]
    assert [5, 0] == [balance.used for balance in await make_ledger(valkey_url).balance([rate, money])]


async def test_the_whole_ledger_is_in_redis_once_that_is_acknowledged(
    tmp_path: Path, own_server: Callable[..., ValkeyPeer], make_ledger: Callable[..., RedisLedger], bucket: MakeBucket
) -> None:
    url = own_server("--appendonly", "yes").url
    store = open_store(f"sqlite:///{tmp_path}/a.db", ledger=url, deadline=10.0)
    with pytest.raises(StoreUnavailableError, match="acknowledge"):
        await store.start()
    await make_ledger(url, whole=True).acknowledge()
    async with store:
        assert store.ledger.rates is store.ledger.money
        hold = await store.ledger.money.reserve([Claim(bucket(), 7)])
        assert isinstance(hold, Hold)
        await store.ledger.money.settle(hold, {"tokens": 3})
    assert 3 == (await make_ledger(url, whole=True).balance([bucket()]))[0].used


async def test_what_nobody_waited_for_any_more_is_given_back(
    tmp_path: Path, own_server: Callable[..., ValkeyPeer], bucket: MakeBucket
) -> None:
    server, rate = own_server(), bucket("rate")
    async with open_store(f"sqlite:///{tmp_path}/a.db", counters=server.url, deadline=1.0) as store:
        rates = store.ledger.rates
        server.freeze()
        with anyio.fail_after(60.0):
            with pytest.raises(StoreUnavailableError):
                await rates.reserve([Claim(rate, 60)])
            server.thaw()
            while not isinstance(await reserved(rates, Claim(rate, 50)), Hold):
                await anyio.lowlevel.checkpoint()
        assert [50] == [balance.used for balance in await rates.balance([rate])]


async def reserved(rates: LedgerHandle, claim: Claim) -> Hold | Reservation | None:
    try:
        return await rates.reserve([claim])
    except StoreError:
        return None


async def test_a_server_that_is_down_stops_the_start_and_no_longer_than_it_takes(
    tmp_path: Path, own_server: Callable[..., ValkeyPeer]
) -> None:
    server = own_server()
    server.kill()
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await open_store(f"sqlite:///{tmp_path}/a.db", counters=server.url).start()


def test_counters_beside_a_ledger_would_be_ignored() -> None:
    with pytest.raises(ConfigurationError, match=r"^counters: would be ignored"):
        open_store("memory://", counters="redis://localhost", ledger="redis://localhost")


@pytest.mark.parametrize("option", ["counters", "ledger"])
def test_a_wrong_url_names_the_option_and_no_password(option: str) -> None:
    options: dict[str, Any] = {option: "http://:hunter2@localhost"}
    with pytest.raises(ConfigurationError, match=rf"^{option}: takes") as caught:
        open_store("memory://", **options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://:hunter2@localhost", "rediss://localhost", "unix:///run/valkey.sock"])
def test_redis_alone_is_no_store(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: .*counters= or ledger=") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("option", ["counters", "ledger"])
def test_without_the_extra_it_says_which_one_to_install(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llm_authmw.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    options: dict[str, Any] = {option: "redis://localhost"}
    with pytest.raises(MissingExtraError, match=rf"^{option}: .*llm-authmw\[redis\]"):
        open_store("memory://", **options)
