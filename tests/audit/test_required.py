"""Mode "required": the app runs once a durable sink knows that it will, and not otherwise."""

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import (
    AuditGate,
    AuditMiddleware,
    BudgetMiddleware,
    FileSink,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    Price,
    RateLimitMiddleware,
    Record,
    RequestContext,
    Stack,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.errors import SinkError
from llm_authmw.testing import request, websocket
from llm_authmw.testing.books import Books
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD = [(b"x-api-key", KEY.encode())]
CHAT = b'{"model":"gpt-4o-mini","max_tokens":100,"messages":[]}'
JSON = [*GOOD, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(CHAT))]


def refusing() -> KeptRecords:
    sink = KeptRecords(durable=True, name="refusing")
    sink.refuses = True
    return sink


class FailingFile(KeptRecords):
    """As a sink does whose place fails at once: it keeps what it did not write, and writes it by itself when it can."""

    def __init__(self, *, durable: bool) -> None:
        super().__init__(durable=durable)
        self.in_hand: list[Record] = []

    def accept_now(self, record: Any) -> bool:
        self.in_hand.append(record.record())
        raise SinkError("the disk is full")


def stack(sink: Any, *layers: Middleware, **options: Any) -> Stack:
    audit = Middleware(AuditMiddleware, sink=sink, mode="required", **options)
    return Stack(audit, Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})), *layers)


async def test_a_request_that_no_sink_accepts_is_denied_and_the_app_is_not_called() -> None:
    sink, witness = refusing(), Witness()
    answer = await request(stack(sink)(witness), "GET /v1/models", headers=GOOD)
    assert (503, "audit_unavailable", "1", []) == (
        answer.status,
        answer.header("x-authmw-reason"),
        answer.header("retry-after"),
        witness.scopes,
    )
    record = sink.request
    assert ("denied", "audit_unavailable", "AuditGate") == (record.outcome, record.reason, record.layer)
    assert record.who is not None
    assert "ci" == record.who.credential_id
    assert [] == sink.accepted


async def test_a_socket_that_no_sink_accepts_is_denied() -> None:
    sink, witness = refusing(), Witness()
    async with websocket(stack(sink)(witness), "/v1/realtime", headers=GOOD) as socket:
        assert (False, 503) == (socket.accepted, socket.response.status)
    assert [] == witness.scopes
    assert ("denied", "audit_unavailable") == (sink.request.outcome, sink.request.reason)


async def test_public_routes_are_denied_as_well() -> None:
    sink, witness = refusing(), Witness()
    router = PolicyRouter(AuditGate(witness), policies=[Policy("GET /health", public=True)])
    answer = await request(Stack(Middleware(AuditMiddleware, sink=sink, mode="required"))(router), "GET /health")
    assert (503, []) == (answer.status, witness.scopes)


async def test_a_sink_that_hangs_is_waited_for_no_longer_than_the_deadline() -> None:
    sink, witness = KeptRecords(durable=True), Witness()
    sink.hangs = True
    with anyio.fail_after(5):
        answer = await request(stack(sink, deadline=0.01)(witness), "GET /v1/models", headers=GOOD)
    assert (503, []) == (answer.status, witness.scopes)


async def test_what_was_reserved_is_given_back_and_nothing_is_billed() -> None:
    books, sink, witness = Books(), refusing(), Witness()
    app = stack(
        sink,
        Middleware(RateLimitMiddleware, ledger=books.service, limits={"caller": ["9 concurrent", "1000 tokens/day"]}),
        Middleware(BudgetMiddleware, ledger=books.service, prices={"*": Price(input="1", output="1")}, limits={"key": ["1 usd/day"]}),
    )(witness)
    answer = await request(app, "POST /v1/chat/completions", headers=JSON, body=CHAT)
    assert (503, []) == (answer.status, witness.scopes)
    assert 2 == len(books.estimates)
    used = await books.used()
    assert used
    assert {0} == set(used.values())
    assert 0 == books.held
    record = sink.request
    assert (None, None) == (record.usage, record.charge)
    assert [True, True] == [reserved.settled for reserved in record.reservations]


