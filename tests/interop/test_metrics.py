"""What we measure, read by those who will read it: a Prometheus that fetches it, and a receiver of OpenTelemetry's protocol."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from llm_authmw import CreatedKey
from llm_authmw.testing.servers import RunningServer
from tests.peers.needs import need
from tests.peers.prometheus import Prometheus, prometheus

need("opentelemetry.sdk", "prometheus_client")

from tests.peers.otlp import Receiver, receiver  # noqa: E402 - which imports what may be missing

SCRAPER = "scraper-0123456789abcdef0123456789abcdef"
PROMPT = "the-prompt-is-nobody-elses-business"
CHAT = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": PROMPT}]}
PERSONS = ("ada-lovelace", "the-end-user-of-it")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def server(start_server: Callable[..., RunningServer], store_url: str, otlp: Receiver) -> RunningServer:
    environment = {"AUTHMW_STORE": store_url, "AUTHMW_SCRAPER": SCRAPER, "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url}
    return start_server("measured:app", env=environment)


@pytest.fixture(scope="module")
def key(new_key: Callable[..., CreatedKey], store_url: str) -> str:
    created = new_key(store_url, team="blue", user=PERSONS[0])
    assert created.key is not None
    return created.key


@pytest.fixture(scope="module")
def asked(server: RunningServer, key: str, make_client: Callable[..., httpx.Client]) -> list[int]:
    """What was asked for, and the status of each answer."""
    with make_client(base_url=server.url) as client:
        headers = {"authorization": f"Bearer {key}"}
        chat = "/v1/chat/completions"
        answers = [
            client.post(chat, json=CHAT, headers={**headers, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}),
            client.post(chat, json={**CHAT, "stream": True, "user": PERSONS[1]}, headers=headers),
            client.post(chat, json={**CHAT, "model": "gpt-made-up-by-a-client"}, headers=headers),
            client.post(chat, json=CHAT, headers={"authorization": f"Bearer {key[:-4]}AAAA"}),
            client.get("/metrics"),
            client.get("/metrics", headers={"authorization": f"Bearer {SCRAPER}"}),
        ]
        return [answer.status_code for answer in answers]


@pytest.fixture(scope="module")
def scraping(server: RunningServer, asked: list[int]) -> Iterator[Prometheus]:
    with prometheus(f"127.0.0.1:{server.port}", bearer=SCRAPER) as running:
        yield running


def test_what_is_measured_is_for_whoever_may_read_it(asked: list[int]) -> None:
    assert [200, 200, 403, 401, 401, 200] == asked


def test_prometheus_reads_every_figure(scraping: Prometheus) -> None:
    ((labels, value),) = scraping.wait_for('llm_authmw_requests_total{operation="chat",outcome="allowed"}')
    assert ("2xx", "complete", 2.0) == (labels["status"], labels["end"], value)
    ((labels, value),) = scraping.ask('llm_authmw_decisions_total{reason="model_not_allowed"}')
    assert ("RBACMiddleware", "denied", 1.0) == (labels["layer"], labels["outcome"], value)
    ((labels, _),) = scraping.ask("llm_authmw_cost_usd_total > 0")
    assert ("default", "blue", "gpt-4o-mini") == (labels["tenant"], labels["team"], labels["model"])
    ((_, median),) = scraping.ask('histogram_quantile(0.5, llm_authmw_request_duration_seconds_bucket{operation="chat",outcome="allowed"})')
    assert 0 < median < 10
    ((_, questions),) = scraping.ask('sum(llm_authmw_store_duration_seconds_count{store="ledger",outcome="ok"})')
    assert questions >= 4
    ((_, lookups),) = scraping.ask('sum(llm_authmw_cache_lookups_total{cache="keys"})')
    assert lookups > 0
    assert [({}, 0.0)] == [({}, value) for _, value in scraping.ask("sum(llm_authmw_ledger_reservations_open)")]


def test_prometheus_has_no_complaint_and_knows_what_each_figure_is(scraping: Prometheus) -> None:
    scraping.wait_for("llm_authmw_requests_total")
    (target,) = scraping.targets()
    assert ("up", "") == (target["health"], target["lastError"])
    known = scraping.metadata()
    # It asks for OpenMetrics, where the name of a counter has no suffix.
    assert [{"type": "counter", "help": "Requests that are over, the denied ones too.", "unit": ""}] == known["llm_authmw_requests"]
    assert ["histogram"] == [one["type"] for one in known["llm_authmw_store_duration_seconds"]]
    assert ["gauge"] == [one["type"] for one in known["llm_authmw_ledger_reservations_open"]]


def test_the_spans_of_a_request_are_in_the_callers_trace(asked: list[int], otlp: Receiver) -> None:
    # A span for each request, and one of the app's own for each that came through.
    spans = otlp.spans(len(asked) + 2)
    (request,) = [span for span in spans if span.trace_id.hex() == TRACE and span.name == "POST chat"]
    (child,) = [span for span in spans if span.parent_span_id == request.span_id]
    assert ("b7ad6b7169203331", 2, "ask the provider") == (request.parent_span_id.hex(), request.kind, child.name)
    said = attributes_of(request)
    assert ("chat", "openai", "gpt-4o-mini") == tuple(
        said[f"gen_ai.{name}"] for name in ("operation.name", "provider.name", "request.model")
    )
    assert ("POST", 200, "blue", "allowed") == (
        *(said["http.request.method"], said["http.response.status_code"]),
        *(said["llm_authmw.team"], said["llm_authmw.outcome"]),
    )
    assert int(said["gen_ai.usage.output_tokens"]) > 0
    layers = [attributes_of(event)["llm_authmw.layer"] for event in request.events]
    assert ["PolicyRouter", "KeyAuthMiddleware", "RBACMiddleware", "BudgetMiddleware"] == layers


def test_the_figures_arrive_compressed_with_the_names_of_the_conventions(asked: list[int], otlp: Receiver) -> None:
    found = otlp.metrics(
        *("http.server.request.duration", "gen_ai.client.token.usage", "gen_ai.server.request.duration"),
        *("gen_ai.server.time_to_first_token", "llm_authmw.requests", "llm_authmw.cost", "llm_authmw.cache.lookups"),
    )
    (first,) = found["gen_ai.server.time_to_first_token"].histogram.data_points
    assert 1 == first.count
    assert "s" == found["http.server.request.duration"].unit
    counted = {tuple(sorted(attributes_of(point).items())): point.as_double for point in found["llm_authmw.requests"].sum.data_points}
    assert len(asked) >= len(counted)
    assert all(otlp.compressed)


def test_nothing_secret_and_nobodys_name_is_sent(
    asked: list[int], scraping: Prometheus, otlp: Receiver, key: str, server: RunningServer
) -> None:
    otlp.spans(len(asked))
    otlp.metrics("llm_authmw.cost")
    fetched = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {SCRAPER}"}, trust_env=False).text
    scraping.wait_for("llm_authmw_requests_total")
    sent = b"".join([*otlp.bodies, fetched.encode()])
    assert [] == [secret for secret in (key, key[-12:], SCRAPER, PROMPT, *PERSONS) if secret.encode() in sent]
    assert "made-up-by-a-client" not in fetched


def attributes_of(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in thing.attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = getattr(attribute.value, kind)
    return found
