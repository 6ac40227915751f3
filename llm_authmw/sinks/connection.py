"""A connection that only one side speaks on: the other side's silence is listened to, since it ends when that one hangs up."""

import select
import ssl
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from llm_authmw.background import Background

BROKEN: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
"""What a connection may raise that is no longer one; `ssl.SSLError` is an `OSError`."""

_GOODBYE: Final = 1.0
"""Seconds that the other side has at the end to read what is under way."""
_TALK: Final = 65_536
"""Bytes that it may say. Nobody reads them; session tickets of TLS 1.3 come this way."""
_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)
"""Linux tells at once that the other side has hung up, before the event loop has looked."""


async def connect(host: str, port: int, *, tls: ssl.SSLContext | None, server_hostname: str) -> "Connection":
    """Connect.

    Args:
        host: The other side's name or address.
        port: Its port.
        tls: The context of TLS; None: there is none.
        server_hostname: The name in its certificate.

    Raises:
        OSError: Nobody is there, or it is not who it should be.
    """
    stream = await anyio.connect_tcp(host, port)
    if tls is None:
        return Connection(stream, stream, encrypted=False)
    try:
        wrapped = await TLSStream.wrap(stream, server_side=False, hostname=server_hostname, ssl_context=tls)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return Connection(wrapped, stream, encrypted=True)


class Connection:
    """A connection that is up; in one event loop.

    Listening has a second end: a connection that is closed while something unread has come is reset, and the other side may
    then lose what it has not read yet.
    """

    def __init__(self, stream: ByteStream, transport: SocketStream, *, encrypted: bool) -> None:
        self._stream: Final = stream
        self._socket: Final = transport.extra_attributes[SocketAttribute.raw_socket]()
        self._encrypted: Final = encrypted
        self._over: Final = anyio.Event()
        self._listener: Final = Background()
        self._listener.start(self._listen)

    @property
    def is_over(self) -> bool:
        """Whether the other side has hung up, or the connection is broken."""
        if self._over.is_set() or not _HUNG_UP:
            return self._over.is_set()
        poll = select.poll()
        poll.register(self._socket.fileno(), _HUNG_UP)
        return bool(poll.poll(0))

    async def send(self, data: bytes) -> None:
        """Send.

        Raises:
            OSError, anyio.BrokenResourceError, anyio.ClosedResourceError: the connection is broken.
        """
        await self._stream.send(data)

    async def aclose(self) -> None:
        """Hang up, once the other side has read what is under way and hung up as well, or after a second."""
        with anyio.move_on_after(_GOODBYE, shield=True):
            try:
                if self._encrypted:
                    # The closing alerts go both ways (RFC 5425 §4.4), and are read here.
                    await self._listener.aclose()
                    await self._stream.aclose()
                else:
                    await self._stream.send_eof()
                    await self._over.wait()
            except BROKEN:
                pass
        await self.drop()

    async def drop(self) -> None:
        """Hang up at once."""
        with anyio.CancelScope(shield=True):
            await self._listener.aclose()
            await anyio.aclose_forcefully(self._stream)

    async def _listen(self) -> None:
        heard = 0
        try:
            while heard <= _TALK:
                heard += len(await self._stream.receive())
        except BROKEN:
            pass
        finally:
            self._over.set()
