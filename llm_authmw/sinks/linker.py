"""From what waits to entries: records are made, chosen, and given their place in the chain."""

from collections.abc import Callable, Sequence
from typing import Final

from llm_authmw.clock import Clock
from llm_authmw.sinks.losses import Losses
from llm_authmw.sinks.queue import Deferred, Kept, Queue, Ticket, settle_all
from llm_authmw.sinks.sampling import Choice
from llm_authmw.sinks.transport import MovingTransport, Transport
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.record import Record


class Batch:
    """Entries that are written together, and the callers who wait for them, each under the hash of the entry that is theirs.

    Args:
        entries: The entries.
        tickets: The callers, for the first of the entries that tell of something that happened.
    """

    __slots__ = ("entries", "tickets")

    def __init__(self, entries: list[Entry], tickets: Sequence[Ticket] = ()) -> None:
        self.entries: Final[list[Entry]] = entries
        theirs = (entry.hash for entry in entries if tells(entry))
        self.tickets: dict[str, Ticket] = dict(zip(theirs, tickets, strict=False))

    def add(self, more: "Batch") -> None:
        """Put another one behind this one."""
        self.entries.extend(more.entries)
        self.tickets.update(more.tickets)

    def settle(self, problem: str | None = None) -> None:
        """Let the callers go on; see `Ticket.settle`."""
        tickets, self.tickets = self.tickets, {}
        settle_all(tickets.values(), problem)


def tells(entry: Entry) -> bool:
    """Say whether an entry tells of something that happened: a chain's own entries do not."""
    return entry.record.kind not in {"loss", "checkpoint"}


class Linker:
    """Makes entries of what waits in a queue.

    Args:
        queue: Where records wait.
        make_chain: Makes what links them: one for each time that the sink is open.
        choice: Says which of them the sink takes.
        losses: Counts what is lost.
        transport: The place that they are for.
        clock: Tells the time.
    """

    def __init__(
        self, queue: Queue, *, make_chain: Callable[[], Chain], choice: Choice, losses: Losses, transport: Transport, clock: Clock
    ) -> None:
        self._queue: Final = queue
        self._make_chain: Final = make_chain
        self._chain: Chain = make_chain()
        self._choice: Final = choice
        self._losses: Final = losses
        self._moving: Final = transport if isinstance(transport, MovingTransport) else None
        self._clock: Final = clock

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and no loss has yet to be told of."""
        return not len(self._queue) and not self._losses.unrecorded

    def one(self, wanted: Deferred) -> list[Entry]:
        """Return the entry of one record, behind those of the chain that come before it; nothing where it cannot be made."""
        record = self._made(wanted)
        return [] if record is None else self._link((record,))

    def take(self, most: int) -> Batch | None:
        """Take so many records out of the queue at most, those first that somebody waits for; None where there is nothing to write."""
        tickets = self._queue.take_tickets(most)
        records: list[Record] = []
        kept: list[Ticket] = []
        for ticket in tickets:
            made = None if ticket.wanted is None else self._made(ticket.wanted)
            if made is None:
                settle_all([ticket], "the record could not be made")
            else:
                records.append(made)
                kept.append(ticket)
        for wanted in self._queue.take_records(most - len(tickets)):
            made = self._made(wanted)
            if made is not None and (isinstance(wanted, Kept) or self._choice.takes(made)):
                records.append(made)
        entries = self._link(records)
        return Batch(entries, kept) if entries else None

    def end(self) -> list[Entry]:
        """Return the entry that ends the chain, where it has begun. What comes later begins another one."""
        if self._chain.head is None:
            return []
        entries = [self._chain.checkpoint("closed")]
        self.restart()
        return entries

    def restart(self) -> None:
        """Begin another chain."""
        self._chain = self._make_chain()

    def _made(self, wanted: Deferred) -> Record | None:
        try:
            return wanted.record()
        except Exception as error:  # noqa: BLE001 - one record that cannot be made must not stop the others
            self._losses.count(1, f"a record could not be made ({type(error).__name__})")
            return None

    def _link(self, records: Sequence[Record]) -> list[Entry]:
        entries: list[Entry] = []
        if self._moving is not None and (begun := self._moving.take_begun()) is not None:
            self._chain.saw(begun.heads)
            if begun.moved and self._chain.head is not None:
                entries.append(self._chain.checkpoint("opened"))
        if lost := self._losses.unrecorded:
            records = [Record(time=int(self._clock.now() * 1_000_000), kind="loss", lost=lost), *records]
            self._losses.recorded(lost)
        linked = self._chain.link_all(records)
        return [*entries, *linked] if entries else linked
