"""A server whose counters are killed, frozen, emptied or locked: a clear refusal in time, or none where the operator says so.

Afterwards everything goes on by itself, and what is booked is what the provider was used for: nothing twice, and nothing left held.
"""

import contextlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import anyio
import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from llm_authmw.testing.servers import RunningServer
from tests.peers.valkey import ValkeyPeer, valkey

if TYPE_CHECKING:
    from tests.peers.postgres import PostgresPeer  # which imports asyncpg

SAID = "Hello from gpt-4o-mini: hi there"
TOKENS = 2 + 5
COST = 2 * 1_000 + 5 * 100_000
"""Nano-dollars of one answer."""
WHOLE = 100_000_000_000
"""Nano-dollars of the budget."""
SLOTS = 20
"""Requests that may be under way at once. What a frozen store had been asked for takes some, until it hears that nobody waits for it."""
DEADLINE = 0.25
"""Seconds that a request waits for the store: what stores say unless they are told otherwise."""
IN_TIME = 3.0
"""Seconds until a client has its answer at the latest, on a machine that is busy."""
OFTEN = 40
LIMIT = 20.0
"""Seconds after which something that was waited for is taken to be missing."""

Trouble: TypeAlias = Callable[[], AbstractContextManager[object]]


class Peers(NamedTuple):
    """What is counted in, and what may happen to it."""

    environment: dict[str, str]
    killed: Trouble
    frozen: Trouble
    valkey: ValkeyPeer | None = None


