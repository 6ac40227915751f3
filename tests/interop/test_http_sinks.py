"""Records over HTTP, from real layers' point of view: a server that is slow, away, restarted or hostile, and Splunk's stand-in."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from llm_authmw import HTTPSink, SplunkSink
from llm_authmw.testing.places import make_record
from llm_authmw.testing.raw_server import raw_server
from llm_authmw.trail.record import Person
from llm_authmw.trail.verification import verify
from tests.peers.certificates import Certificates
from tests.peers.collectors import Collector, Reply, SplunkStandIn, collector, splunk_stand_in

pytestmark = pytest.mark.anyio

TIME_LIMIT = 15.0
FORGED = '"}\n{"kind":"request","outcome":"allowed","forged":true}\n'


@pytest.fixture
def peer() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture
def splunk() -> Iterator[SplunkStandIn]:
    with splunk_stand_in() as running:
        yield running


def lines(peer: Collector) -> list[bytes]:
    return [line for request in peer.requests for line in request.body.splitlines()]


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [record["id"] for record in records if record["kind"] == "request"]


async def test_what_is_put_arrives_in_order_and_verifies(peer: Collector) -> None:
    sink = HTTPSink(peer.url, compress=True)
    await sink.start()
    for number in range(1_000):
        sink.put(make_record(id=str(number)))
    await sink.aclose()

    assert [str(number) for number in range(1_000)] == ids(peer.records)
    assert {"unsigned"} >= {finding.kind for finding in verify(lines(peer)).findings}
    # In batches, and not one by one.
    assert 20 > len(peer.requests)


async def test_what_must_be_accepted_is_there_when_it_returns(peer: Collector) -> None:
    sink = HTTPSink(peer.url, deadline=TIME_LIMIT)
    await sink.start()
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(sink.accept, make_record(id=str(number)))

    assert sorted(map(str, range(50))) == sorted(ids(peer.records))
    # Those who wait at the same time share a request.
    assert 50 > len(peer.requests)
    await sink.aclose()


async def test_a_collector_that_is_busy_gets_every_record_later_and_once(peer: Collector) -> None:
    peer.replies.extend([Reply(503), Reply(429), Reply(500)])
    sink = HTTPSink(peer.url)
    await sink.start()
    for number in range(10):
        sink.put(make_record(id=str(number)))
    await sink.aclose()

    taken = [record for request in peer.requests[3:] for record in map(json.loads, request.body.splitlines())]
    assert [str(number) for number in range(10)] == ids(taken)


async def test_a_record_that_is_refused_for_good_does_not_hold_up_the_others(peer: Collector) -> None:
    class Picky(Collector):
        def answer(self, request: Any) -> Reply:
            refuses = b'"id":"bad"' in request.body
            return Reply(400) if refuses else super().answer(request)

    picky = Picky(peer.url)
    peer.answer = picky.answer  # type: ignore[method-assign]  # the server asks the one that it was started with
    sink = HTTPSink(peer.url)
    await sink.start()
    for one in ("a", "bad", "b"):
        sink.put(make_record(id=one))
    await sink.aclose()

    assert ["a", "b"] == ids(picky.records)


async def test_no_text_in_a_record_begins_another_one(peer: Collector, splunk: SplunkStandIn) -> None:
    record = make_record(path=FORGED, models=(FORGED * 1_000,), extra={FORGED: FORGED}, person=Person(user=FORGED, email=FORGED))
    for sink in (HTTPSink(peer.url), SplunkSink(splunk.url, splunk.token)):
        await sink.start()
        sink.put(record)
        await sink.aclose()

    said = [*peer.records, *(event["event"] for event in splunk.events)]
    assert 2 == len(ids(said))
    assert not any("forged" in one for one in said)


async def test_a_hostile_collector_holds_up_nobody_and_gets_no_secret_into_a_log(caplog: pytest.LogCaptureFixture) -> None:
    async def hostile(stream: ByteStream) -> None:
        await stream.send(b"HTTP/1.1 302 hunter2\r\nLocation: http://127.0.0.1:1/hunter2\r\nContent-Length: 9999999999\r\n\r\n")
        while True:
            await stream.send(b"hunter2" * 1_000)

    async with raw_server(hostile) as server:
        sink = HTTPSink(f"{server.url}/hunter2", headers={"authorization": "hunter2"})
        await sink.start()
        with anyio.fail_after(TIME_LIMIT):
            sink.put(make_record(person=Person(user="hunter2")))
            await sink.aclose()

    assert caplog.text
    assert "hunter2" not in caplog.text


async def test_splunk_over_tls_has_each_record_once_it_is_acknowledged(certificates: Certificates, tmp_path: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server: Any = certificates.server
    server.configure_cert(tls)
    certificates.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with splunk_stand_in(tls=tls) as splunk:
        splunk.acknowledges = splunk.index_at_once = True
        sink = SplunkSink(splunk.url, splunk.token, ca_file=tmp_path / "ca.pem", acknowledge=True, deadline=TIME_LIMIT)
        await sink.start()
        await sink.accept(make_record(id="a"))

        assert ["a"] == ids([event["event"] for event in splunk.events])
        assert 0 < splunk.polls
        await sink.aclose()
