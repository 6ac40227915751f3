"""`AuditMiddleware`: one record of every request, on every way out."""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, cast, get_args

import anyio

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside
from llm_authmw.audit.acceptance import Acceptance
from llm_authmw.audit.beginning import Beginning, Spans
from llm_authmw.audit.enrichment import Enrich, Enrichment
from llm_authmw.audit.notes import MAX_KEPT, Notes
from llm_authmw.audit.observation import Observation
from llm_authmw.audit.part import Part, file_away, file_safely
from llm_authmw.audit.ways_in import check_ways_in
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import Recording
from llm_authmw.lens import DEFAULT_LENS, RequestLens
from llm_authmw.names import Names
from llm_authmw.network import TrustedProxies
from llm_authmw.resource import Resource
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.telemetry import Observer, emit, observed

Mode: TypeAlias = Literal["best_effort", "required"]
"""Whether a request that cannot be recorded is let in."""


class AuditMiddleware(Recording):
    """Write a record of every request: who called, what for, what each layer decided, what it used and cost, and how it ended.

    It is the outermost of our layers. There is one record for each request, whichever way that ended: answered, denied, cut, left by its
    client, raised or cancelled. It holds ids and reason codes; no credential, no header, no query and no body has a field in it.

    With `mode="best_effort"` a request never waits for its record. With `mode="required"` a durable sink has accepted that the request is
    let in (`AuditGate`) before the app sees it; one that no sink accepts is denied with 503.

    Args:
        app: The app that the layer stands in front of, or the next layer.
        sink: Where records go: one sink, or several of them, each of which has all.
        mode: "best_effort" or "required".
        deadline: With "required", seconds that the acceptance of a record may take where that is less than the sinks' own deadlines.
        observers: Measures: each is told of what happens while the app runs, and may put a span around each request.
        enrich: Adds to records: called with each, sync or async, it returns up to 16 fields. What it does never reaches the request.
        personal: Those of these fields that say who a person is, or lead there. They can be forgotten.
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` and no layer further in says it.
        lens: Knows the operation of a request that no layer has read.
        clock: Gives the time.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or, with "required", a way to the app does not end in an `AuditGate`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sink: AuditSink | Sequence[AuditSink],
        mode: Mode = "best_effort",
        deadline: float | None = None,
        observers: Sequence[Observer] = (),
        enrich: Enrich | None = None,
        personal: Names = (),
        trusted_proxies: TrustedProxies | None = None,
        lens: RequestLens = DEFAULT_LENS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigurationError("mode", "is 'best_effort' or 'required'")
        if deadline is not None and (type(deadline) not in (int, float) or not 0 < deadline < float("inf")):
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        if deadline is not None and mode != "required":
            raise ConfigurationError("deadline", "is for mode 'required', and would be ignored")
        if personal and enrich is None:
            raise ConfigurationError("personal", "is for enrich, and would be ignored")
        if trusted_proxies is not None and not isinstance(trusted_proxies, TrustedProxies):
            raise ConfigurationError("trusted_proxies", "takes TrustedProxies([…])")
        if not isinstance(lens, RequestLens):
            raise ConfigurationError("lens", "takes RequestLens(…)")
        sinks = _sinks(sink)
        self.app: Final = app
        self.name: Final = type(self).__name__
        self.mode: Final[Mode] = mode
        self.trusted_proxies: Final = trusted_proxies
        durable = [one for one in sinks if one.durable]
        if mode == "required":
            if not durable:
                raise ConfigurationError("sink", f"is none that keeps what it accepts: {', '.join(one.name for one in sinks)}")
            check_ways_in(app)
        enrichment = None if enrich is None else Enrichment(enrich, personal=personal)
        self._part: Final = Part(sinks, Acceptance(durable, deadline) if mode == "required" else None, enrichment)
        part = self._part
        self._parts: Final = (part,)
        # Where no other audit layer has a word in it, there is nothing to do but this.
        self._plain: Final = self._parts if part.acceptance is None and part.enrichment is None else None
        self._waiting: Final = tuple([one for one in sinks if one.waits])
        self._beginning: Final = Beginning(self, sinks, observers, enrichment, clock)
        self._lens: Final = lens
        self._now: Final = clock.now
        self._monotonic: Final = clock.monotonic
        self._check_what_stands_inside()

    def __repr__(self) -> str:
        enrich = "" if self._part.enrichment is None else f", enrich={self._part.enrichment!r}"
        return f"AuditMiddleware(sink={[sink.name for sink in self._part.sinks]}, mode={self.mode!r}{enrich})"

    @property
    def sinks(self) -> tuple[AuditSink, ...]:
        """Where its records go."""
        return self._part.sinks

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What `Stack` starts and closes with the app: the sinks, each behind the store that it is in, and what has their last records.

        They close in the opposite order, and behind all that the other layers share.
        """
        resources: list[Resource] = []
        for sink in self._part.sinks:
            inside: Resource | None = getattr(sink, "resource", None)
            resources += [one for one in (inside, sink) if one is not None and one not in resources]
        return (*resources, self._beginning)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the event on; write the record of a request once that is over."""
        if not self._beginning.begun:
            self._beginning.begin()
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope, self.trusted_proxies)
        outer: Observation | None = context.audit
        if outer is not None and not outer.closed:
            outer.join(self._part)
            await self.app(scope, receive, send)
            return
        method = "GET" if kind == "websocket" else scope["method"]
        path, raw_path, root_path = scope["path"], scope.get("raw_path") or b"", scope.get("root_path") or ""
        if len(method) + len(path) + len(raw_path) + len(root_path) > MAX_KEPT:
            method, path, raw_path, root_path = method[:MAX_KEPT], path[:MAX_KEPT], raw_path[:MAX_KEPT], root_path[:MAX_KEPT]
        notes = Notes(
            kind,
            method,
            path,
            raw_path,
            root_path,
            scope.get("client"),
            self._lens,
            self._monotonic(),
            self._now(),
        )
        seen = context.audit = Observation(notes, receive, send, context, scope["headers"], self._monotonic, self._parts)
        context.monotonic = self._monotonic
        spans = self._beginning.open_spans(scope, context, notes) if self._beginning.traces else ()
        try:
            for sink in self._waiting:
                await sink.room()
            if kind == "http":
                await self.app(scope, seen.http_receive, seen.http_send)
            else:
                await self.app(scope, seen.websocket_receive, seen.websocket_send)
        except BaseException as error:
            notes.raised = isinstance(error, Exception)
            notes.killed = not notes.raised
            self._close(seen, spans)
            if isinstance(error, GeneratorExit):
                # The loop is gone, and nothing can be awaited any more.
                file_away(seen.parts, notes)
            else:
                with anyio.CancelScope(shield=True):
                    await file_safely(seen.parts, notes)
            raise
        self._close(seen, spans)
        if seen.parts is self._plain:
            for sink in self._part.sinks:
                sink.put(notes)
        else:
            await file_safely(seen.parts, notes)

    def _close(self, seen: Observation, spans: Spans) -> None:
        notes = seen.close()
        if spans:
            self._beginning.close_spans(spans, notes)
        if observed():
            emit(notes.record())

    def _check_what_stands_inside(self) -> None:
        for layer in layers_inside(self.app):
            inner = getattr(layer, "trusted_proxies", None)
            if self.trusted_proxies is not None and isinstance(inner, TrustedProxies) and inner is not self.trusted_proxies:
                raise ConfigurationError("trusted_proxies", f"is given to {self.name} and to {type(layer).__name__}: give it to the Stack")


def _sinks(given: object) -> tuple[AuditSink, ...]:
    """Return the sinks, each once.

    Raises:
        ConfigurationError: there is none, or an entry is something else.
    """
    if isinstance(given, AuditSink):
        return (given,)
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ConfigurationError("sink", "takes a sink, such as FileSink('audit.jsonl'), or a list of them")
    sinks: list[AuditSink] = []
    for one in cast("Sequence[object]", given):
        if not isinstance(one, AuditSink):
            raise ConfigurationError("sink", f"takes sinks, such as FileSink('audit.jsonl'), not {type(one).__name__}")
        if one in sinks:
            raise ConfigurationError("sink", f"names {one.name} twice")
        sinks.append(one)
    return tuple(sinks)
