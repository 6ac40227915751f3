"""The proxy of the demo: a mock provider, guarded. Keys are in AUTHMW_STORE, and hashed with AUTHMW_PEPPER."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

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
from llm_authmw.testing import MockProvider

store = open_store(os.environ["AUTHMW_STORE"])
member = Role(routes=["/v1/**"], models=["gpt-4o-mini", "text-embedding-*", "claude-*", "!claude-opus*"])
prices = {  # dollars for a million tokens
    "gpt-4o-mini": Price(input="0.15", output="0.60", max_output=16_384),
    "text-embedding-*": Price(input="0.02"),
    "claude-*": Price(input="3", output="15", max_output=64_000),
}
guard = Stack(
    Middleware(AuditMiddleware, sink=store.audit),  # outermost, so that what the others deny is recorded too
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(RBACMiddleware, roles={"member": member}, default_role="member", filter_models=True),
    Middleware(RateLimitMiddleware, ledger=store.ledger),  # a key says itself how much it may
    Middleware(BudgetMiddleware, ledger=store.ledger, prices=prices),
)
provider = MockProvider()


async def me(request: Request) -> JSONResponse:
    """Say who is calling, and how many calls have reached the provider."""
    return JSONResponse({"user": request.user.user, "team": request.user.team, "provider_calls": len(provider.seen)})


app = guard(Starlette(routes=[Route("/v1/me", me), Mount("/", provider)]))
