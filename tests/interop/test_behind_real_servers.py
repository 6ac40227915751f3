"""The layer behind each server that people use: HTTP/1.1 and HTTP/2, streams, sockets, lifespan, clients that leave."""

import functools
import hashlib
import itertools
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from llm_authmw import CreatedKey, KeyRecord, open_store
from llm_authmw.keys.format import mint_key
from llm_authmw.testing.servers import SERVERS, RunningServer, ServerName, ServerNotReady

BOUND = 0.05
"""Seconds between two looks at a stream that idles: small, so that there are many of them."""
LIMIT = 10.0
UNKNOWN = mint_key().text
SUBPROTOCOL = "openai-insecure-api-key."

OPTIONS: dict[ServerName, list[str]] = {"uvicorn-h11": ["--ws", "wsproto"]}
"""By default uvicorn takes websockets for sockets: so each of its two implementations is met once."""

Start = Callable[[ServerName], RunningServer]
MakeClient = Callable[..., httpx.Client]
NewKey = Callable[..., CreatedKey]


class Wire(NamedTuple):
    server: ServerName
    version: str


WIRES = [*(Wire(server, "1.1") for server in SERVERS), Wire("hypercorn", "2"), Wire("granian", "2")]
names = (f"act{number}" for number in itertools.count())


def read_key(store_url: str, key_id: str) -> KeyRecord:
    async def read() -> KeyRecord:
        async with open_store(store_url) as store:
            return await store.keys.get(key_id)

    return anyio.run(read)


@pytest.fixture(scope="module")
def key(store_url: str, new_key: NewKey) -> str:
    return str(new_key(store_url).key)


@pytest.fixture(scope="module")
def started(start_server: Callable[..., RunningServer], store_url: str) -> Iterator[Start]:
    """Starts each server once, and looks at the end whether one of them had to write a traceback."""
    running: dict[ServerName, RunningServer] = {}

    @functools.cache
    def start(server: ServerName) -> RunningServer:
        environment = {"AUTHMW_STORE": store_url, "LAB_BOUND": str(BOUND)}
        running[server] = start_server("lab:app", server=server, env=environment, options=OPTIONS.get(server, ()))
        return running[server]

    yield start
    for server in running.values():
        server.stop()
        assert_clean(server)


def assert_clean(server: RunningServer) -> None:
    # uvicorn on websockets writes this line for every socket that any app refuses with a whole answer.
    written = server.output.replace("ERROR:    ASGI callable returned without completing handshake.\n", "")
    assert not {"Traceback", "ERROR", "Exception"} & set(re.findall(r"\w+", written)), written


@pytest.fixture(params=[pytest.param(server, id=server) for server in SERVERS])
def server(request: pytest.FixtureRequest, started: Start) -> RunningServer:
    return started(request.param)


def each(wires: Iterable[Wire]) -> Any:
    return [pytest.param(wire, id=f"{wire.server}-http{wire.version}") for wire in wires]


@pytest.fixture(params=each(WIRES))
def connected(request: pytest.FixtureRequest, started: Start, make_client: MakeClient) -> MakeClient:
    """Makes clients; each has connections of its own."""
    wire: Wire = request.param
    return functools.partial(make_client, base_url=started(wire.server).url, http1=wire.version == "1.1", http2=wire.version == "2")


@pytest.fixture
def client(connected: MakeClient) -> Iterator[httpx.Client]:
    with connected() as client:
        yield client


