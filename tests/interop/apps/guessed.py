"""Passwords behind the defence against guessing, for tests with several processes on one ledger.

The environment says where failures are counted (`AUTHMW_STORE`, `AUTHMW_COUNTERS`). `GET /judged` says how many this process has judged.
"""

import os
from typing import Any

import anyio
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse

from llm_authmw import BruteForceMiddleware, CustomAuthMiddleware, Denial, Principal, Stack, open_store
from llm_authmw.asgi import Receive, Scope, Send

AT_ONCE = 4
LIMITS = {"address": ["10 requests/day, burst 10"], "address+credential": []}

store = open_store(os.environ["AUTHMW_STORE"], counters=os.environ.get("AUTHMW_COUNTERS"), deadline=10)
judged: list[str] = []


async def judge(connection: Any) -> Principal | Denial | None:
    given = connection.headers.get("x-api-key")
    if given is None:
        return None
    # As long as it takes to ask somebody.
    await anyio.sleep(0.002)
    judged.append(given)
    return Principal(user="ada") if given == "right" else Denial("invalid_api_key")


guarded = Stack(
    Middleware(BruteForceMiddleware, ledger=store.ledger, limits=LIMITS, at_once=AT_ONCE),
    Middleware(CustomAuthMiddleware, authenticate=judge),
)(PlainTextResponse("in"))


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/judged":
        await JSONResponse({"judged": len(judged)})(scope, receive, send)
        return
    await guarded(scope, receive, send)
