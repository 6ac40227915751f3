"""How collectors are asked. Imported when it is first needed: httpx takes 60 ms, and most have no collector.

By httpx's transport, and not by its client: that one writes every URL into the log, and a collector's may be a secret.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx

_KEEPALIVE: Final = 2.0
"""Seconds that an idle connection is kept: less than after which common servers hang up, so that no batch meets that."""


def make_transport(tls: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Return connections that follow no redirect, keep no cookie and use no proxy, with no time limit of their own."""
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=httpx.Limits(keepalive_expiry=_KEEPALIVE))


async def post(transport: httpx.AsyncHTTPTransport, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
    """Send a request; return the answer, whose body is still to come, and which the caller closes."""
    request = httpx.Request("POST", url, content=content, headers=headers)
    request.stream = _Body(content)
    return await transport.handle_async_request(request)


class _Body(httpx.AsyncByteStream):
    """A body of which a request that is cancelled leaves nothing behind: httpx's own are generators, of which trio then complains."""

    def __init__(self, content: bytes) -> None:
        self._left: bytes | None = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        left, self._left = self._left, None
        if left is None:
            raise StopAsyncIteration
        return left
