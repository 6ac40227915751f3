"""The mock provider behind keys, roles, rates and budgets, of several kinds; the first part of the path says which.

`/bare/…` has nobody in front. `GET /seen` says how many requests have arrived, how many of them have come through to the provider, and
over how many connections. The store is in `AUTHMW_STORE`.
"""

import os
from typing import Any, Final

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, RBACMiddleware, Role, Stack, open_store
from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send
from llm_authmw.testing import MockProvider

PRICES: Final = {"gpt-4o-mini": Price(input="1", output="100"), "claude-*": Price(input="1", output="100"), "text-*": Price(input="1")}
"""Dollars for a million tokens: an answer's ceiling of 50 costs half a cent."""

BUDGETS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "asks": {"ask_for_usage": True},
    "tells": {"ask_for_usage": True, "final_event": True},
    "cuts": {"on_exhausted": "cut", "default_output": 20},
}

store = open_store(os.environ["AUTHMW_STORE"])
provider = MockProvider()
member = Role(routes=["/v1/**"], models=["*"])
apps: dict[str, ASGIApp] = {"bare": provider}
for name, options in BUDGETS.items():
    apps[name] = Stack(
        Middleware(KeyAuthMiddleware, keys=store.keys),
        Middleware(RBACMiddleware, roles={"member": member}, default_role="member"),
        Middleware(RateLimitMiddleware, ledger=store.ledger),
        Middleware(BudgetMiddleware, ledger=store.ledger, prices=PRICES, **options),
    )(provider)

arrived: list[int] = []
"""The status of the answer to each request, in the order of the answers; a request is there from when that has begun."""
connections: set[Any] = set()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what has been seen, or hand on to the layers."""
    if scope["type"] != "http":
        await apps["plain"](scope, receive, send)
        return
    if scope["path"] == "/seen":
        seen = {"answered": arrived, "served": len(provider.seen), "connections": len(connections)}
        await JSONResponse(seen)(scope, receive, send)
        return

    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            arrived.append(message["status"])
        await send(message)

    connections.add(tuple(scope["client"]))
    kind, _, path = scope["path"].removeprefix("/").partition("/")
    raw_path = scope["raw_path"].removeprefix(f"/{kind}".encode())
    await apps[kind]({**scope, "path": f"/{path}", "raw_path": raw_path}, receive, noted)
