"""The mock provider behind keys and roles. `GET /seen` says how many requests have come through to it."""

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from llm_authmw import KeyAuthMiddleware, RBACMiddleware, RequestLens, Role, Stack, StaticKey, StaticKeys
from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.testing import MockProvider

MAX_BODY = 4_096  # bytes

OPENAI = ["POST /v1/chat/completions", "POST /v1/responses", "POST /v1/embeddings", "GET /v1/models", "WS /v1/realtime"]
ANTHROPIC = ["POST /v1/messages", "GET /v1/models"]
SMALL = ["gpt-4o-mini", "claude-haiku-5", "text-embedding-3-small"]

roles = {
    "member": Role(routes=[*OPENAI, *ANTHROPIC], models=SMALL),
    "searcher": Role(routes=["POST /v1/responses"], models=SMALL, tools=["web_search"]),
    "reader": Role(routes=["GET /v1/models"]),
    "chatter": Role(routes=["*"], models=["*"], operations=["chat"]),
}
keys = StaticKeys({name: StaticKey(f"env:{name.upper()}_KEY", roles=[name]) for name in roles})
provider = MockProvider()
guarded = Stack(
    Middleware(KeyAuthMiddleware, keys=keys),
    Middleware(RBACMiddleware, roles=roles, lens=RequestLens(max_body=MAX_BODY), filter_models=True),
)(provider)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say how much has come through, or hand on to the layers."""
    if scope["type"] == "http" and scope["path"] == "/seen":
        await JSONResponse(len(provider.seen))(scope, receive, send)
        return
    await guarded(scope, receive, send)
