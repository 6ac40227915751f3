"""What the ledger leaves on the server."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from llm_authmw.errors import InvalidValueError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import REMEMBERED
from llm_authmw.stores.redis import RedisLedger
from llm_authmw.testing.servers import _free_port
from tests.peers.valkey import ValkeyPeer

pytestmark = pytest.mark.anyio

MINUTE = 60 * SECOND
FOR_EVER = (Span(0, 2**53),)

Make = Callable[..., RedisLedger]
MakeBucket = Callable[..., Bucket]


@pytest.fixture
def server(valkey_server: ValkeyPeer) -> Iterator[Any]:
    with redis.Redis(port=valkey_server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
async def window(ledger: RedisLedger, bucket: MakeBucket) -> Bucket:
    """A bucket whose present window ends in a minute, by the server's clock."""
    now = (await ledger.reserve("now", [Claim(bucket(), 0)], ttl=1)).at
    return bucket("money", kind="window", measure="nano_usd", spans=(Span(now - MINUTE, now + MINUTE),))


def kinds(bucket: MakeBucket) -> list[Bucket]:
    return [
        bucket("rate", kind="rolling", burst=100, period=MINUTE),
        bucket("slots", kind="lease", measure="concurrent"),
        bucket(),
    ]


async def test_nothing_stays_for_ever_but_what_is_counted_for_ever(
    ledger: RedisLedger, window: Bucket, bucket: MakeBucket, server: Any
) -> None:
    claims = [Claim(asked, 50) for asked in (window, *kinds(bucket))]
    await ledger.reserve("settled", claims, ttl=MINUTE)
    await ledger.settle("settled", {"tokens": 20, "nano_usd": 20})
    await ledger.reserve("held", claims, ttl=MINUTE)
    day, slack = REMEMBERED // SECOND, 60
    assert day + slack >= server.ttl("{llm-authmw}:lease:t\tslots") > day
    server.expire("{llm-authmw}:lease:t\tslots", 100)
    await ledger.extend(["held"], ttl=2 * MINUTE)
    seconds = {key.partition(":")[2].partition("\t")[0]: server.ttl(key) for key in server.scan_iter()}
    expected = {
        "lifetime:t": -1,
        "rolling:t": 42 + slack,
        "lease:t": day + slack,
        "window:t": 60 + 2 * day + slack,
        "reservation:now": day + slack,
        "reservation:settled": day + slack,
        "reservation:held": 120 + day + slack,
    }
    assert expected.keys() == seconds.keys()
    for name, ttl in expected.items():
        assert ttl - 10 <= seconds[name] <= ttl + 1, name


async def test_a_bucket_that_stands_at_nothing_leaves_nothing(ledger: RedisLedger, bucket: MakeBucket, server: Any) -> None:
    await ledger.reserve("r", [Claim(bucket(), 5), Claim(kinds(bucket)[1], 1)], ttl=MINUTE)
    await ledger.settle("r", {"tokens": 0})
    assert ["{llm-authmw}:reservation:r"] == list(server.scan_iter())


async def test_what_is_refused_or_looked_at_leaves_nothing(ledger: RedisLedger, bucket: MakeBucket, server: Any) -> None:
    assert not (await ledger.reserve("r", [Claim(bucket(), 1), Claim(kinds(bucket)[1], 101)], ttl=MINUTE)).granted
    await ledger.extend(["r"], ttl=MINUTE)
    await ledger.balance([bucket()])
    assert [] == list(server.scan_iter())


async def test_what_is_void_is_forgotten_after_a_day(ledger: RedisLedger, server: Any) -> None:
    assert await ledger.settle("r", {}) is None
    assert 86_400 <= server.ttl("{llm-authmw}:reservation:r") <= 86_400 + 60


async def test_no_two_buckets_share_a_key(ledger: RedisLedger, bucket: MakeBucket) -> None:
    alike = [bucket("b:c", tenant="a"), bucket("c", tenant="a:b"), bucket("b:c}", tenant="{a"), bucket("1-2", tenant="a")]
    alike += [bucket("a", kind="lease", measure="concurrent"), bucket("a", kind="rolling", burst=100, period=REMEMBERED)]
    for number, asked in enumerate(alike):
        await ledger.reserve(f"r{number}", [Claim(asked, number + 1)], ttl=MINUTE)
    assert [1, 2, 3, 4, 5, 6] == [balance.used for balance in await ledger.balance(alike)]


async def test_one_claim_may_take_several_places_and_they_end_together(
    valkey_url: str, make_ledger: Make, bucket: MakeBucket, server: Any
) -> None:
    ledger = make_ledger(valkey_url)
    slots = bucket("slots", limit=2**53, kind="lease", measure="concurrent")
    await ledger.reserve("a", [Claim(slots, 1000)], ttl=MINUTE)
    await ledger.reserve("b", [Claim(slots, 3)], ttl=MINUTE)
    assert frozenset({"b"}) == await ledger.extend(["b"], ttl=2 * MINUTE)
    key = "{llm-authmw}:lease:t\tslots"
    assert [3, 1003] == [server.zcount(key, first, "+inf") for first in (int(server.time()[0]) * SECOND + 90 * SECOND, 0)]
    await ledger.settle("a", {})
    assert 3 == (await ledger.balance([slots]))[0].used
    with pytest.raises(InvalidValueError, match="at most 1000 places"):
        await ledger.reserve("c", [Claim(bucket(), 1), Claim(slots, 1001)], ttl=MINUTE)
    assert [0, 3] == [balance.used for balance in await ledger.balance([bucket(), slots])]


