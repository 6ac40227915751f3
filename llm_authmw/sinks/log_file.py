"""A file of lines that several processes append to, that others rotate, and on a disk that may be full. It blocks."""

import fcntl
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks.disk import sync_folder
from llm_authmw.trail.files import last_heads
from llm_authmw.trail.record import Head

_FLAGS: Final = (
    os.O_RDWR
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_CLOEXEC", 0)
    # A link may lead anywhere, and opening a FIFO waits for whoever reads it.
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
)
_ATTEMPTS: Final = 3
# The file may be moved away, and another one's line be torn, while it is written to.
_LOOKS: Final = 10
_UNKNOWN: Final = -1

LOOK_EVERY: Final = 0.05
"""Seconds within which a file that was moved or removed is noticed, where lines are written all the time and need not be on the disk."""


class LogFile:
    """The file.

    Lines are appended whole, all of a batch in one write, which the system does not mix with another process's. What may be torn
    (a full disk, a process killed meanwhile) is followed by a line break, so that no whole line is ever part of a torn one.

    Args:
        path: The file.
        fsync: Whether what is written is to be on the disk.
        clock: Tells the monotonic time.

    Raises:
        ConfigurationError: the path names a folder, a link or anything else that is no plain file, or its folder does not exist.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path: Final[Path] = Path(path)
        self.moved: bool = False
        """Whether what is written next begins another file than the one before; whoever looks sets it to False."""
        self.heads: Mapping[str, Head] = {}
        """Where the chains stood of those who had written to it last when it was opened; likewise."""
        self._name: Final = os.fspath(self.path)
        self._fsync: Final = fsync
        self._descriptor: int | None = None
        # Another thread may close it.
        self._lock = threading.Lock()
        self._place: tuple[int, int] = (0, 0)
        self._end: int = _UNKNOWN
        # Lines of a batch that failed which are in the file all the same.
        self._whole: frozenset[bytes] = frozenset()
        # Lines that were written since it was last seen that the path leads to this file.
        self._unseen: list[bytes] = []
        # Whether the file may be without a name, or hold something else than what was read back from it, once the power has failed.
        self._is_nameless: bool = False
        self._is_doubtful: bool = False
        self._look_at: float = 0.0
        self._monotonic: Final = clock.monotonic
        self._check()

    def open(self) -> None:
        """Open it, unless it is open.

        Raises:
            SinkError: it cannot be, and a program that begins should not go on.
        """
        with self._lock:
            try:
                self._opened()
            except SinkError as error:
                raise SinkError(f"{self.path}: {error}", permanent=True) from error

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its line break.

        Raises:
            SinkError: not all of them are in the file. Those that are will not be written again, when the same lines are given again.
        """
        with self._lock:
            rest = lines if not self._whole else [line for line in lines if line not in self._whole]
            for _ in range(_ATTEMPTS):
                descriptor = self._opened() if self._descriptor is None else self._descriptor
                try:
                    if self._is_doubtful:
                        self._begin_anew(descriptor)
                    rest = self._append(descriptor, rest)
                except OSError as error:
                    self._end = _UNKNOWN
                    raise SinkError(f"cannot be written: {error.strerror}") from error
                if not rest:
                    self._whole = frozenset()
                    return
            raise SinkError("is moved away, or cut, again and again")

    def close(self) -> None:
        """Close it; the next write opens it again."""
        with self._lock:
            self._close()

    def forked(self) -> None:
        """Open it anew: the descriptor's position is shared with the parent."""
        self._lock = threading.Lock()
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        try:
            self._is_nameless = self._fsync and (self._is_nameless or not self.path.exists())
            descriptor = os.open(self._name, _FLAGS, 0o600)
        except OSError as error:
            raise SinkError(f"cannot be opened: {error.strerror}") from error
        try:
            self._take_up(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor

    def _take_up(self, descriptor: int) -> None:
        """Look at a file that was opened, and see that it can be written to."""
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SinkError("is no plain file")
        _share(descriptor)
        if self._is_nameless:
            try:
                sync_folder(self.path.parent)
            except OSError as error:
                raise SinkError(f"its folder cannot be written: {error.strerror}") from error
            self._is_nameless = False
        self.heads = last_heads(descriptor)
        self._place, self._end = (found.st_dev, found.st_ino), _UNKNOWN

    def _begin_anew(self, descriptor: int) -> None:
        """See that the disk takes something again: a line break, as what stands before it may be gone, with its own."""
        os.write(descriptor, b"\n")
        self._sync(descriptor)
        self._is_doubtful = False

    def _append(self, descriptor: int, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Write once; return the lines that have to be written again."""
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        if self._end == _UNKNOWN and self._ends_torn(descriptor):
            data = b"\n" + data
        count = os.write(descriptor, data)
        # Where it was written, since everybody appends.
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if count < len(data):
            self._end = _UNKNOWN
            return self._note_short(lines, count - (data[:1] == b"\n"))
        # Others may have left half a line meanwhile, which ours is part of now.
        begin, known, self._end = end - count, self._end, end
        if begin != known and data[:1] != b"\n" and self._is_torn_at(descriptor, begin, known):
            return lines
        self._unseen += lines
        if self._fsync:
            self._sync(descriptor)
        elif self._monotonic() < self._look_at:
            return ()
        return self._look(descriptor, end)

    def _ends_torn(self, descriptor: int) -> bool:
        """Say whether the file ends within a line, and nobody is writing the other half just now."""
        size = -1
        for _ in range(_LOOKS):
            before, size = size, os.fstat(descriptor).st_size
            if not self._is_torn_at(descriptor, size, self._end):
                return False
            if size == before:
                break
        return True

    def _is_torn_at(self, descriptor: int, size: int, known: int) -> bool:
        """Say whether what others have written up to here ends within a line.

        Args:
            descriptor: The file.
            size: Up to where.
            known: Where the last line of ours ended.
        """
        if size < known:  # somebody has copied it elsewhere, and cut it
            self.moved = True
        if size == 0:
            return False
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        return os.read(descriptor, 1) != b"\n"

    def _note_short(self, lines: Sequence[bytes], count: int) -> Sequence[bytes]:
        """Remember which lines are in the file; return the others."""
        whole = 0
        for line in lines:
            if len(line) > count:
                break
            count -= len(line)
            whole += 1
        self._whole = self._whole.union(lines[:whole])
        self._unseen += lines[:whole]
        return lines[whole:]

    def _sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            # The system may have thrown away what it could not write, says so once, and shows it still: all of it is written again.
            self._whole, self._unseen, self._is_doubtful = frozenset(), [], True
            self._close()
            raise

    def _look(self, descriptor: int, end: int) -> Sequence[bytes]:
        """Look whether the path leads to this file; let go of one that was moved, and return what went with one that was removed."""
        self._look_at = self._monotonic() + LOOK_EVERY
        unseen, self._unseen = self._unseen, []
        try:
            found = self.path.stat()
            if (found.st_dev, found.st_ino) == self._place:
                self.moved = self.moved or found.st_size < end
                return ()
        except FileNotFoundError:
            pass
        self.moved = True
        removed = not os.fstat(descriptor).st_nlink
        self._close()
        return unseen if removed else ()

    def _check(self) -> None:
        try:
            found = os.lstat(self._name)
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise ConfigurationError("path", f"the folder {self.path.parent} does not exist") from None
            return
        except (OSError, ValueError) as error:
            raise ConfigurationError("path", f"cannot be used ({type(error).__name__})") from None
        if stat.S_ISLNK(found.st_mode):
            raise ConfigurationError("path", f"{self.path} is a link: name the file that it leads to")
        if not stat.S_ISREG(found.st_mode):
            raise ConfigurationError("path", f"{self.path} is no plain file")


def _share(descriptor: int) -> None:
    """Let others see that the file is being written to: `trail.erasure.prune_file` then leaves it alone.

    Raises:
        SinkError: it is being written anew just now.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SinkError("is being pruned") from None
    except OSError:
        return  # a file system without locks
