"""Client certificates over real connections: uvicorn with either parser and each of its WebSocket libraries."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.exceptions
import websockets.sync.client

from llm_authmw.authn.client_cert import ClientCertMiddleware
from llm_authmw.certificates.rules import CertRule
from llm_authmw.testing.certificates import CertificateAuthority, IssuedCertificate
from llm_authmw.testing.witness import Witness

HOST = "127.0.0.1"
PARSERS = pytest.mark.parametrize("parser", ["H11TLSProtocol", "HttpToolsTLSProtocol"])

AUTHORITY = CertificateAuthority("Corp CA")
SERVER = AUTHORITY.issue(ip=[HOST])
ALICE = AUTHORITY.issue(dns=["alice.example"], uri=["spiffe://corp.example/people/alice"], common_name='alice, O=Evil"; CN=bob')
GUEST = AUTHORITY.issue(dns=["guest.example"])
EXPIRED = AUTHORITY.issue(dns=["alice.example"], not_after=1_700_000_001)
ROGUE = CertificateAuthority("Corp CA").issue(dns=["alice.example"])
RULES = [CertRule(spiffe="spiffe://corp.example/people/*", issuer=AUTHORITY.pem, user="alice")]


class Running:
    """A uvicorn in a thread of its own, and clients for it."""

    def __init__(self, port: int, app: Witness, authority: Path, folder: Path) -> None:
        self.address = f"{HOST}:{port}"
        self.app = app
        self._authority = authority
        self._folder = folder

    def context(self, issued: IssuedCertificate | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._authority)
        if issued is not None:
            file = self._folder / "client.pem"
            file.write_text(issued.pem + issued.key)
            context.load_cert_chain(file)
        return context

    def get(self, issued: IssuedCertificate | None) -> httpx.Response:
        with httpx.Client(verify=self.context(issued), trust_env=False, timeout=10) as client:
            return client.get(f"https://{self.address}/v1/models")

    def ask_by_websocket(self, issued: IssuedCertificate | None) -> str:
        with websockets.sync.client.connect(
            f"wss://{self.address}/v1/realtime", ssl=self.context(issued), proxy=None, open_timeout=10
        ) as socket:
            socket.send("who?")
            return str(socket.recv(timeout=10))


@pytest.fixture
def start(need: Callable[..., None], tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts a uvicorn whose HTTP protocol is one of ours, in front of a layer; ends it with the test."""
    need("uvicorn", "h11", "httptools", "websockets", "wsproto")
    import uvicorn  # noqa: PLC0415 - only where it is installed

    class Server(uvicorn.Server):
        """Says when it listens."""

        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            self.listens = threading.Event()
            self.port = 0

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            self.port = self.servers[0].sockets[0].getsockname()[1]
            self.listens.set()

    (tmp_path / "ca.pem").write_text(AUTHORITY.pem)
    (tmp_path / "server.pem").write_text(SERVER.pem + SERVER.key)
    running: list[tuple[Server, threading.Thread]] = []

    def start(parser: str, *, asked: ssl.VerifyMode = ssl.CERT_REQUIRED, tls: bool = True, **options: Any) -> Running:
        app = Witness()
        files: dict[str, Any] = {"ssl_certfile": tmp_path / "server.pem", "ssl_ca_certs": tmp_path / "ca.pem", "ssl_cert_reqs": asked}
        config = uvicorn.Config(
            ClientCertMiddleware(app, rules=RULES),
            host=HOST,
            port=0,
            http=f"llm_authmw.uvicorn:{parser}",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
            **{**(files if tls else {}), **options},
        )
        server = Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        running.append((server, thread))
        assert server.listens.wait(10)
        return Running(server.port, app, tmp_path / "ca.pem", tmp_path)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@PARSERS
def test_whoever_has_a_certificate_is_known_by_it(start: Callable[..., Running], parser: str) -> None:
    running = start(parser)
    response = running.get(ALICE)
    assert (200, {"subject": "alice", "method": "client_cert"}) == (response.status_code, response.json())
    tls = running.app.scopes[0]["extensions"]["tls"]
    assert [ALICE.der] == [ssl.PEM_cert_to_DER_cert(pem) for pem in tls["client_cert_chain"]]
    assert r"CN=alice\, O=Evil\"\; CN=bob" == tls["client_cert_name"]
    assert (None, None, 0x0304) == (tls["server_cert"], tls["client_cert_error"], tls["tls_version"])
    # RFC 8446 §B.4
    assert tls["cipher_suite"] in (0x1301, 0x1302, 0x1303)


