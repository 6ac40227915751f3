"""WebSockets: the handshake, its refusal, and the messages of both sides."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from llm_authmw.asgi import ASGIApp
from llm_authmw.testing.asgi.conversation import DEFAULT_TIME_LIMIT, Conversation
from llm_authmw.testing.asgi.response import Response
from llm_authmw.testing.asgi.rules import ProtocolError, checked_headers, checked_status
from llm_authmw.testing.asgi.scopes import RawHeaders, websocket_scope

NORMAL_CLOSURE: Final = 1000
"""The close code of an end that was meant (RFC 6455 §7.4.1)."""
ABNORMAL_CLOSURE: Final = 1006
"""What a peer sees where the connection ended without a close (RFC 6455 §7.4.1)."""

_DENIAL: Final = "websocket.http.response"


class WebSocketClosed(Exception):  # noqa: N818 - an event, which a test expects as often as not
    """The app closed the socket, or never accepted it.

    Attributes:
        code: The close code.
        reason: The text that came with it.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class WebSocket(Conversation):
    """One WebSocket, seen from the client. Made by `websocket`.

    Attributes:
        response: The answer to the handshake: 101 with the headers of the acceptance; what the app sent to refuse it; 403
            where it closed the socket unaccepted, as servers answer then.
        accepted: Whether the app accepted the socket.
        subprotocol: The subprotocol that the app chose.
        closed: How the app closed the socket, once that was taken.
    """

    def __init__(self, app: ASGIApp, scope: dict[str, Any], *, time_limit: float, reraise: bool) -> None:
        super().__init__(app, scope, time_limit=time_limit, reraise=reraise)
        self.response: Response = Response(activity=self.activity)
        self.accepted: bool = False
        self.subprotocol: str | None = None
        self.closed: WebSocketClosed | None = None
        self._answered = False
        self._denying = False
        self._app_closed = False
        self._give({"type": "websocket.connect"})
        self._last_event = {"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE, "reason": ""}

    async def send_text(self, text: str) -> None:
        """Send a text message.

        Raises:
            WebSocketClosed: the app has closed the socket, or never accepted it.
        """
        self._check_open()
        self._give({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message.

        Raises:
            WebSocketClosed: the app has closed the socket, or never accepted it.
        """
        self._check_open()
        self._give({"type": "websocket.receive", "bytes": data})

    async def send_json(self, value: Any) -> None:
        """Send a text message that holds a value as JSON.

        Raises:
            WebSocketClosed: the app has closed the socket, or never accepted it.
        """
        await self.send_text(msgspec.json.encode(value).decode())

    async def receive(self) -> str | bytes:
        """Return the next message of the app.

        Raises:
            WebSocketClosed: the app closed the socket instead, or never accepted it.
            TimeoutError: none comes.
            Exception: what the app raised, unless the socket keeps it.
        """
        self._check_open()
        message = await self._take("a message")
        if message is None or message["type"] == "websocket.close":
            self._end(message or {"code": ABNORMAL_CLOSURE})
            self._check_open()
        given: dict[str, Any] = message or {}
        text: str | None = given.get("text")
        data: bytes = given.get("bytes", b"")
        return data if text is None else text

    async def receive_json(self) -> Any:
        """Return the value that the next message of the app holds.

        Raises:
            WebSocketClosed: the app closed the socket instead, or never accepted it.
            TimeoutError: none comes.
            Exception: what the app raised, unless the socket keeps it.
        """
        return msgspec.json.decode(await self.receive())

    async def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the socket from the client's side. The app sees it when it has read all that was sent before."""
        self._last_event |= {"code": code, "reason": reason}
        await self._disconnect()

    async def _open(self) -> None:
        await self._wait_until(lambda: self._answered, "the handshake to be answered")
        if not self._answered:
            self._fail()

    def _check_open(self) -> None:
        if not self.accepted:
            raise WebSocketClosed(ABNORMAL_CLOSURE, f"the handshake was answered with {self.response.status}")
        if self.closed is not None:
            raise self.closed

    def _end(self, close: dict[str, Any]) -> None:
        self.closed = WebSocketClosed(close.get("code", NORMAL_CLOSURE), close.get("reason") or "")
        self._last_event |= {"code": self.closed.code, "reason": self.closed.reason}
        self._ring()

    def _next_event(self) -> dict[str, Any] | None:
        if self._incoming:
            return self._incoming.pop(0)
        ended = self._disconnected or self.closed is not None or (self._answered and not self.accepted)
        return self._last_event if ended else None

    def _unfinished(self) -> str | None:
        return None if self._answered else "without an answer to the handshake"

    def _admit(self, kind: str, message: dict[str, Any]) -> bool:
        if self._app_closed or (self._answered and not self.accepted):
            raise ProtocolError(f"{kind} was sent after the socket was closed")
        if kind.startswith(_DENIAL):
            self._admit_denial(kind.removeprefix(_DENIAL), message)
            return False
        if self._denying:
            raise ProtocolError(f"{kind} was sent in the middle of {_DENIAL}")
        if kind == "websocket.accept" and not self._answered:
            self._accept(message)
            return False
        if kind == "websocket.close":
            if not self.accepted:
                self._answered = True
                self.response.status = 403
            self._app_closed = True
            return self.accepted
        if kind == "websocket.send" and self.accepted:
            text, data = message.get("text"), message.get("bytes")
            if not (isinstance(text, str) if data is None else text is None and isinstance(data, bytes)):
                raise ProtocolError("websocket.send was sent without exactly one of text and bytes")
            return True
        raise ProtocolError(f"{kind} was sent {'after' if self.accepted else 'before'} websocket.accept")

    def _accept(self, message: dict[str, Any]) -> None:
        self.subprotocol = message.get("subprotocol")
        if self.subprotocol is not None and self.subprotocol not in self.scope["subprotocols"]:
            # RFC 6455 §4.1: the client must fail the connection.
            raise ProtocolError(f"the subprotocol {self.subprotocol!r} was accepted, which the client did not offer")
        self.response.status = 101
        self.response.headers = checked_headers(message.get("headers", ()))
        self._answered = self.accepted = True

    def _admit_denial(self, part: str, message: dict[str, Any]) -> None:
        if _DENIAL not in (self.scope.get("extensions") or {}):
            raise ProtocolError(f"{_DENIAL} was sent, which the server does not offer")
        if part == ".start" and not self._denying and not self.accepted:
            self.response.status = checked_status(message.get("status"))
            self.response.headers = checked_headers(message.get("headers", ()))
            self._denying = True
        elif part == ".body" and self._denying:
            self.response.chunks.append(message.get("body", b""))
            self._answered = not message.get("more_body", False)
        else:
            raise ProtocolError(f"{_DENIAL}{part} was sent {'after websocket.accept' if self.accepted else 'out of order'}")


def websocket(
    app: ASGIApp,
    path: str | bytes,
    *,
    headers: RawHeaders = (),
    subprotocols: Sequence[str] = (),
    denial_response: bool = True,
    scope: Mapping[str, Any] | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    reraise: bool = True,
) -> WebSocket:
    """Open a WebSocket.

    Use it as `async with websocket(app, "/v1/realtime", subprotocols=["realtime"]) as socket: …`. The block begins when the
    handshake was answered, either way: see `WebSocket.accepted` and `WebSocket.response`. At its end the client goes away, and
    the app must return.

    Args:
        app: The app, or a stack around it.
        path: The path, with its query if there is one.
        headers: Header lines, sent as they are.
        subprotocols: What the client offers.
        denial_response: Whether the server can answer a refused handshake with a whole HTTP response.
        scope: Members of the scope to change; see `http_scope`.
        time_limit: Seconds that each single wait may take.
        reraise: Raise in the test what the app raised. If not, it is kept in `WebSocket.activity.raised`.

    Raises:
        ValueError: `path` cannot be read.
    """
    opened = websocket_scope(path, headers=headers, subprotocols=subprotocols, denial_response=denial_response, changes=scope)
    return WebSocket(app, opened, time_limit=time_limit, reraise=reraise)
