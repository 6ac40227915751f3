import json
import logging
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, cast

import anyio
import pytest
from anyio.abc import ByteStream

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret
from llm_authmw.sinks.http import HTTPSink, HTTPTransport
from llm_authmw.sinks.http_calls import MAX_ANSWER, MAX_HOLD
from llm_authmw.sinks.http_calls import Collector as Calls
from llm_authmw.sinks.tls import client_context
from llm_authmw.testing import ManualClock
from llm_authmw.testing.places import make_record
from llm_authmw.testing.raw_server import Behaviour, answers, raw_server
from llm_authmw.testing.servers import _free_port
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry
from tests.peers.collectors import Collector, Reply, collector

pytestmark = pytest.mark.anyio

TIME_LIMIT = 10.0
SHORT = 0.1
"""A time limit that a test waits for in full."""
TLS = client_context(ca_file=None, cert_file=None, key_file=None)


@pytest.fixture
def peer() -> Iterator[Collector]:
    with collector() as running:
        yield running


def transport(
    url: str,
    *,
    clock: Clock = SYSTEM_CLOCK,
    timeout: float = 4.0,
    headers: dict[str, Any] | None = None,
    tls: ssl.SSLContext = TLS,
    **options: Any,
) -> HTTPTransport:
    calls = Calls(url, headers=headers or {}, tls=tls, clock=clock, timeout=timeout)
    chosen: dict[str, Any] = {"body": "ndjson", "compress": False, "max_body": 1_000_000, **options}
    return HTTPTransport(calls, **chosen)


def entries(*ids: str, chain: Chain | None = None, **changes: Any) -> list[Entry]:
    chain = chain or Chain()
    return [chain.link(make_record(id=one, **changes)) for one in ids]


async def refused(place: HTTPTransport, given: list[Entry]) -> SinkError:
    with anyio.fail_after(TIME_LIMIT), pytest.raises(SinkError) as caught:
        await place.write(given)
    await place.aclose()
    error = caught.value
    assert not any(secret in str(error) for secret in ("hunter2", "c0ffee", "ada"))
    # What a client raises holds the request, and that its credentials.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error


def ids(peer: Collector) -> list[str]:
    return [record["id"] for record in peer.records]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"url": "http://logs.example.com/hunter2"}, "url"),
        ({"url": "https://ada:hunter2@logs.example.com"}, "url"),
        ({"url": "env:NO_SUCH_VARIABLE"}, "url"),
        ({"url": ""}, "url"),
        ({"body": "lines"}, "body"),
        ({"max_body": 65_535}, "max_body"),
        ({"headers": {"authorization": "env:NO_SUCH_VARIABLE"}}, "headers"),
        ({"headers": {"authorization": "hunter2\r\nx-forged: 1"}}, "headers"),
        ({"headers": {"authorization": "hünter2"}}, "headers"),
        ({"headers": {"two words": "hunter2"}}, "headers"),
        ({"headers": {"x\r\ny": "hunter2"}}, "headers"),
        ({"headers": {"Host": "hunter2"}}, "headers"),
        ({"headers": {"Content-Length": "1"}}, "headers"),
        ({"headers": {"transfer-encoding": "chunked"}}, "headers"),
        ({"headers": {"Idempotency-Key": "hunter2"}}, "headers"),
        ({"headers": {"Content-Type": "hunter2"}}, "headers"),
    ],
)
def test_a_wrong_option_is_a_configuration_error_that_quotes_no_secret(options: Any, option: str) -> None:
    given: dict[str, Any] = {"url": "https://logs.example.com", **options}
    with pytest.raises(ConfigurationError) as caught:
        HTTPSink(**given)

    assert option == caught.value.option
    assert "hunter2" not in str(caught.value)


def test_the_sink_is_named_after_its_place_without_what_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR", "https://logs.example.com:8443/hunter2?key=hunter2")
    for url in ("env:COLLECTOR", Secret("https://logs.example.com:8443/hunter2?key=hunter2")):
        sink = HTTPSink(url, headers={"x-key": "hunter2"})

        assert "http https://logs.example.com:8443" == sink.name
        assert "hunter2" not in repr(sink)
        assert sink.durable


async def test_a_batch_is_one_request_with_a_line_for_each_record(peer: Collector) -> None:
    place, given = transport(f"{peer.url}/in?to=audit"), entries("a", "b")

    await place.write(given)
    await place.aclose()

    (request,) = peer.requests
    assert ("/in", "to=audit", "application/x-ndjson") == (request.path, request.query, request.headers["content-type"])
    assert given[0].line + b"\n" + given[1].line + b"\n" == request.raw


