"""`FunctionSink`: records handed to a user's own function."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, Unpack

from llm_authmw.callbacks import DEFAULT_DEADLINE, Callback
from llm_authmw.errors import SinkError
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.trail.entry import Entry

Ship: TypeAlias = Callable[[Sequence[Entry]], Awaitable[None] | None]
"""Takes entries: `entry.line` is one as JSON, `entry.record` says what is in it."""


class _FunctionTransport:
    """A function, sync or async."""

    def __init__(self, function: Ship, *, durable: bool, time_limit: float) -> None:
        self.durable: Final[bool] = durable
        self._call: Final = Callback("function", function, deadline=time_limit)

    def __repr__(self) -> str:
        return f"function:{self._call!r}"

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        try:
            await self._call(tuple(entries))
        except SinkError:
            raise
        except TimeoutError:
            raise SinkError("the function has not returned in time") from None
        except Exception as error:
            # Its text may quote what it was given.
            raise SinkError(f"the function failed ({type(error).__name__})") from error

    async def start(self) -> None:
        """There is nothing to begin."""

    async def aclose(self) -> None:
        """There is nothing to end."""

    def forked(self) -> None:
        """There is nothing to forget."""


class FunctionSink(AuditSink):
    """Hands entries to a function, several at once, in the order of their chain. One that fails is called again with the same ones.

    Args:
        function: What takes them: a coroutine function, or a function, which is called in a thread. What it raises means that it has not
            taken them; a `SinkError` that is permanent, that it never will.
        durable: Whether what it has taken survives the end of this process, however it ends, so that mode "required" can rest on it.
        time_limit: Seconds that a call may take.
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: it is no function, or an option is wrong.
    """

    def __init__(
        self, function: Ship, *, durable: bool = False, time_limit: float = DEFAULT_DEADLINE, **options: Unpack[SinkOptions]
    ) -> None:
        super().__init__(_FunctionTransport(function, durable=durable, time_limit=time_limit), **options)
