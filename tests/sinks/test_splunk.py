import json
import ssl
from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret
from llm_authmw.sinks.http_calls import Collector as Calls
from llm_authmw.sinks.splunk import ACK_PATIENCE, SplunkSink, SplunkTransport
from llm_authmw.sinks.tls import client_context
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import make_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry
from tests.peers.collectors import Reply, SplunkStandIn, splunk_stand_in

pytestmark = pytest.mark.anyio

TIME_LIMIT = 10.0
SHORT = 0.1
"""A time limit that a test waits for in full."""
TLS: ssl.SSLContext = client_context(ca_file=None, cert_file=None, key_file=None)


@pytest.fixture
def peer() -> Iterator[SplunkStandIn]:
    with splunk_stand_in() as running:
        yield running


def transport(
    peer: SplunkStandIn, *, path: str = "", token: str | None = None, acknowledge: bool = False, clock: Clock = SYSTEM_CLOCK, **options: Any
) -> SplunkTransport:
    header = {"authorization": Secret(f"Splunk {token or peer.token}")}
    calls = Calls(peer.url + path, headers=header, tls=TLS, clock=clock)
    chosen: dict[str, Any] = {
        "envelope": {"host": "gw1", "source": "s", "sourcetype": "t"},
        "compress": False,
        "max_body": 1_000_000,
        **options,
    }
    return SplunkTransport(calls, acknowledge=acknowledge, clock=clock, ack_pause=0.001, **chosen)


def entries(*ids: str, **changes: Any) -> list[Entry]:
    chain = Chain()
    return [chain.link(make_record(id=one, time=1_700_000_000_123_456, **changes)) for one in ids]


async def refused(place: SplunkTransport, given: list[Entry]) -> SinkError:
    with anyio.fail_after(TIME_LIMIT), pytest.raises(SinkError) as caught:
        await place.write(given)
    await place.aclose()
    assert not any(secret in str(caught.value) for secret in ("hunter2", "c0ffee", "ada", "6f0c9c5a"))
    return caught.value


def ids(peer: SplunkStandIn) -> list[str]:
    return [event["event"]["id"] for event in peer.events]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"url": "http://splunk.example.com:8088"}, "url"),
        ({"url": "https://splunk.example.com:8088/services/collector/raw"}, "url"),
        ({"url": "https://splunk.example.com:8088/hunter2"}, "url"),
        ({"token": ""}, "token"),
        ({"token": "env:NO_SUCH_VARIABLE"}, "token"),
        ({"token": "hunter2\r\nx-forged: 1"}, "headers"),
        ({"max_body": 1}, "max_body"),
    ],
)
def test_a_wrong_option_is_a_configuration_error_that_quotes_no_secret(options: Any, option: str) -> None:
    given: dict[str, Any] = {"url": "https://splunk.example.com:8088", "token": "hunter2", **options}
    with pytest.raises(ConfigurationError) as caught:
        SplunkSink(**given)

    assert option == caught.value.option
    assert "hunter2" not in str(caught.value)


def test_the_sink_is_named_after_its_place_and_shows_no_token() -> None:
    sink = SplunkSink("https://splunk.example.com:8088", "hunter2")

    assert "splunk https://splunk.example.com:8088" == sink.name
    assert "hunter2" not in repr(sink)
    assert sink.durable


@pytest.mark.parametrize("path", ["", "/", "/services/collector/event", "/services/collector/event/"])
async def test_each_record_is_the_event_of_an_envelope(path: str, peer: SplunkStandIn) -> None:
    place, given = transport(peer, path=path), entries("a", "b")

    await place.write(given)
    await place.aclose()

    envelope = {"time": 1_700_000_000.123456, "host": "gw1", "source": "s", "sourcetype": "t"}
    assert [envelope | {"event": json.loads(entry.line)} for entry in given] == peer.events
    assert 1 == len(peer.requests)
    assert f"Splunk {peer.token}" == peer.requests[0].headers["authorization"]
    assert "x-splunk-request-channel" not in peer.requests[0].headers


