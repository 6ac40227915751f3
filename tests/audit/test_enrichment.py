"""What a user's function adds to records, and that no record is lost to it."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import AuditGate, AuditMiddleware, KeyAuthMiddleware, Record, Stack, StaticKeys
from llm_authmw.audit import enrichment
from llm_authmw.audit.enrichment import MARK, MAX_FIELDS, MAX_NAME, MAX_VALUE, Enrichment
from llm_authmw.testing import lifespan, request
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio


class Waited(KeptRecords):
    """A sink that says when it was given a record of a request."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.came = anyio.Event()

    def put(self, record: Any) -> None:
        super().put(record)
        if self.of("request"):
            self.came.set()


def giving(answer: Any) -> Callable[[Record], Any]:
    return lambda _: answer


async def recorded(enrich: Callable[[Record], Any], **options: Any) -> Record:
    sink = Waited()
    await request(AuditMiddleware(Witness(), sink=sink, enrich=enrich, **options), "GET /x", scope={"client": ("192.0.2.7", 1)})
    with anyio.fail_after(5):
        await sink.came.wait()
    return sink.request


def raises(_: Record) -> Mapping[str, Any]:
    raise RuntimeError("secret-in-its-text")


@pytest.mark.parametrize("answer", [None, "country", 1, [("country", "NL")]])
async def test_a_function_that_returns_no_fields_has_failed(answer: Any) -> None:
    assert {MARK: "failed"} == (await recorded(giving(answer))).extra


async def test_a_function_that_raises_loses_no_record_and_tells_nobody_its_error(caplog: pytest.LogCaptureFixture) -> None:
    record = await recorded(raises)
    assert ("allowed", {MARK: "failed"}) == (record.outcome, record.extra)
    assert "secret-in-its-text" not in caplog.text


async def test_a_function_that_hangs_loses_no_record() -> None:
    async def hangs(_: Record) -> Mapping[str, Any]:
        await anyio.sleep_forever()
        return {}

    enriched = await Enrichment(hangs, deadline=0.001).enriched(Record(time=0, kind="request"))
    assert {MARK: "late"} == enriched.extra


@pytest.mark.parametrize(
    "fields",
    [
        {"a": object()},
        {"a": b"bytes"},
        {"a": ["list"]},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 2**60},
        {1: "a"},
        {"": "a"},
        {"x" * (MAX_NAME + 1): "a"},
        {MARK: "a lie"},
    ],
)
async def test_what_is_no_field_is_left_out_and_that_is_said(fields: Any) -> None:
    assert {"good": 1, MARK: "cut"} == (await recorded(giving({"good": 1, **fields}))).extra


async def test_there_are_no_more_fields_than_stated_and_none_is_longer() -> None:
    extra = (await recorded(giving({f"f{number}": "x" * 10_000 for number in range(1000)}))).extra
    assert MAX_FIELDS + 1 == len(extra)
    assert "cut" == extra.pop(MARK)
    assert {MAX_VALUE} == {len(str(value)) for value in extra.values()}


@pytest.mark.parametrize("value", ["NL", "", 7, 0.5, True, None])
async def test_a_field_is_a_scalar(value: Any) -> None:
    assert {"field": value} == (await recorded(giving({"field": value}))).extra


async def test_a_function_may_be_async_and_sees_the_record() -> None:
    async def country(record: Record) -> Mapping[str, Any]:
        await anyio.lowlevel.checkpoint()
        assert record.person is not None
        return {"country": "NL" if record.person.address == "192.0.2.7" else "?"}

    assert {"country": "NL"} == (await recorded(country)).extra


async def test_fields_that_lead_to_a_person_stand_in_the_part_that_can_be_forgotten() -> None:
    record = await recorded(giving({"name": "Ada", "country": "NL"}), personal=["name"])
    assert {"country": "NL"} == record.extra
    assert record.person is not None
    assert {"name": "Ada"} == record.person.extra


async def test_the_request_does_not_wait_for_it() -> None:
    sink, go = Waited(), anyio.Event()

    async def slow(_: Record) -> Mapping[str, Any]:
        await go.wait()
        return {"late": False}

    answer = await request(AuditMiddleware(Witness(), sink=sink, enrich=slow), "GET /x")
    assert (200, []) == (answer.status, sink.of("request"))
    go.set()
    with anyio.fail_after(5):
        await sink.came.wait()
    assert {"late": False} == sink.request.extra


async def test_every_sink_has_the_enriched_record() -> None:
    sinks = [Waited(), Waited(), Waited()]
    await request(AuditMiddleware(Witness(), sink=sinks, enrich=giving({"country": "NL"})), "GET /x")
    for sink in sinks:
        with anyio.fail_after(5):
            await sink.came.wait()
        assert {"country": "NL"} == sink.request.extra


async def test_one_that_comes_while_too_many_wait_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrichment, "MOST_AT_ONCE", 1)
    sink, go = Waited(), anyio.Event()

    async def slow(_: Record) -> Mapping[str, Any]:
        await go.wait()
        return {}

    app = AuditMiddleware(Witness(), sink=sink, enrich=slow)
    await request(app, "GET /x")
    await request(app, "GET /x")
    assert {MARK: "left_out"} == sink.request.extra
    go.set()


async def test_what_is_under_way_when_the_app_ends_is_recorded_as_it_is() -> None:
    sink = KeptRecords()

    async def hangs(_: Record) -> Mapping[str, Any]:
        await anyio.sleep_forever()
        return {}

    keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
    app = Stack(Middleware(AuditMiddleware, sink=sink, enrich=hangs), keys)(Witness())
    async with lifespan(app):
        await request(app, "GET /x")
        assert [] == sink.of("request")
    assert {MARK: "late"} == sink.request.extra


async def test_with_mode_required_the_outcome_is_enriched_and_the_intent_does_not_wait() -> None:
    sink = KeptRecords(durable=True)
    seen: list[str] = []

    async def country(record: Record) -> Mapping[str, Any]:
        seen.append(record.kind)
        return {"country": "NL"}

    await request(AuditMiddleware(AuditGate(Witness()), sink=sink, mode="required", enrich=country), "GET /x")
    assert ["request"] == seen
    intent, outcome = sink.accepted
    assert ({}, {"country": "NL"}) == (intent.extra, outcome.extra)


async def test_each_layer_adds_what_is_its_own_for_its_own_sinks() -> None:
    outer, inner = KeptRecords(durable=True), KeptRecords(durable=True)
    app = AuditMiddleware(
        AuditMiddleware(AuditGate(Witness()), sink=inner, mode="required", enrich=lambda _: {"inner": True}),
        sink=outer,
        mode="required",
        enrich=lambda _: {"outer": True},
    )
    await request(app, "GET /x")
    assert ({"outer": True}, {"inner": True}) == (outer.request.extra, inner.request.extra)
