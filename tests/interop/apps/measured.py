"""The mock provider behind keys, roles and budgets, measured for Prometheus, and for OpenTelemetry where an endpoint is named.

Whoever holds `AUTHMW_SCRAPER` may fetch `/metrics`, and nothing else. The store is in `AUTHMW_STORE`.
"""

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route

from llm_authmw import (
    BudgetMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Price,
    RBACMiddleware,
    Role,
    Stack,
    StaticKeys,
    open_store,
)
from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.audit.middleware import AuditMiddleware
from llm_authmw.metrics.opentelemetry import OpenTelemetry
from llm_authmw.metrics.prometheus import PrometheusMetrics
from llm_authmw.sinks.function import FunctionSink
from llm_authmw.telemetry import Observer
from llm_authmw.testing import MockProvider

PRICES = {"gpt-4o-mini": Price(input="1", output="100")}
INTERVAL = 250.0
"""Milliseconds between two exports of metrics."""


def exporters() -> list[Observer]:
    found: list[Observer] = [metrics]
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint:
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces", compression=Compression.Gzip)))
        trace.set_tracer_provider(tracers)
        exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics", compression=Compression.Gzip)
        meters = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=INTERVAL)])
        found.append(OpenTelemetry(meters, tracers))
    return found


async def forget(entries: object) -> None:
    """Take records, and do nothing with them."""


metrics = PrometheusMetrics(CollectorRegistry())
store = open_store(os.environ["AUTHMW_STORE"])
provider = MockProvider()


async def measured_provider(scope: Scope, receive: Receive, send: Send) -> None:
    """The provider, within a span of the app's own."""
    with trace.get_tracer("app").start_as_current_span("ask the provider"):
        await provider(scope, receive, send)


scrapers = StaticKeys({"prometheus": os.environ["AUTHMW_SCRAPER"]})
guarded = Stack(
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(RBACMiddleware, roles={"member": Role(routes=["/v1/**"], models=["gpt-4o-mini"])}, default_role="member"),
    Middleware(BudgetMiddleware, ledger=store.ledger, prices=PRICES, limits={"team": ["5 usd/month"]}, ask_for_usage=True),
)
routes = Starlette(routes=[Route("/metrics", metrics.app), Mount("/", measured_provider)])
policies = PolicyRouter(
    routes,
    policies=[
        Policy("GET /metrics", Stack(Middleware(KeyAuthMiddleware, keys=scrapers))),
        Policy("/v1/**", guarded),
    ],
)
app = AuditMiddleware(policies, sink=FunctionSink(forget), observers=exporters())
