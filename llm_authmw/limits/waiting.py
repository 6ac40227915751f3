"""How long one request waits for the store: all of its questions share one deadline."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from llm_authmw.clock import Clock
from llm_authmw.context import RequestContext

T = TypeVar("T")


async def asked_for(context: RequestContext, clock: Clock, ask: Callable[[float], Awaitable[T]]) -> T:
    """Ask the store for a request, and count what that takes.

    Args:
        context: The request's.
        clock: Gives the monotonic time.
        ask: Asks; it is given the seconds that the request has waited before.

    Raises:
        StoreError: as `ask` does.
    """
    began = clock.monotonic()
    try:
        return await ask(context.store_waited)
    finally:
        context.store_waited += clock.monotonic() - began