@pytest.fixture
def caller(connected: MakeClient, key: str) -> Iterator[httpx.Client]:
    """A client with a key."""
    with connected(headers={"authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def leaver(connected: MakeClient, key: str) -> httpx.Client:
    """Another one, so that it can leave as a whole: ending one stream of an HTTP/2 connection tells the server nothing."""
    return connected(headers={"x-api-key": key})


def calls(client: httpx.Client, key: str) -> int:
    """Ask how many requests have reached the app, besides this one."""
    return int(client.get("/calls", headers={"x-api-key": key}).text)


REFUSALS = [
    pytest.param({}, 401, "missing_credential", id="none"),
    pytest.param({"authorization": f"Bearer {UNKNOWN}"}, 401, "invalid_api_key", id="unknown"),
    pytest.param({"x-api-key": f"{UNKNOWN[:-1]}!"}, 401, "invalid_api_key", id="mistyped"),
    pytest.param({"authorization": "Bearer some other token"}, 400, "malformed_credential", id="malformed"),
    pytest.param({"authorization": f"Bearer {UNKNOWN}", "api-key": UNKNOWN}, 400, "ambiguous_credential", id="two"),
]


@pytest.mark.parametrize(("headers", "status", "reason"), REFUSALS)
@pytest.mark.parametrize("path", ["/who", "/no-such-path"])
def test_a_caller_without_a_good_key_is_refused_and_the_app_is_not_called(
    client: httpx.Client, key: str, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    before = calls(client, key)
    answer = client.get(path, headers=headers)
    assert (status, reason, "no-store") == (answer.status_code, answer.headers["x-authmw-reason"], answer.headers["cache-control"])
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (status, reason) == (answer.json()["status"], answer.json()["reason"])
    assert before == calls(client, key)


def test_a_refusal_of_a_head_request_has_the_headers_of_any_other_and_no_content(client: httpx.Client) -> None:
    answer = client.head("/who")
    assert (401, "missing_credential", b"") == (answer.status_code, answer.headers["x-authmw-reason"], answer.content)


def test_a_caller_with_a_good_key_is_let_in_and_known_to_the_app(client: httpx.Client, key: str, store_url: str) -> None:
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"X-Goog-Api-Key": key}):
        answer = client.get("/who", headers=headers)
        assert (200, True) == (answer.status_code, answer.json()["user"])
        assert key.startswith(f"sk-{answer.json()['credential']}_")
        assert answer.http_version == f"HTTP/{answer.json()['http']}"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/no-such-path", 404), ("DELETE", "/who", 405)])
def test_answers_of_the_app_come_through_as_they_are(caller: httpx.Client, method: str, path: str, status: int) -> None:
    answer = caller.request(method, path)
    assert (status, None) == (answer.status_code, answer.headers.get("x-authmw-reason"))


def test_the_first_chunk_arrives_before_the_app_sends_the_second(caller: httpx.Client) -> None:
    name = next(names)
    with caller.stream("GET", f"/stream/{name}") as answer:
        lines = answer.iter_lines()
        assert "data: one" == next(lines)
        # The app sends the second one only after this request, so that nobody can have held the first one back.
        assert 200 == caller.get(f"/go/{name}").status_code
        assert ["", "data: two", ""] == list(lines)


def test_a_large_body_reaches_the_app_in_pieces_and_whole(caller: httpx.Client) -> None:
    body = os.urandom(5_000_000)
    told = caller.post("/upload", content=body).json()
    assert (len(body), hashlib.sha256(body).hexdigest()) == (told["size"], told["sha256"])
    assert told["pieces"] > 10


def test_a_denied_upload_is_answered_without_reading_it(server: RunningServer, make_client: MakeClient, key: str) -> None:
    name = next(names)
    head = f"POST /upload/{name} HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as peer:
        peer.sendall(head.encode() + b"x" * 10_000)
        # The rest is never sent: who waits for it, waits for ever.
        assert b"HTTP/1.1 401 " == peer.recv(100)[:13]
    with make_client(base_url=server.url, headers={"x-api-key": key}) as client:
        assert "0" == client.get("/received", params={"name": name}).text


# hypercorn asks for every body at once, before any app is called.
@pytest.mark.parametrize("name", [name for name in SERVERS if name != "hypercorn"])
def test_a_denied_upload_is_not_asked_for(started: Start, name: ServerName) -> None:
    server = started(name)
    head = b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 5000000\r\nexpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as peer:
        peer.sendall(head)
        assert b"HTTP/1.1 401 " == peer.recv(100)[:13]


@pytest.mark.parametrize("what", ["listen", "idle"], ids=["an app that listens", "a framework that listens"])
def test_a_client_that_leaves_after_many_looks_at_an_idle_stream_is_noticed_by_the_app(
    caller: httpx.Client, leaver: httpx.Client, what: str
) -> None:
    name = next(names)
    with leaver, leaver.stream("GET", f"/{what}/{name}") as answer:
        chunks = answer.iter_bytes()
        assert next(chunks)
        # The layer has now given up and called `receive` again several times, while the client was there.
        assert int(caller.get(f"/given-up/{name}").text) >= 3
    assert "finished" == caller.get(f"/end/{name}").text


def test_an_idle_stream_goes_on_after_many_looks_at_it(caller: httpx.Client) -> None:
    name = next(names)
    with caller.stream("GET", f"/idle/{name}") as answer:
        lines = answer.iter_lines()
        assert "data: hello" == next(lines)
        assert int(caller.get(f"/given-up/{name}").text) >= 3
        caller.get(f"/go/{name}")
        assert ["", "data: more", ""] == list(lines)


# hypercorn never lets go on whoever sends to an HTTP/2 client that has left, with or without a layer.
@pytest.mark.parametrize("connected", each(wire for wire in WIRES if wire != Wire("hypercorn", "2")), indirect=True)
def test_an_app_that_does_not_listen_runs_to_its_end_after_the_client_has_left(caller: httpx.Client, leaver: httpx.Client) -> None:
    name = next(names)
    with leaver, leaver.stream("GET", f"/deaf/{name}") as answer:
        chunks = answer.iter_bytes()
        assert next(chunks)
    caller.get(f"/go/{name}")
    assert "finished" == caller.get(f"/end/{name}").text


@pytest.mark.parametrize("what", ["ticks", "listen"])
def test_a_client_that_is_cut_off_is_noticed_and_nothing_is_logged(
    server: RunningServer, make_client: MakeClient, key: str, what: str
) -> None:
    name = next(names)
    with make_client(base_url=server.url, headers={"x-api-key": key}) as client:
        peer = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT)
        peer.sendall(f"GET /{what}/{name} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\r\n".encode())
        assert peer.recv(12)
        # A reset instead of a farewell.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        assert "finished" == client.get(f"/end/{name}").text
        assert 200 == client.get("/who").status_code
    assert_clean(server)


