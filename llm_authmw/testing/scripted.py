"""A provider without a network: an `HTTPClient` that answers what it was told, when it may."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import msgspec
import msgspec.json


class Reply(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: Its status.
        body: Its body; bytes as they are, anything else as JSON.
        headers: Its header, names in lower case.
    """

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = {}


Script: TypeAlias = Reply | Exception | Callable[[], Reply]
"""An answer, an error that sending raises, or a function that gives the answer."""


class ScriptedClient:
    """An `HTTPClient` that answers by URL.

    Attributes:
        replies: What to answer at each URL; a URL that is not among them gets a 404.
        asked: The URLs that were asked, in order.
        may_answer: Nothing is answered before this is set; it is, unless a test puts another one in its place.
    """

    def __init__(self, replies: Mapping[str, Script] | None = None) -> None:
        self.replies: Final[dict[str, Script]] = {**(replies or {})}
        self.asked: Final[list[str]] = []
        self.may_answer: anyio.Event | None = None

    @asynccontextmanager
    async def stream(
        self,
        method: str,  # noqa: ARG002 - as `HTTPClient` has it
        url: str,
        *,
        content: bytes | None = None,  # noqa: ARG002 - likewise
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - likewise
        follow_redirects: bool = False,  # noqa: ARG002 - likewise
    ) -> AsyncGenerator["ScriptedResponse"]:
        """See `HTTPClient`."""
        self.asked.append(url)
        await anyio.lowlevel.checkpoint()
        if self.may_answer is not None:
            await self.may_answer.wait()
        reply = self.replies.get(url, Reply(404))
        if callable(reply):
            reply = reply()
        if isinstance(reply, Exception):
            raise reply
        yield ScriptedResponse(reply)


class ScriptedResponse:
    """What a client's `stream` yields."""

    def __init__(self, reply: Reply) -> None:
        self.status_code: Final = reply.status
        self.headers: Final = reply.headers
        self._body: Final = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """See `HTTPResponse`."""
        await anyio.lowlevel.checkpoint()
        yield self._body
