import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks.frames import SyslogFormat
from llm_authmw.sinks.syslog import SyslogSink, SyslogTransport
from llm_authmw.sinks.tls import client_context
from llm_authmw.testing.places import make_record
from llm_authmw.testing.servers import _free_port
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.entry import Entry

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
TIME_LIMIT = 10.0
SHORT = 0.1
"""A time limit that a test waits for in full."""


class Receiver:
    """A receiver in this process: what came on each connection, and whether it was hung up in order."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.came: list[bytearray] = []
        self.in_order: list[bool] = []
        self.streams: list[ByteStream] = []
        self._changed = anyio.Event()

    @property
    def connections(self) -> list[bytes]:
        return [bytes(came) for came in self.came]

    async def serve(self, stream: ByteStream) -> None:
        came = bytearray()
        self.came.append(came)
        self.streams.append(stream)
        in_order = False
        try:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                try:
                    while True:
                        self._tell()
                        came += await stream.receive()
                except anyio.EndOfStream:
                    in_order = True
                    with suppress(anyio.BrokenResourceError):
                        await stream.aclose()
        finally:
            await anyio.aclose_forcefully(stream)
        self.in_order.append(in_order)
        self._tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(TIME_LIMIT):
            while not condition():
                await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@asynccontextmanager
async def receiver(tls: ssl.SSLContext | None = None, *, port: int = 0) -> AsyncGenerator[Receiver]:
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=port, reuse_port=False)
    running = Receiver(listener.extra_attributes[SocketAttribute.local_port]())
    serving = listener if tls is None else TLSListener(listener, tls, standard_compatible=True)
    async with serving, anyio.create_task_group() as tasks:
        tasks.start_soon(serving.serve, running.serve)
        yield running
        tasks.cancel_scope.cancel()


def server_tls(files: Any, *, client_certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files.certificates.server.configure_cert(context)
    if client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        files.certificates.authority.configure_trust(context)
    return context


def transport(port: int, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None, timeout: float = 4.0) -> SyslogTransport:
    return SyslogTransport(HOST, port, frames=SyslogFormat(), tls=tls, server_hostname=server_hostname, timeout=timeout)


def entries(*ids: str, chain: Chain | None = None) -> list[Entry]:
    chain = chain or Chain()
    return [chain.link(make_record(id=one)) for one in ids]


def frames(of: list[Entry]) -> bytes:
    return b"".join(frame for entry in of for frame in SyslogFormat().frames(entry))


async def refused(place: SyslogTransport, given: list[Entry]) -> SinkError:
    with anyio.fail_after(TIME_LIMIT), pytest.raises(SinkError) as caught:
        await place.write(given)
    # The next write begins anew, on a connection on which nothing half is under way.
    assert not place._connections
    assert not caught.value.permanent
    assert "c0ffee" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        *("", "host:514", "udp://host:514", "https://host", "tls://", "tls://:6514", "tcp://host", "tls://host:port", "tls://host:99999"),
        *(
            "tls://user:hunter2@host:6514",
            "tls://host:6514/hunter2",
            "tls://host:6514?x=hunter2",
            "tls://host#hunter2",
            "TLS://host",
            None,
            6514,
        ),
        "tls://[::1",
    ],
)
def test_a_url_that_is_none_of_a_receiver_is_a_configuration_error_that_does_not_quote_it(url: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SyslogSink(url)

    assert "url" == caught.value.option
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["logs.example.com", "10.0.0.1", "[2001:db8::1]", "0.0.0.0"])
def test_an_unencrypted_way_to_another_machine_has_to_be_asked_for(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SyslogSink(f"tcp://{host}:514")

    assert "plaintext" == caught.value.option
    assert f"syslog tcp://{host.strip('[]')}:514" == SyslogSink(f"tcp://{host}:514", plaintext=True).name


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_an_unencrypted_way_on_this_machine_needs_no_leave(host: str) -> None:
    assert SyslogSink(f"tcp://{host}:514").name.endswith(":514")


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file", "server_hostname"])
def test_options_of_tls_are_refused_where_they_would_be_ignored(option: str, tls_files: Any) -> None:
    with pytest.raises(ConfigurationError):
        SyslogSink("tcp://localhost:514", **cast("Any", {option: str(tls_files.both)}))


def test_leave_to_send_unencrypted_is_refused_where_it_would_be_ignored() -> None:
    with pytest.raises(ConfigurationError) as caught:
        SyslogSink("tls://localhost", plaintext=True)

    assert "plaintext" == caught.value.option


def test_files_that_hold_no_certificates_or_an_encrypted_key_are_configuration_errors(tls_files: Any, tmp_path: Any) -> None:
    (tmp_path / "empty").write_bytes(b"")
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    (tmp_path / "encrypted").write_bytes(tls_files.client.read_bytes() + key)
    for options, option in [
        ({"ca_file": tmp_path / "missing"}, "ca_file"),
        ({"ca_file": tmp_path / "empty"}, "ca_file"),
        ({"cert_file": tmp_path / "missing"}, "cert_file"),
        ({"cert_file": tls_files.client}, "cert_file"),
        ({"cert_file": tmp_path / "encrypted"}, "cert_file"),
        ({"key_file": tls_files.client_key}, "key_file"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            SyslogSink("tls://localhost", **cast("Any", options))
        assert option == caught.value.option


def test_the_port_of_tls_is_that_of_rfc_5425_and_the_sink_is_named_after_its_place() -> None:
    sink = SyslogSink("tls://logs.example.com")

    assert "syslog tls://logs.example.com:6514" == sink.name
    assert not sink.durable


async def test_entries_come_as_frames_one_after_another_and_the_end_is_in_order() -> None:
    async with receiver() as peer:
        place, chain = transport(peer.port), Chain()
        first, second = entries("a", "b", chain=chain), entries("c", chain=chain)

        await place.write(first)
        await place.write(second)
        await place.aclose()

        # Hanging up waits until the other side has read it all and hung up, too.
        assert [frames(first) + frames(second)] == peer.connections
        assert [True] == peer.in_order


async def test_a_place_that_was_closed_connects_again() -> None:
    async with receiver() as peer:
        place = transport(peer.port)
        first, second = entries("a"), entries("b")

        await place.write(first)
        await place.aclose()
        await place.aclose()
        await place.write(second)
        await place.aclose()

        assert [frames(first), frames(second)] == peer.connections


async def test_a_receiver_that_has_hung_up_between_two_batches_is_noticed_before_anything_is_sent() -> None:
    async with receiver() as peer:
        place = transport(peer.port)
        first, second = entries("a"), entries("b")
        await place.write(first)
        await peer.until(lambda: frames(first) == peer.connections[0])

        await peer.streams[0].aclose()
        await place.write(second)
        await place.aclose()

        assert frames(second) == peer.connections[1]


async def test_a_receiver_that_resets_the_connection_is_noticed_and_the_entries_can_be_given_again() -> None:
    async with receiver() as peer:
        place = transport(peer.port)
        await place.write(entries("a"))
        await peer.until(lambda: bool(peer.connections[0]))
        connection: Any = peer.streams[0].extra(SocketAttribute.raw_socket)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await peer.streams[0].aclose()
        again = entries("b")
        await place.write(again)
        await place.aclose()

        assert frames(again) == peer.connections[1]


async def test_nobody_at_the_port_is_an_error_and_a_receiver_that_comes_later_gets_the_entries() -> None:
    port = _free_port()
    place, given = transport(port), entries("a")

    assert "could not be reached" in str(await refused(place, given))
    with pytest.raises(SinkError):
        await place.start()

    async with receiver(port=port) as peer:
        await place.start()
        await place.write(given)
        await place.aclose()
        assert [frames(given)] == peer.connections


async def test_a_receiver_that_takes_nothing_is_late_and_not_waited_for_longer() -> None:
    with socket.create_server((HOST, 0), backlog=1) as silent:
        place = transport(silent.getsockname()[1], timeout=SHORT)
        # More than the buffers of both sides hold.
        given = [entry for entry in entries(*"abc") for _ in range(10_000)]

        assert "in time" in str(await refused(place, given))


async def test_a_receiver_that_talks_without_end_is_hung_up_on() -> None:
    async def talk(stream: ByteStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b"x" * 65_536)

    listener = await anyio.create_tcp_listener(local_host=HOST)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        place = transport(listener.extra_attributes[SocketAttribute.local_port]())
        await place.start()
        (connection,) = place._connections.values()
        with anyio.fail_after(TIME_LIMIT):
            await connection._over.wait()

        with suppress(SinkError):
            await place.start()

        assert connection not in place._connections.values()
        await place.aclose()
        tasks.cancel_scope.cancel()


async def test_a_write_that_is_cancelled_leaves_no_connection_with_half_a_frame() -> None:
    with socket.create_server((HOST, 0), backlog=1) as silent:
        place = transport(silent.getsockname()[1])
        with anyio.move_on_after(SHORT) as scope:
            await place.write([entry for entry in entries(*"abc") for _ in range(10_000)])

        assert scope.cancelled_caught
        assert not place._connections


async def test_the_child_of_a_fork_uses_a_connection_of_its_own() -> None:
    async with receiver() as peer:
        place = transport(peer.port)
        parent, child = entries("a"), entries("b")
        await place.write(parent)
        (inherited,) = place._connections.values()

        place.forked()
        await place.write(child)
        await place.aclose()

        await peer.until(lambda: frames(child) in peer.connections)
        await inherited.drop()
        await peer.until(lambda: len(peer.in_order) == 2)
        assert [frames(parent), frames(child)] == peer.connections


async def test_over_tls_entries_come_to_a_receiver_with_a_trusted_certificate(tls_files: Any) -> None:
    async with receiver(server_tls(tls_files)) as peer:
        place = transport(peer.port, tls=client_context(ca_file=tls_files.ca, cert_file=None, key_file=None))
        given = entries("a", "b")

        await place.write(given[:1])
        await place.write(given[1:])
        await place.aclose()

        await peer.until(lambda: bool(peer.in_order))
        assert [frames(given)] == peer.connections
        # With a closing alert (RFC 5425 §4.4): without one, what came could have been cut off by anybody.
        assert [True] == peer.in_order


async def test_a_certificate_of_another_authority_or_name_is_not_trusted(tls_files: Any) -> None:
    async with receiver(server_tls(tls_files)) as peer:
        stranger = transport(peer.port, tls=client_context(ca_file=tls_files.stranger, cert_file=None, key_file=None))
        trusted = client_context(ca_file=tls_files.ca, cert_file=None, key_file=None)
        system = transport(peer.port, tls=client_context(ca_file=None, cert_file=None, key_file=None))
        other_name = transport(peer.port, tls=trusted, server_hostname="logs.example.com")

        for place in (stranger, system, other_name):
            assert "not trusted" in str(await refused(place, entries("a")))

        assert not any(peer.connections)
        named = transport(peer.port, tls=trusted, server_hostname="localhost")
        await named.write(entries("b"))
        await named.aclose()


@pytest.mark.parametrize("own_file", [False, True])
async def test_a_receiver_that_wants_a_client_certificate_gets_it(own_file: bool, tls_files: Any) -> None:
    files = (tls_files.client, tls_files.client_key) if own_file else (tls_files.both, None)
    async with receiver(server_tls(tls_files, client_certificate=True)) as peer:
        place = transport(peer.port, tls=client_context(ca_file=tls_files.ca, cert_file=files[0], key_file=files[1]))
        given = entries("a")

        await place.write(given)
        await place.aclose()

        await peer.until(lambda: bool(peer.in_order))
        assert [frames(given)] == peer.connections


async def test_plain_tcp_where_tls_is_spoken_is_no_place_for_records(tls_files: Any) -> None:
    async with receiver() as peer:
        place = transport(peer.port, tls=client_context(ca_file=tls_files.ca, cert_file=None, key_file=None), timeout=SHORT)

        await refused(place, entries("a"))

        assert b"c0ffee" not in peer.connections[0]


async def test_the_sink_sends_what_is_put_in_either_format() -> None:
    async with receiver() as peer:
        for format_ in ("json", "ocsf"):
            sink = SyslogSink(f"tcp://{HOST}:{peer.port}", **cast("Any", {"format": format_}))
            await sink.start()
            sink.put(make_record(id="00c0ffee00c0ffee"))
            await sink.aclose()

        native, ocsf = peer.connections
        assert b'"id":"00c0ffee00c0ffee"' in native
        assert b'"class_uid":6003' in ocsf
