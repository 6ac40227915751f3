"""A task that empties a queue: one, in one event loop at a time, begun by whoever puts something in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from llm_authmw.background import Background
from llm_authmw.sinks.queue import running_loop

LINGER: Final = 0.05
"""Seconds for which records are gathered before they are written."""
_WATCHFUL: Final = 20
# So many times it looks again by itself, before somebody has to wake it: while requests come, none of them pays for that.


class _Home:
    """The event loop that the task is in."""

    __slots__ = ("called", "loop", "thread")

    def __init__(self, loop: object) -> None:
        self.loop: Final[Any] = loop
        self.thread: Final = threading.get_ident()
        self.called = anyio.Event()

    @property
    def alive(self) -> bool:
        return not isinstance(self.loop, asyncio.AbstractEventLoop) or self.loop.is_running()

    def call(self) -> bool:
        """Let the task look at once; return False where the loop has ended."""
        if self.thread == threading.get_ident():
            self.called.set()
            return self.alive
        try:
            (self.loop.call_soon_threadsafe if isinstance(self.loop, asyncio.AbstractEventLoop) else self.loop.run_sync_soon)(self._call)
        except RuntimeError:
            return False
        return self.alive

    def _call(self) -> None:
        self.called.set()


class Drainer:
    """Calls a function whenever there is something to do.

    Args:
        work: Does all that can be done now. Returns whether it has done anything, or has to be called again soon.
        last: Is called where the loop ends and nobody has closed it: the last chance to write.

    Attributes:
        asleep: Whether somebody has to wake it. Whoever puts something in looks here first.
    """

    def __init__(self, work: Callable[[], Awaitable[bool]], *, last: Callable[[], Awaitable[None]]) -> None:
        self.asleep: bool = True
        self._work: Final = work
        self._last: Final = last
        self._home: _Home | None = None
        self._lock = threading.Lock()
        self._background = Background()

    @property
    def elsewhere(self) -> bool:
        """Whether it is in another event loop than the running one, and that one runs."""
        home = self._home
        return home is not None and home.loop is not running_loop() and home.alive

    def wake(self) -> None:
        """Let it look at once, from any thread. Without a running event loop nothing happens: the next one to come wakes it."""
        with self._lock:
            home = self._home
            if home is not None and home.call():
                self.asleep = False
                return
            loop = running_loop()
            if loop is None:
                self._home, self.asleep = None, True
                return
            self._home = home = _Home(loop)
            self.asleep = False
        self._background.start(lambda: self._run(home))

    async def aclose(self) -> None:
        """End it, where it is in this event loop; it may be woken again."""
        home = self._home
        if home is not None and home.loop is running_loop():
            self._home, self.asleep = None, True
        await self._background.aclose()

    def forked(self) -> None:
        """Forget the task and its event loop: they are the parent's."""
        self._lock = threading.Lock()
        self._background = Background()
        self._home, self.asleep = None, True

    async def _run(self, home: _Home) -> None:
        try:
            while self._home is home:
                await self._watch(home)
                self.asleep = True
                # Who came between the last look and this line did not see that it sleeps.
                if not await self._work():
                    await home.called.wait()
        except BaseException:
            # The loop ends, and takes every task with it.
            if self._home is home:
                with anyio.CancelScope(shield=True):
                    await self._last()
            raise
        finally:
            with self._lock:
                if self._home is home:
                    self._home, self.asleep = None, True

    async def _watch(self, home: _Home) -> None:
        """Do what comes, until nothing has come for a while."""
        idle = 0
        while idle < _WATCHFUL and self._home is home:
            self.asleep = False
            with anyio.move_on_after(LINGER):
                await home.called.wait()
            home.called = anyio.Event()
            idle = 0 if await self._work() else idle + 1
