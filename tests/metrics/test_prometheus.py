import gzip
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from llm_authmw import ConfigurationError, telemetry
from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.metrics.instruments import INSTRUMENTS
from llm_authmw.metrics.prometheus import COPY_INTERVAL, SEVERAL, PrometheusMetrics
from llm_authmw.telemetry import Alert, Asked, Fetched, Reading
from llm_authmw.testing import ManualClock, request, websocket
from llm_authmw.trail.record import Person, Record, Who

pytestmark = pytest.mark.anyio

read_openmetrics = cast("Any", openmetrics).text_string_to_metric_families
SECRETS = (
    *("sk-live-0123456789abcdef", "ada.lovelace@example.com", "203.0.113.77", "the-end-user", "k_credential_9", "req-5566"),
    *("/v1/files/secret-report", "model-that-a-client-made-up", "ada-the-user", "tool-of-mine"),
)
RECORD = Record(
    time=1_790_000_000_000_000,
    kind="request",
    id="req-5566",
    who=Who(tenant="acme", team="blue", method="key", credential_id="k_credential_9"),
    person=Person(user="ada-the-user", email="ada.lovelace@example.com", address="203.0.113.77", end_user="the-end-user"),
    outcome="allowed",
    protocol="http",
    verb="sk-live-0123456789abcdef",
    path="/v1/files/secret-report",
    operation="chat",
    models=("model-that-a-client-made-up",),
    tools=("tool-of-mine",),
    decisions=(Decision("KeyAuthMiddleware", "allowed", None, "k_credential_9"),),
    spent=(40,),
    status=200,
    first_byte=250_000,
    duration=2_000_000,
    end="complete",
    usage=Usage(input=100, output=20, complete=True),
    charge=Charge(amount=1_500_000, model="gpt-4o-mini", rule="gpt-4o-mini", version="1"),
    extra={"country": "NZ", "note": "sk-live-0123456789abcdef"},
)


async def scraped(metrics: PrometheusMetrics, **headers: str) -> Any:
    given = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return await request(metrics.app, "GET /metrics", headers=given)


async def samples(metrics: PrometheusMetrics) -> dict[tuple[str, ...], float]:
    answer = await scraped(metrics)
    # Labels come in the order of their names.
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                found[sample.name, *sample.labels.values()] = sample.value
    return found


async def test_what_is_told_is_there_to_be_fetched(metrics: PrometheusMetrics) -> None:
    for event in (RECORD, RECORD, Asked("ledger", "reserve", 0.25, "late"), Fetched("jwks", "https://idp.example", 0.1, "ok")):
        telemetry.emit(event)
    found = await samples(metrics)
    assert 2 == found["llm_authmw_requests_total", "complete", "chat", "allowed", "2xx"]
    assert 200 == found["llm_authmw_tokens_total", "gpt-4o-mini", "blue", "acme", "input"]
    assert pytest.approx(0.003) == found["llm_authmw_cost_usd_total", "gpt-4o-mini", "blue", "acme"]
    assert pytest.approx(4.0) == found["llm_authmw_request_duration_seconds_sum", "chat", "allowed"]
    assert 1 == found["llm_authmw_store_duration_seconds_count", "reserve", "late", "ledger"]
    assert 1 == found["llm_authmw_fetch_duration_seconds_count", "https://idp.example", "ok", "jwks"]


class Queue:
    """Something that knows figures of its own."""

    def __init__(self) -> None:
        self.length = 7
        self.lost = 2
        telemetry.measure(self)

    def readings(self) -> list[Reading]:
        sink = (("sink", "of this test"),)
        return [Reading("audit_queue_length", self.length, sink), Reading("audit_records_lost", self.lost, sink, counts_up=True)]


async def test_what_is_read_is_read_when_somebody_asks(metrics: PrometheusMetrics) -> None:
    queue = Queue()
    assert 7 == (await samples(metrics))["llm_authmw_audit_queue_length", "of this test"]
    queue.length = 3
    found = await samples(metrics)
    assert (3, 2) == (found["llm_authmw_audit_queue_length", "of this test"], found["llm_authmw_audit_records_lost_total", "of this test"])


