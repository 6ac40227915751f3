"""The way from the queue to the place: records are made, linked and written, and what the place does not take is kept in order."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from llm_authmw.background import Background, logger
from llm_authmw.callbacks import Callback
from llm_authmw.clock import Clock
from llm_authmw.errors import SinkError
from llm_authmw.sinks.linker import Batch, Linker, tells
from llm_authmw.sinks.losses import Losses
from llm_authmw.sinks.queue import Deferred, Queue, Ticket, settle_all
from llm_authmw.sinks.retries import Retries
from llm_authmw.sinks.transport import ImmediateTransport, Transport
from llm_authmw.trail.entry import Entry

if TYPE_CHECKING:
    from llm_authmw.sinks.spool import Spool

WRITE_DEADLINE: Final = 5.0
"""Seconds after which a place that does not answer is taken for one that has failed."""
_SLICE: Final = 50
# Records that are made and linked before other tasks have their turn: about a millisecond.


class Delivery:
    """Brings the records of one sink to their place.

    An entry that is linked is never left out: it is in hand, or in the spool, until the place has taken it. What is lost is lost before it
    has a place in the chain, so that the chain has no gap.

    Args:
        transport: The place.
        queue: Where records wait.
        linker: Makes entries of them.
        losses: Counts what is lost.
        spool: Where entries are kept while the place is down.
        batch: How many entries are written at once.
        deadline: Seconds that somebody waits for an entry.
        anchor: Is told of checkpoints that are written.
        clock: Tells the time.

    Attributes:
        written: Entries that the place has taken.
        flushes: Those who wait until nothing is left.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        queue: Queue,
        linker: Linker,
        losses: Losses,
        spool: "Spool | None",
        batch: int,
        deadline: float,
        anchor: Callback | None,
        clock: Clock,
    ) -> None:
        self.written: int = 0
        self.flushes: Final[list[Ticket]] = []
        self.retries: Final[Retries] = Retries(losses.name, clock)
        self._transport: Final = transport
        self._immediate: Final = transport if isinstance(transport, ImmediateTransport) else None
        self._queue: Final = queue
        self._linker: Final = linker
        self._losses: Final = losses
        self._spool: Final = spool
        self._batch: Final = batch
        # Where there is a spool, the other half of the time is enough to put it there.
        self._patience: Final = deadline / 2
        self._anchor: Final = anchor
        self._hand: Batch | None = None
        self._checkpoints: Final[deque[Entry]] = deque()
        # Where several threads write at once: held for as long as it takes to link and to write, and never while somebody waits.
        self._lock = threading.Lock()
        self._background = Background()
        self._replaying: bool = False
        self._telling: bool = False
        # Whether the spool, too, has refused what is in hand.
        self._kept_out: bool = False
        self._spool_first: Final = spool is not None and not transport.durable

    @property
    def stuck(self) -> bool:
        """Whether the place has failed, and nothing else would take what comes."""
        return self.retries.problem is not None and self._hand is not None and (self._spool is None or self._kept_out)

    @property
    def untold(self) -> bool:
        """Whether there are checkpoints that the anchor has yet to be told of."""
        return bool(self._checkpoints)

    @property
    def idle(self) -> bool:
        """Whether everything is where it belongs: at the place, or in the spool while that is down."""
        return self._hand is None and self._linker.idle and not self._checkpoints

    def write_at_once(self, wanted: Deferred) -> bool | Ticket:
        """Write one record here and now.

        Returns:
            Whether that is done; else it has to wait for its turn. A ticket where it is on its way to the spool.

        Raises:
            SinkError: the place does not take it. It stays in hand, and is written as soon as that can be done; or it could not be made,
                and is counted as lost.
        """
        place, spool = self._immediate, self._spool
        if (
            place is None
            or (spool is not None and (self._hand is not None or self._replaying or not spool.empty))
            or not self._lock.acquire(False)
        ):
            return False
        try:
            if self._hand is not None and not self._try_hand(place, self._hand):
                return False
            entries = self._linker.one(wanted)
            if not entries:
                raise SinkError("the record could not be made")
            try:
                place.write_now(entries)
            except Exception as error:
                problem = self.retries.failed(error)
                if spool is not None:
                    ticket = Ticket(wanted)
                    self._hand = Batch(entries, (ticket,))
                    return ticket
                self._hand = Batch(entries)
                raise SinkError(problem) from error
            self._took(entries)
        finally:
            self._lock.release()
        return True

    async def work(self) -> bool:
        """Write all that can be written now; return whether anything was, or more is to be done soon."""
        did = False
        while await self._step():
            did = True
            self._tell_anchor_soon()
        self._tell_anchor_soon()
        self._settle_flushes()
        return did or not self.idle or self._spooling

    async def end(self, *, late: bool) -> None:
        """Write that the chain ends here.

        Args:
            late: Whether there was no time to write all that waited: then it is lost.
        """
        await self._background.aclose()
        last: Batch | None = None
        with self._lock:
            # Other threads may go on meanwhile.
            if self.idle and not self._spooling and (entries := self._linker.end()):
                self._hand = last = Batch(entries)
                if self._immediate is not None:
                    self._try_hand(self._immediate, last)
        if last is not None and self._hand is last:
            await self._write_hand_and_wait()
        await self._tell_anchor()
        if late:
            hand, self._hand = self._hand or Batch([]), None
            tickets = self._queue.take_tickets(len(self._queue))
            left = sum(map(tells, hand.entries)) + len(tickets) + self._queue.clear()
            hand.settle("the sink is closed")
            settle_all(tickets, "the sink is closed")
            if left:
                self._losses.count(left, "the sink was closed before they were written")
        self._losses.tell("the sink is closed", at_last=True)

    def forked(self) -> None:
        """Begin anew in the child of a fork: what waits is its parent's."""
        self._lock = threading.Lock()
        self._hand = None
        self._background, self._replaying, self._telling = Background(), False, False
        self._linker.restart()
        self._checkpoints.clear()
        self.flushes.clear()
        self.retries.succeeded()
        self.written = 0

    @property
    def _spooling(self) -> bool:
        return self._spool is not None and (self._replaying or not self._spool.empty)

    async def _step(self) -> bool:
        """Take one step; return whether there may be more to do at once."""
        if self._immediate is not None and not self._spooling:
            with self._lock:
                if self._hand is None:
                    self._hand = self._linker.take(_SLICE)
                done = self._hand is not None and self.retries.due and self._try_hand(self._immediate, self._hand)
            if self._spool is not None and self._hand is not None:
                done = await self._move_on()
        else:
            if self._hand is None:
                await self._gather()
            done = await self._move_on()
        if done:
            await anyio.lowlevel.checkpoint()
        return done

    def _try_hand(self, place: ImmediateTransport, hand: Batch) -> bool:
        try:
            self._write_hand(place, hand)
        except SinkError:
            return False
        return True

    def _write_hand(self, place: ImmediateTransport, hand: Batch) -> None:
        """Write what is in hand.

        Raises:
            SinkError: the place does not take it; it stays in hand.
        """
        try:
            place.write_now(hand.entries)
        except Exception as error:
            problem = self.retries.failed(error)
            if self._spool is None:
                hand.settle(problem)
            raise SinkError(problem) from error
        self._took(hand.entries)
        self._let_go(hand)

    async def _write_hand_and_wait(self) -> bool:
        hand = self._hand
        if hand is None or not self.retries.due:
            return False
        if not await self._write(hand):
            if self._spool is None:
                hand.settle(self.retries.problem)
            return False
        self._let_go(hand)
        return True

    def _let_go(self, hand: Batch) -> None:
        hand.settle()
        if self._hand is hand:  # else a loop that stood still goes on, and another one has taken over meanwhile
            self._hand = None

    async def _move_on(self) -> bool:
        """Bring what is in hand to the place, or to the spool."""
        spool, hand = self._spool, self._hand
        if spool is None:
            return await self._write_hand_and_wait()
        if hand is None:
            done = False
        elif self._spooling or (self._spool_first and hand.tickets):
            done = await self._keep(spool, hand)
        else:
            done = await self._write_hand_and_wait() or await self._keep(spool, hand)
        if not spool.empty and not self._replaying and self.retries.due:
            # Beside this task: a place that hangs must not keep what comes meanwhile from the spool.
            self._replaying = True
            self._background.start(self._replay)
        return done

    async def _keep(self, spool: "Spool", hand: Batch) -> bool:
        try:
            await spool.append(hand.entries)
        except SinkError as error:
            self._kept_out = True
            hand.settle(str(error))
            return False
        self._kept_out = False
        self._let_go(hand)
        return True

    async def _replay(self) -> None:
        """Bring what is in the spool to the place, until that fails."""
        spool = self._spool
        try:
            while spool is not None and not spool.empty:
                oldest = Batch(await spool.oldest(self._batch))
                count = len(oldest.entries)
                done = await self._write(oldest)
                await spool.forget(count - len(oldest.entries))
                if not done:
                    break
        except SinkError as error:
            self.retries.failed(error)
        finally:
            self._replaying = False

    async def _write(self, batch: Batch) -> bool:
        """Give a batch to the place; return whether it is done with it. What it is done with is no longer in the batch."""
        if not batch.entries:
            return True
        try:
            patience = WRITE_DEADLINE if self._spool is None or not batch.tickets else self._patience
            with anyio.move_on_after(patience):
                await self._transport.write(batch.entries)
                self._took(batch.entries)
                batch.entries.clear()
                return True
            self.retries.failed(SinkError(f"has not answered within {patience:g} s"))
        except SinkError as error:
            if error.permanent:
                return await self._write_one_by_one(batch, error)
            self.retries.failed(error)
        except Exception as error:  # noqa: BLE001 - a place of somebody else's
            self.retries.failed(error)
        return False

    async def _write_one_by_one(self, batch: Batch, error: SinkError) -> bool:
        """Find out which entry the place will never take: that one is lost, and the others are not."""
        if len(batch.entries) == 1:
            refused = batch.entries.pop()
            if (ticket := batch.tickets.pop(refused.hash, None)) is not None:
                settle_all([ticket], str(error))
            if tells(refused):
                self._losses.count(1, f"refused for good: {error}")
            elif refused.record.lost:
                self._losses.recorded(-refused.record.lost)  # another record has to tell of them
            return True
        while batch.entries:
            first = Batch(batch.entries[:1])
            first.tickets = batch.tickets
            if not await self._write(first):
                return False
            del batch.entries[0]
        return True

    async def _gather(self) -> None:
        """Take as much in hand as is written at once, slice by slice. What is linked is in hand already where this is cancelled."""
        with self._lock:
            if self._hand is None:
                self._hand = self._linker.take(min(_SLICE, self._batch))
            hand = self._hand
        while hand is not None and len(hand.entries) < self._batch and len(self._queue):
            await anyio.lowlevel.checkpoint()
            with self._lock:
                if self._hand is not hand:
                    break
                more = self._linker.take(min(_SLICE, self._batch - len(hand.entries)))
                if more is not None:
                    hand.add(more)

    def _took(self, entries: Sequence[Entry]) -> None:
        if self.retries.problem is not None:
            self.retries.succeeded()
        self.written += len(entries)
        if self._anchor is not None:
            self._checkpoints.extend(entry for entry in entries if entry.record.kind == "checkpoint")

    def _settle_flushes(self) -> None:
        if self.flushes and self.idle and (not self._spooling or self.retries.problem is not None):
            waiting, self.flushes[:] = list(self.flushes), []
            settle_all(waiting)

    def _tell_anchor_soon(self) -> None:
        """Tell the anchor beside this task: while records come all the time there is no end of them, and one that is slow holds none up."""
        if self._checkpoints and not self._telling:
            self._telling = True
            self._background.start(self._tell_anchor_beside)

    async def _tell_anchor_beside(self) -> None:
        try:
            await self._tell_anchor()
        finally:
            self._telling = False
        self._settle_flushes()

    async def _tell_anchor(self) -> None:
        """Tell the anchor of every checkpoint that is written. What it is being told of when this is cancelled it is told of again."""
        while self._checkpoints and self._anchor is not None:
            try:
                await self._anchor(self._checkpoints[0])
            except Exception as error:  # noqa: BLE001 - a user's function
                logger.warning("a checkpoint could not be anchored (%s)", type(error).__name__)
            self._checkpoints.popleft()
