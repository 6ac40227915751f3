"""`SyslogSink`: records as syslog messages over TCP or TLS (RFC 5424, 5425, 6587)."""

import ssl
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Final, Unpack
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.network import parse_address
from llm_authmw.sinks.connection import BROKEN, Connection, connect
from llm_authmw.sinks.frames import MAX_MESSAGE, Facility, SyslogFormat
from llm_authmw.sinks.options import SinkOptions, check_seconds
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.tls import Path, client_context, trouble
from llm_authmw.trail.entry import Entry

TIMEOUT: Final = 4.0
"""Seconds that connecting and sending may take: less than what a sink gives its place, so that it is told why."""
TLS_PORT: Final = 6514
"""RFC 5425 §4.1."""

_CHUNK: Final = 65_536


class SyslogSink(AuditSink):
    """Sends each record as a syslog message, one or several of them where it is long.

    TCP has no acknowledgement: what was sent before a broken connection was noticed may be lost, so this sink alone is not durable.

    Args:
        url: Where the receiver is: `tls://HOST:PORT` (6514 if left out) or `tcp://HOST:PORT`.
        plaintext: Whether `tcp://` may lead to another machine: what is sent there can be read and changed on the way.
        ca_file: PEM with the authorities that the receiver's certificate may come from. Left out: those that the system trusts.
        cert_file: PEM with a client certificate, for a receiver that wants one, and what leads to its authority.
        key_file: PEM with its private key; left out: it is in `cert_file`.
        server_hostname: The name that the receiver's certificate has, where it is not the one in the URL.
        facility: The facility of all messages.
        app_name: What APP-NAME says.
        hostname: What HOSTNAME says; left out: this machine's name.
        max_message: Bytes in one message at most, its header included; a record that needs more comes in parts.
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: the URL is none of these, or an option is wrong or would be ignored.
    """

    def __init__(
        self,
        url: str,
        *,
        plaintext: bool = False,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        server_hostname: str | None = None,
        facility: Facility = "authpriv",
        app_name: str = "llm_authmw",
        hostname: str | None = None,
        max_message: int = MAX_MESSAGE,
        **options: Unpack[SinkOptions],
    ) -> None:
        scheme, host, port = _target(url)
        if scheme == "tcp":
            if ca_file or cert_file or key_file or server_hostname:
                raise ConfigurationError("url", "is tcp://, so that the options of TLS would be ignored")
            address = parse_address(host)
            if not plaintext and host != "localhost" and not (address is not None and address.is_loopback):
                raise ConfigurationError("plaintext", "tcp:// to another machine is not encrypted: use tls://, or say plaintext=True")
            tls = None
        else:
            if plaintext:
                raise ConfigurationError("plaintext", "is for tcp://, and the URL is tls://")
            tls = client_context(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        frames = SyslogFormat(facility=facility, app_name=app_name, hostname=hostname, max_message=max_message)
        place = SyslogTransport(host, port, frames=frames, tls=tls, server_hostname=server_hostname)
        super().__init__(place, **options)


class SyslogTransport:
    """One receiver, with a connection per event loop.

    Args:
        host: Its name or address.
        port: Its port.
        frames: Writes the messages.
        tls: The context of TLS; None: there is none.
        server_hostname: The name in its certificate; left out: the host.
        timeout: Seconds that connecting and sending may take.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        frames: SyslogFormat,
        tls: ssl.SSLContext | None,
        server_hostname: str | None,
        timeout: float = TIMEOUT,
    ) -> None:
        # What has been sent may still get lost on the way.
        self.durable: Final[bool] = False
        self._host: Final = host
        self._port: Final = port
        self._frames: Final = frames
        self._tls: Final = tls
        self._name: Final = server_hostname or host
        self._timeout: Final = check_seconds("timeout", timeout)
        # A connection belongs to one loop, and a process may run several.
        self._connections: MutableMapping[object, Connection] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"syslog {'tcp' if self._tls is None else 'tls'}://{self._host}:{self._port}"

    async def write(self, entries: Sequence[Entry]) -> None:
        """Send entries. Returning means that this machine has sent them, and that the receiver had not hung up before.

        Raises:
            SinkError: they are not sent, or only some of them.
        """
        try:
            with anyio.fail_after(self._timeout):
                await self._send(entries)
        except BaseException as error:
            # Half a frame may be under way, and whatever came after it would be taken for its other half.
            await self._drop()
            if isinstance(error, TimeoutError):
                raise SinkError("did not take the records in time") from None
            if isinstance(error, BROKEN):
                raise SinkError(trouble(error)) from None
            raise

    async def start(self) -> None:
        """Connect.

        Raises:
            SinkError: nobody is there, or it is not who it should be.
        """
        await self.write(())

    async def aclose(self) -> None:
        """Hang up, once the receiver has read what is under way, or after a second."""
        connection = self._connections.pop(current_token().native_token, None)
        if connection is not None:
            await connection.aclose()

    def forked(self) -> None:
        """Forget the parent's connections: what two processes send over one is no longer a row of frames."""
        self._connections = WeakKeyDictionary()

    async def _send(self, entries: Sequence[Entry]) -> None:
        connection = await self._connected()
        for chunk in self._chunks(entries):
            await connection.send(chunk)
        if connection.is_over:
            raise SinkError("has hung up meanwhile")

    async def _connected(self) -> Connection:
        loop = current_token().native_token
        connection = self._connections.get(loop)
        if connection is not None:
            if not connection.is_over:
                return connection
            # Nothing is under way: whoever hangs up between two batches loses nothing.
            await self._drop()
        connection = await connect(self._host, self._port, tls=self._tls, server_hostname=self._name)
        self._connections[loop] = connection
        return connection

    async def _drop(self) -> None:
        connection = self._connections.pop(current_token().native_token, None)
        if connection is not None:
            await connection.drop()

    def _chunks(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield the frames of entries, as many together as one write takes."""
        chunk = bytearray()
        for entry in entries:
            for frame in self._frames.frames(entry):
                chunk += frame
                if len(chunk) >= _CHUNK:
                    yield bytes(chunk)
                    chunk.clear()
        if chunk:
            yield bytes(chunk)


def _target(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port. No error quotes the URL, which may hold what should not be in one."""
    given: Any = url
    problem = "is tls://HOST:PORT or tcp://HOST:PORT"
    if not isinstance(given, str):
        raise ConfigurationError("url", problem)
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise ConfigurationError("url", problem) from None
    if parts.scheme not in {"tls", "tcp"} or not parts.hostname or "@" in parts.netloc or given != f"{parts.scheme}://{parts.netloc}":
        raise ConfigurationError("url", problem)
    if port is None and parts.scheme == "tcp":
        raise ConfigurationError("url", "names no port, and tcp:// has none of its own")
    return parts.scheme, parts.hostname, TLS_PORT if port is None else port
