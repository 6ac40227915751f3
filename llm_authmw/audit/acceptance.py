"""Mode "required": a durable sink has a record before anything goes on."""

import logging
from collections.abc import Sequence
from typing import Final

import anyio

from llm_authmw.background import Background
from llm_authmw.errors import SinkError
from llm_authmw.sinks.queue import Deferred
from llm_authmw.sinks.sink import AuditSink

logger: Final = logging.getLogger("llm_authmw")


class Acceptance:
    """Has one of several durable sinks accept a record.

    Args:
        durable: The sinks: one at least.
        deadline: Seconds that this may take; None where the sinks' own deadlines are all.
    """

    __slots__ = ("_alone", "_background", "_deadline", "durable")

    def __init__(self, durable: Sequence[AuditSink], deadline: float | None) -> None:
        self.durable: Final[tuple[AuditSink, ...]] = tuple(durable)
        self._alone: Final = self.durable[0] if len(self.durable) == 1 else None
        self._deadline: Final = deadline
        self._background: Final = Background()

    async def accept(self, record: Deferred) -> bool:
        """Give a record to all of the sinks; return whether one of them has accepted it in time."""
        return await self._give(self.durable, record, keep=False)

    async def file(self, sinks: Sequence[AuditSink], record: Deferred) -> None:
        """Give a record to some of the sinks, and wait for the first to have it. One that does not accept it now writes it later."""
        await self._give(sinks, record, keep=True)

    def at_once(self, record: Deferred) -> bool | None:
        """Say whether a record is accepted, where there is one sink only and it need not be waited for; None where it has to be."""
        # What nearly always happens, without a timer, a task or anything else that is waited for.
        return None if self._alone is None else _accepted_now(self._alone, record)

    async def _give(self, sinks: Sequence[AuditSink], record: Deferred, *, keep: bool) -> bool:
        slow: list[AuditSink] = []
        for place, sink in enumerate(sinks):
            accepted = _accepted_now(sink, record)
            if accepted:
                # One is enough. Nobody waits for a store, say, where a file has it: that writes it in its next batch.
                for other in (*slow, *sinks[place + 1 :]):
                    other.put(record)
                return True
            if accepted is None:
                slow.append(sink)
        return bool(slow) and await self._first(slow, record, keep=keep)

    async def _first(self, sinks: Sequence[AuditSink], record: Deferred, *, keep: bool) -> bool:
        if self._deadline is None and len(sinks) == 1:
            # The sink keeps its own deadline.
            return await _accepted(sinks[0], record, keep=keep)
        race = _Race(sinks, record, keep=keep)
        for sink in sinks:
            # Each goes on by itself: a request that is let in, or cancelled, takes no record away from the others.
            self._background.start(race.runner(sink))
        with anyio.move_on_after(self._deadline):
            await race.decided.wait()
        return race.won


class _Race:
    """Several sinks that are given one record."""

    def __init__(self, sinks: Sequence[AuditSink], record: Deferred, *, keep: bool) -> None:
        self._record: Final = record
        self._keep: Final = keep
        self._running = len(sinks)
        self.decided: Final = anyio.Event()
        self.won: bool = False

    def runner(self, sink: AuditSink) -> "_Runner":
        return _Runner(self, sink)

    async def run(self, sink: AuditSink) -> None:
        accepted = await _accepted(sink, self._record, keep=self._keep)
        self._running -= 1
        self.won = self.won or accepted
        if self.won or not self._running:
            self.decided.set()


class _Runner:
    """One of them."""

    def __init__(self, race: _Race, sink: AuditSink) -> None:
        self._race: Final = race
        self._sink: Final = sink

    async def __call__(self) -> None:
        await self._race.run(self._sink)


def _accepted_now(sink: AuditSink, record: Deferred) -> bool | None:
    """Say whether a sink accepts a record; None where that has to be waited for. What one did not take that failed, it writes later."""
    try:
        return sink.accept_now(record) or None
    except Exception as error:  # noqa: BLE001 - as below
        _tell(sink, error)
        return False


async def _accepted(sink: AuditSink, record: Deferred, *, keep: bool) -> bool:
    """Say whether a sink accepts a record; where it is to be kept, and the sink does not, the sink writes it later."""
    try:
        await sink.accept(record, keep=keep)
    except Exception as error:  # noqa: BLE001 - a sink of somebody else's: a record that it did not take is not recorded
        _tell(sink, error)
        return False
    return True


def _tell(sink: AuditSink, error: Exception) -> None:
    if isinstance(error, SinkError):
        # What is to wake somebody up, the sink says once.
        logger.info("%s has not accepted a record: %s", sink.name, error)
    else:
        logger.error("%s has failed: %s", sink.name, type(error).__name__)  # not its text, which may quote the record
