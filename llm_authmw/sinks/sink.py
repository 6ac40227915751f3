"""`AuditSink`: what the layer writes records to. It never holds up a request, or holds it up until the record is safe."""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, get_args
from weakref import WeakSet

import anyio

from llm_authmw.background import logger
from llm_authmw.callbacks import Callback
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.history import HistoryEntry
from llm_authmw.secrets import Secret
from llm_authmw.sinks.changes import change_record
from llm_authmw.sinks.delivery import Delivery
from llm_authmw.sinks.drainer import Drainer
from llm_authmw.sinks.linker import Linker
from llm_authmw.sinks.losses import Losses
from llm_authmw.sinks.only import Only
from llm_authmw.sinks.options import (
    DEFAULT_BATCH,
    DEFAULT_DEADLINE,
    DEFAULT_QUEUE,
    DEFAULT_SPOOL_LIMIT,
    WhenFull,
    check_count,
    check_seconds,
    check_share,
)
from llm_authmw.sinks.queue import Deferred, Kept, Queue, Ticket, settle_all
from llm_authmw.sinks.sampling import Choice
from llm_authmw.sinks.transport import Transport
from llm_authmw.telemetry import Reading, measure
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.checkpoints import Anchor, SigningKey
from llm_authmw.trail.entry import Format

if TYPE_CHECKING:
    from llm_authmw.sinks.spool import Spool

FLUSH: Final = 4.0
"""Seconds that closing may take to write what waits: a little less than the lifespan of the app gives it."""


