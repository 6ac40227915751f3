"""Records in the store that the keys are in, too, and in a file, by the sinks as they are."""

import json
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llm_authmw import AuditMiddleware, FileSink, KeyAuthMiddleware, RateLimitMiddleware, Stack, open_store
from llm_authmw.testing import lifespan, request
from llm_authmw.trail.protocols import RecordQuery

pytestmark = pytest.mark.anyio


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/v1/models", hello)])


async def test_every_record_is_in_the_store_once_the_app_has_ended(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/authmw.db")
    created = await store.keys.create(user="ada", team="blue")
    assert created.key is not None
    app = Stack(
        Middleware(AuditMiddleware, sink=[store.audit, FileSink(tmp_path / "audit.jsonl")], mode="required"),
        Middleware(KeyAuthMiddleware, keys=store.keys),
        Middleware(RateLimitMiddleware, ledger=store.ledger, limits={"team": ["9 concurrent"]}),
    )(APP)
    async with lifespan(app):
        assert 200 == (await request(app, "GET /v1/models", headers=[(b"x-api-key", created.key.encode())])).status
        assert 401 == (await request(app, "GET /v1/models")).status
    found = [json.loads(entry.line) for entry in await store.audit.search(RecordQuery(kinds=("intent", "request")))]
    assert [("intent", None), ("request", "allowed"), ("request", "denied")] == [(line["kind"], line.get("outcome")) for line in found]
    assert found[0]["id"] == found[1]["id"]
    assert found[0]["reservations"][0]["id"] == found[1]["reservations"][0]["id"]
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {line["id"] for line in found} == {line["id"] for line in lines if "id" in line}
    await store.aclose()
