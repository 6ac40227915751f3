"""Work that recurs in the background for as long as there is some: one task in each event loop that asked for it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias
from weakref import WeakSet

import anyio
from anyio.lowlevel import current_token

from llm_authmw.background import Background

Sleep: TypeAlias = Callable[[float], Awaitable[object]]
"""Waits for as many seconds."""


class Recurring:
    """Do some work again and again.

    Args:
        work: Does what is due. Returns the seconds after which it wants to be called again, or None where nothing is left to do.
        sleep: Waits between two of its calls.
    """

    def __init__(self, work: Callable[[], Awaitable[float | None]], *, sleep: Sleep = anyio.sleep) -> None:
        self._work: Final = work
        self._sleep: Final = sleep
        self._background: Final = Background()
        # A loop that ended took its task with it, and a new one has a task of its own.
        self._loops: Final[WeakSet[object]] = WeakSet()

    def wake(self) -> None:
        """Begin in the running loop, unless the work goes on there."""
        try:
            loop = _running_loop()
        except RuntimeError:
            # A coroutine was thrown away after its loop had ended. Whoever comes next wakes it.
            return
        if loop not in self._loops:
            self._loops.add(loop)
            self._background.start(partial(self._run, loop))

    async def aclose(self) -> None:
        """End it in this loop; it may be woken again."""
        await self._background.aclose()

    async def _run(self, loop: object) -> None:
        try:
            while (pause := await self._work()) is not None:
                await self._sleep(pause)
        finally:
            self._loops.discard(loop)


def _running_loop() -> object:
    """Return what stands for the running loop.

    Raises:
        RuntimeError: none is running.
    """
    try:
        # Every reservation asks, and this is ten times quicker than what also knows trio.
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token().native_token
