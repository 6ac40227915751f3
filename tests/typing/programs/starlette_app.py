"""A Starlette app: in the list, at a mount, at a route, around the whole; typed `request.user`; a stack within a stack."""

from typing import assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from llm_authmw import GuardedApp, KeyAuthMiddleware, Principal, Stack, open_store

store = open_store("memory://")
keys = Middleware(KeyAuthMiddleware, keys=store.keys)


async def me(request: Request) -> Response:
    caller = request.user
    return PlainTextResponse(caller.subject if isinstance(caller, Principal) else "nobody")


guard = Stack(Middleware(CORSMiddleware, allow_origins=["*"]), keys)
routes = [
    Route("/me", me),
    Route("/private", me, middleware=[keys]),
    Mount("/inner", routes=[Route("/me", me)], middleware=[Middleware(guard)]),
]

listed = Starlette(routes=routes, middleware=[keys])
entry = Starlette(routes=routes, middleware=[Middleware(guard)])
wrapped = guard(Starlette(routes=routes))
assert_type(wrapped, GuardedApp)
by_hand = KeyAuthMiddleware(Starlette(routes=routes), keys=store.keys, required=False)
nested = Stack(guard)(Starlette(routes=routes))
mounted = Starlette(routes=[Mount("/proxy", app=guard(Starlette(routes=[Route("/me", me)])))])
