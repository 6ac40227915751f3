"""What waits for a sink, and whoever waits for room: small, and recorded whatever happens."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import AuditMiddleware, FileSink, FunctionSink, KeyAuthMiddleware, RBACMiddleware, Role, Stack, StaticKeys
from llm_authmw.sinks.queue import Deferred
from llm_authmw.testing import request
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness
from llm_authmw.trail.reading import read_line

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD = [(b"x-api-key", KEY.encode())]


class Waiting(KeptRecords):
    """Keeps what it is given as it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def put(self, record: Deferred) -> None:
        self.waiting.append(record)
        super().put(record)


async def test_what_a_client_names_a_thousand_times_does_not_wait_for_a_sink_as_long_as_it_is() -> None:
    sink = Waiting()
    member = Role(routes=["*"], models=["gpt*"])
    app = Stack(
        Middleware(AuditMiddleware, sink=sink),
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})),
        Middleware(RBACMiddleware, roles={"member": member}, default_role="member"),
    )(Witness())
    models = [f"gpt-{number:03}{'x' * 505}" for number in range(999)]
    answer = await request(
        app, "POST /v1/chat/completions", headers=GOOD, json={"model": "gpt-4o", "messages": [], "fallbacks": models, "user": "u" * 100_000}
    )
    assert 200 == answer.status
    assert (65, "and 936 more") == (len(sink.request.models), sink.request.models[-1])
    assert 65_536 > sink.waiting[-1].weight()


async def test_whoever_is_cancelled_while_waiting_for_room_has_a_record() -> None:
    stuck = FunctionSink(_never, when_full="wait", queue=1, deadline=3600.0)
    kept, witness = KeptRecords(), Witness()
    app = AuditMiddleware(witness, sink=[stuck, kept])
    stuck.put(fake_record())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, app, "GET /x")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert ("failed", "cut", []) == (kept.request.outcome, kept.request.end, witness.scopes)


async def _never(_: Any) -> Any:
    await anyio.sleep_forever()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_being_enriched_when_an_event_loop_ends_unclosed_is_written_as_it_is(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "audit.jsonl"
    app = AuditMiddleware(Witness(), sink=FileSink(path), enrich=_never)

    async def serve() -> None:
        await request(app, "GET /x")
        await anyio.wait_all_tasks_blocked()

    anyio.run(serve, backend=backend)
    records = [read_line(line) for line in path.read_bytes().splitlines()]
    assert [{"enrichment": "late"}] == [record.extra for record in records if record.kind == "request"]