async def test_a_batch_can_be_one_array_and_compressed(peer: Collector) -> None:
    place, given = transport(peer.url, body="array", compress=True), entries("a", "b")

    await place.write(given)
    await place.aclose()

    (request,) = peer.requests
    assert ("application/json", "gzip") == (request.headers["content-type"], request.headers["content-encoding"])
    assert [json.loads(entry.line) for entry in given] == json.loads(request.body)
    assert len(request.raw) < len(request.body)


async def test_secrets_of_the_header_are_sent_and_ours_are_not_changed(peer: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_AUTH", "Bearer hunter2")
    place = transport(peer.url, headers={"Authorization": "env:COLLECTOR_AUTH", "X-Scope-OrgID": Secret("blue")})

    await place.write(entries("a"))
    await place.aclose()

    headers = peer.requests[0].headers
    assert ("Bearer hunter2", "blue") == (headers["authorization"], headers["x-scope-orgid"])
    assert ("application/x-ndjson", "llm_authmw", "identity") == tuple(
        headers[name] for name in ("content-type", "user-agent", "accept-encoding")
    )


async def test_larger_batches_come_in_several_requests(peer: Collector) -> None:
    given = entries(*map(str, range(60)), extra={"text": "x" * 4_000})
    place = transport(peer.url, max_body=65_536)

    await place.write(given)
    await place.aclose()

    assert 1 < len(peer.requests)
    assert 65_536 >= max(len(request.body) for request in peer.requests)
    assert [entry.record.id for entry in given] == ids(peer)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_a_status_about_what_was_sent_is_a_refusal_for_good(status: int, peer: Collector) -> None:
    peer.replies.append(Reply(status, b'{"error":"ada hunter2"}'))

    error = await refused(transport(peer.url), entries("a"))

    assert error.permanent
    assert f"answered with status {status}" == str(error)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503, 504, 599])
async def test_any_other_status_is_a_failure_for_now_and_the_batch_comes_again_with_the_same_key(status: int, peer: Collector) -> None:
    peer.replies.append(Reply(status, b"ada hunter2"))
    place, given = transport(peer.url), entries("a", "b")

    assert not (await refused(place, given)).permanent
    await place.write(given)
    await place.aclose()

    first, second = peer.requests
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_batches_of_other_records_have_other_keys(peer: Collector) -> None:
    place, chain = transport(peer.url), Chain()

    for given in (entries("a", chain=chain), entries("a", chain=chain), entries("a", "a", chain=chain)):
        await place.write(given)
    await place.aclose()

    keys = {request.headers["idempotency-key"] for request in peer.requests}
    assert 3 == len(keys)
    # A string of structured fields (RFC 9651 §3.3.3).
    assert all(key[0] == key[-1] == '"' and key[1:-1].isalnum() for key in keys)


async def test_what_was_taken_before_a_failure_is_not_sent_again(peer: Collector) -> None:
    given = entries("a", "b", "c", "d", extra={f"text{number}": "x" * 4_000 for number in range(9)})
    place = transport(peer.url, max_body=80_000)
    peer.replies.extend([Reply(), Reply(500)])

    await refused(place, given)
    assert ["a", "b", "c", "d"] == ids(peer)
    await place.write(given)
    await place.aclose()

    assert ["a", "b", "c", "d", "c", "d"] == ids(peer)


async def test_after_a_refusal_entries_that_are_given_one_by_one_come_once_each(peer: Collector) -> None:
    given = entries("a", "b", "c", extra={f"text{number}": "x" * 4_000 for number in range(9)})
    place = transport(peer.url, max_body=65_536)
    peer.replies.extend([Reply(), Reply(413)])

    assert (await refused(place, given)).permanent
    for one in given:
        await place.write([one])
    await place.aclose()

    assert ["a", "b", "b", "c"] == ids(peer)


async def test_an_entry_that_was_taken_may_be_sent_again_by_whoever_wants_it_to(peer: Collector) -> None:
    place, given = transport(peer.url), entries("a")

    await place.write(given)
    await place.write(given)
    await place.aclose()

    assert ["a", "a"] == ids(peer)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "seconds"), [("30", 30.0), ("date", 30.0), ("999999999999", MAX_HOLD), ("0", 0.0), ("-5", 0.0), ("soon", 0.0)]
)
async def test_a_collector_that_asks_for_time_is_left_alone_for_that_long(status: int, said: str, seconds: float, peer: Collector) -> None:
    clock = ManualClock()
    place, given = transport(peer.url, clock=clock), entries("a")
    header = format_datetime(datetime.fromtimestamp(clock.now() + 30, UTC), usegmt=True) if said == "date" else said
    peer.replies.append(Reply(status, headers={"retry-after": header}))

    await refused(place, given)
    if seconds:
        clock.advance(seconds - 0.5)
        assert "has asked to be left alone" in str(await refused(place, given))
        assert 1 == len(peer.requests)
        clock.advance(0.5)
    await place.write(given)
    await place.aclose()

    assert ["a", "a"] == ids(peer)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int, peer: Collector) -> None:
    with collector() as other:
        peer.replies.append(Reply(status, headers={"location": f"{other.url}/"}))

        error = await refused(transport(peer.url, headers={"authorization": "hunter2"}), entries("a"))

        assert "redirect" in str(error)
        assert not error.permanent
        assert [] == other.requests


