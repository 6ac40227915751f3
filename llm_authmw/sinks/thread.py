"""A thread of one's own for what blocks: a disk that hangs takes no thread away from anybody else."""

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from llm_authmw.errors import SinkError
from llm_authmw.sinks.queue import Ticket

T = TypeVar("T")

LINGER: Final = 10.0
"""Seconds after which a thread ends that has nothing to do."""


class _Job(Generic[T]):
    """One call."""

    __slots__ = ("function", "result", "ticket")

    def __init__(self, function: Callable[[], T]) -> None:
        self.function: Final = function
        self.ticket: Final = Ticket()
        self.result: tuple[T] | Exception | None = None

    def do(self) -> None:
        try:
            self.result = (self.function(),)
        except Exception as error:  # noqa: BLE001 - whoever called is told
            self.result = error
        self.ticket.settle(None)


class OwnThread:
    """Calls functions one after the other, for any number of event loops. The thread begins with the first of them.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: "Callable[[], T]") -> T:
        """Call a function there, and return what it returns. A call that was begun goes on where the caller gives up.

        Raises:
            Exception: whatever the function raises.
        """
        job: _Job[T] = _Job(function)
        with self._lock:
            self._jobs.put(job)  # type: ignore[arg-type]
            if self._thread is None:
                # A program that forgot to close its sink ends all the same.
                self._thread = threading.Thread(target=self._serve, args=(self._jobs,), name=self._name, daemon=True)
                self._thread.start()
        await job.ticket.wait()
        if isinstance(job.result, tuple):
            return job.result[0]
        raise job.result or SinkError("the thread has ended")

    def aclose(self) -> None:
        """End the thread once it has done what it was told."""
        self._jobs.put(None)

    def forked(self) -> None:
        """Forget the thread, which is the parent's."""
        self._lock = threading.Lock()
        self._jobs = queue.SimpleQueue()
        self._thread = None

    def _serve(self, jobs: "queue.SimpleQueue[_Job[object] | None]") -> None:
        while True:
            try:
                job = jobs.get(timeout=LINGER)
            except queue.Empty:
                job = None
            if job is not None:
                job.do()
                continue
            with self._lock:
                # Whoever comes does so under the lock.
                if jobs.empty():
                    self._thread = None
                    return
