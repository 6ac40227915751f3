"""A user's own function, sync or async, called so that it holds up nobody but the request that it is called for."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from llm_authmw.errors import ConfigurationError

DEFAULT_DEADLINE: Final = 5.0
"""Seconds that a user's function may take."""
MOST_THREADS: Final = 40
"""Calls of one sync function that run at once; more of them wait, within the deadline."""


class Callback:
    """A function of one argument. It says nothing about what the function returns: whoever calls it checks that.

    A sync function runs in a worker thread, so that it never blocks the loop. The threads are its own: when it hangs, it takes none
    away from the app's sync endpoints.

    Args:
        option: The option that the function was given as, for the error.
        function: The function. What it returns is awaited if it can be.
        deadline: Seconds that a call may take.

    Raises:
        ConfigurationError: it is no function, or the deadline is no number of seconds.
    """

    __slots__ = ("_deadline", "_function", "_is_async", "_threads")

    def __init__(self, option: str, function: Callable[[Any], Any], *, deadline: float = DEFAULT_DEADLINE) -> None:
        given: Any = function
        if inspect.isclass(given) or not callable(given):
            raise ConfigurationError(option, f"takes a function, not {_name(given)}")
        if type(deadline) not in (int, float) or not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self._function: Final = function
        self._deadline: Final = deadline
        # An object may be async by its `__call__`.
        self._is_async: Final = inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(type(given).__call__)
        # One limiter for each loop: it belongs to the loop that it was first used in.
        self._threads: Final[RunVar[anyio.CapacityLimiter]] = RunVar(f"llm_authmw.callbacks.{option}")

    def __repr__(self) -> str:
        return _name(self._function)

    async def __call__(self, argument: Any) -> Any:
        """Call the function.

        Raises:
            TimeoutError: it has not answered within the deadline. Its thread, if it has one, ends when the function does.
            Exception: whatever the function raises.
        """
        with anyio.fail_after(self._deadline):
            if self._is_async:
                return await self._function(argument)
            (found,) = await anyio.to_thread.run_sync(self._boxed, argument, abandon_on_cancel=True, limiter=self._limiter())
            # A decorator may hide that the function under it is a coroutine function.
            return await found if inspect.isawaitable(found) else found

    def _boxed(self, argument: Any) -> tuple[Any]:
        # trio takes no awaitable out of a thread, unless it is in something.
        return (self._function(argument),)

    def _limiter(self) -> anyio.CapacityLimiter:
        limiter = self._threads.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(MOST_THREADS)
            self._threads.set(limiter)
        return limiter


def _name(function: Any) -> str:
    # Not its `repr`, in which a partial shows its arguments.
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)
