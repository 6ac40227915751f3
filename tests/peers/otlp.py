"""A receiver of OpenTelemetry's own protocol, over HTTP with protobuf: what a collector takes, and nothing else."""

import contextlib
import gzip
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from llm_authmw.testing.servers import HOST

LIMIT: Final = 20.0
"""Seconds until something must have come."""
_KINDS: Final[dict[str, tuple[Any, Any]]] = {
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
}


class Receiver:
    """What has come.

    Attributes:
        url: Where it is: what `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
        bodies: What was sent, as it came but for its compression.
        compressed: Whether each of them was.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.bodies: Final[list[bytes]] = []
        self.compressed: Final[list[bool]] = []
        self._requests: Final[list[Any]] = []
        self._came: Final = threading.Condition()

    def take(self, request: Any, body: bytes, *, compressed: bool) -> None:
        """Take one message."""
        with self._came:
            self._requests.append(request)
            self.bodies.append(body)
            self.compressed.append(compressed)
            self._came.notify_all()

    def spans(self, number: int) -> list[Any]:
        """Wait for so many spans, and return all that have come."""
        return self._wait_for(number, self._spans)

    def metrics(self, *names: str) -> dict[str, Any]:
        """Wait for these metrics, and return the newest of each by its name."""
        self._wait_for(len(names), lambda: [name for name in names if name in self._metrics()])
        return self._metrics()

    def _wait_for(self, number: int, find: Any) -> list[Any]:
        with self._came:
            assert self._came.wait_for(lambda: len(find()) >= number, LIMIT), f"{len(find())} of {number} have come"
            found: list[Any] = find()
            return found

    def _spans(self) -> list[Any]:
        groups = [scope for request in self._requests for one in getattr(request, "resource_spans", ()) for scope in one.scope_spans]
        return [span for group in groups for span in group.spans]

    def _metrics(self) -> dict[str, Any]:
        groups = [scope for request in self._requests for one in getattr(request, "resource_metrics", ()) for scope in one.scope_metrics]
        return {metric.name: metric for group in groups for metric in group.metrics}


@contextlib.contextmanager
def receiver() -> Generator[Receiver]:
    """Receive on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            compressed = self.headers.get("content-encoding") == "gzip"
            kind = _KINDS.get(self.path)
            if kind is None or self.headers.get("content-type") != "application/x-protobuf":
                self.send_error(415)
                return
            plain = gzip.decompress(body) if compressed else body
            received.take(kind[0].FromString(plain), plain, compressed=compressed)
            answer: bytes = kind[1]().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that it has there
            """Write nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    received = Receiver(f"http://{HOST}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join(LIMIT)
        server.server_close()
