"""A guarded gateway whose policy has tests: `test_policy.py` beside it says who may do what, and `policy.txt` is the whole of it.

The environment says who issues tokens (SSO_URL) and where keys are kept (AUTHMW_STORE). Start it with `uvicorn gateway:guarded`.
"""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from llm_authmw import (
    Grant,
    Issuer,
    JWTMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    RBACMiddleware,
    Role,
    Stack,
    Store,
    open_store,
)


async def answer(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path})


app = Starlette(
    routes=[
        Route("/health", answer),
        Route("/v1/models", answer),
        Route("/v1/chat/completions", answer, methods=["POST"]),
        Route("/v1/embeddings", answer, methods=["POST"]),
        Route("/admin/usage", answer),
    ]
)


def guard(*, sso: Issuer, store: Store) -> PolicyRouter:
    """Put the policy around the app. Whose tokens are believed, and which keys there are, differs from place to place."""
    keys = Middleware(KeyAuthMiddleware, keys=store.keys)
    staff = Middleware(JWTMiddleware, issuers=[sso])
    callers = Middleware(
        RBACMiddleware,
        roles={
            "member": Role(routes=["group:inference"], models=["gpt-4o-mini", "text-embedding-3-*"]),
            "researcher": Role(routes=["group:inference"], models=["*", "!o3-pro"]),
        },
        grants=[Grant(role="researcher", scope="llm:research", issuer=sso)],
        default_role="member",
        route_groups={"inference": ["GET /v1/models", "POST /v1/chat/completions", "POST /v1/embeddings"]},
    )
    admins = Middleware(RBACMiddleware, roles={"admin": Role(routes=["*"])}, grants=[Grant(role="admin", scope="llm:admin", issuer=sso)])
    return PolicyRouter(
        app,
        policies=[
            Policy("GET /health", public=True),
            Policy("/v1/**", Stack(keys, staff, callers)),
            Policy("/admin/**", Stack(staff, admins)),  # keys are no way in here
        ],
    )


guarded = guard(
    sso=Issuer(os.environ.get("SSO_URL", "https://sso.example.com"), audience="api://llm"),
    store=open_store(os.environ.get("AUTHMW_STORE", "sqlite:///authmw.db")),
)
