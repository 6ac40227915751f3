"""Receivers of records over HTTP: one that takes whatever comes, and a stand-in for Splunk's HTTP Event Collector.

The second is no Splunk: it answers as Splunk's documentation says that the collector does (its statuses, codes and texts, the order in
which it checks, what acknowledgement needs), for as much of it as our sink meets.
"""

import contextlib
import gzip
import json
import ssl
import threading
import urllib.parse
from collections import deque
from collections.abc import Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, TypeVar

_Kind = TypeVar("_Kind", bound="Collector")


class Received(NamedTuple):
    """A request that came.

    Attributes:
        path: The path of its URL.
        query: The query.
        headers: The header, names in lower case.
        raw: The body as it came.
        body: The body, decompressed.
    """

    path: str
    query: str
    headers: Mapping[str, str]
    raw: bytes
    body: bytes


class Reply(NamedTuple):
    """What is answered."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}


class Collector:
    """Takes whatever comes, unless it is told otherwise.

    Attributes:
        url: Where it is.
        requests: What came.
        replies: What the next requests are answered with; after them, 200.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.requests: Final[list[Received]] = []
        self.replies: Final[deque[Reply]] = deque()

    def answer(self, request: Received) -> Reply:
        """Answer a request; one at a time."""
        self.requests.append(request)
        return self.replies.popleft() if self.replies else Reply()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of all batches of lines that came."""
        return [json.loads(line) for request in self.requests for line in request.body.splitlines()]


class SplunkStandIn(Collector):
    """Answers as an HTTP Event Collector.

    Attributes:
        events: The envelopes that it has taken, of all requests.
        token: The token that it wants.
        indexes: The indexes that the token may write to.
        acknowledges: Whether indexer acknowledgement is enabled for the token.
        indexed: Acknowledgement ids of what is on disk.
        index_at_once: Whether what is taken comes there by itself.
        polls: How often it was asked for acknowledgements.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.events: Final[list[dict[str, Any]]] = []
        self.token: str = "6f0c9c5a-2d57-4c3e-9c1b-0d2f7d0e8a11"
        self.indexes: set[str] = {"main"}
        self.acknowledges: bool = False
        self.indexed: set[int] = set()
        self.index_at_once: bool = False
        self.polls: int = 0
        self._given: dict[str, int] = {}

    def answer(self, request: Received) -> Reply:
        """Answer a request; one at a time."""
        self.requests.append(request)
        if self.replies:
            return self.replies.popleft()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            return _says(401, 2, "Token is required")
        if scheme != "Splunk":
            return _says(401, 3, "Invalid authorization")
        if token != self.token:
            return _says(403, 4, "Invalid token")
        channel = urllib.parse.parse_qs(request.query).get("channel", [request.headers.get("x-splunk-request-channel", "")])[0]
        if request.path == "/services/collector/ack":
            return self._acks(request, channel)
        if request.path != "/services/collector/event":
            return Reply(404, b'{"text":"The requested URL was not found on this server.","code":404}')
        if self.acknowledges and not channel:
            return _says(400, 10, "Data channel is missing")
        return self._take(request.body, channel)

    def _take(self, body: bytes, channel: str) -> Reply:
        text, events, at = body.decode(), list[dict[str, Any]](), 0
        decode = json.JSONDecoder().raw_decode
        while at < len(text):
            event: Any
            try:
                event, at = decode(text, at)
            except ValueError:
                return _says(400, 6, "Invalid data format", events)
            if "event" not in event:
                return _says(400, 12, "Event field is required", events)
            if not event["event"]:
                return _says(400, 13, "Event field cannot be blank", events)
            if any(not isinstance(value, str) for value in event.get("fields", {}).values()):
                return _says(400, 15, "Error in handling indexed fields", events)
            if event.get("index", "main") not in self.indexes:
                return _says(400, 7, "Incorrect index", events)
            events.append(event)
            at = len(text) - len(text[at:].lstrip())
        if not events:
            return _says(400, 5, "No data")
        self.events.extend(events)
        if not self.acknowledges:
            return Reply(200, b'{"text":"Success","code":0}')
        ack = self._given[channel] = self._given.get(channel, -1) + 1
        if self.index_at_once:
            self.indexed.add(ack)
        return Reply(200, json.dumps({"text": "Success", "code": 0, "ackId": ack}).encode())

    def _acks(self, request: Received, channel: str) -> Reply:
        self.polls += 1
        if not self.acknowledges:
            return _says(400, 14, "ACK is disabled")
        if channel not in self._given:
            return _says(400, 11, "Invalid data channel")
        wanted = json.loads(request.body)["acks"]
        return Reply(200, json.dumps({"acks": {str(ack): ack in self.indexed for ack in wanted}}).encode())


def _says(status: int, code: int, text: str, before: list[dict[str, Any]] | None = None) -> Reply:
    said: dict[str, Any] = {"text": text, "code": code}
    if before is not None:
        said["invalid-event-number"] = len(before)
    return Reply(status, json.dumps(said).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    collector: Collector


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock: Final = threading.Lock()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        path, _, query = self.path.partition("?")
        body = gzip.decompress(raw) if headers.get("content-encoding") == "gzip" else raw
        server: Any = self.server
        with self.lock:
            reply: Reply = server.collector.answer(Received(path, query, headers, raw, body))
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


@contextlib.contextmanager
def collector(*, tls: ssl.SSLContext | None = None) -> Generator[Collector]:
    """Run one on loopback that takes whatever comes."""
    with _running(Collector, tls) as running:
        yield running


@contextlib.contextmanager
def splunk_stand_in(*, tls: ssl.SSLContext | None = None) -> Generator[SplunkStandIn]:
    """Run one on loopback that answers as Splunk's collector."""
    with _running(SplunkStandIn, tls) as running:
        yield running


@contextlib.contextmanager
def _running(kind: type[_Kind], tls: ssl.SSLContext | None) -> Generator[_Kind]:
    server = _Server(("127.0.0.1", 0), _Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    running = kind(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}")
    server.collector = running
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
