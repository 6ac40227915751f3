"""What stands between a layer and an app that it let in: ends streams and sockets whose credential stands no longer.

A streamed answer is looked at with every chunk, a socket with every message, and both while they idle, as far as the app
listens. An answer in one piece goes out as it is: it was decided before the app ran.
"""

from typing import Any, Final, NamedTuple

import anyio
import msgspec

from llm_authmw.asgi import POLICY_VIOLATION, ASGIApp, Message, Receive, Scope, Send, send_denial
from llm_authmw.authn.run import Standing
from llm_authmw.context import RequestContext
from llm_authmw.dialects import error_event
from llm_authmw.errors import Denial

_ENDS: Final = frozenset({"websocket.close", "websocket.http.response.start", "websocket.http.response.body"})
_GONE: Final = {"type": "websocket.disconnect", "code": POLICY_VIOLATION}


class CredentialEndedError(OSError):
    """Raised into an app that goes on sending after its stream was ended; to the app, the client has gone."""


class _Wait(NamedTuple):
    """A call of a socket's `receive` that is under way."""

    scope: anyio.CancelScope
    over: anyio.Event


class Guard(msgspec.Struct, eq=False):
    """One request that was let in, on its way through the app.

    Attributes:
        scope: The connection.
        receive: The server's.
        send: The server's.
        context: The request's; a denial that a framework dependency leaves there is rendered in place of the app's answer.
        standing: Whether the credential still stands; None where it cannot end.
        ended: Whether the answer was ended here, so that whatever the app does after it is of no consequence.
    """

    # `_over`: nothing more of the app's goes out; `_closed`: app or client have ended the answer themselves.

    scope: Scope
    receive: Receive
    send: Send
    context: RequestContext
    standing: Standing | None
    ended: bool = False
    _over: bool = False
    _whole_body: bool = False
    _closed: bool = False
    _waiting: _Wait | None = None
    _start: Message = None
    _last: Message = None

    def __repr__(self) -> str:
        # The scope holds the credential.
        return f"Guard({self.context!r}, ended={self.ended})"

    async def http_send(self, message: Message) -> None:
        """Send a message of an HTTP app, if its answer has not ended."""
        if self._start is None:
            # Early hints and debug messages come before the start and are not an answer yet.
            if message["type"] == "http.response.start":
                if self.context.denial is not None:
                    return await self._replace(self.context.denial)
                self._start = message
        elif self._over:
            return self._after_the_end()
        elif message.get("more_body"):
            if not self._holds() and await self._must_end():
                return self._after_the_end()
            self._last = message if message.get("body") else self._last
        elif message["type"] == "http.response.body":
            self._closed = True
        return await self.send(message)

    async def http_receive(self) -> Any:
        """Receive for an HTTP app.

        Once the body has been read, an app that waits here waits for the client to go. That wait is where a stream that
        sends nothing is found to stand no longer.
        """
        standing = self.standing
        if standing is None or not self._whole_body:
            message = await self.receive()
            self._whole_body = not message.get("more_body", False)
            return message
        while not self.ended:
            with anyio.move_on_after(standing.due):
                return await self.receive()
            if self._start is not None and not self._closed and not standing.holds():
                await self._must_end()
        return {"type": "http.disconnect"}

    async def websocket(self, app: ASGIApp) -> None:
        """Run a WebSocket app, and end the socket when the credential does, also while it idles."""
        if self.standing is None:
            await app(self.scope, self.receive, self.websocket_send)
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, self.standing, tasks.cancel_scope)
                await app(self.scope, self.websocket_receive, self.websocket_send)
                tasks.cancel_scope.cancel("the app has finished")
        except BaseExceptionGroup as group:
            # The task group is ours, so that the app's own error leaves as the app raised it.
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from group.exceptions[0].__cause__
            raise

    async def websocket_receive(self) -> Any:
        """Receive a message for a WebSocket app, or a disconnect once the socket has ended."""
        message = None
        if not self.ended:
            waiting = self._waiting = _Wait(anyio.CancelScope(), anyio.Event())
            try:
                with waiting.scope:
                    message = await self.receive()
            finally:
                self._waiting = None
                waiting.over.set()
        if message is None:
            return dict(_GONE)
        if message["type"] == "websocket.disconnect":
            self._closed = True
        elif message["type"] == "websocket.receive" and not self._holds() and await self._must_end():
            return dict(_GONE)
        return message

    async def websocket_send(self, message: Message) -> None:
        """Send a message of a WebSocket app, if the socket has not ended."""
        if self._start is None and not self._over:
            if self.context.denial is not None and message["type"] != "websocket.accept":
                return await self._replace(self.context.denial)
            self._start = message
        elif self._over or (message["type"] == "websocket.send" and not self._holds() and await self._must_end()):
            return self._after_the_end()
        if message["type"] in _ENDS:
            self._closed = True
        return await self.send(message)

    async def _watch(self, standing: Standing, scope: anyio.CancelScope) -> None:
        while not (self.ended or self._closed):
            await anyio.sleep(standing.due)
            if not standing.holds():
                await self._must_end()
        if self.ended:
            # The app sees the end when it next receives or sends, and may clean up. One that does neither is not waited for.
            await anyio.sleep(standing.bound)
            scope.cancel("the credential ended")

    def _holds(self) -> bool:
        return self.standing is None or self.standing.holds()

    async def _must_end(self) -> bool:
        """Ask whether the credential still stands; if not, end the answer properly."""
        standing = self.standing
        denial = await standing.confirm() if standing is not None else None
        if standing is None or denial is None or self.ended or self._closed:
            return self.ended
        self.ended = self._over = True
        self.context.record(denial, credential_id=denial.credential_id)
        if self.scope["type"] == "http":
            await self._end_stream(denial)
        else:
            await self._end_socket(denial, standing)
        return True

    async def _end_stream(self, denial: Denial) -> None:
        headers = {name.lower(): value for name, value in self._start.get("headers", ())}
        if b"content-length" in headers:
            # A promised length cannot be kept; the server closes the connection, and the client sees that it was cut.
            return
        event = b""
        events = headers.get(b"content-type", b"").lower().startswith(b"text/event-stream") and b"content-encoding" not in headers
        if events and (self._last is None or self._last["body"].endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))):
            # Only between two events: behind half of one, it would become part of that.
            event = error_event(denial, self.scope, self.context.request_id)
        await self.send({"type": "http.response.body", "body": event, "more_body": False})
        if self._start.get("trailers"):
            await self.send({"type": "http.response.trailers", "headers": [], "more_trailers": False})

    async def _end_socket(self, denial: Denial, standing: Standing) -> None:
        # An app that hears of the end does not cut it short; a server that cannot send it is not waited for.
        with anyio.move_on_after(standing.bound, shield=True):
            if self._waiting is not None:
                # granian sends no close as long as somebody waits for a message.
                waiting = self._waiting
                waiting.scope.cancel("the credential ended")
                await waiting.over.wait()
            if self._start is None:
                await send_denial(self.scope, self.send, denial, self.context)
            else:
                await self.send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": denial.public_reason})

    async def _replace(self, denial: Denial) -> None:
        """Answer with a denial that the app asked for, and swallow the answer that it makes of it."""
        self._over = True
        self._start = {}
        await send_denial(self.scope, self.send, denial, self.context)

    def _after_the_end(self) -> None:
        if self.ended:
            raise CredentialEndedError("the credential of this request stands no longer")