async def never_ends(stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        await stream.send(b" " * 65_536)


async def hangs(stream: ByteStream) -> None:
    await anyio.sleep_forever()


async def drips(stream: ByteStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    while True:
        await stream.send(b" ")
        # How the server behaves: one byte now and then, so that no single read is ever late.
        await anyio.sleep(SHORT / 20)


async def hangs_up(stream: ByteStream) -> None:
    """Answer nothing."""


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [(hangs, "in time"), (drips, "in time"), (hangs_up, "broke off"), (answers(b"", status="700 What"), "answered with status 700")],
    ids=["hangs", "drips", "hangs up", "odd status"],
)
async def test_a_collector_that_does_not_answer_as_one_should_has_not_taken_anything(behaviour: Behaviour, problem: str) -> None:
    async with raw_server(behaviour) as server:
        error = await refused(transport(f"{server.url}/hunter2", timeout=SHORT), entries("a"))

    assert problem in str(error)
    assert not error.permanent


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    async with raw_server(never_ends) as server:
        calls = Calls(server.url, headers={}, tls=TLS, clock=SYSTEM_CLOCK)
        with anyio.fail_after(TIME_LIMIT):
            answer = await calls.post(b"", {})
        await calls.aclose()

    assert (200, MAX_ANSWER, False) == (answer.status, len(answer.body), answer.whole)
    assert f"Answer(status=200, body=<{MAX_ANSWER} bytes>)" == repr(answer)


async def test_nobody_at_the_port_is_a_failure_for_now() -> None:
    error = await refused(transport(f"http://127.0.0.1:{_free_port()}/hunter2"), entries("a"))

    assert "could not be reached" in str(error)
    assert not error.permanent


async def test_a_name_that_does_not_exist_is_a_failure_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "hunter2")

    monkeypatch.setattr(anyio, "connect_tcp", unknown)
    error = await refused(transport("https://logs.example.com/hunter2"), entries("a"))

    assert not error.permanent


async def test_certificates_are_verified_and_a_client_certificate_is_shown(tls_files: Any) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls_files.certificates.server.configure_cert(server)
    tls_files.certificates.authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    with collector(tls=server) as peer:
        for trusted in (TLS, client_context(ca_file=tls_files.stranger, cert_file=None, key_file=None)):
            assert "not trusted" in str(await refused(transport(peer.url, tls=trusted), entries("a")))
        nameless = transport(peer.url, tls=client_context(ca_file=tls_files.ca, cert_file=None, key_file=None))
        await refused(nameless, entries("a"))
        assert [] == peer.requests

        place = transport(peer.url, tls=client_context(ca_file=tls_files.ca, cert_file=tls_files.both, key_file=None))
        await place.write(entries("b"))
        await place.aclose()

        assert ["b"] == ids(peer)


async def test_no_log_shows_a_url_or_a_header(peer: Collector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = transport(f"{peer.url}/hunter2?key=hunter2", headers={"authorization": "hunter2"})

    await place.write(entries("c0ffee"))
    await place.aclose()

    assert "/hunter2" == peer.requests[0].path
    assert caplog.text
    assert "hunter2" not in caplog.text
    assert "c0ffee" not in caplog.text


async def test_the_child_of_a_fork_uses_a_connection_of_its_own(peer: Collector) -> None:
    place = transport(peer.url)
    await place.write(entries("a"))
    (inherited,) = place._collector._transports.values()

    place.forked()
    await place.write(entries("b"))

    assert inherited not in place._collector._transports.values()
    await place.aclose()
    await inherited.aclose()
    assert ["a", "b"] == ids(peer)


async def test_no_proxy_of_the_environment_gets_what_is_for_this_machine(peer: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        place = transport(peer.url)

        await place.write(entries("a"))
        await place.aclose()

        assert (["a"], []) == (ids(peer), proxy.requests)


async def test_the_sink_sends_what_is_put_in_either_format(peer: Collector) -> None:
    for format_ in ("json", "ocsf"):
        sink = HTTPSink(peer.url, **cast("Any", {"format": format_}))
        await sink.start()
        sink.put(make_record(id="00c0ffee00c0ffee"))
        await sink.aclose()

    said = [record.get("id") or record.get("metadata", {}).get("correlation_uid") for record in peer.records]
    assert 2 == said.count("00c0ffee00c0ffee")
