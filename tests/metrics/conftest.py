from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from llm_authmw import telemetry
from llm_authmw.metrics.prometheus import PrometheusMetrics
from llm_authmw.testing import ManualClock


class Heard:
    """Whoever measures: keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def observe(self, event: object) -> None:
        self.events.append(event)


@pytest.fixture(autouse=True)
def nobody_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_observers", ())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def heard() -> Iterator[list[object]]:
    """What is told while the test runs."""
    observer = Heard()
    telemetry.attach(observer)
    yield observer.events
    telemetry.detach(observer)


@pytest.fixture
def make_metrics(clock: ManualClock) -> Iterator[Callable[..., PrometheusMetrics]]:
    """Makes exporters, each with a registry of its own, which listen until the test is over."""
    with ExitStack() as made:

        def make(**options: int) -> PrometheusMetrics:
            metrics = PrometheusMetrics(CollectorRegistry(), clock=clock, **options)
            made.callback(metrics.close)
            return metrics

        yield make


@pytest.fixture
def metrics(make_metrics: Callable[..., PrometheusMetrics]) -> PrometheusMetrics:
    return make_metrics()
