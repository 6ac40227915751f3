"""A provider that is asked about tokens: says what it was told to, and remembers how it was asked."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import anyio
import anyio.lowlevel

from llm_authmw.testing.scripted import Reply, ScriptedResponse


class Asked(NamedTuple):
    """One call.

    Attributes:
        method: Its method.
        url: Where it went.
        headers: Its header, names in lower case.
        fields: The form that it sent.
    """

    method: str
    url: str
    headers: dict[str, str]
    fields: dict[str, str]

    @property
    def token(self) -> str:
        """The token that it asked about."""
        return self.fields["token"] if "token" in self.fields else self.headers["authorization"].removeprefix("Bearer ")


class TokenProvider:
    """An `HTTPClient` that answers about tokens. Of one that it was told nothing about it says what `otherwise` is.

    Attributes:
        answers: What it says by token, or by URL: claims, a `Reply`, or an error that sending raises.
        otherwise: What it says of everything else.
        outage: What it says to every call, as long as it is not None.
        asked: The calls, in order.
        may_answer: Nothing is answered before this is set.
        most_at_once: The most calls that were under way at one time.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers: Final[dict[str, Any]] = answers
        self.otherwise: Any = {"active": False}
        self.outage: Any = None
        self.asked: Final[list[Asked]] = []
        self.may_answer: anyio.Event | None = None
        self.most_at_once: int = 0
        self._under_way = 0

    @property
    def tokens(self) -> list[str]:
        """The tokens that it was asked about, in order."""
        return [call.token for call in self.asked]

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = False,
    ) -> AsyncGenerator[ScriptedResponse]:
        """See `HTTPClient`."""
        del follow_redirects
        call = Asked(method, url, dict(headers or {}), dict(parse_qsl((content or b"").decode())))
        self.asked.append(call)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await anyio.lowlevel.checkpoint()
            if self.may_answer is not None:
                await self.may_answer.wait()
        finally:
            self._under_way -= 1
        said = self._said(call)
        if isinstance(said, Exception):
            raise said
        yield ScriptedResponse(said if isinstance(said, Reply) else Reply(body=said))

    def _said(self, call: Asked) -> Any:
        if self.outage is not None:
            return self.outage
        return self.answers[call.url] if call.url in self.answers else self.answers.get(call.token, self.otherwise)
