"""The lifespan of an app with resources of ours around it: start them first, stop them last."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send
from llm_authmw.context import logger
from llm_authmw.resource import Resource


async def run_lifespan(app: ASGIApp, resources: Sequence[Resource], scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`'s lifespan within that of `resources`.

    An app that has no lifespan (it raises, or returns, before it has answered) leaves ours running, and the server is
    answered in its place. If a resource does not start, the server is told so and the app is never started.
    """
    first = await receive()
    async with AsyncExitStack() as started:
        try:
            for resource in resources:
                await resource.start()
                started.push_async_callback(resource.aclose)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the server's answer, not into its traceback
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        conversation = _Conversation(first, receive, send, started)
        try:
            await app(scope, conversation.receive, conversation.send)
        except Exception:
            if conversation.answered:
                raise
            logger.debug("the app has no lifespan of its own")
        if not conversation.answered:
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await started.aclose()
            await send({"type": "lifespan.shutdown.complete"})


class _Conversation:
    """What server and app say to each other, with our stop put in before the app's last word."""

    def __init__(self, first: Message, receive: Receive, send: Send, started: AsyncExitStack) -> None:
        self._first = first
        self._receive = receive
        self._send = send
        self._started = started
        self.answered = False

    async def receive(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
            return message
        return await self._receive()

    async def send(self, message: Message) -> None:
        self.answered = True
        if message["type"] != "lifespan.startup.complete":
            # The app has stopped, or never started: nobody uses ours any more.
            await self._started.aclose()
        await self._send(message)
