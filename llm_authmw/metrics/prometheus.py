"""`PrometheusMetrics`: what happens, for Prometheus to fetch. It needs the extra `prometheus`, and is imported by its path.

Where several processes serve one app, the client library's multi-process mode adds them up: it is on where `PROMETHEUS_MULTIPROC_DIR`
is set before anything imports that library.
"""

import gzip
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import anyio.to_thread

from llm_authmw import telemetry
from llm_authmw.asgi import POLICY_VIOLATION, Receive, Scope, Send
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.metrics.instruments import INSTRUMENTS, MAX_SERIES, READ, Instrument
from llm_authmw.metrics.measurements import Measurements
from llm_authmw.metrics.series import Values

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
except ModuleNotFoundError as _missing:
    if _missing.name is None or _missing.name.partition(".")[0] != "prometheus_client":
        raise
    raise MissingExtraError("PrometheusMetrics", "prometheus") from _missing

SEVERAL: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that the client library looks at."""
COPY_INTERVAL: Final = 1.0
"""Seconds between two copies of this process's readings, where others are to see them."""

_LONGEST_HEADER: Final = 1000
_Metric: TypeAlias = Counter | Histogram | Gauge
_Add: TypeAlias = Callable[[float], None]


class PrometheusMetrics:
    """The instruments of this package in a registry of the Prometheus client library.

    Make one, once, for a process: it listens from then on. What is read (caches, reservations, queues) is read when Prometheus asks.

    Args:
        registry: Where the instruments are; left out: the library's own, with whatever else the program measures.
        max_series: Combinations of labels that one instrument tells apart. Of further ones, what clients or tokens could name is `other`.
        clock: Says when readings are copied for other processes.

    Attributes:
        app: An ASGI app that answers with what is measured, in the format that is asked for, at whatever path it is mounted. It asks for
            no credential: put it behind a policy of its own.
        registry: Where the instruments are.

    Raises:
        ConfigurationError: the registry has these instruments already, or `max_series` is no number above zero.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, max_series: int = MAX_SERIES, clock: Clock = SYSTEM_CLOCK) -> None:
        self.registry: Final[CollectorRegistry] = REGISTRY if registry is None else registry
        self.app: Final[MetricsApp] = MetricsApp(self._collected)
        self._measurements: Final = Measurements(max_series)
        self._several: Final = SEVERAL in os.environ
        self._monotonic: Final = clock.monotonic
        self._copied_at: float = clock.monotonic()
        self._copied: Final[dict[tuple[str, Values], float]] = {}
        self._metrics: Final[dict[str, _Metric]] = {}
        self._adding: Final[dict[tuple[str, Values], _Add]] = {}
        self._readings: Final = _Readings(self._measurements)
        try:
            for instrument in INSTRUMENTS:
                if self._several or not instrument.read:
                    self._metrics[instrument.name] = _made(instrument, self.registry)
            if not self._several:
                self.registry.register(self._readings)
        except ValueError as error:
            self._unregister()
            raise ConfigurationError("registry", "has these instruments already: make one PrometheusMetrics, once") from error
        telemetry.attach(self)

    def __repr__(self) -> str:
        return "PrometheusMetrics()"

    def close(self) -> None:
        """Stop listening, and take the instruments out of the registry."""
        telemetry.detach(self)
        self._unregister()

    def observe(self, event: object) -> None:
        """Take an event; see `telemetry.Observer`."""
        for instrument, values, amount in self._measurements.of_event(event):
            self._add(instrument, values)(amount)
        if self._several and self._monotonic() - self._copied_at >= COPY_INTERVAL:
            self._copy_readings()

    def _add(self, instrument: Instrument, values: Values) -> _Add:
        key = instrument.name, values
        add = self._adding.get(key)
        if add is None:
            metric = self._metrics[instrument.name]
            child = metric.labels(*values) if values else metric
            add = self._adding[key] = child.observe if isinstance(child, Histogram) else child.inc
        return add

    def _copy_readings(self) -> None:
        """Put this process's readings where the one that Prometheus asks can read them."""
        self._copied_at = self._monotonic()
        found = self._measurements.of_readings()
        # What is not there any more (a store that was thrown away) stands at nothing.
        for (name, values), value in {**dict.fromkeys(self._copied, 0.0), **found}.items():
            metric = self._metrics[READ[name].name]
            child = metric.labels(*values) if values else metric
            if isinstance(child, Gauge):
                child.set(value)
            elif isinstance(child, Counter):
                child.inc(max(value - self._copied.get((name, values), 0.0), 0.0))
        self._copied.clear()
        self._copied.update(found)

    def _collected(self) -> list[Metric]:
        if not self._several:
            return list(self.registry.collect())
        self._copy_readings()
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return list(together.collect())

    def _unregister(self) -> None:
        for collector in (*self._metrics.values(), self._readings):
            try:
                self.registry.unregister(collector)
            except KeyError:
                # It was never put there.
                continue
        self._metrics.clear()


