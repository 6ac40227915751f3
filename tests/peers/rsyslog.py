"""rsyslog, the receiver that most Linux machines have: over TCP and TLS, with octet-counted frames."""

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from llm_authmw.testing.servers import HOST, _free_port
from tests.peers.certificates import Certificates
from tests.peers.needs import need, program

LIMIT: Final = 10.0
"""Seconds until it must listen, or have written what was sent. It takes less than a tenth."""


class Rsyslog:
    """An rsyslogd that runs.

    Attributes:
        port: Where it listens.
        process: The process.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, file: Path, complaints: Path) -> None:
        self.port: Final = port
        self.process: Final = process
        self._file: Final = file
        self._complaints: Final = complaints

    def received(self, count: int) -> list[dict[str, Any]]:
        """Return what it has written once that are so many messages: for each the parts of its header, and the message.

        Raises:
            AssertionError: it has not within the limit.
        """
        deadline = time.monotonic() + LIMIT
        while True:
            # It writes a long burst in pieces: what stands behind the last end of line is not a message yet.
            *lines, _ = self._file.read_bytes().split(b"\n") if self._file.exists() else [b""]
            if len(lines) >= count:
                return [json.loads(line) for line in lines]
            assert time.monotonic() < deadline, f"{len(lines)} of {count} messages came; {self._complaints.read_text(errors='replace')}"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as an operator does: it writes what it has taken."""
        self.process.terminate()
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def rsyslog(*, certificates: Certificates | None = None, client_certificate: bool = False, port: int | None = None) -> Generator[Rsyslog]:
    """Start rsyslogd on loopback, wait until it listens, and end it at the end of the block.

    Proves how the most common receiver reads our frames: what it takes for one message, and what it understands of its header.
    Its limit for a message is the one that it has by itself.

    Args:
        certificates: For TLS; left out: TCP.
        client_certificate: Whether whoever connects must show a certificate that the authority has issued.
        port: Where it listens; left out: on a free port.
    """
    need(programs=["rsyslogd"], files=None if certificates is None else {"rsyslog-gnutls": "usr/lib*/*/rsyslog/lmnsd_gtls.so"})
    port = port or _free_port()
    with tempfile.TemporaryDirectory(prefix="authmw-") as scratch:
        folder = Path(scratch)
        configuration, output, complaints = folder / "rsyslog.conf", folder / "received", folder / "complaints"
        configuration.write_text(
            _configuration(folder, output, port, certificates, client_certificate=client_certificate), encoding="utf-8"
        )
        command = [str(program("rsyslogd")), "-n", "-f", str(configuration), "-i", str(folder / "pid")]
        with complaints.open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        running = Rsyslog(process, port, output, complaints)
        try:
            _wait_until_it_listens(running, complaints)
            yield running
        finally:
            running.stop()


def _configuration(folder: Path, output: Path, port: int, certificates: Certificates | None, *, client_certificate: bool) -> str:
    driver, tls = "", ""
    if certificates is not None:
        certificates.authority.cert_pem.write_to_path(folder / "authority.pem")
        certificates.server.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
        certificates.server.private_key_pem.write_to_path(folder / "key.pem")
        files = {"CA": "authority", "Cert": "certificate", "Key": "key"}
        driver = " ".join(f'DefaultNetstreamDriver{what}File="{folder}/{name}.pem"' for what, name in files.items())
        tls = f'StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="{"x509/certvalid" if client_certificate else "anon"}"'
    # By itself it would listen to the machine's own log socket, which is not ours.
    return f"""
global(workDirectory="{folder}" {driver})
module(load="imtcp" {tls})
template(name="message" type="list" option.jsonf="on") {{
    property(outname="priority" name="pri" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="app" name="app-name" format="jsonf")
    property(outname="process" name="procid" format="jsonf")
    property(outname="id" name="msgid" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="version" name="protocol-version" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
ruleset(name="received") {{ action(type="omfile" file="{output}" template="message" flushOnTXEnd="on") }}
input(type="imtcp" address="{HOST}" port="{port}" ruleset="received" supportOctetCountedFraming="on")
"""


def _wait_until_it_listens(running: Rsyslog, complaints: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, running.port), timeout=1):
            return
        said = complaints.read_text(errors="replace")
        assert running.process.poll() is None, f"rsyslogd ended: {said}"
        assert time.monotonic() < deadline, f"rsyslogd does not listen: {said}"
        time.sleep(0.01)