@PARSERS
@pytest.mark.parametrize("library", ["websockets-sansio", "wsproto", "auto"])
def test_a_websocket_knows_its_client_whichever_library_speaks_it(start: Callable[..., Running], parser: str, library: str) -> None:
    running = start(parser, ws=library)
    assert "alice" == running.ask_by_websocket(ALICE)
    scope = running.app.scopes[0]
    assert ("websocket", ALICE.der) == (scope["type"], ssl.PEM_cert_to_DER_cert(scope["extensions"]["tls"]["client_cert_chain"][0]))
    assert "websocket.http.response" in scope["extensions"]
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        running.ask_by_websocket(GUEST)
    response = refused.value.response
    assert (401, "certificate_not_accepted") == (response.status_code, response.headers["x-authmw-reason"])
    assert 1 == len(running.app.scopes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*websockets.*")
def test_the_old_websocket_library_is_covered_too(start: Callable[..., Running]) -> None:
    assert "alice" == start("H11TLSProtocol", ws="websockets").ask_by_websocket(ALICE)


@PARSERS
@pytest.mark.parametrize("asked", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
@pytest.mark.parametrize("issued", [pytest.param(ROGUE, id="rogue"), pytest.param(EXPIRED, id="expired")])
def test_a_certificate_that_openssl_refuses_reaches_nobody(
    start: Callable[..., Running], parser: str, asked: ssl.VerifyMode, issued: IssuedCertificate
) -> None:
    running = start(parser, asked=asked)
    with pytest.raises(httpx.TransportError):
        running.get(issued)
    with pytest.raises((OSError, websockets.exceptions.WebSocketException)):
        running.ask_by_websocket(issued)
    assert [] == running.app.scopes
    assert 200 == running.get(ALICE).status_code


@PARSERS
def test_a_certificate_that_no_rule_accepts_is_refused(start: Callable[..., Running], parser: str) -> None:
    running = start(parser)
    response = running.get(GUEST)
    assert (401, "certificate_not_accepted") == (response.status_code, response.headers["x-authmw-reason"])
    assert [] == running.app.scopes


@PARSERS
def test_a_client_without_a_certificate_is_let_in_by_the_server_only_where_that_is_optional(
    start: Callable[..., Running], parser: str
) -> None:
    with pytest.raises(httpx.TransportError):
        start(parser).get(None)
    running = start(parser, asked=ssl.CERT_OPTIONAL)
    response = running.get(None)
    assert (401, "missing_credential") == (response.status_code, response.headers["x-authmw-reason"])
    assert [] == running.app.scopes


@PARSERS
def test_tls_1_2_is_told_as_what_it_is(start: Callable[..., Running], parser: str) -> None:
    running = start(parser)
    context = running.context(ALICE)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    httpx.get(f"https://{running.address}/", verify=context, trust_env=False)
    tls = running.app.scopes[0]["extensions"]["tls"]
    # RFC 5289 §3.2
    assert (0x0303, 0xC02B) == (tls["tls_version"], tls["cipher_suite"])


@PARSERS
def test_each_connection_has_a_certificate_of_its_own_and_keeps_it(start: Callable[..., Running], parser: str) -> None:
    running = start(parser)
    with (
        httpx.Client(verify=running.context(ALICE), trust_env=False, timeout=10) as alice,
        httpx.Client(verify=running.context(GUEST), trust_env=False, timeout=10) as guest,
    ):
        answers = [client.get(f"https://{running.address}/").status_code for client in (alice, guest, alice, guest)]
    assert [200, 401, 200, 401] == answers


@PARSERS
def test_without_tls_there_is_no_tls_extension(start: Callable[..., Running], parser: str) -> None:
    running = start(parser, tls=False)
    response = httpx.get(f"http://{running.address}/", trust_env=False, headers={"client-cert": ":AAAA:"})
    assert (401, "missing_credential") == (response.status_code, json.loads(response.text)["reason"])
    assert [] == running.app.scopes
