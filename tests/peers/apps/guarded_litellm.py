"""The LiteLLM proxy app behind our layers, and beside it a list of what has come through to it, under `GET /reached`.

`CALLER_KEY` may use some models on any route, `OPERATOR_KEY` every model; `LITELLM_MASTER_KEY` is what LiteLLM sees.
"""

import importlib
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llm_authmw import KeyAuthMiddleware, RBACMiddleware, Role, Stack, StaticKey, StaticKeys, UpstreamCredentialMiddleware
from llm_authmw.asgi import Receive, Scope, Send

# Loaded by its name, since nothing that checks this file has it installed.
litellm_app: Any = importlib.import_module("litellm.proxy.proxy_server").app

ALLOWED = ["fake-small", "fake-failing", "fake-narrow"]
roles = {
    "member": Role(routes=["*"], models=ALLOWED),
    "reader": Role(routes=["POST /v1/chat/completions", "POST /v1/messages", "GET /v1/models"], models=ALLOWED),
    "operator": Role(routes=["*"], models=["*"], tools=["*"]),
}
keys = StaticKeys({name: StaticKey(f"env:{name.upper()}_KEY", roles=[name]) for name in roles})

reached: list[str] = []


async def litellm(scope: Scope, receive: Receive, send: Send) -> None:
    """Note what has come through, and let LiteLLM answer it."""
    if scope["type"] != "lifespan":
        reached.append(f"{scope.get('method', 'WS')} {scope['path']}")
    await litellm_app(scope, receive, send)


guarded = Stack(
    Middleware(KeyAuthMiddleware, keys=keys),
    Middleware(RBACMiddleware, roles=roles, filter_models=True),
    Middleware(UpstreamCredentialMiddleware, bearer="env:LITELLM_MASTER_KEY"),
)(litellm)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what has come through, or hand on to the layers."""
    if scope["type"] == "http" and scope["path"] == "/reached":
        await JSONResponse(reached)(scope, receive, send)
        return
    await guarded(scope, receive, send)
