from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.testing.servers import RunningServer, serve

APPS = Path(__file__).parent / "apps"


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers for the apps in `apps/`, with the arguments of `llm_authmw.testing.servers.serve`; ends them with the module."""
    with ExitStack() as running:

        def start(app: str, **options: Any) -> RunningServer:
            return running.enter_context(serve(app, directory=APPS, **options))

        yield start
