"""The mock provider behind rates and budgets, for tests that take their stores away.

The caller is known without a store: its key is `CALLER_KEY`. The environment says where what is counted (`AUTHMW_STORE`,
`AUTHMW_COUNTERS`, `AUTHMW_LEDGER`), and what becomes of requests where nobody answers (`ON_STORE_FAILURE`).

A request with the header `x-wait: NAME` stops behind the first chunk of its answer until `POST /go/NAME`. `GET /state` says what the
process still holds, and has not settled. None of this asks a store.
"""

import os
from collections import defaultdict
from typing import Any, Final, Literal

import anyio
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, StaticKey, StaticKeys, open_store
from llm_authmw.asgi import Message, Receive, Scope, Send
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.testing import MockProvider

on_store_failure: Literal["deny", "allow"] = "allow" if os.environ.get("ON_STORE_FAILURE") == "allow" else "deny"
store = open_store(os.environ["AUTHMW_STORE"], counters=os.environ.get("AUTHMW_COUNTERS"), ledger=os.environ.get("AUTHMW_LEDGER"))
provider = MockProvider()
ways: Final[defaultdict[str, anyio.Event]] = defaultdict(anyio.Event)


async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
    """Let the provider answer, with a pause behind the first chunk where that is asked for."""
    name = dict(scope.get("headers", ())).get(b"x-wait", b"").decode()

    async def send_and_wait(message: Message) -> None:
        await send(message)
        if name and message["type"] == "http.response.body" and message.get("more_body"):
            await ways[name].wait()

    await provider(scope, receive, send_and_wait)


guarded = Stack(
    Middleware(KeyAuthMiddleware, keys=StaticKeys({"caller": StaticKey("env:CALLER_KEY", user="ada", team="blue")})),
    Middleware(
        RateLimitMiddleware,
        ledger=store.ledger,
        limits={"user": ["10000000 tokens/year, calendar", "20 concurrent"]},
        on_store_failure=on_store_failure,
    ),
    Middleware(
        BudgetMiddleware,
        ledger=store.ledger,
        prices={"*": Price(input="1", output="100")},
        limits={"team": ["100 usd"], "user": ["100 usd"]},
        ask_for_usage=True,
        on_store_failure=on_store_failure,
    ),
)(waiting)


def state(handle: LedgerHandle) -> dict[str, Any]:
    """Say what a ledger of this process stands at."""
    return {"held": handle.held, "unsettled": handle.unsettled, "open": handle.breaker_open, "forgotten": handle.forgotten}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say how it stands, let others go on, or hand on to the layers."""
    path = scope.get("path", "")
    if path == "/state":
        told = {"money": state(store.ledger.money), "rates": state(store.ledger.rates), "served": len(provider.seen)}
        await JSONResponse(told)(scope, receive, send)
    elif path.startswith("/go/"):
        ways[path.removeprefix("/go/")].set()
        await JSONResponse("gone")(scope, receive, send)
    else:
        await guarded(scope, receive, send)