async def test_the_sink_says_index_fields_and_host_and_may_compress(peer: SplunkStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLUNK_TOKEN", peer.token)
    peer.indexes.add("audit")
    options: dict[str, Any] = {"index": "audit", "host": "gw1", "fields": {"region": "eu"}, "compress": True, "format": "ocsf"}
    sink = SplunkSink(peer.url, "env:SPLUNK_TOKEN", **options)
    await sink.start()
    sink.put(make_record())
    await sink.aclose()

    event = next(event for event in peer.events if event["event"]["class_uid"] == 6003)
    assert ("audit", "gw1", {"region": "eu"}, "llm_authmw") == (event["index"], event["host"], event["fields"], event["source"])
    assert "gzip" == peer.requests[0].headers["content-encoding"]


@pytest.mark.parametrize(
    ("status", "code", "permanent", "problem"),
    [
        (403, 1, False, "its token is disabled"),
        (403, 4, False, "its token is not valid"),
        (400, 5, True, "no data came"),
        (400, 6, True, "a format that it does not read"),
        (400, 7, False, "index"),
        (500, 8, False, "an error of its own"),
        (503, 9, False, "it is busy"),
        (400, 10, False, "`acknowledge` is not set"),
        (400, 12, True, "an event is missing"),
        (503, 23, False, "shutting down"),
        (400, 99, False, "code 99"),
        # A status of 200 with an error in its body is an error.
        (200, 9, False, "it is busy"),
        (200, 6, True, "a format that it does not read"),
    ],
)
async def test_an_error_of_the_collector_is_said_in_our_words(
    status: int, code: int, permanent: bool, problem: str, peer: SplunkStandIn
) -> None:
    peer.replies.append(Reply(status, json.dumps({"text": "ada hunter2", "code": code}).encode()))

    error = await refused(transport(peer), entries("a"))

    assert problem in str(error)
    assert f"status {status}" in str(error)
    assert permanent == error.permanent


@pytest.mark.parametrize(
    "body", [b"", b"hunter2", b"[]", b"{}", b'{"code":"0"}', b'{"code":null}', b'{"code":0}' + b" " * 70_000, b"<html>"]
)
async def test_an_answer_that_is_none_of_a_collector_means_that_nothing_was_taken(body: bytes, peer: SplunkStandIn) -> None:
    peer.replies.append(Reply(200, body))

    error = await refused(transport(peer), entries("a"))

    assert "not as a collector of Splunk does" in str(error)
    assert not error.permanent


async def test_the_stand_in_refuses_a_wrong_token_and_an_index_of_others(peer: SplunkStandIn) -> None:
    assert "token is not valid" in str(await refused(transport(peer, token="hunter2"), entries("a")))
    elsewhere = transport(peer, envelope={"index": "secret"})
    assert "index" in str(await refused(elsewhere, entries("a")))
    assert [] == peer.events


async def test_a_token_that_wants_acknowledgement_is_told_apart_from_one_that_gives_none(peer: SplunkStandIn) -> None:
    error = await refused(transport(peer, acknowledge=True), entries("a"))
    assert "acknowledges nothing" in str(error)

    peer.acknowledges = True
    error = await refused(transport(peer), entries("a"))
    assert "`acknowledge` is not set" in str(error)


async def test_with_acknowledgement_a_record_is_taken_once_an_indexer_has_it(peer: SplunkStandIn) -> None:
    peer.acknowledges = peer.index_at_once = True
    place = transport(peer, acknowledge=True)

    await place.write(entries("a", "b"))
    await place.write(entries("c"))
    await place.aclose()

    assert (["a", "b", "c"], 2) == (ids(peer), peer.polls)
    channels = {request.headers["x-splunk-request-channel"] for request in peer.requests if request.path.endswith("event")}
    assert {f"channel={channel}" for channel in channels} == {request.query for request in peer.requests if request.path.endswith("ack")}


async def test_records_that_no_indexer_acknowledges_are_not_taken_and_not_sent_twice(peer: SplunkStandIn) -> None:
    peer.acknowledges = True
    clock = ManualClock()
    place, given = transport(peer, acknowledge=True, clock=clock, timeout=SHORT), entries("a", "b")

    assert "not acknowledged" in str(await refused(place, given))
    assert "not acknowledged" in str(await refused(place, given))
    assert ["a", "b"] == ids(peer)

    # A later batch has not to wait for what an earlier one waits for, and each gets its own.
    peer.indexed.add(0)
    await place.write(given)
    assert ["a", "b"] == ids(peer)

    peer.indexed.clear()
    again = entries("c")
    await refused(place, again)
    clock.advance(ACK_PATIENCE + 1)
    peer.index_at_once = True
    await place.write(again)
    await place.aclose()
    assert ["a", "b", "c", "c"] == ids(peer)


@pytest.mark.parametrize("reply", [Reply(503, b'{"text":"busy","code":9}'), Reply(200, b'{"acks":[]}'), Reply(200, b"hunter2")])
async def test_a_question_for_acknowledgements_that_fails_leaves_the_records_untaken(reply: Reply, peer: SplunkStandIn) -> None:
    peer.acknowledges = True
    place, given = transport(peer, acknowledge=True), entries("a")
    peer.replies.extend([Reply(200, b'{"text":"Success","code":0,"ackId":0}'), reply])

    assert "asked for acknowledgements" in str(await refused(place, given))


async def test_the_child_of_a_fork_waits_for_nothing_of_its_parents(peer: SplunkStandIn) -> None:
    peer.acknowledges = True
    place, given = transport(peer, acknowledge=True, timeout=SHORT), entries("a")
    await refused(place, given)

    place.forked()

    assert not place._awaited
    await place.aclose()


async def test_records_larger_than_a_request_may_be_come_in_several(peer: SplunkStandIn) -> None:
    place = transport(peer, max_body=65_536)
    given = entries(*map(str, range(40)), extra=cast("Any", {"text": "x" * 4_000}))

    await place.write(given)
    await place.aclose()

    assert 1 < len(peer.requests)
    assert 65_536 >= max(len(request.body) for request in peer.requests)
    assert [entry.record.id for entry in given] == ids(peer)
