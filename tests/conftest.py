import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.peers.needs import need

if TYPE_CHECKING:
    from tests.peers.postgres import PostgresPeer
    from tests.peers.valkey import ValkeyPeer

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts a runner in the background lets it ignore Ctrl-C, and the programs that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is; pytest's own limit ends what hangs.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"), pytest.param("trio", id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[PostgresPeer]":
    """One PostgreSQL server for all tests that need one: see `tests/peers/postgres.py`."""
    need("asyncpg")
    from tests.peers.postgres import postgres  # noqa: PLC0415 - imports asyncpg

    with postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: "PostgresPeer") -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    name = postgres_server.make_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def valkey_server() -> "Iterator[ValkeyPeer]":
    """One Valkey server for all tests that leave it running: see `tests/peers/valkey.py`."""
    from tests.peers.valkey import valkey  # noqa: PLC0415 - beside the peers that other tests need

    with valkey() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: "ValkeyPeer") -> str:
    """The URL of an empty database."""
    valkey_server.ask("FLUSHALL")
    return valkey_server.url
