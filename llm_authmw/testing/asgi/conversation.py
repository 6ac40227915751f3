"""What every call of an app has in common: the app runs beside the test, and hands over its messages one by one."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.lowlevel

from llm_authmw.asgi import ASGIApp
from llm_authmw.testing.asgi.rules import ProtocolError, kind_of

DEFAULT_TIME_LIMIT: Final = 5.0
"""Seconds that each single wait may take."""


@dataclass(kw_only=True)
class Activity:
    """What the app did.

    Attributes:
        sent: Every message that it sent, in order, as it was; also what it sent to a client that had gone.
        receive_calls: How often it called `receive`.
        raised: The exception that came out of it.
        returned: Whether it has ended, in either way.
    """

    sent: list[Any] = field(default_factory=list[Any])
    receive_calls: int = 0
    raised: Exception | None = None
    returned: bool = False

    def __str__(self) -> str:
        kinds = [message["type"] for message in self.sent[-4:]]
        dots = "…, " if len(self.sent) > len(kinds) else ""
        return f"so far the app sent {dots}{', '.join(kinds) or 'nothing'}"


class Conversation:
    """One call of an app, seen from the server. Use it with `async with`.

    What the app sends is handed over: the app waits in `send` until the test takes the message, as if the client read
    slowly and nothing in between had a buffer. So a test sees each message before the app goes on, and an endless stream
    neither fills the memory nor starves the loop.

    Attributes:
        scope: What the app was called with; it shows what the app put into it.
        activity: What the app has done so far.
    """

    def __init__(self, app: ASGIApp, scope: dict[str, Any], *, time_limit: float, reraise: bool) -> None:
        self.scope = scope
        self.activity: Activity = Activity()
        self._app = app
        self._time_limit = time_limit
        self._reraise = reraise
        self._violation: ProtocolError | None = None
        self._failed = False
        self._disconnected = False
        self._incoming: list[dict[str, Any]] = []
        self._news = anyio.Event()
        self._ended = anyio.Event()
        self._handing, self._taking = anyio.create_memory_object_stream[dict[str, Any]](0)
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._group.start_soon(self._run)
        try:
            await self._open()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # The group never sees the test's own exception, or it would come out wrapped in an exception group.
        try:
            if error is None:
                await self._leave()
                await self.wait_returned()
        finally:
            await self._stop()
        if error is None:
            self._fail()

    async def wait_returned(self) -> None:
        """Wait until the app has ended.

        Raises:
            TimeoutError: it still runs when the time limit is over.
        """
        with self._within("the app to return"):
            await self._ended.wait()

    # What a kind of conversation fills in.

    async def _open(self) -> None:
        """Do what stands at the beginning."""

    async def _leave(self) -> None:
        """Do what makes a well-behaved app end."""
        await self._disconnect()

    def _admit(self, kind: str, message: dict[str, Any]) -> bool:
        """Check a message of the app against what it sent before; say whether it is handed over to the test.

        Raises:
            ProtocolError: it is not allowed now.
        """
        raise NotImplementedError

    def _next_event(self) -> dict[str, Any] | None:
        """Return what `receive` gives now, or None where it has to wait."""
        raise NotImplementedError

    def _unfinished(self) -> str | None:
        """Say what an app that returns now has left undone, or None."""
        raise NotImplementedError

    # The app's side.

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
            undone = None if self._disconnected else self._unfinished()
            if undone is not None:
                self._violation = self._violation or ProtocolError(f"the app returned {undone}; {self.activity}")
        except Exception as error:  # noqa: BLE001 - the server's boundary: whatever the app raises is given to the test
            self.activity.raised = error
        finally:
            self.activity.returned = True
            self._ended.set()
            self._ring()
            self._handing.close()

    async def _receive(self) -> dict[str, Any]:
        self.activity.receive_calls += 1
        await anyio.lowlevel.checkpoint()
        while (event := self._next_event()) is None:
            await self._news.wait()
        return event

    async def _send(self, message: Any) -> None:
        try:
            kind = kind_of(message)
            self.activity.sent.append(message)
            taken = self._admit(kind, message)
        except ProtocolError as error:
            self._violation = self._violation or error
            raise
        self._ring()
        if taken:
            # Broken: the taking side is closed, since the client has gone.
            with suppress(anyio.BrokenResourceError):
                await self._handing.send(message)
        else:
            await anyio.lowlevel.checkpoint()
        if self._disconnected and _raises_to_nobody(self.scope):
            raise OSError("the client has disconnected")

    # The test's side.

    @contextmanager
    def _within(self, what: str) -> Generator[None]:
        with anyio.move_on_after(self._time_limit) as waiting:
            yield
        if waiting.cancelled_caught:
            # An app that swallowed the error of its own message, and went on waiting, is told for that.
            raise self._violation or TimeoutError(f"waited {self._time_limit:g} s for {what}; {self.activity}")

    async def _wait_until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done()`, or until the app has ended.

        Raises:
            TimeoutError: neither happens.
        """
        with self._within(what):
            while not done() and not self.activity.returned:
                await self._news.wait()

    def _give(self, event: dict[str, Any]) -> None:
        self._incoming.append(event)
        self._ring()

    async def _take(self, what: str) -> dict[str, Any] | None:
        """Return the next message that the app hands over, or None when it has ended.

        Raises:
            TimeoutError: the app hands nothing over.
            Exception: what the app raised, unless the conversation keeps it.
        """
        with self._within(what):
            try:
                return await self._taking.receive()
            except anyio.EndOfStream:
                pass
            except anyio.ClosedResourceError:
                raise RuntimeError("the client has disconnected, so it receives nothing any more") from None
        self._fail()
        return None

    async def _disconnect(self) -> None:
        self._disconnected = True
        self._taking.close()
        self._ring()
        await anyio.lowlevel.checkpoint()

    def _ring(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _fail(self) -> None:
        failure = self._violation or (self.activity.raised if self._reraise else None)
        if failure is not None and not self._failed:
            self._failed = True
            raise failure

    async def _stop(self) -> None:
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            self._taking.close()
            self._handing.close()


def _raises_to_nobody(scope: dict[str, Any]) -> bool:
    # Since version 2.4 of the HTTP and WebSocket specification `send` raises when the client has gone; before, nothing happens.
    version: str = scope["asgi"].get("spec_version", "2.0")
    return [int(part) for part in version.split(".")] >= [2, 4]
