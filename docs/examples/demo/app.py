"""The proxy of the demo: a mock provider, guarded. Keys are in AUTHMW_STORE, and hashed with AUTHMW_PEPPER."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from llm_authmw import KeyAuthMiddleware, RBACMiddleware, Role, Stack, open_store
from llm_authmw.testing import MockProvider

store = open_store(os.environ["AUTHMW_STORE"])
member = Role(routes=["/v1/**"], models=["gpt-4o-mini", "text-embedding-*", "claude-*", "!claude-opus*"])
guard = Stack(
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(RBACMiddleware, roles={"member": member}, default_role="member", filter_models=True),
)
provider = MockProvider()


async def me(request: Request) -> JSONResponse:
    """Say who is calling, and how many calls have reached the provider."""
    return JSONResponse({"user": request.user.user, "team": request.user.team, "provider_calls": len(provider.seen)})


app = guard(Starlette(routes=[Route("/v1/me", me), Mount("/", provider)]))