async def test_nothing_that_is_secret_or_says_who_somebody_is_can_be_fetched(metrics: PrometheusMetrics) -> None:
    telemetry.emit(RECORD)
    telemetry.emit(Alert(kind="key_expiring", tenant="acme", subject="k_credential_9", message="the-end-user", details={"a": SECRETS[0]}))
    text = (await scraped(metrics)).body.decode()
    assert "llm_authmw_alerts_total" in text
    assert [] == [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("accept", "media_type", "read"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8", read_openmetrics),
        ("application/openmetrics-text; version=one", "text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        ("application/openmetrics-text; version=1.0.0\x80", "text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
        ("text/plain" * 200, "text/plain; version=0.0.4; charset=utf-8", text_string_to_metric_families),
    ],
)
async def test_the_format_is_the_one_that_is_asked_for(metrics: PrometheusMetrics, accept: str, media_type: str, read: Any) -> None:
    telemetry.emit(RECORD)
    answer = await scraped(metrics, accept=accept)
    assert (200, "no-store") == (answer.status, answer.header("cache-control"))
    assert str(answer.header("content-type")).startswith(media_type)
    assert any("llm_authmw_requests" in family.name for family in read(answer.body.decode()))


@pytest.mark.parametrize("accepted", ["gzip", "deflate, gzip;q=0.5", "*"])
async def test_it_is_compressed_for_whoever_can_read_that(metrics: PrometheusMetrics, accepted: str) -> None:
    telemetry.emit(RECORD)
    answer = await scraped(metrics, accept_encoding=accepted)
    assert "gzip" == answer.header("content-encoding")
    assert b"llm_authmw_requests_total" in gzip.decompress(answer.body)


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0", "gzip; q=0.000", "br"])
async def test_it_is_not_compressed_for_whoever_cannot(metrics: PrometheusMetrics, accepted: str) -> None:
    answer = await scraped(metrics, accept_encoding=accepted)
    assert answer.header("content-encoding") is None
    assert answer.body.startswith(b"# HELP")


async def test_another_method_is_refused_and_head_has_no_body(metrics: PrometheusMetrics) -> None:
    refused = await request(metrics.app, "POST /metrics")
    assert (405, "GET, HEAD", b"") == (refused.status, refused.header("allow"), refused.body)
    head = await request(metrics.app, "HEAD /metrics")
    assert (200, b"") == (head.status, head.body)
    assert int(str(head.header("content-length"))) > 0


async def test_a_socket_is_refused_and_a_lifespan_is_not_its_own(metrics: PrometheusMetrics) -> None:
    async with websocket(metrics.app, "/metrics") as socket:
        assert not socket.accepted
    with pytest.raises(NotImplementedError):
        await metrics.app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


def test_a_registry_has_the_instruments_once_and_again_when_they_were_taken_out(metrics: PrometheusMetrics) -> None:
    with pytest.raises(ConfigurationError, match="registry: has these instruments already"):
        PrometheusMetrics(metrics.registry)
    metrics.close()
    again = PrometheusMetrics(metrics.registry)
    assert again.registry is metrics.registry
    again.close()


def test_one_that_is_closed_hears_nothing_any_more(metrics: PrometheusMetrics) -> None:
    metrics.close()
    telemetry.emit(RECORD)
    assert [] == list(metrics.registry.collect())


async def test_a_hostile_client_adds_no_more_series_than_are_stated(make_metrics: Callable[..., PrometheusMetrics]) -> None:
    metrics = make_metrics(max_series=3)
    for number in range(100):
        charge = Charge(amount=1, model=f"m{number}", rule=f"m{number}", version="1")
        telemetry.emit(Record(time=0, kind="request", operation=f"o{number}", who=Who(tenant=f"t{number}"), charge=charge))
    found = await samples(metrics)
    assert 4 == len([name for name, *_ in found if name == "llm_authmw_cost_usd_total"])
    assert pytest.approx(97e-9) == found["llm_authmw_cost_usd_total", "other", "other", "other"]


def test_every_instrument_is_in_the_registry(metrics: PrometheusMetrics) -> None:
    # As the library knows them: without the suffix of a counter.
    families = {family.name for family in metrics.registry.collect()}
    assert {instrument.prometheus_name.removesuffix("_total") for instrument in INSTRUMENTS} == families


WORKER = """
    import sys
    import anyio
    from prometheus_client import CollectorRegistry
    from llm_authmw import telemetry
    from llm_authmw.metrics.prometheus import PrometheusMetrics
    from llm_authmw.telemetry import Reading
    from llm_authmw.testing import ManualClock, request
    from llm_authmw.trail.record import Record

    class Figures:
        def readings(self):
            yield Reading("ledger_reservations_open", 5, (("store", "ledger"),))
            yield Reading("cache_lookups", looked_up, (("cache", "keys"), ("result", "hit")), counts_up=True)

    looked_up = 10
    figures = Figures()
    telemetry.measure(figures)
    clock = ManualClock()
    metrics = PrometheusMetrics(CollectorRegistry(), clock=clock)
    for _ in range(int(sys.argv[1])):
        telemetry.emit(Record(time=0, kind="request", operation="chat", outcome="allowed", status=200, end="complete", duration=1000))
    looked_up = 12
    clock.advance(1.0)
    telemetry.emit("the next event has the readings copied")
    if sys.argv[2] == "wait":
        print("ready", flush=True)
        sys.stdin.read()
    else:
        print(anyio.run(request, metrics.app, "GET /metrics").body.decode())
"""


def test_two_processes_are_added_up_where_the_library_is_told_to(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(textwrap.dedent(WORKER), encoding="utf-8")
    shared = tmp_path / "shared"
    shared.mkdir()
    environment = {**os.environ, SEVERAL: str(shared)}
    command = [sys.executable, str(program)]
    with subprocess.Popen([*command, "3", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as other:
        assert other.stdout is not None
        assert "ready\n" == other.stdout.readline()
        asked = subprocess.run([*command, "4", "scrape"], capture_output=True, env=environment, text=True, check=False, timeout=60)
        other.communicate()
    assert "" == asked.stderr
    assert 'llm_authmw_requests_total{end="complete",operation="chat",outcome="allowed",status="2xx"} 7.0' in asked.stdout
    # Readings, too, which each process has for itself alone.
    assert 'llm_authmw_ledger_reservations_open{store="ledger"} 10.0' in asked.stdout
    assert 'llm_authmw_cache_lookups_total{cache="keys",result="hit"} 24.0' in asked.stdout


def test_without_the_package_the_error_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["prometheus_client"] = None
        import llm_authmw
        try:
            import llm_authmw.metrics.prometheus
        except llm_authmw.ConfigurationError as error:
            print(error)
    """
    completed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "PrometheusMetrics: needs an optional dependency: pip install 'llm-authmw[prometheus]'\n" == completed.stdout


def test_the_package_itself_is_not_loaded_by_importing_ours() -> None:
    code = "import sys, llm_authmw; print([name for name in ('prometheus_client', 'opentelemetry') if name in sys.modules])"
    assert "[]\n" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_nothing_is_written_for_others_before_it_is_due(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEVERAL, "anywhere")
    metrics, queue = PrometheusMetrics(CollectorRegistry(), clock=clock), Queue()
    name, labels = "llm_authmw_audit_queue_length", {"sink": "of this test"}
    telemetry.emit("an event")
    assert metrics.registry.get_sample_value(name, labels) is None
    clock.advance(COPY_INTERVAL)
    telemetry.emit("an event")
    assert 7 == metrics.registry.get_sample_value(name, labels)
    # What is not there any more stands at nothing; what was counted stays.
    del queue
    clock.advance(COPY_INTERVAL)
    telemetry.emit("an event")
    assert 0 == metrics.registry.get_sample_value(name, labels)
    assert 2 == metrics.registry.get_sample_value("llm_authmw_audit_records_lost_total", labels)
    metrics.close()
