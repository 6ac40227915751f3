"""Keys, roles, rates, budgets and a record, in front of a FastAPI LLM proxy. One SQLite file holds all but the record, which is in one
beside it."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from llm_authmw import (
    AuditMiddleware,
    BudgetMiddleware,
    KeyAuthMiddleware,
    Price,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    open_store,
)
from llm_authmw.fastapi import CurrentPrincipal

store = open_store("sqlite:///authmw.db")

guard = Stack(  # every option is checked here, at import
    Middleware(AuditMiddleware, sink=store.audit),
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(
        RBACMiddleware,
        roles={"member": Role(routes=["POST /v1/chat/completions", "GET /v1/models"], models=["echo"])},
        default_role="member",
    ),
    Middleware(RateLimitMiddleware, ledger=store.ledger),  # limits come from the key, its team, its tier
    Middleware(BudgetMiddleware, ledger=store.ledger, prices={"echo": Price(input="0.50", output="1.50")}),  # dollars per million tokens
)

app = FastAPI(middleware=[Middleware(guard)])


@app.post("/v1/chat/completions")
async def chat(caller: CurrentPrincipal) -> dict[str, Any]:
    answer = {"role": "assistant", "content": f"hello {caller.subject}"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "echo",
        "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