def open_socket(server: RunningServer, *, name: str, key: str | None = None, subprotocols: list[str] | None = None) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{server.port}/socket/{name}",
        additional_headers={} if key is None else {"Authorization": f"Bearer {key}"},
        subprotocols=[Subprotocol(offered) for offered in subprotocols or []] or None,
        proxy=None,
        open_timeout=LIMIT,
        close_timeout=LIMIT,
    )


@pytest.mark.parametrize(
    ("by", "status", "reason"),
    [
        pytest.param({}, 401, "missing_credential", id="none"),
        pytest.param({"key": UNKNOWN}, 401, "invalid_api_key", id="unknown"),
        pytest.param({"key": "some other token"}, 400, "malformed_credential", id="malformed"),
        pytest.param({"subprotocols": ["realtime", SUBPROTOCOL + UNKNOWN]}, 401, "invalid_api_key", id="unknown in the subprotocol"),
        pytest.param({"key": UNKNOWN, "subprotocols": [SUBPROTOCOL + UNKNOWN]}, 400, "ambiguous_credential", id="two"),
    ],
)
def test_a_socket_without_a_good_key_is_refused_with_a_whole_answer(
    server: RunningServer, make_client: MakeClient, key: str, by: dict[str, Any], status: int, reason: str
) -> None:
    with make_client(base_url=server.url) as client:
        before = calls(client, key)
        with pytest.raises(InvalidStatus) as refused:
            open_socket(server, name=next(names), **by)
        answer = refused.value.response
        assert (status, reason, "no-store") == (answer.status_code, answer.headers["x-authmw-reason"], answer.headers["cache-control"])
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.body is not None
        assert reason == json.loads(answer.body)["reason"]
        assert before == calls(client, key)


