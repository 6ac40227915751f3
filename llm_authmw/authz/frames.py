"""A socket whose frames are held against the rules: it ends with the first one that is denied."""

from typing import Any, Final

from llm_authmw.asgi import POLICY_VIOLATION, ASGIApp, Message, Send, send_denial
from llm_authmw.authz.case import Asked, Case
from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial

_ENDS: Final = frozenset({"websocket.close", "websocket.http.response.start", "websocket.http.response.body"})
_GONE: Final = {"type": "websocket.disconnect", "code": POLICY_VIOLATION}


class SocketDeniedError(OSError):
    """Raised into an app that goes on sending after its socket was ended; to the app, the client has gone."""


class JudgedSocket:
    """One socket, between the server and an app.

    Args:
        case: What is known of its handshake, which was allowed.
        asked: Who asks, and for what.
        send: The server's.
    """

    __slots__ = ("_accepted", "_asked", "_case", "_closed", "_ended", "_frame", "_pending", "_send")

    def __init__(self, case: Case, asked: Asked, send: Send) -> None:
        self._case: Final = case
        self._asked: Final = asked
        self._send: Final = send
        self._frame: Any = None
        self._pending: Final[list[LLMCall]] = []
        self._accepted = False
        self._closed = False
        self._ended = False

    async def run(self, app: ASGIApp) -> None:
        """Run the app until it returns."""
        case, kept = self._case, self._case.kept
        watched = case.watch(self._asked, self._judge, self._deny)

        async def receive() -> Any:
            # An app may give up waiting while the engine is asked: the next call goes on with the same frame.
            if self._frame is None and (kept is None or not kept.holds):
                self._frame = await watched()
            while self._pending:
                denial = await case.ask_about_frame(self._asked, self._pending[0])
                self._pending.pop(0)
                if denial is not None:
                    await self._deny(denial)
            frame, self._frame = self._frame, None
            if kept is not None:
                return await kept.again()
            return dict(_GONE) if self._ended else frame

        try:
            await app(case.scope, receive, self._send_on)
        except Exception:
            # What an app raises after its socket was ended here says nothing but that.
            if not self._ended:
                raise

    def _judge(self, call: LLMCall) -> Denial | None:
        denial = self._case.judge_frame(self._asked, call)
        if denial is None:
            # The engine may have to be waited for, which the lens does not do.
            self._pending.append(call)
        return denial

    async def _deny(self, denial: Denial) -> None:
        if self._ended or self._closed:
            return
        told = self._case.deny(denial)
        if told is None:
            return
        self._ended = True
        if self._accepted:
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": told.public_reason})
        else:
            await send_denial(self._case.scope, self._send, told, self._case.context)

    async def _send_on(self, message: Message) -> None:
        if self._ended:
            raise SocketDeniedError("a message of this socket was denied")
        kind = message["type"]
        self._accepted = self._accepted or kind == "websocket.accept"
        self._closed = self._closed or kind in _ENDS
        await self._send(message)
