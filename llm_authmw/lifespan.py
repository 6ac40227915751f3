"""The lifespan of an app with resources of ours around it: start them first, stop them last."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import anyio

from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send
from llm_authmw.context import logger
from llm_authmw.resource import Resource

CLOSE_DEADLINE: Final = 5.0
"""Seconds that a resource may take to close, also when the server cancels what is still running."""


_HELD: Final = "llm_authmw.resources"
"""Where the scope of a lifespan keeps what is started already, so that of two stacks which share a store only the outer one does."""


async def run_lifespan(app: ASGIApp, resources: Sequence[Resource], scope: Scope, receive: Receive, send: Send) -> None:
    """Run `app`'s lifespan within that of `resources`.

    An app that has no lifespan (it raises, or returns, before it has answered) leaves ours running, and the server is
    answered in its place. If a resource does not start, the server is told so and the app is never started.
    """
    held: list[Resource] = scope.setdefault(_HELD, [])
    own = [resource for resource in resources if resource not in held]
    held += own
    first = await receive()
    async with AsyncExitStack() as started:
        conversation = _Conversation(first, receive, send, started)
        try:
            for resource in own:
                await resource.start()
                started.push_async_callback(_close, resource)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the server's answer, not into its traceback
            await conversation.send(_failed("startup", error))
            return
        try:
            await app(scope, conversation.receive, conversation.send)
        except Exception:
            if conversation.awaited != "startup":
                raise
            logger.debug("the app has no lifespan of its own")
        await conversation.finish()


class _Conversation:
    """What server and app say to each other, with our stop put in before the app's last word.

    Attributes:
        awaited: The phase that the server waits to be answered for, or will ask for next; None when all is said.
    """

    def __init__(self, first: Message, receive: Receive, send: Send, started: AsyncExitStack) -> None:
        self._first = first
        self._receive = receive
        self._send = send
        self._started = started
        self._stopping = False
        self.awaited: str | None = "startup"

    async def receive(self) -> Message:
        if self._first is not None:
            message, self._first = self._first, None
        else:
            message = await self._receive()
        self._stopping = self._stopping or message["type"] == "lifespan.shutdown"
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.awaited = "shutdown"
        else:
            # The app has stopped, or never started: nobody uses ours any more.
            self.awaited = None
            message = await self._stop(message)
        await self._send(message)

    async def finish(self) -> None:
        """Say what the app has left unsaid."""
        if self.awaited == "startup":
            await self.send({"type": "lifespan.startup.complete"})
        if self.awaited == "shutdown":
            while not self._stopping:
                await self.receive()
            await self.send({"type": "lifespan.shutdown.complete"})

    async def _stop(self, message: Message) -> Message:
        try:
            await self._started.aclose()
        except Exception as error:  # noqa: BLE001 - as when starting
            return _failed("shutdown", error) if message["type"] == "lifespan.shutdown.complete" else message
        return message


async def _close(resource: Resource) -> None:
    with anyio.move_on_after(CLOSE_DEADLINE, shield=True) as closing:
        await resource.aclose()
    if closing.cancelled_caught:
        logger.warning("%r has not closed within %g s, and is left as it is", resource, CLOSE_DEADLINE)


def _failed(phase: str, error: Exception) -> Message:
    return {"type": f"lifespan.{phase}.failed", "message": f"{type(error).__name__}: {error}"}
