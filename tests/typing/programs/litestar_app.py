"""A Litestar app: wrapped by a stack, wrapped by the layer itself, and with the layer in its list; `request.user` is typed."""

from typing import Any, assert_type

from litestar import Litestar, Request, get
from litestar.middleware import DefineMiddleware
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Principal, Stack, open_store

store = open_store("memory://")


@get("/v1/me")
async def me(request: Request[Principal, Any, Any]) -> dict[str, str]:
    assert_type(request.user, Principal)
    return {"subject": request.user.subject}


app = Stack(Middleware(KeyAuthMiddleware, keys=store.keys))(Litestar([me]))
by_hand = KeyAuthMiddleware(Litestar([me]), keys=store.keys)
listed = Litestar([me], middleware=[DefineMiddleware(KeyAuthMiddleware, keys=store.keys)])
