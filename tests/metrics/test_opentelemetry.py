import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import (  # pyright: ignore[reportMissingTypeStubs] - they are typed in place
    gen_ai_attributes,
    http_attributes,
    url_attributes,
)
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics, http_metrics  # pyright: ignore[reportMissingTypeStubs] - likewise
from opentelemetry.trace import SpanKind, StatusCode

from llm_authmw import ConfigurationError, telemetry
from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision, RequestContext
from llm_authmw.metrics.instruments import CONVENTIONS, INSTRUMENTS
from llm_authmw.metrics.opentelemetry import Incoming, OpenTelemetry
from llm_authmw.telemetry import Asked, Reading, Tracing
from llm_authmw.trail.record import Person, Record, Who

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = "b7ad6b7169203331"
TRACEPARENT: Final = f"00-{TRACE}-{PARENT}-01".encode()
TIME: Final = 1_790_000_000_000_000

RECORD = Record(
    time=TIME,
    kind="request",
    id="req-5566",
    who=Who(tenant="acme", team="blue", method="key", credential_id="k_9", roles=("analyst",)),
    person=Person(user="ada-the-user", email="ada@example.com", address="203.0.113.77", end_user="the-end-user"),
    outcome="allowed",
    protocol="http",
    verb="POST",
    path="/v1/chat/completions",
    operation="chat",
    models=("gpt-4o-mini",),
    served="gpt-4o-mini-2026",
    streaming=True,
    decisions=(Decision("KeyAuthMiddleware", "allowed", None, "k_9"), Decision("RBACMiddleware", "allowed", rule="analyst")),
    spent=(40, 100),
    status=200,
    first_byte=250_000,
    duration=2_000_000,
    end="complete",
    usage=Usage(input=100, output=20, cached_input=40, complete=True),
    charge=Charge(amount=1_500_000, model="gpt-4o-mini", rule="gpt-4o-mini", version="1"),
)


