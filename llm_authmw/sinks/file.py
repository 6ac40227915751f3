"""`FileSink`: records as lines of a file, which several processes share and others may rotate."""

import os
from collections.abc import Sequence
from typing import Final, Unpack

from llm_authmw.errors import SinkError
from llm_authmw.sinks.log_file import LogFile
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.thread import OwnThread
from llm_authmw.sinks.transport import Begun
from llm_authmw.trail.entry import Entry


class _FileTransport:
    """A file that is on the disk before anybody goes on: a thread of its own writes it."""

    def __init__(self, file: LogFile) -> None:
        self._file: Final = file
        self._thread: Final = OwnThread("llm_authmw-file")
        self._given_up: bool = False
        self._last: Sequence[bytes] = ()

    def __repr__(self) -> str:
        return f"file:{self._file.path}"

    @property
    def durable(self) -> bool:
        """What is on the disk survives a power cut, and what the system has taken the end of the process."""
        return True

    def take_begun(self) -> Begun | None:
        """See `MovingTransport`."""
        file = self._file
        if not (file.moved or file.heads):
            return None
        begun = Begun(file.moved, file.heads)
        file.moved, file.heads = False, {}
        return begun

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        again, self._given_up = self._given_up, False
        try:
            await self._thread.run(lambda: self._write(_lines(entries), again=again))
        except SinkError:
            raise
        except BaseException:
            # The thread goes on, and only it knows what became of them.
            self._given_up = True
            raise

    def _write(self, lines: Sequence[bytes], *, again: bool) -> None:
        """Write in the thread, but for what the last call has written of which nobody waited for the end."""
        written = frozenset(self._last) if again else frozenset[bytes]()
        self._file.write([line for line in lines if line not in written] if written else lines)
        self._last = lines

    async def start(self) -> None:
        """See `Transport`."""
        await self._thread.run(self._file.open)

    async def aclose(self) -> None:
        """See `Transport`."""
        await self._thread.run(self._file.close)
        self._thread.aclose()

    def forked(self) -> None:
        """See `Transport`."""
        self._thread.forked()
        self._file.forked()


class _UnsyncedTransport(_FileTransport):
    """A file that is written to without waiting: the system takes the lines, and writes them to the disk when it likes."""

    def write_now(self, entries: Sequence[Entry]) -> None:
        """See `ImmediateTransport`."""
        self._file.write(_lines(entries))

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        self._file.write(_lines(entries))


class FileSink(AuditSink):
    """Writes each record as one line of JSON.

    Args:
        path: The file. It is made if it does not exist, readable by its owner only. Several processes may write to it; a program that
            renames it, copies and cuts it, or removes it is followed without a signal.
        fsync: Whether a record that was accepted survives a power cut too. Without it, it survives whatever happens to the process.
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: the path names a folder, a link or anything else that is no plain file, or an option is wrong.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = True, **options: Unpack[SinkOptions]) -> None:
        file = LogFile(path, fsync=fsync)
        super().__init__(_FileTransport(file) if fsync else _UnsyncedTransport(file), **options)


def _lines(entries: Sequence[Entry]) -> list[bytes]:
    return [entry.line + b"\n" for entry in entries]
