"""Requests that no client library sends, written to the sockets of real servers byte by byte.

Either the server refuses such a request by itself, or the layer does: it is never a 500, and never reaches the app.
"""

import itertools
import re
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import pytest

from llm_authmw import CreatedKey
from llm_authmw.keys.format import mint_key
from llm_authmw.testing.servers import SERVERS, RunningServer, ServerName

LIMIT = 10.0
BEARER = b"authorization: Bearer "
UPGRADE = (b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-version: 13", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
PROTOCOL = b"sec-websocket-protocol: openai-insecure-api-key."

GOOD = b"<a good key>"
NARROW = b"<a key for GET /who alone>"
UNKNOWN = mint_key().text.encode()


class Answer(NamedTuple):
    status: int | None
    reason: str | None


class Case(NamedTuple):
    """A request, and how the layer refuses it; a server that `may` refuse it by itself answers as it likes."""

    request: bytes
    status: int
    reason: str
    may: bool = False


def request(*lines: bytes, method: bytes = b"GET", target: bytes = b"/who", host: bytes | None = b"host: x") -> bytes:
    hosts = [] if host is None else [host]
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", *hosts, *lines, b"", b""])


REFUSED = {
    "no key": Case(request(), 401, "missing_credential"),
    "http/1.0": Case(b"GET /who HTTP/1.0\r\n\r\n", 401, "missing_credential"),
    "http/0.9": Case(b"GET /who\r\n\r\n", 401, "missing_credential", may=True),
    "no http": Case(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 401, "missing_credential", may=True),
    # Bytes that a credential must not have.
    "utf-8": Case(request(BEARER + "é".encode()), 400, "malformed_credential"),
    "no text": Case(request(b"x-api-key: \xff\xfe"), 400, "malformed_credential"),
    "nul at the end": Case(request(BEARER + GOOD + b"\0"), 400, "malformed_credential", may=True),
    "nul within": Case(request(b"x-api-key: " + GOOD[:4] + b"\0" + GOOD), 400, "malformed_credential", may=True),
    "nul in the name": Case(request(b"x-api\0-key: " + GOOD), 401, "missing_credential", may=True),
    "tab after the scheme": Case(request(b"authorization: Bearer\t" + GOOD), 400, "malformed_credential"),
    "folded, unknown": Case(request(b"authorization: Bearer\r\n " + UNKNOWN), 401, "invalid_api_key", may=True),
    "folded, two": Case(request(BEARER + GOOD + b"\r\n " + UNKNOWN), 400, "malformed_credential", may=True),
    "bare carriage return": Case(request(BEARER + GOOD + b"\rx: y"), 400, "malformed_credential", may=True),
    "20 000 bytes": Case(request(BEARER + b"a" * 20_000), 400, "malformed_credential", may=True),
    "60 000 bytes": Case(request(b"x-api-key: " + b"a" * 60_000), 400, "malformed_credential", may=True),
    # Names that are not quite the right ones.
    "upper case, unknown": Case(request(b"AUTHORIZATION: bEARER " + UNKNOWN), 401, "invalid_api_key"),
    "underscores": Case(request(b"x_api_key: " + GOOD), 401, "missing_credential"),
    "blank before the colon": Case(request(b"authorization : Bearer " + GOOD), 401, "missing_credential", may=True),
    "no scheme": Case(request(b"authorization: " + GOOD), 401, "credential_not_accepted"),
    "another scheme": Case(request(b"authorization: Basic " + GOOD), 401, "credential_not_accepted"),
    "nothing": Case(request(b"authorization:"), 400, "malformed_credential"),
    "in the query": Case(request(target=b"/who?key=" + GOOD), 401, "missing_credential"),
    # Two of them, each of which would do.
    "repeated": Case(request(BEARER + GOOD, BEARER + GOOD), 400, "repeated_credential"),
    "repeated in another case": Case(request(BEARER + GOOD, b"Authorization: Bearer " + GOOD), 400, "repeated_credential"),
    "repeated and empty": Case(request(BEARER + GOOD, b"authorization:"), 400, "repeated_credential"),
    "joined by a comma": Case(request(BEARER + GOOD + b", Bearer " + GOOD), 400, "malformed_credential"),
    "two channels": Case(request(BEARER + GOOD, b"x-api-key: " + GOOD), 400, "ambiguous_credential"),
    "two channels in other cases": Case(request(b"AUTHORIZATION: Bearer " + GOOD, b"API-Key: " + GOOD), 400, "ambiguous_credential"),
    # Targets and methods.
    "absolute form": Case(request(target=b"http://x/who"), 401, "missing_credential"),
    "encoded slash": Case(request(target=b"/%2fwho"), 401, "missing_credential"),
    "encoded nul": Case(request(target=b"/who%00"), 401, "missing_credential"),
    "no slash": Case(request(target=b"who"), 401, "missing_credential", may=True),
    "not ascii": Case(request(target=b"/who\xff"), 401, "missing_credential", may=True),
    "asterisk": Case(request(method=b"OPTIONS", target=b"*"), 401, "missing_credential"),
    "lower-case method": Case(request(method=b"get"), 401, "missing_credential", may=True),
    "unknown method": Case(request(method=b"BREW"), 401, "missing_credential", may=True),
    "preflight": Case(request(b"origin: http://y", b"access-control-request-method: POST", method=b"OPTIONS"), 401, "missing_credential"),
    "no host": Case(request(host=None), 401, "missing_credential", may=True),
    "two hosts": Case(request(b"host: y"), 401, "missing_credential", may=True),
    "a path in the host": Case(request(host=b"host: x/who?"), 401, "missing_credential", may=True),
    "two lengths": Case(
        request(BEARER + UNKNOWN, b"content-length: 5", b"transfer-encoding: chunked", method=b"POST") + b"0\r\n\r\nGET /who HTTP/1.1\r\n",
        401,
        "invalid_api_key",
        may=True,
    ),
    # A key that may do one thing only, and ways to write another one that a router could read differently.
    "another route": Case(request(BEARER + NARROW, target=b"/stream/x"), 403, "route_not_allowed"),
    "another method": Case(request(BEARER + NARROW, method=b"DELETE"), 403, "route_not_allowed"),
    "up by dots": Case(request(BEARER + NARROW, target=b"/who/../stream/x"), 400, "ambiguous_path"),
    "up by encoded dots": Case(request(BEARER + NARROW, target=b"/who/%2e%2e/stream/x"), 400, "ambiguous_path"),
    "an encoded slash": Case(request(BEARER + NARROW, target=b"/stream%2fx"), 400, "ambiguous_path"),
    "two slashes": Case(request(BEARER + NARROW, target=b"//who"), 400, "ambiguous_path"),
    "a semicolon": Case(request(BEARER + NARROW, target=b"/who;x"), 400, "ambiguous_path"),
    "an encoded question mark": Case(request(BEARER + NARROW, target=b"/who%3f"), 400, "ambiguous_path"),
    # Sockets.
    "socket, no key": Case(request(*UPGRADE, target=b"/socket/x"), 401, "missing_credential"),
    "socket, no handshake": Case(request(*UPGRADE[:2], target=b"/socket/x"), 401, "missing_credential", may=True),
    "socket, nothing": Case(request(*UPGRADE, PROTOCOL, target=b"/socket/x"), 400, "malformed_credential"),
    "socket, repeated": Case(request(*UPGRADE, PROTOCOL + GOOD, PROTOCOL + GOOD, target=b"/socket/x"), 400, "repeated_credential"),
    "socket, a list of two": Case(
        request(*UPGRADE, PROTOCOL + GOOD + b", openai-insecure-api-key." + UNKNOWN, target=b"/socket/x"), 400, "repeated_credential"
    ),
    "socket, two channels": Case(
        request(*UPGRADE, PROTOCOL + GOOD, b"x-api-key: " + GOOD, target=b"/socket/x"), 400, "ambiguous_credential"
    ),
}

PASSED = {
    "upper case": request(b"AUTHORIZATION: bEARER " + GOOD),
    "two blanks": request(b"authorization: Bearer  " + GOOD),
    "blanks around": request(b"x-api-key:\t " + GOOD + b" \t "),
    "http/1.0": b"GET /who HTTP/1.0\r\n" + BEARER + GOOD + b"\r\n\r\n",
    "folded": request(b"authorization: Bearer\r\n " + GOOD),
    "absolute form": request(BEARER + GOOD, target=b"http://x/who"),
    "lower-case method": request(BEARER + GOOD, method=b"get"),
    "unknown method": request(BEARER + GOOD, method=b"BREW"),
    "no slash": request(BEARER + GOOD, target=b"who"),
    "no host": request(BEARER + GOOD, host=None),
    "encoded slash": request(BEARER + GOOD, target=b"/calls%2f..%2fwho"),
    "not utf-8": request(BEARER + GOOD, target=b"/%ff"),
    "its only route": request(BEARER + NARROW),
}


class Lab(NamedTuple):
    """One server, and how many requests have reached the app behind the layer."""

    server: RunningServer
    keys: dict[bytes, bytes]
    client: httpx.Client

    def calls(self) -> int:
        return int(self.client.get("/calls").text)

    def tell(self, written: bytes) -> Answer:
        for name, key in self.keys.items():
            written = written.replace(name, key)
        told = b""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=LIMIT) as peer:
            peer.sendall(written)
            while b"\r\n\r\n" not in told and (piece := peer.recv(65536)):
                told += piece
        status = re.match(rb"HTTP/1\.[01] (\d{3}) ", told)
        reason = re.search(rb"\r\nx-authmw-reason: (\w+)\r\n", told, re.IGNORECASE)
        return Answer(int(status[1]) if status else None, reason[1].decode() if reason else None)


