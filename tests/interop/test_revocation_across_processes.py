"""What one process changes about a key counts in every other process within the stated bound, open streams and sockets included.

The command line, a process of its own, changes the keys. Four servers, each a process of its own, must follow.
"""

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import TaskGroup
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from llm_authmw import CreatedKey, open_store
from llm_authmw.testing.servers import SERVERS, RunningServer, ServerName

pytestmark = pytest.mark.anyio

BOUND = 1.0
"""Seconds within which a change counts: what stores say unless they are told otherwise."""
ALLOWANCE = 1.0
"""Seconds for everything else, on a machine that is busy with other things."""
LIMIT = 10.0
ENOUGH = 5
"""Requests that show what is the case."""

Servers = dict[ServerName, RunningServer]
CommandLine = Callable[..., dict[str, Any]]
MakeKey = Callable[..., Awaitable[CreatedKey]]
names = (f"act{number}" for number in itertools.count())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the client for sockets knows no other


@pytest.fixture(scope="module")
def servers(start_server: Callable[..., RunningServer], store_url: str) -> Iterator[Servers]:
    running: Servers = {name: start_server("lab:app", server=name, env={"AUTHMW_STORE": store_url}) for name in SERVERS}
    yield running
    for server in running.values():
        server.stop()
        assert "Traceback" not in server.output


@pytest.fixture(scope="module")
def make_key(store_url: str, new_key: Callable[..., CreatedKey]) -> MakeKey:
    async def make(**fields: Any) -> CreatedKey:
        return await anyio.to_thread.run_sync(functools.partial(new_key, store_url, **fields))

    return make


@pytest.fixture(scope="module")
def other_key(store_url: str, new_key: Callable[..., CreatedKey]) -> str:
    """A key that nobody changes."""
    return str(new_key(store_url).key)


class Poll(NamedTuple):
    sent: float
    status: int
    told: Any


class End(NamedTuple):
    """How a stream or a socket ended: when, with which close code (of a socket), and what it said last."""

    at: float
    code: int | None
    said: str | None


class Exposed:
    """One key in use at one server: requests one after the other, streams and sockets that are busy, and some that idle.

    A stream of another key beats time. It also keeps what the process knows of the store fresh, as other people's traffic does.
    """

    def __init__(self, server: RunningServer, key: str, other_key: str) -> None:
        self.polls: list[Poll] = []
        self.heard: Counter[str] = Counter()
        self.ends: dict[str, End] = {}
        self.acts: dict[str, str] = {}
        self._server = server
        self._key = key
        self._other_key = other_key
        self._beat = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            self.start(tasks, self.listen, "busy stream", "/ticks")
            self.start(tasks, self.listen, "idle stream", "/idle")
            self.start(tasks, self.listen, "stream of a promised length", "/promised")
            self.start(tasks, self.converse, "busy socket", "/socket", self._say)
            self.start(tasks, self.converse, "idle socket", "/socket")
            self.start(tasks, self.converse, "pushing socket", "/push")
            await self._ask()

    def start(self, tasks: TaskGroup, work: Callable[..., Coroutine[Any, Any, None]], what: str, *arguments: Any) -> None:
        self.acts[what] = next(names)
        tasks.start_soon(work, what, *arguments)

    def _client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._server.url, headers={"x-api-key": key}, trust_env=False, verify=False, timeout=LIMIT)

    async def _ask(self) -> None:
        async with (
            self._client(self._key) as client,
            self._client(self._other_key) as other,
            other.stream("GET", f"/ticks/{next(names)}") as ticks,
        ):
            async for _ in ticks.aiter_lines():
                sent = time.monotonic()
                answer = await client.get("/who")
                self.polls.append(Poll(sent, answer.status_code, answer.json()))
                beat, self._beat = self._beat, anyio.Event()
                beat.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._beat.wait()

    async def listen(self, what: str, path: str) -> None:
        said = ""
        async with self._client(self._key) as client, client.stream("GET", f"{path}/{self.acts[what]}") as answer:
            assert answer.status_code == 200
            try:
                async for line in answer.aiter_lines():
                    self.heard[what] += 1
                    said = line or said
            except httpx.RemoteProtocolError:
                said = "cut off"
        self.ends[what] = End(time.monotonic(), None, said.removeprefix("data: "))

    async def converse(self, what: str, path: str, say: Callable[[ClientConnection], Awaitable[None]] | None = None) -> None:
        url = f"{self._server.url.replace('http', 'ws', 1)}{path}/{self.acts[what]}"
        async with connect(url, additional_headers={"x-api-key": self._key}, proxy=None, close_timeout=LIMIT) as socket:
            try:
                while True:
                    await socket.recv()
                    self.heard[what] += 1
                    if say is not None:
                        await say(socket)
            except ConnectionClosed:
                self.ends[what] = End(time.monotonic(), socket.close_code, socket.close_reason)
            finally:
                # A test that has seen enough cancels this: the farewell is said all the same, or the connection would be left
                # open when the loop is closed, and its server would find it broken in the middle of a message.
                with anyio.CancelScope(shield=True):
                    await socket.close()

    async def _say(self, socket: ClientConnection) -> None:
        await self._beat.wait()
        await socket.send("still there")

    def has_polled(self, times: int) -> bool:
        return len(self.polls) >= times

    def is_in_use(self) -> bool:
        return self.has_polled(ENOUGH) and set(self.acts) == set(self.heard)

    def has_ended(self) -> bool:
        return set(self.acts) == set(self.ends) and 200 not in {poll.status for poll in self.polls[-ENOUGH:]}

    def is_told(self, limits: list[str]) -> bool:
        return bool(limits == self.polls[-1].told["limits"])

    def goes_on(self, heard: Counter[str]) -> bool:
        return all(self.heard[what] > heard[what] + ENOUGH for what in self.acts if "idle" not in what)

    async def assert_the_app_has_noticed(self) -> None:
        async with self._client(self._other_key) as client:
            for act in self.acts.values():
                assert 200 == (await client.get(f"/end/{act}")).status_code

    def assert_ended(self, *, by: float) -> None:
        first = next(number for number, poll in enumerate(self.polls) if poll.status != 200)
        assert self.polls[first].sent < by
        assert {(401, "invalid_api_key")} == {(poll.status, poll.told["reason"]) for poll in self.polls[first:]}
        for what, end in self.ends.items():
            assert end.at < by, what
            if what == "stream of a promised length":
                assert "cut off" == end.said
            elif "stream" in what:
                assert {"status": 401, "reason": "invalid_api_key"}.items() <= json.loads(end.said or "").items(), what
            else:
                assert (1008, "invalid_api_key") == (end.code, end.said), what