async def test_the_intent_names_who_is_let_in_and_what_was_reserved_before_the_app_runs() -> None:
    books, sink = Books(), KeptRecords(durable=True)
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(len(sink.accepted))
        await Witness()(scope, receive, send)

    guarded = stack(sink, Middleware(RateLimitMiddleware, ledger=books.service, limits={"key": ["9 concurrent"]}))(app)
    await request(guarded, "POST /v1/chat/completions", headers=JSON, body=CHAT)
    assert [1] == seen
    intent, outcome = sink.accepted
    assert ("intent", "request") == (intent.kind, outcome.kind)
    assert intent.id == outcome.id
    assert intent.who is not None
    assert "ci" == intent.who.credential_id
    (reserved,) = intent.reservations
    assert ({"concurrent": 1}, False) == (reserved.estimate, reserved.settled)
    assert reserved.id == outcome.reservations[0].id
    assert (None, None, None) == (intent.outcome, intent.status, intent.duration)
    assert ["KeyAuthMiddleware", "RateLimitMiddleware"] == [decision.layer for decision in intent.decisions]


async def test_a_denied_request_has_one_record_and_no_intent() -> None:
    sink = KeptRecords(durable=True)
    await request(stack(sink)(Witness()), "GET /v1/models")
    assert [("request", "denied")] == [(record.kind, record.outcome) for record in sink.accepted]


async def test_one_sink_that_accepts_is_enough_and_every_other_one_is_told() -> None:
    down, up, passing = refusing(), KeptRecords(durable=True), KeptRecords()
    answer = await request(stack([down, up, passing])(Witness()), "GET /v1/models", headers=GOOD)
    assert 200 == answer.status
    assert ["intent", "request"] == [record.kind for record in up.accepted]
    assert ["intent", "request"] == [record.kind for record in passing.records if record.kind != "policy"]


async def test_nobody_waits_for_a_store_where_a_file_accepts_at_once(tmp_path: Path) -> None:
    store, file = KeptRecords(durable=True), FileSink(tmp_path / "audit.jsonl", fsync=False)
    store.hangs = True
    await file.start()
    with anyio.fail_after(5):
        answer = await request(stack([store, file])(Witness()), "GET /v1/models", headers=GOOD)
    await file.aclose()
    assert 200 == answer.status
    assert ["intent", "request"] == [record.kind for record in store.records if record.kind != "policy"]
    assert 2 == (tmp_path / "audit.jsonl").read_text().count(f'"id":"{store.request.id}"')
    assert [] == store.accepted


async def test_a_store_is_waited_for_where_the_file_beside_it_fails_and_neither_has_a_record_twice() -> None:
    store, file = KeptRecords(durable=True), FailingFile(durable=True)
    with anyio.fail_after(5):
        answer = await request(stack([file, store])(Witness()), "GET /v1/models", headers=GOOD)
    assert 200 == answer.status
    assert ["intent", "request"] == [record.kind for record in store.accepted]
    assert ["intent", "request"] == [record.kind for record in file.in_hand]
    assert ["policy"] == [record.kind for record in file.records]