@pytest.fixture(scope="module")
def started(
    start_server: Callable[..., RunningServer], make_client: Callable[..., httpx.Client], store_url: str, new_key: Callable[..., CreatedKey]
) -> Iterator[Callable[[ServerName], Lab]]:
    keys = {GOOD: str(new_key(store_url).key).encode(), NARROW: str(new_key(store_url, routes=["GET /who"]).key).encode()}
    labs: dict[ServerName, Lab] = {}

    def start(name: ServerName) -> Lab:
        if name not in labs:
            server = start_server("lab:app", server=name, env={"AUTHMW_STORE": store_url})
            client = make_client(base_url=server.url, headers={"x-api-key": keys[GOOD].decode()})
            labs[name] = Lab(server, keys, client)
        return labs[name]

    yield start
    for lab in labs.values():
        lab.client.close()
        lab.server.stop()
        assert "Traceback" not in lab.server.output


@pytest.fixture(params=[pytest.param(server, id=server) for server in SERVERS])
def lab(request: pytest.FixtureRequest, started: Callable[[ServerName], Lab]) -> Lab:
    return started(request.param)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in REFUSED.items()])
def test_a_request_that_must_not_pass_is_refused_and_the_app_is_not_called(lab: Lab, case: Case) -> None:
    before = lab.calls()
    answer = lab.tell(case.request)
    assert answer == (case.status, case.reason) or (case.may and answer in {(400, None), (431, None)})
    assert before == lab.calls()


@pytest.mark.parametrize("written", [pytest.param(written, id=name) for name, written in PASSED.items()])
def test_an_odd_request_with_a_good_key_is_for_server_and_app_to_judge(lab: Lab, written: bytes) -> None:
    before = lab.calls()
    answer = lab.tell(written)
    assert (answer in {(200, None), (404, None), (405, None)} and lab.calls() == before + 1) or answer == (400, None)


def test_every_header_that_is_one_byte_off_is_refused(lab: Lab) -> None:
    before = lab.calls()
    name = b"x-api-key"
    answers = {
        lab.tell(request(name[:place] + bytes([byte]) + name[place + 1 :] + b": " + GOOD))
        for place, byte in itertools.product((0, 1, 8), range(256))
        if bytes([byte]).lower() != name[place : place + 1]
    }
    assert {(401, "missing_credential"), (400, None)} >= answers
    assert before == lab.calls()
