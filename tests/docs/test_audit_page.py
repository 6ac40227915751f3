"""The tables of the page: each option is there, and each way in which a request ends is made to happen."""

import inspect
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from starlette.middleware import Middleware

from llm_authmw import AuditGate, AuditMiddleware, Denial, KeyAuthMiddleware, Record, RequestContext, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import request, stream, websocket
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

PAGE: Final = (Path(__file__).parents[2] / "docs" / "layers" / "audit.md").read_text(encoding="utf-8")
START: Final = {"type": "http.response.start", "status": 200, "headers": list[tuple[bytes, bytes]]()}
HALF: Final = {"type": "http.response.body", "body": b"half", "more_body": True}

Cause = Callable[[KeptRecords], Awaitable[None]]
CAUSES: Final[dict[str, Cause]] = {}


def rows() -> dict[str, list[str]]:
    table = PAGE.partition("| what happens | outcome | end |")[2].partition("\n\n")[0]
    cells = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: [outcome, end, status, *reason] for what, outcome, end, status, *reason in cells}


def happens(what: str) -> Callable[[Cause], Cause]:
    return lambda cause: CAUSES.setdefault(what, cause)


def guarded(sink: KeptRecords) -> ASGIApp:
    keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
    return Stack(Middleware(AuditMiddleware, sink=sink), keys)(Witness())


async def run(sink: KeptRecords, *messages: Any, raises: bool = False) -> None:
    """Run an app that sends these messages, without the rules that the test driver holds it to."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            if callable(message):
                message(scope)
            else:
                await send(message)
        if raises:
            raise RuntimeError("broken")

    async def sent(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": list[Any](), "client": None}
    await AuditMiddleware(app, sink=sink)(scope, anyio.sleep_forever, sent)


@happens("a layer denies")
async def _(sink: KeptRecords) -> None:
    await request(guarded(sink), "GET /x")


@happens("no sink accepts a record that is required")
async def _(_: KeptRecords) -> None:
    sink = KeptRecords(durable=True)
    sink.refuses = True
    await request(AuditMiddleware(AuditGate(Witness()), sink=[sink, _], mode="required"), "GET /x")


@happens("the app answers")
async def _(sink: KeptRecords) -> None:
    await request(AuditMiddleware(Witness(), sink=sink), "GET /x")


@happens("the app answers with an error of its own")
async def _(sink: KeptRecords) -> None:
    await run(sink, {**START, "status": 502}, {"type": "http.response.body", "body": b"bad"})


@happens("the app raises")
async def _(sink: KeptRecords) -> None:
    with pytest.raises(RuntimeError):
        await run(sink, raises=True)


@happens("the app returns without an answer")
async def _(sink: KeptRecords) -> None:
    await run(sink)


@happens("the app breaks off in the middle")
async def _(sink: KeptRecords) -> None:
    await run(sink, START, HALF)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/flowing":
        await send(START)
        await send(HALF)
    while (await receive())["type"] != "http.disconnect":
        pass


@happens("the client leaves before the answer")
async def _(sink: KeptRecords) -> None:
    async with stream(AuditMiddleware(waits, sink=sink), "GET /waiting") as exchange:
        await exchange.disconnect()


@happens("the client leaves in the middle")
async def _(sink: KeptRecords) -> None:
    async with stream(AuditMiddleware(waits, sink=sink), "GET /flowing") as exchange:
        await exchange.next_chunk()
        await exchange.disconnect()


@happens("a layer cuts the stream")
async def _(sink: KeptRecords) -> None:
    def cut(scope: Any) -> None:
        RequestContext.of(scope).record(Denial("key_revoked", layer="KeyAuthMiddleware"))

    await run(sink, START, HALF, cut, {"type": "http.response.body", "body": b""})


@happens("the handler is killed")
async def _(sink: KeptRecords) -> None:
    async with anyio.create_task_group() as tasks:

        async def hangs(scope: Any, receive: Any, send: Any) -> None:
            tasks.cancel_scope.cancel()
            await receive()

        async def sent(message: Any) -> None:
            pass

        await AuditMiddleware(hangs, sink=sink)({"type": "http", "method": "GET", "path": "/x", "headers": []}, anyio.sleep_forever, sent)


@happens("a WebSocket is refused without a page")
async def _(sink: KeptRecords) -> None:
    async with websocket(guarded(sink), "/x", denial_response=False):
        pass


def closing(sink: KeptRecords, code: int) -> Awaitable[None]:
    events: list[dict[str, Any]] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": code}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async def receive() -> Any:
        return events.pop(0)

    async def sent(message: Any) -> None:
        pass

    return AuditMiddleware(app, sink=sink)({"type": "websocket", "path": "/x", "headers": []}, receive, sent)


@happens("a WebSocket is closed in good order")
async def _(sink: KeptRecords) -> None:
    await closing(sink, 1000)


@happens("a WebSocket's connection breaks")
async def _(sink: KeptRecords) -> None:
    await closing(sink, 1006)


def test_something_makes_each_row_happen() -> None:
    assert list(rows()) == list(CAUSES)


@pytest.mark.parametrize("what", rows())
async def test_a_row_says_what_is_recorded(what: str) -> None:
    sink = KeptRecords()
    await CAUSES[what](sink)
    record = sink.request
    status = "none" if record.status is None else str(record.status)
    assert rows()[what][:3] == [record.outcome, record.end, status]
    assert rows()[what][3:] in ([record.reason], [] if record.reason is None else None, [""] if record.reason is None else None)


def test_the_page_has_every_option() -> None:
    table = PAGE.partition("## Options")[2].partition("\n## ")[0]
    options = set(inspect.signature(AuditMiddleware).parameters) - {"app"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


@pytest.mark.parametrize("option", inspect.signature(AuditMiddleware).parameters)
def test_every_option_is_documented_where_it_is_defined(option: str) -> None:
    assert f"\n    {option}: " in (inspect.getdoc(AuditMiddleware) or "")


def test_the_page_has_every_field_of_the_record_of_a_request() -> None:
    table = PAGE.partition("## What is in a record")[2].partition("\n\n## ")[0]
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*`) \|", table))))
    of_other_kinds = {"kind", "change", "lost", "stands", "checkpoint", "cut"}
    assert set(Record.__struct_fields__) - of_other_kinds == told
