"""nginx in front: whom it logs in, and whose certificate it has seen, is known to the app; and nobody else is, whatever he writes."""

import itertools
import socket
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from llm_authmw import Assurance
from llm_authmw.testing.servers import RunningServer, ServerName
from tests.peers.certificates import Certificates
from tests.peers.nginx import CERTIFICATE_HEADERS, LOGIN_HEADERS, FrontProxy
from tests.peers.sockets import SocketServer

SECRET = "fV3-mQ8_rT2xLz6KpY9wNc4HsJd7Gb1E"
PROOF = {"X-Proxy-Proof": SECRET}
ENVIRONMENT = {"EDGE_SECRET": SECRET}
ADA = {"cookie": "session=ada"}

StartNginx = Callable[..., FrontProxy]
StartServer = Callable[..., RunningServer]
StartOnSocket = Callable[..., SocketServer]
MakeClient = Callable[..., httpx.Client]
Lines = list[tuple[str, str]]

CLAIMED = {"user": "root", "email": "root@example.com", "groups": "admins", "preferred-username": "root"}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: f"x-forwarded-{name}",
    "in capitals": lambda name: f"X-FORWARDED-{name.upper()}",
    "with a bar": lambda name: f"x_forwarded_{name.replace('-', '_')}",
    "with bars and dashes": lambda name: f"x-forwarded_{name}",
    "with dots": lambda name: f"x.forwarded.{name.replace('-', '.')}",
    "by another proxy": lambda name: f"x-auth-request-{name}",
}
each_spelling = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


def claims(spelling: Callable[[str], str]) -> Lines:
    return [(spelling(name), value) for name, value in CLAIMED.items()]


