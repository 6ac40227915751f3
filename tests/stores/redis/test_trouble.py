"""What the server, or the way to it, can do to a ledger."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Measure
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import ValkeyPeer

pytestmark = pytest.mark.anyio

MINUTE = 60 * SECOND
ROOT = Path(__file__).parents[3]
LIMIT = 10.0
"""Seconds within which what has a deadline of a tenth of one must have ended, on the busiest of machines."""

Make = Callable[..., RedisLedger]
Servers = Callable[..., ValkeyPeer]


async def used(ledger: RedisLedger, claims: Sequence[Claim]) -> list[int]:
    return [balance.used for balance in await ledger.balance([claim.bucket for claim in claims])]


async def answers(ledger: RedisLedger) -> bool:
    try:
        await ledger.start()
    except StoreError:
        return False
    return True


class Proxy:
    """Stands between a ledger and its server, and loses answers: the server did what it was told, and the connection breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.lost = 0
        """Answers that are still to be lost."""
        self.connections = 0
        self.generation = 0
        """Over connections of an earlier one nothing comes, nor do they break: a host that is gone without a word."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(ConnectionError):
            async with anyio.create_task_group() as group:
                group.start_soon(self._forward, reader, server_writer, group.cancel_scope)
                group.start_soon(self._answer, server_reader, writer, group.cancel_scope)
        for ended in (writer, server_writer):
            ended.close()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, scope: anyio.CancelScope) -> None:
        while data := await source.read(65536):
            target.write(data)
        scope.cancel()

    async def _answer(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, scope: anyio.CancelScope) -> None:
        since = self.generation
        while data := await source.read(65536):
            if since != self.generation:
                continue
            if self.lost:
                self.lost -= 1
                break
            target.write(data)
        scope.cancel()


async def test_a_server_that_is_killed_is_unavailable_and_used_again_when_it_is_back(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server("--appendonly", "yes", "--appendfsync", "always")
    ledger = make_ledger(server.url)
    first = await ledger.reserve("r", claims, ttl=MINUTE)
    server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=rf"^redis at 127.0.0.1:{server.port}/0 cannot be reached"):
            await ledger.settle("r", {"tokens": 1})
    server.start()
    assert first == await ledger.reserve("r", claims, ttl=MINUTE)
    assert await ledger.settle("r", {"tokens": 1}) is not None
    assert [1, 1, 0] == await used(ledger, claims)


async def test_counters_that_may_be_lost_begin_anew_when_the_server_lost_them(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server()
    ledger = make_ledger(server.url)
    await ledger.reserve("r", claims, ttl=MINUTE)
    server.restart(empty=True)
    assert await ledger.settle("r", {}) is None
    assert frozenset() == await ledger.extend(["r"], ttl=MINUTE)
    assert [0, 0, 0] == await used(ledger, claims)
    assert (await ledger.reserve("s", claims, ttl=MINUTE)).granted


async def test_a_frozen_server_keeps_nobody_for_longer_than_the_deadline(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server()
    ledger = make_ledger(server.url, deadline=0.1)
    while not await answers(ledger):  # the machine may be busy
        pass
    server.freeze()
    with anyio.fail_after(LIMIT):
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="did not answer in time"):
                await ledger.reserve("r", claims, ttl=MINUTE)
    patient = make_ledger(server.url, deadline=None)
    with anyio.move_on_after(0.05) as scope:
        await patient.reserve("r", claims, ttl=MINUTE)
    assert scope.cancelled_caught


async def test_what_a_frozen_server_does_when_it_goes_on_is_booked_once(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server()
    ledger = make_ledger(server.url)
    await ledger.reserve("settled", claims, ttl=MINUTE)
    server.freeze()
    for _ in range(3):
        with anyio.move_on_after(0.05):
            await ledger.reserve("r", claims, ttl=MINUTE)
        with anyio.move_on_after(0.05):
            await ledger.settle("settled", {"tokens": 30})
    server.thaw()
    settlement = await ledger.settle("settled", {"tokens": 30})
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    assert settlement == await ledger.settle("settled", {"tokens": 7})
    assert [40, 40, 10] == await used(ledger, claims)


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    ledger: RedisLedger, valkey_server: ValkeyPeer, claims: Sequence[Claim]
) -> None:
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    assert b"+OK\r\n" == valkey_server.ask("SCRIPT", "FLUSH")
    assert (await ledger.reserve("s", claims, ttl=MINUTE)).granted
    assert [20, 20, 20] == await used(ledger, claims)


async def test_an_answer_that_was_lost_is_asked_for_again_and_nothing_is_booked_twice(
    valkey_server: ValkeyPeer, valkey_url: str, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    direct, proxy = make_ledger(valkey_url), Proxy(valkey_server.port)
    async with proxy.running() as url:
        ledger = make_ledger(url)
        await ledger.start()
        for step in range(1, 5):
            proxy.lost = 1
            reservation = await ledger.reserve(f"r{step}", claims, ttl=MINUTE)
            assert reservation.granted
            assert 0 == proxy.lost
            assert [10 * step] * 3 == await used(direct, claims)
            assert reservation == await direct.reserve(f"r{step}", claims, ttl=MINUTE)
        proxy.lost = 1
        assert frozenset({"r1", "r2"}) == await ledger.extend(["r1", "r2"], ttl=2 * MINUTE)
        proxy.lost = 1
        settlement = await ledger.settle("r1", {"tokens": 12})
        assert settlement == await direct.settle("r1", {"tokens": 1})
        assert [42, 42, 30] == await used(direct, claims)
        await ledger.aclose()


async def test_a_way_that_loses_every_answer_is_tried_three_times_and_what_was_done_is_done_once(
    valkey_server: ValkeyPeer, valkey_url: str, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    direct, proxy = make_ledger(valkey_url), Proxy(valkey_server.port)
    async with proxy.running() as url:
        ledger = make_ledger(url)
        await ledger.start()
        before, proxy.lost = proxy.connections, 99
        with pytest.raises(StoreUnavailableError, match="cannot be reached, or closed the connection"):
            await ledger.reserve("r", claims, ttl=MINUTE)
        assert 2 == proxy.connections - before
        proxy.lost = 0
        assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
        await ledger.aclose()
    assert [10, 10, 10] == await used(direct, claims)


async def test_one_connection_that_has_gone_silent_is_enough_to_know_of_the_others(
    valkey_server: ValkeyPeer, valkey_url: str, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    proxy = Proxy(valkey_server.port)
    nothing: dict[Measure, int] = {}
    async with proxy.running() as url:
        ledger = make_ledger(url, deadline=None)
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ledger.settle, f"unknown-{number}", nothing)
        assert 10 == proxy.connections
        proxy.generation += 1
        with anyio.move_on_after(0.05) as scope:
            await ledger.reserve("r", claims, ttl=MINUTE)
        assert scope.cancelled_caught
        with anyio.fail_after(LIMIT):
            assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
        await ledger.aclose()


async def test_of_five_hundred_at_once_exactly_as_many_are_let_through_as_fit(ledger: RedisLedger, bucket: Callable[..., Bucket]) -> None:
    wanted = (Claim(bucket("few", 1000), 7), Claim(bucket("slots", 450, kind="lease", measure="concurrent"), 1))
    granted: list[str] = []

    async def ask(name: str) -> None:
        if (await ledger.reserve(name, wanted, ttl=MINUTE)).granted:
            granted.append(name)

    async with anyio.create_task_group() as group:
        for number in range(500):
            group.start_soon(ask, f"r{number}")
    assert 142 == len(granted)
    assert [994, 142] == await used(ledger, wanted)


async def test_no_more_connections_are_opened_than_there_may_be(valkey_server: ValkeyPeer, valkey_url: str, make_ledger: Make) -> None:
    ledger = make_ledger(valkey_url, connections=3)

    nothing: dict[Measure, int] = {}

    def received() -> int:
        stats = valkey_server.ask("INFO", "stats").decode()
        return int(stats.partition("total_connections_received:")[2].split()[0])

    before = received()
    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(ledger.settle, f"r{number}", nothing)
    assert 3 == received() - before - 1  # the last one asks


async def test_a_replica_is_refused_by_who_connects_and_by_who_was_connected(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server()
    ledger, late = make_ledger(server.url), make_ledger(server.url)
    await ledger.start()
    server.ask("REPLICAOF", "127.0.0.1", "1")
    for one in (ledger, late):
        with pytest.raises(StoreReadOnlyError, match="is a replica, which cannot be written"):
            await one.reserve("r", claims, ttl=MINUTE)
    server.ask("REPLICAOF", "NO", "ONE")
    for one in (ledger, late):
        assert (await one.reserve("r", claims, ttl=MINUTE)).granted


async def test_a_server_without_memory_books_nothing(own_server: Servers, make_ledger: Make, claims: Sequence[Claim]) -> None:
    server = own_server()
    ledger = make_ledger(server.url)
    await ledger.start()
    server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailableError, match="has no memory left, and took nothing"):
        await ledger.reserve("r", claims, ttl=MINUTE)
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert [0, 0, 0] == await used(ledger, claims)
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted


async def test_somebody_elses_values_are_no_ledger(ledger: RedisLedger, valkey_server: ValkeyPeer, claims: Sequence[Claim]) -> None:
    valkey_server.ask("LPUSH", "{llm-authmw}:reservation:r", "1")
    with pytest.raises(StoreCorruptError, match="holds something else where the ledger should be"):
        await ledger.settle("r", {})
    valkey_server.ask("SET", "{llm-authmw}:lifetime:t\tever", "many")
    with pytest.raises(StoreError, match="refused a step of the ledger"):
        await ledger.reserve("s", claims, ttl=MINUTE)
    assert [0, 0] == await used(ledger, claims[1:])


async def test_no_password_is_in_what_is_said_of_a_server(own_server: Servers, make_ledger: Make, claims: Sequence[Claim]) -> None:
    server = own_server("--requirepass", "right")
    address = server.url.partition("//")[2]
    good = make_ledger(f"redis://:right@{address}")
    assert (await good.reserve("r", claims, ttl=MINUTE)).granted
    for credentials in ("", ":hunter2@", "nobody:hunter2@"):
        bad = make_ledger(f"redis://{credentials}{address}")
        with pytest.raises(StoreError, match="refuses this user") as caught:
            await bad.reserve("s", claims, ttl=MINUTE)
        told = "".join(traceback.format_exception(caught.value)) + repr(bad) + repr(vars(bad))
        assert "hunter2" not in told
    server.kill()
    with pytest.raises(StoreUnavailableError) as caught:
        await good.settle("r", {})
    assert "right" not in "".join(traceback.format_exception(caught.value)).replace("Copyright", "")


async def test_one_ledger_serves_two_event_loops_after_one_another(valkey_url: str, make_ledger: Make, claims: Sequence[Claim]) -> None:
    ledger = make_ledger(valkey_url)

    async def elsewhere() -> bool:
        try:
            return (await ledger.reserve("r", claims, ttl=MINUTE)).granted
        finally:
            await ledger.aclose()

    for _ in range(3):
        assert await anyio.to_thread.run_sync(asyncio.run, elsewhere())
    assert await elsewhere()
    assert 1 == len([loop for loop in ledger._client._loops if not loop.is_closed()])
    assert 2 >= len(ledger._client._loops)
    assert [10, 10, 10] == await used(ledger, claims)


async def test_a_user_with_the_rights_that_the_page_names_can_do_all_of_it_and_nothing_else(
    own_server: Servers, make_ledger: Make, claims: Sequence[Claim]
) -> None:
    server = own_server("--appendonly", "yes")
    rights = "~{llm-authmw}:* +@scripting +@string +@sortedset +@keyspace +info +time +select"
    assert rights in (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
    server.ask("ACL", "SETUSER", "proxy", "on", ">right", *rights.split())
    server.ask("ACL", "SETUSER", "reader", "on", ">right", "~*", "+info", "+@read")
    address = server.url.partition("//")[2]
    ledger = make_ledger(f"redis://proxy:right@{address}", whole=True)
    await ledger.acknowledge()
    assert (await ledger.reserve("r", claims, ttl=MINUTE)).granted
    assert frozenset({"r"}) == await ledger.extend(["r"], ttl=2 * MINUTE)
    assert await ledger.settle("r", {"tokens": 0}) is not None
    assert [0, 0, 0] == await used(ledger, claims)
    with pytest.raises(StoreError, match="does not let this user run scripts, INFO, or commands on the ledger's keys"):
        await make_ledger(f"redis://reader:right@{address}").reserve("s", claims, ttl=MINUTE)
