import functools
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from llm_authmw import CreatedKey, open_store
from llm_authmw.testing.servers import RunningServer, ServerName, serve
from tests.peers import issuers
from tests.peers.certificates import Certificates
from tests.peers.issuers import HostileIssuer, OidcProvider
from tests.peers.needs import need
from tests.peers.nginx import FrontProxy, nginx
from tests.peers.sockets import SocketServer, serve_on_socket

APPS = Path(__file__).parent / "apps"
PEER_APPS = Path(issuers.__file__).parent / "apps"
PACKAGES: dict[ServerName, tuple[str, ...]] = {
    "uvicorn-h11": ("uvicorn", "h11", "websockets", "wsproto"),
    "uvicorn-httptools": ("uvicorn", "httptools", "websockets"),
    "hypercorn": ("hypercorn", "h2"),
    "granian": ("granian",),
}


@pytest.fixture(scope="module", autouse=True)
def what_is_left_open_is_told_of_in_its_own_module() -> Iterator[None]:
    """A connection that nobody closed is complained of when it is collected, which else may be hundreds of tests later."""
    yield
    gc.collect()


@pytest.fixture(scope="session", name="need")
def need_() -> Callable[..., None]:
    return need


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers for the apps in `apps/`, with the arguments of `llm_authmw.testing.servers.serve`; ends them with the module."""
    with ExitStack() as running:

        def start(app: str, *, server: ServerName = "uvicorn-h11", directory: Path = APPS, **options: Any) -> RunningServer:
            need(*PACKAGES[server])
            return running.enter_context(serve(app, server=server, directory=directory, **options))

        yield start


@pytest.fixture(scope="session")
def make_client() -> Callable[..., httpx.Client]:
    """Makes clients for servers on loopback: there is no certificate to verify, and loading those takes longer than a test."""
    return functools.partial(httpx.Client, trust_env=False, verify=False, timeout=10)


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/authmw.db"


@pytest.fixture(scope="session")
def new_key() -> Callable[..., CreatedKey]:
    """Makes a key in the store at a URL, in this process, which is none of the servers'."""

    def make(url: str, **fields: Any) -> CreatedKey:
        async def made() -> CreatedKey:
            async with open_store(url) as store:
                return await store.keys.create(**fields)

        return anyio.run(made)

    return make


@pytest.fixture(scope="module")
def command_line(store_url: str) -> Callable[..., dict[str, Any]]:
    """Runs `llm-authmw` on the module's store, and returns what it says."""

    def run(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "llm_authmw.cli", *arguments, "--store", store_url, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture(scope="session")
def the_oidc_provider() -> Iterator[OidcProvider]:
    with issuers.oidc_provider() as running:
        yield running


@pytest.fixture
def oidc_provider(the_oidc_provider: OidcProvider) -> Iterator[OidcProvider]:
    """The run's oidc-provider, without troubles. Its keys, tokens and counts of hits are those that earlier tests left."""
    yield the_oidc_provider
    the_oidc_provider.reset()


@pytest.fixture(scope="session")
def the_hostile_issuer() -> Iterator[HostileIssuer]:
    with issuers.hostile_issuer() as running:
        yield running


@pytest.fixture
def hostile_issuer(the_hostile_issuer: HostileIssuer) -> Iterator[HostileIssuer]:
    """The run's hostile issuer, without troubles and lies, until the test asks for them."""
    yield the_hostile_issuer
    the_hostile_issuer.reset()


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(scope="module")
def start_nginx() -> Iterator[Callable[..., FrontProxy]]:
    """Starts front proxies, with the arguments of `tests.peers.nginx.nginx`; ends them with the module."""
    with ExitStack() as running:

        def start(upstream: str, **options: Any) -> FrontProxy:
            return running.enter_context(nginx(upstream, **options))

        yield start


@pytest.fixture(scope="module")
def start_on_socket() -> Iterator[Callable[..., SocketServer]]:
    """Starts apps of `apps/` on UNIX sockets, with the arguments of `tests.peers.sockets.serve_on_socket`; ends them with the module."""
    with ExitStack() as running:

        def start(app: str, *, directory: Path = APPS, **options: Any) -> SocketServer:
            need(*PACKAGES["uvicorn-h11"])
            return running.enter_context(serve_on_socket(app, directory=directory, **options))

        yield start


@pytest.fixture(scope="session")
def login_service() -> Iterator[RunningServer]:
    """The login service that front proxies ask: `tests/peers/apps/login.py`."""
    need(*PACKAGES["uvicorn-h11"])
    with serve("login:app", directory=PEER_APPS) as running:
        yield running
