"""A server on loopback that answers with bytes of the test's choosing: what a well-behaved one never sends."""

import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.tls import TLSListener

HOST: Final = "127.0.0.1"
_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead, ssl.SSLError)

Behaviour: TypeAlias = Callable[[ByteStream], Awaitable[None]]
"""What to do with a connection once a request's header has come; when it returns, the connection is closed."""


class RawServer:
    """A server that is up. Made by `raw_server`.

    Attributes:
        url: Where it listens, as `http://127.0.0.1:PORT`.
        heads: The header of every request that came.
        connections: How many connections came.
    """

    def __init__(self, url: str, behaviour: Behaviour) -> None:
        self.url: Final = url
        self.heads: Final[list[str]] = []
        self.connections: int = 0
        self._behaviour: Final = behaviour

    async def serve(self, stream: ByteStream) -> None:
        """Take one connection."""
        self.connections += 1
        async with stream:
            # Whoever asked has gone away, as many a test wants it to.
            with contextlib.suppress(*_BROKEN):
                buffered = BufferedByteStream(stream)
                head = await buffered.receive_until(b"\r\n\r\n", 65_536)
                self.heads.append(head.decode("latin-1"))
                await self._behaviour(buffered)


@contextlib.asynccontextmanager
async def raw_server(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[RawServer]:
    """Serve on a free port of 127.0.0.1 until the end of the block.

    Args:
        behaviour: What to do with each connection; `sends` gives one.
        tls: The server's TLS context; left out: none.
    """
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0)
    port: int = listener.extra_attributes[SocketAttribute.local_port]()
    server = RawServer(f"{'http' if tls is None else 'https'}://{HOST}:{port}", behaviour)
    serving = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(serving.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


def sends(*chunks: bytes) -> Behaviour:
    """Return a behaviour: send these, then close the connection."""

    async def behave(stream: ByteStream) -> None:
        for chunk in chunks:
            await stream.send(chunk)

    return behave


def answers(body: bytes, *, status: str = "200 OK", headers: str = "") -> Behaviour:
    """Return a behaviour: send a well-formed answer.

    Args:
        body: Its body.
        status: Its status and reason.
        headers: More lines for its header, each with a line break at its end.
    """
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return sends(head.encode("latin-1") + body)