class Backend:
    """Where figures and spans go."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def points(self, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
        data = self.reader.get_metrics_data()
        found: dict[frozenset[tuple[str, Any]], Any] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                assert "llm_authmw" == scope.scope.name
                for metric in scope.metrics:
                    if metric.name == name:
                        found |= {frozenset((point.attributes or {}).items()): point for point in metric.data.data_points}
        return found

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.close()


@pytest.fixture
def otel(backend: Backend) -> Iterator[OpenTelemetry]:
    otel = OpenTelemetry(backend.meters, backend.tracers)
    yield otel
    otel.close()


def scope(*headers: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "scheme": "https", "http_version": "1.1", "headers": list(headers), **changes}


def traced(otel: OpenTelemetry, record: object = RECORD, *headers: tuple[bytes, bytes], **changes: Any) -> str | None:
    """Trace one request, and return the id of its trace."""
    token = otel.begin(scope(*headers, **changes), RequestContext())
    trace_id = otel.trace_id(token)
    otel.end(token, record)
    return trace_id


def replaced(**changes: Any) -> Record:
    return msgspec.structs.replace(RECORD, **changes)


def attributes(**given: Any) -> frozenset[tuple[str, Any]]:
    return frozenset((f"llm_authmw.{name}", value) for name, value in given.items())


def test_an_incoming_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="incoming"):
        OpenTelemetry(incoming="trust")  # type: ignore[arg-type]


def test_it_wants_spans(otel: OpenTelemetry) -> None:
    assert isinstance(otel, Tracing)


@pytest.mark.usefixtures("otel")
def test_what_is_told_is_counted_under_names_and_attributes_of_our_own(backend: Backend) -> None:
    for event in (RECORD, RECORD, Asked("ledger", "reserve", 0.25, "late")):
        telemetry.emit(event)
    requests = backend.points("llm_authmw.requests")
    assert 2 == requests[attributes(operation="chat", outcome="allowed", status="2xx", end="complete")].value
    # A label that says nothing is left out.
    assert attributes(layer="KeyAuthMiddleware", outcome="allowed") in backend.points("llm_authmw.decisions")
    assert 0.25 == backend.points("llm_authmw.store.duration")[attributes(store="ledger", operation="reserve", outcome="late")].sum


class Queue:
    def __init__(self) -> None:
        telemetry.measure(self)

    def readings(self) -> list[Reading]:
        sink = (("sink", "of this test"),)
        return [Reading("audit_queue_length", 7, sink), Reading("audit_records_lost", 2, sink, counts_up=True)]


@pytest.mark.usefixtures("otel")
def test_what_is_read_is_read_when_it_is_collected(backend: Backend) -> None:
    held = [Queue()]
    assert 7 == backend.points("llm_authmw.audit.queue.length")[attributes(sink="of this test")].value
    assert 2 == backend.points("llm_authmw.audit.records.lost")[attributes(sink="of this test")].value
    held.clear()


GEN_AI: Final = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini"}


@pytest.mark.usefixtures("otel")
def test_tokens_and_times_of_models_are_there_by_the_conventions_for_generative_ai(backend: Backend) -> None:
    telemetry.emit(RECORD)
    tokens = backend.points(gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE)
    assert 100 == tokens[frozenset({**GEN_AI, "gen_ai.token.type": "input"}.items())].sum
    assert 20 == tokens[frozenset({**GEN_AI, "gen_ai.token.type": "output"}.items())].sum
    duration = backend.points(gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION)[frozenset(GEN_AI.items())]
    assert pytest.approx(2.0) == duration.sum
    assert (0.01, 81.92) == (duration.explicit_bounds[0], duration.explicit_bounds[-1])
    assert pytest.approx(0.25) == backend.points(gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN)[frozenset(GEN_AI.items())].sum


@pytest.mark.usefixtures("otel")
@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "denied", "status": 403},
        {"operation": None},
        {"operation": "unlisted"},
        {"operation": "mcp"},
        {"kind": "intent"},
        {"models": (), "usage": None},
    ],
)
def test_what_reached_no_model_is_no_figure_of_a_model(backend: Backend, changes: dict[str, Any]) -> None:
    telemetry.emit(replaced(**changes))
    assert {} == backend.points(gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION)


@pytest.mark.usefixtures("otel")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 429}, "429"),
        ({"status": 502}, "502"),
        ({"end": "upstream_error"}, "_OTHER"),
        ({"outcome": "failed", "status": None}, "_OTHER"),
    ],
)
def test_an_answer_that_is_an_error_is_told_apart(backend: Backend, changes: dict[str, Any], error: str) -> None:
    telemetry.emit(replaced(**changes))
    assert frozenset({**GEN_AI, "error.type": error}.items()) in backend.points(gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION)
    assert {} == backend.points(gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN)


@pytest.mark.usefixtures("otel")
@pytest.mark.parametrize(
    ("operation", "name", "provider"),
    [
        ("messages", "chat", "anthropic"),
        ("generate_content", "generate_content", "gcp.gemini"),
        ("converse", "chat", "aws.bedrock"),
        ("completions", "text_completion", "openai"),
        ("embeddings", "embeddings", "openai"),
        ("my_own", "my_own", "_OTHER"),
    ],
)
def test_an_operation_is_called_by_the_conventions_name_where_it_has_one(
    backend: Backend, operation: str, name: str, provider: str
) -> None:
    telemetry.emit(replaced(operation=operation))
    (point,) = backend.points(gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION)
    assert (name, provider) == (dict(point)["gen_ai.operation.name"], dict(point)["gen_ai.provider.name"])


def test_a_request_is_a_server_span_that_says_who_and_what_and_names_no_person(otel: OpenTelemetry, backend: Backend) -> None:
    assert traced(otel) is not None
    (span,) = backend.spans
    found = dict(span.attributes or {})
    assert ("POST chat", SpanKind.SERVER, StatusCode.UNSET, None) == (span.name, span.kind, span.status.status_code, span.parent)
    assert {
        http_attributes.HTTP_REQUEST_METHOD: "POST",
        http_attributes.HTTP_RESPONSE_STATUS_CODE: 200,
        url_attributes.URL_SCHEME: "https",
        url_attributes.URL_PATH: "/v1/chat/completions",
        "network.protocol.version": "1.1",
        gen_ai_attributes.GEN_AI_OPERATION_NAME: "chat",
        gen_ai_attributes.GEN_AI_PROVIDER_NAME: "openai",
        gen_ai_attributes.GEN_AI_REQUEST_MODEL: "gpt-4o-mini",
        gen_ai_attributes.GEN_AI_RESPONSE_MODEL: "gpt-4o-mini-2026",
        gen_ai_attributes.GEN_AI_REQUEST_STREAM: True,
        gen_ai_attributes.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: pytest.approx(0.25),
        gen_ai_attributes.GEN_AI_USAGE_INPUT_TOKENS: 100,
        gen_ai_attributes.GEN_AI_USAGE_OUTPUT_TOKENS: 20,
        gen_ai_attributes.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: 40,
        "llm_authmw.request.id": "req-5566",
        "llm_authmw.outcome": "allowed",
        "llm_authmw.end": "complete",
        "llm_authmw.tenant": "acme",
        "llm_authmw.team": "blue",
        "llm_authmw.method": "key",
        "llm_authmw.credential.id": "k_9",
        "llm_authmw.roles": ("analyst",),
        "llm_authmw.cost": pytest.approx(0.0015),
    } == found
    said = span.to_json()
    assert [] == [secret for secret in ("ada-the-user", "ada@example.com", "203.0.113.77", "the-end-user") if secret in said]


def test_decisions_are_events_at_the_moment_at_which_they_were_taken(otel: OpenTelemetry, backend: Backend) -> None:
    traced(otel)
    first, second = backend.spans[0].events
    assert (TIME * 1000 + 40_000, TIME * 1000 + 100_000) == (first.timestamp, second.timestamp)
    assert {"llm_authmw.layer": "RBACMiddleware", "llm_authmw.outcome": "allowed", "llm_authmw.rule": "analyst"} == dict(
        second.attributes or {}
    )


def test_a_span_is_part_of_the_trace_that_the_client_is_in(otel: OpenTelemetry, backend: Backend) -> None:
    assert TRACE == traced(otel, RECORD, (b"TraceParent", TRACEPARENT))
    parent = backend.spans[0].parent
    assert parent is not None
    assert PARENT == trace.format_span_id(parent.span_id)


@pytest.mark.parametrize("value", [b"", b"00-0-0-00", b"\xff\xfe", TRACEPARENT + b"x", TRACEPARENT * 1000])
def test_a_trace_that_cannot_be_read_begins_a_new_one(otel: OpenTelemetry, backend: Backend, value: bytes) -> None:
    assert traced(otel, RECORD, (b"traceparent", value)) not in (None, TRACE)
    assert backend.spans[0].parent is None


def test_strangers_traces_are_linked_to_and_not_joined_where_that_is_asked_for(backend: Backend) -> None:
    incoming: Incoming = "link"
    otel = OpenTelemetry(backend.meters, backend.tracers, incoming=incoming)
    assert TRACE != traced(otel, RECORD, (b"traceparent", TRACEPARENT))
    (span,) = backend.spans
    assert span.parent is None
    assert [TRACE] == [trace.format_trace_id(link.context.trace_id) for link in span.links]
    traced(otel)
    assert () == tuple(backend.spans[1].links)
    otel.close()


def test_the_apps_own_spans_are_children_and_nothing_is_current_afterwards(otel: OpenTelemetry, backend: Backend) -> None:
    token = otel.begin(scope(), RequestContext())
    with trace.get_tracer("app", tracer_provider=backend.tracers).start_as_current_span("ask the model"):
        pass
    otel.end(token, RECORD)
    child, request = backend.spans
    assert child.parent is not None
    assert request.context is not None
    assert request.context.span_id == child.parent.span_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_inside_of_another_instrumentation_the_span_is_its_child_and_the_duration_is_its_own_business(
    otel: OpenTelemetry, backend: Backend
) -> None:
    with trace.get_tracer("server", tracer_provider=backend.tracers).start_as_current_span("GET /", kind=SpanKind.SERVER) as around:
        traced(otel, RECORD, (b"traceparent", TRACEPARENT))
    ours, _ = backend.spans
    assert ours.parent is not None
    assert (SpanKind.INTERNAL, around.get_span_context().span_id) == (ours.kind, ours.parent.span_id)
    assert {} == backend.points(http_metrics.HTTP_SERVER_REQUEST_DURATION)


def test_the_duration_of_a_request_is_there_by_the_conventions_for_http(otel: OpenTelemetry, backend: Backend) -> None:
    traced(otel)
    traced(otel, replaced(status=503, outcome="failed"), method="sk-live-secret", scheme="ftp", http_version="9")
    points = backend.points(http_metrics.HTTP_SERVER_REQUEST_DURATION)
    usual = {"http.request.method": "POST", "url.scheme": "https", "http.response.status_code": 200, "network.protocol.version": "1.1"}
    strange = {
        "http.request.method": "_OTHER",
        "url.scheme": "other",
        "network.protocol.version": "other",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert {frozenset(usual.items()), frozenset(strange.items())} == set(points)
    assert 0.005 == points[frozenset(usual.items())].explicit_bounds[0]


def test_a_socket_has_a_span_and_no_duration_of_http(otel: OpenTelemetry, backend: Backend) -> None:
    socket: dict[str, Any] = {"type": "websocket", "scheme": "wss", "http_version": "1.1", "headers": []}
    token = otel.begin(socket, RequestContext())
    otel.end(token, replaced(protocol="websocket", operation="realtime", status=101))
    assert ["GET realtime"] == [span.name for span in backend.spans]
    assert {} == backend.points(http_metrics.HTTP_SERVER_REQUEST_DURATION)


@pytest.mark.parametrize("changes", [{"status": 500}, {"outcome": "failed", "status": None}, {"end": "upstream_error"}])
def test_a_failure_is_an_error(otel: OpenTelemetry, backend: Backend, changes: dict[str, Any]) -> None:
    traced(otel, replaced(**changes))
    assert StatusCode.ERROR is backend.spans[0].status.status_code


def test_a_denial_is_none_and_says_its_reason(otel: OpenTelemetry, backend: Backend) -> None:
    traced(otel, replaced(outcome="denied", status=401, reason="key_unknown", layer="KeyAuthMiddleware", who=None, charge=None, usage=None))
    (span,) = backend.spans
    assert StatusCode.UNSET is span.status.status_code
    assert span.attributes is not None
    assert ("key_unknown", "KeyAuthMiddleware") == (span.attributes["llm_authmw.reason"], span.attributes["llm_authmw.layer"])


def test_a_text_that_is_none_and_one_without_end_are_made_fit_to_be_sent(otel: OpenTelemetry, backend: Backend) -> None:
    traced(otel, replaced(path="/\ud800" + "x" * 10_000, models=("\udfff",)))
    found = backend.spans[0].attributes or {}
    path = str(found["url.path"])
    assert (500, "/?x") == (len(path), path[:3])
    assert "?" == found["gen_ai.request.model"]


def test_a_request_without_a_record_ends_all_the_same(otel: OpenTelemetry, backend: Backend) -> None:
    traced(otel, None)
    assert ["POST"] == [span.name for span in backend.spans]
    otel.end(None, RECORD)
    assert otel.trace_id(None) is None


def test_without_an_sdk_nothing_is_recorded_and_the_trace_goes_on() -> None:
    otel = OpenTelemetry()
    token = otel.begin(scope((b"traceparent", TRACEPARENT)), RequestContext())
    assert TRACE == otel.trace_id(token)
    otel.end(token, RECORD)
    telemetry.emit(RECORD)
    otel.close()


def test_one_that_is_closed_hears_nothing_any_more(otel: OpenTelemetry, backend: Backend) -> None:
    otel.close()
    telemetry.emit(RECORD)
    assert {} == backend.points("llm_authmw.requests")


@pytest.mark.usefixtures("otel")
def test_every_instrument_is_one_of_the_meters(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[str] = set()
    meter = type(backend.meters.get_meter("of this test"))

    def make(_meter: Any, name: str, *_given: Any, **_options: Any) -> "_Nothing":
        return _Nothing(made, name)

    for kind in ("counter", "histogram", "observable_counter", "observable_gauge"):
        monkeypatch.setattr(meter, f"create_{kind}", make)
    OpenTelemetry(backend.meters).close()
    assert {one.opentelemetry_name for one in (*INSTRUMENTS, *CONVENTIONS)} == made


class _Nothing:
    """An instrument that takes note of its name."""

    def __init__(self, made: set[str], name: str) -> None:
        made.add(name)
        self.add = self.record = made.add


def test_without_the_package_the_error_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["opentelemetry"] = None
        import llm_authmw
        try:
            import llm_authmw.metrics.opentelemetry
        except llm_authmw.ConfigurationError as error:
            print(error)
    """
    completed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "OpenTelemetry: needs an optional dependency: pip install 'llm-authmw[otel]'\n" == completed.stdout