class Front:
    """A server, and one who calls it."""

    def __init__(self, server: RunningServer, client: httpx.Client) -> None:
        self.server = server
        self.client = client
        self._unused = self._probe().remaining

    def state(self) -> Any:
        return self.client.get("/state").json()

    def ask(self) -> httpx.Response:
        """Ask for an answer, and look at how long it takes."""
        asked = time.monotonic()
        answer = self.client.post("/v1/chat/completions", json=chat())
        assert time.monotonic() - asked < IN_TIME
        return answer

    def assert_served(self, times: int = 1) -> None:
        for _ in range(times):
            answer = self.ask()
            assert 200 == answer.status_code, (answer.text, self.server.output)
            assert SAID == answer.json()["choices"][0]["message"]["content"]

    def assert_refused(self, times: int) -> None:
        for _ in range(times):
            answer = self.ask()
            told = (answer.status_code, answer.headers.get("x-authmw-reason"), answer.headers.get("retry-after"))
            assert (503, "ledger_unavailable", "1") == told

    def assert_served_again(self) -> None:
        until = time.monotonic() + LIMIT
        while (answer := self.ask()).status_code != 200:
            assert (503, "ledger_unavailable") == (answer.status_code, answer.headers["x-authmw-reason"])
            assert time.monotonic() < until

    @contextlib.contextmanager
    def streaming(self, name: str) -> Generator[Iterator[str]]:
        """Begin a stream, and hold it behind its first event; the block may let it go on."""
        with self.client.stream("POST", "/v1/chat/completions", json=chat(stream=True), headers={"x-wait": name}) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: {")
            yield lines

    def let_go(self, name: str, lines: Iterator[str]) -> None:
        """Let a stream go on, and read it to its end."""
        self.client.post(f"/go/{name}")
        assert "data: [DONE]" == [line for line in lines if line][-1]

    def wait_until_booked(self, served: int, *, counted: int | None = None) -> None:
        """Wait until so many answers are booked and nothing else, in money and in tokens, and nothing is held."""
        expected = Booked(WHOLE - served * COST, TOKENS * (served if counted is None else counted), SLOTS - 1)
        until = time.monotonic() + LIMIT
        while (booked := self.booked()) != expected or self.held():
            assert time.monotonic() < until, (booked, expected, self.state())

    def booked(self) -> "Booked | None":
        told = self._probe()
        return None if told.left is None else Booked(told.left, self._unused - told.remaining, told.slots)

    def held(self) -> int:
        state = self.state()
        return int(state["money"]["held"] + state["rates"]["held"])

    def _probe(self) -> "Told":
        """Ask for what is more than the whole budget: the refusal says what is left of it, and of the limits."""
        told = self.client.post("/v1/chat/completions", json=chat(max_tokens=1_100_000)).headers
        if told.get("x-authmw-reason") != "request_exceeds_budget" or "ratelimit" not in told:
            return Told(None, 0, 0)  # one of the two layers has not been answered
        left, slots = re.search(r";left=(\d+)(?:\.(\d+))?;", told["x-authmw-budget"]), re.search(r'concurrent";r=(\d+)', told["ratelimit"])
        assert left is not None
        assert slots is not None
        return Told(int(left[1] + (left[2] or "").ljust(9, "0")), int(told["x-ratelimit-remaining-tokens"]), int(slots[1]))


class Told(NamedTuple):
    left: int | None
    remaining: int
    slots: int


class Booked(NamedTuple):
    """What the stores say: nano-dollars that are left, tokens that were used, and how many more requests there may be at once."""

    left: int
    tokens: int
    slots: int


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi there"}], "max_tokens": 50, **fields}


@contextlib.contextmanager
def killed(peer: ValkeyPeer) -> Generator[None]:
    peer.kill()
    try:
        yield
    finally:
        peer.start()


@contextlib.contextmanager
def frozen(peer: ValkeyPeer) -> Generator[None]:
    peer.freeze()
    try:
        yield
    finally:
        peer.thaw()


@contextlib.contextmanager
def frozen_database(peer: "PostgresPeer") -> Generator[None]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(peer.frozen()):
        yield


@contextlib.contextmanager
def locked(file: Path) -> Generator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def acknowledge(url: str) -> None:
    """Say that a ledger is new, or lacks what it lacks."""
    from llm_authmw.stores.redis import RedisLedger  # noqa: PLC0415 - where its extra is missing, the tests that use it are skipped

    async def acknowledged() -> None:
        ledger = RedisLedger(url, whole=True)
        try:
            await ledger.acknowledge()
        finally:
            await ledger.aclose()

    anyio.run(acknowledged)


@pytest.fixture
def make_peers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Peers]]:
    """Starts what a ledger may be counted in, by name."""
    file = tmp_path / "authmw.db"
    with ExitStack() as running:

        def make(name: str) -> Peers:
            environment = {"AUTHMW_STORE": f"sqlite:///{file}"}
            if name == "sqlite":
                return Peers(environment, killed=lambda: locked(file), frozen=lambda: locked(file))
            if name == "postgres":
                database: PostgresPeer = request.getfixturevalue("postgres_server")
                environment = {"AUTHMW_STORE": request.getfixturevalue("postgres_url")}
                return Peers(environment, killed=lambda: database.away(killed=True), frozen=lambda: frozen_database(database))
            whole = name == "valkey, all of it"
            peer = running.enter_context(valkey(*(["--appendonly", "yes", "--appendfsync", "always"] if whole else [])))
            environment["AUTHMW_LEDGER" if whole else "AUTHMW_COUNTERS"] = peer.url
            if whole:
                acknowledge(peer.url)
            return Peers(environment, killed=lambda: killed(peer), frozen=lambda: frozen(peer), valkey=peer)

        yield make


@pytest.fixture
def make_front(start_server: Callable[..., RunningServer], make_client: Callable[..., httpx.Client]) -> Iterator[Callable[..., Front]]:
    key = secrets.token_urlsafe(32)
    with ExitStack() as opened:
        fronts: list[Front] = []

        def make(peers: Peers, **environment: str) -> Front:
            given = {**peers.environment, "CALLER_KEY": key, **environment}
            server = start_server("trouble:app", server="uvicorn-httptools", env=given, ready="/state")
            client = opened.enter_context(make_client(base_url=server.url, headers={"x-api-key": key}))
            fronts.append(Front(server, client))
            return fronts[-1]

        yield make
    for front in fronts:
        front.server.stop()
        assert "Traceback" not in front.server.output
        assert key not in front.server.output


