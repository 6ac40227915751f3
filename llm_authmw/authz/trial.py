"""What was read of a request on behalf of rules that are on trial: the app gets it all the same."""

from collections import deque
from typing import Any, Final

from llm_authmw.asgi import Receive


class Kept:
    """Messages that are read now and received again later, by the app, whatever whoever read them made of them.

    Args:
        receive: Where they come from.
    """

    __slots__ = ("_messages", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive: Final = receive
        self._messages: Final[deque[Any]] = deque()

    @property
    def holds(self) -> bool:
        """Whether something was kept that was not received again."""
        return bool(self._messages)

    async def keep(self) -> Any:
        """Receive a message, and keep it."""
        message = await self._receive()
        self._messages.append(message)
        return message

    async def again(self) -> Any:
        """Receive what was kept, and then what is still to come."""
        return self._messages.popleft() if self._messages else await self._receive()
