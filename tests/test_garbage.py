"""A request leaves nothing behind that waits for the garbage collector: neither its body, nor the headers with its credential."""

import gc
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import (
    AuditMiddleware,
    BruteForceMiddleware,
    BudgetMiddleware,
    FunctionSink,
    KeyAuthMiddleware,
    Price,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing.books import Books

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
CHAT = b'{"model":"gpt-4o-mini","max_tokens":100,"messages":[]}'
ANSWER = b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}'


async def answers(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ANSWER})


async def streams(_: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(3):
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def keeps(_: Any) -> None:
    pass


def guarded(app: ASGIApp) -> ASGIApp:
    books = Books()
    return Stack(
        Middleware(AuditMiddleware, sink=FunctionSink(keeps)),
        Middleware(BruteForceMiddleware, ledger=books.service),
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o*"])}, default_role="member"),
        Middleware(RateLimitMiddleware, ledger=books.service, limits={"key": ["1_000_000 tokens/day", "9 concurrent"]}),
        Middleware(BudgetMiddleware, ledger=books.service, prices={"*": Price(input="1", output="1")}, limits={"key": ["1 usd/day"]}),
    )(app)


async def ask(app: ASGIApp, key: str) -> None:
    headers = [(b"x-api-key", key.encode()), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(CHAT))]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "client": ("192.0.2.7", 1)}

    async def receive() -> Any:
        return {"type": "http.request", "body": CHAT, "more_body": False}

    async def send(_: Any) -> None:
        pass

    await app(scope, receive, send)


@pytest.mark.parametrize(("app", "key"), [(answers, KEY), (streams, KEY), (answers, KEY[:-1])], ids=["answered", "streamed", "denied"])
async def test_a_request_leaves_nothing_that_waits_to_be_collected(app: ASGIApp, key: str) -> None:
    stack = guarded(app)
    await ask(stack, key)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(5):
            await ask(stack, key)
        gc.collect()
        # Other tests may have left something of theirs meanwhile.
        left = {type(one).__name__ for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert set() == left & {"RequestContext", "Run", "Exchange", "Replay", "Hold", "Observation", "Guard"}
