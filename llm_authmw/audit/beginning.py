"""The time for which an audit layer is in use: what stands there is told once, and its observers listen."""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from llm_authmw.asgi import Branching, Scope, layers_inside
from llm_authmw.audit.enrichment import Enrichment
from llm_authmw.audit.notes import Notes
from llm_authmw.audit.record_of import MICROSECONDS
from llm_authmw.clock import Clock
from llm_authmw.context import RequestContext, logger
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import Deciding, Recording
from llm_authmw.resource import Resource
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.telemetry import Observer, Tracing, attach, detach
from llm_authmw.trail.record import Record

_told: Final[WeakKeyDictionary[AuditSink, set[tuple[int, str]]]] = WeakKeyDictionary()
"""What each sink was told of, by process: some frameworks make a layer many times over."""

_listening: Final[dict[int, tuple[Observer, WeakSet["Beginning"]]]] = {}
"""By the place of an observer in memory, the layers that it listens for: one that is shared goes on until the last of them is closed."""

Spans: TypeAlias = tuple[tuple[Tracing, object], ...]
"""Those that are open around a request, each with whoever opened it."""


class Beginning:
    """A resource of one layer: `Stack` starts and closes it with the app; where nobody does, the first request begins it.

    Args:
        layer: The layer.
        sinks: Its sinks.
        observers: Who is told of what happens.
        enrichment: What adds to the layer's records.
        clock: Gives the time.

    Attributes:
        begun: Whether it has begun, in this process.
        traces: Whether one of the observers puts spans around requests.

    Raises:
        ConfigurationError: an observer is none.
    """

    def __init__(
        self, layer: Any, sinks: Sequence[AuditSink], observers: Sequence[Observer], enrichment: Enrichment | None, clock: Clock
    ) -> None:
        given: Any = observers
        if not isinstance(given, Sequence) or not all(callable(getattr(one, "observe", None)) for one in observers):
            raise ConfigurationError("observers", "takes a list of observers, such as PrometheusMetrics()")
        self.begun: bool = False
        self._layer: Final = layer
        self._sinks: Final = sinks
        self._observers: Final = tuple(observers)
        self._tracing: Final = tuple([one for one in observers if isinstance(one, Tracing)])
        self.traces: Final[bool] = bool(self._tracing)
        self._enrichment: Final = enrichment
        self._clock: Final = clock
        _beginnings.add(self)

    def begin(self) -> None:
        """Attach the observers, and tell the sinks what guards the app."""
        self.begun = True
        for observer in self._observers:
            attach(observer)
            _listening.setdefault(id(observer), (observer, WeakSet()))[1].add(self)
        stands = _stands(self._layer)
        mark = (os.getpid(), stands[-1])
        for sink in self._sinks:
            told = _told.setdefault(sink, set())
            if mark not in told:
                told.add(mark)
                sink.put(Record(time=int(self._clock.now() * MICROSECONDS), kind="policy", stands=stands))

    async def start(self) -> None:
        """Begin, and start the observers that want to be started."""
        for observer in self._observers:
            if isinstance(observer, Resource):
                await observer.start()
        self.begin()

    async def aclose(self) -> None:
        """Give the sinks the records that are still in hand, and let the observers go."""
        if self._enrichment is not None:
            await self._enrichment.aclose()
        for observer in self._observers:
            _, layers = _listening.get(id(observer), (observer, WeakSet["Beginning"]()))
            layers.discard(self)
            if layers:
                continue
            _listening.pop(id(observer), None)
            detach(observer)
            if isinstance(observer, Resource):
                await observer.aclose()
        self.begun = False

    # Spans.

    def open_spans(self, scope: Scope, context: RequestContext, notes: Notes) -> Spans:
        """Have every observer that traces open its span; the first trace is the one that the record names."""
        spans: list[tuple[Tracing, object]] = []
        for tracing in self._tracing:
            try:
                token = tracing.begin(scope, context)
                if token is not None:
                    spans.append((tracing, token))
                    notes.trace_id = notes.trace_id or tracing.trace_id(token)
            except Exception as error:  # noqa: BLE001 - whoever measures does not reach the request
                logger.error("%s could not trace a request: %s", type(tracing).__name__, type(error).__name__)
        return tuple(spans)

    def close_spans(self, spans: Spans, notes: Notes) -> None:
        """Have them closed, the innermost first."""
        for tracing, token in reversed(spans):
            try:
                tracing.end(token, notes)
            except Exception as error:  # noqa: BLE001 - as above
                logger.error("%s could not trace a request: %s", type(tracing).__name__, type(error).__name__)


def _forked() -> None:
    """Let every layer begin anew in the child of a fork, which is a process of its own."""
    for beginning in tuple(_beginnings):
        beginning.begun = False


_beginnings: Final[WeakSet[Beginning]] = WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _stands(layer: Any) -> tuple[str, ...]:
    """Return the layers from one inwards as they print themselves, and the digest of that: what is too long for a record still shows."""
    stands: list[str] = []
    for inner in layers_inside(layer):
        if isinstance(inner, Deciding):
            stands.append(inner.stands)
        else:
            # A layer of somebody else's may print anything.
            stands.append(repr(inner) if isinstance(inner, Recording) else type(inner).__name__)
        if isinstance(inner, Branching):
            break
    digest = sha256("\n".join(stands).encode("utf-8", "backslashreplace")).hexdigest()
    return (*stands, f"sha256 {digest}")