@pytest.mark.parametrize(
    ("store", "trouble"),
    [
        ("valkey, for rates", "killed"),
        ("valkey, for rates", "frozen"),
        ("valkey, all of it", "killed"),
        ("valkey, all of it", "frozen"),
        ("postgres", "killed"),
        ("postgres", "frozen"),
        ("sqlite", "frozen"),
    ],
)
def test_a_store_that_is_away_refuses_in_time_and_books_nothing_twice_when_it_is_back(
    make_peers: Callable[[str], Peers], make_front: Callable[..., Front], store: str, trouble: str
) -> None:
    peers = make_peers(store)
    front = make_front(peers)
    front.assert_served(3)
    with front.streaming("ends in trouble") as during, front.streaming("ends afterwards") as across:
        with getattr(peers, trouble)():
            front.assert_refused(3)
            # Three that had to wait are enough to know: the others are answered without asking.
            since = time.monotonic()
            front.assert_refused(OFTEN)
            assert time.monotonic() - since < OFTEN * DEADLINE / 2
            # Who is being served hears nothing of it.
            front.let_go("ends in trouble", during)
        front.assert_served_again()
        front.let_go("ends afterwards", across)
    front.assert_served(2)
    # What is counted in memory only is gone with the process that had it.
    forgotten = 3 + 2 if (store, trouble) == ("valkey, for rates", "killed") else 0
    front.wait_until_booked(8, counted=8 - forgotten)


@pytest.mark.parametrize(("store", "trouble"), [("valkey, all of it", "frozen"), ("postgres", "killed"), ("sqlite", "frozen")])
def test_where_the_operator_says_so_a_store_that_is_away_stops_nobody(
    make_peers: Callable[[str], Peers], make_front: Callable[..., Front], store: str, trouble: str
) -> None:
    peers = make_peers(store)
    front = make_front(peers, ON_STORE_FAILURE="allow")
    front.assert_served(2)
    with getattr(peers, trouble)():
        since = time.monotonic()
        front.assert_served(OFTEN)
        assert time.monotonic() - since < OFTEN * DEADLINE
    # What passed meanwhile is not counted, and what passes from now on is.
    front.wait_until_booked(2)
    front.assert_served(3)
    front.wait_until_booked(5)


def test_rates_that_are_lost_stop_nobody_and_take_no_money_with_them(
    make_peers: Callable[[str], Peers], make_front: Callable[..., Front]
) -> None:
    peers = make_peers("valkey, for rates")
    assert peers.valkey is not None
    front = make_front(peers)
    front.assert_served(3)
    with front.streaming("outlives its counters") as lines:
        peers.valkey.restart(empty=True)
        front.assert_served_again()
        front.let_go("outlives its counters", lines)
    front.wait_until_booked(5, counted=1)
    until = time.monotonic() + LIMIT
    while front.state()["rates"]["forgotten"] != 1:
        assert time.monotonic() < until


def test_money_that_is_lost_stops_everybody_until_somebody_has_looked(
    make_peers: Callable[[str], Peers], make_front: Callable[..., Front]
) -> None:
    peers = make_peers("valkey, all of it")
    assert peers.valkey is not None
    front = make_front(peers)
    front.assert_served(3)
    peers.valkey.restart(empty=True)
    served = front.state()["served"]
    front.assert_refused(OFTEN)
    assert served == front.state()["served"]
    acknowledge(peers.valkey.url)
    front.assert_served_again()
    front.wait_until_booked(1)


@pytest.mark.parametrize("store", ["valkey, all of it", "postgres"])
def test_a_store_that_was_away_while_nobody_asked_is_used_as_if_nothing_had_been(
    make_peers: Callable[[str], Peers], make_front: Callable[..., Front], store: str
) -> None:
    peers = make_peers(store)
    front = make_front(peers)
    front.assert_served(3)
    with peers.killed():
        pass
    front.assert_served_again()
    front.wait_until_booked(4)
