"""Real servers on loopback, each a process of its own: what in-process drivers cannot show."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

HOST: Final = "127.0.0.1"

ServerName: TypeAlias = Literal["uvicorn-h11", "uvicorn-httptools", "hypercorn", "granian"]
SERVERS: Final[tuple[ServerName, ...]] = get_args(ServerName)

_COMMANDS: Final[dict[ServerName, str]] = {
    "uvicorn-h11": "uvicorn {app} --host {host} --port {port} --http h11 --log-level warning --timeout-graceful-shutdown 1",
    "uvicorn-httptools": "uvicorn {app} --host {host} --port {port} --http httptools --log-level warning --timeout-graceful-shutdown 1",
    "hypercorn": "hypercorn {app} --bind {host}:{port} --log-level warning --graceful-timeout 1",
    "granian": "granian {app} --host {host} --port {port} --interface asgi --log-level warning --workers-kill-timeout 1",
}
_PAUSE: Final = 0.02
_GRACE: Final = 5.0


class ServerNotReady(Exception):  # noqa: N818 - what happened, with what the server wrote
    """The server ended, or did not answer in time. The text ends with what it wrote."""


class RunningServer:
    """A server that answers. Made by `serve`.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        url: The same, as `http://127.0.0.1:PORT`.
        process: Its process.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process: Final = process
        self.port: Final = port
        self.url: Final = f"http://{HOST}:{port}"
        self._log: Final = log

    @property
    def output(self) -> str:
        """What it has written so far, to standard output and standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self, path: str, limit: float) -> None:
        """Ask for `path` until there is an answer, whatever its status.

        Raises:
            ServerNotReady: the server ended, or did not answer within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while not self._answers(path, max(_PAUSE, deadline - time.monotonic())):
            if self._ended_within(_PAUSE):
                raise ServerNotReady(f"the server ended with {self.process.returncode}:\n{self.output}")
            if time.monotonic() > deadline:
                raise ServerNotReady(f"the server did not answer within {limit:g} s:\n{self.output}")

    def stop(self) -> None:
        """End it, by its process id. `serve` does so at the end of its block."""
        self.process.terminate()
        if not self._ended_within(_GRACE):
            # The group is the server's own, so this also ends the workers that it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self, path: str, limit: float) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=limit)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


@contextlib.contextmanager
def serve(
    app: str,
    *,
    server: ServerName = "uvicorn-h11",
    directory: Path | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    ready: str = "/",
    time_limit: float = 30.0,
    python: str = sys.executable,
) -> Generator[RunningServer]:
    """Start a server for an app on a free port of 127.0.0.1, wait until it answers, and end it at the end of the block.

    Args:
        app: Where the app is: `module:name`.
        server: Which server; its package must be installed.
        directory: Where the module is, if it is not installed.
        env: Environment variables on top of this process's own.
        options: More arguments for the server's command line.
        ready: The path that is asked until there is an answer, whatever its status.
        time_limit: Seconds until it must answer.
        python: The interpreter that runs it: this one, or that of another virtual environment.

    Raises:
        ServerNotReady: it ended, or did not answer in time.
    """
    path = [str(directory)] if directory is not None else []
    path += [entry for entry in [os.environ.get("PYTHONPATH", "")] if entry]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **(env or {})}
    with tempfile.TemporaryDirectory(prefix="authmw-server-") as scratch:
        running = _start(app, server, environment, options, Path(scratch, "output"), python)
        try:
            running.wait_until_ready(ready, time_limit)
            yield running
        finally:
            running.stop()


def _start(app: str, server: ServerName, environment: dict[str, str], options: Sequence[str], log: Path, python: str) -> RunningServer:
    port = _free_port()
    command = _COMMANDS[server].format(app=app, host=HOST, port=port).split(" ")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the command is our own, and no shell reads it
            [python, "-m", *command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return RunningServer(process, port, log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