async def test_places_that_came_to_their_end_are_cleared_by_whoever_comes_next(
    ledger: RedisLedger, bucket: MakeBucket, server: Any
) -> None:
    slots = bucket("slots", kind="lease", measure="concurrent")
    for number in range(5):
        assert (await ledger.reserve(f"r{number}", [Claim(slots, 20)], ttl=1)).granted
    assert (await ledger.reserve("next", [Claim(slots, 1)], ttl=MINUTE)).granted
    assert ["{llm-authmw}:reservation:next"] == server.zrange("{llm-authmw}:lease:t\tslots", 0, -1)


async def test_a_bucket_that_is_full_again_when_no_double_can_say_so_is_refused(ledger: RedisLedger, bucket: MakeBucket) -> None:
    slow = bucket("slow", limit=1, kind="rolling", burst=1, period=2**53)
    with pytest.raises(InvalidValueError, match="in debt for longer than can be counted"):
        await ledger.reserve("r", [Claim(bucket(), 1), Claim(slow, 1)], ttl=MINUTE)
    assert 0 == (await ledger.balance([bucket()]))[0].used


async def test_a_settlement_of_a_window_that_is_gone_says_what_it_was_itself(ledger: RedisLedger, window: Bucket, server: Any) -> None:
    await ledger.reserve("r", [Claim(window, 50)], ttl=MINUTE)
    server.delete(*server.scan_iter("*window*"))
    settlement = await ledger.settle("r", {"nano_usd": 30})
    assert settlement is not None
    assert 30 == settlement.balances[0].used
    assert 0 == (await ledger.balance([window]))[0].used


async def test_more_than_one_script_takes_at_once_are_extended_and_looked_at(ledger: RedisLedger, bucket: MakeBucket) -> None:
    ids = [f"r{number}" for number in range(1100)]
    await ledger.reserve("r7", [Claim(bucket("b7"), 7)], ttl=MINUTE)
    await ledger.reserve("r1099", [Claim(bucket("b1099"), 9)], ttl=MINUTE)
    assert frozenset({"r7", "r1099"}) == await ledger.extend(ids, ttl=2 * MINUTE)
    balances = await ledger.balance([bucket(f"b{number}") for number in range(1100)])
    assert (1100, 7, 9) == (len(balances), balances[7].used, balances[1099].used)
    assert frozenset() == await ledger.extend([], ttl=MINUTE)


async def test_a_cluster_takes_all_of_it_on_one_node_whoever_the_tenants_are(
    own_server: Callable[..., ValkeyPeer], make_ledger: Make, bucket: MakeBucket
) -> None:
    server = own_server("--cluster-enabled", "yes", "--cluster-port", str(_free_port()))
    ledger = make_ledger(server.url)
    with pytest.raises(StoreUnavailableError, match="its cluster is down"):
        await ledger.start()
    server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    while b"cluster_state:ok" not in server.ask("CLUSTER", "INFO"):
        pass
    claims = [Claim(bucket("x", tenant=tenant, kind="rolling", burst=9, period=MINUTE), 1) for tenant in ("a", "b", "{c}", "global")]
    claims += [Claim(bucket("y", tenant="d", kind="lease", measure="concurrent"), 1), Claim(bucket("z", tenant="e"), 1)]
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    assert frozenset({"r"}) == await ledger.extend(["r", "s"], ttl=2 * MINUTE)
    assert await ledger.settle("r", {"tokens": 0}) is not None
    assert 1 == len({server.ask("CLUSTER", "KEYSLOT", f"{{llm-authmw}}:{name}") for name in ("mark", "reservation:r", "lease:{c}\ty")})


async def test_in_a_cluster_the_node_that_has_the_ledger_is_found_and_found_again(
    own_server: Callable[..., ValkeyPeer], make_ledger: Make, bucket: MakeBucket
) -> None:
    bus = _free_port()
    server = own_server("--cluster-enabled", "yes", "--cluster-port", str(_free_port()))
    other = own_server("--cluster-enabled", "yes", "--cluster-port", str(bus))
    slot = int(server.ask("CLUSTER", "KEYSLOT", "{llm-authmw}:").strip(b":\r\n"))
    server.ask("CLUSTER", "ADDSLOTSRANGE", "0", str(slot - 1), str(slot + 1), "16383")
    other.ask("CLUSTER", "ADDSLOTS", str(slot))
    server.ask("CLUSTER", "MEET", "127.0.0.1", str(other.port), str(bus))
    while any(b"cluster_state:ok" not in node.ask("CLUSTER", "INFO") for node in (server, other)):
        pass
    ledger = make_ledger(server.url)
    assert (await ledger.reserve("r", [Claim(bucket(), 7)], ttl=MINUTE)).granted
    assert (b":0\r\n", b":2\r\n") == (server.ask("DBSIZE"), other.ask("DBSIZE"))
    # The slot moves to the first node, and the one that had it is gone before it can say so.
    other.ask("FLUSHALL")
    own = server.ask("CLUSTER", "MYID").split()[1].decode()
    for node in (server, other):
        node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", own)
    other.kill()
    assert (await ledger.reserve("s", [Claim(bucket(), 7)], ttl=MINUTE)).granted
    assert b":2\r\n" == server.ask("DBSIZE")
