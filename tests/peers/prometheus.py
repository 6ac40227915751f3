"""Prometheus: it fetches what an app measures, and answers questions about it."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import httpx

from llm_authmw.testing.servers import HOST, RunningServer, _free_port
from tests.peers.needs import need, program

LIMIT: Final = 30.0
"""Seconds until it must answer, and until it must have fetched something. It takes about one."""
INTERVAL: Final = "1s"
"""Between two fetches."""
_PAUSE: Final = 0.1


class Prometheus:
    """A Prometheus that runs.

    Attributes:
        server: The process: `.output` is what it has written.
    """

    def __init__(self, server: RunningServer) -> None:
        self.server: Final = server
        self._client: Final = httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=LIMIT)

    def wait_until_ready(self) -> None:
        """Wait until it has read what it keeps: before that it answers, and has no answer to any question."""
        deadline = time.monotonic() + LIMIT
        while self._client.get("/-/ready").status_code != 200:
            if time.monotonic() > deadline:
                raise AssertionError(f"it is not ready:\n{self.server.output}")
            time.sleep(_PAUSE)

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Return what it answers: labels and figures."""
        answer = self._get("/api/v1/query", query=query)
        return [(one["metric"], float(one["value"][1])) for one in answer["result"]]

    def wait_for(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Ask until there is an answer, since it comes by only now and then; fail after a limit, with what is known of the fetches."""
        deadline = time.monotonic() + LIMIT
        while not (found := self.ask(query)):
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer to {query}: {self.targets()}\n{self.server.output}")
            time.sleep(_PAUSE)
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return what it fetches, and how that went."""
        targets: list[dict[str, Any]] = self._get("/api/v1/targets")["activeTargets"]
        return targets

    def metadata(self) -> dict[str, Any]:
        """Return what it was told of each metric."""
        found: dict[str, Any] = self._get("/api/v1/metadata")
        return found

    def close(self) -> None:
        """Close the connections to it."""
        self._client.close()

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]


@contextlib.contextmanager
def prometheus(target: str, *, path: str = "/metrics", bearer: str | None = None) -> Generator[Prometheus]:
    """Start Prometheus, which fetches from a target, on a free port of 127.0.0.1; end it, by its process id, with the block.

    Proves that what we write is what it reads: names, kinds, labels, units, compression and the credential that a guarded endpoint asks
    for.

    Skips the test if it is missing, and fails it in CI.

    Args:
        target: The app: `127.0.0.1:PORT`.
        path: Where it answers with what it measures.
        bearer: The credential that is shown.
    """
    need(programs=["prometheus"])
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="authmw-prometheus-") as scratch:
        folder = Path(scratch)
        (folder / "prometheus.yml").write_text(_configuration(target, path, bearer), encoding="utf-8")
        running = _start(folder, port)
        try:
            running.wait_until_ready("/-/ready", LIMIT)
            peer = Prometheus(running)
            with contextlib.closing(peer):
                peer.wait_until_ready()
                yield peer
        finally:
            running.stop()


def _start(folder: Path, port: int) -> RunningServer:
    log = folder / "output"
    command = [
        program("prometheus") or "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ), start_new_session=True
        )
    return RunningServer(process, port, log)


def _configuration(target: str, path: str, bearer: str | None) -> str:
    credential = "" if bearer is None else f"authorization: {{credentials: {bearer}}}"
    return f"""
global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}}}
scrape_configs:
  - job_name: authmw
    metrics_path: {path}
    {credential}
    static_configs: [{{targets: ["{target}"]}}]
"""
