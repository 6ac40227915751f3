"""The record of a request: who decided what, in which order, and never a credential."""

import copy
import logging
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import ANONYMOUS, Decision, KeyAuthMiddleware, RequestContext, Stack, StaticKey, StaticKeys, Store, open_store
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, stream
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
LAYER = "KeyAuthMiddleware"


async def record(app: Any, *headers: tuple[bytes, bytes], target: str = "GET /v1/models") -> RequestContext:
    async with stream(app, target, headers=headers) as exchange:
        async for _ in exchange:
            pass
    context: RequestContext = exchange.scope[CONTEXT_KEY]
    return context


def guarded(*, required: bool = True, **fields: Any) -> KeyAuthMiddleware:
    return KeyAuthMiddleware(Witness(), keys=StaticKeys({"ci": StaticKey(KEY, **fields)}), required=required)


@pytest.mark.parametrize(
    ("headers", "decision"),
    [
        ([], Decision(LAYER, "denied", "missing_credential")),
        ([(b"authorization", b"Basic YTpi")], Decision(LAYER, "denied", "credential_not_accepted")),
        ([(b"authorization", b"Bearer garbage")], Decision(LAYER, "denied", "invalid_token")),
        ([(b"x-api-key", b"a b")], Decision(LAYER, "denied", "malformed_credential")),
        ([(b"x-api-key", b"sk-garbage")], Decision(LAYER, "denied", "key_unknown")),
        ([(b"x-api-key", KEY.encode()), (b"api-key", b"x")], Decision(LAYER, "denied", "ambiguous_credential")),
        ([(b"x-api-key", KEY.encode()), (b"x-api-key", b"x")], Decision(LAYER, "denied", "repeated_credential")),
    ],
)
async def test_a_refusal_is_the_last_decision(headers: list[tuple[bytes, bytes]], decision: Decision) -> None:
    context = await record(guarded(), *headers)
    assert decision == context.decisions[-1]
    assert ANONYMOUS == context.principal
    passed = [Decision(LAYER, "passed")] if decision.reason in ("missing_credential", "credential_not_accepted", "invalid_token") else []
    assert passed == context.decisions[:-1]


@pytest.mark.parametrize(
    ("fields", "target", "reason"),
    [
        ({"networks": ["192.0.2.1"]}, "GET /v1/models", "network_not_allowed"),
        ({"routes": ["POST /x"]}, "GET /v1/models", "route_not_allowed"),
        ({"routes": ["POST /x"]}, "GET //v1/models", "ambiguous_path"),
        ({"expires_at": 1.0}, "GET /v1/models", "key_expired"),
    ],
)
async def test_a_refusal_of_a_known_key_names_its_id(fields: dict[str, Any], target: str, reason: str) -> None:
    context = await record(guarded(**fields), (b"x-api-key", KEY.encode()), target=target)
    assert [Decision(LAYER, "denied", reason, "ci")] == context.decisions
    assert ANONYMOUS == context.principal


async def test_an_allowed_request_names_the_key_and_the_layer() -> None:
    context = await record(guarded(), (b"x-api-key", KEY.encode()))
    assert [Decision(LAYER, "allowed", None, "ci")] == context.decisions
    assert "key:ci" == context.principal.subject


async def test_an_anonymous_request_was_passed_by_every_layer() -> None:
    context = await record(guarded(required=False))
    assert [Decision(LAYER, "passed")] == context.decisions
    assert ANONYMOUS == context.principal


@pytest.fixture
def store() -> Store:
    return open_store("memory://", clock=ManualClock())


async def test_a_wrong_secret_is_recorded_under_the_id_that_it_claimed(store: Store) -> None:
    made = await store.keys.create()
    context = await record(KeyAuthMiddleware(Witness(), keys=store.keys), (b"x-api-key", mint_key(key_id=made.id).text.encode()))
    assert [Decision(LAYER, "denied", "key_mismatch", made.id)] == context.decisions


async def test_an_unknown_key_is_recorded_without_an_id(store: Store) -> None:
    context = await record(KeyAuthMiddleware(Witness(), keys=store.keys), (b"x-api-key", mint_key().text.encode()))
    assert [Decision(LAYER, "denied", "key_unknown")] == context.decisions


async def test_a_secret_in_its_time_of_grace_is_marked(store: Store) -> None:
    made = await store.keys.create()
    rotated = await store.keys.rotate(made.id, grace=60)
    layer = KeyAuthMiddleware(Witness(), keys=store.keys)
    assert "retiring_secret" == (await record(layer, (b"x-api-key", str(made.key).encode()))).decisions[-1].mark
    assert (await record(layer, (b"x-api-key", str(rotated.key).encode()))).decisions[-1].mark is None


async def test_the_log_says_which_request_was_denied_why_and_by_whom_and_not_with_what(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = await store.keys.create()
    await store.keys.block(made.id)
    context = await record(KeyAuthMiddleware(Witness(), keys=store.keys), (b"x-api-key", str(made.key).encode()))
    assert f"request {context.request_id} denied by {LAYER}: key_blocked (credential {made.id})" in caplog.messages
    assert str(made.key) not in caplog.text
    assert str(made.key).rpartition("_")[2] not in caplog.text


async def test_the_context_is_one_object_in_every_copy_of_the_scope() -> None:
    context = await record(guarded(), (b"x-api-key", KEY.encode()))
    assert context is copy.copy(context)
    assert context is copy.deepcopy({"scope": [context]})["scope"][0]
    assert KEY not in repr(context)


async def test_requests_have_ids_of_their_own_that_no_client_chose() -> None:
    chosen = [(b"x-request-id", b"mine"), (b"x-api-key", KEY.encode())]
    ids = [(await record(guarded(), *chosen)).request_id for _ in range(20)]
    assert 20 == len(set(ids))
    assert {16} == {len(one) for one in ids}
    assert "mine" not in ids


async def test_a_layer_finds_the_context_that_an_outer_one_has_opened() -> None:
    seen: list[RequestContext] = []

    class Recording:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(RequestContext.of(scope))
            await self.app(scope, receive, send)

    app = Stack(Middleware(Recording), Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))(Witness())
    assert seen == [await record(app, (b"x-api-key", KEY.encode()))]
    assert "key:ci" == seen[0].principal.subject
