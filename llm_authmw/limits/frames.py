"""A socket that is limited by what its handshake asked for: it ends with the first frame that asks for something else."""

from typing import Final

from msgspec.structs import replace

from llm_authmw.asgi import POLICY_VIOLATION, ASGIApp, Message, Receive, Scope, Send, send_denial
from llm_authmw.call import LLMCall
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial
from llm_authmw.lens import RequestLens
from llm_authmw.limits.plan import Asked, Holder
from llm_authmw.llm.operation import Found

_ENDS: Final = frozenset({"websocket.close", "websocket.http.response.start", "websocket.http.response.body"})


class SocketLimitedError(OSError):
    """Raised into an app that goes on sending after its socket was ended; to the app, the client has gone."""


class LimitedSocket:
    """An app behind the check of its frames.

    Args:
        app: The app.
        layer: The name of the layer that checks.
        lens: How frames are read.
        found: What kind of request the handshake is.
        holder: What limits the caller.
        asked: What the handshake asked for, which was counted.
        context: The request's.
    """

    __slots__ = ("_accepted", "_app", "_asked", "_closed", "_context", "_counted", "_ended", "_found", "_holder", "_layer", "_lens")

    def __init__(
        self, app: ASGIApp, layer: str, lens: RequestLens, found: Found | None, holder: Holder, asked: Asked, context: RequestContext
    ) -> None:
        self._app: Final = app
        self._layer: Final = layer
        self._lens: Final = lens
        self._found: Final = found
        self._holder: Final = holder
        self._asked: Final = asked
        self._context: Final = context
        self._counted: Final = {one.bucket.ref for one in holder.counted(asked)}
        self._accepted = False
        self._closed = False
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app until it returns."""

        async def deny(denial: Denial) -> None:
            denial.layer = denial.layer or self._layer
            self._context.record(denial, credential_id=self._context.principal.credential_id)
            self._ended = True
            if self._closed:
                return
            if self._accepted:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": denial.public_reason})
            else:
                await send_denial(scope, send, denial, self._context)

        async def send_on(message: Message) -> None:
            if self._ended:
                raise SocketLimitedError("a message of this socket was denied")
            kind = message["type"]
            self._accepted = self._accepted or kind == "websocket.accept"
            self._closed = self._closed or kind in _ENDS
            await send(message)

        try:
            await self._app(scope, self._lens.watch(receive, self._found, self._judge, deny), send_on)
        except Exception:
            # What an app raises after its socket was ended here says nothing but that.
            if not self._ended:
                raise

    def _judge(self, call: LLMCall) -> Denial | None:
        if not call.models and call.end_user is None:
            return None
        other = {one.bucket.ref for one in self._holder.counted(replace(self._asked, call=call))}
        if other <= self._counted:
            return None
        return Denial("limit_dimension_missing", need="all models and the end user, where limits count by them, in the handshake")
