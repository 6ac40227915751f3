"""What one audit layer does with a record: where it goes, and whether that has to be so before the app runs."""

from collections.abc import Sequence
from typing import Final

from llm_authmw.audit.acceptance import Acceptance
from llm_authmw.audit.enrichment import Enrichment
from llm_authmw.audit.notes import Notes
from llm_authmw.sinks.sink import AuditSink


class Part:
    """Made once by each audit layer.

    Args:
        sinks: Where records go.
        acceptance: Has durable sinks accept them; None in mode "best_effort".
        enrichment: Adds to them; None where nothing does.
    """

    __slots__ = ("_one_that_accepts", "acceptance", "enrichment", "sinks")

    def __init__(self, sinks: Sequence[AuditSink], acceptance: Acceptance | None, enrichment: Enrichment | None) -> None:
        self.sinks: Final[tuple[AuditSink, ...]] = tuple(sinks)
        self.acceptance: Final = acceptance
        self.enrichment: Final = enrichment
        self._one_that_accepts: Final = acceptance if enrichment is None and acceptance is not None and len(self.sinks) == 1 else None

    def at_once(self, notes: Notes) -> bool | None:
        """Say whether a record is accepted, where one sink is all there is and does not let anybody wait; None where more is to be done."""
        acceptance = self._one_that_accepts
        return None if acceptance is None else acceptance.at_once(notes)


async def intend(parts: Sequence[Part], notes: Notes) -> bool:
    """Have the intent accepted by every part that requires it, and tell it to all other sinks of these; say whether it was.

    Args:
        parts: The parts, at least one of which requires it.
        notes: What is known of the request.
    """
    if len(parts) == 1 and (at_once := parts[0].at_once(notes)) is not None:
        return at_once
    told: list[AuditSink] = []
    for part in parts:
        if part.acceptance is not None:
            if not await part.acceptance.accept(notes):
                return False
            told += part.acceptance.durable
    for part in parts:
        for sink in part.sinks if part.acceptance is not None else ():
            if sink not in told:
                told.append(sink)
                sink.put(notes)
    return True


def file_away(parts: Sequence[Part], notes: Notes) -> None:
    """Give the record to every sink, each of them once, where nothing can be waited for or begun any more."""
    told: list[AuditSink] = []
    for part in parts:
        record = notes if part.enrichment is None else part.enrichment.left_out(notes)
        for sink in _untold(part, told):
            sink.put(record)


async def file_safely(parts: Sequence[Part], notes: Notes) -> None:
    """Give the record to every sink, each of them once; where a part requires it, return once a durable one has it, or is too late."""
    if len(parts) == 1 and parts[0].at_once(notes) is not None:
        return
    told: list[AuditSink] = []
    for part in parts:
        sinks, acceptance, enrichment = _untold(part, told), part.acceptance, part.enrichment
        if acceptance is None and enrichment is not None:
            enrichment.start(notes, sinks)
            continue
        record = notes if enrichment is None else await enrichment.enriched(notes)
        durable = () if acceptance is None else acceptance.durable
        for sink in sinks:
            if sink not in durable:
                sink.put(record)
        if acceptance is not None:
            await acceptance.file([sink for sink in sinks if sink in durable], record)


def _untold(part: Part, told: list[AuditSink]) -> list[AuditSink]:
    """Return the sinks of a part that have not had the record from another one, and note that they have it now."""
    sinks = [sink for sink in part.sinks if sink not in told]
    told += sinks
    return sinks
