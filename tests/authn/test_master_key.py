import hmac
from typing import Any

import pytest

from llm_authmw import Assurance, Decision, KeyAuthMiddleware, Principal, StaticKeys
from llm_authmw.authn import keys as keys_module
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.keys.hashing import sha256
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"


def guarded(app: Witness, master_key: str | None = MASTER, **options: Any) -> KeyAuthMiddleware:
    return KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}), master_key=master_key, **options)


@pytest.mark.parametrize("sent", [MASTER[:-1], MASTER + "x", MASTER.lower(), "x" + MASTER, MASTER[::-1], MASTER[:-1] + "F"])
async def test_what_is_almost_the_master_key_is_refused(sent: str) -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models", headers=[(b"x-api-key", sent.encode())])
    assert (401, "invalid_api_key") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


async def test_without_one_the_master_key_of_another_layer_is_nothing() -> None:
    app = Witness()
    response = await request(guarded(app, None), "GET /v1/models", headers=[(b"authorization", f"Bearer {MASTER}".encode())])
    assert (401, "invalid_token") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"])
async def test_the_master_key_gives_an_admin_and_is_marked_in_the_record(name: bytes) -> None:
    app = Witness()
    value = (b"Bearer " if name == b"authorization" else b"") + MASTER.encode()
    response = await request(guarded(app), "GET /v1/models", headers=[(name, value)])
    assert {"subject": "key:master", "method": "master_key"} == response.json()
    caller: Principal = app.scopes[0]["user"]
    assert ("default", "keys", ("proxy_admin",), ()) == (caller.tenant, caller.realm, caller.roles, caller.scopes)
    assert (Assurance.SHARED_SECRET, "master") == (caller.assurance, caller.credential_id)
    decision = Decision("KeyAuthMiddleware", "allowed", None, "master", "master_key")
    assert [decision] == app.scopes[0][CONTEXT_KEY].decisions


async def test_the_master_key_opens_a_websocket_by_its_subprotocol() -> None:
    app = Witness()
    async with websocket(guarded(app), "/v1/realtime", subprotocols=[f"openai-insecure-api-key.{MASTER}"]) as socket:
        assert socket.accepted
    assert ["key:master"] == app.subjects


async def test_another_key_works_beside_the_master_key_and_is_not_marked() -> None:
    app = Witness()
    response = await request(guarded(app), "GET /v1/models", headers=[(b"x-api-key", KEY.encode())])
    assert {"subject": "key:ci", "method": "key"} == response.json()
    assert [Decision("KeyAuthMiddleware", "allowed", None, "ci")] == app.scopes[0][CONTEXT_KEY].decisions


async def test_the_master_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_TEST_MASTER", MASTER)
    app = Witness()
    layer = guarded(app, "env:AUTHMW_TEST_MASTER")
    monkeypatch.delenv("AUTHMW_TEST_MASTER")
    assert 200 == (await request(layer, "GET /v1/models", headers=[(b"x-api-key", MASTER.encode())])).status
    assert 401 == (await request(layer, "GET /v1/models", headers=[(b"x-api-key", b"env:AUTHMW_TEST_MASTER")])).status
    assert ["key:master"] == app.subjects


@pytest.mark.parametrize("sent", [MASTER, MASTER[:8], KEY])
async def test_the_master_key_is_compared_in_constant_time(sent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    class Watched:
        @staticmethod
        def compare_digest(left: bytes, right: bytes) -> bool:
            compared.append((bytes(left), bytes(right)))
            return hmac.compare_digest(left, right)

    class Incomparable(bytes):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("the master key was compared with ==")

        __hash__ = bytes.__hash__

    monkeypatch.setattr(keys_module, "hmac", Watched)
    layer = guarded(Witness())
    monkeypatch.setattr(layer, "_master_digest", Incomparable(sha256(MASTER.encode())))
    await request(layer, "GET /v1/models", headers=[(b"x-api-key", sent.encode())])
    assert [(sha256(sent.encode()), sha256(MASTER.encode()))] == compared
