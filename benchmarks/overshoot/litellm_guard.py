"""The LiteLLM proxy as a guard: its workers share a Valkey, and the upstream is a server of its own, which nobody kills."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from benchmarks.overshoot.asks import CEILINGS, INPUT_NANO, MODEL, OUTPUT_NANO
from benchmarks.overshoot.books import Books, total
from benchmarks.overshoot.fleet import ROOT, Program
from benchmarks.overshoot.guards import Guard, until_still
from benchmarks.overshoot.notes import read
from benchmarks.overshoot.stores import DURABLE
from llm_authmw.testing.servers import serve
from tests.peers.litellm_proxy import VARIABLE
from tests.peers.valkey import ValkeyPeer, valkey

START: Final = 180.0
"""Seconds until it must answer. Importing it takes most of them, and four do it at once."""


def interpreter() -> str | None:
    """Return the interpreter that has LiteLLM, where there is one: `make litellm` makes it."""
    python = os.environ.get(VARIABLE) or str(ROOT / ".venv-litellm" / "bin" / "python")
    return python if Path(python).is_file() else None


@contextlib.contextmanager
def litellm(python: str, folder: Path, limit: int) -> Generator[Guard]:
    """Make LiteLLM ready.

    Args:
        python: The interpreter that has it.
        folder: Where everything is noted.
        limit: The budget in nano-dollars.
    """
    key = f"sk-{secrets.token_urlsafe(32)}"
    counter = f"spend:key:{hashlib.sha256(key.encode()).hexdigest()}"
    noted = {"OVERSHOOT_FOLDER": str(folder)}
    upstream = serve("benchmarks.overshoot.upstream:app", directory=ROOT, env=noted, options=("--factory",))
    with valkey(*DURABLE) as server, upstream as provider:
        config = folder / "litellm.yaml"
        config.write_text(json.dumps(_config(provider.url, server.url)), encoding="utf-8")
        env = {
            **noted,
            "OVERSHOOT_NANO": str(limit),
            "OVERSHOOT_KEY": key,
            "CONFIG_FILE_PATH": str(config),
            "LITELLM_MASTER_KEY": f"sk-{secrets.token_urlsafe(32)}",
            # Otherwise it fetches a list of prices before it starts.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }

        async def books() -> Books:
            return Books(_used(server, counter), total(read(folder, "charge")))

        yield Guard(
            "LiteLLM proxy",
            key,
            Program(
                "benchmarks.overshoot.litellm_worker:app",
                env,
                ready="/health/liveliness",
                options=("--lifespan", "on"),
                python=python,
                time_limit=START,
            ),
            lambda: until_still(lambda: _used(server, counter)),
            books,
            # Not restarted: LiteLLM deletes a counter that it could not write, and reads it back from the database that it has not here.
        )


def _used(server: ValkeyPeer, counter: str) -> int:
    """Return what LiteLLM's own counter says, in nano-dollars."""
    lines = server.ask("GET", counter).split(b"\r\n")
    return round(float(lines[1]) * 1e9) if len(lines) > 2 else 0


def _config(provider: str, redis: str) -> dict[str, Any]:
    prices = {"input_cost_per_token": INPUT_NANO / 1e9, "output_cost_per_token": OUTPUT_NANO / 1e9}
    return {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{provider}/v1", "api_key": "sk-none", **prices},
                "model_info": {"mode": "chat", "max_output_tokens": max(CEILINGS), **prices},
            }
        ],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "litellm_settings": {"num_retries": 0},
        "general_settings": {
            "master_key": "os.environ/LITELLM_MASTER_KEY",
            "custom_auth": "benchmarks.overshoot.litellm_worker.authenticate",
            "custom_auth_run_common_checks": True,
            "coordination_redis": {"url": redis},
        },
    }
