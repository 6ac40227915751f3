"""PgBouncer as the pooler before PostgreSQL: it lends a connection for one transaction, and the next one may be another."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from llm_authmw.testing.servers import HOST, ServerNotReady, _free_port
from tests.peers.needs import need, program
from tests.peers.postgres import PASSWORD, PostgresPeer

LIMIT: Final = 10.0
"""Seconds until it must listen. It takes less than a tenth."""
CONNECTIONS: Final = 3
"""Connections to the server for all that come."""
_USER: Final = "nobody" if os.name == "posix" and os.geteuid() == 0 else None


@contextlib.contextmanager
def pgbouncer(server: PostgresPeer) -> Generator[int]:
    """Start PgBouncer before a server, on a free port of 127.0.0.1, and return the port; end it, by its process id, with the block.

    Proves that nothing of ours outlives a transaction on a connection: prepared statements, settings, locks.

    Skips the test if it is missing, and fails it in CI.
    """
    need(programs=["pgbouncer"])
    port = _free_port()
    folder = Path(tempfile.mkdtemp(prefix="authmw-pgbouncer-"))
    (folder / "users").write_text(f'"postgres" "{PASSWORD}"\n', encoding="utf-8")
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={HOST} port={server.port}
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {CONNECTIONS}
""",
        encoding="utf-8",
    )
    if _USER is not None:
        shutil.chown(folder, _USER)
    command = [program("pgbouncer") or "pgbouncer", str(folder / "pgbouncer.ini")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True, user=_USER
        )
    try:
        _wait_until_it_listens(process, port, folder / "log")
        yield port
    finally:
        process.terminate()
        process.wait(LIMIT)
        shutil.rmtree(folder)


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), LIMIT):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerNotReady(f"PgBouncer did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")
        time.sleep(0.02)
