"""What an event says in figures: which instruments, with which labels, and how much. Both exporters count the same."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from llm_authmw.metrics import instruments
from llm_authmw.metrics.instruments import CONVENTIONS, INSTRUMENTS, MAX_SERIES, NONE, OTHER, READ, Instrument
from llm_authmw.metrics.series import Series, Values
from llm_authmw.quota import NANO_USD
from llm_authmw.telemetry import Alert, Asked, Fetched, readings
from llm_authmw.trail.record import Record

MICRO: Final = 1e-6


class Measurement(NamedTuple):
    """One figure.

    Attributes:
        instrument: What it is of.
        values: Those of the instrument's labels, in their order.
        amount: How much is to be added, or how much it was.
    """

    instrument: Instrument
    values: Values
    amount: float


class Measurements:
    """Reads events and readings.

    Args:
        max_series: Combinations of labels that one instrument tells apart.

    Raises:
        ConfigurationError: `max_series` is no number above zero.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._series: Final = {instrument.name: Series(instrument, max_series) for instrument in (*INSTRUMENTS, *CONVENTIONS)}

    def of_event(self, event: object) -> Iterator[Measurement]:
        """Return what an event says; nothing where it is of no known kind."""
        if isinstance(event, Record):
            yield from self._of_record(event)
        elif isinstance(event, Asked | Fetched | Alert):
            yield self._of_happening(event)

    def of_readings(self) -> dict[tuple[str, Values], float]:
        """Return the figures that are read now, by the name of the reading and the values of its labels."""
        found: dict[tuple[str, Values], float] = {}
        for reading in readings():
            instrument = READ.get(reading.name)
            if instrument is not None:
                labels = dict(reading.labels)
                key = reading.name, self._labelled(instrument, *(labels.get(label.name) for label in instrument.labels))
                found[key] = found.get(key, 0.0) + reading.value
        return found

    def model(self, record: Record) -> str:
        """Return what is said of a record's model: nothing that a client could make up.

        It is the entry of the price book that priced the request, which may be a pattern, or else what the answer names. What was only
        asked for is `other`.
        """
        if record.charge is not None:
            return record.charge.rule
        if record.served is not None and record.outcome == "allowed" and record.usage is not None:
            return record.served
        return OTHER if record.models else NONE

    def of(self, instrument: Instrument, amount: float, *values: str | None) -> Measurement:
        """Return a figure with the labels that it gets."""
        return Measurement(instrument, self._labelled(instrument, *values), amount)

    def _labelled(self, instrument: Instrument, *values: str | None) -> Values:
        return self._series[instrument.name].of(*values)

    def _of_happening(self, event: Asked | Fetched | Alert) -> Measurement:
        if isinstance(event, Asked):
            return self.of(instruments.STORE_DURATION, event.seconds, event.store, event.operation, event.outcome)
        if isinstance(event, Fetched):
            return self.of(instruments.FETCH_DURATION, event.seconds, event.what, event.issuer, event.outcome)
        return self.of(instruments.ALERTS, 1, event.kind)

    def _of_record(self, record: Record) -> Iterator[Measurement]:
        if record.kind != "request":
            return
        operation, outcome = record.operation, record.outcome
        yield self.of(instruments.REQUESTS, 1, operation, outcome, status_class(record.status), record.end)
        if record.duration is not None:
            yield self.of(instruments.REQUEST_DURATION, record.duration * MICRO, operation, outcome)
        if record.first_byte is not None and outcome == "allowed":
            yield self.of(instruments.REQUEST_FIRST_BYTE, record.first_byte * MICRO, operation)
        if record.store_trouble:
            yield self.of(instruments.STORE_TROUBLE, 1, outcome)
        before = 0
        for place, decision in enumerate(record.decisions):
            yield self.of(instruments.DECISIONS, 1, decision.layer, decision.outcome, decision.reason)
            if place < len(record.spent):
                at = record.spent[place]
                # A decision inside of a long answer (a frame of a socket) is none of the way in, and has no time of its own.
                if record.first_byte is None or at <= record.first_byte:
                    yield self.of(instruments.LAYER_DURATION, max(at - before, 0) * MICRO, decision.layer)
                before = at
        yield from self._of_use(record)

    def _of_use(self, record: Record) -> Iterator[Measurement]:
        usage, charge = record.usage, record.charge
        if usage is None and charge is None:
            return
        model = self.model(record)
        tenant, team = (None, None) if record.who is None else (record.who.tenant, record.who.team)
        if usage is not None:
            if usage.input:
                yield self.of(instruments.TOKENS, usage.input, tenant, team, model, "input")
            if usage.output:
                yield self.of(instruments.TOKENS, usage.output, tenant, team, model, "output")
        if charge is not None:
            yield self.of(instruments.COST, charge.amount / NANO_USD, tenant, team, model)


def status_class(status: int | None) -> str | None:
    """Return "2xx" for a status of 204."""
    return None if status is None else f"{status // 100}xx"
