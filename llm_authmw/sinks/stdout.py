"""`StdoutSink`: records as lines on standard output, for whoever collects those of containers."""

import os
import select
from collections.abc import Sequence
from typing import Final, Unpack

from llm_authmw.errors import SinkError
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.thread import OwnThread
from llm_authmw.trail.entry import Entry

_STDOUT: Final = 1


class _StdoutTransport:
    """Standard output. Whoever reads it may have stopped, so a thread of its own writes to it."""

    def __init__(self) -> None:
        self._thread: Final = OwnThread("llm_authmw-stdout")

    def __repr__(self) -> str:
        return "stdout"

    @property
    def durable(self) -> bool:
        """Who reads it may lose it."""
        return False

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        await self._thread.run(lambda: _write(b"".join([entry.line + b"\n" for entry in entries])))

    async def start(self) -> None:
        """There is nothing to begin."""

    async def aclose(self) -> None:
        """See `Transport`."""
        self._thread.aclose()

    def forked(self) -> None:
        """See `Transport`."""
        self._thread.forked()


class StdoutSink(AuditSink):
    """Writes each record as one line of JSON to standard output. It is not durable: "required" takes another one beside it, or a spool.

    Args:
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(self, **options: Unpack[SinkOptions]) -> None:
        super().__init__(_StdoutTransport(), **options)


def _write(data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            try:
                rest = rest[os.write(_STDOUT, rest) :]
            except BlockingIOError:
                # An event loop may have made it one that never waits.
                select.select([], [_STDOUT], [])
    except OSError as error:
        raise SinkError(f"standard output cannot be written: {error.strerror}") from error
