"""What a guard says that was spent, and what becomes of that when its own notes are added up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overshoot.noted import money_bucket
from benchmarks.overshoot.notes import Note, read
from benchmarks.overshoot.spans import Refusal, Span, false_refusals
from benchmarks.overshoot.stores import ledger_at
from llm_authmw.ledger.contract import Ledger


@dataclass(frozen=True)
class Books:
    """What a guard has in its books.

    Attributes:
        used: Nano-dollars that its ledger says are used.
        charged: Nano-dollars that it charged, request by request.
        left_behind: Reservations that nobody settles any more, though nothing is in flight; None where they cannot be counted.
        false_refusals: Requests that it refused though by its own books there was room; None where it keeps none.
        charges: What it charged for each ask; None where that is not known.
        killed: The asks that a worker was killed over, so that their estimates stand.
    """

    used: int
    charged: int
    left_behind: int | None = None
    false_refusals: int | None = None
    charges: Mapping[str, int] | None = None
    killed: frozenset[str] = frozenset()


@dataclass
class _Entry:
    """What was noted of one reservation."""

    most: int
    ask: str
    asked: int
    decided: int | None = None
    granted: bool = False
    actual: str | None = None
    settled: int | None = None

    @property
    def refused(self) -> bool:
        return self.decided is not None and not self.granted


def entries_of(notes: Sequence[Note]) -> dict[str, _Entry]:
    """Return what was noted of each reservation, by its id."""
    entries: dict[str, _Entry] = {}
    for at, (what, name, nano, *rest) in notes:
        if what == "reserve":
            entries[name] = _Entry(int(nano), rest[0], at)
            continue
        entry = entries[name]
        if what in {"granted", "refused"}:
            entry.decided, entry.granted = at, what == "granted"
        elif what == "settle":
            entry.actual = entry.actual or nano
        elif what == "settled":
            entry.settled = at
    return entries


async def held(ledger: Ledger, folder: Path) -> int:
    """Return how many reservations are held: neither settled nor expired."""
    names = [note.words[1] for note in read(folder, "ledger") if note.words[0] == "reserve"]
    # An extension by a microsecond changes nothing that is held for longer.
    return sum([len(await ledger.extend(names[start : start + 500], ttl=1)) for start in range(0, len(names), 500)])


async def books_of_ours(place: str, folder: Path, limit: int) -> Books:
    """Look at the store once nothing is in flight. What it says of reservations that a worker did not live to settle is undone by that.

    Args:
        place: The store.
        folder: Where the workers noted.
        limit: The budget.
    """
    async with ledger_at(place) as ledger:
        bucket = money_bucket(folder)
        left_behind = await held(ledger, folder)
        used = (await ledger.balance([bucket]))[0].used
        entries = entries_of(read(folder, "ledger"))
        charges: dict[str, int] = {}
        killed: set[str] = set()
        spans: list[Span] = []
        for name, entry in entries.items():
            if entry.refused or not entry.most:
                continue
            cost = entry.most if entry.actual in {None, "estimate"} else int(str(entry.actual))
            if entry.settled is None:
                # Nobody lived to note what became of it. To settle it at nothing tells: what was settled before stays as it is.
                before = (await ledger.balance([bucket]))[0].used
                answer = await ledger.settle(name, {"nano_usd": 0})
                undone = before - (await ledger.balance([bucket]))[0].used
                if undone:
                    cost = undone
                    killed.add(entry.ask)
                elif answer is None and not entry.granted:
                    cost = 0
            charges[entry.ask] = charges.get(entry.ask, 0) + cost
            spans.append(Span(entry.asked, entry.settled, entry.most, cost))
    refusals = [Refusal(entry.asked, entry.decided or 0, entry.most) for entry in entries.values() if entry.refused and entry.most]
    return Books(used, sum(charges.values()), left_behind, false_refusals(spans, refusals, limit), charges, frozenset(killed))


def total(notes: Sequence[Note]) -> int:
    """Return the sum of what was noted as charged."""
    return sum(int(note.words[-1]) for note in notes)
