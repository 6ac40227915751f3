"""rsyslog, as Debian ships it, reads what `SyslogSink` sends: over TCP and TLS, in whole and in parts, and nothing is a second record."""

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw import SyslogSink
from llm_authmw.errors import SinkError
from llm_authmw.sinks.frames import SyslogFormat
from llm_authmw.sinks.syslog import SyslogTransport
from llm_authmw.sinks.tls import client_context
from llm_authmw.testing.places import make_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.parts import joined
from llm_authmw.trail.record import Person, Record
from llm_authmw.trail.verification import verify
from tests.peers.certificates import Certificates
from tests.peers.rsyslog import Rsyslog, rsyslog

pytestmark = pytest.mark.anyio

FORGED = '\n<13>1 2026-01-01T00:00:00Z gw1 llm_authmw 1 request - {"kind":"request","outcome":"allowed","forged":true}\n'
FRAMED = '\x00 \r\n60 <13>1 - - - - - - {"kind":"request","forged":true}'
COLOURED = "\x1b[31m\x1b]0;title\x07\u202eevil\u2066"


@pytest.fixture
def tcp() -> Iterator[Rsyslog]:
    with rsyslog() as running:
        yield running


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> dict[str, Any]:
    """The options of TLS, as an operator gives them."""
    certificates.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificates.client("gateway").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    return {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "client.pem"}


def transport(port: int, files: dict[str, Any] | None = None) -> SyslogTransport:
    tls = None if files is None else client_context(**files, key_file=None)
    return SyslogTransport("127.0.0.1", port, frames=SyslogFormat(), tls=tls, server_hostname=None)


async def received(peer: Rsyslog, count: int) -> list[dict[str, Any]]:
    messages = await anyio.to_thread.run_sync(peer.received, count)
    assert count == len(messages)
    return messages


def lines(messages: list[dict[str, Any]]) -> list[bytes]:
    return [message["message"].encode() for message in messages]


async def test_each_record_is_one_message_whose_header_is_understood(tcp: Rsyslog) -> None:
    place, chain = transport(tcp.port), Chain()
    moment = dt.datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=dt.UTC)
    given = [
        chain.link(make_record(outcome=outcome, time=int(moment.timestamp()) * 1_000_000 + 123_456))
        for outcome in ("allowed", "denied", "failed")
    ]

    await place.write(given)
    await place.aclose()

    messages = await received(tcp, 3)
    assert [entry.line for entry in given] == lines(messages)
    assert ["86", "84", "83"] == [message["priority"] for message in messages]
    header = {name: messages[0][name] for name in ("version", "time", "app", "process", "id", "data")}
    expected = {
        "version": "1",
        "time": "2026-11-21T12:00:00.123456Z",
        "app": "llm_authmw",
        "process": str(os.getpid()),
        "id": "request",
        "data": "-",
    }
    assert expected == header


@pytest.mark.parametrize("client_certificate", [False, True])
async def test_over_tls_the_same_comes(client_certificate: bool, certificates: Certificates, files: dict[str, Any]) -> None:
    given = Chain().link_all([make_record(id=str(number)) for number in range(200)])
    with rsyslog(certificates=certificates, client_certificate=client_certificate) as peer:
        place = transport(peer.port, files)
        await place.write(given[:100])
        await place.write(given[100:])
        await place.aclose()

        assert [entry.line for entry in given] == lines(await received(peer, len(given)))


async def test_a_receiver_over_tls_whose_authority_is_unknown_gets_nothing(
    certificates: Certificates, files: dict[str, Any], tmp_path: Path
) -> None:
    certificates.stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    with rsyslog(certificates=certificates) as peer:
        with pytest.raises(SinkError, match="not trusted"):
            await transport(peer.port, files | {"ca_file": tmp_path / "stranger.pem"}).write(Chain().link_all([make_record()]))
        place = transport(peer.port, files)
        given = Chain().link_all([make_record()])
        await place.write(given)
        await place.aclose()

        assert [entry.line for entry in given] == lines(await received(peer, len(given)))


def hostile(text: str) -> Record:
    """A record that has it in every field that somebody else fills in."""
    return make_record(
        verb=text, path=text, operation=text, models=(text,), served=text, tools=(text,), reason=text, extra={text: text},
        person=Person(user=text, email=text, address=text, end_user=text, changes={text: [text, text]}),
    )  # fmt: skip


@pytest.mark.parametrize("format_", ["json", "ocsf"])
@pytest.mark.parametrize(
    "text", [FORGED, FRAMED, COLOURED, FORGED * 200, "\\" * 3_000 + '"' * 3_000], ids=["lines", "frames", "terminal", "long", "quotes"]
)
async def test_no_text_in_a_record_begins_another_one(text: str, format_: Any, tcp: Rsyslog) -> None:
    place, chain = transport(tcp.port), Chain(format=format_)
    given = [chain.link(hostile(text)), chain.link(make_record())]
    count = sum(len(list(SyslogFormat().frames(entry))) for entry in given)

    await place.write(given)
    await place.aclose()

    messages = await received(tcp, count)
    assert {"request"} == {message["id"] for message in messages}
    assert {"86"} == {message["priority"] for message in messages}
    assert [entry.line for entry in given] == list(joined(lines(messages)))
    assert all(line.isascii() and line.decode().isprintable() for line in lines(messages))
    assert not any("forged" in json.loads(line) for line in lines(messages))


async def test_a_megabyte_in_every_field_arrives_whole_in_parts_that_are_json_and_verifies(tcp: Rsyslog) -> None:
    place = transport(tcp.port)
    given = Chain().link_all([hostile("é\n" * 500_000), make_record()])
    parts = [list(SyslogFormat().frames(entry)) for entry in given]
    assert 1 < max(map(len, parts))

    await place.write(given)
    await place.aclose()

    messages = await received(tcp, sum(map(len, parts)))
    assert all(json.loads(line) for line in lines(messages))
    whole = list(joined(lines(messages)))
    assert [entry.line for entry in given] == whole
    # Its end is missing, since the chain goes on; nothing is edited, cut or gone.
    assert {"open", "unsigned"} >= {finding.kind for finding in verify(whole).findings}


async def test_after_a_restart_of_the_receiver_what_comes_next_arrives() -> None:
    chain = Chain()
    first, second = ([chain.link(make_record(id=one))] for one in "ab")
    with rsyslog() as peer:
        place = transport(peer.port)
        await place.write(first)
        assert [first[0].line] == lines(await received(peer, 1))
        port = peer.port
    with pytest.raises(SinkError):
        await place.write(second)
    with rsyslog(port=port) as peer:
        await place.write(second)
        await place.aclose()

        assert [second[0].line] == lines(await received(peer, 1))


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_is_put_into_the_sink_arrives_with_the_whole_chain(
    encrypted: bool, certificates: Certificates, files: dict[str, Any]
) -> None:
    with rsyslog(certificates=certificates if encrypted else None, client_certificate=encrypted) as peer:
        options: dict[str, Any] = files if encrypted else {}
        sink = SyslogSink(f"{'tls' if encrypted else 'tcp'}://127.0.0.1:{peer.port}", **options)
        await sink.start()
        for number in range(100):
            sink.put(make_record(id=str(number)))
        await sink.aclose()

        messages = await received(peer, 102)

    assert [str(number) for number in range(100)] == [one["id"] for one in map(json.loads, lines(messages)) if one["kind"] == "request"]
    assert ["unsigned"] == [finding.kind for finding in verify(lines(messages)).findings] or not verify(lines(messages)).findings
