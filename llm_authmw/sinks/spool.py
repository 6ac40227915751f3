"""A folder where entries are kept while their place is down, and from where they go on in order, also after a restart."""

import errno
import fcntl
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from llm_authmw.background import logger
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks.disk import sync_folder
from llm_authmw.sinks.thread import OwnThread
from llm_authmw.trail.entry import Entry

SEGMENT: Final = 1024 * 1024
"""Bytes after which a new file is begun: a file that was replayed is removed as a whole, and replayed again where that is cut short."""
_LENGTH: Final = 4
_LONGEST: Final = 64 * 1024 * 1024
"""Bytes of one entry: far more than any takes. What says that it is longer is none."""
_SUFFIX: Final = ".spool"
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH

T = TypeVar("T")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entry).decode


class _Segment:
    """One file of the spool, locked for as long as it is open. Whoever ends gives up the lock, however it ends.

    Attributes:
        size: Bytes that are in it.
        read: Bytes of these that are done with.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path: Final[Path] = path
        self.size: int = os.fstat(descriptor).st_size
        self.read: int = 0
        self._descriptor: Final = descriptor

    def append(self, data: bytes) -> None:
        """Write at the end, and see that it is on the disk; leave nothing behind where that fails."""
        try:
            rest, at = memoryview(data), self.size
            while rest:
                count = os.pwrite(self._descriptor, rest, at)
                rest, at = rest[count:], at + count
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def load(self) -> list[tuple[Entry, int]]:
        """Return the next entries that are not done with, and where each of them ends. One that is torn, and what is behind it, is none."""
        left = self.size - self.read
        data = os.pread(self._descriptor, min(left, SEGMENT), self.read)
        if len(data) < (first := _LENGTH + int.from_bytes(data[:_LENGTH], "big")) <= min(left, _LONGEST):
            data = os.pread(self._descriptor, first, self.read)
        found: list[tuple[Entry, int]] = []
        at = 0
        while (start := at + _LENGTH) <= len(data) and (at := start + int.from_bytes(data[at:start], "big")) <= len(data):
            try:
                found.append((_decode(data[start:at]), self.read + at))
            except msgspec.MsgspecError:
                break
        return found

    def close(self, *, remove: bool) -> None:
        """Give it up."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Spool:
    """The spool of one sink in one process.

    Files are blocking, so all of it runs in a thread of its own.

    Args:
        folder: Where; made if it does not exist, for its owner only.
        limit: Bytes that this process keeps there at most.

    Raises:
        ConfigurationError: it is no folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int) -> None:
        self.folder: Final[Path] = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigurationError("spool", f"{self.folder} is no folder")
        self.size: int = 0
        """Bytes that are kept, those of processes included that were killed."""
        self._limit: Final = limit
        self._id: str = secrets.token_hex(8)
        self._number: int = 0
        self._segments: Final[deque[_Segment]] = deque()
        self._own: _Segment | None = None
        # Of the first of them, those that are not done with.
        self._loaded: Final[deque[tuple[Entry, int]]] = deque()
        self._is_nameless: bool = False
        self._thread: Final = OwnThread("llm_authmw-spool")

    @property
    def empty(self) -> bool:
        """Whether nothing is kept."""
        return self.size == 0

    async def adopt(self) -> None:
        """Take over what processes that have ended have left.

        Raises:
            SinkError: the folder cannot be made, or not be read.
        """
        await self._run(self._adopt)

    async def append(self, entries: Sequence[Entry]) -> None:
        """Keep entries, on the disk.

        Raises:
            SinkError: they are not kept.
        """
        await self._run(lambda: self._append(entries))

    async def oldest(self, most: int) -> list[Entry]:
        """Return the oldest entries.

        Raises:
            SinkError: they cannot be read.
        """
        return await self._run(lambda: self._oldest(most))

    async def forget(self, count: int) -> None:
        """Forget so many of the oldest ones, which are where they belong.

        Raises:
            SinkError: they cannot be forgotten.
        """
        if count:
            await self._run(lambda: self._forget(count))

    async def aclose(self) -> None:
        """Leave what is kept to whoever starts next."""
        await self._run(self._close)
        self._thread.aclose()

    def forked(self) -> None:
        """Begin anew: what is kept is the parent's."""
        self._thread.forked()
        self._close()
        self._own = None
        self._id = secrets.token_hex(8)

    async def _run(self, function: Callable[[], T]) -> T:
        try:
            return await self._thread.run(function)
        except OSError as error:
            raise SinkError(f"the spool fails: {error.strerror}") from error

    def _adopt(self) -> None:
        self._make_folder()
        if not _is_ours(self.folder.stat()):
            logger.warning("%s can be written by others, who can remove what is kept there", self.folder)
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                segment = _locked(path, os.O_RDWR)
            except OSError as error:
                logger.warning("%s is left alone: %s", path, error.strerror)
                continue
            if segment is not None:
                self._segments.append(segment)
                self.size += segment.size
                self._drop_what_is_done()

    def _append(self, entries: Sequence[Entry]) -> None:
        data = b"".join([len(one).to_bytes(_LENGTH, "big") + one for one in map(_encode, entries)])
        if self.size + len(data) > self._limit:
            raise SinkError("the spool is full")
        if self._own is None or self._own.size >= SEGMENT:
            self._own = self._begin()
            self._segments.append(self._own)
        self._own.append(data)
        self.size += len(data)

    def _begin(self) -> _Segment:
        self._make_folder()
        while True:
            self._number += 1
            # One that another process has taken over before it was locked is let go.
            segment = _locked(self.folder / f"{self._id}-{self._number:08d}{_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
            if segment is not None:
                break
        try:
            sync_folder(self.folder)
        except OSError:
            segment.close(remove=True)
            raise
        return segment

    def _make_folder(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._is_nameless = True
        if self._is_nameless:
            sync_folder(self.folder.parent)
            self._is_nameless = False

    def _oldest(self, most: int) -> list[Entry]:
        self._load()
        return [entry for entry, _ in islice(self._loaded, most)]

    def _forget(self, count: int) -> None:
        for _ in range(count):
            _, end = self._loaded.popleft()
            head = self._segments[0]
            self.size -= end - head.read
            head.read = end
        self._drop_what_is_done()

    def _load(self) -> None:
        while not self._loaded and self._segments:
            head = self._segments[0]
            self._loaded.extend(head.load())
            if not self._loaded:
                # What is left of it is torn: its process was killed while it wrote, and nobody was told that it is kept.
                self.size -= head.size - head.read
                head.read = head.size
            self._drop_what_is_done()

    def _drop_what_is_done(self) -> None:
        while self._segments and self._segments[0].read >= self._segments[0].size:
            head = self._segments.popleft()
            head.close(remove=True)
            if head is self._own:
                self._own = None

    def _close(self) -> None:
        for segment in self._segments:
            segment.close(remove=False)
        self._segments.clear()
        self._loaded.clear()
        self._own, self.size = None, 0


def _locked(path: Path, flags: int) -> _Segment | None:
    """Open a file; return None where another process has it.

    Raises:
        OSError: it cannot be opened, or is not one that we have made.
    """
    try:
        # A link may lead anywhere, and opening a FIFO may wait for whoever writes to it.
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except FileNotFoundError:  # whoever had it has finished it
        return None
    try:
        _refuse_others(os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return _Segment(path, descriptor)
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _refuse_others(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or not _is_ours(found) or found.st_nlink > 1:
        raise PermissionError(errno.EPERM, "it is not a file that this user alone can have made")


def _is_ours(found: os.stat_result) -> bool:
    """Say whether nobody else can write there, but for whoever can write everywhere."""
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS
