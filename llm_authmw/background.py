"""Work that a request starts and does not wait for: it belongs to whoever shares its result, and ends with that owner."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import Context
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

logger: Final = logging.getLogger("llm_authmw")

Work: TypeAlias = Callable[[], Awaitable[None]]


class _Job:
    """One piece of work under way."""

    __slots__ = ("done", "scope", "task")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        # asyncio itself remembers its tasks weakly, and one that nobody else remembers may vanish half done.
        self.task: object = None

    async def run(self, work: Work, jobs: set["_Job"]) -> None:
        """Do the work; an error that it did not expect is logged, since nobody waits for it."""
        try:
            with self.scope:
                await work()
        except Exception:
            logger.exception("work in the background failed")
        finally:
            jobs.discard(self)
            self.done.set()


class Background:
    """The work that one owner has under way, in any number of event loops, on asyncio and on trio.

    It knows nothing of the request that started it: neither that request's cancellation nor its context variables reach it.
    """

    def __init__(self) -> None:
        # A loop that ended without `aclose` took its work with it.
        self._jobs: Final[MutableMapping[object, set[_Job]]] = WeakKeyDictionary()

    def start(self, work: Work) -> None:
        """Begin the work, and return at once."""
        loop = current_token().native_token
        jobs = self._jobs.setdefault(loop, set())
        job = _Job()
        jobs.add(job)
        if isinstance(loop, asyncio.AbstractEventLoop):
            job.task = loop.create_task(job.run(work, jobs), context=Context())
        else:
            import trio  # noqa: PLC0415 - not a dependency: it is there where it runs

            trio.lowlevel.spawn_system_task(job.run, work, jobs, context=Context())

    async def aclose(self) -> None:
        """End what is under way in this loop, and wait until it has ended. More may be started afterwards."""
        jobs = tuple(self._jobs.get(current_token().native_token, ()))
        for job in jobs:
            job.scope.cancel()
        with anyio.CancelScope(shield=True):
            for job in jobs:
                await job.done.wait()
