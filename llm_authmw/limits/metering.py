"""Runs an app and writes down what passes: the ASGI part of an `Exchange`. No byte is changed, and none waits."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import anyio

from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send
from llm_authmw.lens import Replay
from llm_authmw.limits.codings import READABLE, with_codings
from llm_authmw.limits.exchange import Exchange, raw_frame

_WHOLE: Final = frozenset({"http.response.pathsend", "websocket.close"})
_REFUSED: Final = 403
"""What servers make of a close that comes before a socket was accepted."""


Begin: TypeAlias = Callable[[Message], Message]
"""Returns the message that begins an answer as the client is to have it."""


async def run(exchange: Exchange, app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, begin: Begin | None = None) -> None:
    """Run the app, and settle the request's holds once its answer is over, whichever way that is.

    Args:
        exchange: The request's.
        app: What stands inside of the layer.
        scope: The connection.
        receive: Where the app receives from.
        send: Where it sends to.
        begin: What the beginning of an HTTP answer goes through; None where that stays as it is.

    Raises:
        BaseException: what the app raises, unless its answer was cut.
    """
    watch = _Watch(exchange, receive, send, begin)
    exchange.begin(watch)
    if scope["type"] == "http":
        scope = with_codings(scope, READABLE)
    try:
        await app(scope, receive.by_way_of(watch.receive) if isinstance(receive, Replay) else watch.receive, watch.send)
    except GeneratorExit:
        # The loop is gone, and nothing can be awaited any more: the lease ends by itself, at the estimate.
        raise
    except BaseException as error:
        exchange.raised = True
        await exchange.finish()
        exchange.let_go()
        if exchange.cut and isinstance(error, Exception):
            # What an app raises after its answer was ended here says nothing but that.
            return
        raise
    await exchange.finish()
    exchange.let_go()


class _Watch:
    """Stands between one layer and what is inside of it, and takes notes where no other one stands further in."""

    __slots__ = ("_accepted", "_begin", "_discards", "_drained", "_exchange", "_receive", "_send", "_trailers")

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, begin: Begin | None) -> None:
        self._exchange: Final = exchange
        self._receive: Final = receive
        self._send: Final = send
        # Here, and not as a `send` of its own: each of those is called for every chunk that passes.
        self._begin: Begin | None = begin
        self._trailers = False
        self._accepted = False
        self._discards = False
        self._drained = False

    async def receive(self) -> Any:
        exchange = self._exchange
        message = await self._receive()
        if exchange.watch is self:
            if message["type"] == "http.disconnect":
                await self._client_left()
            elif message["type"] == "websocket.disconnect":
                await exchange.end()
        return message

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        if self._begin is not None and message["type"] == "http.response.start":
            begin, self._begin = self._begin, None
            message = begin(message)
        if exchange.watch is not self:
            await self._send(message)
        elif message["type"] == "http.response.body":
            chunk = message.get("body")
            exchange.closing = not (self._trailers or message.get("more_body"))
            try:
                if not self._discards:
                    await self._send(message)
            except OSError:
                if self._lose():
                    raise
            finally:
                # In the middle of sending, too: a client that leaves then has seen it.
                if chunk:
                    exchange.take(chunk)
            if exchange.closing:
                await exchange.end()
        else:
            await self._send_other(message)

    def _lose(self) -> bool:
        """Note that something could not be sent, as servers say that the client has gone; say whether the app is to know of it."""
        exchange = self._exchange
        if not exchange.cut:
            exchange.left = not exchange.ended
        self._discards = not exchange.cut and exchange.drain > 0
        return not self._discards

    async def _send_other(self, message: Message) -> None:
        exchange = self._exchange
        kind: str = message["type"]
        if kind in {"http.response.start", "websocket.http.response.start"}:
            exchange.start(message["status"], message.get("headers", ()))
            self._trailers = bool(message.get("trailers", False))
        elif kind == "websocket.accept":
            self._accepted = True
        elif kind == "websocket.close" and not self._accepted:
            exchange.status = _REFUSED
        try:
            if not self._discards:
                await self._send(message)
        except OSError:
            if self._lose():
                raise
        if kind == "websocket.send":
            exchange.take_frame(raw_frame(message))
        elif kind in _WHOLE or (kind == "http.response.trailers" and not message.get("more_trailers")):
            await exchange.end()
        elif kind in {"http.response.zerocopysend", "websocket.http.response.body"}:
            exchange.pass_unseen()
            if not (self._trailers or message.get("more_body")):
                await exchange.end()

    async def _client_left(self) -> None:
        """Note that the client has gone, and keep it from an app that is to run on."""
        exchange = self._exchange
        if exchange.closing or exchange.ended:
            return
        exchange.left = True
        if not exchange.drain or self._drained:
            return
        self._discards = self._drained = True
        exchange.over = exchange.over or anyio.Event()
        with anyio.move_on_after(exchange.drain):
            await exchange.over.wait()
