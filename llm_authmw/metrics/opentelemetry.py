"""`OpenTelemetry`: what happens, as metrics and spans. It needs the extra `otel`, and is imported by its path.

Only OpenTelemetry's API is used: where the figures and spans go is for the SDK that the program sets up.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import Token
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from llm_authmw import telemetry
from llm_authmw.asgi import Scope
from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.metrics import conventions
from llm_authmw.metrics.instruments import CONVENTIONS, INSTRUMENTS, MAX_SERIES, NONE, Instrument
from llm_authmw.metrics.measurements import Measurement, Measurements
from llm_authmw.metrics.series import Values
from llm_authmw.sinks.queue import Deferred
from llm_authmw.trail.record import Record

try:
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as _missing:
    if _missing.name is None or _missing.name.partition(".")[0] != "opentelemetry":
        raise
    raise MissingExtraError("OpenTelemetry", "otel") from _missing

SCOPE: Final = "llm_authmw"
"""The name of the instrumentation scope."""

Incoming: TypeAlias = Literal["continue", "link"]


class _Open(NamedTuple):
    """A request that is under way.

    Attributes:
        span: Its span.
        token: What undoes that this is the current one.
        scope: Its scope.
        outermost: Whether nothing outside of this package traces it.
    """

    span: Span
    token: Token[Context]
    scope: Scope
    outermost: bool


class OpenTelemetry:
    """The instruments of this package, and a span for each request.

    Make one, once, for a process: it listens from then on. Give it to `AuditMiddleware(observers=[…])`, too: that has requests traced.

    The span of a request is of the kind "server", or, where another instrumentation has one around it already, "internal". It is current
    while the app runs, so that the app's own spans are its children. It names ids, never a person, an address or a header.

    Args:
        meter_provider: Where figures go; left out: the global one.
        tracer_provider: Where spans go; left out: the global one.
        incoming: What is made of a trace that a client says it is in, as the configured propagator reads it. "continue": the span is part
            of that trace, and the client has its say in whether it is sampled. "link": it begins a trace of its own, and names that one;
            for callers whom nobody knows.
        max_series: Combinations of attributes that one instrument tells apart. Of further ones, what clients or tokens could name is
            `other`.

    Raises:
        ConfigurationError: an option is none of these.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        *,
        incoming: Incoming = "continue",
        max_series: int = MAX_SERIES,
    ) -> None:
        if incoming not in get_args(Incoming):
            raise ConfigurationError("incoming", "is 'continue' or 'link'")
        self._continues: Final = incoming == "continue"
        self._measurements: Final = Measurements(max_series)
        self._tracer: Final = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._adding: Final = {
            instrument.name: _adding(meter, instrument) for instrument in (*INSTRUMENTS, *CONVENTIONS) if not instrument.read
        }
        for instrument in INSTRUMENTS:
            if instrument.read:
                create = meter.create_observable_counter if instrument.kind == "counter" else meter.create_observable_gauge
                create(instrument.opentelemetry_name, [self._reader(instrument)], unit=instrument.unit, description=instrument.meaning)
        telemetry.attach(self)

    def __repr__(self) -> str:
        return "OpenTelemetry()"

    def close(self) -> None:
        """Stop listening."""
        telemetry.detach(self)

    def observe(self, event: object) -> None:
        """Take an event; see `telemetry.Observer`."""
        for measurement in self._measurements.of_event(event):
            self._add(measurement)
        if isinstance(event, Record):
            for measurement in conventions.model_measurements(self._measurements, event):
                self._add(measurement)

    def begin(self, scope: Any, context: Any) -> object:  # noqa: ARG002 - nothing is known of the request yet
        """Begin a span; see `telemetry.Tracing`."""
        around = trace.get_current_span().get_span_context()
        outermost = not around.is_valid or around.is_remote
        links: list[Link] = []
        parent = otel_context.get_current()
        if outermost:
            said = propagate.extract(scope["headers"], getter=_HEADERS)
            if self._continues:
                parent = said
            elif (remote := trace.get_current_span(said).get_span_context()).is_valid:
                links.append(Link(remote))
        attributes = conventions.at_first(scope)
        kind = SpanKind.SERVER if outermost else SpanKind.INTERNAL
        span = self._tracer.start_span(conventions.method_of(scope), parent, kind, attributes, links)
        return _Open(span, otel_context.attach(trace.set_span_in_context(span, parent)), scope, outermost)

    def trace_id(self, token: object) -> str | None:
        """Return the id of the trace; see `telemetry.Tracing`."""
        context = token.span.get_span_context() if isinstance(token, _Open) else trace.INVALID_SPAN_CONTEXT
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    def end(self, token: object, record: object) -> None:
        """End the span; see `telemetry.Tracing`."""
        if not isinstance(token, _Open):
            return
        otel_context.detach(token.token)
        try:
            if record is not None:
                # One that is not made yet is made now, since the span ends here.
                self._describe(token, cast("Deferred", record).record())
        finally:
            token.span.end()

    def _describe(self, token: _Open, record: Record) -> None:
        if token.outermost:
            measured = conventions.http_measurement(self._measurements, token.scope, record)
            if measured is not None:
                # Within the span, which an exemplar may name.
                self._add(measured, trace.set_span_in_context(token.span))
        span = token.span
        if not span.is_recording():
            return
        if record.operation is not None:
            span.update_name(f"{conventions.method_of(token.scope)} {record.operation}")
        span.set_attributes(conventions.at_last(record))
        began = record.time * 1000
        for decision, spent in zip(record.decisions, record.spent, strict=False):
            said = {"layer": decision.layer, "outcome": decision.outcome, "reason": decision.reason, "rule": decision.rule}
            attributes = {f"llm_authmw.{name}": value for name, value in said.items() if value is not None}
            span.add_event("llm_authmw.decision", attributes, began + spent * 1000)
        if conventions.error_type(record) is not None:
            span.set_status(Status(StatusCode.ERROR))

    def _add(self, measurement: Measurement, context: Context | None = None) -> None:
        instrument, values, amount = measurement
        self._adding[instrument.name](amount, _attributes(instrument, values), context)

    def _reader(self, instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_options: CallbackOptions) -> Iterator[Observation]:
            for (name, values), value in self._measurements.of_readings().items():
                if name == instrument.reading_name:
                    yield Observation(value, _attributes(instrument, values))

        return read


class _Headers(Getter[Any]):
    """Reads the headers of a scope, for propagators."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        return [value.decode("latin-1") for given, value in carrier if given.lower() == name] or None

    def keys(self, carrier: Any) -> list[str]:
        return [name.decode("latin-1").lower() for name, _ in carrier]


_HEADERS: Final = _Headers()


def _adding(meter: Meter, instrument: Instrument) -> Callable[[float, dict[str, str | int], Context | None], None]:
    name, unit, meaning = instrument.opentelemetry_name, instrument.unit, instrument.meaning
    if instrument.kind == "histogram":
        histogram: Histogram = meter.create_histogram(name, unit, meaning, explicit_bucket_boundaries_advisory=instrument.buckets)
        return histogram.record
    counter: Counter = meter.create_counter(name, unit, meaning)
    return counter.add


def _attributes(instrument: Instrument, values: Values) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    for label, value in zip(instrument.labels, values, strict=True):
        if value != NONE:
            name = label.name if instrument.convention else f"llm_authmw.{label.name}"
            found[name] = int(value) if name == "http.response.status_code" and value.isdecimal() else value
    return found