class AuditSink:
    """One place that records go to, for any number of layers, in any number of event loops.

    Make it once; the layers that share it own its lifespan. It also starts by itself.

    Args:
        transport: The place.
        name: What it is called in alerts and metrics; left out: what the place is.
        format: "json" for records as they are, or "ocsf" for events of the Open Cybersecurity Schema Framework.
        only: Which records it takes; left out: all of them.
        sample: Which share of the allowed requests it takes, between 0.0 and 1.0. Denials, failures and changes are always taken.
        queue: How many records may wait in memory; behind the first 500, no more than take 64 MiB.
        when_full: What `put` means where so many wait: "drop" counts the record as lost; with "wait", `room` lets a request wait for as
            long as `deadline`, before it comes to that.
        deadline: Seconds that `accept` and `room` may take.
        batch: How many records are written at once, at most.
        spool: A folder where records are kept while the place is down. Several processes share it, and one that starts takes over what a
            process that has ended has left there.
        spool_limit: Bytes that this process keeps there at most.
        signing_key: What checkpoints of the chain are signed with: a private key for Ed25519, or a reference to it.
        checkpoint_every: After how many entries the chain has a checkpoint.
        checkpoint_interval: After how many seconds it has one, where there are entries since the last.
        anchor: A function that is told of every checkpoint that is written, so that a cut-off end shows.
        clock: Tells the time of records of its own, and the monotonic time.

    Raises:
        ConfigurationError: an option is wrong, or contradicts another one.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        name: str = "",
        format: Format = "json",  # noqa: A002 - what every program of this kind calls it
        only: Only | None = None,
        sample: float = 1.0,
        queue: int = DEFAULT_QUEUE,
        when_full: WhenFull = "drop",
        deadline: float = DEFAULT_DEADLINE,
        batch: int = DEFAULT_BATCH,
        spool: str | os.PathLike[str] | None = None,
        spool_limit: int = DEFAULT_SPOOL_LIMIT,
        signing_key: SigningKey | Secret | str | None = None,
        checkpoint_every: int = 1_000,
        checkpoint_interval: float = 60.0,
        anchor: Anchor | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if when_full not in get_args(WhenFull):
            raise ConfigurationError("when_full", "is 'drop' or 'wait'")
        if only is not None and not isinstance(only, Only):
            raise ConfigurationError("only", f"takes an Only, not {type(only).__name__}")
        if spool is None and spool_limit != DEFAULT_SPOOL_LIMIT:
            raise ConfigurationError("spool_limit", "means nothing without a spool")
        key = signing_key if signing_key is None or isinstance(signing_key, SigningKey) else SigningKey(signing_key)
        self.name: Final[str] = name or repr(transport)
        self._transport: Final = transport
        self._deadline: Final = check_seconds("deadline", deadline)
        self._waits: Final = when_full == "wait"
        self._queue: Final = Queue(check_count("queue", queue, unit="records"))
        self._losses: Final = Losses(self.name, clock)
        self._spool: Final = _spool(spool, spool_limit)
        self._started: bool = False
        self._in_want_of_room: Final[dict[Ticket, None]] = {}
        self._delivery: Final = Delivery(
            transport,
            queue=self._queue,
            linker=Linker(
                self._queue,
                make_chain=lambda: Chain(
                    format=format,
                    signing_key=key,
                    checkpoint_every=checkpoint_every,
                    checkpoint_interval=checkpoint_interval,
                    clock=clock,
                ),
                choice=Choice(only, check_share("sample", sample)),
                losses=self._losses,
                transport=transport,
                clock=clock,
            ),
            losses=self._losses,
            spool=self._spool,
            batch=check_count("batch", batch, unit="records"),
            deadline=self._deadline,
            anchor=None if anchor is None else Callback("anchor", anchor),
            clock=clock,
        )
        self._drainer: Final = Drainer(self._work, last=self._flush_alone)
        _sinks.add(self)
        measure(self)

    @property
    def durable(self) -> bool:
        """Whether what `accept` has accepted survives the end of this process, however it ends: the place says so, or there is a spool."""
        return self._transport.durable or self._spool is not None

    @property
    def waits(self) -> bool:
        """Whether `room` may wait."""
        return self._waits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def put(self, record: Deferred) -> None:
        """Take a record to be written soon. It never waits and never fails; what it cannot take is counted as lost."""
        if not self._queue.add(record):
            self._losses.count(1, "the queue is full")
        elif self._drainer.asleep:
            self._drainer.wake()

    def accept_now(self, record: Deferred) -> bool:
        """Take a record as `accept` does, where nothing has to be waited for; return False where something has, and it is not taken.

        Raises:
            SinkError: as for `accept`, which need not be asked again.
        """
        # With a spool, what fails here is to be waited for.
        try:
            return self._spool is None and self._started and self._write_at_once(record) is True
        except SinkError:
            # What is in hand now is tried again by itself.
            if self._drainer.asleep:
                self._drainer.wake()
            raise

    async def accept(self, record: Deferred, *, keep: bool = False) -> None:
        """Take a record, whatever filters and samples say, and return once it is written. Callers at the same time share one write.

        Args:
            record: The record.
            keep: Whether it is to be written later where it is not written now. It waits then as what was `put` does, and is never
                written twice, nor to be given again.

        Raises:
            SinkError: it is not written, or not within the deadline. It may still be, where the place had been given it before that.
        """
        done = self.accept_now(record) if self._spool is None else self._started and self._write_at_once(record)
        if done is True:
            return
        ticket = done or Ticket(record)
        if done is False:
            self._take_in(ticket, keep=keep)
        try:
            self._drainer.wake()
            with anyio.move_on_after(self._deadline):
                await ticket.wait()
                return
        except SinkError as error:
            raise SinkError(f"{self.name} takes no records: {error}") from None
        finally:
            if not keep:
                self._queue.drop(ticket)
        self._delivery.retries.late()
        raise SinkError(f"{self.name} has not taken a record within {self._deadline:g} s")

    async def room(self) -> None:
        """Wait until there is room for a record, with `when_full="wait"`; at most for as long as the deadline says."""
        if self._waits and self._queue.full:
            ticket = Ticket()
            self._in_want_of_room[ticket] = None
            try:
                self._drainer.wake()
                with anyio.move_on_after(self._deadline):
                    await ticket.wait()
            finally:
                self._in_want_of_room.pop(ticket, None)

    def changed(self, what: str, target: str, entry: HistoryEntry, *, tenant: str, user: str | None = None, realm: str = "") -> None:
        """Record a change of a key, an account or the like: see `history.Recorder`."""
        self.put(change_record(what, target, entry, tenant=tenant, user=user, realm=realm))

    async def start(self) -> None:
        """Make the place ready. One that is only away for now is tried again later.

        Raises:
            SinkError: it never will be.
        """
        try:
            await self._transport.start()
        except SinkError as error:
            if error.permanent:
                raise
            logger.warning("%s is not ready: %s", self.name, error)
        await self._begin()

    async def aclose(self) -> None:
        """Write what waits, within 4 seconds; the rest is counted as lost. The next use starts it again."""
        with anyio.move_on_after(FLUSH, shield=True) as flushing:
            await self._flush()
        if self._drainer.elsewhere:
            # Its event loop goes on, and so does the sink.
            return
        await self._drainer.aclose()
        self._started = False
        with anyio.move_on_after(1.0, shield=True):
            await self._delivery.end(late=flushing.cancelled_caught)
            if self._spool is not None:
                await self._spool.aclose()
            await self._transport.aclose()
        if len(self._queue):
            # Other threads go on.
            self._drainer.wake()

    def readings(self) -> Iterable[Reading]:
        """Return how long the queue is, and what was written, lost and spooled."""
        labels = (("sink", self.name),)
        yield Reading("audit_queue_length", len(self._queue), labels)
        yield Reading("audit_records_written", self._delivery.written, labels, counts_up=True)
        yield Reading("audit_records_lost", self._losses.total, labels, counts_up=True)
        yield Reading("audit_spool_bytes", 0 if self._spool is None else self._spool.size, labels)

    def forked(self) -> None:
        """Begin anew in the child of a fork: the connections and what waits are its parent's."""
        self._queue.forked()
        self._in_want_of_room.clear()
        self._losses.forked()
        self._drainer.forked()
        self._delivery.forked()
        if self._spool is not None:
            self._spool.forked()
        self._transport.forked()
        self._started = False

    def _write_at_once(self, record: Deferred) -> bool | Ticket:
        done = self._delivery.write_at_once(record)
        if done is True and self._drainer.asleep and self._delivery.untold:
            self._drainer.wake()
        return done

    def _take_in(self, ticket: Ticket, *, keep: bool) -> None:
        """Let a record wait for its turn.

        Raises:
            SinkError: nobody should wait for that.
        """
        stuck = self._delivery.stuck
        if not stuck and self._queue.add_ticket(ticket):
            return
        if keep and ticket.wanted is not None:
            self.put(Kept(ticket.wanted))
        raise SinkError(f"{self.name} takes no records: {self._delivery.retries.problem if stuck else 'the queue is full'}")

    async def _begin(self) -> None:
        if self._started:
            return
        self._started = True
        if self._spool is not None:
            try:
                await self._spool.adopt()
            except SinkError as error:
                logger.warning("%s: %s", self.name, error)
            if not self._spool.empty:
                self._drainer.wake()

    async def _work(self) -> bool:
        await self._begin()
        more = await self._delivery.work()
        if self._in_want_of_room and not self._queue.full:
            settle_all(list(self._in_want_of_room))
        return more

    async def _flush(self) -> None:
        if self._drainer.asleep and self._delivery.idle:
            return
        ticket = Ticket()
        self._delivery.flushes.append(ticket)
        self._drainer.wake()
        await ticket.wait()

    async def _flush_alone(self) -> None:
        with anyio.move_on_after(FLUSH / 2):
            await self._work()


def _spool(folder: str | os.PathLike[str] | None, limit: int) -> "Spool | None":
    if folder is None:
        return None
    if sys.platform == "win32":
        raise ConfigurationError("spool", "needs a system that locks files for a process")
    from llm_authmw.sinks.spool import Spool  # noqa: PLC0415 - needs such a system

    return Spool(folder, limit=check_count("spool_limit", limit, unit="bytes", least=65_536))


_sinks: Final[WeakSet[AuditSink]] = WeakSet()


def _forked() -> None:
    for sink in tuple(_sinks):
        sink.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
