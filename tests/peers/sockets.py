"""uvicorn on a UNIX socket: where a front proxy on the same machine reaches an app, and nobody else does."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final

from llm_authmw.testing.servers import RunningServer

LIMIT: Final = 30.0


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, limit: float) -> None:
        super().__init__("localhost", timeout=limit)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SocketServer(RunningServer):
    """A server on a UNIX socket. It has no port, and its `url` leads nowhere.

    Attributes:
        path: The socket.
        upstream: The same, as `nginx` wants it.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path, log: Path) -> None:
        super().__init__(process, 0, log)
        self.path: Final = path
        self.upstream: Final = f"http://unix:{path}:"

    def _answers(self, path: str, limit: float) -> bool:
        connection = _SocketConnection(self.path, limit)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True


@contextlib.contextmanager
def serve_on_socket(
    app: str, *, directory: Path, env: Mapping[str, str] | None = None, options: Sequence[str] = (), ready: str = "/"
) -> Generator[SocketServer]:
    """Start uvicorn (h11) for an app on a UNIX socket, wait until it answers, and end it at the end of the block.

    Proves what an app sees of a peer that has no address: `scope["client"]` is None, or what `X-Forwarded-For` says if
    uvicorn is told to trust it.

    Args:
        app: Where the app is: `module:name`.
        directory: Where the module is.
        env: Environment variables on top of this process's own.
        options: More arguments for the server's command line.
        ready: The path that is asked until there is an answer, whatever its status.
    """
    # The names of sockets are at most about 100 characters long, so pytest's folders are too deep.
    with tempfile.TemporaryDirectory(prefix="authmw-") as scratch:
        path, log = Path(scratch, "app.sock"), Path(scratch, "output")
        command = [sys.executable, "-m", "uvicorn", app, "--uds", str(path), "--http", "h11", "--log-level", "warning"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), *_inherited()]), **(env or {})}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--timeout-graceful-shutdown", "1", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        running = SocketServer(process, path, log)
        try:
            running.wait_until_ready(ready, LIMIT)
            yield running
        finally:
            running.stop()


def _inherited() -> list[str]:
    return [entry for entry in [os.environ.get("PYTHONPATH", "")] if entry]
