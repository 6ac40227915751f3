"""What stands between the server and the layers: it passes everything on, and notes what answers a request and how that ends."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from llm_authmw.asgi import Message, Receive, Send
from llm_authmw.audit.notes import Known, Notes
from llm_authmw.audit.part import Part
from llm_authmw.context import RequestContext

NORMAL_CLOSURES: Final = frozenset({1000, 1001, 1005})
"""Codes with which a client ends a socket in good order (RFC 6455 §7.4.1)."""
ACCEPTED: Final = 101
REFUSED: Final = 403
"""What servers make of a close that comes before a socket was accepted."""

_WHOLE: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


class Observation(msgspec.Struct, eq=False):
    """One request on its way.

    Attributes:
        notes: What is noted of it.
        receive: The server's.
        send: The server's.
        context: The request's.
        headers: The headers that came with it.
        monotonic: Tells the time, in seconds.
        parts: What each audit layer that it has met does with its record.
        closed: Whether it is over.
    """

    notes: Notes
    receive: Receive
    send: Send
    context: RequestContext
    headers: Sequence[tuple[bytes, bytes]]
    monotonic: Callable[[], float]
    parts: tuple[Part, ...]
    closed: bool = False
    _flowing: bool = False
    _trailers: bool = False

    def __repr__(self) -> str:
        # The headers hold the credential.
        return f"Observation({self.notes!r})"

    @classmethod
    def of(cls, context: RequestContext) -> "Observation | None":
        """Return what observes a request, or None where nobody does."""
        seen: Observation | None = context.audit
        return None if seen is None or seen.closed else seen

    def join(self, part: Part) -> None:
        """Let an audit layer further in have the record as well."""
        if all(one is not part for one in self.parts):
            self.parts = (*self.parts, part)

    def intent(self) -> Notes:
        """Return notes of the request as it stands before the app has it."""
        notes = self.notes
        known = Known.of(self.context, self.headers, notes.client)
        return notes.intent(known)

    def close(self) -> Notes:
        """Take the end, and return the notes."""
        self.closed = True
        notes = self.notes
        notes.ended = self.monotonic()
        notes.known = Known.of(self.context, self.headers, notes.client)
        # Each would keep the other until the garbage is collected.
        self.context.audit = None
        return notes

    # HTTP.

    async def http_receive(self) -> Any:
        """Receive for the app."""
        message = await self.receive()
        if message["type"] == "http.disconnect" and self.notes.over is None:
            self.notes.left = True
        return message

    async def http_send(self, message: Message) -> None:
        """Send for the app."""
        kind = message["type"]
        last = False
        if kind == "http.response.body":
            if not self._flowing and message.get("body"):
                self._flow()
            last = not message.get("more_body") and not self._trailers
        elif kind == "http.response.start":
            notes = self.notes
            if notes.status is None:
                notes.status = message["status"]
                notes.taken = len(self.context.decisions)
                self._trailers = message.get("trailers", False)
        elif kind in _WHOLE:
            # No byte of it passes here.
            self._flow()
            last = not message.get("more_body") and not self._trailers
        elif kind == "http.response.trailers":
            last = not message.get("more_trailers")
        if last and self.notes.over is None:
            # Before it is sent: a client that has all of it may be gone before it is known here that it was.
            self.notes.over = self.monotonic()
        try:
            await self.send(message)
        except OSError:
            self._lose(last=last)
            raise

    # WebSocket.

    async def websocket_receive(self) -> Any:
        """Receive for the app."""
        message = await self.receive()
        notes = self.notes
        if message["type"] == "websocket.disconnect" and notes.over is None:
            if notes.status is not None and message.get("code", 1005) in NORMAL_CLOSURES:
                notes.over = self.monotonic()
            else:
                notes.left = True
        return message

    async def websocket_send(self, message: Message) -> None:
        """Send for the app."""
        kind = message["type"]
        last = False
        if kind == "websocket.send":
            if not self._flowing:
                self._flow()
        elif kind == "websocket.accept":
            self._begin(ACCEPTED)
        elif kind == "websocket.close":
            self._begin(REFUSED)
            last = True
        elif kind == "websocket.http.response.start":
            self._begin(message["status"])
        elif kind == "websocket.http.response.body":
            last = not message.get("more_body")
        if last and self.notes.over is None:
            self.notes.over = self.monotonic()
        try:
            await self.send(message)
        except OSError:
            self._lose(last=last)
            raise

    def _begin(self, status: int) -> None:
        notes = self.notes
        if notes.status is None:
            notes.status = status
            notes.taken = len(self.context.decisions)

    def _flow(self) -> None:
        if not self._flowing:
            self._flowing = True
            self.notes.first_byte = self.monotonic()

    def _lose(self, *, last: bool) -> None:
        """Note that something could not be sent: so servers that say so at all tell that the client has gone."""
        notes = self.notes
        if last or notes.over is None:
            notes.left, notes.over = True, None
