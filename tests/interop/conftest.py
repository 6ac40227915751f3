import functools
import importlib.util
import json
import os
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

APPS = Path(__file__).parent / "apps"
PACKAGES: dict[ServerName, tuple[str, ...]] = {
    "uvicorn-h11": ("uvicorn", "h11", "websockets", "wsproto"),
    "uvicorn-httptools": ("uvicorn", "httptools", "websockets"),
    "hypercorn": ("hypercorn", "h2"),
    "granian": ("granian",),
}


def need(*packages: str) -> None:
    """Skip the test if a package is missing, and fail it in CI, which installs all of them."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs what is not installed: {', '.join(missing)}")


@pytest.fixture(scope="session", name="need")
def need_() -> Callable[..., None]:
    return need


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers for the apps in `apps/`, with the arguments of `llm_authmw.testing.servers.serve`; ends them with the module."""
    with ExitStack() as running:

        def start(app: str, *, server: ServerName = "uvicorn-h11", **options: Any) -> RunningServer:
            need(*PACKAGES[server])
            return running.enter_context(serve(app, server=server, directory=APPS, **options))

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