async def test_a_sink_that_does_not_accept_the_outcome_writes_it_later() -> None:
    sink = KeptRecords(durable=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sink.refuses = True
        await Witness()(scope, receive, send)

    answer = await request(stack(sink)(app), "GET /v1/models", headers=GOOD)
    assert 200 == answer.status
    assert ["intent"] == [record.kind for record in sink.accepted]
    assert "allowed" == sink.request.outcome


async def test_the_outcome_of_a_handler_that_is_killed_is_accepted_all_the_same() -> None:
    sink = KeptRecords(durable=True)

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()

    app = AuditMiddleware(AuditGate(hangs), sink=sink, mode="required")
    async with anyio.create_task_group() as tasks:
        await app({"type": "http", "method": "GET", "path": "/x", "headers": []}, _never, _taken)
    assert ["intent", "request"] == [record.kind for record in sink.accepted]
    assert ("failed", "cut") == (sink.request.outcome, sink.request.end)


async def test_a_request_that_is_tried_again_further_in_has_an_intent_each_time() -> None:
    sink = KeptRecords(durable=True)

    class Twice:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, _taken)
            await self.app(scope, receive, send)

    await request(Twice(AuditMiddleware(Twice(AuditGate(Witness())), sink=sink, mode="required")), "GET /x")
    assert ["intent", "intent", "request"] * 2 == [record.kind for record in sink.accepted]


async def test_a_gate_that_nothing_records_in_front_of_denies_everybody_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    witness = Witness()
    gate = AuditGate(witness)
    with caplog.at_level(logging.ERROR, logger="llm_authmw"):
        for app in (gate, AuditMiddleware(gate, sink=KeptRecords(durable=True))):
            for _ in range(2):
                answer = await request(app, "GET /x")
                assert (503, "audit_unavailable") == (answer.status, answer.header("x-authmw-reason"))
    assert [] == witness.scopes
    (line,) = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert "no AuditMiddleware(mode='required') stands outside of AuditGate" in line


async def test_a_context_of_an_earlier_request_opens_no_gate() -> None:
    sink, witness = KeptRecords(durable=True), Witness()
    gate = AuditGate(witness)
    kept: list[RequestContext] = []

    async def keeps(scope: Any, receive: Any, send: Any) -> None:
        kept.append(RequestContext.of(scope))
        await gate(scope, receive, send)

    keeps.app = gate  # type: ignore[attr-defined]
    await request(AuditMiddleware(keeps, sink=sink, mode="required"), "GET /x")
    answer = await request(gate, "GET /x", scope={"llm_authmw.context": kept[0]})
    assert (503, 1) == (answer.status, len(witness.scopes))


async def test_an_outer_layer_that_requires_records_and_an_inner_one_are_both_heard() -> None:
    outer, inner = KeptRecords(durable=True), refusing()
    router = PolicyRouter(
        AuditGate(Witness()), policies=[Policy("GET /x", Stack(Middleware(AuditMiddleware, sink=inner, mode="required"), *_keys()))]
    )
    answer = await request(Stack(Middleware(AuditMiddleware, sink=outer, mode="required"))(router), "GET /x", headers=GOOD)
    assert 503 == answer.status
    inner.refuses = False
    answer = await request(Stack(Middleware(AuditMiddleware, sink=outer, mode="required"))(router), "GET /x", headers=GOOD)
    assert 200 == answer.status


async def test_a_layer_that_requires_nothing_is_told_no_intent() -> None:
    outer, inner = KeptRecords(), KeptRecords(durable=True)
    await request(AuditMiddleware(AuditMiddleware(AuditGate(Witness()), sink=inner, mode="required"), sink=outer), "GET /x")
    assert ["policy", "request"] == [record.kind for record in outer.records]
    assert ["intent", "request"] == [record.kind for record in inner.accepted]


async def test_a_sink_of_ones_own_that_breaks_is_one_that_does_not_accept(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(KeptRecords):
        async def accept(self, record: Any, *, keep: bool = False) -> None:
            raise RuntimeError("secret-in-its-text")

    sink = Broken(durable=True)
    answer = await request(stack(sink)(Witness()), "GET /v1/models", headers=GOOD)
    assert 503 == answer.status
    assert "RuntimeError" in caplog.text
    assert "secret-in-its-text" not in caplog.text


def _keys() -> list[Middleware]:
    return [Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}))]


async def _never() -> Any:
    await anyio.sleep_forever()


async def _taken(message: Any) -> None:
    pass
