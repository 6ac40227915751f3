"""The layer in each place where FastAPI, Starlette and Litestar apps put it, end to end under uvicorn."""

import concurrent.futures
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from llm_authmw import CreatedKey
from llm_authmw.keys.format import mint_key
from llm_authmw.testing.servers import RunningServer

MakeClient = Callable[..., httpx.Client]
LIMIT = 10.0
UNKNOWN = mint_key().text

WHOLE = [
    "starlette-list",
    "starlette-list-of-a-stack",
    "starlette-wrapped",
    "fastapi-list",
    "fastapi-list-of-a-stack",
    "fastapi-added",
    "fastapi-wrapped",
    "litestar-wrapped",
]
"""Where the layer guards every path, known to the app or not."""
PARTS = ["starlette-mount", "starlette-route", "starlette-sub-app", "fastapi-router"]
"""Where it guards `/v1` alone."""
PLACES = [*WHOLE, *PARTS, "litestar-list"]
SCOPED = [place for place in PLACES if not place.startswith("litestar")]
"""Where routes ask for scopes in their framework's own way."""

REFUSALS = [
    pytest.param({}, 401, "missing_credential", id="none"),
    pytest.param({"authorization": f"Bearer {UNKNOWN}"}, 401, "invalid_api_key", id="unknown"),
    pytest.param({"authorization": "Bearer some other token"}, 400, "malformed_credential", id="malformed"),
]


@pytest.fixture(scope="module")
def make_key(store_url: str, new_key: Callable[..., CreatedKey]) -> Callable[..., str]:
    def make(**fields: Any) -> str:
        return str(new_key(store_url, **fields).key)

    return make


@pytest.fixture(scope="module")
def key(make_key: Callable[..., str]) -> str:
    return make_key(name="plain")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., RunningServer], store_url: str) -> Iterator[RunningServer]:
    running = start_server("frameworks:app", server="uvicorn-httptools", env={"AUTHMW_STORE": store_url})
    yield running
    running.stop()
    assert "Traceback" not in running.output


@pytest.fixture
def control(server: RunningServer, make_client: MakeClient) -> Iterator[httpx.Client]:
    with make_client(base_url=server.url) as client:
        yield client


def live(server: RunningServer, place: str, **headers: str) -> ClientConnection:
    reached = socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT)
    return connect(f"ws://{place}/v1/live", sock=reached, additional_headers=headers, open_timeout=LIMIT, close_timeout=LIMIT)


@pytest.fixture
def client(server: RunningServer, make_client: MakeClient, place: str) -> Iterator[httpx.Client]:
    with make_client(base_url=server.url, headers={"host": place}) as client:
        yield client


@pytest.mark.parametrize(("headers", "status", "reason"), REFUSALS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["/v1/me", "/v1/stream"])
def test_without_a_good_key_no_endpoint_is_reached(
    client: httpx.Client, control: httpx.Client, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    before = control.get("/reached").json()
    answer = client.get(path, headers=headers)
    assert (status, reason) == (answer.status_code, answer.json()["error"]["code"])
    assert reason == answer.headers["x-authmw-reason"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert before == control.get("/reached").json()


@pytest.mark.parametrize("place", PLACES)
def test_with_a_good_key_every_way_to_ask_who_is_calling_gives_the_same(client: httpx.Client, key: str) -> None:
    answer = client.get("/v1/me", headers={"authorization": f"Bearer {key}"})
    assert (200, {"credential": key[3:19], "same": True}) == (answer.status_code, answer.json())


@pytest.mark.parametrize("place", PLACES)
def test_a_stream_arrives_chunk_by_chunk(client: httpx.Client, control: httpx.Client, key: str) -> None:
    with client.stream("GET", "/v1/stream", headers={"x-api-key": key}) as answer:
        lines = answer.iter_lines()
        assert "one" == next(lines)
        control.get("/go-on")
        assert ["two"] == list(lines)


@pytest.mark.parametrize("place", WHOLE)
def test_where_the_whole_app_is_guarded_strangers_do_not_learn_which_paths_exist(client: httpx.Client, key: str) -> None:
    assert [401, 401] == [client.get("/no-such-path").status_code, client.post("/v1/me").status_code]
    client.headers["x-api-key"] = key
    assert [404, 405] == [client.get("/no-such-path").status_code, client.post("/v1/me").status_code]


@pytest.mark.parametrize("place", PARTS)
def test_where_a_part_is_guarded_the_rest_is_open(client: httpx.Client) -> None:
    answer = client.get("/open")
    assert (200, "open") == (answer.status_code, answer.text)


@pytest.mark.parametrize("place", SCOPED)
def test_a_route_that_asks_for_a_scope_gets_only_callers_who_have_it(
    client: httpx.Client, control: httpx.Client, key: str, make_key: Callable[..., str]
) -> None:
    before = control.get("/reached").json()
    answer = client.get("/v1/scoped", headers={"x-api-key": key})
    assert 403 == answer.status_code
    assert before == control.get("/reached").json()
    reader = make_key(scopes=["llm:read"])
    assert 200 == client.get("/v1/scoped", headers={"x-api-key": reader}).status_code


@pytest.mark.parametrize("place", [place for place in PLACES if place.startswith("fastapi")])
def test_a_denial_from_a_dependency_speaks_the_dialect_of_the_layer(client: httpx.Client, key: str) -> None:
    answer = client.get("/v1/scoped", headers={"x-api-key": key})
    assert ("insufficient_scope", "permission_error") == (answer.json()["error"]["code"], answer.json()["error"]["type"])
    assert 'Bearer error="insufficient_scope", scope="llm:read"' == answer.headers["www-authenticate"]


@pytest.mark.parametrize("place", PLACES)
def test_a_socket_without_a_key_is_refused_with_a_whole_answer(server: RunningServer, control: httpx.Client, place: str) -> None:
    before = control.get("/reached").json()
    with pytest.raises(InvalidStatus) as refused, live(server, place):
        pass
    answer = refused.value.response
    assert (401, "missing_credential") == (answer.status_code, answer.headers["x-authmw-reason"])
    assert answer.body is not None
    assert "missing_credential" == json.loads(answer.body)["error"]["code"]
    assert before == control.get("/reached").json()


@pytest.mark.parametrize("place", PLACES)
def test_a_socket_with_a_key_is_accepted_and_knows_who_is_calling(server: RunningServer, place: str, key: str) -> None:
    with live(server, place, Authorization=f"Bearer {key}") as peer:
        assert {"credential": key[3:19], "same": True} == json.loads(peer.recv(LIMIT))


@pytest.mark.parametrize("place", PLACES)
def test_callers_at_the_same_time_are_never_mixed_up(client: httpx.Client, key: str, make_key: Callable[..., str]) -> None:
    keys = [key, make_key(name="other")]

    def ask(turn: int) -> bool:
        mine = keys[turn % 2]
        told = client.get("/v1/me", headers={"x-api-key": mine}).json()
        return bool(told == {"credential": mine[3:19], "same": True})

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert [True] * 80 == list(threads.map(ask, range(80)))