def fold(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def seen(answer: httpx.Response, prefix: str) -> Lines:
    """Return the headers that have come to the app, and whose names, however spelled, begin so."""
    sent: list[tuple[str, str]] = [(name, value) for name, value in answer.json()["headers"]]
    return [(name, value) for name, value in sent if fold(name).startswith(prefix)]


def denied(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.headers.get("x-authmw-reason")


def ada(answer: httpx.Response) -> None:
    """Assert that the app knows ada, by what the login service says of her."""
    assert 200 == answer.status_code, answer.text
    told = answer.json()
    assert ("ada", "ada@example.com", ["ml-platform", "research"]) == (told["user"], told["email"], told["groups"])
    assert ("header", Assurance.PEER_TRUSTED) == (told["method"], told["assurance"])


@pytest.fixture(scope="module")
def app(start_server: StartServer) -> RunningServer:
    # As people start it: uvicorn rewrites the address of the peer for whoever speaks from 127.0.0.1, which is everybody here.
    return start_server("edges:by_secret", env=ENVIRONMENT)


@pytest.fixture(scope="module")
def proxy(start_nginx: StartNginx, app: RunningServer, login_service: RunningServer) -> FrontProxy:
    return start_nginx(app.url, login=login_service.url, sets={**LOGIN_HEADERS, **PROOF})


@pytest.fixture(scope="module")
def app_on_socket(start_on_socket: StartOnSocket) -> SocketServer:
    return start_on_socket("edges:by_socket", env=ENVIRONMENT)


@pytest.fixture(scope="module")
def proxy_to_socket(start_nginx: StartNginx, app_on_socket: SocketServer, login_service: RunningServer) -> FrontProxy:
    return start_nginx(app_on_socket.upstream, login=login_service.url, sets=LOGIN_HEADERS)


@pytest.fixture(params=["proxy", "proxy_to_socket"])
def front(request: pytest.FixtureRequest) -> FrontProxy:
    started: FrontProxy = request.getfixturevalue(request.param)
    return started


# Straight to the server


@each_spelling
def test_whoever_goes_past_the_proxy_is_nobody(app: RunningServer, make_client: MakeClient, spelling: Callable[[str], str]) -> None:
    another = fold(spelling("user")) == "x-forwarded-user" != spelling("user").lower()
    with make_client(base_url=app.url) as client:
        expected = (400, "identity_header_alias") if another else (401, "missing_credential")
        assert expected == denied(client.get("/", headers=claims(spelling)))
        for guess in ("", "guess", SECRET[:-1], SECRET.lower()):
            answer = client.get("/", headers=[*claims(SPELLINGS["as it is"]), ("x-proxy-proof", guess)])
            assert (401, "credential_not_accepted") == denied(answer)


@pytest.mark.parametrize("server", ["uvicorn-h11", "uvicorn-httptools", "hypercorn", "granian"])
def test_where_nobody_is_required_a_strangers_claims_do_not_reach_the_app(
    start_server: StartServer, make_client: MakeClient, server: ServerName
) -> None:
    running = start_server("edges:by_secret_or_nobody", server=server, env=ENVIRONMENT)
    with make_client(base_url=running.url) as client:
        for spelled in (SPELLINGS["as it is"], SPELLINGS["in capitals"]):
            answer = client.get("/", headers=claims(spelled))
            assert (200, None, "anonymous", []) == (
                answer.status_code,
                answer.json()["user"],
                answer.json()["method"],
                seen(answer, "x-forwarded-"),
            )
        # And the same lines with the proof are somebody, so that it is the proof that they lacked.
        answer = client.get("/", headers=[*claims(SPELLINGS["as it is"]), ("x-proxy-proof", SECRET)])
        assert ("root", []) == (answer.json()["user"], seen(answer, "x-proxy-proof"))


@pytest.fixture(scope="module")
def app_on_tcp(start_server: StartServer) -> RunningServer:
    """The app that trusts a UNIX socket, on another one, and on a server that believes what it is told about addresses."""
    return start_server("edges:by_socket", env=ENVIRONMENT, options=["--forwarded-allow-ips", "*"])


@pytest.mark.parametrize("forwarded", [None, "", "unix:", "127.0.0.1", "unix:/run/app.sock, 127.0.0.1"])
def test_a_connection_over_tcp_is_no_socket_whatever_it_says_of_itself(
    app_on_tcp: RunningServer, make_client: MakeClient, forwarded: str | None
) -> None:
    lines = [] if forwarded is None else [("x-forwarded-for", forwarded), ("host", "/run/app.sock")]
    with make_client(base_url=app_on_tcp.url) as client:
        assert (401, "missing_credential") == denied(client.get("/", headers=[*claims(SPELLINGS["as it is"]), *lines]))


# Through nginx


def test_who_is_not_logged_in_does_not_reach_the_app(front: FrontProxy, make_client: MakeClient) -> None:
    with make_client(base_url=front.url) as client:
        for headers in ({}, {"cookie": "session=eve"}, {"x-forwarded-user": "ada"}, {"x-auth-request-user": "ada"}):
            answer = client.get("/", headers=headers)
            # nginx itself says so, and not the layer.
            assert (401, None) == denied(answer)


def test_who_is_logged_in_is_known_to_the_app(front: FrontProxy, make_client: MakeClient) -> None:
    with make_client(base_url=front.url) as client:
        answer = client.get("/", headers=ADA)
        ada(answer)
        assert [] == seen(answer, "x-proxy-proof")
        bob = client.get("/", headers={"cookie": "session=bob"}).json()
    assert ("bob", "bob@example.com", []) == (bob["user"], bob["email"], bob["groups"])


@each_spelling
def test_what_a_client_says_of_itself_never_counts(front: FrontProxy, make_client: MakeClient, spelling: Callable[[str], str]) -> None:
    with make_client(base_url=front.url) as client:
        ada(client.get("/", headers=[*ADA.items(), *claims(spelling)]))
        ada(client.get("/", headers=[*ADA.items(), *claims(spelling), *claims(spelling), ("x-proxy-proof", "guess")]))
        # nginx sends no header for the groups that bob does not have: nor does the client's take their place.
        bob = client.get("/", headers=[("cookie", "session=bob"), *claims(spelling)]).json()
    assert ("bob", "bob@example.com", []) == (bob["user"], bob["email"], bob["groups"])


@pytest.mark.parametrize("listed", ["x-forwarded-user", "X-Forwarded-User, X-Proxy-Proof", "close, x-forwarded-groups"])
def test_a_client_cannot_have_nginx_drop_what_it_sets(proxy: FrontProxy, listed: str) -> None:
    # By hand, since no client sends this (CVE-2022-31813 is what became of it elsewhere).
    head = f"GET / HTTP/1.1\r\nhost: x\r\ncookie: session=ada\r\nconnection: {listed}\r\nx-forwarded-user: root\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as peer:
        peer.sendall(head.encode())
        answer = b""
        while b'"headers"' not in answer:
            piece = peer.recv(65536)
            assert piece, answer
            answer += piece
    assert b'"user":"ada"' in answer
    assert b'"groups":["ml-platform","research"]' in answer


# Client certificates


@pytest.fixture(scope="module")
def by_certificate(start_server: StartServer, certificates: Certificates) -> Callable[[str], RunningServer]:
    authority = certificates.authority.cert_pem.bytes().decode()
    started: dict[str, RunningServer] = {}

    def start(app: str) -> RunningServer:
        if app not in started:
            started[app] = start_server(f"edges:{app}", env={**ENVIRONMENT, "EDGE_AUTHORITY": authority})
        return started[app]

    return start


APPS = ["by_certificate", "by_client_cert"]
each_form = pytest.mark.parametrize("app_name", APPS, ids=["nginx's own form", "RFC 9440"])


def in_header(app_name: str, certificate: x509.Certificate) -> tuple[str, str]:
    if app_name == "by_certificate":
        return "x-ssl-client-cert", quote(certificate.public_bytes(Encoding.PEM).decode(), safe="")
    return "client-cert", f":{b64encode(certificate.public_bytes(Encoding.DER)).decode()}:"


def leaf(issued: Any) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())


@each_form
def test_whoever_shows_nginx_a_good_certificate_is_known_by_it(
    start_nginx: StartNginx,
    by_certificate: Callable[[str], RunningServer],
    certificates: Certificates,
    make_client: MakeClient,
    app_name: str,
) -> None:
    shown = certificates.client("alice")
    sets = {**CERTIFICATE_HEADERS, **PROOF}
    proxy = start_nginx(by_certificate(app_name).url, certificates=certificates, client_certificates="on", sets=sets)
    # Of somebody else, and public: whoever has it has not its key.
    stolen = in_header(app_name, leaf(certificates.client("root")))
    with make_client(base_url=proxy.url, verify=certificates.context(shown)) as client:
        for headers in ([], [stolen], [stolen, stolen], [("X-Proxy-Proof", "guess")]):
            answer = client.get("/", headers=headers)
            assert 200 == answer.status_code, answer.text
            told = answer.json()
            assert ("alice@example.com", "client_cert", Assurance.PEER_TRUSTED) == (told["user"], told["method"], told["assurance"])
            assert [] == seen(answer, "x-proxy-proof")
    for refused in (None, certificates.client("alice", authority=certificates.stranger), certificates.client("alice", expired=True)):
        with make_client(base_url=proxy.url, verify=certificates.context(refused)) as client:
            # By nginx itself.
            assert (400, None) == denied(client.get("/"))


@each_form
def test_where_nginx_only_asks_for_a_certificate_a_client_without_one_is_nobody(
    start_nginx: StartNginx,
    by_certificate: Callable[[str], RunningServer],
    certificates: Certificates,
    make_client: MakeClient,
    app_name: str,
) -> None:
    sets = {**CERTIFICATE_HEADERS, **PROOF}
    proxy = start_nginx(by_certificate(app_name).url, certificates=certificates, client_certificates="optional", sets=sets)
    stolen = in_header(app_name, leaf(certificates.client("root")))
    with make_client(base_url=proxy.url, verify=certificates.context()) as client:
        for headers in ([], [stolen], [(stolen[0].upper(), stolen[1])], [(stolen[0].replace("-", "_"), stolen[1])]):
            assert (401, "missing_credential") == denied(client.get("/", headers=headers))


@each_form
def test_a_certificate_in_a_header_is_nobodys_without_the_proxys_word_and_judged_with_it(
    by_certificate: Callable[[str], RunningServer], certificates: Certificates, make_client: MakeClient, app_name: str
) -> None:
    good, stranger, expired = (
        in_header(app_name, leaf(issued))
        for issued in (
            certificates.client("alice"),
            certificates.client("alice", authority=certificates.stranger),
            certificates.client("alice", expired=True),
        )
    )
    proof = ("x-proxy-proof", SECRET)
    with make_client(base_url=by_certificate(app_name).url) as client:
        assert (401, "missing_credential") == denied(client.get("/", headers=[good]))
        assert (401, "credential_not_accepted") == denied(client.get("/", headers=[good, ("x-proxy-proof", "guess")]))
        for alias in (good[0].replace("-", "_"), good[0].replace("-", "."), good[0].replace("-", "_", 1).upper()):
            if alias.lower() != good[0]:
                assert (400, "identity_header_alias") == denied(client.get("/", headers=[(alias, good[1]), proof]))
        # As from an nginx that was told to pass on certificates that it could not verify.
        assert (401, "certificate_not_accepted") == denied(client.get("/", headers=[stranger, proof]))
        assert (401, "certificate_expired") == denied(client.get("/", headers=[expired, proof]))
        assert (400, "identity_header_repeated") == denied(client.get("/", headers=[good, good, proof]))
        for broken, comma in itertools.product([good[1][:-100], "x" * 100, "%%%", ":AAAA:"], ["", ", " + good[1]]):
            assert (400, "certificate_malformed") == denied(client.get("/", headers=[(good[0], broken + comma), proof]))
        assert "alice@example.com" == client.get("/", headers=[good, proof]).json()["user"]