@asynccontextmanager
async def in_use(servers: Servers, key: str, other_key: str) -> AsyncGenerator[list[Exposed]]:
    exposed = [Exposed(server, key, other_key) for server in servers.values()]
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for each in exposed:
                tasks.start_soon(each.run)
            for each in exposed:
                await each.until(each.is_in_use)
            yield exposed
            tasks.cancel_scope.cancel()


def by(*arguments: str) -> Any:
    return pytest.param(arguments, id=" ".join(arguments))


@pytest.mark.parametrize(
    "change",
    [
        by("keys", "revoke", "ID"),
        by("keys", "block", "ID"),
        by("keys", "update", "ID", "--expires", "now"),
        by("keys", "rotate", "ID", "--grace", "0s"),
        by("accounts", "block", "team", "TEAM"),
    ],
)
async def test_a_key_that_another_process_ends_is_refused_within_the_bound_and_what_is_open_is_closed(
    servers: Servers, store_url: str, make_key: MakeKey, command_line: CommandLine, other_key: str, change: tuple[str, ...]
) -> None:
    team = next(names)
    created = await make_key(team=team)
    async with open_store(store_url) as store:
        await store.accounts.create("team", team)
    told = [{"ID": created.record.id, "TEAM": team}.get(argument, argument) for argument in change]
    async with in_use(servers, str(created.key), other_key) as exposed:
        await anyio.to_thread.run_sync(command_line, *told)
        acknowledged = time.monotonic()
        for each in exposed:
            await each.until(each.has_ended)
        for each in exposed:
            each.assert_ended(by=acknowledged + BOUND + ALLOWANCE)
            await each.assert_the_app_has_noticed()


async def test_a_key_that_expires_while_others_keep_the_process_busy_ends_what_it_has_open(
    servers: Servers, make_key: MakeKey, other_key: str
) -> None:
    expires_at = time.time() + 2
    created = await make_key(expires_at=expires_at)
    async with in_use(servers, str(created.key), other_key) as exposed:
        expiry = time.monotonic() + expires_at - time.time()
        for each in exposed:
            await each.until(each.has_ended)
        for each in exposed:
            assert {200} == {poll.status for poll in each.polls if poll.sent < expiry - ALLOWANCE / 2}
            each.assert_ended(by=expiry + BOUND + ALLOWANCE)


async def test_a_changed_limit_is_seen_within_the_bound_and_closes_nothing(
    servers: Servers, make_key: MakeKey, command_line: CommandLine, other_key: str
) -> None:
    created = await make_key(limits=["5 requests/minute"])
    changed = ["7 requests/minute"]
    async with in_use(servers, str(created.key), other_key) as exposed:
        await anyio.to_thread.run_sync(command_line, "keys", "update", created.record.id, "--limit", *changed)
        acknowledged = time.monotonic()
        for each in exposed:
            await each.until(functools.partial(each.is_told, changed))
        for each in exposed:
            await each.until(functools.partial(each.goes_on, each.heard.copy()))
        for each in exposed:
            assert {} == each.ends
            first = next(number for number, poll in enumerate(each.polls) if poll.told["limits"] == changed)
            assert each.polls[first].sent < acknowledged + BOUND + ALLOWANCE
            assert all(poll.told["limits"] == changed for poll in each.polls[first:])


async def test_streams_that_idle_end_as_soon_as_requests_are_refused_whenever_they_were_opened(
    servers: Servers, make_key: MakeKey, command_line: CommandLine, other_key: str
) -> None:
    created = await make_key()
    async with (
        in_use({"uvicorn-h11": servers["uvicorn-h11"]}, str(created.key), other_key) as (exposed,),
        anyio.create_task_group() as tasks,
    ):
        # Several beats between one and the next, so that their looks at the key are spread over the bound.
        for number in range(10):
            exposed.start(tasks, exposed.listen, f"idle stream {number}", "/idle")
            await exposed.until(functools.partial(exposed.has_polled, len(exposed.polls) + 4))
        await anyio.to_thread.run_sync(command_line, "keys", "revoke", created.record.id)
        await exposed.until(exposed.has_ended)
        refused = next(poll.sent for poll in exposed.polls if poll.status != 200)
        exposed.assert_ended(by=refused + ALLOWANCE / 2)
