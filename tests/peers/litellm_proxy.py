"""The LiteLLM proxy as the app behind our layers, in a process and a virtual environment of its own: it is large, and pins much.

`AUTHMW_LITELLM_PYTHON` names the interpreter of that environment, which `make litellm` makes.
"""

import contextlib
import os
import secrets
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import httpx
import pytest

from llm_authmw.testing.servers import RunningServer, serve

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
VARIABLE: Final = "AUTHMW_LITELLM_PYTHON"
LIMIT: Final = 90.0
"""Seconds until it must answer. Importing it takes most of them."""


class LiteLLMProxy:
    """A LiteLLM proxy that runs behind our layers.

    Attributes:
        url: Where it is, as `http://127.0.0.1:PORT`.
        keys: The key of each role of the app: "member", "reader", "operator".
        master_key: What LiteLLM itself asks for, which no caller has.
        server: The process.
    """

    def __init__(self, server: RunningServer, keys: dict[str, str], master_key: str) -> None:
        self.url: Final = server.url
        self.keys: Final = keys
        self.master_key: Final = master_key
        self.server: Final = server

    def reached(self) -> list[str]:
        """Return what has come through to LiteLLM so far, each as `METHOD /path`."""
        answer: list[str] = httpx.get(f"{self.url}/reached", trust_env=False, timeout=10).json()
        return answer


def interpreter() -> str:
    """Return the interpreter that has LiteLLM; where there is none skip the test, and fail it in CI, which installs it."""
    python = os.environ.get(VARIABLE) or str(ROOT / ".venv-litellm" / "bin" / "python")
    if not Path(python).is_file():
        complaint = f"needs what is not installed: litellm[proxy] (make litellm, or {VARIABLE} names an interpreter that has it)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(complaint)
    return python


def serve_beside_litellm(
    app: str, *, directory: Path, env: Mapping[str, str], ready: str = "/v1/models"
) -> AbstractContextManager[RunningServer]:
    """Serve an app that imports LiteLLM's, with the tests' configuration of it; the arguments are those of `serve`."""
    environment = {
        "LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}",
        "CONFIG_FILE_PATH": str(HERE / "litellm.yaml"),
        # Otherwise it fetches a list of prices before it starts.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        **env,
    }
    options = ("--lifespan", "on")
    return serve(app, directory=directory, python=interpreter(), env=environment, options=options, ready=ready, time_limit=LIMIT)


@contextlib.contextmanager
def litellm_proxy() -> Generator[LiteLLMProxy]:
    """Start a LiteLLM proxy behind our layers, wait until it answers, and end it at the end of the block."""
    keys = {name: secrets.token_urlsafe(32) for name in ("member", "reader", "operator")}
    master_key = f"sk-{secrets.token_urlsafe(32)}"
    environment = {**{f"{name.upper()}_KEY": key for name, key in keys.items()}, "LITELLM_MASTER_KEY": master_key}
    with serve_beside_litellm("guarded_litellm:app", directory=HERE / "apps", env=environment, ready="/reached") as server:
        yield LiteLLMProxy(server, keys, master_key)