class MetricsApp:
    """Answers with what is measured. Made by `PrometheusMetrics`.

    Args:
        collect: Returns it.
    """

    def __init__(self, collect: Callable[[], list[Metric]]) -> None:
        self._collect: Final = collect

    def __repr__(self) -> str:
        return "PrometheusMetrics().app"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - nothing that is sent matters
        """Answer GET and HEAD, at any path."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            raise NotImplementedError("what is measured has no lifespan")
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, [(b"allow", b"GET, HEAD")], b"")
            return
        encode, media_type = _encoder(_header(scope, b"accept"))
        compressed = _accepts_gzip(_header(scope, b"accept-encoding"))
        # Read here, where nothing changes meanwhile; written down elsewhere, since that may take as long as many requests do.
        found = _Found(self._collect())
        body = await anyio.to_thread.run_sync(lambda: gzip.compress(encode(found), 1) if compressed else encode(found))
        headers = [(b"content-type", media_type.encode("latin-1")), (b"cache-control", b"no-store"), (b"vary", b"accept, accept-encoding")]
        if compressed:
            headers.append((b"content-encoding", b"gzip"))
        await _answer(send, 200, headers, body, without_body=scope["method"] == "HEAD")


class _Found(Collector):
    """What was collected, for an encoder."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics: Final = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Readings(Collector):
    """What is read when somebody asks."""

    def __init__(self, measurements: Measurements) -> None:
        self._measurements: Final = measurements

    def describe(self) -> Iterable[Metric]:
        return [_family(instrument) for instrument in READ.values()]

    def collect(self) -> Iterator[Metric]:
        families = {name: _family(instrument) for name, instrument in READ.items()}
        for (name, values), value in self._measurements.of_readings().items():
            families[name].add_metric(values, value)
        yield from families.values()


def _made(instrument: Instrument, registry: CollectorRegistry) -> _Metric:
    name, labels = instrument.prometheus_name, [label.name for label in instrument.labels]
    if instrument.kind == "histogram":
        return Histogram(name, instrument.meaning, labels, buckets=instrument.buckets, registry=registry)
    if instrument.kind == "gauge":
        return Gauge(name, instrument.meaning, labels, registry=registry, multiprocess_mode="livesum")
    return Counter(name, instrument.meaning, labels, registry=registry)


def _family(instrument: Instrument) -> CounterMetricFamily | GaugeMetricFamily:
    family = CounterMetricFamily if instrument.kind == "counter" else GaugeMetricFamily
    return family(instrument.prometheus_name, instrument.meaning, labels=[label.name for label in instrument.labels])


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is none, which the library compares with one all the same.
        return choose_encoder("")


def _header(scope: Scope, name: bytes) -> str:
    value = b",".join(value for given, value in scope["headers"] if given.lower() == name)
    text = value.decode("latin-1")
    # The library puts part of it into its answer.
    return text if len(text) <= _LONGEST_HEADER and text.isascii() and text.isprintable() else ""


def _accepts_gzip(accepted: str) -> bool:
    for coding in accepted.split(","):
        name, _, parameters = coding.partition(";")
        if name.strip().lower() in ("gzip", "*"):
            return parameters.replace(" ", "").rstrip("0.") != "q="
    return False


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, without_body: bool = False) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": b"" if without_body else body, "more_body": False})
