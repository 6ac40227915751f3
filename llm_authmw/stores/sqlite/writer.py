"""A thread that writes for many callers: those who ask while it is busy are written together, in one transaction (group commit)."""

import asyncio
import contextlib
import copy
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import current_token

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.sqlite.database import Database

Wish = TypeVar("Wish")
Answer = TypeVar("Answer")

Write: TypeAlias = Callable[[sqlite3.Connection, Sequence[Wish]], Sequence[Answer | Exception]]
"""Writes what several callers want, and returns for each of them the answer, or the error that is his alone and left nothing behind."""

MAX_GROUP: Final = 64
"""Callers whose wishes are one transaction: other processes wait for its end."""
LINGER: Final = 10.0
"""Seconds after which a thread ends that has nothing to do. A program that never closes its store has none left over."""


class _Call:
    """One caller who waits for an answer."""

    __slots__ = ("answer", "done", "error", "given_up", "loop", "wish")

    def __init__(self, wish: object) -> None:
        self.wish: Final = wish
        self.loop: Any
        self.done: asyncio.Future[None] | anyio.Event
        if _in_asyncio():
            # What trio knows too takes a tenth of the whole call longer.
            self.loop = asyncio.get_running_loop()
            self.done = self.loop.create_future()
        else:
            self.loop = current_token().native_token
            self.done = anyio.Event()
        self.given_up: bool = False
        self.answer: object = None
        self.error: Exception | None = None

    async def wait(self) -> None:
        """Wait for the answer."""
        await (self.done.wait() if isinstance(self.done, anyio.Event) else self.done)

    def wake(self) -> None:
        """Say that it is there. Called in the loop that waits."""
        if isinstance(self.done, anyio.Event):
            self.done.set()
        elif not self.done.done():
            self.done.set_result(None)


class _Thread(threading.Thread):
    """A thread, and those whom it serves. None among them is its end."""

    def __init__(self, serve: "Callable[[_Thread], None]") -> None:
        # A program that forgot to close its store ends all the same, and what it was told stands in the file.
        super().__init__(target=serve, args=(self,), name="llm_authmw-writer", daemon=True)
        self.calls: Final[queue.SimpleQueue[_Call | None]] = queue.SimpleQueue()

    def more(self, most: int) -> list[_Call]:
        """Return those who wait already."""
        found: list[_Call] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < most:
                call = self.calls.get_nowait()
                if call is None:
                    self.calls.put(None)
                    break
                found.append(call)
        return found


class Writer(Generic[Wish, Answer]):
    """Writes in a thread of its own, for any number of event loops, on asyncio and on trio.

    The thread begins with the first wish. An answer is given once it is in the file: a process that is killed afterwards has
    written it, a power cut may undo it.

    Args:
        database: The file.
        write: Writes a group. It is called again, with one wish at a time, where it raises an error for several.
    """

    def __init__(self, database: Database, write: Write[Wish, Answer]) -> None:
        self._database: Final = database
        self._write: Final = write
        self._lock: Final = threading.Lock()
        self._thread: _Thread | None = None

    async def ask(self, wish: Wish) -> Answer:
        """Return the answer to a wish. That of a caller who gives up may have been written, unless it had not been begun.

        Raises:
            StoreError: the file cannot be written; nothing was.
            Exception: what `write` gave.
        """
        call = _Call(wish)
        with self._lock:
            # A thread does not follow its process into a fork.
            if self._thread is None or not self._thread.is_alive():
                self._thread = _Thread(self._serve)
                self._thread.start()
            self._thread.calls.put(call)
        try:
            await call.wait()
        except BaseException:
            call.given_up = True
            raise
        if call.error is not None:
            raise call.error
        return cast("Answer", call.answer)

    async def aclose(self) -> None:
        """Write what is waited for, and end the thread. A later wish begins another one."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            thread.calls.put(None)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join)

    def _serve(self, thread: "_Thread") -> None:
        while (first := self._first(thread)) is not None:
            calls = [first, *thread.more(MAX_GROUP - 1)]
            wanted = [call for call in calls if not call.given_up]
            if wanted:
                self._answer(wanted)
            for loop in {call.loop for call in wanted}:
                _tell(loop, [call for call in wanted if call.loop is loop])

    def _first(self, thread: "_Thread") -> _Call | None:
        """Return who is next; None where the thread is to end."""
        try:
            return thread.calls.get(timeout=LINGER)
        except queue.Empty:
            with self._lock:
                # Whoever comes does so under the lock.
                if self._thread is thread and thread.calls.empty():
                    self._thread = None
                    return None
            return thread.calls.get()

    def _answer(self, calls: Sequence[_Call]) -> None:
        wishes = [cast("Wish", call.wish) for call in calls]
        try:
            answers = self._database.book(lambda connection: self._write(connection, wishes))
        except (StoreUnavailableError, StoreReadOnlyError) as error:
            for call in calls:
                # To each his own: raising an error writes down where.
                call.error = copy.copy(error)
                call.error.__cause__ = error.__cause__
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            if len(calls) == 1:
                calls[0].error = error
                return
            # One of them broke it, and nobody knows which: a row that cannot be read, for instance.
            for call in calls:
                self._answer([call])
        else:
            for call, answer in zip(calls, answers, strict=True):
                if isinstance(answer, Exception):
                    call.error = answer
                else:
                    call.answer = answer


def _in_asyncio() -> bool:
    """Say whether a task of asyncio asks. Where trio is a guest in its loop, none does."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _tell(loop: Any, calls: Sequence[_Call]) -> None:
    """Let those who wait in this event loop go on."""
    begin = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon
    try:
        begin(_wake, calls)
    except RuntimeError:  # the loop has ended, and nobody waits in it
        return


def _wake(calls: Sequence[_Call]) -> None:
    for call in calls:
        call.wake()