def test_a_socket_with_a_key_in_its_header_is_accepted(server: RunningServer, key: str) -> None:
    with open_socket(server, name=next(names), key=key, subprotocols=["realtime"]) as peer:
        assert json.loads(peer.recv(LIMIT))["user"]
        assert "realtime" == peer.subprotocol
        for said in ("one", "two"):
            peer.send(said)
            assert said == peer.recv(LIMIT)


def test_a_socket_with_a_key_in_its_subprotocol_is_accepted_and_the_key_is_not_sent_back(server: RunningServer, key: str) -> None:
    with open_socket(server, name=next(names), subprotocols=["realtime", SUBPROTOCOL + key]) as peer:
        assert json.loads(peer.recv(LIMIT))["user"]
        assert "realtime" == peer.subprotocol
        assert peer.response is not None
        assert key not in str(peer.response.headers)


def test_a_socket_that_idles_for_many_bounds_stays_open(server: RunningServer, make_client: MakeClient, key: str) -> None:
    name, other = next(names), next(names)
    with make_client(base_url=server.url, headers={"x-api-key": key}) as client:
        with open_socket(server, name=name, key=key) as peer, client.stream("GET", f"/idle/{other}") as answer:
            chunks = answer.iter_bytes()
            assert next(chunks)
            # As many bounds as this stream was looked at have gone by for the socket too.
            client.get(f"/given-up/{other}")
            peer.recv(LIMIT)
            peer.send("still there")
            assert "still there" == peer.recv(LIMIT)
        assert client.get(f"/end/{name}").text.startswith("closed with")


def test_a_socket_that_is_cut_off_is_noticed_and_nothing_is_logged(server: RunningServer, make_client: MakeClient, key: str) -> None:
    name = next(names)
    with (
        make_client(base_url=server.url, headers={"x-api-key": key}) as client,
        open_socket(server, name=name, key=key) as peer,
    ):
        peer.recv(LIMIT)
        peer.socket.shutdown(socket.SHUT_RDWR)
        assert client.get(f"/end/{name}").text.startswith("closed with 100")
    assert_clean(server)


@pytest.mark.parametrize("server", SERVERS, indirect=False)
def test_the_lifespan_starts_the_store_and_the_app_and_ends_both(
    start_server: Callable[..., RunningServer], make_client: MakeClient, new_key: NewKey, server: ServerName, tmp_path: Path
) -> None:
    file, journal = tmp_path / "authmw.db", tmp_path / "journal"
    url = f"sqlite:///{file}"
    running = start_server("lab:app", server=server, env={"AUTHMW_STORE": url, "LAB_JOURNAL": str(journal)})
    # Only requests without a key have come so far, which ask no store: so it was the lifespan that made the file.
    assert file.stat().st_size > 0
    assert ["started"] == journal.read_text().split()
    created = new_key(url)
    with make_client(base_url=running.url, headers={"x-api-key": str(created.key)}) as client:
        assert 200 == client.get("/who").status_code
    running.stop()
    assert ["started", "stopped"] == journal.read_text().split()
    # The record of the key that was made is in a file of its own.
    assert ["authmw.audit.db", "authmw.db", "journal"] == sorted(entry.name for entry in tmp_path.iterdir()), "a closed store leaves no log"
    assert read_key(url, created.record.id).last_used_at is not None, "a closed store has written what was held back"
    assert_clean(running)


@pytest.mark.parametrize("server", SERVERS, indirect=False)
def test_a_server_whose_store_cannot_start_does_not_start_and_says_why(
    start_server: Callable[..., RunningServer], server: ServerName, tmp_path: Path
) -> None:
    file = tmp_path / "authmw.db"
    file.write_bytes(b"not a database " * 1000)
    with pytest.raises(ServerNotReady, match=r"StoreCorruptError: .* is not a SQLite database"):
        start_server("lab:app", server=server, env={"AUTHMW_STORE": f"sqlite:///{file}"}, time_limit=5)
    assert b"not a database " * 1000 == file.read_bytes()


def test_a_missing_package_skips_what_needs_it_and_fails_it_in_ci(need: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    need("uvicorn")
    with pytest.raises(pytest.fail.Exception, match="no_such_package"):
        need("uvicorn", "no_such_package")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no_such_package"):
        need("no_such_package")
